//! What a buyer says when it has bought nothing, and what it has out there then.

use std::error::Error;
use std::fmt::Write;

use quittance_core::{Amount, Malformed, PayerError, Timestamp};
use serde::{Deserialize, Serialize};

use crate::receipt::Receipt;
use crate::state::StateError;

/// A payment that was signed and is not known to be over: whoever has it may still move the money, or has.
///
/// The buyer keeps it and presents it again with the next call for the same thing. It signs another one for that only
/// when the chain, or a server that it trusts, shows that this one never moves money, or when it is told to
/// [`abandon`](crate::Buyer::abandon) it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Open {
    /// By what the buyer knows it.
    pub id: String,
    /// The network, by its CAIP-2 identifier.
    pub network: String,
    /// The server it was signed for: scheme, host and port.
    #[serde(default)]
    pub origin: String,
    /// The asset, as the chain spells it.
    pub asset: String,
    /// The asset's ticker; empty in files of older versions.
    #[serde(default)]
    pub symbol: String,
    /// How many decimal places people write the asset with; `None` in files of older versions.
    #[serde(default)]
    pub decimals: Option<u8>,
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

impl Open {
    /// The amount for people, such as `0.01 USDC`.
    pub fn sum(&self) -> String {
        match self.decimals {
            Some(decimals) => format!("{} {}", self.amount.to_decimal(decimals), self.symbol),
            None => format!("{} atomic units of {}", self.amount, self.asset),
        }
    }
}

/// Moments as JSON numbers.
mod secs {
    use quittance_core::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(moment: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(moment.secs())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        u64::deserialize(from).map(Timestamp::from_secs)
    }
}

/// Why there is no answer. Names the host and not the rest of the URL: there may be a secret in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoAnswer {
    /// The connection was not made, or it broke.
    #[error("{host}: {}", causes(error))]
    Http {
        /// Who was asked: host and port.
        host: String,
        /// What happened.
        error: reqwest::Error,
    },
    /// The time for the call is up.
    #[error("no answer in time")]
    Late,
}

impl NoAnswer {
    /// Whether the request certainly reached nobody.
    pub(crate) fn is_unsent(&self) -> bool {
        matches!(self, Self::Http { error, .. } if error.is_connect())
    }
}

impl From<reqwest::Error> for NoAnswer {
    fn from(error: reqwest::Error) -> Self {
        let host = error.url().map_or_else(
            || "the server".to_owned(),
            |url| {
                let host = url.host_str().unwrap_or_default();
                match url.port() {
                    Some(port) => format!("{host}:{port}"),
                    None => host.to_owned(),
                }
            },
        );
        let error = error.without_url();
        Self::Http { host, error }
    }
}

/// An error with what caused it, down to the operating system's own words.
fn causes(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        let said = error.to_string();
        // Libraries repeat what their own cause says.
        if !text.contains(&said) {
            let separator = if text.is_empty() { "" } else { ": " };
            let _ = write!(text, "{separator}{said}");
        }
        cause = error.source();
    }
    quittance_http::printable(&text)
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
    /// So many payments to this server, or to all servers, are valid and in doubt that no more are signed.
    #[error("too many payments to {origin} are open: nothing was signed")]
    TooManyOpen {
        /// The server that was to be paid.
        origin: String,
    },
    /// An earlier payment for the same request, on other terms, may still move money: the server has changed its terms since.
    /// Nothing was signed. Wait until it has run out, or [`abandon`](crate::Buyer::abandon) it, or allow
    /// [second payments](crate::BuyerBuilder::allow_second_payments).
    #[error(
        "the terms have changed, and an earlier payment for this request may still move {}; nothing new was signed",
        open.sum()
    )]
    AlreadyOpen {
        /// The earlier payment.
        open: Box<Open>,
    },
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
        receipt: Option<Box<Receipt>>,
        /// The payment.
        open: Box<Open>,
    },
    /// The payment that was signed for this before has run out, and it is not known whether it moved the money: no payer has
    /// a node that can say. No other is signed: find out what became of it, and [`abandon`](crate::Buyer::abandon) it if you
    /// want to pay again.
    #[error(
        "an earlier payment for this has run out and may have moved the money ({reason}); nothing new was signed"
    )]
    Unresolved {
        /// The server's reason.
        reason: String,
        /// The earlier payment.
        open: Box<Open>,
    },
    /// The chain says that the payment that was signed for this before was used, and the server does not deliver. No other is
    /// signed: claim what was paid for, and [`abandon`](crate::Buyer::abandon) the payment if you want to pay again.
    #[error(
        "an earlier payment for this was used on the chain, and the server does not deliver ({reason}); nothing new was signed"
    )]
    Used {
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
            | Self::AlreadyOpen { open }
            | Self::Used { open, .. }
            | Self::Unresolved { open, .. } => Some(open),
            _ => None,
        }
    }
}
