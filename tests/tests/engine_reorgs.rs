//! Payments that the chain takes back after success was reported: they come back, or they are reported lost. And lanes whose
//! transactions expire.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, U256};
use alloy::sol_types::SolCall;
use async_trait::async_trait;
use quittance_core::wire::SettleResponse;
use quittance_core::{
    Amount, Chain, Clock, Facilitator, Fault, Finality, Found, Health, LaneId, ManualClock,
    Network, PaymentId, PaymentRequest, Reason, Scheme, Status, Submission, SystemClock, Timestamp,
    Transaction, TransactionId, Watched,
};
use quittance_devnet::{Mining, USDC};
use quittance_engine::{Engine, Event, Outcome, State, Timing};
use quittance_evm::{Evm, EvmConfig, Exact};
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::until;
use quittance_tests::wrapped::Wrapped;
use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tokio::sync::broadcast::Receiver;

/// A watcher without patience, for tests.
const HASTY: Timing = Timing {
    look_every: Duration::from_millis(50),
    resubmit_after: Duration::from_millis(300),
    replace_after: Duration::from_millis(800),
    gone_for: Duration::from_millis(300),
    sweep_every: Duration::from_millis(300),
};

async fn hasty(setting: &Setting, config: EvmConfig) -> Engine {
    setting
        .engine_with(config, |builder| {
            builder.timing(HASTY).settle_wait(Duration::from_secs(8))
        })
        .await
}

async fn settled(engine: &Engine, request: &PaymentRequest) -> SettleResponse {
    let answer = engine.settle(request).await.unwrap();
    assert!(answer.success, "{answer:?}");
    answer
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

/// Somebody else's transactions with the signer's key.
async fn strangers_take_places(setting: &Setting, count: u64) {
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

/// The events so far, by kind.
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

/// Ten were told success, their blocks were taken back, and three of their places were taken by others. Those three were lost
/// without a word: the journal said settled, the authorizations were unused.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_whose_place_a_stranger_took_after_a_reorganisation_is_sent_anew() {
    const COUNT: u64 = 10;
    let setting = Setting::start().await;
    let engine = hasty(&setting, setting.config()).await;
    let mut heard = engine.events();
    let before = snapshot(&setting).await;
    let mut requests = Vec::new();
    for _ in 0..COUNT {
        let request = Setting::request().await;
        settled(&engine, &request).await;
        requests.push(request);
    }
    setting.local.set_mining(Mining::Manual).await.unwrap();
    take_back(&setting, before).await;
    strangers_take_places(&setting, 3).await;
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
    let heard = events(&mut heard);
    assert!(heard["undone"].len() >= 3, "{heard:?}");
    assert_eq!(heard["undone"].len(), heard["restored"].len(), "{heard:?}");
    assert!(!heard.contains_key("lost"), "{heard:?}");
    assert_eq!(setting.received().await, amount(COUNT));
}

/// One row that could not be read kept every other settled payment from being watched.
#[tokio::test(flavor = "multi_thread")]
async fn a_settled_payment_that_cannot_be_read_keeps_no_other_from_being_watched() {
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
    strangers_take_places(&setting, 2).await;
    setting.local.mine().await.unwrap();
    setting.local.set_mining(Mining::Instant).await.unwrap();
    let engine = hasty(&setting, setting.config()).await;
    until("the one that can be read has arrived again", || async {
        setting.received().await == amount(1)
    })
    .await;
    drop(engine);
}

/// Its block was taken back, and before it was included anew the payer had spent the money: the same transaction was included
/// again, without effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_cannot_be_settled_again_is_reported_lost() {
    let setting = Setting::start().await;
    let engine = hasty(&setting, setting.config()).await;
    let mut heard = engine.events();
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
            .any(|(_, sent)| sent.id.as_str() == first.transaction)
    );
    let again = engine.settle(&request).await.unwrap();
    assert_eq!(
        again.error_reason.as_deref(),
        Some(Reason::DUPLICATE_SETTLEMENT.code())
    );
    let verdict = engine.verify(&request).await.unwrap();
    assert!(!verdict.is_valid, "{verdict:?}");
    let heard = events(&mut heard);
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

/// The memory of a hole's first sight died with the process: with a restart every few seconds nothing came back.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_reorganisation_took_back_is_sent_again_at_once_after_a_start() {
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
    // Within the test's time there is one sweep: the one at the start.
    let unhurried = Timing {
        sweep_every: Duration::from_secs(600),
        ..HASTY
    };
    let engine = setting
        .engine_with(setting.config(), |builder| builder.timing(unhurried))
        .await;
    until("all have arrived again", || async {
        setting.received().await == amount(COUNT)
    })
    .await;
    drop(engine);
}

/// Nothing is watched for ever: it costs a call each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_settled_payment_is_watched_until_it_is_deep_and_old_enough() {
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

/// A chain whose transactions are numbered and expire, as those of Stellar and the XRP Ledger: an EVM chain that forgets what
/// was not included in time, and whose node takes nothing that has expired.
struct Expiring {
    evm: Evm,
    lifetime: Duration,
    signed: Mutex<BTreeMap<TransactionId, Instant>>,
    /// Whether nodes say that they take what they are sent, and drop it.
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
impl Chain for Expiring {
    type Read = <Evm as Chain>::Read;
    type Answer = <Evm as Chain>::Answer;
    type Action = <Evm as Chain>::Action;
    type Evidence = <Evm as Chain>::Evidence;
    type Search = <Evm as Chain>::Search;

    fn network(&self) -> &Network {
        self.evm.network()
    }
    fn lanes(&self) -> &[LaneId] {
        self.evm.lanes()
    }
    fn confirmations_required(&self) -> u64 {
        self.evm.confirmations_required()
    }
    fn finality(&self) -> Finality {
        self.evm.finality()
    }
    fn in_flight_max(&self) -> usize {
        self.evm.in_flight_max()
    }
    async fn read(&self, reads: &[Self::Read]) -> Vec<Result<Self::Answer, Fault>> {
        self.evm.read(reads).await
    }
    fn can_batch(&self, batch: &[&Self::Action], next: &Self::Action) -> bool {
        self.evm.can_batch(batch, next)
    }
    async fn next_sequence(&self, lane: &LaneId) -> Result<Option<u64>, Fault> {
        self.evm.next_sequence(lane).await
    }
    async fn prepare(
        &self,
        lane: &LaneId,
        sequence: u64,
        actions: &[&Self::Action],
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
    async fn status(&self, watched: &[Watched]) -> Vec<Result<Status<Self::Evidence>, Fault>> {
        let statuses = self.evm.status(watched).await;
        let each = statuses.into_iter().zip(watched);
        each.map(|(status, sequence)| match status {
            Ok(Status::Pending)
                if sequence
                    .transactions
                    .iter()
                    .all(|sent| self.has_expired(sent)) =>
            {
                Ok(Status::Dropped)
            }
            other => other,
        })
        .collect()
    }
    async fn find(&self, search: &Self::Search) -> Result<Option<Found<Self::Evidence>>, Fault> {
        self.evm.find(search).await
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
        let filler = self.evm.noop(lane, sequence, over).await?;
        Ok(filler.map(|signed| self.remember(signed)))
    }
    async fn health(&self, now: Timestamp) -> Health {
        self.evm.health(now).await
    }
}

/// Its number was still free, so the payment was sent anew behind a hole; for the hole the journal had bytes, which were dead.
/// Neither that payment nor any later one of the lane ever settled.
#[tokio::test(flavor = "multi_thread")]
async fn a_numbered_transaction_that_expires_holds_up_neither_its_payment_nor_its_lane() {
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
            .chain(chain, vec![Arc::new(exact)])
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
    // The node says that it takes what it is sent, until the first transaction has expired and the payment was signed anew.
    until("it was signed anew", || async {
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
