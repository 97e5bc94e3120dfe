//! Requests to Solana's nodes about themselves, and the submission of transactions.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use quittance_core::Submission;
use quittance_nodes::{Identity, Nodes, NodesHealth, Reply, Request, decode_reply, unavailable};
use serde_json::{Value, json};
use url::Url;

use super::submission::REFUSALS;

/// The prefix of the genesis hash that every node of the cluster must report; empty for any
/// cluster.
#[derive(Debug)]
struct Genesis(String);

impl Identity for Genesis {
    fn request(&self) -> Request {
        Request::new("getGenesisHash", json!([]))
    }

    fn check(&self, answer: &Value) -> Result<(), String> {
        match answer.as_str() {
            Some(found) if found.starts_with(&self.0) => Ok(()),
            Some(found) => Err(format!(
                "on the cluster with the genesis hash {found}, not {}",
                self.0
            )),
            None => Err("not a Solana node: it does not report its genesis hash".to_owned()),
        }
    }

    fn limit_codes(&self) -> &[i64] {
        &LIMIT_CODES
    }
}

/// The error codes with which Solana's gateways report a rate limit. (-32005 is a node that is
/// behind, and is avoided in the same way. Codes of EVM gateways, such as -32007 and -32016, mean
/// something else here.)
const LIMIT_CODES: [i64; 1] = [-32429];

/// The nodes of the cluster whose genesis hash has this prefix.
pub(crate) fn connect(
    genesis: &str,
    urls: &[Url],
    timeout: Duration,
) -> Result<Nodes, reqwest::Error> {
    Nodes::new(urls, timeout, Genesis(genesis.to_owned()))
}

/// Submits a signed transaction, in base64.
pub(crate) async fn send(nodes: &Nodes, transaction: &str) -> Submission {
    // The node only forwards the transaction. It was simulated before, and the engine submits it
    // again.
    let options = json!({ "encoding": "base64", "skipPreflight": true, "maxRetries": 0 });
    let request = Request::new("sendTransaction", json!([transaction, options]));
    nodes
        .send(&request, |error| REFUSALS.submission(error))
        .await
}

/// The newest slot of each node at the last check, and when it was first seen. (Nodes do not report
/// reliably when a block was made.)
#[derive(Debug, Default)]
pub(crate) struct Heads(Mutex<BTreeMap<usize, (u64, Instant)>>);

impl Heads {
    /// Checks of each node that it is on the right cluster, is not behind, and has new blocks.
    pub(crate) async fn check(&self, nodes: &Nodes, age_max: Duration) -> NodesHealth {
        let requests = [
            Request::new("getHealth", json!([])),
            Request::new("getSlot", json!([{ "commitment": "confirmed" }])),
        ];
        let judge = |node, answers: Vec<Reply>| {
            let mut answers = answers.into_iter();
            let mut next = || answers.next().unwrap_or(Ok(Value::Null));
            let _: Value = decode_reply(next())?;
            let age = self.age(node, decode_reply(next())?);
            if age > age_max {
                let age = age.as_secs();
                let what = format!("the node is stuck: its newest block is {age} seconds old");
                return Err(unavailable(what));
            }
            Ok(())
        };
        nodes.health(&requests, judge).await
    }

    /// The time since this slot was first seen as the node's newest.
    fn age(&self, node: usize, slot: u64) -> Duration {
        // The map is consistent after every change, so a poisoned lock does no harm.
        let mut heads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let head = heads.entry(node).or_insert((slot, Instant::now()));
        if head.0 != slot {
            *head = (slot, Instant::now());
        }
        head.1.elapsed()
    }
}
