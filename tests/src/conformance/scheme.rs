//! What every scheme must hold, alone and in an engine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_core::wire::SettleResponse;
use quittance_core::{
    Amount, Chain, Clock, Facilitator, FacilitatorError, PaymentRequest, Reason, Refusal, Scheme,
    SystemClock,
};
use quittance_engine::Engine;
use serde_json::Value;

use crate::until;

/// A scheme on a stage of its own: a real chain, a payer with money, a seller.
#[async_trait]
pub trait SchemeFixture: Send + Sync + Sized {
    /// The chain it is a scheme of.
    type Chain: Chain;

    /// What every payment of this stage moves.
    const PRICE: Amount;

    /// A chain that includes transactions at once.
    async fn new() -> Self;

    /// The scheme.
    fn scheme(&self) -> Arc<dyn Scheme<Self::Chain>>;

    /// An engine with the scheme. Each engine takes up the journal of the one before.
    async fn engine(&self) -> Engine;

    /// A new payment that is valid.
    async fn request(&self) -> PaymentRequest;

    /// The same authorization with other signature bytes, if there is such a thing.
    fn twin(&self, request: &PaymentRequest) -> Option<PaymentRequest>;

    /// Payments that are wrong in one way each, with what they are told.
    async fn spoiled(&self) -> Vec<(&'static str, PaymentRequest, Reason)>;

    /// Properly authorized payments that pay no seller, with what they are told: one of nothing, and one of the payer to
    /// itself.
    async fn pointless(&self) -> [(PaymentRequest, Reason); 2];

    /// What the seller has received in all.
    async fn received(&self) -> Amount;

    /// From now on the chain includes nothing.
    async fn hold(&self);

    /// The chain includes what waits, and goes on as before.
    async fn go_on(&self);
}

/// Mounts the suite.
#[macro_export]
macro_rules! scheme_conformance {
    ($Fixture:ty) => {
        $crate::conformance_tests!(scheme, $Fixture:
            decoding_is_pure
            an_identity_is_the_authorizations_and_not_the_signatures
            a_valid_payment_moves_its_amount_once_and_one_is_told
            of_many_at_once_one_is_told
            many_payments_at_once_all_settle
            verifying_changes_nothing
            a_spoiled_payment_is_told_its_reason_and_moves_nothing
            a_payment_of_nothing_or_to_oneself_is_refused
            what_a_journal_keeps_decodes_to_the_same_payment
            a_payment_with_any_byte_changed_is_not_valid
            a_payment_for_other_terms_is_not_valid
            a_twin_is_told_nothing_of_the_first
            a_payment_sent_before_a_crash_settles_once_after_it
            a_payment_that_outlives_its_caller_is_pending_and_then_settled
            a_caller_that_goes_away_cancels_nothing
        );
    };
}

/// What is told of a payment in the end. A busy machine may take longer than an engine waits.
async fn told(engine: &Engine, request: &PaymentRequest) -> (bool, String, String) {
    let answer = decided(engine, request).await.expect("an answer");
    (
        answer.success,
        answer.error_reason.unwrap_or_default(),
        answer.transaction,
    )
}

/// Asks again while the answer is "pending".
async fn decided(
    engine: &Engine,
    request: &PaymentRequest,
) -> Result<SettleResponse, FacilitatorError> {
    const TIMES: usize = 10;
    let mut answer = engine.settle(request).await;
    for _ in 1..TIMES {
        if !answer.as_ref().is_ok_and(SettleResponse::is_pending) {
            break;
        }
        answer = engine.settle(request).await;
    }
    answer
}

async fn is_valid(engine: &Engine, request: &PaymentRequest) -> bool {
    engine
        .verify(request)
        .await
        .is_ok_and(|verdict| verdict.is_valid)
}

fn times(price: Amount, count: u64) -> Amount {
    (0..count).fold(Amount::ZERO, |sum, _| {
        sum.checked_add(price).expect("small")
    })
}

/// The same request at the same time is the same payment.
pub async fn decoding_is_pure<F: SchemeFixture>() {
    let fixture = F::new().await;
    let (scheme, request, now) = (fixture.scheme(), fixture.request().await, SystemClock.now());
    let first = scheme.decode(&request, now).expect("a payment");
    let second = scheme.decode(&request, now).expect("a payment");
    assert_eq!(first.info(), second.info());
    assert_eq!(first.signatures(), second.signatures());
    let read = PaymentRequest::decode(request.text().as_bytes()).expect("a request");
    assert_eq!(
        scheme.decode(&read, now).expect("a payment").info(),
        first.info()
    );
    assert_eq!(first.info().amount, F::PRICE);
}

/// Signatures can be rewritten by anybody; identities cannot.
pub async fn an_identity_is_the_authorizations_and_not_the_signatures<F: SchemeFixture>() {
    let fixture = F::new().await;
    let (scheme, now) = (fixture.scheme(), SystemClock.now());
    let mut ids = BTreeSet::new();
    for _ in 0..10 {
        let request = fixture.request().await;
        let id = scheme.decode(&request, now).expect("a payment").info().id;
        assert!(ids.insert(id), "two authorizations with one identity");
        if let Some(twin) = fixture.twin(&request) {
            match scheme.decode(&twin, now) {
                Ok(twin) => assert_eq!(twin.info().id, id),
                Err(Refusal::Rejected(_)) => {}
                Err(Refusal::Malformed(malformed)) => panic!("{malformed}"),
            }
        }
    }
}

/// The whole purpose.
pub async fn a_valid_payment_moves_its_amount_once_and_one_is_told<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let request = fixture.request().await;
    assert!(is_valid(&engine, &request).await);
    let (success, reason, transaction) = told(&engine, &request).await;
    assert!(success, "{reason}");
    assert!(!transaction.is_empty());
    for _ in 0..3 {
        let again = told(&engine, &request).await;
        assert_eq!(
            again,
            (
                false,
                Reason::DUPLICATE_SETTLEMENT.to_string(),
                transaction.clone()
            )
        );
        assert!(!is_valid(&engine, &request).await);
    }
    assert_eq!(fixture.received().await, F::PRICE);
}

/// A success releases a resource: of all who ask for one authorization, one gets it.
pub async fn of_many_at_once_one_is_told<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let request = fixture.request().await;
    let answers = join_all((0..30).map(|_| told(&engine, &request))).await;
    assert_eq!(
        answers.iter().filter(|(success, ..)| *success).count(),
        1,
        "{answers:?}"
    );
    let transactions: BTreeSet<&String> = answers
        .iter()
        .map(|(_, _, transaction)| transaction)
        .collect();
    assert_eq!(transactions.len(), 1, "{answers:?}");
    assert_eq!(fixture.received().await, F::PRICE);
}

/// The books balance.
pub async fn many_payments_at_once_all_settle<F: SchemeFixture>() {
    const COUNT: u64 = 40;
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let mut requests = Vec::new();
    for _ in 0..COUNT {
        requests.push(fixture.request().await);
    }
    let answers = join_all(requests.iter().map(|request| told(&engine, request))).await;
    let failed: Vec<_> = answers.iter().filter(|(success, ..)| !success).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(fixture.received().await, times(F::PRICE, COUNT));
}

/// A question is not an action.
pub async fn verifying_changes_nothing<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let request = fixture.request().await;
    let verdicts = join_all((0..20).map(|_| is_valid(&engine, &request))).await;
    assert!(verdicts.iter().all(|valid| *valid));
    assert_eq!(fixture.received().await, Amount::ZERO);
    assert!(told(&engine, &request).await.0);
}

/// The operator would pay a fee for it, and a seller would serve for nothing.
pub async fn a_payment_of_nothing_or_to_oneself_is_refused<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    for (request, reason) in fixture.pointless().await {
        let verdict = engine.verify(&request).await.expect("a verdict");
        assert_eq!(
            (verdict.is_valid, verdict.invalid_reason.as_deref()),
            (false, Some(reason.code()))
        );
        let outcome = engine.settle(&request).await.expect("a verdict");
        assert_eq!(
            (outcome.success, outcome.error_reason.as_deref()),
            (false, Some(reason.code()))
        );
        assert_eq!(outcome.transaction, "");
    }
}

/// After a crash a payment is decoded from what was kept of its request.
pub async fn what_a_journal_keeps_decodes_to_the_same_payment<F: SchemeFixture>() {
    let fixture = F::new().await;
    let (scheme, request, now) = (fixture.scheme(), fixture.request().await, SystemClock.now());
    let first = scheme.decode(&request, now).expect("a payment");
    let kept = request.kept_text().expect("short enough");
    let kept = PaymentRequest::decode(kept.as_bytes()).expect("a request");
    let again = scheme.decode(&kept, now).expect("a payment");
    assert_eq!(again.info(), first.info());
    assert_eq!(again.signatures(), first.signatures());
}

/// Whatever is wrong is told by its code, at /verify and at /settle, and costs nobody anything.
pub async fn a_spoiled_payment_is_told_its_reason_and_moves_nothing<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    for (name, request, reason) in fixture.spoiled().await {
        let verdict = engine
            .verify(&request)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            (verdict.is_valid, verdict.invalid_reason.as_deref()),
            (false, Some(reason.code())),
            "{name}"
        );
        let message = verdict.invalid_message.unwrap_or_default();
        assert!(!message.is_empty(), "{name}: {reason} without a word");
        let outcome = engine
            .settle(&request)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            (outcome.success, outcome.error_reason.as_deref()),
            (false, Some(reason.code())),
            "{name}"
        );
        assert!(
            outcome.error_message.is_some(),
            "{name}: {reason} without a word"
        );
        assert_eq!(outcome.transaction, "", "{name}");
    }
    assert_eq!(fixture.received().await, Amount::ZERO);
    assert_eq!(engine.in_progress(), 0);
}

/// Each text in the payload matters.
pub async fn a_payment_with_any_byte_changed_is_not_valid<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let request = fixture.request().await;
    for (path, changed) in changed(&request, "/paymentPayload/payload") {
        match PaymentRequest::decode(changed.as_bytes()) {
            Ok(changed) => assert!(!is_valid(&engine, &changed).await, "{path}"),
            Err(_) => continue,
        }
    }
    assert!(is_valid(&engine, &request).await);
}

/// The seller's terms are the seller's: a payment for others is none.
pub async fn a_payment_for_other_terms_is_not_valid<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let request = fixture.request().await;
    let money = ["amount", "asset", "payTo", "network", "scheme"];
    for (path, changed) in changed(&request, "/paymentRequirements") {
        if !money.iter().any(|field| path.ends_with(field)) {
            continue;
        }
        match PaymentRequest::decode(changed.as_bytes()) {
            Ok(changed) => {
                assert!(!is_valid(&engine, &changed).await, "{path}");
                assert!(
                    !engine
                        .settle(&changed)
                        .await
                        .is_ok_and(|outcome| outcome.success),
                    "{path}"
                );
            }
            Err(_) => continue,
        }
    }
    assert_eq!(fixture.received().await, Amount::ZERO);
}

/// Another signature over the same authorization is another caller's: one of the two is told, and the other nothing,
/// neither when they come together nor later. Which one comes first is chance.
pub async fn a_twin_is_told_nothing_of_the_first<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let request = fixture.request().await;
    let Some(twin) = fixture.twin(&request) else {
        return;
    };
    let (first, second) = tokio::join!(decided(&engine, &request), decided(&engine, &twin));
    let told = [first, second].map(|answer| answer.is_ok_and(|outcome| outcome.success));
    assert_ne!(told[0], told[1]);
    let loser = if told[0] { &twin } else { &request };
    let later = decided(&engine, loser).await;
    assert!(!later.is_ok_and(|outcome| outcome.success));
    assert_eq!(fixture.received().await, F::PRICE);
}

/// The journal knows which transaction to look for.
pub async fn a_payment_sent_before_a_crash_settles_once_after_it<F: SchemeFixture>() {
    let fixture = F::new().await;
    let request = fixture.request().await;
    let engine = fixture.engine().await;
    fixture.hold().await;
    let asking = tokio::spawn({
        let (engine, request) = (engine.clone(), request.clone());
        async move { engine.settle(&request).await }
    });
    let id = fixture
        .scheme()
        .decode(&request, SystemClock.now())
        .expect("a payment")
        .info()
        .id;
    until("it was sent", || async {
        engine
            .settlement(&id)
            .await
            .is_ok_and(|known| known.is_some_and(|known| known.transaction().is_some()))
    })
    .await;
    // Nothing is finished, and nobody is answered.
    asking.abort();
    engine.shut_down(Duration::ZERO).await;
    drop(engine);

    fixture.go_on().await;
    let engine = fixture.engine().await;
    until("it is settled", || async { engine.in_progress() == 0 }).await;
    let (success, reason, _) = told(&engine, &request).await;
    assert!(success, "{reason}");
    assert!(!told(&engine, &request).await.0);
    assert_eq!(fixture.received().await, F::PRICE);
}

/// "Broadcast, and not known yet" is an answer, with the transaction; and the next one to ask is told.
pub async fn a_payment_that_outlives_its_caller_is_pending_and_then_settled<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let request = fixture.request().await;
    fixture.hold().await;
    let pending = engine.settle(&request).await.expect("an answer");
    assert!(pending.is_pending(), "{pending:?}");
    // To whoever asks, it is as good as it was.
    assert!(is_valid(&engine, &request).await);
    fixture.go_on().await;
    let settled = engine.settle(&request).await.expect("an answer");
    assert!(settled.success, "{settled:?}");
    assert_eq!(settled.transaction, pending.transaction);
    assert_eq!(fixture.received().await, F::PRICE);
}

/// The money moves all the same, and nobody counts as told.
pub async fn a_caller_that_goes_away_cancels_nothing<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let mut requests = Vec::new();
    for _ in 0..10 {
        requests.push(fixture.request().await);
    }
    for (at, request) in requests.iter().enumerate() {
        let timing = Duration::from_millis(at as u64);
        drop(tokio::time::timeout(timing, engine.settle(request)).await);
    }
    for request in &requests {
        let (success, reason, _) = told(&engine, request).await;
        assert!(
            success || reason == Reason::DUPLICATE_SETTLEMENT.code(),
            "{reason}"
        );
    }
    assert_eq!(fixture.received().await, times(F::PRICE, 10));
}

/// A request's text with one text under `root` changed, for each of them.
fn changed(request: &PaymentRequest, root: &str) -> Vec<(String, String)> {
    let tree: Value = serde_json::from_str(request.text()).expect("a request is JSON");
    let mut paths = Vec::new();
    leaves(
        tree.pointer(root).expect("a request has it"),
        root,
        &mut paths,
    );
    assert!(!paths.is_empty());
    let mut texts = Vec::new();
    for path in paths {
        let mut tree = tree.clone();
        let Some(Value::String(text)) = tree.pointer_mut(&path) else {
            continue;
        };
        let last = text.pop().unwrap_or('0');
        text.push(if last == '0' { '1' } else { '0' });
        texts.push((path, tree.to_string()));
    }
    texts
}

fn leaves(value: &Value, path: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(key, value)| leaves(value, &format!("{path}/{key}"), into)),
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(at, value)| leaves(value, &format!("{path}/{at}"), into));
        }
        _ => into.push(path.to_owned()),
    }
}

/// Asserts that an answer says nothing about the payment.
pub fn assert_fault<T: std::fmt::Debug>(answer: &Result<T, FacilitatorError>) {
    assert!(
        matches!(answer, Err(FacilitatorError::Fault(_))),
        "{answer:?}"
    );
}
