//! Facilitators behind HTTP, and what both ends of a paid request share.
//!
//! [`RemoteFacilitator`] is a facilitator behind HTTP. [`Failover`] makes several facilitators one.
//! The modules read what another party wrote: bodies, headers and payloads.
//!
//! The two ends are `quittance-buyer` and `quittance-seller`. No crate of these names a chain.

#[cfg(feature = "client")]
pub mod bounded;
pub mod canonical;
mod failover;
mod printable;
pub mod reason;
#[cfg(feature = "client")]
mod remote;
pub mod retry;
#[cfg(feature = "client")]
mod verdict;

pub use failover::Failover;
pub use printable::printable;
#[cfg(feature = "client")]
pub use remote::{RemoteError, RemoteFacilitator};
