//! The engine on a real chain whose node fails: no outcome is ever unknown, one authorization
//! settles at most once, and a fault of the network is never answered as a verdict.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alloy::primitives::{Address, B256, U256};
use alloy::rpc::types::TransactionRequest;
use alloy::sol_types::SolCall;
use futures_util::future::join_all;
use quittance_core::wire::SettleResponse;
use quittance_core::{
    Amount, Chain, Clock, Facilitator, FacilitatorError, FaultKind, ManualClock, PaymentRequest,
    Reason, Scheme, SystemClock,
};
use quittance_devnet::{Evm as Local, Mining, USDC};
use quittance_engine::{Engine, Outcome, State, Timing};
use quittance_evm::{Evm, Exact, ExactPayer, reason};
use quittance_tests::engine::{self, settled};
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::flaky::{Failing, FlakyJournal};
use quittance_tests::proxy::Fate;
use quittance_tests::until;
use serde_json::json;
use tokio::task::JoinHandle;

/// Short waits, for tests.
const HASTY: Timing = engine::HASTY.with_sweep_every(Duration::from_millis(500));

async fn hasty(setting: &Setting) -> Engine {
    setting
        .engine_with(setting.config(), |builder| {
            builder.timing(HASTY).settle_wait(Duration::from_secs(5))
        })
        .await
}

fn fault(answer: Result<SettleResponse, FacilitatorError>) -> FaultKind {
    match answer {
        Err(FacilitatorError::Fault(fault)) => fault.kind,
        other => panic!("not a fault: {other:?}"),
    }
}

/// Settles in a task of its own.
fn settling(engine: &Engine, request: &PaymentRequest) -> JoinHandle<SettleResponse> {
    let (engine, request) = (engine.clone(), request.clone());
    tokio::spawn(async move { engine.settle(&request).await.unwrap() })
}

fn amount(count: u64) -> Amount {
    Amount::from(count * PRICE)
}

fn id(setting: &Setting, request: &PaymentRequest) -> quittance_core::PaymentId {
    let exact = Exact::new(&Evm::new(setting.config()).unwrap());
    exact.decode(request, SystemClock.now()).unwrap().info().id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_node_is_a_fault_and_never_a_verdict() {
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let request = Setting::request().await;
    for (name, fate) in [
        ("turned away", Fate::Status(429)),
        ("forbidden", Fate::Status(403)),
        ("broken", Fate::Status(502)),
        ("silent", Fate::Hangs),
        ("not JSON", Fate::Text("<html>Error 1010</html>")),
        (
            "cut off",
            Fate::Text("{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"0x"),
        ),
        ("nonsense", Fate::Result(json!("0x1234"))),
        ("empty", Fate::Result(json!("0x"))),
        ("null", Fate::Result(json!(null))),
        ("over its limit", Fate::Error(-32005, "limit exceeded")),
        ("out of gas", Fate::Error(-32000, "out of gas")),
        ("stale", Fate::Error(-32000, "header not found")),
    ] {
        setting.node.breaks_for_good("eth_call", fate);
        let verdict = engine.verify(&request).await;
        assert!(
            matches!(&verdict, Err(FacilitatorError::Fault(fault)) if fault.kind == FaultKind::ChainUnavailable),
            "{name}: {verdict:?}"
        );
        assert_eq!(
            fault(engine.settle(&request).await),
            FaultKind::ChainUnavailable,
            "{name}"
        );
        setting.node.mend();
    }
    settled(&engine, &request).await;
    assert_eq!(setting.received().await, amount(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_chain_is_not_used() {
    let setting = Setting::start().await;
    setting
        .node
        .breaks_for_good("eth_chainId", Fate::Result(json!("0x1")));
    let engine = setting.engine().await;
    assert_eq!(engine.supported().await.unwrap().kinds, vec![]);
    let request = Setting::request().await;
    assert_eq!(
        fault(engine.settle(&request).await),
        FaultKind::ChainUnavailable
    );
    assert_eq!(setting.node.calls("eth_sendRawTransaction"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_submission_changes_nothing() {
    let setting = Setting::start().await;
    let engine = hasty(&setting).await;
    setting
        .node
        .breaks("eth_sendRawTransaction", Fate::AnswerLost, 1);
    settled(&engine, &Setting::request().await).await;
    assert_eq!(setting.received().await, amount(1));
    assert_eq!(setting.sent(Setting::signers()[0].address).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_the_node_never_got_is_sent_again() {
    let setting = Setting::start().await;
    let engine = hasty(&setting).await;
    setting
        .node
        .breaks("eth_sendRawTransaction", Fate::Hangs, 1);
    settled(&engine, &Setting::request().await).await;
    assert_eq!(setting.received().await, amount(1));
    // A busy machine may look late and send it once more.
    assert!(setting.node.calls("eth_sendRawTransaction") >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_the_node_forgot_is_sent_again() {
    let setting = Setting::with_mining(Mining::Manual).await;
    let engine = hasty(&setting).await;
    let request = Setting::request().await;
    let settling = settling(&engine, &request);
    let id = id(&setting, &request);
    let sent = || async {
        let known = engine.settlement(&id).await.unwrap();
        known.and_then(|known| known.transaction().map(|sent| sent.id.to_string()))
    };
    until("it was sent", || async { sent().await.is_some() }).await;
    until("the node has it", || async {
        let hash = sent().await.unwrap();
        setting
            .local
            .rpc::<_, Option<B256>>("anvil_dropTransaction", (hash,))
            .await
            .is_ok_and(|dropped| dropped.is_some())
    })
    .await;
    until("it was sent again", || async {
        setting.node.calls("eth_sendRawTransaction") >= 2
    })
    .await;
    setting.local.mine().await.unwrap();
    assert!(settling.await.unwrap().success);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_with_a_low_fee_is_replaced_once() {
    let setting = Setting::with_mining(Mining::Manual).await;
    let engine = hasty(&setting).await;
    let request = Setting::request().await;
    let settling = settling(&engine, &request);
    let id = id(&setting, &request);
    until("a replacement was sent", || async {
        engine
            .settlement(&id)
            .await
            .unwrap()
            .is_some_and(|known| known.transactions.len() >= 2)
    })
    .await;
    setting.local.mine().await.unwrap();
    let answer = settling.await.unwrap();
    assert!(answer.success, "{answer:?}");
    assert_eq!(setting.received().await, amount(1));
    assert_eq!(setting.sent(Setting::signers()[0].address).await, 1);
    let known = engine.settlement(&id).await.unwrap().unwrap();
    assert!(
        known
            .transactions
            .iter()
            .all(|signed| signed.attempt == 1 && signed.transaction.sequence == 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_transaction_frees_its_sequence_number() {
    let setting = Setting::start().await;
    let engine = hasty(&setting).await;
    let request = Setting::request().await;
    let refused = Fate::Error(-32003, "insufficient funds for gas * price + value");
    setting.node.breaks("eth_sendRawTransaction", refused, 1);
    assert_eq!(
        fault(engine.settle(&request).await),
        FaultKind::FacilitatorFunds
    );
    let known = engine
        .settlement(&id(&setting, &request))
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(
        known.state,
        State::Concluded(Outcome::Released { .. })
    ));
    assert_eq!(known.transactions, vec![]);
    settled(&engine, &request).await;
    assert_eq!(setting.sent(Setting::signers()[0].address).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_sequence_number_costs_only_time() {
    let setting = Setting::start().await;
    let engine = hasty(&setting).await;
    settled(&engine, &Setting::request().await).await;
    let signer = Setting::signers()[0].address;
    for _ in 0..3 {
        // A script of the operator uses the facilitator's key.
        let transfer = TransactionRequest::default()
            .from(signer)
            .to(signer)
            .value(U256::ZERO);
        let _: B256 = setting
            .local
            .rpc("eth_sendTransaction", (transfer,))
            .await
            .unwrap();
    }
    settled(&engine, &Setting::request().await).await;
    assert_eq!(setting.received().await, amount(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_displaced_transaction_is_sent_with_a_new_number() {
    let setting = Setting::with_mining(Mining::Manual).await;
    let engine = hasty(&setting).await;
    let request = Setting::request().await;
    let settling = settling(&engine, &request);
    let id = id(&setting, &request);
    until("it was sent", || async {
        engine
            .settlement(&id)
            .await
            .unwrap()
            .is_some_and(|known| known.transaction().is_some())
            && setting.node.calls("eth_sendRawTransaction") > 0
    })
    .await;
    // Another program has the same key and nonce, and pays a higher fee.
    let signer = Setting::signers()[0].address;
    let transfer = TransactionRequest {
        max_fee_per_gas: Some(900_000_000_000),
        max_priority_fee_per_gas: Some(800_000_000_000),
        ..TransactionRequest::default()
            .from(signer)
            .to(signer)
            .value(U256::ZERO)
    };
    let other = json!([{ "from": signer, "to": signer, "nonce": "0x0", "gas": "0x5208",
        "maxFeePerGas": transfer.max_fee_per_gas.map(U256::from), "maxPriorityFeePerGas": transfer.max_priority_fee_per_gas.map(U256::from) }]);
    let _: B256 = setting
        .local
        .rpc("eth_sendTransaction", other)
        .await
        .unwrap();
    setting.local.mine().await.unwrap();
    setting.local.set_mining(Mining::Instant).await.unwrap();
    let answer = settling.await.unwrap();
    assert!(answer.success, "{answer:?}");
    assert_eq!(setting.received().await, amount(1));
    assert_eq!(
        engine
            .settlement(&id)
            .await
            .unwrap()
            .unwrap()
            .transaction()
            .unwrap()
            .sequence,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphaned_block_settles_nothing() {
    let setting = Setting::with_mining(Mining::Manual).await;
    let mut config = setting.config();
    config.confirmations_required = 3;
    let engine = setting
        .engine_with(config, |builder| {
            builder.timing(HASTY).settle_wait(Duration::from_secs(8))
        })
        .await;
    let request = Setting::request().await;
    let settling = settling(&engine, &request);
    until("it was sent", || async {
        setting.node.calls("eth_sendRawTransaction") > 0
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before: U256 = setting.local.rpc("evm_snapshot", ()).await.unwrap();
    setting.local.mine().await.unwrap();
    setting.local.mine().await.unwrap();
    assert_eq!(setting.received().await, amount(1));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!settling.is_finished(), "two blocks deep is not three");
    // The chain takes it back.
    let reverted: bool = setting.local.rpc("evm_revert", (before,)).await.unwrap();
    assert!(reverted);
    assert_eq!(setting.received().await, Amount::ZERO);
    let sent_before = setting.node.calls("eth_sendRawTransaction");
    until("it was sent again", || async {
        setting.node.calls("eth_sendRawTransaction") > sent_before
    })
    .await;
    for _ in 0..3 {
        setting.local.mine().await.unwrap();
    }
    assert!(settling.await.unwrap().success);
    assert_eq!(setting.received().await, amount(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_in_one_transaction_are_judged_separately() {
    const COUNT: u64 = 30;
    let setting = Setting::start().await;
    let engine = hasty(&setting).await;
    let poor = Local::accounts()[4].clone();
    let mut requests = Vec::new();
    for at in 0..COUNT {
        let mut requirements = Setting::requirements();
        requirements.amount = (PRICE + at).to_string();
        requests
            .push(quittance_tests::pay(&ExactPayer::new(poor.signer.clone()), &requirements).await);
    }
    setting.local.set_mining(Mining::Manual).await.unwrap();
    let settling: Vec<_> = requests
        .iter()
        .map(|request| {
            let (engine, request) = (engine.clone(), request.clone());
            tokio::spawn(async move { engine.settle(&request).await.unwrap() })
        })
        .collect();
    let exact = Exact::new(&Evm::new(setting.config()).unwrap());
    let id = |request| exact.decode(request, SystemClock.now()).unwrap().info().id;
    for request in &requests {
        until("it was sent", || async {
            let known = engine.settlement(&id(request)).await.unwrap();
            known.is_some_and(|known| known.transaction().is_some())
        })
        .await;
    }
    // The payer spends money first in the block. What is left covers all but a few payments.
    let enough = U256::from((PRICE + COUNT) * (COUNT - 5));
    let held = setting.local.balance(USDC, poor.address).await.unwrap();
    let drain = transfer_call(Address::repeat_byte(0xaa), held - enough);
    let first = json!([{ "from": poor.address, "to": USDC, "data": drain,
        "maxFeePerGas": "0xd18c2e2800", "maxPriorityFeePerGas": "0xba43b74000" }]);
    let _: B256 = setting
        .local
        .rpc("eth_sendTransaction", first)
        .await
        .unwrap();
    setting.local.mine().await.unwrap();
    setting.local.set_mining(Mining::Instant).await.unwrap();

    let answers: Vec<SettleResponse> = join_all(settling)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let (paid, unpaid): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.success);
    assert!(
        paid.len() >= COUNT as usize - 6 && !unpaid.is_empty(),
        "{} paid",
        paid.len()
    );
    for answer in unpaid {
        assert_eq!(
            answer.error_reason.as_deref(),
            Some(reason::INSUFFICIENT_BALANCE.code())
        );
        assert_ne!(
            answer.transaction, "",
            "a transaction's id is never dropped"
        );
    }
    let paid_sum = paid
        .iter()
        .filter_map(|answer| answer.amount.as_ref()?.parse::<u64>().ok())
        .sum::<u64>();
    assert_eq!(setting.received().await, Amount::from(paid_sum));
    assert!(setting.sent(Setting::signers()[0].address).await < COUNT / 2);
}

fn transfer_call(to: Address, amount: U256) -> String {
    alloy::sol! {
        function transfer(address to, uint256 amount) external returns (bool);
    }
    alloy::hex::encode_prefixed(transferCall { to, amount }.abi_encode())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_needs_fewer_transactions_than_payments() {
    const COUNT: u64 = 100;
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let mut requests = Vec::new();
    for at in 0..COUNT {
        let mut requirements = Setting::requirements();
        requirements.amount = (PRICE + at).to_string();
        requests.push(quittance_tests::pay(&Setting::payer(), &requirements).await);
    }
    let answers = join_all(requests.iter().map(|request| engine.settle(request))).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.as_ref().is_ok_and(|answer| answer.success))
    );
    let sent = setting.sent(Setting::signers()[0].address).await;
    assert!(
        sent <= COUNT / 4,
        "{sent} transactions for {COUNT} payments"
    );
    assert_eq!(
        setting.received().await,
        Amount::from(COUNT * PRICE + COUNT * (COUNT - 1) / 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_front_runner_gains_nothing_and_its_transaction_is_named() {
    let setting = Setting::with_mining(Mining::Manual).await;
    let engine = hasty(&setting).await;
    let request = Setting::request().await;
    let settling = settling(&engine, &request);
    let id = id(&setting, &request);
    until("it was sent", || async {
        setting.node.calls("eth_sendRawTransaction") > 0
    })
    .await;
    // An observer of the transaction can make the same transfer first (attacks.md 109).
    let known = engine.settlement(&id).await.unwrap().unwrap();
    let sent: serde_json::Value = setting
        .local
        .rpc(
            "eth_getTransactionByHash",
            (known.transaction().unwrap().id.to_string(),),
        )
        .await
        .unwrap();
    let first = json!([{ "from": Local::accounts()[6].address, "to": USDC, "data": sent["input"],
        "maxFeePerGas": "0xd18c2e2800", "maxPriorityFeePerGas": "0xba43b74000" }]);
    let theirs: B256 = setting
        .local
        .rpc("eth_sendTransaction", first)
        .await
        .unwrap();
    setting.local.mine().await.unwrap();
    let answer = settling.await.unwrap();
    assert_eq!(
        (answer.success, answer.error_reason.as_deref()),
        (false, Some(Reason::SETTLED_BY_OTHER_TRANSACTION.code()))
    );
    assert_eq!(answer.transaction, theirs.to_string());
    assert_eq!(
        setting.received().await,
        amount(1),
        "the money went where the payer sent it"
    );
    let again = engine.settle(&request).await.unwrap();
    assert_eq!(
        (again.success, again.error_reason, again.transaction),
        (false, answer.error_reason, answer.transaction)
    );
    // Our transaction is still watched.
    let known = engine.settlement(&id).await.unwrap().unwrap();
    assert_eq!(known.transactions.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_facilitators_report_one_success() {
    let setting = Setting::start().await;
    let other = Setting::start().await;
    // A second facilitator has its own journal and signer, on the same chain.
    let mut config = other.config();
    config.rpc_urls = setting.config().rpc_urls;
    config.signers = vec![Arc::new(Setting::signers()[1].signer.clone())];
    let (first, second) = (
        setting.engine().await,
        other.engine_with(config, |builder| builder).await,
    );
    for _ in 0..5 {
        let request = Setting::request().await;
        let (a, b) = tokio::join!(first.settle(&request), second.settle(&request));
        let reported = [a, b]
            .iter()
            .filter(|answer| answer.as_ref().is_ok_and(|answer| answer.success))
            .count();
        assert_eq!(reported, 1);
    }
    assert_eq!(setting.received().await, amount(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_journal_nothing_is_signed() {
    let setting = Setting::start().await;
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
        .settle_wait(Duration::from_secs(1))
        .start()
        .await
        .unwrap();
    let request = Setting::request().await;
    failing.claims.store(true, Ordering::SeqCst);
    assert_eq!(
        fault(engine.settle(&request).await),
        FaultKind::JournalUnavailable
    );
    assert!(engine.verify(&request).await.unwrap().is_valid);
    failing.claims.store(false, Ordering::SeqCst);

    // The disk is full between the claim and the record: nothing is sent until it has room.
    failing.rest.store(true, Ordering::SeqCst);
    assert_eq!(fault(engine.settle(&request).await), FaultKind::Busy);
    assert_eq!(setting.node.calls("eth_sendRawTransaction"), 0);
    failing.rest.store(false, Ordering::SeqCst);
    until("it is settled", || async { engine.in_progress() == 0 }).await;
    settled(&engine, &request).await;
    assert_eq!(setting.received().await, amount(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_payment_is_sent_after_a_restart() {
    let setting = Setting::start().await;
    let request = Setting::request().await;
    let failing = Arc::new(Failing::default());
    failing.rest.store(true, Ordering::SeqCst);
    {
        let evm = Evm::new(setting.config()).unwrap();
        let exact = Arc::new(Exact::new(&evm));
        let journal = FlakyJournal {
            inner: setting.journal().await,
            failing,
        };
        let builder = Engine::builder(journal)
            .chain(evm, vec![exact])
            .settle_wait(Duration::from_millis(200));
        let engine = builder.start().await.unwrap();
        assert_eq!(fault(engine.settle(&request).await), FaultKind::Busy);
        engine.shut_down(Duration::ZERO).await;
    }
    assert_eq!(setting.sent(Setting::signers()[0].address).await, 0);
    let engine = setting.engine().await;
    until("it is settled", || async { engine.in_progress() == 0 }).await;
    settled(&engine, &request).await;
    assert_eq!(setting.received().await, amount(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorization_that_expires_in_the_queue_is_not_sent() {
    let setting = Setting::start().await;
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let request = Setting::request().await;
    let failing = Arc::new(Failing::default());
    failing.rest.store(true, Ordering::SeqCst);
    {
        let evm = Evm::new(setting.config()).unwrap();
        let exact = Arc::new(Exact::new(&evm));
        let journal = FlakyJournal {
            inner: setting.journal().await,
            failing,
        };
        let builder = Engine::builder(journal)
            .chain(evm, vec![exact])
            .settle_wait(Duration::from_millis(200));
        let engine = builder.start().await.unwrap();
        let _ = engine.settle(&request).await;
        engine.shut_down(Duration::ZERO).await;
    }
    clock.advance(3600);
    let engine = setting
        .engine_with(setting.config(), |builder| builder.clock(clock))
        .await;
    until("it is over", || async { engine.in_progress() == 0 }).await;
    let known = engine
        .settlement(&id(&setting, &request))
        .await
        .unwrap()
        .unwrap();
    let State::Concluded(Outcome::Failed {
        reason,
        transaction,
        ..
    }) = known.state
    else {
        panic!("{:?}", known.state)
    };
    assert_eq!((reason, transaction), (Reason::SETTLEMENT_EXPIRED, None));
    assert_eq!(setting.sent(Setting::signers()[0].address).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn signers_share_the_work_without_the_unfunded_one() {
    let setting = Setting::with_mining(Mining::Every(Duration::from_secs(1))).await;
    let [first, second] = Setting::signers();
    let poor = alloy::signers::local::PrivateKeySigner::random();
    let mut config = setting.config();
    config.signers = vec![
        Arc::new(poor.clone()),
        Arc::new(first.signer.clone()),
        Arc::new(second.signer.clone()),
    ];
    config.max_batch = 1;
    let engine = setting.engine_with(config, |builder| builder).await;
    let mut requests = Vec::new();
    for _ in 0..12 {
        requests.push(Setting::request().await);
    }
    let answers = join_all(requests.iter().map(|request| engine.settle(request))).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.as_ref().is_ok_and(|answer| answer.success)),
        "{answers:?}"
    );
    let (a, b) = (
        setting.sent(first.address).await,
        setting.sent(second.address).await,
    );
    assert_eq!(a + b, 12);
    assert!(a >= 3 && b >= 3, "{a} and {b}");
    assert_eq!(setting.sent(poor.address()).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_kinds_that_can_settle_now_are_supported() {
    let setting = Setting::start().await;
    let kinds = |engine: Engine| async move {
        engine
            .supported()
            .await
            .unwrap()
            .kinds
            .into_iter()
            .map(|kind| kind.network)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        kinds(setting.engine().await).await,
        ["base-sepolia", "eip155:84532"]
    );

    let mut poor = setting.config();
    poor.signers = vec![Arc::new(alloy::signers::local::PrivateKeySigner::random())];
    let engine = setting.engine_with(poor, |builder| builder).await;
    assert_eq!(kinds(engine.clone()).await, Vec::<String>::new());
    assert_eq!(
        fault(engine.settle(&Setting::request().await).await),
        FaultKind::FacilitatorFunds
    );
    drop(engine);

    let mut elsewhere = setting.config();
    elsewhere.tokens[0].address = Address::repeat_byte(0x77);
    let engine = setting.engine_with(elsewhere, |builder| builder).await;
    assert_eq!(kinds(engine.clone()).await, Vec::<String>::new());
    let problems = &engine.health()[0].1.problems;
    assert!(
        problems
            .iter()
            .any(|problem| problem.what.contains("there is no contract")),
        "{problems:?}"
    );
    drop(engine);

    let mut misnamed = setting.config();
    misnamed.tokens[0].name = "USD Coin".to_owned();
    let engine = setting.engine_with(misnamed, |builder| builder).await;
    assert_eq!(kinds(engine.clone()).await, Vec::<String>::new());
    let problems = &engine.health()[0].1.problems;
    assert!(
        problems
            .iter()
            .any(|problem| problem.what.contains("EIP-712")),
        "{problems:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_chain_is_not_used() {
    let setting = Setting::start().await;
    let mut config = setting.config();
    config.head_age_max = Some(Duration::from_secs(60));
    let chain = Evm::new(config).unwrap();
    let health = chain.health(SystemClock.now().plus_secs(3600)).await;
    assert!(!health.network_works());
    assert!(health.problems[0].what.contains("stuck"), "{health:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_is_verified_in_one_round_trip() {
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let request = Setting::request().await;
    assert!(engine.verify(&request).await.unwrap().is_valid);
    let before = setting.node.round_trips();
    assert!(engine.verify(&request).await.unwrap().is_valid);
    assert_eq!(setting.node.round_trips() - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_payments_are_verified_in_few_round_trips() {
    const COUNT: usize = 100;
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let mut requests = Vec::new();
    for _ in 0..COUNT {
        requests.push(Setting::request().await);
    }
    // With a distant node, further questions gather while it answers, even if signatures are slow.
    let distant = Fate::Slow(Duration::from_millis(100));
    setting.node.breaks_for_good("eth_call", distant);
    let before = setting.node.round_trips();
    let verdicts = join_all(requests.iter().map(|request| engine.verify(request))).await;
    assert!(
        verdicts
            .iter()
            .all(|verdict| verdict.as_ref().is_ok_and(|verdict| verdict.is_valid))
    );
    let trips = setting.node.round_trips() - before;
    assert!(trips <= COUNT / 2, "{trips} round trips");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_answers_when_the_first_does_not() {
    let setting = Setting::start().await;
    let mut config = setting.config();
    config.rpc_urls.push(setting.local.url().parse().unwrap());
    let engine = setting
        .engine_with(config, |builder| builder.timing(HASTY))
        .await;
    for method in [
        "eth_call",
        "eth_chainId",
        "eth_sendRawTransaction",
        "eth_blockNumber",
        "eth_getTransactionCount",
        "eth_feeHistory",
    ] {
        setting.node.breaks_for_good(method, Fate::Status(503));
    }
    settled(&engine, &Setting::request().await).await;
    assert_eq!(setting.received().await, amount(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gas_price_above_the_limit_is_not_paid() {
    let setting = Setting::start().await;
    let mut config = setting.config();
    config.gas_price_max = 1;
    let engine = setting.engine_with(config, |builder| builder).await;
    assert_eq!(engine.supported().await.unwrap().kinds, vec![]);
    let kind = fault(engine.settle(&Setting::request().await).await);
    assert!(
        matches!(kind, FaultKind::Busy | FaultKind::ChainUnavailable),
        "{kind:?}"
    );
    assert_eq!(setting.node.calls("eth_sendRawTransaction"), 0);
}
