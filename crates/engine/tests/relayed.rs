//! Transactions that payers sign as a whole: the engine relays them and signs nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue panics")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use quittance_core::json::Object;
use quittance_core::{Amount, Facilitator, PaymentId, PaymentRequest, Reason};
use quittance_engine::{Engine, EngineBuilder, Settlement, StateKind};
use quittance_testing::until;
use quittance_testing::world::{
    Address, Environment, NETWORK, PRICE, SimulatedExact, SimulatedPayer, Transfer, USD, World,
    reason,
};

/// How long an authorization of these tests is valid, in seconds.
const VALID_SECS: u64 = 60;

fn with_chain(setting: &Environment, builder: EngineBuilder) -> EngineBuilder {
    let chain = setting.world.chain_without_signers();
    let exact = Arc::new(SimulatedExact::new(&chain));
    builder.chain(chain, vec![exact])
}

/// An engine without signers.
async fn engine(setting: &Environment) -> Engine {
    let builder = setting.builder().await.settle_wait(Duration::from_secs(1));
    with_chain(setting, builder).start().await.unwrap()
}

async fn request(setting: &Environment) -> PaymentRequest {
    let payer = setting.world.payer(0);
    setting.world.carried_request(&payer).await
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

async fn is_idle(engine: &Engine) {
    until("nothing is in progress", || async {
        engine.in_progress() == 0
    })
    .await;
}

async fn settles(engine: &Engine, request: &PaymentRequest) -> String {
    is_idle(engine).await;
    let answer = engine.settle(request).await.unwrap();
    assert!(answer.success, "{answer:?}");
    let again = engine.settle(request).await.unwrap();
    assert_eq!(
        again.error_reason.as_deref(),
        Some(Reason::DUPLICATE_SETTLEMENT.code())
    );
    answer.transaction
}

/// Asks for a payment that no block includes, and answers when it is pending.
async fn is_sent(setting: &Environment, engine: &Engine, request: &PaymentRequest) {
    setting.world.includes_at_once(false);
    let answer = engine.settle(request).await.unwrap();
    assert!(answer.is_pending(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_facilitator_without_signers_settles() {
    let setting = Environment::new();
    let engine = engine(&setting).await;
    let supported = engine.supported().await.unwrap();
    assert_eq!(supported.kinds.len(), 1);
    assert_eq!(supported.kinds[0].network, NETWORK);
    let request = request(&setting).await;
    assert!(engine.verify(&request).await.unwrap().is_valid);
    settles(&engine, &request).await;
    assert_eq!(setting.received(), Amount::from(PRICE));
    let settled = settlement(&setting, &engine, &request).await;
    let sent = &settled.transactions[0].transaction;
    assert_eq!(sent.lane.address(), settled.claim.payer);
    assert_eq!(settled.transactions.len(), 1);
}

/// No transaction waits for another one, not even of the same payer.
#[tokio::test(flavor = "multi_thread")]
async fn whole_transactions_are_in_flight_together() {
    const COUNT: usize = 40;
    let setting = Environment::new();
    setting.world.includes_at_once(false);
    let engine = engine(&setting).await;
    let requests = join_all((0..COUNT).map(|_| request(&setting))).await;
    let answers = join_all(requests.iter().map(|one| engine.settle(one)));
    let including = async {
        let all_wait = || async { setting.world.waiting_count() == COUNT };
        until("all were sent", all_wait).await;
        setting.world.include();
    };
    let (answers, ()) = tokio::join!(answers, including);
    for answer in answers {
        assert!(answer.unwrap().success);
    }
    assert_eq!(setting.received(), Amount::from(PRICE * COUNT as u64));
}

/// The process dies with the bytes in its journal. They are sent again, whatever the nodes know.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_transaction_survives_a_crash() {
    for node_remembers in [true, false] {
        let setting = Environment::new();
        let request = request(&setting).await;
        let first = engine(&setting).await;
        is_sent(&setting, &first, &request).await;
        let sent = settlement(&setting, &first, &request).await;
        first.shut_down(Duration::ZERO).await;
        drop(first);
        if !node_remembers {
            setting.world.forget_waiting();
        }
        setting.world.includes_at_once(true);
        let second = engine(&setting).await;
        let transaction = settles(&second, &request).await;
        assert_eq!(
            transaction,
            sent.transactions[0].transaction.id.as_str(),
            "{node_remembers}"
        );
        assert_eq!(setting.received(), Amount::from(PRICE));
    }
}

/// A node that restarts forgets what waits. No gap in a lane shows that here.
#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_whole_transaction_is_sent_again() {
    let setting = Environment::new();
    let (engine, request) = (engine(&setting).await, request(&setting).await);
    is_sent(&setting, &engine, &request).await;
    setting.world.forget_waiting();
    setting.world.includes_at_once(true);
    settles(&engine, &request).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganised_whole_transaction_settles_again() {
    let setting = Environment::new();
    let engine = engine(&setting).await;
    let request = request(&setting).await;
    let transaction = settles(&engine, &request).await;
    setting.world.reorganize_and_forget(1);
    assert_eq!(setting.received(), Amount::ZERO);
    until("it was paid again", || async {
        setting.received() == Amount::from(PRICE)
    })
    .await;
    is_idle(&engine).await;
    let settled = settlement(&setting, &engine, &request).await;
    assert_eq!(settled.state.kind(), StateKind::Settled);
    assert_eq!(settled.evidence().unwrap().as_str(), transaction);
    assert_eq!(settled.transactions.len(), 1);
}

/// The chain says that no block can include it any more, and the payment is judged again.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_whole_transaction_ends_its_payment() {
    let setting = Environment::new();
    let (engine, request) = (engine(&setting).await, request(&setting).await);
    setting.world.lose_transactions();
    is_sent(&setting, &engine, &request).await;
    setting.world.clock().advance(VALID_SECS);
    setting.world.include();
    is_idle(&engine).await;
    let failed = settlement(&setting, &engine, &request).await;
    assert_eq!(failed.state.kind(), StateKind::Failed);
    let answer = engine.settle(&request).await.unwrap();
    let given = answer.error_reason.as_deref();
    assert_eq!(given, Some(reason::EXPIRED.code()), "{answer:?}");
    assert_eq!(setting.received(), Amount::ZERO);
}

/// The payer's transaction has no end, and its authorization has one. Otherwise a payer could keep
/// any number of settlements open for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_pending_whole_transaction_ends_with_its_payment() {
    let setting = Environment::new();
    let payer = setting.world.payer(0);
    let engine = engine(&setting).await;
    let plain = setting.world.request(&payer).await;
    let transfer = World::transfer_of(&plain);
    let request = with_payload(&plain, &setting.world.carried(transfer, &payer, None));
    is_sent(&setting, &engine, &request).await;
    setting.world.clock().advance(VALID_SECS);
    is_idle(&engine).await;
    let failed = settlement(&setting, &engine, &request).await;
    assert_eq!(failed.state.kind(), StateKind::Failed);
    // The chain keeps to the authorization's expiry.
    setting.world.include();
    assert_eq!(setting.received(), Amount::ZERO);
}

/// The same bytes cannot be included twice, so a second attempt ends, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_transaction_without_effect_is_not_repeated() {
    let setting = Environment::new();
    let (engine, request) = (engine(&setting).await, request(&setting).await);
    is_sent(&setting, &engine, &request).await;
    let payer = setting.world.payer(0).account();
    let funds = setting.world.balance(&payer, USD);
    setting.world.set_balance(payer, USD, Amount::ZERO);
    setting.world.includes_at_once(true);
    is_idle(&engine).await;
    setting.world.set_balance(payer, USD, funds);
    for _ in 0..2 {
        let answer = engine.settle(&request).await.unwrap();
        assert!(!answer.success && !answer.is_pending(), "{answer:?}");
        is_idle(&engine).await;
    }
    let failed = settlement(&setting, &engine, &request).await;
    assert_eq!(failed.state.kind(), StateKind::Failed);
    assert_eq!(failed.transactions.len(), 1);
    assert_eq!(setting.world.included_count(), 1);
    assert_eq!(setting.received(), Amount::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_whole_transaction_can_be_sent_later() {
    let setting = Environment::new();
    let (engine, request) = (engine(&setting).await, request(&setting).await);
    setting.world.refuse_transactions();
    assert!(engine.settle(&request).await.is_err());
    let released = settlement(&setting, &engine, &request).await;
    assert_eq!(released.state.kind(), StateKind::Released);
    setting.world.nodes_up();
    settles(&engine, &request).await;
    assert_eq!(setting.received(), Amount::from(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_leaves_a_whole_transaction_watched() {
    let setting = Environment::new();
    let (engine, request) = (engine(&setting).await, request(&setting).await);
    setting.world.lose_answers();
    settles(&engine, &request).await;
    assert_eq!(setting.received(), Amount::from(PRICE));
}

/// A chain with signers relays, too. Its lane does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_with_signers_relays_as_well() {
    let setting = Environment::new();
    let engine = setting.engine().await;
    let (own, carried) = (setting.request().await, request(&setting).await);
    let signers = World::signer_keys().map(|key| Address::from_key(&key).to_string());
    for request in [&own, &carried, &setting.request().await] {
        settles(&engine, request).await;
        let settled = settlement(&setting, &engine, request).await;
        let sender = settled.transactions[0].transaction.lane.address();
        let is_own = signers.iter().any(|signer| signer == sender);
        assert_eq!(is_own, request.payload != carried.payload);
    }
    assert_eq!(setting.received(), Amount::from(3 * PRICE));
}

/// A transaction of one of our own signers is public once it is sent. As a payment it would be
/// followed outside its lane.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_transaction_of_an_own_signer_is_rejected() {
    let setting = Environment::new();
    let chain = setting.world.chain();
    // This scheme does not know the signers.
    let exact = SimulatedExact::new(&setting.world.chain_without_signers());
    let builder = setting.builder().await.chain(chain, vec![Arc::new(exact)]);
    let engine = builder.start().await.unwrap();
    let signer = World::signer_keys()[0].clone();
    let signer = SimulatedPayer::new(setting.world.clone(), signer);
    setting
        .world
        .set_balance(signer.account(), USD, Amount::from(PRICE));
    let request = setting.world.carried_request(&signer).await;
    let answer = engine.settle(&request).await.unwrap();
    let given = answer.error_reason.as_deref();
    assert_eq!(given, Some(Reason::INVALID_PAYLOAD.code()), "{answer:?}");
    assert_eq!(setting.world.included_count(), 0);
}

/// The same terms with this payload.
fn with_payload(request: &PaymentRequest, transfer: &Transfer) -> PaymentRequest {
    let payload = Object::of(transfer).unwrap();
    request
        .completed(payload, request.requirements.amount)
        .unwrap()
}
