//! The seller's end: a tower layer that puts a price on a route.

mod answers;
mod buffered;
mod caching;
mod clients;
mod cors;
mod kept;
mod layer;
mod presented;
mod receipts;
mod rules;
mod sale;
mod settle;
mod supported;
mod terms;
mod under_way;
mod unread;

pub use cors::{cors, exposed_headers};
pub use layer::{Longer, PaidBy, PaymentLayer, PaymentService};
