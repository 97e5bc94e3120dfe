//! The end-to-end test environment: local chains, nodes that misbehave on demand, and the
//! conformance suites.

pub mod channel_shop;
pub mod channels;
pub mod contracts;
pub mod delegation;
pub mod engine;
pub mod evm;
pub mod holds;
pub mod mutations;
pub mod permit2;
pub mod postgres;
pub mod proxy;
pub mod solana;
pub mod sources;
pub mod streams;
pub mod wallet;
pub mod wrapped;

use quittance_core::wire::PaymentRequirements;
use quittance_core::{Clock, Payer, PaymentRequest, SystemClock};

pub use quittance_testing::{
    chain_conformance, conformance, flaky, journal_conformance, life_conformance,
    offer_and_payer_conformance, open_journal, payload_of, replicas_conformance, request,
    scheme_conformance, until,
};

/// A new payment, as the seller sends it to a facilitator.
pub async fn pay(payer: &dyn Payer, requirements: &PaymentRequirements) -> PaymentRequest {
    quittance_testing::pay(payer, requirements, SystemClock.now()).await
}
