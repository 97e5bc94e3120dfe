//! Whole facilitators with the same chain behind them: requests per second, one facilitator at a
//! time, round after round.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use alloy::primitives::U256;
use quittance_devnet::{Evm, EvmOptions, Tools, USDC};
use reqwest::Client;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::payments::{AMOUNT, Payments, SELLER};
use crate::{HERE, Result};

/// How many requests are under way at once.
pub const IN_FLIGHT: [usize; 3] = [1, 16, 128];

/// How many payers there are.
const PAYERS: u64 = 100;

/// How often each facilitator is measured; what is reported is the median.
const ROUNDS: usize = 3;

/// For how long requests are sent. All of them are waited for.
const TIME: Duration = Duration::from_secs(3);

/// Enough for the fastest facilitator: signing more would take longer than measuring.
const VERIFY_POOL: usize = 40_000;

/// How many payments there are to settle, for each number in flight. When they run out, the time is
/// shorter.
const SETTLE_POOL: [usize; 3] = [1_000, 4_000, 6_000];

/// Contracts that x402-rs wants to see before it starts, and does not call for these payments: the
/// validator of EIP-6492 signatures, Permit2, and its proxy.
const WANTED: [&str; 3] = [
    "0xdAcD51A54883eb67D95FAEb2BBfdC4a9a6BD2a3B",
    "0x000000000022D473030F116dDEE9F6B43aC78BA3",
    "0x402085c248EeA27D92E8b30b2C58ed07f9E20001",
];

/// A facilitator, and the development account that pays for its gas.
struct Facilitator {
    name: &'static str,
    account: usize,
    command: fn(port: u16, rpc: &str, key: &str, folder: &Path) -> Result<Command>,
}

/// Quittance first: the others are compared with it.
const FACILITATORS: [Facilitator; 4] = [
    Facilitator {
        name: "Quittance",
        account: 2,
        command: quittance,
    },
    Facilitator {
        name: "x402-rs 2.0.2",
        account: 3,
        command: |port, rpc, key, _| {
            Ok(command(
                "target/release/peer-x402-rs",
                ["serve", &port.to_string(), rpc, key],
            ))
        },
    },
    Facilitator {
        name: "r402 0.21.0",
        account: 4,
        command: |port, rpc, key, _| {
            Ok(command(
                "target/release/peer-r402",
                ["serve", &port.to_string(), rpc, key],
            ))
        },
    },
    Facilitator {
        name: "@x402/evm 2.27.0, Express",
        account: 5,
        command: |port, rpc, key, _| {
            Ok(command(
                "node",
                ["typescript/serve.mjs", &port.to_string(), rpc, key],
            ))
        },
    },
];

/// What a facilitator did.
pub struct Loaded {
    /// Which one it is.
    pub name: &'static str,
    /// `/verify` for each number in flight.
    pub verify: Vec<Rate>,
    /// `/settle` for each number in flight.
    pub settle: Vec<Rate>,
    /// Calls to the chain for each `/verify` and each `/settle`, one after the other.
    pub calls: [f64; 2],
}

/// How fast requests were answered.
#[derive(Default, Clone)]
pub struct Rate {
    /// Good answers a second.
    pub per_second: f64,
    /// The median time until a good answer, in milliseconds.
    pub millis: f64,
    /// How many answers were good.
    good: usize,
    /// The share of requests without a good answer.
    pub failed: f64,
    /// One answer that was not good.
    pub failure: Option<String>,
    /// Processor time for a good answer, in microseconds: the facilitator's, and the chain's.
    pub cpu_micros: [f64; 2],
}

impl Rate {
    fn with_cpu(mut self, before: [f64; 2], after: [f64; 2]) -> Self {
        let good = self.good.max(1) as f64;
        self.cpu_micros = [0, 1].map(|at| (after[at] - before[at]) / good);
        self
    }
}

/// Measures everything.
pub async fn measure(folder: &Path) -> Result<Vec<Loaded>> {
    std::fs::create_dir_all(folder)?;
    let evm = Evm::start(&Tools::find()?, &EvmOptions::default()).await?;
    let mut payments = Payments::new(PAYERS)?;
    for payer in payments.payers() {
        evm.mint(USDC, payer, U256::from(u64::MAX)).await?;
    }
    for contract in WANTED {
        evm.set_code(contract.parse()?, "00").await?;
    }
    eprintln!("signing payments");
    let pool = Arc::new(payments.bodies(VERIFY_POOL)?);
    let mut loaded = Vec::new();
    for facilitator in &FACILITATORS {
        loaded.push(Loaded {
            name: facilitator.name,
            verify: Vec::new(),
            settle: Vec::new(),
            calls: count_calls(facilitator, &evm, &mut payments, folder).await?,
        });
    }
    let mut rounds = vec![Vec::new(); FACILITATORS.len()];
    for round in 1..=ROUNDS {
        for (facilitator, rounds) in FACILITATORS.iter().zip(&mut rounds) {
            eprintln!("round {round} of {ROUNDS}: {}", facilitator.name);
            rounds.push(one_round(facilitator, &evm, &pool, &mut payments, folder).await?);
        }
    }
    for (loaded, rounds) in loaded.iter_mut().zip(rounds) {
        let median = |at: usize| {
            let mut rates: Vec<Rate> = rounds
                .iter()
                .map(|round: &Vec<Rate>| round[at].clone())
                .collect();
            rates.sort_unstable_by(|a, b| a.per_second.total_cmp(&b.per_second));
            rates.swap_remove(rates.len() / 2)
        };
        let (verify, settle) = (0..IN_FLIGHT.len(), IN_FLIGHT.len()..2 * IN_FLIGHT.len());
        (loaded.verify, loaded.settle) =
            (verify.map(median).collect(), settle.map(median).collect());
    }
    Ok(loaded)
}

/// `/verify`, then `/settle`, with each number in flight.
async fn one_round(
    facilitator: &Facilitator,
    evm: &Evm,
    pool: &Arc<Vec<String>>,
    payments: &mut Payments,
    folder: &Path,
) -> Result<Vec<Rate>> {
    let running = Running::start(facilitator, evm.url(), folder).await?;
    let processes = [
        running.process.id(),
        evm.process_id().ok_or("the chain has ended")?,
    ];
    let mut rates = Vec::new();
    let mut from = 0;
    for in_flight in IN_FLIGHT {
        let before = cpu_micros(processes)?;
        let (rate, used) = load(&running, "verify", pool, from, in_flight, good_verdict).await?;
        rates.push(rate.with_cpu(before, cpu_micros(processes)?));
        from = (from + used) % pool.len();
    }
    for (in_flight, count) in IN_FLIGHT.into_iter().zip(SETTLE_POOL) {
        let pool = Arc::new(payments.bodies(count)?);
        let balance = evm.balance(USDC, SELLER).await?;
        let before = cpu_micros(processes)?;
        let (rate, used) = load(&running, "settle", &pool, 0, in_flight, good_settlement).await?;
        let rate = rate.with_cpu(before, cpu_micros(processes)?);
        let paid = (evm.balance(USDC, SELLER).await? - balance).to::<u64>() / AMOUNT;
        let reported = (used as f64 * (1.0 - rate.failed)).round() as u64;
        if paid < reported {
            return Err(format!(
                "{}: {reported} payments were reported, and {paid} were made",
                facilitator.name
            )
            .into());
        }
        rates.push(rate);
    }
    Ok(rates)
}

fn good_verdict(answer: &Value) -> bool {
    answer["isValid"] == true
}

fn good_settlement(answer: &Value) -> bool {
    let id = answer["transaction"].as_str().unwrap_or_default();
    answer["success"] == true && id.starts_with("0x") && id.len() == 66
}

/// Sends requests for a while, each with a payment of its own, and says how many it sent.
async fn load(
    running: &Running,
    endpoint: &str,
    pool: &Arc<Vec<String>>,
    from: usize,
    in_flight: usize,
    is_good: fn(&Value) -> bool,
) -> Result<(Rate, usize)> {
    let client = Client::builder().no_proxy().build()?;
    let url = format!("{}/{endpoint}", running.url);
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..in_flight {
        let (client, url, pool, next) = (client.clone(), url.clone(), pool.clone(), next.clone());
        workers.spawn(async move {
            let (mut millis, mut failures) = (Vec::new(), Vec::new());
            while started.elapsed() < TIME {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= pool.len() {
                    break;
                }
                let asked = Instant::now();
                match ask(&client, &url, &pool[(from + at) % pool.len()]).await {
                    Ok(answer) if is_good(&answer) => {
                        millis.push(asked.elapsed().as_secs_f64() * 1e3)
                    }
                    Ok(answer) => failures.push(answer.to_string()),
                    Err(error) => failures.push(error.to_string()),
                }
            }
            (millis, failures)
        });
    }
    let (mut millis, mut failures) = (Vec::new(), Vec::new());
    while let Some(worker) = workers.join_next().await {
        let (more_millis, more_failures) = worker?;
        millis.extend(more_millis);
        failures.extend(more_failures);
    }
    let elapsed = started.elapsed().as_secs_f64();
    millis.sort_unstable_by(f64::total_cmp);
    let sent = millis.len() + failures.len();
    let rate = Rate {
        per_second: millis.len() as f64 / elapsed,
        millis: millis.get(millis.len() / 2).copied().unwrap_or(f64::NAN),
        failed: failures.len() as f64 / sent.max(1) as f64,
        failure: failures.pop(),
        good: millis.len(),
        cpu_micros: [0.0; 2],
    };
    Ok((rate, sent))
}

/// How much processor time processes have taken.
fn cpu_micros(processes: [u32; 2]) -> Result<[f64; 2]> {
    /// Linux counts in hundredths of a second here, whatever its own clock does.
    const MICROS_PER_TICK: f64 = 10_000.0;
    let mut micros = [0.0; 2];
    for (process, micros) in processes.into_iter().zip(&mut micros) {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name, in brackets, may hold spaces; user and system time are the 12th and 13th field
        // after it.
        let (_, fields) = stat.rsplit_once(") ").ok_or("no such process")?;
        for ticks in fields.split(' ').skip(11).take(2) {
            *micros += ticks.parse::<f64>()? * MICROS_PER_TICK;
        }
    }
    Ok(micros)
}

async fn ask(client: &Client, url: &str, body: &str) -> reqwest::Result<Value> {
    let request = client
        .post(url)
        .header("content-type", "application/json")
        .body(body.to_owned());
    request.send().await?.json().await
}

/// Calls to the chain for each `/verify` and each `/settle`, one after the other, less what the
/// facilitator asks when it has nothing to do.
async fn count_calls(
    facilitator: &Facilitator,
    evm: &Evm,
    payments: &mut Payments,
    folder: &Path,
) -> Result<[f64; 2]> {
    const REQUESTS: usize = 30;
    const IDLE: Duration = Duration::from_secs(2);
    let counter = Counter::start(evm.url()).await?;
    let running = Running::start(facilitator, &counter.url, folder).await?;
    let client = Client::builder().no_proxy().build()?;
    // The first request of each kind may ask for what is then remembered.
    let mut bodies = payments.bodies(2 * REQUESTS + 2)?.into_iter();
    for endpoint in ["verify", "settle"] {
        ask(
            &client,
            &format!("{}/{endpoint}", running.url),
            &bodies.next().ok_or("too few")?,
        )
        .await?;
    }
    let before = counter.calls();
    tokio::time::sleep(IDLE).await;
    let idle = (counter.calls() - before) as f64 / IDLE.as_secs_f64();
    let mut calls = [0.0; 2];
    for (endpoint, calls) in ["verify", "settle"].into_iter().zip(&mut calls) {
        let (started, before) = (Instant::now(), counter.calls());
        for body in bodies.by_ref().take(REQUESTS) {
            ask(&client, &format!("{}/{endpoint}", running.url), &body).await?;
        }
        let asked = (counter.calls() - before) as f64 - idle * started.elapsed().as_secs_f64();
        *calls = asked / REQUESTS as f64;
    }
    Ok(calls)
}

/// Passes bytes on to the chain, and counts the calls among them.
struct Counter {
    url: String,
    calls: Arc<AtomicU64>,
}

impl Counter {
    async fn start(chain: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let chain = chain
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_owned();
        let calls = Arc::new(AtomicU64::new(0));
        let counted = calls.clone();
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let (chain, counted) = (chain.clone(), counted.clone());
                tokio::spawn(async move { pass(from, &chain, &counted).await });
            }
        });
        Ok(Self { url, calls })
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

async fn pass(from: TcpStream, chain: &str, calls: &AtomicU64) -> Result<()> {
    /// Once in every call, however the client spells it.
    const MARK: &[u8] = b"\"method\"";
    let (mut asking, mut asked) = from.into_split();
    let (mut answering, mut answered) = TcpStream::connect(chain).await?.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut answering, &mut asked).await });
    let (mut buffer, mut rest) = (vec![0; 1 << 16], Vec::new());
    loop {
        let count = asking.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        answered.write_all(&buffer[..count]).await?;
        rest.extend_from_slice(&buffer[..count]);
        let found = rest
            .windows(MARK.len())
            .filter(|window| *window == MARK)
            .count();
        calls.fetch_add(found as u64, Ordering::Relaxed);
        // A mark may be cut in two.
        rest.drain(..rest.len().saturating_sub(MARK.len() - 1));
    }
}

/// A facilitator's process.
struct Running {
    url: String,
    process: Child,
}

impl Running {
    async fn start(facilitator: &Facilitator, rpc: &str, folder: &Path) -> Result<Self> {
        /// Node reads its packages within a second or two.
        const WAIT: Duration = Duration::from_secs(30);
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let key = Evm::accounts()[facilitator.account].key.clone();
        let process = (facilitator.command)(port, rpc, &key, folder)?
            .current_dir(HERE)
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}", facilitator.name))?;
        let running = Self {
            url: format!("http://127.0.0.1:{port}"),
            process,
        };
        let started = Instant::now();
        while reqwest::get(format!("{}/supported", running.url))
            .await
            .is_err()
        {
            if started.elapsed() > WAIT {
                return Err(format!("{}: it does not answer", facilitator.name).into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// `quittance serve`, with a journal of its own, and no limit on how often one caller may ask.
fn quittance(port: u16, rpc: &str, key: &str, folder: &Path) -> Result<Command> {
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(folder.join(format!("journal.db{end}")));
    }
    let (path, journal) = (folder.join("quittance.toml"), folder.join("journal.db"));
    let mut file = std::fs::File::create(&path)?;
    write!(
        file,
        r#"
listen = "127.0.0.1:{port}"
journal = "{}"
access.anyone = true
limits.per_minute = 0
log.filter = "warn"

[[evm]]
network = "eip155:84532"
rpc = ["{rpc}"]
signers = [{{ env = "SIGNER" }}]
max_head_age_secs = 0
"#,
        journal.display()
    )?;
    let mut command = Command::new("target/release/quittance");
    command
        .arg("serve")
        .arg("--config")
        .arg(path)
        .env("SIGNER", key);
    Ok(command)
}
