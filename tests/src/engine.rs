//! Shared code of the engine's tests.

use std::time::Duration;

use quittance_core::wire::{SettleResponse, VerifyResponse};
use quittance_core::{Facilitator, FacilitatorError, PaymentRequest, Reason};
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

/// Settles a request, and asks again while a busy machine has not included its transaction. Panics
/// unless it succeeds.
pub async fn settled_at_last(engine: &Engine, request: &PaymentRequest) -> SettleResponse {
    loop {
        let answer = engine.settle(request).await.expect("an answer");
        if !answer.is_pending() {
            assert!(answer.success, "{answer:?}");
            return answer;
        }
    }
}

/// Panics unless the answer is a refusal for this reason.
#[track_caller]
pub fn assert_refused(answer: &SettleResponse, reason: &Reason) {
    assert!(!answer.success, "{answer:?}");
    let code = answer.error_reason.as_deref();
    assert_eq!(code, Some(reason.code()), "{answer:?}");
}

/// Panics unless the verdict is a rejection for this reason.
#[track_caller]
pub fn assert_invalid(verdict: &VerifyResponse, reason: &Reason) {
    assert!(!verdict.is_valid, "{verdict:?}");
    let code = verdict.invalid_reason.as_deref();
    assert_eq!(code, Some(reason.code()), "{verdict:?}");
}

/// Settles a payment in a task of its own.
pub fn settling(
    engine: &Engine,
    request: &PaymentRequest,
) -> JoinHandle<Result<SettleResponse, FacilitatorError>> {
    let (engine, request) = (engine.clone(), request.clone());
    tokio::spawn(async move { engine.settle(&request).await })
}
