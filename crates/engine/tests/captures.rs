//! Payments whose success releases nothing, such as captures by the seller's own program.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue panics")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use quittance_core::{
    Amount, Check, Effect, Facilitator, FacilitatorError, Fault, FaultKind, Observed, Payment,
    PaymentId, PaymentInfo, PaymentRequest, Plan, Refusal, Rejection, Scheme, SignatureClaim,
    Timestamp,
};
use quittance_engine::{
    Engine, Event, FAILURES_MAX, FailureLimits, Outcome, RETRY_PAUSE, Settlement, State,
};
use quittance_testing::until;
use quittance_testing::world::{
    Environment, Evidence, PRICE, Search, SimulatedChain, SimulatedExact, Transfer, USD, World,
};
use serde_json::Value;

/// `exact`, as if every payment were a capture.
struct Captures(SimulatedExact);

struct Capture(Box<dyn Payment<SimulatedChain>>);

impl Scheme<SimulatedChain> for Captures {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn assets(&self) -> Vec<String> {
        self.0.assets()
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<SimulatedChain>>, Refusal> {
        Ok(Box::new(Capture(self.0.decode(request, now)?)))
    }
}

impl Payment<SimulatedChain> for Capture {
    fn info(&self) -> &PaymentInfo {
        self.0.info()
    }

    fn signatures(&self) -> &[SignatureClaim] {
        self.0.signatures()
    }

    fn releases_nothing(&self) -> bool {
        true
    }

    fn check(
        &self,
        observed: &Observed<'_, SimulatedChain>,
    ) -> Result<Check<SimulatedChain>, Rejection> {
        self.0.check(observed)
    }

    fn plan(
        &self,
        amount: Amount,
        observed: &Observed<'_, SimulatedChain>,
    ) -> Result<Plan<Transfer>, Rejection> {
        self.0.plan(amount, observed)
    }

    fn used_by(&self, rejection: &Rejection) -> Option<Search> {
        self.0.used_by(rejection)
    }

    fn effect(&self, amount: Amount, evidence: &Evidence) -> Effect {
        self.0.effect(amount, evidence)
    }
}

async fn engine(setting: &Environment) -> Engine {
    let chain = setting.world.chain();
    let scheme = Arc::new(Captures(SimulatedExact::new(&chain)));
    let builder = setting.builder().await.chain(chain, vec![scheme]);
    builder.start().await.unwrap()
}

/// A capture that stays valid for a day: its pauses take longer than a sale.
async fn capture(setting: &Environment) -> PaymentRequest {
    let request = setting.request().await;
    let mut authorization = World::transfer_of(&request).authorization;
    authorization.expires = setting.world.now().plus_secs(24 * 3600).secs();
    let transfer = authorization.sign(setting.world.network(), &World::payer_key(0));
    let mut text: Value = serde_json::from_str(request.text()).unwrap();
    text["paymentPayload"]["payload"] = serde_json::to_value(&transfer).unwrap();
    PaymentRequest::decode(text.to_string().as_bytes()).unwrap()
}

fn id(setting: &Environment, request: &PaymentRequest) -> PaymentId {
    let authorization = World::transfer_of(request).authorization;
    authorization.id(setting.world.network())
}

async fn settlement(
    setting: &Environment,
    engine: &Engine,
    request: &PaymentRequest,
) -> Settlement {
    let settlement = engine.settlement(&id(setting, request)).await.unwrap();
    settlement.unwrap()
}

fn set_balance(setting: &Environment, amount: u64) {
    let payer = setting.world.payer(0).account();
    setting.world.set_balance(payer, USD, Amount::from(amount));
}

async fn succeeds(engine: &Engine, request: &PaymentRequest) -> String {
    let answer = engine.settle(request).await.unwrap();
    assert!(answer.success, "{answer:?}");
    answer.transaction
}

/// The fault says when the next attempt may begin.
fn assert_too_soon<T: std::fmt::Debug>(answer: Result<T, FacilitatorError>, secs: u64) {
    let Err(FacilitatorError::Fault(Fault {
        kind, retry_after, ..
    })) = answer
    else {
        panic!("not a fault: {answer:?}");
    };
    assert_eq!(kind, FaultKind::Busy);
    assert_eq!(retry_after, Some(Duration::from_secs(secs)));
}

/// A program that lost the answer repeats its request, at any time. It got a duplicate.
#[tokio::test(flavor = "multi_thread")]
async fn every_repeat_of_a_capture_gets_its_success() {
    let setting = Environment::new();
    let first = engine(&setting).await;
    let request = capture(&setting).await;
    let concurrent = join_all((0..10).map(|_| first.settle(&request))).await;
    let named = succeeds(&first, &request).await;
    for answer in concurrent {
        let answer = answer.unwrap();
        assert!(answer.success && answer.transaction == named, "{answer:?}");
    }
    setting.world.clock().advance(3 * 24 * 3600);
    assert_eq!(succeeds(&first, &request).await, named);
    assert!(first.verify(&request).await.unwrap().is_valid);
    first.shut_down(Duration::ZERO).await;
    drop(first);
    let second = engine(&setting).await;
    assert_eq!(succeeds(&second, &request).await, named);
    assert_eq!(setting.received(), Amount::from(PRICE));
}

/// Only an identical request gets the success.
#[tokio::test]
async fn another_request_with_the_same_capture_is_a_duplicate() {
    let setting = Environment::new();
    let engine = engine(&setting).await;
    let request = capture(&setting).await;
    succeeds(&engine, &request).await;
    let mut text: Value = serde_json::from_str(request.text()).unwrap();
    text["paymentPayload"]["payload"]["unknown"] = true.into();
    let other = PaymentRequest::decode(text.to_string().as_bytes()).unwrap();
    let answer = engine.settle(&other).await.unwrap();
    assert_eq!(answer.error_reason.as_deref(), Some("duplicate_settlement"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_was_sent_before_a_crash_succeeds() {
    let setting = Environment::new();
    setting.world.includes_at_once(false);
    let first = engine(&setting).await;
    let request = capture(&setting).await;
    assert!(first.settle(&request).await.unwrap().is_pending());
    first.shut_down(Duration::ZERO).await;
    drop(first);
    setting.world.forget_waiting();
    setting.world.includes_at_once(true);
    let second = engine(&setting).await;
    for _ in 0..3 {
        succeeds(&second, &request).await;
    }
    assert_eq!(setting.received(), Amount::from(PRICE));
}

/// Three failures ended a capture for ever, and with it the money.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_fails_waits_longer_and_is_never_given_up() {
    let setting = Environment::new();
    let mut engine_now = engine(&setting).await;
    let request = capture(&setting).await;
    let mut pause = RETRY_PAUSE;
    for failures in 1..=FAILURES_MAX + 1 {
        setting.world.includes_at_once(false);
        assert!(engine_now.settle(&request).await.unwrap().is_pending());
        set_balance(&setting, 0);
        setting.world.includes_at_once(true);
        until("the capture failed", || async {
            let known = settlement(&setting, &engine_now, &request).await;
            known.failures == failures
        })
        .await;
        set_balance(&setting, PRICE);
        // The failures are counted over a crash too.
        engine_now.shut_down(Duration::ZERO).await;
        drop(engine_now);
        engine_now = engine(&setting).await;
        assert_too_soon(engine_now.settle(&request).await, pause);
        assert_too_soon(engine_now.verify(&request).await, pause);
        setting.world.clock().advance(pause);
        pause *= 2;
    }
    for _ in 0..2 {
        succeeds(&engine_now, &request).await;
    }
    assert_eq!(setting.received(), Amount::from(PRICE));
}

/// The limits are for payers that cost gas. Here the money was taken before, and would be stranded.
#[tokio::test(flavor = "multi_thread")]
async fn failures_of_a_payer_stop_no_capture() {
    let setting = Environment::new();
    let chain = setting.world.chain();
    let scheme = Arc::new(Captures(SimulatedExact::new(&chain)));
    let builder = setting.builder().await.chain(chain, vec![scheme]);
    let builder = builder.failure_limits(FailureLimits::new(1, 1));
    let engine = builder.start().await.unwrap();
    let request = capture(&setting).await;
    setting.world.includes_at_once(false);
    assert!(engine.settle(&request).await.unwrap().is_pending());
    set_balance(&setting, 0);
    setting.world.includes_at_once(true);
    until("the capture failed", || async {
        settlement(&setting, &engine, &request).await.failures == 1
    })
    .await;
    set_balance(&setting, 2 * PRICE);
    // The same one after its pause, and another one of its payer.
    setting.world.clock().advance(RETRY_PAUSE);
    succeeds(&engine, &request).await;
    succeeds(&engine, &capture(&setting).await).await;
    assert_eq!(setting.received(), Amount::from(2 * PRICE));
}

/// Success was reported, and the chain took the capture back while it could not be repeated. The
/// operator gets an event, and the capture can be tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_is_lost_can_be_tried_again() {
    let setting = Environment::new();
    let engine = engine(&setting).await;
    let mut events = engine.events();
    let request = capture(&setting).await;
    succeeds(&engine, &request).await;
    setting.world.includes_at_once(false);
    setting.world.reorganize_and_forget(1);
    set_balance(&setting, 0);
    setting.world.includes_at_once(true);
    until("the capture is lost", || async {
        let state = settlement(&setting, &engine, &request).await.state;
        matches!(state, State::Concluded(Outcome::Lost { .. }))
    })
    .await;
    let lost = Event::Lost {
        network: setting.world.network().id().to_owned(),
        settlement: id(&setting, &request),
    };
    while events.recv().await.unwrap() != lost {}
    set_balance(&setting, PRICE);
    assert_too_soon(engine.settle(&request).await, RETRY_PAUSE);
    setting.world.clock().advance(RETRY_PAUSE);
    for _ in 0..2 {
        succeeds(&engine, &request).await;
    }
    assert_eq!(setting.received(), Amount::from(PRICE));
}

/// While the chain has it taken back, the caller waits like for any payment.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_was_taken_back_is_pending_again() {
    let setting = Environment::new();
    let engine = engine(&setting).await;
    let request = capture(&setting).await;
    succeeds(&engine, &request).await;
    setting.world.includes_at_once(false);
    setting.world.reorganize_and_forget(1);
    until("it is open again", || async {
        settlement(&setting, &engine, &request).await.state == State::Open
    })
    .await;
    let answer = engine.settle(&request).await.unwrap();
    assert!(answer.is_pending(), "{answer:?}");
    setting.world.includes_at_once(true);
    succeeds(&engine, &request).await;
    assert_eq!(setting.received(), Amount::from(PRICE));
}
