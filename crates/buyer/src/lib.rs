//! The buyer's end of a paid HTTP request: a client that pays within limits.
//!
//! The top-level modules use no HTTP library. They choose the payment option, limit the spending,
//! store open payments and interpret refusals. The module `http` puts a client around them. The
//! crate names no chain: payers come from the chains' crates.

mod budget;
mod choose;
mod deadline;
mod error;
mod http;
mod import;
mod open;
mod options;
mod payment;
mod purchases;
mod receipt;
mod refusal;
mod sign;
mod store;

pub use budget::{LimitError, Limits};
pub use choose::{Objection, ObjectionReason};
pub use error::{DatabaseError, StateError};
pub use http::{
    BuyError, Buyer, BuyerBuilder, Cost, PaidStream, Purchase, PurchaseQuote, RedirectRefusal,
    RequestError, StreamCost, TransportError,
};
pub use open::OpenPayment;
pub use receipt::Receipt;
pub use reqwest;
