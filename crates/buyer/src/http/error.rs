//! The errors of a call that bought nothing. They name the payment that is still open.

use std::error::Error;
use std::fmt::Write;

use quittance_core::{Malformed, PayerError, printable};
use reqwest::Method;

use crate::budget::LimitError;
use crate::choose::Objection;
use crate::error::StateError;
use crate::open::OpenPayment;
use crate::receipt::Receipt;
use crate::sign::SignError;

/// Why there is no response. Names the host and not the rest of the URL, which may hold a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The connection failed or broke.
    #[error("{host}: {}", causes(source))]
    Http {
        /// The server: host and port.
        host: String,
        /// The cause, without the URL.
        source: reqwest::Error,
    },
    /// The response did not begin before the call's timeout.
    #[error("no answer in time")]
    Timeout,
}

impl TransportError {
    /// Whether the request certainly reached no server.
    pub(super) fn is_unsent(&self) -> bool {
        matches!(self, Self::Http { source, .. } if source.is_connect())
    }
}

impl From<reqwest::Error> for TransportError {
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
        let source = error.without_url();
        Self::Http { host, source }
    }
}

/// The error with its causes, down to the operating system's message.
fn causes(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        let message = error.to_string();
        // Some libraries include the message of the cause in their own.
        if !text.contains(&message) {
            let separator = if text.is_empty() { "" } else { ": " };
            let _ = write!(text, "{separator}{message}");
        }
        cause = error.source();
    }
    printable(&text)
}

/// Why a request cannot be made or paid for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The text is not a URL. It is not repeated here, because it may hold a secret.
    #[error("the URL is invalid: {0}")]
    Url(#[source] Box<dyn Error + Send + Sync>),
    /// The origin of a trusted server is not a URL.
    #[error("the trusted origin {origin:?} is not a URL: {source}")]
    TrustedOrigin {
        /// The origin, as the caller wrote it.
        origin: String,
        /// Why it is not a URL.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The body is a stream, which cannot be sent a second time with a payment.
    #[error("a streaming body cannot be sent again with a payment: buffer the body first")]
    StreamingBody,
    /// The server asks for payment, and responses to this method have no content.
    #[error("a {0} request is not paid for: its response has no content")]
    NoContent(Method),
    /// The server redirects too often.
    #[error("more than {max} redirects")]
    TooManyRedirects {
        /// The most redirects that are followed.
        max: usize,
    },
}

/// Why a redirect is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedirectRefusal {
    /// The redirect leads to another origin. A payment goes only to the origin that the caller
    /// named.
    #[error("a payment goes only to the origin of the request")]
    OtherOrigin,
    /// The redirect would change the request's method.
    #[error("it would change the request's method")]
    ChangesMethod,
}

/// Why a call bought nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuyError {
    /// The request cannot be made or paid for. Nothing was signed.
    #[error("request: {0}")]
    Request(#[from] RequestError),
    /// No HTTP client can be built.
    #[error("the HTTP client cannot be built: {0}")]
    Client(#[source] reqwest::Error),
    /// The server did not answer the request without payment. Nothing was signed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The server's payment requirements cannot be parsed. Nothing was signed.
    #[error("the server's payment requirements are invalid: {0}")]
    Requirements(#[from] Malformed),
    /// The server redirects the request, and the redirect is not followed. Nothing was signed. To
    /// buy there, call that URL.
    #[error("{from} redirects to {to}, which is not followed: {reason}")]
    Redirect {
        /// The URL that redirects, without query.
        from: String,
        /// The target, without query.
        to: String,
        /// Why it is not followed.
        reason: RedirectRefusal,
    },
    /// No payment option is supported and allowed: the objection to each. Nothing was signed.
    #[error("no acceptable payment option: {}", join(.0))]
    NotAcceptable(Vec<Objection>),
    /// The limits do not allow the payment. Nothing was signed.
    #[error("over the limit: {0}")]
    OverLimit(#[from] LimitError),
    /// Too many payments to this server, or to all servers, are open. Nothing was signed.
    #[error("too many payments to {origin} are open: nothing was signed")]
    TooManyOpen {
        /// The server: scheme, host and port.
        origin: String,
    },
    /// The server has changed its requirements, and an earlier payment for the same request may
    /// still move money. Nothing was signed. Wait until that one has expired,
    /// [abandon](crate::Buyer::abandon) it, or allow [second
    /// payments](crate::BuyerBuilder::allow_second_payments).
    #[error(
        "the requirements have changed, and an earlier payment for this request may still move {}; nothing new was signed",
        open.display_amount()
    )]
    AlreadyOpen {
        /// The earlier payment.
        open: Box<OpenPayment>,
    },
    /// The file of open payments cannot be used. No payment was presented.
    #[error(transparent)]
    State(#[from] StateError),
    /// The payer did not sign.
    #[error(transparent)]
    Payer(#[from] PayerError),
    /// The response to the paid request was lost. Whether the server delivered and charged is
    /// unknown.
    #[error("the answer to the paid request was lost ({source}); the payment is kept")]
    Lost {
        /// Why there is no response.
        source: TransportError,
        /// The payment.
        open: Box<OpenPayment>,
    },
    /// The server refused the payment. The payment can still be used, and the next call presents it
    /// again.
    #[error("the payment was not accepted: {reason}")]
    Refused {
        /// The server's reason.
        reason: String,
        /// The receipt, if there is one. Its transaction may have moved the money despite the
        /// refusal.
        receipt: Option<Box<Receipt>>,
        /// The payment.
        open: Box<OpenPayment>,
    },
    /// The seller did not pay back what is locked up with it.
    #[error("the seller did not pay back: {reason}")]
    NotPaidBack {
        /// The server's reason.
        reason: String,
        /// The receipt, if there is one.
        receipt: Option<Box<Receipt>>,
    },
    /// An earlier payment for this purchase has expired, and no payer has a node that says whether
    /// it moved the money. Nothing new was signed. Look up its outcome, and
    /// [abandon](crate::Buyer::abandon) it to pay again.
    #[error(
        "an earlier payment for this has expired and may have moved the money ({reason}); nothing new was signed"
    )]
    Unresolved {
        /// The server's reason.
        reason: String,
        /// The earlier payment.
        open: Box<OpenPayment>,
    },
    /// The chain says that an earlier payment for this purchase was used, and the server does not
    /// deliver. Nothing new was signed. Claim the delivery from the seller, and
    /// [abandon](crate::Buyer::abandon) the payment to pay again.
    #[error(
        "an earlier payment for this was used on the chain, and the server does not deliver ({reason}); nothing new was signed"
    )]
    Used {
        /// The server's reason.
        reason: String,
        /// The earlier payment.
        open: Box<OpenPayment>,
    },
}

fn join(objections: &[Objection]) -> String {
    let texts: Vec<String> = objections.iter().map(Objection::to_string).collect();
    texts.join("; ")
}

impl BuyError {
    /// The payment that is open after this error, if there is one.
    pub fn open_payment(&self) -> Option<&OpenPayment> {
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

impl From<SignError> for BuyError {
    fn from(error: SignError) -> Self {
        match error {
            SignError::TooManyOpen { origin } => Self::TooManyOpen { origin },
            SignError::OverLimit(error) => Self::OverLimit(error),
            SignError::Payer(error) => Self::Payer(error),
        }
    }
}
