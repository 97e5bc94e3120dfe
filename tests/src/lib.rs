//! The harness: local chains, nodes that misbehave on demand, and the conformance suites that every scheme and every
//! chain runs.

pub mod conformance;
pub mod contracts;
pub mod engine;
pub mod evm;
pub mod proxy;
pub mod solana;
pub mod wallet;
pub mod wrapped;

use quittance_core::wire::PaymentRequirements;
use quittance_core::{Clock, Payer, PaymentRequest, SystemClock};

pub use quittance_testing::{flaky, journal_conformance, open_journal, payload_of, request, until};

/// The request a seller makes of a new payment for its requirements.
pub async fn pay(payer: &dyn Payer, requirements: &PaymentRequirements) -> PaymentRequest {
    quittance_testing::pay(payer, requirements, SystemClock.now()).await
}
