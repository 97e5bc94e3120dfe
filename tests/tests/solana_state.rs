//! The state of a signed payment on Solana. A payer that takes a settled payment for an expired one
//! signs a second payment.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::time::Duration;

use quittance_core::{
    AuthorizationState, Clock, Facilitator, Payer, PaymentRequest, SystemClock, Timestamp,
};
use quittance_solana::{ExactPayer, TokenProgram};
use quittance_tests::proxy::{Fate, Proxy};
use quittance_tests::solana::{SLOT, Setting};
use serde_json::{Value, json};

/// More blocks than the lifetime of a blockhash and finality together.
const LIFETIME: u64 = 250;

/// The genesis hash of mainnet, which the local cluster does not have.
const MAINNET: &str = "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d";

/// A payment that no block can include any more.
struct Scene {
    setting: Setting,
    payment: PaymentRequest,
}

impl Scene {
    async fn settled() -> Self {
        let setting = Setting::start(TokenProgram::SplToken, Some(SLOT)).await;
        let payment = setting.request().await;
        let engine = setting.engine(Duration::from_secs(10)).await;
        let answer = engine.settle(&payment).await.unwrap();
        assert!(answer.success, "{answer:?}");
        engine.shut_down(Duration::from_secs(1)).await;
        setting.local.mine(LIFETIME).await.unwrap();
        Self { setting, payment }
    }

    async fn unsettled() -> Self {
        let setting = Setting::start(TokenProgram::SplToken, Some(SLOT)).await;
        let payment = setting.request().await;
        setting.local.mine(LIFETIME).await.unwrap();
        Self { setting, payment }
    }

    async fn node(&self) -> Proxy {
        Proxy::before(self.setting.local.url()).await
    }

    /// The state, as a payer that has just started finds it by these nodes.
    async fn state(&self, nodes: &[&Proxy]) -> AuthorizationState {
        let urls: Vec<_> = nodes.iter().map(|it| it.url().parse().unwrap()).collect();
        let payer = self.setting.payer_without_a_node();
        let payer = payer.with_rpc(&Setting::network(), &urls);
        self.state_by(&payer.unwrap()).await
    }

    async fn state_by(&self, payer: &ExactPayer) -> AuthorizationState {
        let network = Setting::network();
        let mint = self.setting.token.mint.to_string();
        let payload = &self.payment.payload;
        let state = payer.authorization_state(network.id(), &mint, payload, ended());
        state.await
    }
}

/// The end of a payment that was signed before the cluster's first block.
fn ended() -> Timestamp {
    Timestamp::from_secs(SystemClock.now().secs() - 200)
}

/// The node lists nothing, as if it had never had any transaction.
fn lists_nothing(node: &Proxy) {
    node.rewrites("getSignaturesForAddress", |_, _| json!([]));
}

/// The node has deleted its first blocks.
fn prunes(node: &Proxy) {
    lists_nothing(node);
    node.rewrites("getFirstAvailableBlock", |_, _| json!(5));
}

/// The node has only the first blocks.
fn lags(node: &Proxy) {
    lists_nothing(node);
    node.rewrites("getSlot", |_, _| json!(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_that_of_the_cluster() {
    let settled = Scene::settled().await;
    let node = settled.node().await;
    let state = settled.state(&[&node]).await;
    assert!(
        matches!(state, AuthorizationState::Used(Some(_))),
        "{state:?}"
    );
    let unsettled = Scene::unsettled().await;
    let node = unsettled.node().await;
    assert_eq!(unsettled.state(&[&node]).await, AuthorizationState::Expired);
}

/// The first node reports that the payment's blockhash is no longer valid, and then stops. The
/// second one omits the payment.
#[tokio::test(flavor = "multi_thread")]
async fn payment_that_another_node_omits_has_not_expired() {
    let scene = Scene::settled().await;
    let methods = [
        "getBlockTime",
        "getSlot",
        "getFirstAvailableBlock",
        "getSignaturesForAddress",
    ];
    for stops_at in 0..methods.len() {
        for omits in [prunes, lags] {
            let (first, second) = (scene.node().await, scene.node().await);
            for method in &methods[stops_at..] {
                first.breaks_for_good(method, Fate::Status(503));
            }
            omits(&second);
            let state = scene.state(&[&first, &second]).await;
            assert_eq!(state, AuthorizationState::Unknown, "{stops_at}");
            assert_eq!(first.calls("isBlockhashValid"), 1);
            second.mend();
            let state = scene.state(&[&first, &second]).await;
            assert!(matches!(state, AuthorizationState::Used(_)), "{state:?}");
        }
    }
}

/// A node that lags is passed over, although it replies.
#[tokio::test(flavor = "multi_thread")]
async fn node_that_lags_is_not_asked_last() {
    let scene = Scene::settled().await;
    let (first, second) = (scene.node().await, scene.node().await);
    lags(&first);
    let state = scene.state(&[&first, &second]).await;
    assert!(matches!(state, AuthorizationState::Used(_)), "{state:?}");
}

/// A node that has not yet the last transaction of a page lists nothing before it.
#[tokio::test(flavor = "multi_thread")]
async fn next_page_is_from_a_node_that_has_the_previous_one() {
    /// The most transactions in one reply.
    const PAGE: usize = 1000;
    let scene = Scene::settled().await;
    let node = scene.node().await;
    let page = |slot: u64| {
        move |params: &Value, _: Value| {
            let one = json!({ "signature": "1", "slot": slot, "memo": "[5] other", "err": null,
                "blockTime": SystemClock.now().secs() });
            match params[1]["before"].is_null() {
                true => json!(vec![one; PAGE]),
                false => json!([]),
            }
        }
    };
    node.rewrites("getSignaturesForAddress", page(1));
    assert_eq!(scene.state(&[&node]).await, AuthorizationState::Expired);
    node.mend();
    node.rewrites("getSignaturesForAddress", page(1_000_000));
    assert_eq!(scene.state(&[&node]).await, AuthorizationState::Unknown);
}

/// attacks.md 137: a node of another cluster knows neither the blockhash nor the payment.
#[tokio::test(flavor = "multi_thread")]
async fn node_of_another_cluster_does_not_end_a_payment() {
    let scene = Scene::unsettled().await;
    let node = scene.node().await;
    node.breaks_for_good("getGenesisHash", Fate::Result(json!(MAINNET)));
    assert_eq!(scene.state(&[&node]).await, AuthorizationState::Unknown);
    assert_eq!(node.calls("isBlockhashValid"), 0);

    let network = Setting::network();
    let urls = [node.url().parse().unwrap()];
    let of_genesis = |genesis: &str| {
        let payer = scene.setting.payer_without_a_node();
        payer.with_rpc_and_genesis(&network, genesis, &urls)
    };
    let state = scene.state_by(&of_genesis(MAINNET).unwrap()).await;
    assert_eq!(state, AuthorizationState::Expired);
    assert!(of_genesis("").is_err());
}

/// What a node says about a transaction that may be the payment.
#[tokio::test(flavor = "multi_thread")]
async fn transaction_that_is_not_fully_read_proves_nothing() {
    let scene = Scene::settled().await;
    let state_if = async |change: fn(&mut Value)| {
        let node = scene.node().await;
        node.rewrites("getTransaction", move |_, mut found| {
            change(&mut found);
            found
        });
        scene.state(&[&node]).await
    };
    for change in [
        (|found| found["meta"] = Value::Null) as fn(&mut Value),
        |found| drop(found.as_object_mut().unwrap().remove("meta")),
        |found| drop(found["meta"].as_object_mut().unwrap().remove("err")),
        |found| found["transaction"][1] = json!("base58"),
        |found| found["transaction"] = found["transaction"][0].take(),
        |found| *found = Value::Null,
    ] {
        assert_eq!(state_if(change).await, AuthorizationState::Unknown);
    }
    let failed = |found: &mut Value| found["meta"]["err"] = json!("AccountNotFound");
    assert_eq!(state_if(failed).await, AuthorizationState::Expired);
}

/// A node need not know when a block was made, and is asked again.
#[tokio::test(flavor = "multi_thread")]
async fn node_without_a_block_time_proves_nothing_and_is_used() {
    let scene = Scene::unsettled().await;
    let (node, other) = (scene.node().await, scene.node().await);
    node.rewrites("getFirstAvailableBlock", |_, _| json!(5));
    for of_all in [true, false] {
        node.rewrites("getBlockTime", move |params, time| {
            match of_all || params[0] == 5 {
                true => Value::Null,
                false => time,
            }
        });
        let state = scene.state(&[&node, &other]).await;
        assert_eq!(state, AuthorizationState::Unknown);
        node.mend();
        node.rewrites("getFirstAvailableBlock", |_, _| json!(5));
    }
    assert_eq!(other.calls("getSlot"), 0);
    assert_eq!(other.calls("getBlockTime"), 0);
}
