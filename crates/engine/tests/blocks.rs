//! Payments that need more of the chain's blocks: an expiry that only the chain can tell, a number
//! of confirmations of their own, and transactions that are executed later.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue panics")]

use std::sync::Arc;
use std::time::Duration;

use quittance_core::json::Object;
use quittance_core::{Amount, Facilitator, PaymentRequest};
use quittance_engine::{Engine, Settlement, StateKind};
use quittance_testing::until;
use quittance_testing::world::{
    BLOCK_SECS, Environment, PRICE, SimulatedChain, SimulatedExact, TIMING, World, reason,
};

async fn engine(setting: &Environment, chain: SimulatedChain, exact: SimulatedExact) -> Engine {
    let builder = setting
        .builder()
        .await
        .settle_wait(Duration::from_millis(400));
    let builder = builder.chain(chain, vec![Arc::new(exact)]);
    builder.start().await.unwrap()
}

async fn settlement(
    setting: &Environment,
    engine: &Engine,
    request: &PaymentRequest,
) -> Settlement {
    let id = World::transfer_of(request)
        .authorization
        .id(setting.world.network());
    engine.settlement(&id).await.unwrap().unwrap()
}

async fn settles(engine: &Engine, request: &PaymentRequest) {
    let is_idle = || async { engine.in_progress() == 0 };
    until("nothing is in progress", is_idle).await;
    let answer = engine.settle(request).await.unwrap();
    assert!(answer.success, "{answer:?}");
}

async fn is_pending(engine: &Engine, request: &PaymentRequest) {
    let answer = engine.settle(request).await.unwrap();
    assert!(answer.is_pending(), "{answer:?}");
}

/// A payment that `blocks` more blocks can include.
async fn until_height(setting: &Environment, blocks: u64) -> PaymentRequest {
    let request = setting.request().await;
    let mut authorization = World::transfer_of(&request).authorization;
    authorization.expires = setting.world.height() + blocks;
    let transfer = setting.world.payer(0).sign(authorization);
    let payload = Object::of(&transfer).unwrap();
    request
        .completed(payload, request.requirements.amount)
        .unwrap()
}

async fn counting_heights(setting: &Environment) -> Engine {
    setting.world.count_heights();
    let exact = SimulatedExact::new(&setting.world.chain()).counting_heights();
    engine(setting, setting.world.chain(), exact).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_has_the_expiry_that_the_chain_tells() {
    let setting = Environment::new();
    let engine = counting_heights(&setting).await;
    let request = until_height(&setting, 5).await;
    settles(&engine, &request).await;
    let claim = settlement(&setting, &engine, &request).await.claim;
    assert_eq!(claim.expires, setting.world.now().plus_secs(5 * BLOCK_SECS));
    let late = until_height(&setting, 0).await;
    let verdict = engine.verify(&late).await.unwrap();
    assert_eq!(
        verdict.invalid_reason.as_deref(),
        Some(reason::EXPIRED.code())
    );
}

/// Blocks come more slowly than was assumed. The transaction is cancelled, and the payment is still
/// valid: the chain says so. It is sent again instead of being called expired.
#[tokio::test(flavor = "multi_thread")]
async fn an_estimate_that_was_too_early_fails_no_payment() {
    let setting = Environment::new();
    let engine = counting_heights(&setting).await;
    let request = until_height(&setting, 5).await;
    setting.world.includes_at_once(false);
    is_pending(&engine, &request).await;
    setting.world.clock().advance(10 * 5 * BLOCK_SECS);
    // Long enough for the transaction that only uses up the number.
    tokio::time::sleep(TIMING.resubmit_after * 5).await;
    setting.world.include();
    let has_two_numbers = || async {
        let settlement = settlement(&setting, &engine, &request).await;
        let mut numbers = settlement.transactions.iter();
        numbers.any(|signed| signed.transaction.sequence == 1)
    };
    until("it is sent with the next number", has_two_numbers).await;
    assert_eq!(setting.received(), Amount::ZERO);
    setting.world.includes_at_once(true);
    settles(&engine, &request).await;
    assert_eq!(setting.received(), Amount::from(PRICE));
}

/// The process dies, and the height passes meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_height_that_passes_over_a_crash_fails_the_payment() {
    let setting = Environment::new();
    let first = counting_heights(&setting).await;
    let request = until_height(&setting, 2).await;
    setting.world.includes_at_once(false);
    is_pending(&first, &request).await;
    first.shut_down(Duration::ZERO).await;
    drop(first);
    setting.world.forget_waiting();
    setting.world.include();
    setting.world.include();
    setting.world.includes_at_once(true);
    let second = counting_heights(&setting).await;
    let is_idle = || async { second.in_progress() == 0 };
    until("nothing is in progress", is_idle).await;
    let failed = settlement(&setting, &second, &request).await;
    assert_eq!(failed.state.kind(), StateKind::Failed);
    assert_eq!(setting.received(), Amount::ZERO);
}

const DEEP: u64 = 3;

async fn deep(setting: &Environment) -> Engine {
    let chain = setting.world.chain();
    let exact = SimulatedExact::new(&chain).with_confirmations(DEEP);
    engine(setting, chain, exact).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_waits_for_its_own_confirmations() {
    for crashes in [false, true] {
        let setting = Environment::new();
        let mut engine = deep(&setting).await;
        let request = setting.request().await;
        for _ in 1..DEEP {
            is_pending(&engine, &request).await;
            if crashes {
                engine.shut_down(Duration::ZERO).await;
                drop(engine);
                engine = deep(&setting).await;
            }
            setting.world.include();
        }
        settles(&engine, &request).await;
        let settled = settlement(&setting, &engine, &request).await;
        assert_eq!(settled.transactions.len(), 1, "{crashes}");
        assert_eq!(setting.received(), Amount::from(PRICE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_takes_confirmations_back() {
    let setting = Environment::new();
    let engine = deep(&setting).await;
    let request = setting.request().await;
    is_pending(&engine, &request).await;
    setting.world.include();
    setting.world.includes_at_once(false);
    setting.world.reorganize_and_forget(2);
    for _ in 0..DEEP {
        until("it waits or is included", || async {
            setting.world.waiting_count() + setting.world.included_count() == 1
        })
        .await;
        is_pending(&engine, &request).await;
        setting.world.include();
    }
    settles(&engine, &request).await;
    assert_eq!(setting.received(), Amount::from(PRICE));
}

const EXECUTING: u64 = 2;

async fn executing(setting: &Environment) -> Engine {
    let chain = setting.world.chain().executing_for(EXECUTING);
    let exact = SimulatedExact::new(&chain);
    engine(setting, chain, exact).await
}

/// A transaction in a block is neither sent again nor replaced, and it is no success yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_executes_is_waited_for() {
    for crashes in [false, true] {
        let setting = Environment::new();
        let mut engine = executing(&setting).await;
        let request = setting.request().await;
        for _ in 0..EXECUTING {
            // Longer than an engine waits with a replacement.
            is_pending(&engine, &request).await;
            if crashes {
                engine.shut_down(Duration::ZERO).await;
                drop(engine);
                engine = executing(&setting).await;
            }
            setting.world.include();
        }
        settles(&engine, &request).await;
        let settled = settlement(&setting, &engine, &request).await;
        assert_eq!(settled.transactions.len(), 1, "{crashes}");
        assert_eq!(setting.world.included_count(), 1);
        assert_eq!(setting.received(), Amount::from(PRICE));
    }
}

/// The block is taken back before its transaction was executed, and after it.
#[tokio::test(flavor = "multi_thread")]
async fn an_executing_transaction_that_was_undone_settles() {
    for is_executed in [false, true] {
        let setting = Environment::new();
        let engine = executing(&setting).await;
        let request = setting.request().await;
        is_pending(&engine, &request).await;
        if is_executed {
            setting.world.include();
            setting.world.include();
            settles(&engine, &request).await;
        }
        setting.world.reorganize_and_forget(3);
        assert_eq!(setting.received(), Amount::ZERO);
        until("it was paid again", || async {
            setting.received() == Amount::from(PRICE)
        })
        .await;
        setting.world.include();
        setting.world.include();
        until("it has settled", || async {
            let settled = settlement(&setting, &engine, &request).await;
            settled.state.kind() == StateKind::Settled && engine.in_progress() == 0
        })
        .await;
    }
}
