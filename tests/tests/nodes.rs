//! Gateways with their faults: they lose ids, refuse batches, limit callers, and silently route to
//! another chain.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::primitives::U256;
use quittance_core::{
    Chain, Clock, Facilitator, FacilitatorError, FaultKind, Health, Scope, Submission, SystemClock,
    Transaction, TransactionId, Watched,
};
use quittance_devnet::{Mining, USDC};
use quittance_engine::EngineBuilder;
use quittance_evm::Evm;
use quittance_solana::{Solana, TokenProgram};
use quittance_tests::engine::HASTY;
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::proxy::{BatchRefusal, Fate, Habit, Proxy};
use quittance_tests::solana::{SLOT, Setting as SolanaSetting};
use quittance_tests::until;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// How long a caller waits for a settlement here.
const SETTLE_WAIT: Duration = Duration::from_secs(8);

/// Longer than a node's chain identity stays valid.
const PROOF_IS_OLD: Duration = Duration::from_millis(2200);

/// What gateways do with batches that they refuse.
fn refusals() -> Vec<Habit> {
    let limit = "you have exceeded the maximum batch size";
    vec![
        Habit::RefusesBatchesOver(3, BatchRefusal::Status(400)),
        Habit::RefusesBatchesOver(3, BatchRefusal::Status(413)),
        Habit::RefusesBatchesOver(3, BatchRefusal::Status(429)),
        Habit::RefusesBatchesOver(3, BatchRefusal::Error(500, 31, "three at a time, please")),
        Habit::RefusesBatchesOver(3, BatchRefusal::Error(200, -32005, limit)),
        Habit::RefusesBatchesOver(3, BatchRefusal::Text("[]")),
        Habit::RefusesBatchesOver(1, BatchRefusal::Status(405)),
        Habit::RefusesBatchesOver(1, BatchRefusal::Text("<html>hello</html>")),
        Habit::AnswersAtMost(3, -32005),
        Habit::AnswersAtMost(1, 429),
    ]
}

/// Forms of "too many requests" in HTTP 200.
const EVM_LIMITS: [(i64, &str); 7] = [
    (-32016, "slow, please"),
    (-32005, "limit"),
    (-32011, "none"),
    (15, "wait"),
    (-32097, "wait"),
    (-32000, "Rate Limit exceeded"),
    (-32603, "too many requests"),
];

/// As many sequence numbers as fill a whole batch, all unknown to the chain.
fn many_places(chain: &impl Chain, id: &str) -> Vec<Watched> {
    let lane = chain.lanes()[0].clone();
    let sequence = |sequence| Watched {
        lane: lane.clone(),
        sequence,
        transactions: vec![Transaction {
            id: TransactionId::new(id),
            lane: lane.clone(),
            sequence,
            bytes: [].into(),
        }],
    };
    (1000..1040).map(sequence).collect()
}

fn says(health: &Health, words: &str) -> bool {
    health
        .problems
        .iter()
        .any(|problem| problem.what.contains(words))
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_that_loses_id_zero_is_usable() {
    let setting = Setting::start().await;
    setting.node.takes_on(Habit::LosesIdZero);
    let engine = setting.engine().await;
    let answer = engine.settle(&Setting::request().await).await.unwrap();
    assert!(answer.success, "{answer:?}");

    let setting = SolanaSetting::start(TokenProgram::SplToken, Some(SLOT)).await;
    setting.node.takes_on(Habit::LosesIdZero);
    let engine = setting.engine(SETTLE_WAIT).await;
    let answer = engine.settle(&setting.request().await).await.unwrap();
    assert!(answer.success, "{answer:?}");
}

/// The health check sent all its questions in one batch. The network counted as down, although
/// every single question had an answer.
#[tokio::test(flavor = "multi_thread")]
async fn gateway_with_a_batch_limit_gets_small_batches() {
    let setting = Setting::start().await;
    for habit in refusals() {
        let node = Proxy::before(setting.local.url()).await;
        node.takes_on(habit.clone());
        let mut config = setting.config();
        config.rpc_urls = vec![node.url().parse().unwrap()];
        let chain = Evm::new(config).unwrap();
        assert_eq!(
            chain.health(SystemClock.now()).await.problems,
            vec![],
            "{habit:?}"
        );
        let unknown = format!("0x{}", "ab".repeat(32));
        for found in chain.status(&many_places(&chain, &unknown)).await {
            assert!(found.is_ok(), "{habit:?}: {found:?}");
        }
        // The limit is remembered: the second look has no refusal.
        let before = node.sizes().len();
        chain.status(&many_places(&chain, &unknown)).await;
        let largest = *node.sizes()[before..].iter().max().unwrap();
        assert!(largest <= 3, "{habit:?}: {largest} calls");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_with_a_batch_limit_gets_small_batches_on_solana() {
    let setting = SolanaSetting::start(TokenProgram::SplToken, None).await;
    for habit in refusals() {
        let node = Proxy::before(setting.local.url()).await;
        node.takes_on(habit.clone());
        let mut config = setting.config();
        config.rpc_urls = vec![node.url().parse().unwrap()];
        let chain = Solana::new(config).unwrap();
        assert_eq!(
            chain.health(SystemClock.now()).await.problems,
            vec![],
            "{habit:?}"
        );
        let found = chain.status(&many_places(&chain, &"1".repeat(64))).await;
        assert!(found.iter().all(Result::is_ok), "{habit:?}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_settle_through_a_gateway_without_batches() {
    let setting = Setting::start().await;
    let one = Habit::RefusesBatchesOver(1, BatchRefusal::Status(400));
    setting.node.takes_on(one.clone());
    let engine = setting.engine().await;
    let answer = engine.settle(&Setting::request().await).await.unwrap();
    assert!(answer.success, "{answer:?}");

    let setting = SolanaSetting::start(TokenProgram::SplToken, Some(SLOT)).await;
    setting.node.takes_on(one);
    let engine = setting.engine(SETTLE_WAIT).await;
    let answer = engine.settle(&setting.request().await).await.unwrap();
    assert!(answer.success, "{answer:?}");
}

/// A node refused the call for the token's EIP-712 domain. The engine concluded that the token has
/// none.
#[tokio::test(flavor = "multi_thread")]
async fn rate_limit_in_http_200_is_no_verdict() {
    let setting = Setting::start().await;
    for (code, message) in EVM_LIMITS {
        let node = Proxy::before(setting.local.url()).await;
        let mut config = setting.config();
        config.rpc_urls = vec![node.url().parse().unwrap()];
        node.takes_on(Habit::Limits("eth_call", code, message));
        let health = Evm::new(config.clone())
            .unwrap()
            .health(SystemClock.now())
            .await;
        assert!(says(&health, "reported a rate limit"), "{health:?}");
        let is_of_token = |scope: &Scope| matches!(scope, Scope::Asset(_));
        let mut scopes = health.problems.iter().map(|problem| &problem.scope);
        assert!(!scopes.any(is_of_token), "{code} {message}: {health:?}");
        assert!(!health.network_works());

        // Another node does not limit. It is asked, and everything works.
        config.rpc_urls.push(setting.local.url().parse().unwrap());
        let health = Evm::new(config).unwrap().health(SystemClock.now()).await;
        assert!(health.network_works(), "{health:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_simulation_is_a_fault_with_a_retry() {
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let request = Setting::request().await;
    let limit = Habit::Limits("eth_call", -32016, "over rate limit");
    setting.node.takes_on(limit);
    let FacilitatorError::Fault(fault) = engine.verify(&request).await.unwrap_err() else {
        panic!("not a fault");
    };
    assert_eq!(fault.kind, FaultKind::ChainUnavailable);
    assert!(fault.retry_after.is_some());
    setting.node.mend();
    assert!(engine.verify(&request).await.unwrap().is_valid);

    let setting = SolanaSetting::start(TokenProgram::SplToken, None).await;
    let engine = setting.engine(SETTLE_WAIT).await;
    let request = setting.request().await;
    for method in ["simulateTransaction", "getMultipleAccounts"] {
        let limit = Habit::Limits(method, -32429, "rate limited");
        setting.node.takes_on(limit);
        let FacilitatorError::Fault(fault) = engine.verify(&request).await.unwrap_err() else {
            panic!("not a fault");
        };
        assert_eq!(fault.kind, FaultKind::ChainUnavailable);
        assert!(fault.retry_after.is_some());
        setting.node.mend();
        assert!(engine.verify(&request).await.unwrap().is_valid);
    }
}

/// The node was on the right chain once, and this was believed for ever. The second node, a good
/// one, was never asked.
#[tokio::test(flavor = "multi_thread")]
async fn node_that_changes_its_chain_is_not_asked() {
    let setting = Setting::start().await;
    let second = Proxy::before(setting.local.url()).await;
    let mut config = setting.config();
    config.rpc_urls.push(second.url().parse().unwrap());
    let engine = setting
        .engine_with(config, |builder| {
            builder.timing(HASTY).settle_wait(SETTLE_WAIT)
        })
        .await;
    let answer = engine.settle(&Setting::request().await).await.unwrap();
    assert!(answer.success, "{answer:?}");

    for (method, result) in [
        ("eth_chainId", json!("0x1")),
        ("eth_getTransactionCount", json!("0x0")),
        ("eth_getTransactionReceipt", Value::Null),
        ("eth_blockNumber", json!("0x1")),
    ] {
        setting.node.breaks_for_good(method, Fate::Result(result));
    }
    tokio::time::sleep(PROOF_IS_OLD).await;
    for _ in 0..3 {
        let answer = engine.settle(&Setting::request().await).await.unwrap();
        assert!(answer.success, "{answer:?}");
    }
    let asked = |method| setting.node.calls(method);
    let before = [
        asked("eth_call"),
        asked("eth_getTransactionCount"),
        asked("eth_getTransactionReceipt"),
        asked("eth_sendRawTransaction"),
    ];
    let answer = engine.settle(&Setting::request().await).await.unwrap();
    assert!(answer.success, "{answer:?}");
    let after = [
        asked("eth_call"),
        asked("eth_getTransactionCount"),
        asked("eth_getTransactionReceipt"),
        asked("eth_sendRawTransaction"),
    ];
    assert_eq!(before, after, "asked after it was known to be wrong");

    // Also not while the other one is down.
    for method in ["eth_chainId", "eth_call"] {
        second.breaks_for_good(method, Fate::Status(503));
    }
    let calls = asked("eth_call");
    let verdict = engine.verify(&Setting::request().await).await;
    assert!(
        matches!(verdict, Err(FacilitatorError::Fault(_))),
        "{verdict:?}"
    );
    assert_eq!(asked("eth_call"), calls, "asked, since no other answers");

    // It is asked again when it is on the right chain again.
    setting.node.mend();
    until("the first node is asked again", || async {
        let verdict = engine.verify(&Setting::request().await).await;
        verdict.is_ok_and(|verdict| verdict.is_valid)
    })
    .await;
}

/// A Solana node's answers do not name the cluster. Every good payment was rejected for a wrong
/// mint.
#[tokio::test(flavor = "multi_thread")]
async fn node_of_another_cluster_never_makes_a_verdict() {
    let setting = SolanaSetting::start(TokenProgram::SplToken, Some(SLOT)).await;
    let second = Proxy::before(setting.local.url()).await;
    let mut config = setting.config();
    config.rpc_urls.push(second.url().parse().unwrap());
    let engine = setting
        .engine_with(config, |builder| builder.settle_wait(SETTLE_WAIT))
        .await;
    let request = setting.request().await;
    assert!(engine.verify(&request).await.unwrap().is_valid);

    let other = json!("4sGjMW1sUnHzSxGspuhpqLDx6wiyjNtZAMdL4VZHirAn");
    setting
        .node
        .breaks_for_good("getGenesisHash", Fate::Result(other));
    let nothing = json!({ "context": { "slot": 9 }, "value": [null, null, null, null] });
    setting
        .node
        .breaks_for_good("getMultipleAccounts", Fate::Result(nothing));
    let verdict = engine.verify(&request).await.unwrap();
    assert!(verdict.is_valid, "{verdict:?}");
    let answer = engine.settle(&request).await.unwrap();
    assert!(answer.success, "{answer:?}");
}

/// A transaction is dropped if the finalized height says so. The height of another cluster does not
/// count.
#[tokio::test(flavor = "multi_thread")]
async fn the_height_of_another_cluster_ends_no_transaction() {
    let setting = SolanaSetting::start(TokenProgram::SplToken, None).await;
    let chain = Solana::new(setting.config()).unwrap();
    let sequences = many_places(&chain, &"1".repeat(64));
    assert!(chain.status(&sequences).await[0].is_ok());
    let other = json!("4sGjMW1sUnHzSxGspuhpqLDx6wiyjNtZAMdL4VZHirAn");
    setting
        .node
        .breaks_for_good("getGenesisHash", Fate::Result(other));
    let found = chain.status(&sequences).await;
    assert!(found.iter().all(Result::is_err), "{found:?}");
}

/// A host that does not exist does not refuse. The whole time limit passed, and then the
/// transaction counted as possibly sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_takes_no_connection_was_not_asked() {
    let setting = Setting::with_mining(Mining::Manual).await;
    let (silent, _full) = silent_host().await;
    let mut config = setting.config();
    config.rpc_timeout = Duration::from_secs(20);
    config.rpc_urls = vec![silent.parse().unwrap()];
    let chain = Arc::new(Evm::new(config).unwrap());
    let transaction = Transaction {
        id: TransactionId::new("0x1"),
        lane: chain.lanes()[0].clone(),
        sequence: 0,
        bytes: [1].into(),
    };
    let started = Instant::now();
    let submission = chain.submit(&transaction).await;
    assert!(
        matches!(submission, Submission::Refused(_)),
        "{submission:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// One node reported 201 as the signer's next number, once. The journal stored it, and all later
/// transactions waited for 200 fillers.
#[tokio::test(flavor = "multi_thread")]
async fn one_nodes_slip_moves_no_lane() {
    let setting = Setting::start().await;
    let slip = |node: &Proxy| node.rewrites("eth_getTransactionCount", |_, _| json!("0xc9"));
    let engine = setting.engine().await;
    assert!(
        engine
            .settle(&Setting::request().await)
            .await
            .unwrap()
            .success
    );
    engine.shut_down(Duration::ZERO).await;
    drop(engine);

    // It is the only node, so its number is in doubt.
    slip(&setting.node);
    let engine = setting.engine().await;
    let request = Setting::request().await;
    let FacilitatorError::Fault(fault) = engine.settle(&request).await.unwrap_err() else {
        panic!("not a fault");
    };
    assert!(fault.detail.contains("201"), "{fault}");
    setting.node.mend();
    assert!(engine.settle(&request).await.unwrap().success);
    engine.shut_down(Duration::ZERO).await;
    drop(engine);

    // Another node reports a lower number, so the first is not believed, even if the journal is
    // new.
    slip(&setting.node);
    let mut config = setting.config();
    config.rpc_urls.push(setting.local.url().parse().unwrap());
    config.signers = vec![Arc::new(Setting::signers()[1].signer.clone())];
    let engine = setting.engine_with(config, |builder| builder).await;
    assert!(
        engine
            .settle(&Setting::request().await)
            .await
            .unwrap()
            .success
    );
    assert_eq!(setting.sent(Setting::signers()[1].address).await, 1);
    assert_eq!(setting.sent(Setting::signers()[0].address).await, 2);
}

/// A node with wrong tips, or with an almost empty chain, determined the tip of every transaction.
#[tokio::test(flavor = "multi_thread")]
async fn tip_never_exceeds_the_networks_bound() {
    const GWEI: u64 = 1_000_000_000;
    let setting = Setting::start().await;
    let high = format!("{:#x}", 90 * GWEI);
    let history = json!({
        "oldestBlock": "0x1",
        "baseFeePerGas": ["0x3b9aca00", "0x3b9aca00"],
        "gasUsedRatio": [0.1],
        "reward": [[high]],
    });
    setting
        .node
        .rewrites("eth_feeHistory", move |_, _| history.clone());
    for (suggested, most) in [(1, 5), (90, 10)] {
        let suggested = json!(format!("{:#x}", suggested * GWEI));
        let node = Proxy::before(setting.node.url()).await;
        node.rewrites("eth_maxPriorityFeePerGas", move |_, _| suggested.clone());
        let mut config = setting.config();
        config.rpc_urls = vec![node.url().parse().unwrap()];
        let engine = setting.engine_with(config, |builder| builder).await;
        let answer = engine.settle(&Setting::request().await).await.unwrap();
        let sent: Value = setting
            .local
            .rpc("eth_getTransactionByHash", (answer.transaction,))
            .await
            .unwrap();
        let tip = sent["maxPriorityFeePerGas"].as_str().unwrap();
        let tip = u64::from_str_radix(tip.trim_start_matches("0x"), 16).unwrap();
        assert_eq!(tip, most * GWEI);
        engine.shut_down(Duration::ZERO).await;
    }
}

/// Hash and logs from one node are a success. Above the operator's `two_nodes_above`, a second node
/// must confirm.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_payment_is_settled_once_two_nodes_say_so() {
    let setting = Setting::start().await;
    let second = Proxy::before(setting.local.url()).await;
    let mut config = setting.config();
    config.rpc_urls.push(second.url().parse().unwrap());
    let bound = |amount| [(USDC, U256::from(amount))].into();
    config.two_nodes_above = bound(PRICE - 1);
    let wait = Duration::from_secs(2);
    let build = |builder: EngineBuilder| builder.timing(HASTY).settle_wait(wait);
    let engine = setting.engine_with(config.clone(), build).await;
    second.rewrites("eth_getTransactionReceipt", |_, _| Value::Null);
    let request = Setting::request().await;
    let answer = engine.settle(&request).await.unwrap();
    assert!(!answer.success);
    assert_eq!(answer.error_reason.as_deref(), Some("settlement_pending"));
    second.mend();
    assert!(engine.settle(&request).await.unwrap().success);
    engine.shut_down(Duration::ZERO).await;
    drop(engine);

    // A payment that is not above it needs no second node.
    config.two_nodes_above = bound(PRICE);
    let engine = setting.engine_with(config.clone(), build).await;
    second.rewrites("eth_getTransactionReceipt", |_, _| Value::Null);
    assert!(
        engine
            .settle(&Setting::request().await)
            .await
            .unwrap()
            .success
    );

    config.rpc_urls.truncate(1);
    assert!(Evm::new(config.clone()).is_err(), "two of one node");
    config.rpc_urls.push(config.rpc_urls[0].clone());
    assert!(Evm::new(config).is_err(), "one node, listed twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_payment_is_settled_once_two_nodes_say_so_on_solana() {
    let setting = SolanaSetting::start(TokenProgram::SplToken, Some(SLOT)).await;
    let second = Proxy::before(setting.local.url()).await;
    let mut config = setting.config();
    config.rpc_urls.push(second.url().parse().unwrap());
    config.two_nodes_above = [(setting.token.mint, PRICE - 1)].into();
    let mut twice = config.clone();
    twice.rpc_urls[1] = twice.rpc_urls[0].clone();
    assert!(Solana::new(twice).is_err(), "one node, listed twice");
    let wait = Duration::from_secs(4);
    let engine = setting
        .engine_with(config, |builder| builder.settle_wait(wait))
        .await;
    second.rewrites("getTransaction", |_, _| Value::Null);
    let request = setting.request().await;
    let answer = engine.settle(&request).await.unwrap();
    assert_eq!(answer.error_reason.as_deref(), Some("settlement_pending"));
    second.mend();
    assert!(engine.settle(&request).await.unwrap().success);
}

/// An address that answers no SYN: its accept queue is full, and no process accepts from it.
async fn silent_host() -> (String, (TcpListener, Vec<TcpStream>)) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    loop {
        let connecting = TcpStream::connect(address);
        match tokio::time::timeout(Duration::from_millis(500), connecting).await {
            Ok(connection) => held.push(connection.unwrap()),
            Err(_) => return (format!("http://{address}"), (listener, held)),
        }
    }
}
