//! Recovery on the simulated chain: crashes, reorganisations, expiry, and payments settled
//! elsewhere.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue panics")]

use std::sync::Arc;
use std::time::Duration;

use quittance_core::{Amount, Facilitator, PaymentId, PaymentRequest, Reason};
use quittance_engine::{Engine, Outcome, Settlement, State};
use quittance_testing::flaky::{Failing, FlakyJournal};
use quittance_testing::until;
use quittance_testing::world::{Environment, PRICE, SimulatedExact, TIMING, USD, World};

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

/// Settles a payment that no block takes, and stops the engine without warning.
async fn crash_after_sending(setting: &Environment) -> PaymentRequest {
    setting.world.includes_at_once(false);
    let engine = setting.engine().await;
    let request = setting.request().await;
    let asking = tokio::spawn({
        let (engine, request) = (engine.clone(), request.clone());
        async move { engine.settle(&request).await }
    });
    until("it was sent", || async {
        setting.world.waiting_count() == 1
    })
    .await;
    asking.abort();
    engine.shut_down(Duration::ZERO).await;
    request
}

async fn settles(engine: &Engine, request: &PaymentRequest) {
    until("nothing is in progress", || async {
        engine.in_progress() == 0
    })
    .await;
    let answer = engine.settle(request).await.unwrap();
    assert!(answer.success, "{answer:?}");
    let again = engine.settle(request).await.unwrap();
    assert_eq!(
        again.error_reason.as_deref(),
        Some(Reason::DUPLICATE_SETTLEMENT.code())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_included_before_the_restart_settles() {
    let setting = Environment::new();
    let request = crash_after_sending(&setting).await;
    setting.world.include();
    let engine = setting.engine().await;
    settles(&engine, &request).await;
    assert_eq!(setting.received(), Amount::from(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_waits_over_a_restart_settles() {
    let setting = Environment::new();
    let request = crash_after_sending(&setting).await;
    let engine = setting.engine().await;
    setting.world.includes_at_once(true);
    settles(&engine, &request).await;
    assert_eq!(setting.received(), Amount::from(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_forgotten_over_a_restart_settles() {
    let setting = Environment::new();
    let request = crash_after_sending(&setting).await;
    setting.world.forget_waiting();
    setting.world.includes_at_once(true);
    let engine = setting.engine().await;
    settles(&engine, &request).await;
    assert_eq!(setting.received(), Amount::from(PRICE));
}

/// The claim was written, and the transaction could not be: nothing is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_not_journaled_is_not_sent() {
    let setting = Environment::new();
    let failing = Arc::new(Failing::default());
    let chain = setting.world.chain();
    let exact = Arc::new(SimulatedExact::new(&chain));
    let journal = FlakyJournal {
        inner: setting.journal().await,
        failing: Arc::clone(&failing),
    };
    let engine = Engine::builder(journal)
        .chain(chain, vec![exact])
        .clock(setting.world.clock())
        .settle_wait(Duration::from_millis(300))
        .timing(TIMING)
        .start()
        .await
        .unwrap();
    failing
        .rest
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let request = setting.request().await;
    let answer = engine.settle(&request).await;
    assert!(!answer.is_ok_and(|answer| answer.success));
    assert_eq!(
        setting.world.included_count() + setting.world.waiting_count(),
        0
    );
    failing
        .rest
        .store(false, std::sync::atomic::Ordering::SeqCst);
    engine.shut_down(Duration::ZERO).await;
    drop(engine);
    let engine = setting.engine().await;
    settles(&engine, &request).await;
    assert_eq!(setting.received(), Amount::from(PRICE));
}

/// The signers' transactions are numbered, and they expire. The number of an expired one is free,
/// and would block all later ones. One that does nothing uses it up.
#[tokio::test(flavor = "multi_thread")]
async fn a_numbered_transaction_that_expired_blocks_no_lane() {
    const LIFETIME_SECS: u64 = 20;
    let setting = Environment::new();
    let chain = setting.world.chain().expiring_after(LIFETIME_SECS);
    let exact = Arc::new(SimulatedExact::new(&chain));
    let builder = setting.builder().await.chain(chain, vec![exact]);
    let engine = builder.start().await.unwrap();
    let requests = [setting.request().await, setting.request().await];
    setting.world.lose_transactions();
    let waiting = tokio::spawn({
        let (engine, request) = (engine.clone(), requests[0].clone());
        async move { engine.settle(&request).await }
    });
    let first = id(&setting, &requests[0]);
    until("it was sent", || async {
        let settlement = engine.settlement(&first).await.unwrap();
        settlement.is_some_and(|known| !known.transactions.is_empty())
    })
    .await;
    setting.world.clock().advance(LIFETIME_SECS);
    setting.world.nodes_up();
    setting.world.include();
    let answer = waiting.await.unwrap().unwrap();
    if !answer.success {
        settles(&engine, &requests[0]).await;
    }
    settles(&engine, &requests[1]).await;
    assert_eq!(setting.received(), Amount::from(2 * PRICE));
}

/// The block is taken back, and its transaction is included again.
#[tokio::test(flavor = "multi_thread")]
async fn a_reorganised_payment_settles_again() {
    let setting = Environment::new();
    let engine = setting.engine().await;
    let request = setting.request().await;
    assert!(engine.settle(&request).await.unwrap().success);
    setting.world.includes_at_once(false);
    setting.world.reorganize_and_forget(1);
    assert_eq!(setting.received(), Amount::ZERO);
    setting.world.includes_at_once(true);
    until("the payment is included again", || async {
        setting.received() == Amount::from(PRICE)
    })
    .await;
    let again = engine.settle(&request).await.unwrap();
    assert!(!again.success, "success was already reported: {again:?}");
}

/// The block is taken back, and the payer's money is gone: the payment is lost, and the journal
/// says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_reorganised_payment_without_money_is_lost() {
    let setting = Environment::new();
    let engine = setting.engine().await;
    let request = setting.request().await;
    assert!(engine.settle(&request).await.unwrap().success);
    setting.world.includes_at_once(false);
    setting.world.reorganize_and_forget(1);
    let payer = setting.world.payer(0).account();
    setting.world.set_balance(payer, USD, Amount::ZERO);
    setting.world.includes_at_once(true);
    until("the payment is lost", || async {
        let state = settlement(&setting, &engine, &request).await.state;
        matches!(state, State::Concluded(Outcome::Lost { .. }))
    })
    .await;
    assert_eq!(setting.received(), Amount::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorization_that_expires_unsent_is_not_settled() {
    let setting = Environment::new();
    let engine = setting.engine().await;
    let request = setting.request().await;
    setting.world.clock().advance(3600);
    let answer = engine.settle(&request).await.unwrap();
    assert!(!answer.success);
    assert_eq!(setting.world.included_count(), 0);
    assert_eq!(setting.received(), Amount::ZERO);
}

/// The transaction waits until its authorization has expired, and is then included without effect,
/// or its number is used up.
#[tokio::test(flavor = "multi_thread")]
async fn an_authorization_that_expires_while_it_waits_fails() {
    let setting = Environment::new();
    let request = crash_after_sending(&setting).await;
    let engine = setting.engine().await;
    setting.world.clock().advance(3600);
    setting.world.includes_at_once(true);
    until("the settlement has ended", || async {
        let state = settlement(&setting, &engine, &request).await.state;
        matches!(state, State::Concluded(_))
    })
    .await;
    assert!(!engine.settle(&request).await.unwrap().success);
    assert_eq!(setting.received(), Amount::ZERO);
    // The lane is free for the next payment.
    let next = setting.request().await;
    assert!(engine.settle(&next).await.unwrap().success);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_settled_elsewhere_names_that_transaction() {
    let setting = Environment::new();
    let engine = setting.engine().await;
    let request = setting.request().await;
    setting.world.settle_elsewhere(World::transfer_of(&request));
    let answer = engine.settle(&request).await.unwrap();
    assert_eq!(
        answer.error_reason.as_deref(),
        Some(Reason::SETTLED_BY_OTHER_TRANSACTION.code())
    );
    assert!(!answer.transaction.is_empty());
    assert_eq!(setting.received(), Amount::from(PRICE));
}
