//! A paid HTTP request: the seller's end, and what both ends share.
//!
//! What it is: [`PaymentLayer`], a tower layer that puts a price on a route; [`RemoteFacilitator`], a facilitator behind
//! HTTP; [`Failover`], several facilitators as one. The buyer's end is the crate `quittance-buyer`.
//!
//! What it is not: it names no chain. Offers and payers come from the chains' crates.

pub mod bounded;
mod canonical;
mod failover;
mod printable;
pub mod reason;
mod remote;
pub mod retry;
mod seller;
mod verdict;

pub use failover::Failover;
pub use printable::printable;
pub use remote::{RemoteError, RemoteFacilitator};
pub use seller::{Longer, PaidBy, PaymentLayer, PaymentService, cors, exposed_headers};
