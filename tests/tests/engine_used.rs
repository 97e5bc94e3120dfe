//! Used authorizations: which transaction used them, and the answers until that is known. And
//! success whose answer was lost.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alloy::primitives::{B256, Bytes};
use quittance_core::wire::SettleResponse;
use quittance_core::{
    Check, Clock, Facilitator, FacilitatorError, Observed, PaymentId, PaymentRequest, Reason,
    Scheme, SystemClock,
};
use quittance_devnet::{Evm as Local, Mining, USDC};
use quittance_engine::{Engine, Outcome, State, Timing};
use quittance_evm::{Evm, Exact, Step};
use quittance_tests::engine;
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::flaky::{Failing, FlakyJournal};
use quittance_tests::proxy::Fate;
use quittance_tests::until;
use serde_json::{Value, json};

/// Short waits, for tests.
const HASTY: Timing = engine::HASTY.with_replace_after(Duration::from_secs(30));

async fn hasty(setting: &Setting, settle_wait: Duration) -> Engine {
    setting
        .engine_with(setting.config(), |builder| {
            builder.timing(HASTY).settle_wait(settle_wait)
        })
        .await
}

fn exact(setting: &Setting) -> Exact {
    Exact::new(&Evm::new(setting.config()).unwrap())
}

fn id(setting: &Setting, request: &PaymentRequest) -> PaymentId {
    let payment = exact(setting).decode(request, SystemClock.now()).unwrap();
    payment.info().id
}

/// The transfer that settles a payment. Anyone who has seen the payment can make it.
fn transfer(setting: &Setting, request: &PaymentRequest) -> Bytes {
    let now = SystemClock.now();
    let payment = exact(setting).decode(request, now).unwrap();
    let observed = Observed::new(&[true], &[], now);
    let Check::Ask(probe) = payment.check(&observed).unwrap() else {
        panic!("valid without a look");
    };
    let transfers = probe.steps.into_iter().rev().find_map(|step| match step {
        Step::Call { to, data, .. } if to == USDC && data.len() > 200 => Some(data),
        _ => None,
    });
    transfers.unwrap()
}

/// Another sender makes the transfer.
async fn front_run(setting: &Setting, request: &PaymentRequest) -> B256 {
    let call = json!([{ "from": Local::accounts()[6].address, "to": USDC, "data": transfer(setting, request) }]);
    setting
        .local
        .rpc("eth_sendTransaction", call)
        .await
        .unwrap()
}

fn pending(answer: &SettleResponse) -> &str {
    assert!(answer.is_pending(), "{answer:?}");
    assert!(!answer.transaction.is_empty());
    &answer.transaction
}

/// The seller was paid. The answer only said that the authorization is used, without the
/// transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_front_run_payment_is_answered_with_its_transaction() {
    let setting = Setting::start().await;
    let engine = hasty(&setting, Duration::from_secs(5)).await;
    let request = Setting::request().await;
    let theirs = front_run(&setting, &request).await;
    for _ in 0..2 {
        let answer = engine.settle(&request).await.unwrap();
        assert_eq!(
            (answer.success, answer.error_reason.as_deref()),
            (false, Some(Reason::SETTLED_BY_OTHER_TRANSACTION.code())),
            "{answer:?}"
        );
        assert_eq!(answer.transaction, theirs.to_string());
    }
    let verdict = engine.verify(&request).await.unwrap();
    assert_eq!(
        (verdict.is_valid, verdict.invalid_reason.as_deref()),
        (false, Some(Reason::SETTLED_BY_OTHER_TRANSACTION.code()))
    );
    assert_eq!(setting.received().await, PRICE.into());
    assert_eq!(setting.node.calls("eth_sendRawTransaction"), 0);
}

/// Providers limit how many blocks one search may cover. Some do not search at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_limited_search_changes_no_verdict() {
    let setting = Setting::start().await;
    let engine = hasty(&setting, Duration::from_secs(5)).await;
    let request = Setting::request().await;
    let theirs = front_run(&setting, &request).await;
    let too_wide = Fate::Error(-32602, "block range too large");
    setting.node.breaks("eth_getLogs", too_wide.clone(), 2);
    let answer = engine.settle(&request).await.unwrap();
    assert_eq!(answer.transaction, theirs.to_string());
    setting.node.breaks_for_good("eth_getLogs", too_wide);
    let answer = engine.settle(&request).await.unwrap();
    assert_eq!(
        answer.error_reason.as_deref(),
        Some(quittance_evm::reason::NONCE_ALREADY_USED.code())
    );
}

/// The node's index of receipts was behind. The nonce and the authorization were used, and our own
/// success was reported as the payer's mistake.
#[tokio::test(flavor = "multi_thread")]
async fn a_used_authorization_is_pending_until_its_user_is_known() {
    for logs in [true, false] {
        let setting = Setting::start().await;
        let engine = hasty(&setting, Duration::from_millis(600)).await;
        setting
            .node
            .rewrites("eth_getTransactionReceipt", |_, _| Value::Null);
        if !logs {
            setting.node.rewrites("eth_getLogs", |_, _| json!([]));
        }
        let request = Setting::request().await;
        let first = engine.settle(&request).await.unwrap();
        let named = pending(&first);
        for _ in 0..6 {
            let answer = engine.settle(&request).await.unwrap();
            assert_eq!(pending(&answer), named);
        }
        assert_eq!(setting.received().await, PRICE.into());
        setting.node.mend();
        until("it is decided", || async { engine.in_progress() == 0 }).await;
        let answer = engine.settle(&request).await.unwrap();
        assert!(answer.success, "{answer:?}");
        assert_eq!(answer.transaction, named);
    }
}

/// A gateway forwarded the transaction and answered with an error of another backend. The payment
/// was released as never sent, and its success was reported as the payer's mistake.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_accepted_and_refused_is_found() {
    for refusal in ["insufficient funds", "nonce too high", "txpool is full"] {
        let setting = Setting::start().await;
        let engine = hasty(&setting, Duration::from_secs(5)).await;
        let request = Setting::request().await;
        setting.node.breaks(
            "eth_sendRawTransaction",
            Fate::DoneAndRefused(-32000, refusal),
            1,
        );
        let first = engine.settle(&request).await;
        assert!(
            matches!(first, Err(FacilitatorError::Fault(_))),
            "{first:?}"
        );
        let known = engine.settlement(&id(&setting, &request)).await.unwrap();
        let known = known.unwrap();
        assert!(matches!(
            known.state,
            State::Concluded(Outcome::Released { .. })
        ));
        assert_eq!(setting.received().await, PRICE.into());
        let answer = engine.settle(&request).await.unwrap();
        assert!(answer.success, "{refusal}: {answer:?}");
        let withdrawn = &known.withdrawn[0].transaction;
        assert_eq!(answer.transaction, withdrawn.id.to_string());
        let again = engine.settle(&request).await.unwrap();
        assert!(!again.success, "{again:?}");
        assert_eq!(setting.received().await, PRICE.into());
    }
}

/// The caller disconnected, or the service's time limit passed, while the report was being written.
/// No caller got the success.
#[tokio::test(flavor = "multi_thread")]
async fn success_with_a_lost_answer_goes_to_the_next_caller() {
    let setting = Setting::with_mining(Mining::Instant).await;
    let failing = Arc::new(Failing::default());
    let evm = Evm::new(setting.config()).unwrap();
    let exact = Arc::new(Exact::new(&evm));
    let journal = FlakyJournal {
        inner: setting.journal().await,
        failing: Arc::clone(&failing),
    };
    let engine = Engine::builder(journal)
        .chain(evm, vec![exact])
        .timing(HASTY)
        .start()
        .await
        .unwrap();
    let request = Setting::request().await;
    let id = id(&setting, &request);
    let is_reported = async || {
        let known = engine.settlement(&id).await.unwrap();
        known.is_some_and(|known| known.success_reported_at.is_some())
    };
    failing.tell_takes.store(1_000, Ordering::SeqCst);
    let asking = {
        let (engine, request) = (engine.clone(), request.clone());
        tokio::spawn(async move { engine.settle(&request).await })
    };
    until("it is written", is_reported).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    failing.tell_takes.store(0, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(engine.verify(&request).await.unwrap().is_valid);
    let answer = engine.settle(&request).await.unwrap();
    assert!(answer.success, "{answer:?}");
    for _ in 0..3 {
        let again = engine.settle(&request).await.unwrap();
        assert_eq!(
            (again.success, again.error_reason.as_deref()),
            (false, Some(Reason::DUPLICATE_SETTLEMENT.code()))
        );
    }
    assert_eq!(setting.received().await, PRICE.into());
}
