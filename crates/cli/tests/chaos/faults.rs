//! What is broken, and for how long: drawn from a seed, one or two faults at a time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy::primitives::{Address, U256};
use alloy::rpc::types::TransactionRequest;
use quittance_devnet::{Evm, Mining};
use quittance_tests::proxy::{Fate, Proxy};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::stage::{BLOCK_TIME, Facilitator, Stage};

/// How many faults there were of each kind.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally(Arc<Mutex<BTreeMap<&'static str, usize>>>);

impl Tally {
    fn count(&self, kind: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(kind).or_default() += 1;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kinds: Vec<String> = counts
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        f.write_str(&kinds.join(", "))
    }
}

/// The kinds of faults.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// A facilitator's process ends at once.
    Kill,
    /// A facilitator's process is stopped for a while, and goes on as if nothing had happened.
    Pause,
    /// The server of the journal ends at once, if the journal is not a file.
    Database,
    /// A node of one facilitator misbehaves.
    Node,
    /// The chain takes its newest blocks back.
    Reorganisation,
    /// The node forgets the transactions that wait.
    Forgotten,
    /// The price of gas rises.
    Expensive,
    /// No blocks are made.
    NoBlocks,
    /// A signer has no coin.
    Drained,
    /// Another program sends transactions with a signer.
    OutsideWriter,
}

/// Kinds that are drawn more often stand here more often.
const DRAWN: [Fault; 15] = [
    Fault::Kill,
    Fault::Kill,
    Fault::Kill,
    Fault::Pause,
    Fault::Pause,
    Fault::Database,
    Fault::Node,
    Fault::Node,
    Fault::Node,
    Fault::Reorganisation,
    Fault::Forgotten,
    Fault::Expensive,
    Fault::NoBlocks,
    Fault::Drained,
    Fault::OutsideWriter,
];

/// Causes faults for this long, in two series at once.
pub(crate) async fn cause(stage: &Arc<Stage>, seed: u64, lasts: Duration) -> Tally {
    let tally = Tally::default();
    let deadline = Instant::now() + lasts;
    let series = [1_u64, 2].map(|number| {
        let random = StdRng::seed_from_u64(seed.rotate_left(32) ^ number);
        let (stage, tally) = (Arc::clone(stage), tally.clone());
        tokio::spawn(async move { one_series(&stage, random, &tally, deadline).await })
    });
    for series in series {
        series.await.unwrap();
    }
    tally
}

async fn one_series(stage: &Stage, mut random: StdRng, tally: &Tally, deadline: Instant) {
    while Instant::now() < deadline {
        sleep(Duration::from_millis(random.random_range(500..5_000))).await;
        let fault = *DRAWN.choose(&mut random).unwrap();
        apply(fault, stage, &mut random, tally).await;
    }
}

/// Causes one fault, waits, and ends it.
async fn apply(fault: Fault, stage: &Stage, random: &mut StdRng, tally: &Tally) {
    let facilitator = stage.facilitators.choose(random).unwrap();
    let evm = &stage.evm;
    match fault {
        Fault::Kill => {
            tally.count("kill -9 of a facilitator");
            facilitator.kill().await;
            pause(random, 0..4_000).await;
            facilitator.start().await;
        }
        Fault::Pause => {
            tally.count("SIGSTOP of a facilitator");
            facilitator.signal("-STOP").await;
            pause(random, 500..25_000).await;
            facilitator.signal("-CONT").await;
        }
        Fault::Database if stage.postgres.is_none() => {}
        Fault::Database => {
            tally.count("kill -9 of the database");
            let millis = random.random_range(0..6_000);
            stage.restart_postgres(Duration::from_millis(millis)).await;
        }
        Fault::Node => misbehave(facilitator, random, tally).await,
        Fault::Reorganisation => {
            tally.count("reorganisations");
            let depth = random.random_range(1..=3);
            let taken_back = evm.rpc::<_, Value>("anvil_reorg", (depth, json!([]))).await;
            taken_back.unwrap();
        }
        Fault::Forgotten => {
            tally.count("emptied mempools");
            let dropped = evm.rpc::<_, Value>("anvil_dropAllTransactions", ()).await;
            dropped.unwrap();
        }
        Fault::Expensive => {
            tally.count("spikes of the base fee");
            let gwei = random.random_range(1_u64..2_000);
            let fee = U256::from(gwei) * U256::from(1_000_000_000_u64);
            let set = evm.rpc::<_, Value>("anvil_setNextBlockBaseFeePerGas", (fee,));
            set.await.unwrap();
        }
        Fault::NoBlocks => {
            tally.count("pauses of the chain");
            evm.set_mining(Mining::Manual).await.unwrap();
            pause(random, 3_000..20_000).await;
            evm.set_mining(Mining::Every(BLOCK_TIME)).await.unwrap();
        }
        Fault::Drained => {
            tally.count("drained signers");
            let signer = *stage.evm_signers().choose(random).unwrap();
            let before: U256 = evm.rpc("eth_getBalance", (signer, "latest")).await.unwrap();
            set_balance(evm, signer, U256::from(1_000)).await;
            pause(random, 2_000..15_000).await;
            set_balance(evm, signer, before).await;
        }
        Fault::OutsideWriter => {
            tally.count("foreign transactions of a signer");
            let signer = *stage.evm_signers().choose(random).unwrap();
            let transaction = TransactionRequest::default().from(signer).to(signer);
            // The node may refuse it, as it would refuse ours.
            let _ = evm
                .rpc::<_, Value>("eth_sendTransaction", (transaction,))
                .await;
        }
    }
}

async fn set_balance(evm: &Evm, account: Address, balance: U256) {
    let set = evm.rpc::<_, Value>("anvil_setBalance", (account, balance));
    set.await.unwrap();
}

async fn pause(random: &mut StdRng, millis: std::ops::Range<u64>) {
    sleep(Duration::from_millis(random.random_range(millis))).await;
}

/// Breaks a node of one facilitator for a while.
async fn misbehave(facilitator: &Facilitator, random: &mut StdRng, tally: &Tally) {
    let node: &Proxy = match random.random_bool(0.7) {
        true => &facilitator.evm_node,
        false => &facilitator.solana_node,
    };
    let method = *METHODS.choose(random).unwrap();
    let (kind, fate) = fate(random);
    tally.count(kind);
    node.breaks_for_good(method, fate);
    pause(random, 1_000..12_000).await;
    node.mend();
}

/// The methods that decide about payments, on both chains.
const METHODS: [&str; 13] = [
    "eth_sendRawTransaction",
    "eth_getTransactionReceipt",
    "eth_getTransactionCount",
    "eth_call",
    "eth_blockNumber",
    "eth_getBlockByNumber",
    "eth_getLogs",
    "eth_feeHistory",
    "sendTransaction",
    "getSignatureStatuses",
    "getLatestBlockhash",
    "simulateTransaction",
    "getBlockHeight",
];

fn fate(random: &mut StdRng) -> (&'static str, Fate) {
    match random.random_range(0..9) {
        0 => ("nodes with status 500", Fate::Status(500)),
        1 => ("nodes with status 429", Fate::Status(429)),
        2 => ("nodes whose answers are lost", Fate::AnswerLost),
        3 => ("nodes that hang", Fate::Hangs),
        4 => ("slow nodes", Fate::Slow(Duration::from_secs(2))),
        5 => ("nodes without a result", Fate::Result(Value::Null)),
        6 => ("nodes with errors", Fate::Error(-32000, "header not found")),
        7 => (
            "nodes that refuse what they took",
            Fate::DoneAndRefused(-32000, "insufficient funds for gas * price + value"),
        ),
        _ => ("nodes without JSON", Fate::Text("<html>bad gateway</html>")),
    }
}
