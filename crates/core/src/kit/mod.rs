//! Shared code for schemes: pieces that most of them need.
//!
//! * [`Parties`]: the asset and the recipient of a request, with the checks that every scheme
//!   starts with.
//! * [`FixedPrice`]: a seller's price in one token, and the requirements for it.
//! * [`charged`]: what a handler charges, for schemes that settle less than the price.
//! * [`KnownTokens`]: the tokens that a payer signs for.
//!
//! None of them knows a chain. They are optional: the engine does not use them.

mod charge;
mod fixed_price;
mod parties;
mod tokens;

pub use charge::charged;
pub use fixed_price::{FixedPrice, TIMEOUT_SECS};
pub use parties::Parties;
pub use tokens::{KnownTokens, TokenInfo};
