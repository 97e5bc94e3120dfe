//! The seller's end: a tower layer that puts a price on a route.

mod answers;
mod buffered;
mod caching;
mod layer;
mod presented;
mod rules;
mod sale;
mod supported;
mod terms;
mod under_way;

pub use layer::{Longer, PaidBy, PaymentLayer, PaymentService};
