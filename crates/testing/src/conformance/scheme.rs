//! The properties of every scheme, alone and in an engine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_core::wire::SettleResponse;
use quittance_core::{
    Amount, Chain, Clock, Facilitator, FacilitatorError, FaultKind, Observed, PaymentRequest,
    Reason, Refusal, Scheme, SystemClock, Timestamp,
};
use quittance_engine::{Engine, EngineBuilder};
use serde_json::Value;

use crate::until;

/// A scheme in an environment of its own: a chain, payers with money, a seller.
#[async_trait]
pub trait SchemeFixture: Send + Sync + Sized {
    /// The chain of the scheme.
    type Chain: Chain;

    /// The amount of every payment of this fixture.
    const PRICE: Amount;

    /// Whether only the chain knows who authorized a payment and until when, as with delegations.
    /// Such a payment has no signatures, and it expires at the end of time: the journal must keep
    /// its identity for ever.
    const ONLY_CHAIN_KNOWS: bool = false;

    /// Whether another transaction comes before the one that settles.
    const TAKES_STEPS: bool = false;

    /// A chain that includes transactions at once.
    async fn new() -> Self;

    /// The clock that the chain's blocks agree with.
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SystemClock)
    }

    /// The scheme.
    fn scheme(&self) -> Arc<dyn Scheme<Self::Chain>>;

    /// An engine with the scheme. Each engine resumes the journal of the one before.
    async fn engine(&self) -> Engine;

    /// A new payment that is valid, always by the same payer.
    async fn request(&self) -> PaymentRequest;

    /// New valid payments by two payers, otherwise as equal as they can be: with the same nonce,
    /// where payers choose one.
    async fn alike(&self) -> [PaymentRequest; 2];

    /// The same authorization with other signature bytes. It need not be valid.
    fn twin(&self, request: &PaymentRequest) -> PaymentRequest;

    /// Payments that are wrong in one way each, with the reason that the scheme gives.
    async fn spoiled(&self) -> Vec<(&'static str, PaymentRequest, Reason)>;

    /// Properly authorized payments that pay no seller, with the reason: one of a zero amount, and
    /// one from the payer to itself.
    async fn pointless(&self) -> [(PaymentRequest, Reason); 2];

    /// What the seller has received in all.
    async fn received(&self) -> Amount;

    /// From now on the chain includes nothing.
    async fn hold(&self);

    /// The chain includes what waits, and continues as before.
    async fn go_on(&self);

    /// Takes the money from the payer of [`request`](Self::request) while the chain is on
    /// [`hold`](Self::hold), so that what waits is included and transfers nothing.
    ///
    /// `false` when the chain never includes a transaction without its effect.
    async fn drain_payer(&self) -> bool;

    /// Settles a payment without the engine, as another facilitator would.
    ///
    /// `false` when only this facilitator's signer can send the authorization.
    async fn settle_elsewhere(&self, request: &PaymentRequest) -> bool;
}

/// The parts of a scheme fixture's engine, so that a suite can build another engine of
/// them.
#[async_trait]
pub trait EngineParts: SchemeFixture {
    /// A new chain, as the fixture's engine has it, with the scheme on it.
    fn parts(&self) -> (Self::Chain, Arc<dyn Scheme<Self::Chain>>);

    /// A builder with the fixture's journal and options, and without a chain.
    async fn builder(&self) -> EngineBuilder;
}

super::suite!($ scheme, scheme_conformance, SchemeFixture:
    decoding_is_pure
    a_payment_names_its_parties
    an_expired_payment_is_not_valid
    an_identity_does_not_depend_on_the_signature
    an_identity_does_not_depend_on_unknown_fields
    two_payers_do_not_share_an_identity
    a_valid_payment_settles_once
    of_many_at_once_one_settles
    many_payments_at_once_all_settle
    verifying_changes_nothing
    a_spoiled_payment_gets_its_reason_and_pays_nothing
    a_payment_of_nothing_or_to_oneself_is_refused
    a_journaled_request_decodes_to_the_same_payment
    a_payment_with_any_value_changed_is_not_valid
    a_payment_for_other_terms_is_not_valid
    a_payment_that_accepted_other_terms_is_not_valid
    a_change_of_minor_terms_changes_no_valid_payment
    a_twin_does_not_settle_beside_the_first
    transfer_without_effect_is_not_a_success
    a_payment_settled_elsewhere_names_its_transaction
    a_payment_sent_before_a_crash_settles_once_after_it
    a_payment_that_outlives_its_caller_is_pending
    a_caller_that_disconnects_cancels_nothing
);

/// The final outcome of a payment: success, reason and transaction. A busy machine may need longer
/// than the engine waits.
async fn settled(engine: &Engine, request: &PaymentRequest) -> (bool, String, String) {
    let answer = decided(engine, request).await.expect("an answer");
    (
        answer.success,
        answer.error_reason.unwrap_or_default(),
        answer.transaction,
    )
}

/// The answer of an engine.
pub(super) type Answer = Result<SettleResponse, FacilitatorError>;

/// Settles, and again while the outcome is not known or the engine is busy. Both answers ask the
/// caller to retry with the same request.
pub(super) async fn decided(engine: &Engine, request: &PaymentRequest) -> Answer {
    let is_pending = |answer: &Answer| answer.as_ref().is_ok_and(SettleResponse::is_pending);
    settle_while(engine, request, |answer| {
        is_pending(answer) || is_busy(answer)
    })
    .await
}

/// The answer of a chain on hold: sent, and not included. A busy machine may need several calls to
/// send.
async fn pending(engine: &Engine, request: &PaymentRequest) -> SettleResponse {
    let answer = settle_while(engine, request, is_busy).await;
    let response = answer.expect("an answer");
    assert!(response.is_pending(), "{response:?}");
    response
}

pub(super) fn is_busy(answer: &Answer) -> bool {
    matches!(answer, Err(FacilitatorError::Fault(fault)) if fault.kind == FaultKind::Busy)
}

async fn settle_while(
    engine: &Engine,
    request: &PaymentRequest,
    retries: impl Fn(&Answer) -> bool,
) -> Answer {
    const TIMES: usize = 10;
    let mut answer = engine.settle(request).await;
    for _ in 1..TIMES {
        if !retries(&answer) {
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
    let (scheme, request, now) = (
        fixture.scheme(),
        fixture.request().await,
        fixture.clock().now(),
    );
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

/// Others can rewrite a signature so that it is another text. They must not make another payment of
/// it.
pub async fn an_identity_does_not_depend_on_the_signature<F: SchemeFixture>() {
    let fixture = F::new().await;
    let (scheme, now) = (fixture.scheme(), fixture.clock().now());
    let mut ids = BTreeSet::new();
    for _ in 0..10 {
        let request = fixture.request().await;
        let id = scheme.decode(&request, now).expect("a payment").info().id;
        assert!(ids.insert(id), "two authorizations with one identity");
        match scheme.decode(&fixture.twin(&request), now) {
            Ok(twin) => assert_eq!(twin.info().id, id, "the signature changes the identity"),
            Err(Refusal::Rejected(_)) => {}
            Err(Refusal::Malformed(malformed)) => panic!("{malformed}"),
        }
    }
}

/// Another caller can add fields that the scheme does not read, or write the fields in another
/// order. That must not make another payment of it.
pub async fn an_identity_does_not_depend_on_unknown_fields<F: SchemeFixture>() {
    let fixture = F::new().await;
    let (scheme, now) = (fixture.scheme(), fixture.clock().now());
    let request = fixture.request().await;
    let info = |request: &PaymentRequest| match scheme.decode(request, now) {
        Ok(payment) => Some(payment.info().clone()),
        Err(Refusal::Rejected(_)) => None,
        Err(Refusal::Malformed(malformed)) => panic!("{malformed}"),
    };
    let first = info(&request);
    assert!(first.is_some(), "a payment");
    for root in ["", "/paymentPayload", "/paymentPayload/payload"] {
        let mut tree: Value = serde_json::from_str(request.text()).expect("a request is JSON");
        let fields = tree.pointer_mut(root).and_then(Value::as_object_mut);
        // The first field in the order of their names.
        let unknown = ("0".to_owned(), Value::from("unknown"));
        fields.expect("an object").extend([unknown]);
        if let Ok(with_unknown) = PaymentRequest::decode(tree.to_string().as_bytes()) {
            let found = info(&with_unknown);
            assert!(found.is_none() || found == first, "{root}: {found:?}");
        }
    }
}

/// One authorization pays once, and releases one resource.
pub async fn a_valid_payment_settles_once<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let request = fixture.request().await;
    assert!(is_valid(&engine, &request).await);
    let answer = decided(&engine, &request).await.expect("an answer");
    assert!(answer.success, "{answer:?}");
    // The engine reports what the scheme says was transferred.
    assert_eq!(answer.amount, Some(F::PRICE.to_string()));
    let transaction = answer.transaction;
    assert!(!transaction.is_empty());
    for _ in 0..3 {
        let again = settled(&engine, &request).await;
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

/// Of all concurrent callers with one authorization, one gets a success.
pub async fn of_many_at_once_one_settles<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let request = fixture.request().await;
    let answers = join_all((0..30).map(|_| settled(&engine, &request))).await;
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

/// The seller receives the sum of all successes.
pub async fn many_payments_at_once_all_settle<F: SchemeFixture>() {
    const COUNT: u64 = 40;
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let mut requests = Vec::new();
    for _ in 0..COUNT {
        requests.push(fixture.request().await);
    }
    let answers = join_all(requests.iter().map(|request| settled(&engine, request))).await;
    let failed: Vec<_> = answers.iter().filter(|(success, ..)| !success).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(fixture.received().await, times(F::PRICE, COUNT));
}

/// The engine's limits, policies and reports use the info alone.
pub async fn a_payment_names_its_parties<F: SchemeFixture>() {
    // No authorization is valid for longer: the journal keeps its identity as long.
    const LIFETIME_MAX_SECS: u64 = 8 * 24 * 3600;
    let fixture = F::new().await;
    let (scheme, request) = (fixture.scheme(), fixture.request().await);
    let now = fixture.clock().now();
    let payment = scheme.decode(&request, now).expect("a payment");
    let (info, requirements) = (payment.info(), &request.requirements);
    assert_eq!(scheme.name(), requirements.scheme);
    assert!(scheme.assets().contains(&info.asset), "{info:?}");
    assert!(
        info.asset.eq_ignore_ascii_case(&requirements.asset),
        "{info:?}"
    );
    assert!(
        info.pay_to.eq_ignore_ascii_case(&requirements.pay_to),
        "{info:?}"
    );
    assert_ne!(info.payer, info.pay_to);
    assert_eq!(info.amount, F::PRICE);
    assert!(info.expires > now, "{info:?} has expired at {now}");
    if F::ONLY_CHAIN_KNOWS {
        assert_eq!(info.expires, Timestamp::NEVER, "{info:?}");
        assert!(payment.signatures().is_empty(), "{info:?}");
        return;
    }
    assert!(info.expires.secs_since(now) < LIFETIME_MAX_SECS, "{info:?}");
    assert!(!payment.signatures().is_empty(), "nothing proves who pays");
}

/// The engine answers `settlement_expired` by this time, and buyers then sign another payment.
pub async fn an_expired_payment_is_not_valid<F: SchemeFixture>() {
    let fixture = F::new().await;
    let (scheme, request) = (fixture.scheme(), fixture.request().await);
    let now = fixture.clock().now();
    let expires = scheme
        .decode(&request, now)
        .expect("a payment")
        .info()
        .expires;
    let Ok(payment) = scheme.decode(&request, expires) else {
        return;
    };
    if payment.info().expires > expires {
        // The chain counts blocks, and the scheme can only estimate the time.
        return;
    }
    let signatures = vec![true; payment.signatures().len()];
    let verdict = payment.check(&Observed::new(&signatures, &[], expires));
    let rejection = verdict.expect_err("a rejection, because the payment has expired");
    assert!(
        payment.depends_on_time(&rejection),
        "{rejection} depends on the time, and the scheme says that it does not"
    );
}

/// If two payers had one identity, the second could not pay: `duplicate_settlement`.
pub async fn two_payers_do_not_share_an_identity<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let (scheme, now) = (fixture.scheme(), fixture.clock().now());
    let requests = fixture.alike().await;
    let [first, second] = requests.each_ref().map(|request| {
        let payment = scheme.decode(request, now).expect("a payment");
        payment.info().clone()
    });
    assert_ne!(first.payer, second.payer, "the fixture needs two payers");
    assert_ne!(first.id, second.id, "two payers have one identity");
    for request in &requests {
        let (success, reason, _) = settled(&engine, request).await;
        assert!(success, "{reason}");
    }
    assert_eq!(fixture.received().await, times(F::PRICE, 2));
}

/// The chain includes the transaction, and the transfer in it fails. A success would release a
/// resource that was not paid for.
pub async fn transfer_without_effect_is_not_a_success<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let request = fixture.request().await;
    fixture.hold().await;
    let pending = pending(&engine, &request).await;
    if !fixture.drain_payer().await {
        return;
    }
    fixture.go_on().await;
    let (success, reason, transaction) = settled(&engine, &request).await;
    assert_eq!(fixture.received().await, Amount::ZERO);
    assert!(!success, "the seller received nothing");
    assert_ne!(reason, Reason::SETTLEMENT_PENDING.code());
    assert_eq!(transaction, pending.transaction);
}

/// The seller was paid, by a transaction that this facilitator did not send.
pub async fn a_payment_settled_elsewhere_names_its_transaction<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let request = fixture.request().await;
    if !fixture.settle_elsewhere(&request).await {
        return;
    }
    assert_eq!(fixture.received().await, F::PRICE);
    let (success, reason, transaction) = settled(&engine, &request).await;
    assert!(!success);
    assert_eq!(reason, Reason::SETTLED_BY_OTHER_TRANSACTION.code());
    assert!(!transaction.is_empty());
}

/// Verification sends nothing.
pub async fn verifying_changes_nothing<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let request = fixture.request().await;
    let verdicts = join_all((0..20).map(|_| is_valid(&engine, &request))).await;
    assert!(verdicts.iter().all(|valid| *valid));
    assert_eq!(fixture.received().await, Amount::ZERO);
    assert!(settled(&engine, &request).await.0);
}

/// The operator would pay a fee, and the seller would serve without being paid.
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

/// After a crash, a payment is decoded from the part of its request that the journal has.
pub async fn a_journaled_request_decodes_to_the_same_payment<F: SchemeFixture>() {
    let fixture = F::new().await;
    let (scheme, request, now) = (
        fixture.scheme(),
        fixture.request().await,
        fixture.clock().now(),
    );
    let first = scheme.decode(&request, now).expect("a payment");
    let kept = request.kept_text(scheme.extensions(), scheme.kept_max());
    let kept = kept.expect("short enough");
    let kept = PaymentRequest::decode(kept.as_bytes()).expect("a request");
    let again = scheme.decode(&kept, now).expect("a payment");
    assert_eq!(again.info(), first.info());
    assert_eq!(again.signatures(), first.signatures());
}

/// /verify and /settle give the same reason, and nothing is sent.
pub async fn a_spoiled_payment_gets_its_reason_and_pays_nothing<F: SchemeFixture>() {
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
        assert!(!message.is_empty(), "{name}: {reason} without a message");
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
            "{name}: {reason} without a message"
        );
        assert_eq!(outcome.transaction, "", "{name}");
    }
    assert_eq!(fixture.received().await, Amount::ZERO);
    assert_eq!(engine.in_progress(), 0);
}

/// Each text and each number in the payload is a part of what was signed.
pub async fn a_payment_with_any_value_changed_is_not_valid<F: SchemeFixture>() {
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

/// A payment for other requirements than the seller's is not a payment.
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

/// The buyer's copy of the requirements differs from the seller's: the buyer agreed to something
/// else.
pub async fn a_payment_that_accepted_other_terms_is_not_valid<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let request = fixture.request().await;
    let money = ["amount", "asset", "payTo", "network", "scheme"];
    for (path, changed) in changed(&request, "/paymentPayload/accepted") {
        let is_money = money.iter().any(|field| path.ends_with(field));
        if let (true, Ok(changed)) = (is_money, PaymentRequest::decode(changed.as_bytes())) {
            assert!(!is_valid(&engine, &changed).await, "{path}");
        }
    }
    assert!(is_valid(&engine, &request).await);
}

/// The terms that say nothing about the money, such as the scheme's own and the time limit, are
/// changed by the seller, by the buyer, or by both. Such a payment is not valid, or the change has
/// no effect on it.
pub async fn a_change_of_minor_terms_changes_no_valid_payment<F: SchemeFixture>() {
    const ROOTS: [&str; 2] = ["/paymentRequirements", "/paymentPayload/accepted"];
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let (scheme, now) = (fixture.scheme(), fixture.clock().now());
    let request = fixture.request().await;
    let first = scheme.decode(&request, now).expect("a payment");
    let is_minor = |field: &str| field.starts_with("/extra/") || field == "/maxTimeoutSeconds";
    let [asked, accepted] = ROOTS.map(|root| changed(&request, root));
    let both = asked.iter().filter_map(|(path, text)| {
        let field = path.strip_prefix(ROOTS[0])?;
        let text = with_value_of(text, path, &format!("{}{field}", ROOTS[1]))?;
        Some((path.clone(), text))
    });
    let both: Vec<_> = both.collect();
    let mut count = 0;
    for (path, changed) in [asked, accepted, both].concat() {
        let field = ROOTS.iter().find_map(|root| path.strip_prefix(root));
        if !field.is_some_and(is_minor) {
            continue;
        }
        count += 1;
        let Ok(changed) = PaymentRequest::decode(changed.as_bytes()) else {
            continue;
        };
        let decoded = scheme.decode(&changed, now);
        let is_same = decoded.is_ok_and(|payment| payment.info() == first.info());
        assert!(is_same || !is_valid(&engine, &changed).await, "{path}");
    }
    assert!(count >= 3, "both sides have a time limit");
    assert!(is_valid(&engine, &request).await);
}

/// The text with the value at `from` also at `to`, if it has both.
fn with_value_of(text: &str, from: &str, to: &str) -> Option<String> {
    let mut tree: Value = serde_json::from_str(text).ok()?;
    let value = tree.pointer(from)?.clone();
    *tree.pointer_mut(to)? = value;
    Some(tree.to_string())
}

/// Another signature over the same authorization may be another caller's. One of the two settles,
/// whether they arrive together or later. Which one arrives first is not determined.
pub async fn a_twin_does_not_settle_beside_the_first<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let request = fixture.request().await;
    let twin = fixture.twin(&request);
    let (first, second) = tokio::join!(decided(&engine, &request), decided(&engine, &twin));
    let settled = [first, second].map(|answer| answer.is_ok_and(|outcome| outcome.success));
    assert_ne!(settled[0], settled[1], "exactly one of the two settles");
    let loser = if settled[0] { &twin } else { &request };
    let later = decided(&engine, loser).await;
    assert!(!later.is_ok_and(|outcome| outcome.success));
    assert_eq!(fixture.received().await, F::PRICE);
}

/// The journal says which transaction to look for.
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
        .decode(&request, fixture.clock().now())
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
    // Nothing is finished, and no caller has an answer.
    asking.abort();
    engine.shut_down(Duration::ZERO).await;
    drop(engine);

    fixture.go_on().await;
    let engine = fixture.engine().await;
    until("it is settled", || async { engine.in_progress() == 0 }).await;
    let (success, reason, _) = settled(&engine, &request).await;
    assert!(success, "{reason}");
    assert!(!settled(&engine, &request).await.0);
    assert_eq!(fixture.received().await, F::PRICE);
}

/// `settlement_pending` names the transaction, and the next caller gets the success.
pub async fn a_payment_that_outlives_its_caller_is_pending<F: SchemeFixture>() {
    let fixture = F::new().await;
    let engine = fixture.engine().await;
    let request = fixture.request().await;
    fixture.hold().await;
    let pending = pending(&engine, &request).await;
    // Its payer can still use it to get the answer.
    assert!(is_valid(&engine, &request).await);
    fixture.go_on().await;
    let settled = decided(&engine, &request).await.expect("an answer");
    assert!(settled.success, "{settled:?}");
    // A step is pending first.
    let is_same = settled.transaction == pending.transaction;
    assert!(is_same || F::TAKES_STEPS, "{settled:?} {pending:?}");
    assert_eq!(fixture.received().await, F::PRICE);
}

/// The payment settles nevertheless, and its success is not reported to a caller that has gone.
pub async fn a_caller_that_disconnects_cancels_nothing<F: SchemeFixture>() {
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
        let (success, reason, _) = settled(&engine, request).await;
        assert!(
            success || reason == Reason::DUPLICATE_SETTLEMENT.code(),
            "{reason}"
        );
    }
    assert_eq!(fixture.received().await, times(F::PRICE, 10));
}

/// The request's text with one value under `root` changed, for each text and number.
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
        match tree.pointer_mut(&path) {
            Some(Value::String(text)) => {
                let last = text.pop().unwrap_or('0');
                text.push(if last == '0' { '1' } else { '0' });
            }
            Some(Value::Number(number)) => {
                *number = (number.as_u64().unwrap_or_default() ^ 1).into();
            }
            _ => continue,
        }
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
