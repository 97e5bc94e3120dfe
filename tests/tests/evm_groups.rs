//! Payments that share a transaction: each is judged by its own logs, and none can take anything
//! from the others.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeMap;
use std::time::Duration;

use alloy::primitives::{Address, B256, U64, U256};
use alloy::signers::SignerSync;
use alloy::sol;
use alloy::sol_types::{Eip712Domain, SolCall, SolStruct};
use futures_util::future::join_all;
use quittance_core::wire::SettleResponse;
use quittance_core::{Amount, Clock, Facilitator, PaymentId, PaymentRequest, Scheme, SystemClock};
use quittance_devnet::{Account, Evm as Local, Mining, USDC};
use quittance_engine::{Engine, Timing};
use quittance_evm::{Evm, Exact, ExactPayer, reason};
use quittance_tests::engine;
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::proxy::Fate;
use quittance_tests::until;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// Short waiting times, for tests.
const HASTY: Timing = engine::HASTY
    .with_resubmit_after(Duration::from_secs(2))
    .with_replace_after(Duration::from_secs(60))
    .with_sweep_every(Duration::from_secs(60));

fn id(setting: &Setting, request: &PaymentRequest) -> PaymentId {
    let exact = Exact::new(&Evm::new(setting.config()).unwrap());
    exact.decode(request, SystemClock.now()).unwrap().info().id
}

async fn pay(payer: &Account) -> PaymentRequest {
    let payer = ExactPayer::new(payer.signer.clone());
    quittance_tests::pay(&payer, &Setting::requirements()).await
}

/// Settles all of these in tasks of their own, on a chain that makes no block: the first alone and
/// all others together, because the node is slow for the first. Returns when all are sent.
async fn sent_together(
    setting: &Setting,
    engine: &Engine,
    requests: &[PaymentRequest],
) -> Vec<JoinHandle<SettleResponse>> {
    setting.local.set_mining(Mining::Manual).await.unwrap();
    let slow = Fate::Slow(Duration::from_millis(1200));
    setting.node.breaks("eth_sendRawTransaction", slow, 1);
    let settling = requests.iter().map(|request| {
        let (engine, request) = (engine.clone(), request.clone());
        tokio::spawn(async move { engine.settle(&request).await.unwrap() })
    });
    let settling: Vec<_> = settling.collect();
    for request in requests {
        let id = id(setting, request);
        until("it was sent", || async {
            let known = engine.settlement(&id).await.unwrap();
            known.is_some_and(|known| known.transaction().is_some())
        })
        .await;
    }
    settling
}

async fn hasty(setting: &Setting) -> Engine {
    let change = |builder: quittance_engine::EngineBuilder| builder.timing(HASTY);
    setting.engine_with(setting.config(), change).await
}

async fn answers(settling: Vec<JoinHandle<SettleResponse>>) -> Vec<SettleResponse> {
    let answers = join_all(settling).await;
    answers.into_iter().map(Result::unwrap).collect()
}

/// The gas that the facilitator's transactions have used, and their number.
async fn gas_used(setting: &Setting, answers: &[SettleResponse]) -> (u64, usize) {
    let mut ids: Vec<&str> = answers.iter().map(|answer| &*answer.transaction).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut gas = 0;
    for id in &ids {
        let receipt: Value = setting
            .local
            .rpc("eth_getTransactionReceipt", (*id,))
            .await
            .unwrap();
        let used: U64 = serde_json::from_value(receipt["gasUsed"].clone()).unwrap();
        gas += used.to::<u64>();
    }
    (gas, ids.len())
}

/// The payer cancels one authorization in a transaction that comes first in the block.
async fn cancel(setting: &Setting, payer: &Account, request: &PaymentRequest) {
    sol! {
        struct CancelAuthorization { address authorizer; bytes32 nonce; }
        function cancelAuthorization(address authorizer, bytes32 nonce, uint8 v, bytes32 r, bytes32 s) external;
    }
    let nonce = request.payload.tree()["authorization"]["nonce"].clone();
    let nonce: B256 = serde_json::from_value(nonce).unwrap();
    let domain = Eip712Domain::new(
        Some("USDC".into()),
        Some("2".into()),
        Some(U256::from(84532)),
        Some(USDC),
        None,
    );
    let message = CancelAuthorization {
        authorizer: payer.address,
        nonce,
    };
    let digest = message.eip712_signing_hash(&domain);
    let signature = payer.signer.sign_hash_sync(&digest).unwrap();
    let call = cancelAuthorizationCall {
        authorizer: payer.address,
        nonce,
        v: 27 + u8::from(signature.v()),
        r: signature.r().into(),
        s: signature.s().into(),
    };
    let first = json!([{ "from": Local::accounts()[9].address, "to": USDC,
        "data": alloy::hex::encode_prefixed(call.abi_encode()),
        "maxFeePerGas": "0xd18c2e2800", "maxPriorityFeePerGas": "0xba43b74000" }]);
    let _: B256 = setting
        .local
        .rpc("eth_sendTransaction", first)
        .await
        .unwrap();
}

/// Typical for an agent: one payer, one seller, one price. Circle's token logs the nonce of each
/// transfer.
#[tokio::test(flavor = "multi_thread")]
async fn equal_payments_in_one_transaction_have_own_outcomes() {
    const COUNT: usize = 12;
    let setting = Setting::start().await;
    let engine = hasty(&setting).await;
    let buyer = Setting::buyer();
    let requests = join_all((0..COUNT).map(|_| pay(&buyer))).await;
    let settling = sent_together(&setting, &engine, &requests).await;
    cancel(&setting, &buyer, &requests[COUNT / 2]).await;
    setting.local.mine().await.unwrap();
    setting.local.set_mining(Mining::Instant).await.unwrap();

    let answers = answers(settling).await;
    for (at, answer) in answers.iter().enumerate() {
        assert_eq!(answer.success, at != COUNT / 2, "{at}: {answer:?}");
    }
    let cancelled = &answers[COUNT / 2];
    let code = cancelled.error_reason.as_deref();
    assert_eq!(code, Some(reason::NONCE_ALREADY_USED.code()));
    let paid = (COUNT - 1) as u64 * PRICE;
    assert_eq!(setting.received().await, Amount::from(paid));
    let (_, transactions) = gas_used(&setting, &answers).await;
    assert!(transactions <= 3, "{transactions} for {COUNT} payments");
}

/// The payment that is first in the transaction that most of them share.
async fn first_of_those_together(
    setting: &Setting,
    engine: &Engine,
    requests: &[PaymentRequest],
    payers: &[Account],
) -> usize {
    let mut together: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, request) in requests.iter().enumerate() {
        let known = engine.settlement(&id(setting, request)).await.unwrap();
        let transaction = known.unwrap().transaction().unwrap().id.to_string();
        together.entry(transaction).or_default().push(at);
    }
    let (transaction, members) = together
        .into_iter()
        .max_by_key(|(_, members)| members.len())
        .unwrap();
    assert!(members.len() > 2, "{members:?}");
    let sent: Value = setting
        .local
        .rpc("eth_getTransactionByHash", (transaction,))
        .await
        .unwrap();
    let input = sent["input"].as_str().unwrap().to_owned();
    let sequence = |at: &usize| input.find(&alloy::hex::encode(payers[*at].address));
    members.into_iter().min_by_key(sequence).unwrap()
}

/// A payer's account gets code after its payment was simulated (EIP-7702), and the code uses all
/// the gas of its call. It gets its own share and nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn payer_code_that_burns_gas_uses_only_its_own_share() {
    const COUNT: usize = 6;
    let setting = Setting::start().await;
    let engine = hasty(&setting).await;
    let payers = &Local::accounts()[2..2 + COUNT];
    let requests = join_all(payers.iter().map(pay)).await;
    let settling = sent_together(&setting, &engine, &requests).await;
    // An endless loop. Of those that were sent together, it is the first.
    let burner = first_of_those_together(&setting, &engine, &requests, payers).await;
    let code = "0x5b600056";
    setting
        .local
        .set_code(payers[burner].address, code)
        .await
        .unwrap();
    setting.local.mine().await.unwrap();
    setting.local.set_mining(Mining::Instant).await.unwrap();

    let answers = answers(settling).await;
    for (at, answer) in answers.iter().enumerate() {
        assert_eq!(answer.success, at != burner, "{at}: {answer:?}");
    }
    let paid = (COUNT - 1) as u64 * PRICE;
    assert_eq!(setting.received().await, Amount::from(paid));
    let (gas, transactions) = gas_used(&setting, &answers).await;
    assert!(transactions <= 3, "the honest ones settle where they were");
    // A transfer takes some 70,000 with its share of the transaction. Its limit is at most twice
    // that.
    assert!(gas < COUNT as u64 * 110_000, "{gas}");
}

/// What sharing a transaction saves, including the cost of creating an account.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_in_a_shared_transaction_costs_less_than_alone() {
    for count in [4, 40] {
        let setting = Setting::start().await;
        let engine = hasty(&setting).await;
        let buyer = Setting::buyer();
        // Once, so that the seller's balance is not a new storage slot in any of the compared
        // payments.
        assert!(engine.settle(&pay(&buyer).await).await.unwrap().success);
        let alone = engine.settle(&pay(&buyer).await).await.unwrap();
        let (alone, _) = gas_used(&setting, &[alone]).await;

        let requests = join_all((0..count).map(|_| pay(&buyer))).await;
        let settling = sent_together(&setting, &engine, &requests).await;
        setting.local.mine().await.unwrap();
        setting.local.set_mining(Mining::Instant).await.unwrap();
        let answers = answers(settling).await;
        assert!(answers.iter().all(|answer| answer.success), "{answers:?}");
        let of = |one: &&SettleResponse| {
            let same = |other: &&SettleResponse| other.transaction == one.transaction;
            answers.iter().filter(same).count()
        };
        let shared = answers.iter().max_by_key(of).unwrap();
        let together = of(&shared) as u64;
        let (all, _) = gas_used(&setting, std::slice::from_ref(shared)).await;
        let each = all / together;
        println!("{together} together: {each} gas each; alone: {alone}");
        assert!(together >= 3 && each < alone, "{together}: {each}, {alone}");
    }
}

/// The program of a shared transaction leaves no contract behind that could be called.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_transaction_leaves_no_code_behind() {
    let setting = Setting::start().await;
    let engine = hasty(&setting).await;
    let buyer = Setting::buyer();
    let requests = join_all((0..4).map(|_| pay(&buyer))).await;
    let settling = sent_together(&setting, &engine, &requests).await;
    setting.local.mine().await.unwrap();
    setting.local.set_mining(Mining::Instant).await.unwrap();
    let answers = answers(settling).await;
    let mut created = 0;
    for answer in &answers {
        let receipt: Value = setting
            .local
            .rpc("eth_getTransactionReceipt", (&*answer.transaction,))
            .await
            .unwrap();
        let Ok(account) = serde_json::from_value::<Address>(receipt["contractAddress"].clone())
        else {
            continue;
        };
        let code: String = setting
            .local
            .rpc("eth_getCode", (account, "latest"))
            .await
            .unwrap();
        assert_eq!(code, "0x");
        created += 1;
    }
    assert!(created >= 2, "{answers:?}");
}

/// A node, or a chain, does not let the signer create contracts. Every payment is sent alone, and
/// settles.
#[tokio::test(flavor = "multi_thread")]
async fn without_contract_creation_payments_are_sent_alone() {
    let setting = Setting::start().await;
    let refusal = Fate::Error(-32000, "the account may not create contracts");
    setting.node.breaks_for_good("eth_estimateGas", refusal);
    let engine = hasty(&setting).await;
    let buyer = Setting::buyer();
    let requests = join_all((0..4).map(|_| pay(&buyer))).await;
    let settling = sent_together(&setting, &engine, &requests).await;
    setting.local.mine().await.unwrap();
    setting.local.set_mining(Mining::Instant).await.unwrap();
    let answers = answers(settling).await;
    assert!(answers.iter().all(|answer| answer.success), "{answers:?}");
    assert_eq!(gas_used(&setting, &answers).await.1, 4);
}
