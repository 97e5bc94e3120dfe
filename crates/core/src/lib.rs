//! The words of x402 settlement: what the wire carries, money, time, and the two traits that schemes and chains
//! implement.
//!
//! What it is: types and contracts. [`PaymentRequest`] is what a facilitator is asked about, [`Scheme`] says what a
//! payment is, [`Chain`] puts actions onto a chain, [`Facilitator`] is what a seller talks to, [`Offer`] and [`Payer`]
//! are the two ends of a payment.
//!
//! What it is not: it does no I/O, has no async runtime, knows no chain and cannot name one.
//!
//! ```
//! use quittance_core::{PaymentRequest, Refusal};
//!
//! let Err(Refusal::Malformed(malformed)) = PaymentRequest::decode(br#"{"x402Version": "two"}"#) else { panic!() };
//! assert_eq!(malformed.field, "body.x402Version");
//! ```

// First, because its macro writes messages in other modules too.
#[macro_use]
pub mod wire;

mod amount;
mod chain;
mod ends;
mod error;
mod facilitator;
mod identity;
pub mod json;
mod kept;
pub mod kit;
mod network;
mod request;
mod scheme;
mod signature;
mod time;

pub use amount::{Amount, AmountError};
pub use chain::{
    Chain, Finality, Found, Health, LaneId, Problem, Scope, Status, Submission, Transaction,
    TransactionId, Watched,
};
pub use ends::{
    Asset, AuthorizationState, Offer, OfferError, Payer, PayerError, Quote, QuoteError,
};
pub use error::{Fault, FaultKind, Malformed, Reason, Refusal, Rejection};
pub use facilitator::{Facilitator, FacilitatorError};
pub use identity::{PaymentId, PaymentIdError};
pub use kept::KEPT_MAX;
pub use network::{Network, NetworkError};
pub use request::{Accepted, AcceptedRequirements, PaymentRequest, Requirements, Version};
pub use scheme::{Check, Effect, Observed, Payment, PaymentInfo, Scheme};
pub use signature::SignatureClaim;
pub use time::{Clock, ManualClock, SystemClock, Timestamp};
