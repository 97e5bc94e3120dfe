//! What EVM nodes are asked about themselves, and how they are handed transactions.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use alloy::primitives::{Bytes, U64};
use quittance_core::{Submission, Timestamp};
use quittance_nodes::{Identity, Nodes, NodesHealth, Reply, Request, decode_reply, unavailable};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use crate::submission;

/// The id that every node of the chain must tell (EIP-155).
#[derive(Debug)]
struct ChainId(u64);

impl Identity for ChainId {
    fn request(&self) -> Request {
        Request::new("eth_chainId", json!([]))
    }

    fn check(&self, answer: &Value) -> Result<(), String> {
        match serde_json::from_value::<U64>(answer.clone()) {
            Ok(found) if found.to::<u64>() == self.0 => Ok(()),
            Ok(found) => Err(format!("on chain {found}, not {}", self.0)),
            Err(_) => Err("no EVM node: it does not say its chain id".to_owned()),
        }
    }

    fn limit_codes(&self) -> &[i64] {
        &LIMIT_CODES
    }
}

/// What gateways of EVM chains say when they are asked too much: proxyd's codes, which Base's and
/// Optimism's public nodes have (-32011 no backend, -32012 over capacity, -32014 too many calls,
/// -32016 and -32017 over the limit), and those of QuickNode, OnFinality, and dRPC.
const LIMIT_CODES: [i64; 9] = [
    -32011, -32012, -32014, -32016, -32017, -32007, -32029, -32097, 15,
];

/// `eth_getBlockByNumber`, as much of it as is needed.
#[derive(Deserialize)]
struct Head {
    timestamp: U64,
}

/// The nodes of the chain with this id.
pub(crate) fn connect(
    chain_id: u64,
    urls: &[Url],
    timeout: Duration,
) -> Result<Nodes, reqwest::Error> {
    Nodes::new(urls, timeout, ChainId(chain_id))
}

/// Hands a signed transaction to the nodes.
pub(crate) async fn send(nodes: &Nodes, transaction: &[u8]) -> Submission {
    let transaction = Bytes::copy_from_slice(transaction);
    let call = Request::new("eth_sendRawTransaction", json!([transaction]));
    nodes
        .send(&call, |error| submission::REFUSALS.submission(error))
        .await
}

/// What a look at the nodes found.
pub(crate) struct Looked {
    /// What is wrong with the nodes.
    pub(crate) nodes: NodesHealth,
    /// The times of the newest blocks, of all nodes that told one.
    pub(crate) heads: Vec<Timestamp>,
}

/// Looks at each node: is it on the right chain, and is its newest block no older than `head_age_max`?
pub(crate) async fn look(nodes: &Nodes, now: Timestamp, head_age_max: Option<Duration>) -> Looked {
    let heads = Mutex::new(Vec::new());
    let newest = Request::new("eth_getBlockByNumber", json!(["latest", false]));
    let judge = |_, answers: Vec<Reply>| {
        let answer = answers.into_iter().next().unwrap_or(Ok(Value::Null));
        let head: Head = decode_reply(answer)?;
        let time = Timestamp::from_secs(head.timestamp.to());
        // A list that only grows is whole after every change.
        heads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(time);
        let age = now.secs_since(time);
        if head_age_max.is_some_and(|age_max| age > age_max.as_secs()) {
            let problem = format!("the newest block is {age} seconds old: the node is stuck");
            return Err(unavailable(problem));
        }
        Ok(())
    };
    let nodes = nodes.health(&[newest], judge).await;
    Looked {
        nodes,
        heads: heads.into_inner().unwrap_or_else(PoisonError::into_inner),
    }
}
