//! Requests to EVM nodes: identity, submission, and the check of each node.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use alloy::primitives::{Bytes, U64};
use quittance_core::{Submission, Timestamp};
use quittance_nodes::{Identity, Nodes, NodesHealth, Reply, Request, decode_reply, unavailable};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::submission::REFUSALS;

/// The chain id that every node must report (EIP-155).
#[derive(Debug)]
struct ChainId(u64);

impl Identity for ChainId {
    fn request(&self) -> Request {
        Request::new("eth_chainId", json!([]))
    }

    fn check(&self, result: &Value) -> Result<(), String> {
        match serde_json::from_value::<U64>(result.clone()) {
            Ok(found) if found.to::<u64>() == self.0 => Ok(()),
            Ok(found) => Err(format!("on chain {found}, not {}", self.0)),
            Err(_) => Err("not an EVM node: it does not report a chain id".to_owned()),
        }
    }

    fn limit_codes(&self) -> &[i64] {
        &LIMIT_CODES
    }
}

/// The error codes of EVM gateways for rate limits. Those of proxyd, which Base's and Optimism's public nodes
/// use: -32011 no backend, -32012 over capacity, -32014 too many calls, -32016 and -32017 over the limit.
/// The others are of QuickNode, OnFinality and dRPC.
const LIMIT_CODES: [i64; 9] = [
    -32011, -32012, -32014, -32016, -32017, -32007, -32029, -32097, 15,
];

/// The needed field of a block.
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

/// Submits a signed transaction to the nodes.
pub(super) async fn send(nodes: &Nodes, transaction: &[u8]) -> Submission {
    let transaction = Bytes::copy_from_slice(transaction);
    let request = Request::new("eth_sendRawTransaction", json!([transaction]));
    let refusal = |error: &_| REFUSALS.submission(error);
    nodes.send(&request, refusal).await
}

/// What a check of the nodes found.
pub(super) struct NodesCheck {
    /// Which nodes work.
    pub(super) health: NodesHealth,
    /// The times of the nodes' newest blocks.
    pub(super) heads: Vec<Timestamp>,
}

/// Checks each node: whether it is on the right chain, and whether its newest block is younger than
/// `head_age_max`.
pub(super) async fn check_nodes(
    nodes: &Nodes,
    now: Timestamp,
    head_age_max: Option<Duration>,
) -> NodesCheck {
    let heads = Mutex::new(Vec::new());
    let newest = Request::new("eth_getBlockByNumber", json!(["latest", false]));
    let judge = |_, replies: Vec<Reply>| {
        let reply = replies.into_iter().next().unwrap_or(Ok(Value::Null));
        let head: Head = decode_reply(reply)?;
        let time = Timestamp::from_secs(head.timestamp.to());
        // A list that only grows is whole after a panic.
        heads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(time);
        let age = now.secs_since(time);
        if head_age_max.is_some_and(|age_max| age > age_max.as_secs()) {
            let detail = format!("the newest block is {age} seconds old: the node is stuck");
            return Err(unavailable(detail));
        }
        Ok(())
    };
    let health = nodes.health(&[newest], judge).await;
    NodesCheck {
        health,
        heads: heads.into_inner().unwrap_or_else(PoisonError::into_inner),
    }
}
