//! A verdict against a payment.

use std::fmt;

use crate::json::Object;
use crate::{Malformed, Reason};

/// A verdict against the payment, with the reason code of the specification or the reference
/// implementation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}{}", detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default())]
pub struct Rejection {
    /// The reason code.
    pub reason: Reason,
    /// For people: what was found. Never has a secret.
    pub detail: Option<String>,
    /// For the `extra` of the answer: what the payer needs for a payment that is valid, such as the
    /// state of its channel. It is about one moment, so the journal does not keep it.
    pub extra: Option<Box<Object>>,
}

impl Rejection {
    /// A rejection with a detail for people.
    pub fn new(reason: Reason, detail: impl fmt::Display) -> Self {
        Self {
            reason,
            detail: Some(detail.to_string()),
            extra: None,
        }
    }

    /// The same rejection, with this in the `extra` of the answer.
    #[must_use]
    pub fn with_extra(self, extra: Object) -> Self {
        Self {
            extra: Some(Box::new(extra)),
            ..self
        }
    }
}

impl From<Reason> for Rejection {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            detail: None,
            extra: None,
        }
    }
}

/// Why a request has no valid payment: it cannot be decoded, or it was decoded and rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The caller's message is invalid.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The payment is invalid.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::Rejected(reason.into())
    }
}
