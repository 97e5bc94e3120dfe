//! Payments that the chain takes back after success was reported: they settle again, or are
//! reported lost. And lanes whose transactions expire.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, U256};
use alloy::sol_types::SolCall;
use async_trait::async_trait;
use quittance_core::{
    Amount, Chain, Clock, Facilitator, Fault, LaneId, ManualClock, PaymentId, PaymentRequest,
    Reason, Scheme, Status, Submission, SystemClock, Transaction, TransactionId, Watched,
};
use quittance_devnet::{Mining, USDC};
use quittance_engine::{Engine, Event, Outcome, State};
use quittance_evm::{Evm, EvmConfig, Exact};
use quittance_tests::engine::{HASTY, settled};
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::until;
use quittance_tests::wrapped::{Changed, Changes, Wrapped};
use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tokio::sync::broadcast::Receiver;

async fn hasty(setting: &Setting, config: EvmConfig) -> Engine {
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
    exact.decode(request, SystemClock.now()).unwrap().info().id
}

async fn state(engine: &Engine, id: &PaymentId) -> State {
    engine.settlement(id).await.unwrap().unwrap().state
}

async fn snapshot(setting: &Setting) -> U256 {
    setting.local.rpc("evm_snapshot", ()).await.unwrap()
}

async fn take_back(setting: &Setting, to: U256) {
    let reverted: bool = setting.local.rpc("evm_revert", (to,)).await.unwrap();
    assert!(reverted);
    assert_eq!(setting.received().await, Amount::ZERO);
}

/// Another program sends transactions with the signer's key.
async fn use_sequence_numbers(setting: &Setting, count: u64) {
    let signer = Setting::signers()[0].address;
    for _ in 0..count {
        let transfer = json!([{ "from": signer, "to": signer, "gas": "0x5208",
            "maxFeePerGas": "0xd18c2e2800", "maxPriorityFeePerGas": "0xba43b74000" }]);
        let _: B256 = setting
            .local
            .rpc("eth_sendTransaction", transfer)
            .await
            .unwrap();
    }
}

/// The events until now, by kind.
fn events(receiver: &mut Receiver<Event>) -> BTreeMap<&'static str, Vec<PaymentId>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    while let Ok(event) = receiver.try_recv() {
        let (kind, id) = match event {
            Event::Undone { settlement, .. } => ("undone", settlement),
            Event::Restored { settlement, .. } => ("restored", settlement),
            Event::Lost { settlement, .. } => ("lost", settlement),
            other => panic!("{other:?}"),
        };
        found.entry(kind).or_default().push(id);
    }
    found
}

/// The success of ten payments was reported, and the chain took their blocks back. Another program
/// used three of their numbers. These three were lost without notice: the journal had them as
/// settled, and their authorizations were unused.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_whose_number_was_used_is_sent_again() {
    const COUNT: u64 = 10;
    let setting = Setting::start().await;
    let engine = hasty(&setting, setting.config()).await;
    let mut received = engine.events();
    let before = snapshot(&setting).await;
    let mut requests = Vec::new();
    for _ in 0..COUNT {
        let request = Setting::request().await;
        settled(&engine, &request).await;
        requests.push(request);
    }
    setting.local.set_mining(Mining::Manual).await.unwrap();
    take_back(&setting, before).await;
    use_sequence_numbers(&setting, 3).await;
    setting.local.mine().await.unwrap();
    setting.local.set_mining(Mining::Instant).await.unwrap();
    until("all have arrived again", || async {
        setting.received().await == amount(COUNT)
    })
    .await;
    for request in &requests {
        let id = id(&setting, request);
        until("it has settled again", || async {
            matches!(
                state(&engine, &id).await,
                State::Concluded(Outcome::Settled { .. })
            )
        })
        .await;
        // Success was reported, and is not reported again.
        let again = engine.settle(request).await.unwrap();
        assert_eq!(
            again.error_reason.as_deref(),
            Some(Reason::DUPLICATE_SETTLEMENT.code())
        );
        assert!(!again.success && !again.transaction.is_empty(), "{again:?}");
    }
    let heard = events(&mut received);
    assert!(heard["undone"].len() >= 3, "{heard:?}");
    assert_eq!(heard["undone"].len(), heard["restored"].len(), "{heard:?}");
    assert!(!heard.contains_key("lost"), "{heard:?}");
    assert_eq!(setting.received().await, amount(COUNT));
}

/// One unreadable row stopped the watching of all settled payments.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_settled_payment_stops_no_watching() {
    let setting = Setting::start().await;
    let engine = hasty(&setting, setting.config()).await;
    let before = snapshot(&setting).await;
    for _ in 0..2 {
        settled(&engine, &Setting::request().await).await;
    }
    engine.shut_down(Duration::ZERO).await;
    drop(engine);
    drop(setting.journal().await);
    let options = SqliteConnectOptions::new().filename(setting.journal_path());
    let mut file = options.connect().await.unwrap();
    sqlx::raw_sql("UPDATE settlements SET amount = 'much' WHERE rowid = 1")
        .execute(&mut file)
        .await
        .unwrap();
    file.close().await.unwrap();
    setting.local.set_mining(Mining::Manual).await.unwrap();
    take_back(&setting, before).await;
    use_sequence_numbers(&setting, 2).await;
    setting.local.mine().await.unwrap();
    setting.local.set_mining(Mining::Instant).await.unwrap();
    let engine = hasty(&setting, setting.config()).await;
    until("the one that can be read has arrived again", || async {
        setting.received().await == amount(1)
    })
    .await;
    drop(engine);
}

/// The block was taken back, and the payer spent the money before the transaction was included
/// again. So the same transaction had no effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_cannot_be_settled_again_is_reported_lost() {
    let setting = Setting::start().await;
    let engine = hasty(&setting, setting.config()).await;
    let mut received = engine.events();
    let before = snapshot(&setting).await;
    let request = Setting::request().await;
    let first = settled(&engine, &request).await;
    setting.local.set_mining(Mining::Manual).await.unwrap();
    take_back(&setting, before).await;
    let buyer = Setting::buyer().address;
    let all = setting.local.balance(USDC, buyer).await.unwrap();
    let spend = json!([{ "from": buyer, "to": USDC, "data": transfer(Address::repeat_byte(0xaa), all),
        "maxFeePerGas": "0xd18c2e2800", "maxPriorityFeePerGas": "0xba43b74000" }]);
    let _: B256 = setting
        .local
        .rpc("eth_sendTransaction", spend)
        .await
        .unwrap();
    setting.local.mine().await.unwrap();
    setting.local.set_mining(Mining::Instant).await.unwrap();
    let id = id(&setting, &request);
    until("it is lost", || async {
        matches!(
            state(&engine, &id).await,
            State::Concluded(Outcome::Lost { .. })
        )
    })
    .await;
    let known = engine.settlement(&id).await.unwrap().unwrap();
    assert!(known.success_reported_at.is_some());
    assert!(
        known
            .transactions
            .iter()
            .any(|signed| signed.transaction.id.as_str() == first.transaction)
    );
    let again = engine.settle(&request).await.unwrap();
    assert_eq!(
        again.error_reason.as_deref(),
        Some(Reason::DUPLICATE_SETTLEMENT.code())
    );
    let verdict = engine.verify(&request).await.unwrap();
    assert!(!verdict.is_valid, "{verdict:?}");
    let heard = events(&mut received);
    assert_eq!(heard["lost"], [id]);
    assert!(!heard.contains_key("restored"), "{heard:?}");
    assert_eq!(setting.received().await, Amount::ZERO);
}

fn transfer(to: Address, amount: U256) -> String {
    alloy::sol! {
        function transfer(address to, uint256 amount) external returns (bool);
    }
    alloy::hex::encode_prefixed(transferCall { to, amount }.abi_encode())
}

/// Only a gap seen twice was repaired, and a restart forgot the first time. With a restart every
/// few seconds, no payment was sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_sends_reorganised_payments_again_at_once() {
    const COUNT: u64 = 5;
    let setting = Setting::start().await;
    let engine = hasty(&setting, setting.config()).await;
    let before = snapshot(&setting).await;
    for _ in 0..COUNT {
        settled(&engine, &Setting::request().await).await;
    }
    engine.shut_down(Duration::ZERO).await;
    drop(engine);
    take_back(&setting, before).await;
    // During the test there is only the sweep at the start.
    let unhurried = HASTY.with_sweep_every(Duration::from_secs(600));
    let engine = setting
        .engine_with(setting.config(), |builder| builder.timing(unhurried))
        .await;
    until("all have arrived again", || async {
        setting.received().await == amount(COUNT)
    })
    .await;
    drop(engine);
}

/// A settled payment is not watched for ever, because each look costs a call.
#[tokio::test(flavor = "multi_thread")]
async fn a_settled_payment_is_watched_until_it_is_final() {
    let setting = Setting::start().await;
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let mut config = setting.config();
    config.final_confirmations = 3;
    config.final_after = Duration::from_secs(60);
    let engine = setting
        .engine_with(config, |builder| {
            builder
                .timing(HASTY)
                .clock(Arc::clone(&clock) as Arc<dyn Clock>)
        })
        .await;
    let request = Setting::request().await;
    settled(&engine, &request).await;
    let id = id(&setting, &request);
    let is_final = async || {
        let known = engine.settlement(&id).await.unwrap().unwrap();
        known.final_at.is_some()
    };
    let looks = Duration::from_millis(1500);
    clock.advance(61);
    tokio::time::sleep(looks).await;
    assert!(!is_final().await, "old enough, and one block deep");
    for _ in 0..2 {
        setting.local.mine().await.unwrap();
    }
    until("it is final", is_final).await;
    let asked = setting.node.calls("eth_getTransactionReceipt");
    tokio::time::sleep(looks).await;
    assert_eq!(setting.node.calls("eth_getTransactionReceipt"), asked);
}

/// A chain whose transactions have sequence numbers and expire, as on Stellar and the XRP Ledger.
/// It is an EVM chain that drops transactions which are not included in time, and refuses expired
/// ones.
struct Expiring {
    evm: Evm,
    lifetime: Duration,
    signed: Mutex<BTreeMap<TransactionId, Instant>>,
    /// Whether nodes accept transactions and drop them.
    drops: Arc<Mutex<bool>>,
}

impl Expiring {
    fn has_expired(&self, transaction: &Transaction) -> bool {
        let signed = self.signed.lock().unwrap();
        let at = signed.get(&transaction.id);
        at.is_none_or(|at| at.elapsed() >= self.lifetime)
    }

    fn remember(&self, transaction: Transaction) -> Transaction {
        let mut signed = self.signed.lock().unwrap();
        signed.insert(transaction.id.clone(), Instant::now());
        transaction
    }
}

#[async_trait]
impl Changes for Expiring {
    fn evm(&self) -> &Evm {
        &self.evm
    }

    async fn prepare(
        &self,
        lane: &LaneId,
        sequence: u64,
        actions: &[&<Evm as Chain>::Action],
    ) -> Result<Transaction, Fault> {
        let signed = self.evm.prepare(lane, sequence, actions).await?;
        Ok(self.remember(signed))
    }

    async fn submit(&self, transaction: &Transaction) -> Submission {
        if *self.drops.lock().unwrap() {
            return Submission::Accepted;
        }
        match self.has_expired(transaction) {
            true => Submission::SequenceUsed,
            false => self.evm.submit(transaction).await,
        }
    }

    async fn status(
        &self,
        watched: &[Watched],
    ) -> Vec<Result<Status<<Evm as Chain>::Evidence>, Fault>> {
        let statuses = self.evm.status(watched).await;
        let has_expired = |watched: &Watched| {
            watched
                .transactions
                .iter()
                .all(|sent| self.has_expired(sent))
        };
        let each = statuses.into_iter().zip(watched);
        each.map(|(status, watched)| match status {
            Ok(Status::Pending) if has_expired(watched) => Ok(Status::Dropped),
            other => other,
        })
        .collect()
    }

    async fn replace(&self, _: &Transaction) -> Result<Option<Transaction>, Fault> {
        Ok(None)
    }

    async fn noop(
        &self,
        lane: &LaneId,
        sequence: u64,
        over: Option<&Transaction>,
    ) -> Result<Option<Transaction>, Fault> {
        let noop = self.evm.noop(lane, sequence, over).await?;
        Ok(noop.map(|signed| self.remember(signed)))
    }
}

/// The number of an expired transaction was free, and the payment was sent with a later one. The
/// journal had only expired bytes for the gap. Neither that payment nor any later one of the lane
/// settled.
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_numbered_transaction_blocks_no_lane() {
    let setting = Setting::start().await;
    let drops = Arc::new(Mutex::new(true));
    let start = async || {
        let evm = Evm::new(setting.config()).unwrap();
        let exact = Wrapped(Exact::new(&evm));
        let chain = Expiring {
            evm,
            lifetime: Duration::from_millis(1500),
            signed: Mutex::default(),
            drops: Arc::clone(&drops),
        };
        Engine::builder(setting.journal().await)
            .chain(Changed(chain), vec![Arc::new(exact)])
            .timing(HASTY)
            .settle_wait(Duration::from_secs(15))
            .start()
            .await
            .unwrap()
    };
    let engine = start().await;
    let request = Setting::request().await;
    let asking = {
        let (engine, request) = (engine.clone(), request.clone());
        tokio::spawn(async move { engine.settle(&request).await.unwrap() })
    };
    let id = id(&setting, &request);
    // The node drops transactions until the first one has expired and the payment was signed again.
    until("it was signed again", || async {
        let known = engine.settlement(&id).await.unwrap();
        known.is_some_and(|known| known.transactions.len() >= 2)
    })
    .await;
    *drops.lock().unwrap() = false;
    let answer = asking.await.unwrap();
    assert!(answer.success, "{answer:?}");
    settled(&engine, &Setting::request().await).await;
    engine.shut_down(Duration::ZERO).await;
    drop(engine);
    let engine = start().await;
    settled(&engine, &Setting::request().await).await;
    assert_eq!(setting.received().await, amount(3));
}
