//! The HTTP client around the buyer, on `reqwest`.

mod address;
mod answer;
mod builder;
mod client;
mod digest;
mod error;
mod outcome;
mod reclaim;
mod redirect;
mod stream;

pub use builder::BuyerBuilder;
pub use client::{Buyer, Cost, Purchase, PurchaseQuote};
pub use error::{BuyError, RedirectRefusal, RequestError, TransportError};
pub use stream::{PaidStream, StreamCost};
