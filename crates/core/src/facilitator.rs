//! A facilitator, in this process or behind HTTP.

use async_trait::async_trait;

use crate::wire::{SettleResponse, SupportedResponse, VerifyResponse};
use crate::{Fault, Malformed, PaymentRequest};

/// Verifies and settles payments: the engine in this process, a service behind HTTP, or several
/// with failover. Sellers treat them all alike.
///
/// A verdict against the payment is an `Ok` answer. An `Err` is not a verdict on the payment.
///
/// **The caller** may call every method from many tasks at once, and repeats
/// [`settle`](Self::settle) with the same request until it has an outcome. It delivers only after
/// `success: true`.
///
/// **An implementation must** report success at most once for an authorization, over all calls and
/// restarts, and only after the money has moved.
///
/// ```
/// use quittance_core::Facilitator;
/// use quittance_testing::world::Environment;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let setting = Environment::new();
/// let facilitator = setting.engine().await;
/// let request = setting.request().await;
/// assert!(facilitator.verify(&request).await?.is_valid);
/// assert!(facilitator.settle(&request).await?.success);
///
/// let again = facilitator.settle(&request).await?;
/// assert_eq!(again.error_reason.as_deref(), Some("duplicate_settlement"));
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Facilitator: Send + Sync + 'static {
    /// Checks whether the payment would settle now. Changes nothing.
    ///
    /// # Errors
    /// When there is no verdict.
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError>;

    /// Settles the payment: sends its transaction, and waits for the outcome.
    ///
    /// May be called again with the same request after any answer, and after none. An authorization
    /// settles at most once, and of all calls at most one gets `success: true`. Dropping the future
    /// cancels nothing.
    ///
    /// # Errors
    /// When there is no verdict. A retry is safe.
    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError>;

    /// The kinds of payment that can be settled now.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError>;
}

/// Why a facilitator has no verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FacilitatorError {
    /// The caller's message is invalid.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The facilitator failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}
