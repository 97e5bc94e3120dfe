//! Schemes of a researcher: each is one file, and runs like any other scheme. And an API that is
//! paid token by token.

mod at_least;
mod llm;
mod per_second;
mod per_second_ends;

pub use at_least::AtLeast;
pub use llm::{Llm, listen};
pub use per_second::PerSecond;
pub use per_second_ends::{PerSecondOffer, PerSecondPayer};
