//! Why a request gets no response from its handler.

use std::time::Duration;

use quittance_core::wire::{ResourceInfo, SettleResponse};
use quittance_core::{FacilitatorError, Fault, Malformed, Rejection, Version, printable};

use crate::options::PaymentOption;

/// Why a request gets no response from its handler.
pub(crate) enum SaleRefusal {
    /// The payment cannot be parsed.
    Malformed(Malformed),
    /// There is no payment, or it was refused. The client gets the payment options.
    PaymentRequired(Box<RequiredPayment>),
    /// The client has presented too many unsuccessful payments. This one was not verified.
    RateLimited {
        /// When the client may present a payment again.
        retry_after: Duration,
        /// Says that nothing was settled.
        receipt: Box<SaleReceipt>,
    },
    /// There is no verdict on the payment now.
    Unavailable(Fault),
    /// The seller cannot ask for the charge of a sale. Its receipt says what became of the payment.
    NotCharged(Fault, Box<SaleReceipt>),
    /// The identifier of the payment belongs to another request or another payment.
    IdentifierConflict,
    /// The payment's transaction is sent, and its outcome is not known. The handler did not run,
    /// and the client has to present the same payment again.
    Pending(Box<SaleReceipt>),
}

/// The payment options for a client, and why it gets them.
pub(crate) struct RequiredPayment {
    pub(crate) options: Vec<PaymentOption>,
    pub(crate) resource: ResourceInfo,
    pub(crate) reason: RefusalReason,
    /// The receipt of a payment that failed.
    pub(crate) receipt: Option<SaleReceipt>,
}

/// A receipt, and the protocol version of the payment that it is for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SaleReceipt {
    pub(crate) version: Version,
    pub(crate) response: SettleResponse,
}

/// The reason for a 402 response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusalReason {
    /// A reason code, or a sentence of the reference implementation.
    pub(crate) error: String,
    /// Details for people, printable.
    pub(crate) message: Option<String>,
}

impl RefusalReason {
    /// The reason with this code. The message may come from a facilitator.
    pub(crate) fn new(error: &str, message: Option<&str>) -> Self {
        Self {
            error: error.to_owned(),
            message: message.map(printable).filter(|text| !text.is_empty()),
        }
    }
}

impl From<Rejection> for RefusalReason {
    fn from(rejection: Rejection) -> Self {
        Self::new(rejection.reason.code(), rejection.detail.as_deref())
    }
}

impl From<FacilitatorError> for SaleRefusal {
    fn from(error: FacilitatorError) -> Self {
        match error {
            FacilitatorError::Malformed(malformed) => Self::Malformed(malformed),
            FacilitatorError::Fault(fault) => Self::Unavailable(fault),
        }
    }
}
