//! Asking nodes: several of them, in order, with what they may cost bounded and what they say told apart.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use alloy::primitives::{B256, Bytes, U64};
use alloy::rpc::client::RpcClient;
use alloy::rpc::json_rpc::{ErrorPayload, RequestPacket, ResponsePacket, RpcError};
use alloy::transports::{TransportError, TransportErrorKind, TransportFut};
use futures_util::future::join_all;
use quittance_core::{Fault, FaultKind, Submission, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tracing::{debug, warn};
use url::Url;

use crate::submission;

/// The longest answer that is read: a batch of some hundred receipts is under 2 MiB.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// For how long a node that did not answer is asked only when every other one fails.
const REST: Duration = Duration::from_secs(15);

/// The nodes of one chain.
#[derive(Debug)]
pub(crate) struct Rpc {
    chain_id: u64,
    nodes: Vec<Node>,
    started: Instant,
}

/// One node, by its URL.
#[derive(Debug)]
struct Node {
    client: RpcClient,
    /// The URL without what may be secret in it.
    name: String,
    /// Whether it has said that it is on the right chain since it last failed.
    proven: AtomicBool,
    /// Milliseconds after the start until which it rests.
    rests_until: AtomicU64,
    /// Whether its newest block was too old when it was last looked at.
    stale: AtomicBool,
}

/// What a node said instead of an answer.
#[derive(Debug, Clone)]
pub(crate) struct NodeError {
    /// JSON-RPC's code.
    pub(crate) code: i64,
    /// What it said, for people; no two kinds of nodes agree on it.
    pub(crate) message: String,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// A node answered, and said no.
    Node(NodeError),
    /// No node took the question: certain that nothing happened.
    NotAsked(Fault),
    /// A node may have taken it, and no answer came.
    NoAnswer(Fault),
}

impl Failure {
    /// The fault this is when the question was one that any working node answers.
    pub(crate) fn fault(self) -> Fault {
        match self {
            Self::Node(error) => Fault::new(
                FaultKind::ChainUnavailable,
                format_args!("the node says {}: {}", error.code, error.message),
            ),
            Self::NotAsked(fault) | Self::NoAnswer(fault) => fault,
        }
    }
}

/// `eth_getBlockByNumber`, as much of it as is needed.
#[derive(Deserialize)]
struct Head {
    timestamp: U64,
}

/// A call: method and parameters.
pub(crate) type Call = (&'static str, Value);

impl Rpc {
    pub(crate) fn new(
        chain_id: u64,
        urls: &[Url],
        timeout: Duration,
    ) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .timeout(timeout)
            // A node that redirects is not a node; and the body could go to anybody.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("quittance/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let nodes = urls.iter().map(|url| Node::new(&http, url)).collect();
        Ok(Self {
            chain_id,
            nodes,
            started: Instant::now(),
        })
    }

    /// Asks one thing: of each node until one answers. One that answers with an error may only be behind.
    ///
    /// # Errors
    /// When no node answers, and what the first of them said if none of them likes the question.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, Fault> {
        let mut said = None;
        let mut last = None;
        for node in self.order() {
            match node.ask(self, method, &params).await {
                Ok(answer) => return Ok(answer),
                Err(failure @ Failure::Node(_)) => said = said.or(Some(failure)),
                Err(failure) => {
                    self.rest(node, &failure);
                    last = Some(failure);
                }
            }
        }
        Err(said.or(last).map_or_else(no_node, Failure::fault))
    }

    /// Asks many things of one node in one round trip, and what it has no answer to of the next. Each has its own
    /// answer.
    ///
    /// # Errors
    /// When no node answers at all.
    pub(crate) async fn ask_many(
        &self,
        calls: &[Call],
    ) -> Result<Vec<Result<Value, NodeError>>, Fault> {
        let mut answers: Vec<Option<Result<Value, NodeError>>> = vec![None; calls.len()];
        let mut last = None;
        for node in self.order() {
            let open: Vec<usize> = (0..calls.len())
                .filter(|&at| !matches!(answers[at], Some(Ok(_))))
                .collect();
            if open.is_empty() {
                break;
            }
            let asked: Vec<Call> = open.iter().map(|&at| calls[at].clone()).collect();
            match node.ask_many(self, &asked).await {
                Ok(found) => {
                    for (at, answer) in open.into_iter().zip(found) {
                        // The first node's error is told where the others have nothing better.
                        if answers[at].is_none() || answer.is_ok() {
                            answers[at] = Some(answer);
                        }
                    }
                }
                Err(failure) => {
                    self.rest(node, &failure);
                    last = Some(failure);
                }
            }
        }
        let complete: Option<Vec<_>> = answers.into_iter().collect();
        complete.ok_or_else(|| last.map_or_else(no_node, Failure::fault))
    }

    /// Hands a signed transaction to the nodes in turn, until one has it. No refusal takes back that a node asked before
    /// may have it.
    pub(crate) async fn send(&self, transaction: &Bytes) -> Submission {
        let mut outcome = Submission::Refused(no_node());
        let params = json!([transaction]);
        for node in self.order() {
            let sent = node
                .ask::<B256>(self, "eth_sendRawTransaction", &params)
                .await;
            if let Err(failure @ (Failure::NotAsked(_) | Failure::NoAnswer(_))) = &sent {
                self.rest(node, failure);
            }
            outcome = submission::surer(outcome, submission::of(sent.map(|_| ())));
            if matches!(outcome, Submission::Accepted | Submission::PlaceTaken) {
                break;
            }
        }
        outcome
    }

    /// Looks at each node by itself: is it on the right chain, and how old is its newest block? One whose newest block
    /// is older than `head_age_max` is asked after all others from now on. For health.
    pub(crate) async fn look(
        &self,
        now: Timestamp,
        head_age_max: Option<Duration>,
    ) -> Vec<(&str, Result<(), Fault>)> {
        let looks = self.nodes.iter().map(|node| async move {
            let found = node.look(self, now, head_age_max).await;
            (node.name.as_str(), found)
        });
        join_all(looks).await
    }

    /// Whether no node has a fresh newest block, as far as was seen: what is asked of them is not how things are.
    pub(crate) fn all_stale(&self) -> bool {
        self.nodes
            .iter()
            .all(|node| node.stale.load(Ordering::Relaxed))
    }

    /// Every node once: those that rest, or are behind, last.
    fn order(&self) -> Vec<&Node> {
        let now = self.now();
        let mut nodes: Vec<&Node> = self.nodes.iter().collect();
        nodes.sort_by_key(|node| {
            node.stale.load(Ordering::Relaxed) || node.rests_until.load(Ordering::Relaxed) > now
        });
        nodes
    }

    fn rest(&self, node: &Node, failure: &Failure) {
        warn!(node = node.name, ?failure, "a node does not answer");
        node.proven.store(false, Ordering::Relaxed);
        node.rests_until
            .store(self.now() + REST.as_millis() as u64, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

fn no_node() -> Fault {
    unavailable("no node is configured")
}

impl Node {
    fn new(http: &reqwest::Client, url: &Url) -> Self {
        let transport = BoundedHttp {
            http: http.clone(),
            url: url.clone(),
        };
        Self {
            client: RpcClient::new(transport, false),
            name: redacted(url),
            proven: AtomicBool::new(false),
            rests_until: AtomicU64::new(0),
            stale: AtomicBool::new(false),
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        rpc: &Rpc,
        method: &'static str,
        params: &Value,
    ) -> Result<T, Failure> {
        self.prove_once(rpc).await?;
        debug!(node = self.name, method, "asking");
        let answer: Value = self.client.request(method, params).await.map_err(failure)?;
        serde_json::from_value(answer).map_err(|error| {
            Failure::NoAnswer(unavailable(format_args!(
                "{method} answered nonsense: {error}"
            )))
        })
    }

    async fn ask_many(
        &self,
        rpc: &Rpc,
        calls: &[Call],
    ) -> Result<Vec<Result<Value, NodeError>>, Failure> {
        self.prove_once(rpc).await?;
        debug!(node = self.name, calls = calls.len(), "asking many");
        let mut batch = self.client.new_batch();
        let mut waiting = Vec::with_capacity(calls.len());
        for (method, params) in calls {
            waiting.push(
                batch
                    .add_call::<_, Value>(*method, params)
                    .map_err(failure)?,
            );
        }
        batch.send().await.map_err(failure)?;
        let mut answers = Vec::with_capacity(calls.len());
        for waiter in waiting {
            answers.push(match waiter.await.map_err(failure) {
                Ok(answer) => Ok(answer),
                Err(Failure::Node(error)) => Err(error),
                Err(failure) => return Err(failure),
            });
        }
        Ok(answers)
    }

    async fn look(
        &self,
        rpc: &Rpc,
        now: Timestamp,
        head_age_max: Option<Duration>,
    ) -> Result<(), Fault> {
        self.prove(rpc).await.map_err(Failure::fault)?;
        let Some(age_max) = head_age_max else {
            return Ok(());
        };
        let params = json!(["latest", false]);
        let head: Head = self
            .ask(rpc, "eth_getBlockByNumber", &params)
            .await
            .map_err(Failure::fault)?;
        let age = now.secs_since(Timestamp::from_secs(head.timestamp.to()));
        let stale = age > age_max.as_secs();
        self.stale.store(stale, Ordering::Relaxed);
        if stale {
            let problem = format!("the newest block is {age} seconds old: the node is stuck");
            return Err(unavailable(problem));
        }
        Ok(())
    }

    /// Nothing is asked of a node before it has said that it is on the right chain, and again after each failure:
    /// behind one URL there may be another node now.
    async fn prove_once(&self, rpc: &Rpc) -> Result<(), Failure> {
        if self.proven.load(Ordering::Relaxed) {
            Ok(())
        } else {
            self.prove(rpc).await
        }
    }

    async fn prove(&self, rpc: &Rpc) -> Result<(), Failure> {
        let answer: U64 = self
            .client
            .request_noparams("eth_chainId")
            .await
            .map_err(failure)
            .map_err(|failure| match failure {
                // Not even this was understood: for whoever asked, nothing has happened.
                Failure::NoAnswer(fault) => Failure::NotAsked(fault),
                Failure::Node(_) => Failure::NotAsked(failure.fault()),
                not_asked => not_asked,
            })?;
        let found = answer.to::<u64>();
        if found != rpc.chain_id {
            let problem = format!(
                "the node {} is on chain {found}, not {}",
                self.name, rpc.chain_id
            );
            return Err(Failure::NotAsked(unavailable(problem)));
        }
        self.proven.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// A URL as it may be printed: keys stand in the path, the query, or before the host.
pub(crate) fn redacted(url: &Url) -> String {
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or("?"))
}

fn unavailable(what: impl std::fmt::Display) -> Fault {
    Fault::new(FaultKind::ChainUnavailable, what)
}

fn failure(error: TransportError) -> Failure {
    match error {
        RpcError::ErrorResp(payload) if LIMIT_CODES.contains(&payload.code) => Failure::NotAsked(
            unavailable(format_args!("over the node's limit: {}", payload.message)),
        ),
        RpcError::ErrorResp(payload) => Failure::Node(node_error(payload)),
        RpcError::Transport(TransportErrorKind::Custom(error)) => {
            match error.downcast::<HttpError>() {
                Ok(error) => error.failure(),
                Err(error) => Failure::NoAnswer(unavailable(error)),
            }
        }
        // The text that could not be read is the node's and may be long.
        RpcError::DeserError { err, .. } => {
            Failure::NoAnswer(unavailable(format_args!("an unreadable answer: {err}")))
        }
        other => Failure::NoAnswer(unavailable(other)),
    }
}

/// What nodes say inside HTTP 200 when somebody asked too much (EIP-1474 and common gateways).
const LIMIT_CODES: [i64; 3] = [-32005, -32007, 429];

fn node_error(payload: ErrorPayload) -> NodeError {
    NodeError {
        code: payload.code,
        message: payload.message.into_owned(),
    }
}

/// Answers with which no request was passed on: no key, a bad one, no such place, too long, too many. Of all others it
/// is not certain.
const TURNED_AWAY: [u16; 5] = [401, 403, 404, 413, 429];

/// Why HTTP brought no JSON.
#[derive(Debug, thiserror::Error)]
enum HttpError {
    #[error("could not connect: {}", causes(.0))]
    Connect(reqwest::Error),
    #[error("{}", causes(.0))]
    Broken(reqwest::Error),
    #[error("answered HTTP {0}")]
    Status(u16),
    #[error("answered more than {ANSWER_MAX} bytes")]
    TooLong,
    #[error("answered no JSON-RPC: {0}")]
    NotJson(serde_json::Error),
}

/// An error with what caused it: by itself it says only that a request failed.
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl HttpError {
    fn of(error: reqwest::Error) -> Self {
        let error = error.without_url();
        if error.is_connect() {
            Self::Connect(error)
        } else {
            Self::Broken(error)
        }
    }

    fn failure(&self) -> Failure {
        let fault = Fault::new(FaultKind::ChainUnavailable, self);
        match self {
            // Turned away at the door, by whoever stands before the node.
            Self::Status(status) if TURNED_AWAY.contains(status) => Failure::NotAsked(fault),
            Self::Connect(_) => Failure::NotAsked(fault),
            _ => Failure::NoAnswer(fault),
        }
    }
}

/// JSON-RPC over HTTP, with a limit on what is read and no URL in any error.
#[derive(Debug, Clone)]
struct BoundedHttp {
    http: reqwest::Client,
    url: Url,
}

impl BoundedHttp {
    async fn exchange(self, packet: RequestPacket) -> Result<ResponsePacket, HttpError> {
        let mut response = self
            .http
            .post(self.url)
            .json(&packet)
            .send()
            .await
            .map_err(HttpError::of)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(HttpError::of)? {
            if body.len() + chunk.len() > ANSWER_MAX {
                return Err(HttpError::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        let status = response.status();
        if TURNED_AWAY.contains(&status.as_u16()) {
            return Err(HttpError::Status(status.as_u16()));
        }
        // Whatever else the status says, the node's own answer counts if there is one.
        serde_json::from_slice(&body).map_err(|error| match status {
            status if status.is_success() => HttpError::NotJson(error),
            status => HttpError::Status(status.as_u16()),
        })
    }
}

impl tower::Service<RequestPacket> for BoundedHttp {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        let exchange = self.clone().exchange(packet);
        Box::pin(async move { exchange.await.map_err(TransportErrorKind::custom) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_a_url_are_not_printed() {
        let url = Url::parse("https://user:secret@node.example:8545/v2/secret?key=secret").unwrap();
        assert_eq!(redacted(&url), "https://node.example:8545");
    }
}
