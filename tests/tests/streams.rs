//! A stream that is paid tick by tick, with the example scheme `per-second` on a local chain. The
//! judge reads the chain: what was paid is what was delivered, and at most one tick differs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alloy::primitives::U256;
use async_trait::async_trait;
use axum::body::Body;
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::future::join_all;
use futures_util::stream;
use quittance_buyer::{Buyer, PaidStream};
use quittance_core::Clock as _;
use quittance_core::wire::{PaymentRequirements, SettleResponse, SupportedKind, VerifyResponse};
use quittance_core::{
    Amount, Facilitator, FacilitatorError, Fault, FaultKind, Offer, Payer as _, PaymentRequest,
    SystemClock,
};
use quittance_devnet::{Account, Evm as Local, USDC};
use quittance_engine::{Engine, Timing};
use quittance_evm::{Evm, EvmConfig, known};
use quittance_examples::{PerSecond, PerSecondOffer, PerSecondPayer};
use quittance_http::RemoteFacilitator;
use quittance_seller::{Meter, PaymentLayer, StreamLimits};
use quittance_service::{Keys, ServerOptions, ServiceOptions, router, serve};
use quittance_tests::evm::Setting;
use quittance_tests::{engine, until};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

/// The price of a tick in USDC, and in atomic units.
const PRICE: &str = "0.001";
const UNITS: u64 = 1_000;

/// A stream is settled after this time without a tick.
const QUIET_SECS: u64 = 3;

/// The same where processes are killed: longer than a restart takes on a busy machine.
const RESTART_SECS: u64 = 15;

/// Short pauses between looks at streams that are quiet.
const HASTY: Timing = engine::HASTY.with_sweep_every(Duration::from_millis(300));

async fn start_engine(node: &str, journal: &Path, quiet_secs: u64) -> Engine {
    let network = known::network("base-sepolia").unwrap();
    let signer = Arc::new(Setting::signers()[0].signer.clone());
    let mut config = EvmConfig::new(network, vec![node.parse().unwrap()], vec![signer]);
    config.head_age_max = None;
    let evm = Evm::new(config).unwrap();
    let scheme = Arc::new(PerSecond::new(&evm, quiet_secs));
    let journal = quittance_tests::open_journal(journal).await;
    let builder = Engine::builder(journal).chain(evm, vec![scheme]);
    builder.timing(HASTY).start().await.unwrap()
}

fn offer() -> PerSecondOffer {
    let seller = Setting::seller().address.to_string();
    PerSecondOffer::usdc("base-sepolia", PRICE, &seller).unwrap()
}

/// Sends the number of each tick, without an end.
async fn count(Extension(meter): Extension<Meter>) -> Body {
    Body::from_stream(stream::unfold(meter, |meter| async move {
        let tick = meter.next().await?;
        Some((Ok::<_, std::io::Error>(format!("{}\n", tick.number)), meter))
    }))
}

fn shop(facilitator: Arc<dyn Facilitator>) -> Router {
    let layer = PaymentLayer::new(facilitator).accept(offer());
    let limits = StreamLimits::default().idle(Duration::from_secs(10));
    Router::new().route("/count", get(count).layer(layer.streaming(limits)))
}

async fn listen(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// A buyer with books of its own, so each of its streams has a nonce of its own.
fn buyer(account: &Account, quiet_secs: u64) -> Buyer {
    let payer = PerSecondPayer::new(account.signer.clone(), quiet_secs - 1);
    Buyer::builder().payer(payer).build().unwrap()
}

async fn open(url: &str) -> PaidStream {
    let buyer = buyer(&Setting::buyer(), QUIET_SECS);
    buyer.stream(&format!("{url}/count")).await.unwrap()
}

/// What the seller has, by the chain.
async fn received(local: &Local) -> U256 {
    local
        .balance(USDC, Setting::seller().address)
        .await
        .unwrap()
}

/// What the seller gets for the one stream that is claimed next, in ticks.
async fn paid_ticks(local: &Local, before: U256) -> u64 {
    until("the stream is claimed", || async {
        received(local).await > before
    })
    .await;
    let paid: u64 = (received(local).await - before).to();
    assert_eq!(paid % UNITS, 0);
    paid / UNITS
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_pays_for_each_chunk_in_one_transaction() {
    let setting = Setting::start().await;
    let engine = start_engine(setting.local.url(), &setting.journal_path(), QUIET_SECS).await;
    let url = listen(shop(Arc::new(engine))).await;
    let before = received(&setting.local).await;
    let mut stream = open(&url).await;
    for number in 1..=50 {
        let chunk = stream.chunk().await.unwrap().unwrap();
        assert_eq!(chunk, format!("{number}\n"));
        // A chunk may arrive before the receipt of its tick.
        let ticks = stream.cost().ticks;
        assert!(ticks == number || ticks + 1 == number, "{ticks} {number}");
    }
    let cost = stream.stop().await;
    assert_eq!((cost.ticks, cost.charged), (50, Amount::from(50 * UNITS)));
    assert_eq!(paid_ticks(&setting.local, before).await, 50);
}

/// A facilitator that once charges a payment and loses its answer for good.
struct Forgetful {
    engine: Engine,
    forgets: AtomicBool,
}

#[async_trait]
impl Facilitator for Forgetful {
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        self.engine.verify(request).await
    }

    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        let settled = self.engine.settle(request).await;
        match self.forgets.swap(false, Ordering::SeqCst) {
            true => {
                let fault = Fault::new(FaultKind::FacilitatorUnreachable, "the answer is lost");
                let retry_after = Some(Duration::from_millis(100));
                Err(Fault {
                    retry_after,
                    ..fault
                }
                .into())
            }
            false => settled,
        }
    }

    async fn supported(&self) -> Result<quittance_core::wire::SupportedResponse, FacilitatorError> {
        self.engine.supported().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_whose_answer_is_lost_is_all_that_is_lost() {
    let setting = Setting::start().await;
    let engine = start_engine(setting.local.url(), &setting.journal_path(), QUIET_SECS).await;
    let forgets = AtomicBool::new(false);
    let facilitator = Arc::new(Forgetful { engine, forgets });
    let url = listen(shop(facilitator.clone())).await;
    let before = received(&setting.local).await;
    let mut stream = open(&url).await;
    for number in 1..=20 {
        if number == 7 {
            facilitator.forgets.store(true, Ordering::SeqCst);
        }
        let chunk = stream.chunk().await.unwrap().unwrap();
        assert_eq!(chunk, format!("{number}\n"));
    }
    assert!(stream.problem().is_none(), "{:?}", stream.problem());
    let cost = stream.stop().await;
    assert_eq!((cost.ticks, cost.charged), (20, Amount::from(21 * UNITS)));
    assert_eq!(paid_ticks(&setting.local, before).await, 21);
}

/// A tick that was charged is never charged again, and none is left out.
#[tokio::test(flavor = "multi_thread")]
async fn ticks_out_of_order_are_refused_with_the_total() {
    let setting = Setting::start().await;
    let engine = start_engine(setting.local.url(), &setting.journal_path(), QUIET_SECS).await;
    let requirements: PaymentRequirements = {
        let kind = SupportedKind::new(2, "per-second", "eip155:84532");
        offer().requirements(&kind).unwrap()
    };
    let payer = PerSecondPayer::new(Setting::buyer().signer, QUIET_SECS - 1);
    let mut ticks = Vec::new();
    for _ in 0..3 {
        let signed = payer
            .pay(&requirements, None, SystemClock.now())
            .await
            .unwrap();
        let served = quittance_core::PaymentOutcome::Served { receipt: None };
        payer.observe(&requirements, &signed.payload, served).await;
        let payload = quittance_tests::payload_of(&requirements, signed.payload);
        ticks.push(quittance_tests::request(payload, &requirements));
    }
    for (tick, total) in [(1, "0"), (2, "0")] {
        let verdict = engine.verify(&ticks[tick]).await.unwrap();
        assert!(!verdict.is_valid && total_of(verdict.extra) == total);
    }
    for tick in &ticks[..2] {
        assert!(engine.verify(tick).await.unwrap().is_valid);
        engine::settled(&engine, tick).await;
    }
    for tick in &ticks[..2] {
        let again = engine.settle(tick).await.unwrap();
        assert!(!again.success && total_of(again.extra) == "2000");
    }
    // Many at once are charged once.
    let settling: Vec<_> = (0..10)
        .map(|_| engine::settling(&engine, &ticks[2]))
        .collect();
    let mut charged = 0;
    for settling in settling {
        charged += usize::from(settling.await.unwrap().unwrap().success);
    }
    assert_eq!(charged, 1);
}

fn total_of(extra: Option<quittance_core::json::Object>) -> String {
    extra.unwrap().tree()["total"].as_str().unwrap().to_owned()
}

/// The environment of the processes that a test kills.
const PORT: &str = "STREAM_TEST_PORT";
const NODE: &str = "STREAM_TEST_NODE";
const JOURNAL: &str = "STREAM_TEST_JOURNAL";
const FACILITATOR: &str = "STREAM_TEST_FACILITATOR";

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

/// Not a test by itself: the facilitator's process.
#[tokio::test(flavor = "multi_thread")]
async fn run_a_facilitator() {
    let Ok(node) = std::env::var(NODE) else {
        return;
    };
    let journal = std::env::var(JOURNAL).unwrap();
    let engine = start_engine(&node, Path::new(&journal), RESTART_SECS).await;
    let options = ServiceOptions::new(Keys::anyone());
    let never = std::future::pending();
    serve(
        router(engine, options),
        listener().await,
        ServerOptions::default(),
        never,
    )
    .await;
}

/// Not a test by itself: the seller's process.
#[tokio::test(flavor = "multi_thread")]
async fn run_a_seller() {
    let Ok(facilitator) = std::env::var(FACILITATOR) else {
        return;
    };
    let facilitator = RemoteFacilitator::new(&facilitator).unwrap();
    axum::serve(listener().await, shop(Arc::new(facilitator)))
        .await
        .unwrap();
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
    node: String,
    journal: String,
    ports: [String; 2],
    facilitator: Child,
    seller: Child,
}

impl Processes {
    async fn start(setting: &Setting) -> Self {
        let node = setting.local.url().to_owned();
        let journal = setting.journal_path().to_str().unwrap().to_owned();
        let ports = [free_port().await, free_port().await];
        let facilitator = Self::facilitator(&node, &journal, &ports);
        let seller = Self::seller(&ports);
        Self {
            node,
            journal,
            ports,
            facilitator,
            seller,
        }
    }

    fn facilitator(node: &str, journal: &str, ports: &[String; 2]) -> Child {
        let environment = [(NODE, node), (JOURNAL, journal), (PORT, &ports[0])];
        process("run_a_facilitator", &environment)
    }

    fn seller(ports: &[String; 2]) -> Child {
        let facilitator = format!("http://127.0.0.1:{}", ports[0]);
        let environment = [(FACILITATOR, facilitator.as_str()), (PORT, &ports[1])];
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
            Victim::Seller => Self::seller(&self.ports),
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
}

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

/// How many chunks of a stream come before the kill, and how many after it if the stream goes on.
const BEFORE: u64 = 5;
const AFTER: u64 = 20;

/// The moments of the kills, in milliseconds after the chunks before: within the payments of some
/// ticks.
const MOMENTS: [u64; 2] = [3, 11];

/// The accounts that buy one stream each, at once.
fn buyers() -> Vec<Account> {
    Local::accounts()[2..6].to_vec()
}

async fn balance(local: &Local, account: &Account) -> U256 {
    local.balance(USDC, account.address).await.unwrap()
}

/// Several streams run, one of the processes is killed, and the chain says what each stream cost.
async fn kill_under_streams(victim: Victim) {
    let setting = Setting::start().await;
    let mut processes = Processes::start(&setting).await;
    for moment in MOMENTS {
        let url = processes.url().await;
        let reached = Arc::new(Semaphore::new(0));
        let streams = buyers().into_iter().map(|account| {
            let (url, reached) = (url.clone(), reached.clone());
            let before = async { (balance(&setting.local, &account).await, account) };
            async move {
                let (before, account) = before.await;
                let mut stream = buyer(&account, RESTART_SECS).stream(&url).await.unwrap();
                let mut chunks = read(&mut stream, BEFORE).await;
                reached.add_permits(1);
                chunks += read(&mut stream, AFTER).await;
                let problem = stream.problem().map(ToString::to_string);
                (account, before, chunks, stream.stop().await, problem)
            }
        });
        let killing = async {
            let all = u32::try_from(buyers().len()).unwrap();
            drop(reached.acquire_many(all).await);
            tokio::time::sleep(Duration::from_millis(moment)).await;
            processes.restart(victim).await;
        };
        let (streams, ()) = tokio::join!(join_all(streams), killing);
        tokio::time::sleep(Duration::from_secs(RESTART_SECS)).await;
        for (account, before, chunks, cost, problem) in streams {
            until("the stream is claimed", || async {
                balance(&setting.local, &account).await < before
            })
            .await;
            let paid: u64 = (before - balance(&setting.local, &account).await).to();
            let paid = paid / UNITS;
            println!("{victim:?} after {moment} ms: {chunks} chunks, {paid} ticks paid, {cost:?}");
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

/// The process that is killed.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Facilitator,
    Seller,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_the_facilitator_costs_at_most_one_tick() {
    kill_under_streams(Victim::Facilitator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_the_seller_costs_at_most_one_tick() {
    kill_under_streams(Victim::Seller).await;
}
