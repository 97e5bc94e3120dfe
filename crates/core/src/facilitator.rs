//! A facilitator, wherever it runs.

use async_trait::async_trait;

use crate::wire::{SettleResponse, SupportedResponse, VerifyResponse};
use crate::{Fault, Malformed, PaymentRequest};

/// Verifies and settles payments: the engine in this process, a service behind HTTP, or several with failover. A
/// seller need not know which.
///
/// A verdict against the payment is an `Ok` answer. An `Err` says nothing about the payment.
#[async_trait]
pub trait Facilitator: Send + Sync + 'static {
    /// Whether the payment would settle now. Changes nothing.
    ///
    /// # Errors
    /// When no verdict could be reached.
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError>;

    /// Moves the money.
    ///
    /// May be called again with the same request after any answer and after none: an authorization settles at most
    /// once, and of all calls at most one is ever told `success: true`. Dropping the future cancels nothing.
    ///
    /// # Errors
    /// When no verdict could be reached. Asking again is safe.
    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError>;

    /// What can be settled now.
    ///
    /// # Errors
    /// When that could not be learnt.
    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError>;
}

/// Why a facilitator has no verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FacilitatorError {
    /// The caller's message is at fault.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The facilitator's side is at fault.
    #[error(transparent)]
    Fault(#[from] Fault),
}
