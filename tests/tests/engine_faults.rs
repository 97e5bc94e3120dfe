//! Settlement under faults of nodes, chains and payers, one at a time and in random schedules.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy::primitives::{B256, U256};
use futures_util::future::join_all;
use quittance_core::wire::SettleResponse;
use quittance_core::{
    Amount, Chain, Check, Effect, Facilitator, FacilitatorError, FaultKind, LaneId, Observed,
    Payment, PaymentId, PaymentInfo, PaymentRequest, Plan, Refusal, Rejection, Scheme,
    SignatureClaim, SystemClock, Timestamp,
};
use quittance_devnet::{Evm as Local, Mining};
use quittance_engine::{Engine, Outcome, State};
use quittance_evm::{Evm, EvmConfig, Exact, ExactPayer};
use quittance_tests::engine::{HASTY, settling};
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::proxy::{Fate, Proxy};
use quittance_tests::until;
use serde_json::{Value, json};

async fn engine_with(setting: &Setting, config: EvmConfig) -> Engine {
    setting
        .engine_with(config, |builder| {
            builder.timing(HASTY).settle_wait(Duration::from_secs(8))
        })
        .await
}

fn amount(count: u64) -> Amount {
    Amount::from(count * PRICE)
}

fn id(setting: &Setting, request: &PaymentRequest) -> PaymentId {
    let exact = Exact::new(&Evm::new(setting.config()).unwrap());
    let now = quittance_core::Clock::now(&SystemClock);
    exact.decode(request, now).unwrap().info().id
}

/// A node accepted the transaction and its answer was lost. The next node refused the transaction.
/// The engine believed the refusal and released the payment, while the money was transferred.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_nodes_refusal_does_not_release_a_payment() {
    let setting = Setting::start().await;
    let second = Proxy::before(setting.local.url()).await;
    setting
        .node
        .breaks("eth_sendRawTransaction", Fate::AnswerLost, 1);
    let refusal = Fate::Error(-32000, "insufficient funds for gas * price + value");
    second.breaks_for_good("eth_sendRawTransaction", refusal);
    let mut config = setting.config();
    config.rpc_urls.push(second.url().parse().unwrap());
    let engine = engine_with(&setting, config).await;
    let request = Setting::request().await;
    let answer = engine.settle(&request).await.unwrap();
    assert!(answer.success, "{answer:?}");
    assert_eq!(second.calls("eth_sendRawTransaction"), 1);
    assert_eq!(setting.received().await, amount(1));
}

/// A node that is behind answers with an error for a state that it does not have. The next node has
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_without_an_answer_goes_to_the_next_node() {
    let setting = Setting::start().await;
    let second = Proxy::before(setting.local.url()).await;
    let behind = Fate::Error(-32000, "header not found");
    setting.node.breaks_for_good("eth_call", behind.clone());
    setting
        .node
        .breaks_for_good("eth_getTransactionReceipt", behind);
    let mut config = setting.config();
    config.rpc_urls.push(second.url().parse().unwrap());
    let engine = engine_with(&setting, config).await;
    let answer = engine.settle(&Setting::request().await).await.unwrap();
    assert!(answer.success, "{answer:?}");
}

/// The first node was stale and answered every question. Settled payments looked pending for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_node_is_asked_last() {
    let setting = Setting::start().await;
    let second = Proxy::before(setting.local.url()).await;
    let old = json!({ "timestamp": "0x1" });
    setting
        .node
        .breaks_for_good("eth_getBlockByNumber", Fate::Result(old));
    // Its own answers would be wrong.
    setting
        .node
        .breaks_for_good("eth_getTransactionReceipt", Fate::Result(Value::Null));
    let mut config = setting.config();
    config.rpc_urls.push(second.url().parse().unwrap());
    config.head_age_max = Some(Duration::from_secs(3600));
    let engine = engine_with(&setting, config).await;
    let answer = engine.settle(&Setting::request().await).await.unwrap();
    assert!(answer.success, "{answer:?}");
    assert_eq!(setting.node.calls("eth_getTransactionReceipt"), 0);
}

/// A refused transaction was withdrawn, and the same bytes were signed again. They stayed
/// withdrawn, so the engine did not look for them after a crash.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_signed_again_is_known_after_a_crash() {
    let setting = Setting::with_mining(Mining::Manual).await;
    let engine = engine_with(&setting, setting.config()).await;
    let request = Setting::request().await;
    let full = Fate::Error(-32000, "txpool is full");
    setting.node.breaks("eth_sendRawTransaction", full, 1);
    match engine.settle(&request).await {
        Err(FacilitatorError::Fault(fault)) => assert_eq!(fault.kind, FaultKind::ChainUnavailable),
        other => panic!("{other:?}"),
    }
    let asking = settling(&engine, &request);
    let id = id(&setting, &request);
    until("it is in the pool", || async {
        let status: Value = setting.local.rpc("txpool_status", ()).await.unwrap();
        status["pending"] == "0x1"
    })
    .await;
    asking.abort();
    engine.shut_down(Duration::ZERO).await;
    drop(engine);
    setting.local.set_mining(Mining::Instant).await.unwrap();
    setting.local.mine().await.unwrap();
    let engine = engine_with(&setting, setting.config()).await;
    let answer = engine.settle(&request).await.unwrap();
    assert!(answer.success, "{answer:?}");
    let known = engine.settlement(&id).await.unwrap().unwrap();
    assert_eq!(known.transactions.len(), 1);
    assert_eq!(setting.received().await, amount(1));
}

/// The chain took back a block after the success of its payment was reported. The signer's next
/// transactions waited behind the missing one for ever, and the seller was not paid.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_taken_back_after_success_is_sent_again() {
    let setting = Setting::start().await;
    let engine = engine_with(&setting, setting.config()).await;
    let before: U256 = setting.local.rpc("evm_snapshot", ()).await.unwrap();
    for _ in 0..3 {
        let answer = engine.settle(&Setting::request().await).await.unwrap();
        assert!(answer.success, "{answer:?}");
    }
    let reverted: bool = setting.local.rpc("evm_revert", (before,)).await.unwrap();
    assert!(reverted);
    assert_eq!(setting.received().await, Amount::ZERO);
    let answer = engine.settle(&Setting::request().await).await.unwrap();
    assert!(answer.success, "{answer:?}");
    until("all four have arrived", || async {
        setting.received().await == amount(4)
    })
    .await;
}

/// Some nodes return receipts of the block that is being built (Base's Flashblocks). Others keep
/// receipts of replaced blocks. Success was reported for a transaction that was in no block.
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_without_a_block_is_not_an_inclusion() {
    let setting = Setting::with_mining(Mining::Manual).await;
    let engine = engine_with(&setting, setting.config()).await;
    let receipt = Arc::new(Mutex::new(Value::Null));
    let answered = Arc::clone(&receipt);
    setting
        .node
        .rewrites("eth_getTransactionReceipt", move |_, _| {
            answered.lock().unwrap().clone()
        });
    let asking = settling(&engine, &Setting::request().await);
    until("the node has it", || async {
        let status: Value = setting.local.rpc("txpool_status", ()).await.unwrap();
        status["pending"] == "0x1"
    })
    .await;
    let before: U256 = setting.local.rpc("evm_snapshot", ()).await.unwrap();
    setting.local.mine().await.unwrap();
    let block: Value = setting
        .local
        .rpc("eth_getBlockByNumber", ("latest", false))
        .await
        .unwrap();
    let hash = block["transactions"][0].clone();
    let real: Value = setting
        .local
        .rpc("eth_getTransactionReceipt", (hash,))
        .await
        .unwrap();
    assert_eq!(real["status"], "0x1");
    let reverted: bool = setting.local.rpc("evm_revert", (before,)).await.unwrap();
    assert!(reverted);
    let not_yet = async |why: &str| {
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(!asking.is_finished(), "{why}");
    };
    receipt.lock().unwrap().clone_from(&real);
    not_yet("the block is above the newest").await;
    let mut preconfirmed = real.clone();
    preconfirmed["blockHash"] = json!(B256::ZERO);
    *receipt.lock().unwrap() = preconfirmed;
    not_yet("the block is being built").await;
    assert_eq!(setting.received().await, Amount::ZERO);
    *receipt.lock().unwrap() = real;
    setting.local.mine().await.unwrap();
    not_yet("another block is at its height").await;
    setting.node.mend();
    setting.local.set_mining(Mining::Instant).await.unwrap();
    let answer = asking.await.unwrap().unwrap();
    assert!(answer.success, "{answer:?}");
    assert_eq!(setting.received().await, amount(1));
}

/// Another program used the signer's key with a lower number than ours, and the node dropped its
/// transaction. No bytes for that number were known, and all later transactions waited.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_without_known_bytes_is_filled() {
    let setting = Setting::with_mining(Mining::Manual).await;
    let signer = Setting::signers()[0].address;
    let other = json!([{ "from": signer, "to": signer, "gas": "0x5208" }]);
    let theirs: B256 = setting
        .local
        .rpc("eth_sendTransaction", other)
        .await
        .unwrap();
    setting.local.mine().await.unwrap();
    let engine = engine_with(&setting, setting.config()).await;
    let request = Setting::request().await;
    let asking = settling(&engine, &request);
    until("it was sent", || async {
        setting.node.calls("eth_sendRawTransaction") > 0
    })
    .await;
    // The other block is orphaned, and the next one does not have its transaction.
    let _: Value = setting
        .local
        .rpc("anvil_reorg", (1, Vec::<Value>::new()))
        .await
        .unwrap();
    let _: Option<B256> = setting
        .local
        .rpc("anvil_dropTransaction", (theirs,))
        .await
        .unwrap();
    assert_eq!(setting.sent(signer).await, 0);
    setting.local.set_mining(Mining::Instant).await.unwrap();
    let answer = asking.await.unwrap().unwrap();
    assert!(answer.success, "{answer:?}");
    assert_eq!(setting.received().await, amount(1));
    assert_eq!(setting.sent(signer).await, 2);
}

/// A payer gave its account code after verification (EIP-7702). The code used up the gas of the
/// whole transaction, and all payments in it were reported as failed although the others were
/// valid.
#[tokio::test(flavor = "multi_thread")]
async fn a_payer_that_burns_gas_spoils_no_other_payment() {
    const COUNT: usize = 5;
    let setting = Setting::start().await;
    let engine = engine_with(&setting, setting.config()).await;
    let payers = &Local::accounts()[2..2 + COUNT];
    let requirements = Setting::requirements();
    let mut requests = Vec::new();
    for payer in payers {
        requests.push(
            quittance_tests::pay(&ExactPayer::new(payer.signer.clone()), &requirements).await,
        );
    }
    setting.local.set_mining(Mining::Manual).await.unwrap();
    let asking: Vec<_> = requests
        .iter()
        .map(|request| settling(&engine, request))
        .collect();
    for request in &requests {
        let id = id(&setting, request);
        until("it was sent", || async {
            let known = engine.settlement(&id).await.unwrap();
            known.is_some_and(|known| known.transaction().is_some())
        })
        .await;
    }
    // The code is an endless loop.
    let burner = payers[2].address;
    setting.local.set_code(burner, "0x5b600056").await.unwrap();
    setting.local.mine().await.unwrap();
    setting.local.set_mining(Mining::Instant).await.unwrap();
    for (at, answer) in join_all(asking).await.into_iter().enumerate() {
        let answer = answer.unwrap().unwrap();
        assert_eq!(answer.success, at != 2, "{at}: {answer:?}");
    }
    assert_eq!(setting.received().await, amount(COUNT as u64 - 1));
}

/// A scheme with a mistake: it panics when it judges the transaction of one payment.
struct Panicky {
    exact: Exact,
    over: PaymentId,
}

struct PanickyPayment {
    payment: Box<dyn Payment<Evm>>,
    over: PaymentId,
}

impl Scheme<Evm> for Panicky {
    fn name(&self) -> &str {
        Scheme::<Evm>::name(&self.exact)
    }
    fn assets(&self) -> Vec<String> {
        Scheme::<Evm>::assets(&self.exact)
    }
    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<Evm>>, Refusal> {
        let payment = self.exact.decode(request, now)?;
        let over = self.over;
        Ok(Box::new(PanickyPayment { payment, over }))
    }
}

impl Payment<Evm> for PanickyPayment {
    fn info(&self) -> &PaymentInfo {
        self.payment.info()
    }
    fn signatures(&self) -> &[SignatureClaim] {
        self.payment.signatures()
    }
    fn check(&self, observed: &Observed<'_, Evm>) -> Result<Check<Evm>, Rejection> {
        self.payment.check(observed)
    }
    fn plan(
        &self,
        amount: Amount,
        observed: &Observed<'_, Evm>,
    ) -> Result<Plan<<Evm as Chain>::Action>, Rejection> {
        self.payment.plan(amount, observed)
    }
    fn sender(&self, observed: &Observed<'_, Evm>) -> Option<LaneId> {
        self.payment.sender(observed)
    }
    fn effect(&self, amount: Amount, evidence: &<Evm as Chain>::Evidence) -> Effect {
        assert_ne!(self.info().id, self.over, "a mistake");
        self.payment.effect(amount, evidence)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheme_panic_blocks_no_other_payment() {
    let setting = Setting::start().await;
    let request = Setting::request().await;
    let over = id(&setting, &request);
    let evm = Evm::new(setting.config()).unwrap();
    let exact = Exact::new(&evm);
    let engine = Engine::builder(setting.journal().await)
        .chain(evm, vec![Arc::new(Panicky { exact, over })])
        .timing(HASTY)
        .settle_wait(Duration::from_secs(8))
        .start()
        .await
        .unwrap();
    let spoilt = engine.settle(&request).await;
    assert!(!spoilt.is_ok_and(|answer| answer.success));
    for _ in 0..3 {
        let answer = engine.settle(&Setting::request().await).await.unwrap();
        assert!(answer.success, "{answer:?}");
    }
    // It is not reported as failed. Once the mistake is corrected, it is still open, with its
    // transaction.
    let known = engine.settlement(&over).await.unwrap().unwrap();
    assert_eq!(known.state, State::Open);
    engine.shut_down(Duration::ZERO).await;
    drop(engine);
    let engine = engine_with(&setting, setting.config()).await;
    let answer = engine.settle(&request).await.unwrap();
    assert!(answer.success, "{answer:?}");
    assert_eq!(setting.received().await, amount(4));
}

/// SplitMix64: the schedule of a seed is the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// One fault of the node.
fn fault(random: &mut Random) -> (&'static str, Fate, usize) {
    let method = [
        "eth_sendRawTransaction",
        "eth_sendRawTransaction",
        "eth_getTransactionReceipt",
        "eth_getTransactionCount",
        "eth_call",
        "eth_feeHistory",
        "eth_blockNumber",
    ][random.below(7)];
    let fate = match random.below(7) {
        0 => Fate::Status(503),
        1 => Fate::Status(429),
        2 => Fate::AnswerLost,
        3 => Fate::Hangs,
        4 => Fate::Error(-32000, "txpool is full"),
        5 => Fate::Error(-32603, "internal error"),
        _ => Fate::Text("<html>"),
    };
    (method, fate, 1 + random.below(3))
}

/// Checks the books after a schedule. Each authorization settled at most once and was reported at
/// most once. The journal has every success, every transfer to the seller, and every transaction of
/// the signer.
async fn the_books_agree(
    setting: &Setting,
    engine: &Engine,
    requests: &[PaymentRequest],
    reported: &[bool],
) {
    let mut settled = 0;
    let mut known_transactions = BTreeSet::new();
    for (request, reported) in requests.iter().zip(reported) {
        let Some(known) = engine.settlement(&id(setting, request)).await.unwrap() else {
            assert!(!reported, "reported, and never claimed");
            continue;
        };
        for signed in &known.transactions {
            let transaction = &signed.transaction;
            known_transactions.insert((transaction.sequence, transaction.id.clone()));
        }
        let is_settled = matches!(known.state, State::Concluded(Outcome::Settled { .. }));
        settled += u64::from(is_settled);
        assert!(
            !reported || is_settled,
            "reported, and not settled: {known:?}"
        );
        assert_eq!(known.success_reported_at.is_some(), *reported, "{known:?}");
    }
    assert_eq!(setting.received().await, amount(settled));
    let signer = Setting::signers()[0].address;
    let sent = setting.sent(signer).await;
    let sequences: BTreeSet<u64> = known_transactions
        .iter()
        .map(|(sequence, _)| *sequence)
        .collect();
    let journal_has = (0..sent)
        .filter(|sequence| sequences.contains(sequence))
        .count() as u64;
    // The other transactions only fill gaps.
    assert!(journal_has + 3 >= sent, "{sent} sent, {journal_has} known");
}

fn count(reported: &mut [usize], answers: Vec<(usize, Result<SettleResponse, FacilitatorError>)>) {
    for (at, answer) in answers {
        reported[at] += usize::from(answer.is_ok_and(|answer| answer.success));
    }
}

async fn survive(seed: u64) {
    const PAYMENTS: usize = 24;
    let mut random = Random(seed);
    let setting = Setting::start().await;
    let mut config = setting.config();
    config.rpc_timeout = Duration::from_millis(300);
    let start = async || {
        setting
            .engine_with(config.clone(), |builder| {
                builder
                    .timing(HASTY)
                    .settle_wait(Duration::from_millis(400))
            })
            .await
    };
    let mut requests = Vec::new();
    for at in 0..PAYMENTS {
        let payer = &Local::accounts()[2 + at % 6];
        let payer = ExactPayer::new(payer.signer.clone());
        requests.push(quittance_tests::pay(&payer, &Setting::requirements()).await);
    }
    let mut reported = vec![0; PAYMENTS];
    let mut engine = start().await;
    for _ in 0..6 {
        for _ in 0..random.below(4) {
            let (method, fate, times) = fault(&mut random);
            setting.node.breaks(method, fate, times);
        }
        let asked: Vec<usize> = (0..8).map(|_| random.below(PAYMENTS)).collect();
        let asking = asked.iter().map(|&at| {
            let engine = engine.clone();
            let request = requests[at].clone();
            async move { (at, engine.settle(&request).await) }
        });
        count(&mut reported, join_all(asking).await);
        match random.below(4) {
            0 => {
                engine.shut_down(Duration::ZERO).await;
                drop(engine);
                engine = start().await;
            }
            1 => {
                let _: Value = setting.local.rpc("anvil_mine", (2,)).await.unwrap();
            }
            2 => setting.local.set_mining(Mining::Manual).await.unwrap(),
            _ => setting.local.set_mining(Mining::Instant).await.unwrap(),
        }
    }
    setting.node.mend();
    setting.local.set_mining(Mining::Instant).await.unwrap();
    setting.local.mine().await.unwrap();
    // Callers without an answer retry until every payment is settled and reported.
    for _ in 0..100 {
        let open = (0..PAYMENTS).map(|at| {
            let (engine, request) = (engine.clone(), requests[at].clone());
            async move { (at, engine.settle(&request).await) }
        });
        count(&mut reported, join_all(open).await);
        if reported.iter().all(|reported| *reported > 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(engine.in_progress(), 0, "seed {seed}");
    assert!(
        reported.iter().all(|reported| *reported <= 1),
        "seed {seed}: {reported:?}"
    );
    let reported: Vec<bool> = reported.iter().map(|reported| *reported == 1).collect();
    assert!(
        reported.iter().all(|reported| *reported),
        "seed {seed}: all succeed: {reported:?}"
    );
    the_books_agree(&setting, &engine, &requests, &reported).await;
}

/// Any mix of node faults, engine restarts and missing blocks: no payment is lost, and none is paid
/// or reported twice. `QUITTANCE_SOAK` sets the number of schedules; `make soak` runs many.
#[tokio::test(flavor = "multi_thread")]
async fn the_books_agree_after_any_schedule_of_faults() {
    let schedules = std::env::var("QUITTANCE_SOAK")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(2);
    for seed in 0..schedules {
        survive(seed).await;
    }
}
