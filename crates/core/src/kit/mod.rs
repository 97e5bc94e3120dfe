//! Pieces that most schemes need, so that each is written once.
//!
//! * [`Parties`]: the asset and the recipient of a request, with the checks that every scheme begins with.
//! * [`FixedPrice`]: a seller's price in one token, and the requirements made of it.
//! * [`KnownTokens`]: the tokens that a payer knows by itself.
//!
//! None of them knows a chain. A scheme may use them or not; the engine never asks.

mod fixed_price;
mod parties;
mod tokens;

pub use fixed_price::{FixedPrice, TIMEOUT_SECS};
pub use parties::Parties;
pub use tokens::{KnownTokens, TokenInfo};
