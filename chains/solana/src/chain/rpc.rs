//! The client of a cluster's nodes.
//!
//! Requests and results are those of `solana-rpc-client`. What the client cannot do uses [`Nodes`]
//! directly: submission, the check of each node, batches, questions for one node, and results that
//! are read by [types of our own](super::results).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use quittance_core::{Fault, Submission};
use quittance_nodes::{Identity, Nodes, NodesHealth, Reply, Request, decode_reply, unavailable};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use solana_commitment_config::CommitmentConfig;
use solana_rpc_client::nonblocking::rpc_client::RpcClient;
use solana_rpc_client::rpc_client::RpcClientConfig;
use solana_rpc_client_api::config::RpcSendTransactionConfig;
use solana_rpc_client_api::request::RpcRequest;
use solana_transaction_status_client_types::UiTransactionEncoding;
use url::Url;

use super::sender::NodesSender;
use super::submission::REFUSALS;

/// The prefix of the genesis hash that every node of the cluster must report; empty for any
/// cluster.
#[derive(Debug)]
struct Genesis(String);

impl Identity for Genesis {
    fn request(&self) -> Request {
        request(RpcRequest::GetGenesisHash, json!([]))
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

/// A request by the library's name of its method.
pub(crate) fn request(request: RpcRequest, params: Value) -> Request {
    Request::new(request.as_str(), params)
}

/// The nodes of a cluster, and the library's client over them.
pub(crate) struct Rpc {
    nodes: Arc<Nodes>,
    client: RpcClient,
}

impl Rpc {
    /// The nodes of the cluster whose genesis hash has this prefix. Nothing is sent.
    pub(crate) fn new(
        genesis: &str,
        urls: &[Url],
        timeout: Duration,
    ) -> Result<Self, reqwest::Error> {
        let nodes = Arc::new(Nodes::new(urls, timeout, Genesis(genesis.to_owned()))?);
        let sender = NodesSender(Arc::clone(&nodes));
        let config = RpcClientConfig::with_commitment(CommitmentConfig::confirmed());
        Ok(Self {
            nodes,
            client: RpcClient::new_sender(sender, config),
        })
    }

    /// The nodes, for batches and for what concerns several of them at once.
    pub(crate) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// The library's client. Its commitment is `confirmed`. It sends no transactions;
    /// [`submit`](Self::submit) does.
    pub(crate) fn client(&self) -> &RpcClient {
        &self.client
    }

    /// Sends one request, whose result has the type `R`, to each node in turn.
    ///
    /// # Errors
    /// If no node returns such a result.
    pub(crate) async fn ask<R: DeserializeOwned>(
        &self,
        request: RpcRequest,
        params: Value,
    ) -> Result<R, Fault> {
        self.nodes.ask(request.as_str(), params).await
    }

    /// Submits a signed transaction to the nodes.
    pub(crate) async fn submit(&self, transaction: &[u8]) -> Submission {
        // The node only forwards the transaction. It was simulated before, and the engine submits
        // it again.
        let options = RpcSendTransactionConfig {
            skip_preflight: true,
            encoding: Some(UiTransactionEncoding::Base64),
            max_retries: Some(0),
            ..RpcSendTransactionConfig::default()
        };
        let params = json!([BASE64.encode(transaction), options]);
        let request = request(RpcRequest::SendTransaction, params);
        let refusal = |error: &_| REFUSALS.submission(error);
        self.nodes.send(&request, refusal).await
    }
}

impl fmt::Debug for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The library's client has no `Debug`.
        f.debug_tuple("Rpc").field(&self.nodes).finish()
    }
}

/// The newest slot of each node at the last check, and when it was first seen. (Nodes do not report
/// reliably when a block was made.)
#[derive(Debug, Default)]
pub(crate) struct Heads(Mutex<BTreeMap<usize, (u64, Instant)>>);

impl Heads {
    /// Checks of each node that it is on the right cluster, is not behind, and has new blocks.
    pub(crate) async fn check(&self, nodes: &Nodes, age_max: Duration) -> NodesHealth {
        let requests = [
            request(RpcRequest::GetHealth, json!([])),
            request(RpcRequest::GetSlot, json!([CommitmentConfig::confirmed()])),
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
