//! Both ends of a paid HTTP request.
//!
//! What it is: [`PaymentLayer`], a tower layer that puts a price on a route; [`Buyer`], an HTTP client that pays within
//! limits; [`RemoteFacilitator`], a facilitator behind HTTP; [`Failover`], several facilitators as one.
//!
//! What it is not: it names no chain. Offers and payers come from the chains' crates.

mod bounded;
mod buyer;
mod canonical;
mod failover;
mod printable;
mod reason;
mod remote;
mod retry;
mod seller;
mod verdict;

pub use buyer::{
    Bought, BuyError, Buyer, BuyerBuilder, Cost, Limits, NoAnswer, Open, Price, Receipt, StateError,
};
pub use failover::Failover;
pub use printable::printable;
pub use remote::{RemoteError, RemoteFacilitator};
pub use seller::{Longer, PaidBy, PaymentLayer, PaymentService, cors, exposed_headers};
