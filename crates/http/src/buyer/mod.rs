//! The buyer's end: an HTTP client that pays within limits.

mod address;
mod client;
mod error;
mod limits;
mod offered;
mod present;
mod purchases;
mod receipt;
mod redirect;
mod refusal;
mod state;

pub use client::{Bought, Buyer, BuyerBuilder, Cost, Price};
pub use error::{BuyError, NoAnswer, Open};
pub use limits::Limits;
pub use receipt::Receipt;
pub use state::StateError;
