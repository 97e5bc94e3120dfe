//! Shared code of the engine's tests.

use std::time::Duration;

use quittance_core::wire::SettleResponse;
use quittance_core::{Facilitator, FacilitatorError, PaymentRequest};
use quittance_engine::{Engine, Timing};
use tokio::task::JoinHandle;

/// Short waiting times, so that what takes a minute in production takes a second in a test.
pub const HASTY: Timing = Timing::new()
    .with_look_every(Duration::from_millis(50))
    .with_resubmit_after(Duration::from_millis(300))
    .with_replace_after(Duration::from_millis(800))
    .with_dropped_after(Duration::from_millis(300))
    .with_sweep_every(Duration::from_millis(300));

/// Settles a payment, and panics unless it succeeds.
pub async fn settled(engine: &Engine, request: &PaymentRequest) -> SettleResponse {
    let answer = engine.settle(request).await.expect("an answer");
    assert!(answer.success, "{answer:?}");
    answer
}

/// Settles a payment in a task of its own.
pub fn settling(
    engine: &Engine,
    request: &PaymentRequest,
) -> JoinHandle<Result<SettleResponse, FacilitatorError>> {
    let (engine, request) = (engine.clone(), request.clone());
    tokio::spawn(async move { engine.settle(&request).await })
}
