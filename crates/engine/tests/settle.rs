//! Settling on the simulated chain: one success for each authorization, and one answer for each
//! caller.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue panics")]

use futures_util::future::join_all;
use quittance_core::{
    Amount, Chain, Facilitator, FacilitatorError, FaultKind, LaneId, PaymentId, PaymentRequest,
    Reason,
};
use quittance_engine::{Engine, Outcome, State};
use quittance_testing::until;
use quittance_testing::world::{COIN, Environment, PRICE, USD, World};

fn id(setting: &Environment, request: &PaymentRequest) -> PaymentId {
    let authorization = World::transfer_of(request).authorization;
    authorization.id(setting.world.network())
}

fn amount(count: u64) -> Amount {
    Amount::from(count * PRICE)
}

async fn requests(setting: &Environment, count: usize) -> Vec<PaymentRequest> {
    let payer = setting.world.payer(0);
    join_all((0..count).map(|_| setting.world.request(&payer))).await
}

/// Settles in a task of its own.
fn settling(
    engine: &Engine,
    request: &PaymentRequest,
) -> tokio::task::JoinHandle<quittance_core::wire::SettleResponse> {
    let (engine, request) = (engine.clone(), request.clone());
    tokio::spawn(async move { engine.settle(&request).await.unwrap() })
}

async fn until_sent(setting: &Environment, engine: &Engine, request: &PaymentRequest) {
    let id = id(setting, request);
    until("the payment was sent", || async {
        let settlement = engine.settlement(&id).await.unwrap();
        settlement.is_some_and(|settlement| settlement.transaction().is_some())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_callers_one_gets_the_success() {
    let setting = Environment::new();
    let engine = setting.engine().await;
    let request = setting.request().await;
    let answers = join_all((0..100).map(|_| engine.settle(&request))).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    let successes = answers.iter().filter(|answer| answer.success).count();
    assert_eq!(successes, 1);
    let duplicates = answers.iter().filter(|answer| {
        answer.error_reason.as_deref() == Some(Reason::DUPLICATE_SETTLEMENT.code())
    });
    assert_eq!(duplicates.count(), 99);
    assert_eq!(setting.world.included_count(), 1);
    assert_eq!(setting.received(), amount(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_payments_share_few_transactions() {
    const COUNT: usize = 200;
    let setting = Environment::new();
    setting.world.includes_at_once(false);
    let engine = setting.engine().await;
    let requests = requests(&setting, COUNT).await;
    let answers: Vec<_> = requests.iter().map(|one| settling(&engine, one)).collect();
    for request in &requests {
        until_sent(&setting, &engine, request).await;
    }
    setting.world.includes_at_once(true);
    for answer in join_all(answers).await {
        let answer = answer.unwrap();
        assert!(answer.success, "{answer:?}");
    }
    assert_eq!(setting.received(), amount(COUNT as u64));
    assert!(setting.world.included_count() < COUNT / 2);
}

/// The payer's balance is enough for one of the two.
#[tokio::test(flavor = "multi_thread")]
async fn a_payer_with_money_for_one_payment_pays_one() {
    let setting = Environment::new();
    let engine = setting.engine().await;
    let payer = setting.world.payer(0).account();
    setting.world.set_balance(payer, USD, amount(1));
    let requests = requests(&setting, 2).await;
    let answers = join_all(requests.iter().map(|request| engine.settle(request))).await;
    let successes = answers.iter().flatten().filter(|answer| answer.success);
    assert_eq!(successes.count(), 1);
    assert_eq!(setting.received(), amount(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_without_effect_is_sent_one_by_one() {
    const COUNT: usize = 5;
    let setting = Environment::new();
    setting.world.includes_at_once(false);
    let engine = setting.engine().await;
    let requests = requests(&setting, COUNT).await;
    let answers: Vec<_> = requests.iter().map(|one| settling(&engine, one)).collect();
    for request in &requests {
        until_sent(&setting, &engine, request).await;
    }
    // Enough for all payments but one.
    let payer = setting.world.payer(0).account();
    setting
        .world
        .set_balance(payer, USD, amount(COUNT as u64 - 1));
    setting.world.includes_at_once(true);
    let answers: Vec<_> = join_all(answers)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let (paid, unpaid): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.success);
    assert_eq!((paid.len(), unpaid.len()), (COUNT - 1, 1), "{answers:?}");
    assert_eq!(setting.received(), amount(COUNT as u64 - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_waits_is_replaced() {
    let setting = Environment::new();
    setting.world.includes_at_once(false);
    let engine = setting.engine().await;
    let request = setting.request().await;
    let answer = settling(&engine, &request);
    until_sent(&setting, &engine, &request).await;
    until("there is a replacement", || async {
        let settlement = engine.settlement(&id(&setting, &request)).await.unwrap();
        settlement.unwrap().transactions.len() > 1
    })
    .await;
    assert_eq!(setting.world.waiting_count(), 1);
    setting.world.includes_at_once(true);
    assert!(answer.await.unwrap().success);
    assert_eq!(setting.received(), amount(1));
}

/// Another program with the signer's key takes the sequence number that the engine would use.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_settles_behind_a_rival_transaction() {
    let setting = Environment::new();
    setting.world.includes_at_once(false);
    let chain = setting.world.chain();
    for lane in chain.lanes() {
        setting.world.submit_rival(lane);
    }
    let engine = setting.engine().await;
    let request = setting.request().await;
    let answer = settling(&engine, &request);
    until_sent(&setting, &engine, &request).await;
    until(
        "both rivals and the payment wait or are replaced",
        || async { setting.world.waiting_count() >= 2 },
    )
    .await;
    setting.world.includes_at_once(true);
    let settled = match answer.await.unwrap() {
        answer if answer.is_pending() => engine.settle(&request).await.unwrap(),
        answer => answer,
    };
    assert!(settled.success, "{settled:?}");
    assert_eq!(setting.received(), amount(1));
}

/// The node was restarted and knows no transaction any more. Later payments must not wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_transaction_is_sent_again() {
    let setting = Environment::new();
    setting.world.includes_at_once(false);
    let engine = setting.engine().await;
    let request = setting.request().await;
    let answer = settling(&engine, &request);
    until_sent(&setting, &engine, &request).await;
    setting.world.forget_waiting();
    until("the transaction was sent again", || async {
        setting.world.waiting_count() == 1
    })
    .await;
    setting.world.includes_at_once(true);
    assert!(answer.await.unwrap().success);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_settled_once() {
    let setting = Environment::new();
    let engine = setting.engine().await;
    setting.world.lose_answers();
    let requests = requests(&setting, 3).await;
    for request in &requests {
        let answer = engine.settle(request).await.unwrap();
        assert!(answer.success, "{answer:?}");
    }
    assert_eq!(setting.received(), amount(3));
}

/// Certainly nothing was sent, so the caller may ask another facilitator, or this one again.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_transaction_releases_the_payment() {
    let setting = Environment::new();
    let engine = setting.engine().await;
    setting.world.refuse_transactions();
    let request = setting.request().await;
    match engine.settle(&request).await {
        Err(FacilitatorError::Fault(fault)) => {
            assert_eq!(fault.kind, FaultKind::ChainUnavailable);
        }
        other => panic!("not a fault: {other:?}"),
    }
    let settlement = engine.settlement(&id(&setting, &request)).await.unwrap();
    assert!(matches!(
        settlement.unwrap().state,
        State::Concluded(Outcome::Released { .. })
    ));
    setting.world.nodes_up();
    assert!(engine.settle(&request).await.unwrap().success);
    assert_eq!(setting.received(), amount(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_nodes_there_is_a_fault_and_no_verdict() {
    let setting = Environment::new();
    let engine = setting.engine().await;
    let request = setting.request().await;
    setting.world.nodes_down();
    for _ in 0..2 {
        assert!(matches!(
            engine.verify(&request).await,
            Err(FacilitatorError::Fault(fault)) if fault.kind == FaultKind::ChainUnavailable
        ));
        assert!(engine.settle(&request).await.is_err());
    }
    setting.world.nodes_up();
    assert!(engine.settle(&request).await.unwrap().success);
}

/// The engine looks at its signers when it starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_signer_without_coins_is_passed_over() {
    let setting = Environment::new();
    let lanes: Vec<LaneId> = setting.world.chain().lanes().to_vec();
    let poor = lanes[0].address().parse().unwrap();
    setting.world.set_balance(poor, COIN, Amount::ZERO);
    let engine = setting.engine().await;
    for request in requests(&setting, 4).await {
        let answer = engine.settle(&request).await.unwrap();
        assert!(answer.success, "{answer:?}");
    }
    assert_eq!(setting.received(), amount(4));
}
