//! The buyer's end of a paid HTTP request: a client that pays within limits.
//!
//! It names no chain. Payers come from the chains' crates.

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
