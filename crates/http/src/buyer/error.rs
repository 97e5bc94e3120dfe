//! What a buyer says when it has bought nothing, and what it has out there then.

use quittance_core::wire::SettleResponse;
use quittance_core::{Amount, Malformed, PayerError, Timestamp};
use serde::{Deserialize, Serialize};

use super::state::StateError;

/// A payment that was signed and is not known to be over: whoever has it may still move the money, or has.
///
/// The buyer keeps it and presents it again with the next call for the same thing. It signs another one for that only
/// when this one is over for certain, or when it is told to [`abandon`](super::Buyer::abandon) it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Open {
    /// By what the buyer knows it.
    pub id: String,
    /// The network, by its CAIP-2 identifier.
    pub network: String,
    /// The asset, as the chain spells it.
    pub asset: String,
    /// Who receives it, as the chain spells it.
    pub pay_to: String,
    /// How much, in atomic units.
    pub amount: Amount,
    /// The first moment at which no block may take it any more, in seconds since the Unix epoch.
    #[serde(with = "secs")]
    pub expires: Timestamp,
    /// The transaction that may have moved the money, where the server named one.
    pub transaction: Option<String>,
}

/// Moments as JSON numbers.
mod secs {
    use quittance_core::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(moment: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(moment.secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        u64::deserialize(from).map(Timestamp::from_secs)
    }
}

/// Why there is no answer. Names no URL: there may be a secret in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoAnswer {
    /// The connection was not made, or it broke.
    #[error("{0}")]
    Http(reqwest::Error),
    /// The time for the call is up.
    #[error("no answer in time")]
    Late,
}

impl NoAnswer {
    /// Whether the request certainly reached nobody.
    pub(super) fn is_unsent(&self) -> bool {
        matches!(self, Self::Http(error) if error.is_connect())
    }
}

impl From<reqwest::Error> for NoAnswer {
    fn from(error: reqwest::Error) -> Self {
        Self::Http(error.without_url())
    }
}

/// Why nothing was bought.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuyError {
    /// The request cannot be made, or cannot be repeated with a payment because its body is a stream.
    #[error("request: {0}")]
    Request(String),
    /// No HTTP client can be built.
    #[error("HTTP: {0}")]
    Client(reqwest::Error),
    /// The server did not answer the request without payment. Nothing was signed.
    #[error(transparent)]
    Unanswered(#[from] NoAnswer),
    /// The server's terms cannot be read. Nothing was signed.
    #[error("the server's terms cannot be read: {0}")]
    Terms(#[from] Malformed),
    /// The server sends the request elsewhere, and it is not followed. Nothing was signed. If that is where you want to
    /// buy, ask there.
    #[error("{from} redirects to {to}, which is not followed: {why}")]
    Redirect {
        /// Who answered, without query.
        from: String,
        /// Where to, without query.
        to: String,
        /// Why it is not followed.
        why: &'static str,
    },
    /// None of the ways to pay is possible or allowed; why, for each. Nothing was signed.
    #[error("no acceptable way to pay: {}", .0.join("; "))]
    NotAcceptable(Vec<String>),
    /// The limits do not allow it. Nothing was signed.
    #[error("over the limit: {0}")]
    OverLimit(String),
    /// So many payments are open that no more are signed.
    #[error("too many payments are open: nothing was signed")]
    TooManyOpen,
    /// The file of open payments cannot be used. Nothing was presented.
    #[error(transparent)]
    State(#[from] StateError),
    /// The payer does not sign.
    #[error(transparent)]
    Payer(#[from] PayerError),
    /// The answer to the paid request was lost: whether it was served and charged is not known.
    #[error("the answer to the paid request was lost ({error}); the payment is kept")]
    Lost {
        /// What happened to the answer.
        error: NoAnswer,
        /// The payment.
        open: Box<Open>,
    },
    /// The server did not serve the payment. It can still be used, and is presented again by the next call.
    #[error("the payment was not accepted: {reason}")]
    Refused {
        /// The server's reason.
        reason: String,
        /// The receipt, if there was one. Its transaction may have moved the money all the same.
        receipt: Option<Box<SettleResponse>>,
        /// The payment.
        open: Box<Open>,
    },
    /// The payment that was signed for this before has run out, it may have moved the money, and the server does not
    /// say. No other is signed: find out what became of it, and [`abandon`](super::Buyer::abandon) it if you want to pay
    /// again.
    #[error(
        "an earlier payment for this has run out and may have moved the money ({reason}); nothing new was signed"
    )]
    Unresolved {
        /// The server's reason.
        reason: String,
        /// The earlier payment.
        open: Box<Open>,
    },
}

impl BuyError {
    /// The payment that is out there, where there is one.
    pub fn open(&self) -> Option<&Open> {
        match self {
            Self::Lost { open, .. }
            | Self::Refused { open, .. }
            | Self::Unresolved { open, .. } => Some(open),
            _ => None,
        }
    }
}
