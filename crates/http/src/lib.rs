//! Facilitators behind HTTP, and what both ends of a paid request share.
//!
//! [`RemoteFacilitator`] is a facilitator behind HTTP. [`Failover`] combines several facilitators.
//! The modules parse the bodies, headers and payloads of other parties.
//!
//! The two ends are `quittance-buyer` and `quittance-seller`. None of these crates names a chain.

#[cfg(feature = "client")]
pub mod bounded;
mod failover;
mod payment_identifier;
pub mod reason;
#[cfg(feature = "client")]
mod remote;
pub mod retry;
mod stream;
#[cfg(feature = "client")]
mod verdict;
pub mod webhook;

pub use failover::Failover;
pub use payment_identifier::{PAYMENT_IDENTIFIER, PaymentIdentifier};
#[cfg(feature = "client")]
pub use remote::{RemoteError, RemoteFacilitator, RemoteSettlement};
pub use stream::PAYMENT_STREAM;
