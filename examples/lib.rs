//! Schemes of a researcher: each is one file, and runs like any other scheme.

mod at_least;
mod per_second;
mod per_second_ends;

pub use at_least::AtLeast;
pub use per_second::PerSecond;
pub use per_second_ends::{PerSecondOffer, PerSecondPayer};
