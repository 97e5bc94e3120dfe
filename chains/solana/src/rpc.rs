//! What Solana's nodes are asked about themselves, and how they are handed transactions.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use quittance_core::Submission;
use quittance_nodes::{Identity, Nodes, NodesHealth, Reply, Request, decode_reply, unavailable};
use serde_json::{Value, json};
use url::Url;

use crate::submission;

/// What the genesis hash must begin with that every node of the cluster must tell; nothing for any cluster.
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
            None => Err("no Solana node: it does not say its genesis hash".to_owned()),
        }
    }

    fn limit_codes(&self) -> &[i64] {
        &LIMIT_CODES
    }
}

/// What gateways of Solana say when they are asked too much. (-32005 is a node that says it is
/// behind, and is left alone alike. Codes that EVM gateways use for it, such as -32007 and -32016,
/// mean something else here.)
const LIMIT_CODES: [i64; 1] = [-32429];

/// The nodes of the cluster whose genesis hash begins like this.
pub(crate) fn connect(
    genesis: &str,
    urls: &[Url],
    timeout: Duration,
) -> Result<Nodes, reqwest::Error> {
    Nodes::new(urls, timeout, Genesis(genesis.to_owned()))
}

/// Hands a signed transaction, in base64, to the nodes.
pub(crate) async fn send(nodes: &Nodes, transaction: &str) -> Submission {
    // The node only passes it on: what it would say of it was asked before, and sending it again is our business.
    let options = json!({ "encoding": "base64", "skipPreflight": true, "maxRetries": 0 });
    let request = Request::new("sendTransaction", json!([transaction, options]));
    nodes.send(&request, submission::refusal).await
}

/// The newest block of each node when it was last looked at, and when that was first seen. (A block here does not say reliably
/// when it was made.)
#[derive(Debug, Default)]
pub(crate) struct Heads(Mutex<BTreeMap<usize, (u64, Instant)>>);

impl Heads {
    /// Looks at each node: is it on the right cluster, is it behind, and does its newest block change?
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
                let what = format!("the newest block is {age} seconds old: the node is stuck");
                return Err(unavailable(what));
            }
            Ok(())
        };
        nodes.health(&requests, judge).await
    }

    /// For how long this has been the node's newest block, as far as was seen.
    fn age(&self, node: usize, slot: u64) -> Duration {
        // What is kept is whole after every change.
        let mut heads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let head = heads.entry(node).or_insert((slot, Instant::now()));
        if head.0 != slot {
            *head = (slot, Instant::now());
        }
        head.1.elapsed()
    }
}
