//! Money on Solana: what is on the cluster after a settlement, and what happens when nodes lose
//! transactions and processes die.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::Router;
use axum::routing::get;
use futures_util::future::join_all;
use quittance_buyer::{BuyError, Buyer};
use quittance_core::json::Object;
use quittance_core::wire::{
    PaymentRequired, PaymentRequirements, SettleResponse, SupportedKind, header, v1,
};
use quittance_core::{
    Amount, Chain, Clock, Facilitator, FacilitatorError, FaultKind, Network, Offer, OfferError,
    PaymentRequest, Reason, Scheme, Scope, SystemClock,
};
use quittance_devnet::{SOLANA_TOKEN_2022, SOLANA_USDC};
use quittance_engine::{Engine, Event};
use quittance_seller::PaymentLayer;
use quittance_solana::{
    Blockhashes, Commitment, ExactOffer, ExactPayer, Extension, Keypair, Pubkey, Solana,
    TokenProgram, reason,
};
use quittance_tests::engine::HASTY;
use quittance_tests::engine::settled;
use quittance_tests::proxy::Fate;
use quittance_tests::solana::{PRICE, SLOT, Setting};
use quittance_tests::until;
use serde_json::{Value, json};
use solana_signature::Signature;
use solana_signer::{Signer, SignerError};
use tokio::net::TcpListener;

/// More blocks than a blockhash's lifetime, the allowed distance between nodes, and finality
/// together.
const LIFETIMES: u64 = 400;

async fn hasty(setting: &Setting) -> Engine {
    setting
        .engine_with(setting.config(), |builder| {
            builder.timing(HASTY).settle_wait(Duration::from_secs(3))
        })
        .await
}

fn amount(count: u64) -> Amount {
    Amount::from(count * PRICE)
}

fn id(setting: &Setting, request: &PaymentRequest) -> quittance_core::PaymentId {
    let payment = setting.scheme().decode(request, SystemClock.now());
    payment.unwrap().info().id
}

/// The cluster's own report of a transaction.
async fn on_the_cluster(setting: &Setting, id: &str) -> Value {
    let options = json!({ "encoding": "base64", "maxSupportedTransactionVersion": 0 });
    let found: Value = setting
        .local
        .rpc("getTransaction", json!([id, options]))
        .await
        .unwrap();
    found
}

async fn lamports(setting: &Setting, account: usize) -> u64 {
    let address = Setting::account(account).address;
    let balance = setting.local.client().get_balance(&address).await;
    balance.unwrap()
}

/// The fee payer in a payment's requirements.
fn fee_payer(request: &PaymentRequest) -> String {
    let extra = request.requirements.extra.as_ref().unwrap().tree();
    extra["feePayer"].as_str().unwrap().to_owned()
}

/// A settlement seen from outside: the reported transaction exists and succeeded, the money went
/// from the buyer to the seller only, and the fee payer paid the fee.
async fn settlement_is_on_the_cluster(program: TokenProgram) {
    let setting = Setting::start(program, Some(SLOT)).await;
    let engine = setting.engine(Duration::from_secs(10)).await;
    let request = setting.request().await;
    let find_transfer = (0..2)
        .find(|at| Setting::account(*at).address.to_string() == fee_payer(&request))
        .unwrap();
    let (fee_before, buyer_before) = (
        lamports(&setting, find_transfer).await,
        lamports(&setting, 3).await,
    );
    let answer = settled(&engine, &request).await;
    assert_eq!(
        answer.payer,
        Some(Setting::account(3).address.to_string()),
        "{answer:?}"
    );
    assert_eq!(answer.amount, Some(PRICE.to_string()));
    let found = on_the_cluster(&setting, &answer.transaction).await;
    assert_eq!(found["meta"]["err"], Value::Null, "{found}");
    assert_eq!(setting.received().await, amount(1));
    let id = program.id();
    let buyer = Setting::account(3).address;
    let left = setting.local.balance(&buyer, &setting.token.mint, &id);
    assert_eq!(left.await.unwrap(), 1_000_000_000_000 - PRICE);
    for fee_payer in [0, 1] {
        let owner = Setting::account(fee_payer).address;
        let own = setting.local.balance(&owner, &setting.token.mint, &id);
        assert_eq!(own.await.unwrap(), 1_000_000_000_000);
    }
    assert!(lamports(&setting, find_transfer).await < fee_before);
    assert_eq!(lamports(&setting, 3).await, buyer_before);
}

#[tokio::test(flavor = "multi_thread")]
async fn spl_token_settlement_is_on_the_cluster() {
    settlement_is_on_the_cluster(TokenProgram::SplToken).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_2022_settlement_is_on_the_cluster() {
    settlement_is_on_the_cluster(TokenProgram::Token2022).await;
}

/// attacks.md 131 and 151: the node took the transaction, its answer was lost, the process died,
/// and the money moved meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn crash_between_broadcast_and_answer_settles_once_on_solana() {
    let setting = Setting::start(TokenProgram::SplToken, Some(SLOT)).await;
    let engine = hasty(&setting).await;
    let request = setting.request().await;
    setting
        .node
        .breaks_for_good("sendTransaction", Fate::AnswerLost);
    let asking = tokio::spawn({
        let (engine, request) = (engine.clone(), request.clone());
        async move { engine.settle(&request).await }
    });
    until("the node has it", || async {
        setting.node.calls("sendTransaction") > 0
    })
    .await;
    asking.abort();
    engine.shut_down(Duration::ZERO).await;
    drop(engine);
    until("it is included", || async {
        setting.received().await == amount(1)
    })
    .await;

    setting.node.mend();
    let engine = hasty(&setting).await;
    until("it is resumed", || async { engine.in_progress() == 0 }).await;
    let answer = settled(&engine, &request).await;
    let found = on_the_cluster(&setting, &answer.transaction).await;
    assert_eq!(found["meta"]["err"], Value::Null);
    let again = engine.settle(&request).await.unwrap();
    assert_eq!(
        (again.success, again.transaction),
        (false, answer.transaction)
    );
    assert_eq!(setting.received().await, amount(1));
}

/// attacks.md 104, 149 and 150: a node accepts a transaction and forwards it to no other node. It
/// is never reported as settled. Once its blockhash has expired, the failure is reported and the
/// bytes have no value.
#[tokio::test(flavor = "multi_thread")]
async fn payment_with_a_dead_blockhash_can_be_paid_again() {
    let setting = Setting::start(TokenProgram::SplToken, None).await;
    let engine = hasty(&setting).await;
    let request = setting.request().await;
    setting
        .node
        .breaks_for_good("sendTransaction", Fate::Result(json!("taken")));
    let pending = engine.settle(&request).await.unwrap();
    assert!(pending.is_pending(), "{pending:?}");
    assert!(!pending.transaction.is_empty());
    // Old enough to have expired if nodes were never apart, but not yet certain.
    setting.local.mine(200).await.unwrap();
    let pending = engine.settle(&request).await.unwrap();
    assert!(pending.is_pending(), "{pending:?}");

    setting.local.mine(LIFETIMES).await.unwrap();
    until("it is decided", || async { engine.in_progress() == 0 }).await;
    let failed = engine.settle(&request).await.unwrap();
    assert!(!failed.success && !failed.is_pending(), "{failed:?}");
    assert_eq!(
        failed.error_reason.as_deref(),
        Some(reason::SIMULATION_FAILED.code())
    );
    let settlement = engine.settlement(&id(&setting, &request)).await.unwrap();
    let bytes = settlement
        .unwrap()
        .transactions
        .pop()
        .unwrap()
        .transaction
        .bytes;

    setting.node.mend();
    setting.send(&bytes).await;
    setting.local.mine(3).await.unwrap();
    assert_eq!(setting.received().await, Amount::ZERO);

    setting.local.set_slot_time(Some(SLOT)).await.unwrap();
    let anew = setting.request().await;
    settled(&engine, &anew).await;
    assert_eq!(setting.received().await, amount(1));
}

/// Regression: a rejected payment was signed again with the same bytes at another sequence number.
/// The journal stored its old number, which another payment had by then. After a restart both had
/// one number, and one transaction was reported as the success of both.
#[tokio::test(flavor = "multi_thread")]
async fn payments_never_share_a_transaction_after_a_restart() {
    let setting = Setting::start(TokenProgram::SplToken, None).await;
    let [x, y] = setting.requests(2).await.try_into().unwrap();
    let restarted = async |engine: Engine| {
        engine.shut_down(Duration::ZERO).await;
        drop(engine);
        hasty(&setting).await
    };
    let engine = hasty(&setting).await;
    let refusal = Fate::Error(-32602, "invalid params");
    setting.node.breaks("sendTransaction", refusal, 1);
    assert!(engine.settle(&x).await.is_err());
    let engine = restarted(engine).await;
    // From here on the node accepts transactions and forwards none.
    let taken = Fate::Result(json!("taken"));
    setting.node.breaks_for_good("sendTransaction", taken);
    for request in [&y, &x] {
        let answer = engine.settle(request).await.unwrap();
        assert!(answer.is_pending(), "{answer:?}");
    }
    let known = engine.settlement(&id(&setting, &x)).await.unwrap().unwrap();
    let bytes = known.transaction().unwrap().bytes.clone();
    let engine = restarted(engine).await;
    setting.send(&bytes).await;
    setting.local.mine(3).await.unwrap();
    let first = settled(&engine, &x).await;
    let pending = engine.settle(&y).await.unwrap();
    assert!(pending.is_pending(), "its money has not moved: {pending:?}");
    assert_eq!(setting.received().await, amount(1));
    setting.node.mend();
    setting.local.set_slot_time(Some(SLOT)).await.unwrap();
    let second = settled(&engine, &y).await;
    assert_ne!(first.transaction, second.transaction);
    assert_eq!(setting.received().await, amount(2));
}

/// A confirmed fork is dropped: the cluster loses a payment whose success was reported. It is sent
/// again, settles again and is not reported twice. Once it is final, it is not watched any more.
#[tokio::test(flavor = "multi_thread")]
async fn settled_payment_lost_by_the_cluster_is_sent_again() {
    let setting = Setting::start(TokenProgram::SplToken, None).await;
    let engine = hasty(&setting).await;
    let request = setting.request().await;
    let id = id(&setting, &request);
    let mut events = engine.events();
    let asking = tokio::spawn({
        let (engine, request) = (engine.clone(), request.clone());
        async move { engine.settle(&request).await.unwrap() }
    });
    until("the node has it", || async {
        setting.node.calls("sendTransaction") > 0
    })
    .await;
    setting.local.mine(3).await.unwrap();
    let first = asking.await.unwrap();
    assert!(first.success, "{first:?}");
    let sent = setting.node.calls("sendTransaction");
    setting
        .node
        .rewrites("getSignatureStatuses", |params, mut result| {
            let count = params[0].as_array().map_or(0, Vec::len);
            result["value"] = json!(vec![Value::Null; count]);
            result
        });
    until("it is sent again", || async {
        setting.node.calls("sendTransaction") > sent
    })
    .await;
    let undone = events.recv().await.unwrap();
    assert!(matches!(undone, Event::Undone { settlement, .. } if settlement == id));
    let again = engine.settle(&request).await.unwrap();
    assert_eq!(
        again.error_reason.as_deref(),
        Some(Reason::DUPLICATE_SETTLEMENT.code())
    );
    setting.node.mend();
    let restored = events.recv().await.unwrap();
    assert!(matches!(restored, Event::Restored { settlement, .. } if settlement == id));
    let known = async || engine.settlement(&id).await.unwrap().unwrap();
    assert_eq!(known().await.final_at, None);
    setting.local.mine(60).await.unwrap();
    until("it is final", || async { known().await.final_at.is_some() }).await;
    assert_eq!(setting.received().await, amount(1));
}

/// attacks.md 131: the same bytes are sent until a node has them.
#[tokio::test(flavor = "multi_thread")]
async fn transaction_that_the_node_forgot_is_sent_again() {
    let setting = Setting::start(TokenProgram::SplToken, Some(SLOT)).await;
    let engine = hasty(&setting).await;
    setting
        .node
        .breaks("sendTransaction", Fate::Result(json!("taken")), 2);
    settled(&engine, &setting.request().await).await;
    assert!(setting.node.calls("sendTransaction") >= 3);
    assert_eq!(setting.received().await, amount(1));
}

/// Two payments of a new buyer that has money for this many.
async fn two_payments(setting: &Setting, covered: u64) -> (Pubkey, [PaymentRequest; 2]) {
    let buyer = Keypair::new();
    let (owner, token) = (buyer.pubkey(), &setting.token);
    let funded = setting
        .local
        .put_tokens(owner, token.mint, token.program.id(), covered * PRICE);
    funded.await.unwrap();
    let payer = ExactPayer::new(buyer)
        .with_token(Setting::network().id(), token.clone())
        .with_rpc(&Setting::network(), &[setting.local.url().parse().unwrap()])
        .unwrap();
    let one = quittance_tests::pay(&payer, &setting.requirements()).await;
    let other = quittance_tests::pay(&payer, &setting.requirements()).await;
    (owner, [one, other])
}

/// Regression: of two payments with money for one, the second was included and failed. Its
/// rejection said that it had been included before, which its second simulation reported.
#[tokio::test(flavor = "multi_thread")]
async fn failed_transaction_is_reported_with_its_id() {
    let setting = Setting::start(TokenProgram::SplToken, None).await;
    let engine = setting.engine(Duration::from_secs(10)).await;
    let (owner, [one, other]) = two_payments(&setting, 2).await;
    let both = tokio::spawn({
        let engine = engine.clone();
        async move { tokio::join!(engine.settle(&one), engine.settle(&other)) }
    });
    until("both are out", || async {
        setting.node.calls("sendTransaction") >= 2
    })
    .await;
    // Meanwhile the buyer spends half of its money elsewhere.
    let token = &setting.token;
    let spent = setting
        .local
        .put_tokens(owner, token.mint, token.program.id(), PRICE);
    spent.await.unwrap();
    setting.local.set_slot_time(Some(SLOT)).await.unwrap();
    let (one, other) = both.await.unwrap();
    let mut answers = [one.unwrap(), other.unwrap()];
    answers.sort_by_key(|answer| answer.success);
    let [failed, settled] = answers;
    assert!(settled.success, "{settled:?}");
    let code = failed.error_reason.as_deref();
    assert_eq!(code, Some(reason::TRANSACTION_FAILED.code()), "{failed:?}");
    assert_ne!(failed.transaction, "");
    assert_eq!(setting.received().await, amount(1));
}

/// Two payments with money for one: the second is not sent while the first is in flight, and costs
/// no fee.
#[tokio::test(flavor = "multi_thread")]
async fn open_payments_cannot_exceed_the_balance() {
    let setting = Setting::start(TokenProgram::SplToken, None).await;
    let engine = setting.engine(Duration::from_secs(10)).await;
    let (_, [one, other]) = two_payments(&setting, 1).await;
    let first = tokio::spawn({
        let engine = engine.clone();
        async move { engine.settle(&one).await }
    });
    until("the first is out", || async {
        setting.node.calls("sendTransaction") >= 1
    })
    .await;
    let Err(FacilitatorError::Fault(fault)) = engine.settle(&other).await else {
        panic!("two payments with money for one")
    };
    assert!(
        fault.kind == FaultKind::Busy && fault.not_attempted,
        "{fault}"
    );
    assert!(
        engine.verify(&other).await.is_err(),
        "the second payment is not valid either"
    );
    setting.local.set_slot_time(Some(SLOT)).await.unwrap();
    assert!(first.await.unwrap().unwrap().success);
    // Now the cluster reports the lower balance.
    let answer = engine.settle(&other).await.unwrap();
    assert!(
        !answer.success && answer.transaction.is_empty(),
        "{answer:?}"
    );
}

/// Regression: a chain without replacements was asked for one at every look, and the bytes were
/// sent again each time.
#[tokio::test(flavor = "multi_thread")]
async fn resubmission_keeps_to_the_configured_interval() {
    let setting = Setting::start(TokenProgram::SplToken, None).await;
    let timing = HASTY
        .with_look_every(Duration::from_millis(20))
        .with_resubmit_after(Duration::from_millis(500))
        .with_replace_after(Duration::from_millis(100));
    let engine = setting
        .engine_with(setting.config(), |builder| {
            builder.timing(timing).settle_wait(Duration::from_secs(2))
        })
        .await;
    let request = setting.request().await;
    let answer = engine.settle(&request).await.unwrap();
    assert!(answer.is_pending(), "{answer:?}");
    // At once, after a tenth of a second without a replacement, and then every half second.
    let sent = setting.node.calls("sendTransaction");
    assert!((3..=6).contains(&sent), "{sent} times");
}

/// Regression: with sixteen at a time, one after the other, a fee payer settled forty payments a
/// second.
#[tokio::test(flavor = "multi_thread")]
async fn payments_in_flight_of_a_fee_payer_are_bounded() {
    let setting = Setting::start(TokenProgram::SplToken, None).await;
    let most = Solana::new(setting.config()).unwrap().in_flight_max();
    let timing = HASTY
        .with_resubmit_after(Duration::from_secs(60))
        .with_replace_after(Duration::from_secs(60));
    let engine = setting
        .engine_with(setting.config(), |builder| builder.timing(timing))
        .await;
    let requests = setting.requests(most + 20).await;
    assert!(
        requests
            .iter()
            .all(|it| fee_payer(it) == fee_payer(&requests[0]))
    );
    let count = requests.len() as u64;
    let settling = tokio::spawn({
        let engine = engine.clone();
        async move { join_all(requests.iter().map(|request| engine.settle(request))).await }
    });
    until("all there is room for are out", || async {
        setting.node.calls("sendTransaction") >= most
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(setting.node.calls("sendTransaction"), most);
    assert_eq!(setting.received().await, Amount::ZERO);
    setting.local.set_slot_time(Some(SLOT)).await.unwrap();
    for answer in settling.await.unwrap() {
        assert!(
            answer.as_ref().is_ok_and(|answer| answer.success),
            "{answer:?}"
        );
    }
    assert_eq!(setting.node.calls("sendTransaction"), most + 20);
    assert_eq!(setting.received().await, amount(count));
}

/// Submissions that run at the same time keep their results apart.
#[tokio::test(flavor = "multi_thread")]
async fn refused_submission_affects_only_its_payment() {
    let setting = Setting::start(TokenProgram::SplToken, Some(SLOT)).await;
    let engine = hasty(&setting).await;
    let requests = setting.requests(20).await;
    let refusal = Fate::Error(-32602, "invalid params");
    setting.node.breaks("sendTransaction", refusal, 1);
    let answers = join_all(requests.iter().map(|request| engine.settle(request))).await;
    let (settled, refused): (Vec<_>, Vec<_>) = requests
        .iter()
        .zip(answers)
        .partition(|(_, answer)| answer.as_ref().is_ok_and(|answer| answer.success));
    assert_eq!(settled.len(), 19);
    let [(refused, answer)] = refused.as_slice() else {
        panic!("{refused:?}")
    };
    assert!(
        matches!(answer, Err(FacilitatorError::Fault(_))),
        "{answer:?}"
    );
    let known = engine.settlement(&id(&setting, refused)).await.unwrap();
    assert_eq!(known.unwrap().transactions, vec![]);
    self::settled(&engine, refused).await;
    assert_eq!(setting.received().await, amount(20));
}

/// A signer panics once: recovery resumes the payment from the journal, and no other payment waits.
#[tokio::test(flavor = "multi_thread")]
async fn panicking_signer_loses_no_payment() {
    let setting = Setting::start(TokenProgram::SplToken, Some(SLOT)).await;
    let mut config = setting.config();
    config.fee_payers[0] = Arc::new(PanicsOnce {
        key: Setting::account(0).keypair,
        panics: AtomicBool::new(true),
    });
    let engine = setting
        .engine_with(config, |builder| builder.timing(HASTY))
        .await;
    let requests = setting.requests(20).await;
    let answers = join_all(requests.iter().map(|request| engine.settle(request))).await;
    let good = |answer: &&Result<SettleResponse, _>| matches!(answer, Ok(answer) if answer.success);
    assert!(answers.iter().filter(good).count() >= 19, "{answers:?}");
    until("all are settled", || async {
        setting.received().await == amount(20)
    })
    .await;
}

/// A signer that panics.
struct PanicsOnce {
    key: Keypair,
    panics: AtomicBool,
}

impl Signer for PanicsOnce {
    fn try_pubkey(&self) -> Result<Pubkey, SignerError> {
        self.key.try_pubkey()
    }

    fn try_sign_message(&self, message: &[u8]) -> Result<Signature, SignerError> {
        assert!(!self.panics.swap(false, Ordering::SeqCst), "a mistake");
        self.key.try_sign_message(message)
    }

    fn is_interactive(&self) -> bool {
        false
    }
}

/// attacks.md 104: the operator sets the required commitment.
#[tokio::test(flavor = "multi_thread")]
async fn finalized_commitment_waits_beyond_confirmed() {
    let setting = Setting::start(TokenProgram::SplToken, None).await;
    let mut config = setting.config();
    config.commitment = Commitment::Finalized;
    let engine = setting
        .engine_with(config, |builder| {
            builder.timing(HASTY).settle_wait(Duration::from_secs(2))
        })
        .await;
    let request = setting.request().await;
    let pending = engine.settle(&request).await.unwrap();
    assert!(pending.is_pending(), "{pending:?}");
    setting.local.mine(20).await.unwrap();
    assert_eq!(setting.received().await, amount(1));
    let pending = engine.settle(&request).await.unwrap();
    assert!(pending.is_pending(), "{pending:?}");
    setting.local.mine(20).await.unwrap();
    let answer = settled(&engine, &request).await;
    assert_eq!(answer.transaction, pending.transaction);
}

/// attacks.md 105: an unfunded fee payer is a fault of the facilitator, and buyers get the other
/// one.
#[tokio::test(flavor = "multi_thread")]
async fn unfunded_fee_payer_is_a_fault_and_is_skipped() {
    let setting = Setting::start(TokenProgram::SplToken, Some(SLOT)).await;
    let unfunded = Setting::account(0).address;
    let of_the_unfunded = loop {
        let request = setting.request().await;
        if fee_payer(&request) == unfunded.to_string() {
            break request;
        }
    };
    setting.local.put_lamports(unfunded, 900_000).await.unwrap();
    let engine = setting.engine(Duration::from_secs(5)).await;
    for _ in 0..4 {
        let kinds = engine.supported().await.unwrap().kinds;
        let named: Vec<String> = kinds
            .into_iter()
            .map(|kind| kind.extra.unwrap().tree()["feePayer"].to_string())
            .collect();
        assert!(!named.is_empty());
        assert!(
            !named
                .iter()
                .any(|named| named.contains(&unfunded.to_string()))
        );
    }
    match engine.settle(&of_the_unfunded).await {
        Err(FacilitatorError::Fault(fault)) => assert_eq!(fault.kind, FaultKind::FacilitatorFunds),
        other => panic!("not a fault: {other:?}"),
    }
    assert_eq!(setting.received().await, Amount::ZERO);
}

/// attacks.md 137 and 144: a node's fault is never reported as the payer's.
#[tokio::test(flavor = "multi_thread")]
async fn failing_solana_node_is_a_fault_and_never_a_verdict() {
    let setting = Setting::start(TokenProgram::SplToken, Some(SLOT)).await;
    let engine = setting.engine(Duration::from_secs(5)).await;
    let fates = [
        Fate::Status(503),
        Fate::Status(429),
        Fate::Text("<html>no</html>"),
        Fate::Text("{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{}}"),
        Fate::Result(Value::Null),
        Fate::Result(json!({ "context": { "slot": 1 }, "value": [null, null] })),
        Fate::Error(-32603, "Internal error"),
        Fate::Error(-32005, "Node is behind by 42 slots"),
        Fate::Error(-32016, "Minimum context slot has not been reached"),
        Fate::Hangs,
    ];
    for fate in fates {
        let request = setting.request().await;
        for method in ["simulateTransaction", "getMultipleAccounts"] {
            setting.node.breaks_for_good(method, fate.clone());
            let verdict = engine.verify(&request).await;
            assert!(
                matches!(verdict, Err(FacilitatorError::Fault(_))),
                "{method}: {verdict:?}"
            );
            setting.node.mend();
        }
    }
    assert_eq!(setting.received().await, Amount::ZERO);
    until("the node is asked again", || async {
        let request = setting.request().await;
        engine
            .verify(&request)
            .await
            .is_ok_and(|verdict| verdict.is_valid)
    })
    .await;
}

/// attacks.md 137: a node of another cluster gets no requests.
#[tokio::test(flavor = "multi_thread")]
async fn node_of_another_cluster_is_not_used() {
    let setting = Setting::start(TokenProgram::SplToken, Some(SLOT)).await;
    let mainnet = json!("5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d");
    setting
        .node
        .breaks_for_good("getGenesisHash", Fate::Result(mainnet));
    let engine = setting.engine(Duration::from_secs(5)).await;
    let answer = engine.settle(&setting.request().await).await;
    assert!(
        matches!(answer, Err(FacilitatorError::Fault(_))),
        "{answer:?}"
    );
    for method in [
        "simulateTransaction",
        "sendTransaction",
        "getMultipleAccounts",
    ] {
        assert_eq!(setting.node.calls(method), 0, "{method}");
    }
}

/// An extension in a mint's data: its number, its length, its bytes.
fn extension(number: u16, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_le_bytes();
    [number.to_le_bytes().as_slice(), &length, body].concat()
}

/// attacks.md 97: the mint is read from the cluster and may change between two payments.
#[tokio::test(flavor = "multi_thread")]
async fn mint_that_can_break_a_payment_must_be_allowed() {
    const TRANSFER_FEE: u16 = 1;
    const PERMANENT_DELEGATE: u16 = 12;
    let setting = Setting::start(TokenProgram::Token2022, Some(SLOT)).await;
    let mint = SOLANA_TOKEN_2022;
    let with = |extensions: Vec<u8>| {
        let local = &setting.local;
        async move {
            let program = TokenProgram::Token2022.id();
            local.put_mint(mint, program, 6, &extensions).await.unwrap();
        }
    };
    let mut trusting = setting.config();
    trusting.tokens[0].allowed =
        [Extension::PermanentDelegate, Extension::TransferFeeConfig].into();
    let strict = setting.engine(Duration::from_secs(5)).await;
    let reason_of = |engine: Engine| {
        let setting = &setting;
        async move {
            let request = setting.request().await;
            engine.verify(&request).await.unwrap().invalid_reason
        }
    };
    assert_eq!(reason_of(strict.clone()).await, None);
    with(extension(PERMANENT_DELEGATE, &[7; 32])).await;
    let refused = Some(reason::MINT_NOT_ALLOWED.to_string());
    assert_eq!(reason_of(strict.clone()).await, refused);
    // The health check reports it too.
    strict.shut_down(Duration::from_secs(1)).await;
    drop(strict);
    let strict = setting.engine(Duration::from_secs(5)).await;
    let problems = strict.health().remove(0).1.problems;
    assert!(
        problems
            .iter()
            .any(|problem| problem.scope == Scope::Asset(mint.to_string())),
        "{problems:?}"
    );
    strict.shut_down(Duration::from_secs(1)).await;
    drop(strict);

    let trusting = setting.engine_with(trusting, |builder| builder).await;
    settled(&trusting, &setting.request().await).await;
    let mut fee = vec![0; 108];
    with(extension(TRANSFER_FEE, &fee)).await;
    assert_eq!(reason_of(trusting.clone()).await, None);
    // The newer fee: at most one unit, one basis point.
    (fee[98], fee[106]) = (1, 1);
    with(extension(TRANSFER_FEE, &fee)).await;
    assert_eq!(reason_of(trusting.clone()).await, refused);
    assert_eq!(setting.received().await, amount(1));
}

/// attacks.md 95: SPL Token lets an owner transfer the ownership of its associated account.
#[tokio::test(flavor = "multi_thread")]
async fn payment_into_an_account_given_away_is_rejected() {
    let setting = Setting::start(TokenProgram::SplToken, Some(SLOT)).await;
    let engine = setting.engine(Duration::from_secs(5)).await;
    let seller = Setting::account(2).address;
    let request = setting.request().await;
    give_away(&setting, seller, Setting::account(9).address).await;
    let verdict = engine.verify(&request).await.unwrap();
    assert_eq!(
        verdict.invalid_reason.as_deref(),
        Some(reason::RECIPIENT_MISMATCH.code())
    );
}

/// Transfers the ownership of one owner's associated account to another.
async fn give_away(setting: &Setting, from: Pubkey, to: Pubkey) {
    let program = TokenProgram::SplToken.id();
    let at = quittance_devnet::Solana::token_account(&from, &SOLANA_USDC, &program);
    let mut data = vec![0; 165];
    data[..32].copy_from_slice(SOLANA_USDC.as_ref());
    data[32..64].copy_from_slice(to.as_ref());
    data[108] = 1;
    let put = setting.local.put_account(at, program, &data, None).await;
    put.unwrap();
}

/// attacks.md 90 and 111: a payment costs one round trip to the node, and an invalid one costs
/// none.
#[tokio::test(flavor = "multi_thread")]
async fn solana_payment_is_verified_in_one_round_trip() {
    let setting = Setting::start(TokenProgram::SplToken, None).await;
    let engine = setting.engine(Duration::from_secs(5)).await;
    let request = setting.request().await;
    let before = setting.node.round_trips();
    assert!(engine.verify(&request).await.unwrap().is_valid);
    assert_eq!(setting.node.round_trips(), before + 1);
    let mut tree: Value = serde_json::from_str(request.text()).unwrap();
    for root in ["/paymentRequirements", "/paymentPayload/accepted"] {
        *tree.pointer_mut(&format!("{root}/amount")).unwrap() = json!("9999");
    }
    let spoiled = PaymentRequest::decode(tree.to_string().as_bytes()).unwrap();
    let verdict = engine.verify(&spoiled).await.unwrap();
    assert_eq!(
        verdict.invalid_reason.as_deref(),
        Some(reason::AMOUNT_MISMATCH.code())
    );
    assert_eq!(setting.node.round_trips(), before + 1);
}

/// attacks.md 88 and 129: a settled payment that is presented again gets the id of its transaction.
#[tokio::test(flavor = "multi_thread")]
async fn settled_payment_is_a_duplicate_even_without_the_journal() {
    let setting = Setting::start(TokenProgram::SplToken, Some(SLOT)).await;
    let engine = setting.engine(Duration::from_secs(5)).await;
    let request = setting.request().await;
    let answer = settled(&engine, &request).await;
    let again = engine.settle(&request).await.unwrap();
    assert_eq!(
        again.error_reason.as_deref(),
        Some(Reason::DUPLICATE_SETTLEMENT.code())
    );
    assert_eq!(again.transaction, answer.transaction);
    // The cluster alone shows it.
    let other = Setting::start(TokenProgram::SplToken, Some(SLOT)).await;
    let without_journal = other.engine_with(setting.config(), |builder| builder).await;
    let answer = without_journal.settle(&request).await.unwrap();
    assert_eq!(
        (answer.success, answer.error_reason.as_deref()),
        (false, Some(reason::SIMULATION_FAILED.code()))
    );
    assert_eq!(setting.received().await, amount(1));
}

/// A shop with this offer, and the URL of its goods.
async fn shop(engine: &Engine, offer: impl Offer) -> String {
    let price = PaymentLayer::new(Arc::new(engine.clone())).accept(offer);
    let app = Router::new().route("/goods", get(|| async { "goods" }).layer(price));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/goods", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// An offer with blockhashes of the proxied node.
fn hinting(setting: &Setting) -> ExactOffer {
    let node = setting.node.url().parse().unwrap();
    let blockhashes = Blockhashes::new(&[node]).unwrap();
    setting.offer().with_blockhashes(&blockhashes)
}

/// A buyer whose payer has no node.
fn buyer_without_a_node(setting: &Setting) -> Buyer {
    let payer = setting.payer_without_a_node();
    Buyer::builder().payer(payer).build().unwrap()
}

/// The `extra` of the payment requirements, in both versions.
async fn offered_extra(url: &str) -> [serde_json::Map<String, Value>; 2] {
    let answer = reqwest::get(url).await.unwrap();
    let v2 = answer.headers()[header::PAYMENT_REQUIRED].as_bytes();
    let v2: PaymentRequired = header::decode("402", v2).unwrap();
    let v1: v1::PaymentRequired = answer.json().await.unwrap();
    [&v2.accepts[0].extra, &v1.accepts[0].extra].map(|extra| extra.as_ref().unwrap().tree())
}

#[tokio::test(flavor = "multi_thread")]
async fn buyer_without_a_node_pays_with_the_sellers_blockhash() {
    let setting = Setting::start(TokenProgram::SplToken, Some(SLOT)).await;
    let engine = setting.engine(Duration::from_secs(10)).await;
    let silent = shop(&engine, setting.offer()).await;
    let refused = buyer_without_a_node(&setting).get(&silent).await;
    assert!(
        matches!(refused, Err(BuyError::NotAcceptable(_))),
        "{refused:?}"
    );
    let url = shop(&engine, hinting(&setting)).await;
    for extra in offered_extra(&url).await {
        assert_eq!(
            extra["recentBlockhash"]
                .as_str()
                .unwrap()
                .parse::<Pubkey>()
                .unwrap()
                .as_ref()
                .len(),
            32
        );
        let height: u64 = extra["lastValidBlockHeight"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(height >= 150, "{height}");
    }
    for count in 1..=3 {
        let bought = buyer_without_a_node(&setting).get(&url).await.unwrap();
        assert!(bought.cost.unwrap().receipt.unwrap().success);
        assert_eq!(setting.received().await, amount(count));
        // The seller has a newer blockhash by then, and accepts the terms that it offered.
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_buyers_cost_the_sellers_node_one_call_a_second() {
    let setting = Setting::start(TokenProgram::SplToken, Some(SLOT)).await;
    let engine = setting.engine(Duration::from_secs(10)).await;
    let url = shop(&engine, hinting(&setting)).await;
    let began = Instant::now();
    for _ in 0..4 {
        for [v2, v1] in join_all((0..50).map(|_| offered_extra(&url))).await {
            assert!(v2.contains_key("recentBlockhash") && v2 == v1);
        }
    }
    let calls = setting.node.calls("getLatestBlockhash") as u64;
    assert!(
        (1..=1 + began.elapsed().as_secs()).contains(&calls),
        "{calls}"
    );
}

/// A node that hangs delays one answer in seven seconds and breaks none.
#[tokio::test(flavor = "multi_thread")]
async fn seller_sells_while_its_node_is_down() {
    let setting = Setting::start(TokenProgram::SplToken, Some(SLOT)).await;
    let engine = setting.engine(Duration::from_secs(10)).await;
    let url = shop(&engine, hinting(&setting)).await;
    setting
        .node
        .breaks_for_good("getLatestBlockhash", Fate::Hangs);
    let began = Instant::now();
    for _ in 0..5 {
        for extra in offered_extra(&url).await {
            assert!(!extra.contains_key("recentBlockhash"));
        }
    }
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    let buyer = Buyer::builder().payer(setting.payer()).build().unwrap();
    let bought = buyer.get(&url).await.unwrap();
    assert!(bought.cost.unwrap().receipt.unwrap().success);
}

/// An offer with given hints.
struct Telling(ExactOffer, String);

#[async_trait]
impl Offer for Telling {
    fn scheme(&self) -> &str {
        self.0.scheme()
    }

    fn network(&self) -> &Network {
        self.0.network()
    }

    fn requirements(&self, kind: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        self.0.requirements(kind)
    }

    async fn hints(&self) -> Option<Object> {
        Object::of(&json!({ "recentBlockhash": self.1, "lastValidBlockHeight": "1" })).ok()
    }
}

/// No block can include a payment with this blockhash; it counts as open for as long as any other.
#[tokio::test(flavor = "multi_thread")]
async fn bad_blockhash_costs_a_failed_payment_at_most() {
    let setting = Setting::start(TokenProgram::SplToken, Some(SLOT)).await;
    let engine = setting.engine(Duration::from_secs(10)).await;
    let garbage = shop(&engine, Telling(setting.offer(), "never".to_owned())).await;
    let refused = buyer_without_a_node(&setting).get(&garbage).await;
    assert!(
        matches!(refused, Err(BuyError::NotAcceptable(_))),
        "{refused:?}"
    );
    let nowhere = Pubkey::new_from_array([7; 32]).to_string();
    let dead = shop(&engine, Telling(setting.offer(), nowhere)).await;
    let buyer = buyer_without_a_node(&setting);
    let signed_at = SystemClock.now();
    let refused = buyer.get(&dead).await;
    assert!(
        matches!(refused, Err(BuyError::Refused { .. })),
        "{refused:?}"
    );
    let open = buyer.open_payments();
    assert!(open[0].expires >= signed_at.plus_secs(150), "{open:?}");
    assert_eq!(setting.received().await, Amount::ZERO);
    for (url, count) in [(garbage, 1), (dead, 2)] {
        let buyer = Buyer::builder().payer(setting.payer()).build().unwrap();
        let bought = buyer.get(&url).await.unwrap();
        assert!(bought.cost.unwrap().receipt.unwrap().success);
        assert_eq!(setting.received().await, amount(count));
    }
}
