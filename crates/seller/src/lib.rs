//! The seller's end: a tower layer that puts an x402 price on a route.
//!
//! The decisions about a payment (which options to offer, which payment to accept, when to settle)
//! use no HTTP library. The module `http` connects them to tower.

mod charge;
mod http;
mod limit;
mod options;
mod payment;
mod refusal;
mod reservations;
mod sale;
mod sale_ids;
mod settle;
mod settled;
mod steps;
mod stream;
mod supported;

pub use charge::Charge;
pub use http::cors::{cors, exposed_headers};
pub use http::layer::{LargeBody, PaymentLayer, PaymentService};
pub use sale::VerifiedPayment;
pub use stream::{Meter, StreamLimits, Tick};
