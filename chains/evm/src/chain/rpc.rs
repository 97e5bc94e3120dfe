//! The client of an EVM chain's nodes.
//!
//! Requests and results are alloy's. Requests to several nodes at once use [`Nodes`] directly:
//! submission, the check of each node, and questions to every node.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy::network::AnyNetwork;
use alloy::primitives::{Address, Bytes, TxKind, U64};
use alloy::providers::{Provider, RootProvider};
use alloy::rpc::client::{BatchRequest, RpcClient, Waiter};
use alloy::rpc::json_rpc::{RpcRecv, RpcSend};
use alloy::rpc::types::{TransactionInput, TransactionRequest};
use quittance_core::{Fault, Submission, Timestamp};
use quittance_nodes::{Identity, Nodes, NodesHealth, Reply, Request, decode_reply, unavailable};
use serde_json::{Value, json};
use url::Url;

use super::results::Head;
use super::submission::REFUSALS;
use super::transport::{NodesTransport, fault};

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

/// The error codes of EVM gateways for rate limits. Those of proxyd, which Base's and Optimism's
/// public nodes use: -32011 no backend, -32012 over capacity, -32014 too many calls, -32016 and
/// -32017 over the limit. The others are of QuickNode, OnFinality and dRPC.
const LIMIT_CODES: [i64; 9] = [
    -32011, -32012, -32014, -32016, -32017, -32007, -32029, -32097, 15,
];

/// The nodes of a chain, and alloy's provider over them.
#[derive(Debug, Clone)]
pub(crate) struct Rpc {
    nodes: Arc<Nodes>,
    provider: RootProvider<AnyNetwork>,
}

impl Rpc {
    /// The nodes of the chain with this id. Nothing is sent.
    pub(crate) fn new(
        chain_id: u64,
        urls: &[Url],
        timeout: Duration,
    ) -> Result<Self, reqwest::Error> {
        let nodes = Arc::new(Nodes::new(urls, timeout, ChainId(chain_id))?);
        let transport = NodesTransport(Arc::clone(&nodes));
        let is_local = false;
        Ok(Self {
            nodes,
            provider: RootProvider::new(RpcClient::new(transport, is_local)),
        })
    }

    /// The nodes, for what concerns several of them at once.
    pub(super) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Alloy's provider. It sends no transactions; [`send`](Self::send) does.
    pub(crate) fn provider(&self) -> &RootProvider<AnyNetwork> {
        &self.provider
    }

    /// Sends one request, whose result has the type `R`.
    ///
    /// # Errors
    /// If no node returns such a result.
    pub(crate) async fn ask<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, Fault> {
        let request = self.provider.client().request(method, params);
        request.await.map_err(fault)
    }

    /// An empty batch.
    pub(super) fn batch(&self) -> Batch<'_> {
        Batch(BatchRequest::new(self.provider.client()))
    }

    /// Submits a signed transaction to the nodes.
    pub(super) async fn send(&self, transaction: &[u8]) -> Submission {
        let transaction = Bytes::copy_from_slice(transaction);
        let request = Request::new("eth_sendRawTransaction", json!([transaction]));
        let refusal = |error: &_| REFUSALS.submission(error);
        self.nodes.send(&request, refusal).await
    }

    /// Checks each node: whether it is on the right chain, and whether its newest block is younger
    /// than `head_age_max`.
    pub(super) async fn check_nodes(
        &self,
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
        let health = self.nodes.health(&[newest], judge).await;
        NodesCheck {
            health,
            heads: heads.into_inner().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// What a check of the nodes found.
pub(super) struct NodesCheck {
    /// Which nodes work.
    pub(super) health: NodesHealth,
    /// The times of the nodes' newest blocks.
    pub(super) heads: Vec<Timestamp>,
}

/// Requests that are sent in one round trip.
pub(super) struct Batch<'a>(BatchRequest<'a>);

impl Batch<'_> {
    /// Adds a request. Its result can be awaited after [`send`](Self::send).
    pub(super) fn add<P: RpcSend, R: RpcRecv>(
        &mut self,
        method: &'static str,
        params: &P,
    ) -> Result<Waiter<R>, Fault> {
        self.0.add_call(method, params).map_err(fault)
    }

    /// Sends the batch.
    ///
    /// # Errors
    /// If no node replies at all.
    pub(super) async fn send(self) -> Result<(), Fault> {
        self.0.send().await.map_err(fault)
    }
}

/// A call of a contract, or of a program that runs as init code if there is no contract.
pub(crate) fn call(to: Option<Address>, data: Bytes) -> TransactionRequest {
    TransactionRequest {
        to: to.map(TxKind::Call),
        // Some nodes do not know the newer name of this field, `input`.
        input: TransactionInput {
            input: None,
            data: Some(data),
        },
        ..TransactionRequest::default()
    }
}
