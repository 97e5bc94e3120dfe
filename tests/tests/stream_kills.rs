//! A seller or a facilitator is killed (`kill -9`) under running streams. The judge reads the
//! chain: what was paid is what was delivered, and at most one tick differs. The ticks are those of
//! the example scheme `per-second`, or vouchers of channels whose books either side keeps.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::U256;
use axum::Router;
use axum::routing::get;
use futures_util::future::join_all;
use quittance_buyer::{Buyer, Limits, PaidStream, StreamCost};
use quittance_core::Amount;
use quittance_devnet::{Account, Evm as Local, USDC};
use quittance_engine::{Engine, Journal, SqliteJournal, Timing};
use quittance_evm::batch::{
    BatchConfig, BatchSettlement, ChannelBook, ChannelOffer, ChannelPayer, Channels, ClaimRules,
    UpkeepTask,
};
use quittance_evm::{Evm, EvmConfig, known};
use quittance_examples::{PerSecond, PerSecondOffer, PerSecondPayer};
use quittance_http::RemoteFacilitator;
use quittance_seller::{PaymentLayer, StreamLimits};
use quittance_service::{Keys, ServerOptions, ServiceOptions, router, serve};
use quittance_tests::channels::channel_state;
use quittance_tests::evm::Setting;
use quittance_tests::streams::count;
use quittance_tests::{engine, open_journal, until};
use quittance_verify::VerifierQueue;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

const NETWORK: &str = "base-sepolia";

/// The price of a tick in USDC, and in atomic units.
const PRICE: &str = "0.001";
const UNITS: u64 = 1_000;

/// A stream by `per-second` is settled after this time without a tick: longer than a restart takes
/// on a busy machine.
const QUIET_SECS: u64 = 15;

/// Short pauses between looks at what is due.
const HASTY: Timing = engine::HASTY.with_sweep_every(Duration::from_millis(300));

/// The key of the seller at the facilitator, which owns the channels there.
const CALLER: &str = "open sesame";

/// How many chunks of a stream come before the kill, and how many after it if the stream goes on.
const BEFORE: u64 = 5;
const AFTER: u64 = 20;

/// The moments of the kills, in milliseconds after the chunks before: within the payments of some
/// ticks.
const MOMENTS: [u64; 2] = [3, 11];

/// How many streams run at each kill.
const CUSTOMERS: usize = 3;

/// What a buyer deposits for all of them, in USDC: no deposit is made while processes are killed.
const DEPOSIT: &str = "0.1";

/// The environment of the processes that a test kills.
const PORT: &str = "STREAM_TEST_PORT";
const NODE: &str = "STREAM_TEST_NODE";
const JOURNAL: &str = "STREAM_TEST_JOURNAL";
const FACILITATOR: &str = "STREAM_TEST_FACILITATOR";
const TICKS: &str = "STREAM_TEST_TICKS";

/// What the ticks of a stream are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ticks {
    /// Payments of the example scheme.
    PerSecond,
    /// Vouchers whose books the seller keeps.
    SellersVouchers,
    /// Vouchers whose books the facilitator keeps.
    FacilitatorsVouchers,
}

impl FromStr for Ticks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [
            Self::PerSecond,
            Self::SellersVouchers,
            Self::FacilitatorsVouchers,
        ];
        let mut all = all.into_iter();
        let found = all.find(|ticks| format!("{ticks:?}") == text);
        found.ok_or_else(|| text.to_owned())
    }
}

/// The process that is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Facilitator,
    Seller,
}

async fn listener() -> TcpListener {
    let port: u16 = std::env::var(PORT).unwrap().parse().unwrap();
    // The port may still be that of the process that was killed.
    loop {
        match TcpListener::bind(("127.0.0.1", port)).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// A facilitator of all kinds of ticks. It claims what channels owe as soon as it can.
async fn start_engine(node: &str, journal: &Path) -> Engine {
    let network = known::network(NETWORK).unwrap();
    let signer = Setting::signers()[0].signer.clone();
    let authorizer = signer.address();
    let mut config = EvmConfig::new(network, vec![node.parse().unwrap()], vec![Arc::new(signer)]);
    config.head_age_max = None;
    let evm = Evm::new(config).unwrap();
    let mut settings = BatchConfig::default();
    settings.authorizer = Some(authorizer);
    settings.keeps_vouchers = true;
    settings.claims = ClaimRules::new(1, u128::MAX);
    let batch = BatchSettlement::new(&evm).with_config(settings).unwrap();
    let per_second = PerSecond::new(&evm, QUIET_SECS);
    let builder = Engine::builder(open_journal(journal).await);
    let builder = builder.chain(evm, vec![Arc::new(per_second), Arc::new(batch)]);
    builder.timing(HASTY).start().await.unwrap()
}

/// Not a test by itself: the facilitator's process.
#[tokio::test(flavor = "multi_thread")]
async fn run_a_facilitator() {
    let Ok(node) = std::env::var(NODE) else {
        return;
    };
    let journal = std::env::var(JOURNAL).unwrap();
    let engine = start_engine(&node, Path::new(&journal)).await;
    let options = ServiceOptions::new(Keys::new(&[CALLER.to_owned().into()]));
    let never = std::future::pending();
    serve(
        router(engine, options),
        listener().await,
        ServerOptions::default(),
        never,
    )
    .await;
}

/// The route of a seller, and the upkeep of its channels.
async fn shop(
    ticks: Ticks,
    facilitator: RemoteFacilitator,
    store: &Path,
) -> (Router, Option<UpkeepTask>) {
    let seller = Setting::seller();
    let address = seller.address.to_string();
    let facilitator = Arc::new(facilitator);
    let channel_offer = || {
        let offer = ChannelOffer::usdc(NETWORK, PRICE, &address).unwrap();
        offer.with_min_deposit(DEPOSIT).unwrap()
    };
    let (layer, upkeep) = match ticks {
        Ticks::PerSecond => {
            let offer = PerSecondOffer::usdc(NETWORK, PRICE, &address).unwrap();
            (PaymentLayer::new(facilitator).accept(offer), None)
        }
        Ticks::FacilitatorsVouchers => {
            let layer = PaymentLayer::new(facilitator).accept(channel_offer());
            (layer, None)
        }
        Ticks::SellersVouchers => {
            let store = Arc::new(SqliteJournal::open(store).await.unwrap());
            let verifier = Arc::new(VerifierQueue::start().unwrap());
            let channels = Channels::new(NETWORK, facilitator, store, verifier, seller.signer);
            // Everything that is charged is due at once.
            let channels = channels.unwrap().with_claim_rules(ClaimRules::new(1, 1));
            let offer = channel_offer().with_authorizer(channels.authorizer());
            let upkeep = channels.spawn_upkeep();
            let layer = PaymentLayer::new(Arc::new(channels)).accept(offer);
            (layer, Some(upkeep))
        }
    };
    let limits = StreamLimits::default().idle(Duration::from_secs(10));
    let route = get(count).layer(layer.streaming(limits));
    (Router::new().route("/count", route), upkeep)
}

/// Not a test by itself: the seller's process.
#[tokio::test(flavor = "multi_thread")]
async fn run_a_seller() {
    let Ok(facilitator) = std::env::var(FACILITATOR) else {
        return;
    };
    let facilitator = RemoteFacilitator::new(&facilitator).unwrap();
    let facilitator = facilitator.with_key(CALLER.to_owned().into());
    let ticks = std::env::var(TICKS).unwrap().parse().unwrap();
    let store = std::env::var(JOURNAL).unwrap();
    let (shop, _upkeep) = shop(ticks, facilitator, Path::new(&store)).await;
    axum::serve(listener().await, shop).await.unwrap();
}

fn process(name: &str, environment: &[(&str, &str)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .envs(environment.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port().to_string()
}

/// A facilitator and a seller, each a process of its own.
struct Processes {
    ticks: Ticks,
    node: String,
    /// The facilitator's journal and the seller's store.
    journal: PathBuf,
    store: PathBuf,
    ports: [String; 2],
    facilitator: Child,
    seller: Child,
}

impl Processes {
    async fn start(setting: &Setting, ticks: Ticks) -> Self {
        let node = setting.local.url().to_owned();
        let journal = setting.journal_path();
        let store = journal.with_file_name("channels.db");
        let ports = [free_port().await, free_port().await];
        Self {
            facilitator: Self::facilitator(&node, &journal, &ports),
            seller: Self::seller(ticks, &store, &ports),
            ticks,
            node,
            journal,
            store,
            ports,
        }
    }

    fn facilitator(node: &str, journal: &Path, ports: &[String; 2]) -> Child {
        let journal = journal.to_str().unwrap();
        let environment = [(NODE, node), (JOURNAL, journal), (PORT, &ports[0])];
        process("run_a_facilitator", &environment)
    }

    fn seller(ticks: Ticks, store: &Path, ports: &[String; 2]) -> Child {
        let facilitator = format!("http://127.0.0.1:{}", ports[0]);
        let environment = [
            (FACILITATOR, facilitator.as_str()),
            (TICKS, &format!("{ticks:?}")),
            (JOURNAL, store.to_str().unwrap()),
            (PORT, &ports[1]),
        ];
        process("run_a_seller", &environment)
    }

    /// `kill -9`, and a new process at the same address.
    async fn restart(&mut self, victim: Victim) {
        let process = match victim {
            Victim::Facilitator => &mut self.facilitator,
            Victim::Seller => &mut self.seller,
        };
        process.kill().await.unwrap();
        *process = match victim {
            Victim::Facilitator => Self::facilitator(&self.node, &self.journal, &self.ports),
            Victim::Seller => Self::seller(self.ticks, &self.store, &self.ports),
        };
    }

    /// The seller's route, once both processes are up.
    async fn url(&self) -> String {
        let url = format!("http://127.0.0.1:{}/count", self.ports[1]);
        let http = reqwest::Client::new();
        until("the seller has something to sell", || async {
            let answer = http.get(&url).send().await;
            answer.is_ok_and(|it| it.status() == reqwest::StatusCode::PAYMENT_REQUIRED)
        })
        .await;
        url
    }

    /// Waits until everything that was charged is on the chain.
    async fn claim(&mut self, setting: &Setting) {
        let books = match self.ticks {
            Ticks::PerSecond => return tokio::time::sleep(Duration::from_secs(QUIET_SECS)).await,
            Ticks::FacilitatorsVouchers => self.journal.clone(),
            Ticks::SellersVouchers => {
                // Its upkeep runs once at the start, and then every minute.
                self.restart(Victim::Seller).await;
                self.store.clone()
            }
        };
        until("all charges are claimed", || async {
            let journal = SqliteJournal::open_read_only(&books).await.unwrap();
            let records = journal.states(None, 100).await.unwrap();
            let claimed = records.iter().map(|stored| async {
                let book = ChannelBook::read(&stored.record).unwrap();
                let (_, claimed) = channel_state(setting, &book.config).await;
                assert!(claimed <= book.charged, "{book:?}");
                claimed == book.charged
            });
            join_all(claimed)
                .await
                .into_iter()
                .all(|is_claimed| is_claimed)
        })
        .await;
    }
}

/// A buyer of one stream at a time.
struct Customer {
    account: Account,
    buyer: Buyer,
    books: PathBuf,
}

impl Customer {
    fn new(ticks: Ticks, account: Account, folder: &Path) -> Self {
        let books = folder.join(account.address.to_string());
        let buyer = Buyer::builder();
        let buyer = match ticks {
            Ticks::PerSecond => {
                buyer.payer(PerSecondPayer::new(account.signer.clone(), QUIET_SECS - 1))
            }
            Ticks::SellersVouchers | Ticks::FacilitatorsVouchers => {
                let payer = ChannelPayer::new(account.signer.clone());
                let limits = Limits::default().per_stream("0.2").locked("0.2");
                buyer.payer(payer.in_folder(&books).unwrap()).limits(limits)
            }
        };
        Self {
            buyer: buyer.build().unwrap(),
            account,
            books,
        }
    }

    /// What the seller has got of it, in atomic units by the chain.
    async fn paid(&self, setting: &Setting) -> u64 {
        let books = quittance_evm::batch::read_books(&self.books).unwrap();
        if let Some(book) = books.first() {
            let (_, claimed) = channel_state(setting, &book.config).await;
            return claimed.try_into().unwrap();
        }
        let balance = setting.local.balance(USDC, self.account.address).await;
        (FUNDS - balance.unwrap()).to()
    }
}

/// What each account of the local chain has at first, in atomic units of USDC.
const FUNDS: U256 = U256::from_limbs([1_000_000_000_000, 0, 0, 0]);

/// Reads at most this many chunks. Returns how many came.
async fn read(stream: &mut PaidStream, most: u64) -> u64 {
    let mut chunks = 0;
    while chunks < most {
        match stream.chunk().await {
            Ok(Some(_)) => chunks += 1,
            Ok(None) | Err(_) => break,
        }
    }
    chunks
}

/// How a stream has ended for its buyer.
struct Ended {
    chunks: u64,
    cost: StreamCost,
    problem: Option<String>,
}

/// Reads a stream while a process is killed. `reached` gets a permit once the chunks before the
/// kill have come.
async fn buy(customer: &Customer, url: &str, reached: &Semaphore) -> Ended {
    let mut stream = customer.buyer.stream(url).await.unwrap();
    let mut chunks = read(&mut stream, BEFORE).await;
    reached.add_permits(1);
    chunks += read(&mut stream, AFTER).await;
    let problem = stream.problem().map(ToString::to_string);
    Ended {
        chunks,
        cost: stream.stop().await,
        problem,
    }
}

/// Several streams run, one of the processes is killed, and the chain says what each stream cost.
async fn kill_under_streams(ticks: Ticks, victim: Victim) {
    let setting = Setting::start().await;
    let mut processes = Processes::start(&setting, ticks).await;
    let folder = tempfile::tempdir().unwrap();
    // Each buys one stream, at once with the others. A voucher that the killed seller has verified
    // keeps its channel for a minute, so each kill has customers of its own.
    let accounts = Local::accounts();
    for (moment, accounts) in MOMENTS.into_iter().zip(accounts[2..].chunks(CUSTOMERS)) {
        let customers = accounts.iter().cloned();
        let customers = customers.map(|account| Customer::new(ticks, account, folder.path()));
        let customers: Vec<_> = customers.collect();
        let url = processes.url().await;
        let before = join_all(customers.iter().map(|it| it.paid(&setting))).await;
        let all = u32::try_from(customers.len()).unwrap();
        let reached = Semaphore::new(0);
        let streams = customers.iter().map(|it| buy(it, &url, &reached));
        let killing = async {
            drop(reached.acquire_many(all).await);
            tokio::time::sleep(Duration::from_millis(moment)).await;
            processes.restart(victim).await;
        };
        let (streams, ()) = tokio::join!(join_all(streams), killing);
        // Both processes are needed for what is left to do.
        processes.url().await;
        processes.claim(&setting).await;
        for ((customer, before), ended) in customers.iter().zip(before).zip(streams) {
            let Ended {
                chunks,
                cost,
                problem,
            } = ended;
            until("the stream is paid", || async {
                customer.paid(&setting).await > before
            })
            .await;
            let paid = customer.paid(&setting).await - before;
            assert_eq!(paid % UNITS, 0);
            let paid = paid / UNITS;
            println!(
                "{ticks:?}, {victim:?} after {moment} ms: {chunks} chunks, {paid} ticks paid, {cost:?}"
            );
            assert!(chunks <= paid && paid <= chunks + 1, "{problem:?}");
            assert!(cost.signed >= Amount::from(paid * UNITS));
            match victim {
                // The buyer and the seller go on by themselves.
                Victim::Facilitator => assert_eq!(chunks, BEFORE + AFTER, "{problem:?}"),
                Victim::Seller => assert!(chunks >= BEFORE),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_the_facilitator_costs_at_most_one_tick() {
    kill_under_streams(Ticks::PerSecond, Victim::Facilitator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_the_seller_costs_at_most_one_tick() {
    kill_under_streams(Ticks::PerSecond, Victim::Seller).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_the_keeper_of_vouchers_costs_at_most_one() {
    kill_under_streams(Ticks::SellersVouchers, Victim::Seller).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seller_with_its_vouchers_outlives_its_facilitator() {
    kill_under_streams(Ticks::SellersVouchers, Victim::Facilitator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_a_facilitator_with_vouchers_costs_at_most_one() {
    kill_under_streams(Ticks::FacilitatorsVouchers, Victim::Facilitator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vouchers_at_the_facilitator_outlive_a_kill_of_the_seller() {
    kill_under_streams(Ticks::FacilitatorsVouchers, Victim::Seller).await;
}
