//! Types and traits for x402 settlement: wire messages, amounts, time, and the traits that schemes
//! and chains implement.
//!
//! A [`PaymentRequest`] is the request to a facilitator. A [`Scheme`] defines what a payment is,
//! and a [`Chain`] signs and sends its actions. A seller calls a [`Facilitator`]. [`Offer`] and
//! [`Payer`] are the seller's and the buyer's side of a payment.
//!
//! This crate does no I/O, has no async runtime, and names no chain.
//!
//! ```
//! use quittance_core::{PaymentRequest, Refusal};
//!
//! let request = PaymentRequest::decode(br#"{"x402Version": "two"}"#);
//! let Err(Refusal::Malformed(malformed)) = request else { panic!() };
//! assert_eq!(malformed.field, "body.x402Version");
//! ```

// This module is first because other modules use its macro.
#[macro_use]
pub mod wire;

mod amount;
mod canonical;
mod chain;
mod ends;
mod error;
mod facilitator;
mod flow;
mod identity;
pub mod json;
mod kept;
pub mod kit;
mod network;
mod printable;
mod rejection;
mod request;
mod sale;
mod scheme;
mod signature;
mod state;
mod time;

pub use amount::{Amount, AmountError};
pub use chain::{
    Chain, Finality, Found, Health, LaneId, Problem, Scope, Status, Submission, Transaction,
    TransactionId, Watched,
};
pub use ends::{
    Asset, AuthorizationState, Next, Offer, OfferError, Payer, PayerError, PaymentOutcome, Quote,
    QuoteError, SignedPayment, Turn,
};
pub use error::{Fault, FaultKind, Malformed, Reason};
pub use facilitator::{Facilitator, FacilitatorError};
pub use flow::{CancelReason, FirstSuccess, Flow, Phase};
pub use identity::{IdentityError, PaymentId};
pub use kept::{KEPT_EXTENSIONS_MAX, KEPT_MAX};
pub use network::{Network, NetworkError};
pub use printable::printable;
pub use rejection::{Refusal, Rejection};
pub use request::{
    Accepted, AcceptedRequirements, PaymentRequest, RequestCaller, Requirements, Version,
};
pub use sale::SaleId;
pub use scheme::{
    Check, CompletedStep, Effect, Observed, Payment, PaymentInfo, Plan, STEPS_MAX, Scheme,
    StateAccess, StateChange, StateSummary, StateWarning, Upkeep,
};
pub use signature::{SignatureClaim, SignatureRule, SignatureVerifier};
pub use state::{SchemeReceipt, SchemeState, StateId, StateStore};
pub use time::{Clock, ManualClock, SystemClock, Timestamp};
