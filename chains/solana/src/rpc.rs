//! Asking nodes: several of them, in order, with what they may cost bounded and what they say told apart.
//!
//! A client of our own instead of `solana-rpc-client`, for three reasons: it tells *nobody was asked* from *no answer came*,
//! which for a payment that was sent is the difference that matters; it asks one node many things in one round trip; and
//! it reads no more than it must.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use quittance_core::{Fault, FaultKind, Submission};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tracing::{debug, warn};
use url::Url;

use crate::submission;

/// The longest answer that is read: a batch of some hundred transactions with their logs is under 4 MiB.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// For how long a node that did not answer is asked only when every other one fails.
const REST: Duration = Duration::from_secs(15);

/// The nodes of one cluster.
#[derive(Debug)]
pub(crate) struct Rpc {
    http: reqwest::Client,
    genesis: String,
    nodes: Vec<Node>,
    started: Instant,
}

/// One node, by its URL.
#[derive(Debug)]
struct Node {
    url: Url,
    /// The URL without what may be secret in it.
    name: String,
    /// Whether it has said that it is on the right cluster since it last failed.
    proven: AtomicBool,
    /// Milliseconds after the start until which it rests.
    rests_until: AtomicU64,
    /// Whether it was behind when it was last looked at.
    stale: AtomicBool,
    /// Its newest block when it was last looked at, and when that was first seen.
    head: Mutex<Option<(u64, Instant)>>,
}

/// What a node said instead of an answer.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct NodeError {
    /// JSON-RPC's code.
    pub(crate) code: i64,
    /// What it said, for people.
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
            Self::Node(error) => unavailable(format_args!(
                "the node says {}: {}",
                error.code, error.message
            )),
            Self::NotAsked(fault) | Self::NoAnswer(fault) => fault,
        }
    }
}

/// A call: method and parameters.
pub(crate) type Call = (&'static str, Value);

/// One answer of JSON-RPC.
#[derive(Deserialize)]
struct Response {
    id: Option<u64>,
    #[serde(default)]
    result: Value,
    error: Option<NodeError>,
}

/// JSON-RPC answers a batch with a list, except when it refuses the whole.
#[derive(Deserialize)]
#[serde(untagged)]
enum Responses {
    Many(Vec<Response>),
    One(Response),
}

impl Rpc {
    /// `genesis` is what the cluster's genesis hash must begin with.
    pub(crate) fn new(
        genesis: &str,
        urls: &[Url],
        timeout: Duration,
    ) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .timeout(timeout)
            // A node that redirects is not a node; and the body could go to anybody.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("quittance/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            http,
            genesis: genesis.to_owned(),
            nodes: urls.iter().map(Node::new).collect(),
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
        let answers = self.ask_many(&[(method, params)]).await?;
        let answer = answers.into_iter().next().ok_or_else(no_node)?;
        read_answer(answer)
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

    /// Asks several things that must come from one and the same node: of each node until one answers.
    ///
    /// # Errors
    /// When no node answers.
    pub(crate) async fn ask_one_node(
        &self,
        calls: &[Call],
    ) -> Result<Vec<Result<Value, NodeError>>, Fault> {
        let mut last = None;
        for node in self.order() {
            match node.ask_many(self, calls).await {
                Ok(found) => return Ok(found),
                Err(failure) => {
                    self.rest(node, &failure);
                    last = Some(failure);
                }
            }
        }
        Err(last.map_or_else(no_node, Failure::fault))
    }

    /// Asks one thing of every node, all at once. For a question to which "not yet" and "no more" read alike.
    pub(crate) async fn ask_every(&self, call: &Call) -> Vec<Result<Value, NodeError>> {
        let calls = std::slice::from_ref(call);
        let asked = self.nodes.iter().map(|node| node.ask_many(self, calls));
        let answered = join_all(asked).await.into_iter().flatten();
        answered.filter_map(|mut answers| answers.pop()).collect()
    }

    /// Hands a signed transaction, in base64, to the nodes in turn, until one has it. No refusal takes back that a node asked
    /// before may have it.
    pub(crate) async fn send(&self, transaction: &str) -> Submission {
        let mut outcome = Submission::Refused(no_node());
        // The node only passes it on: what it would say of it was asked before, and sending it again is our business.
        let options = json!({ "encoding": "base64", "skipPreflight": true, "maxRetries": 0 });
        let call = ("sendTransaction", json!([transaction, options]));
        for node in self.order() {
            let asked = node.ask_many(self, std::slice::from_ref(&call)).await;
            let sent = asked.and_then(|mut answers| match answers.pop() {
                Some(Ok(_)) => Ok(()),
                Some(Err(error)) => Err(Failure::Node(error)),
                None => Err(Failure::NoAnswer(no_node())),
            });
            if let Err(failure @ (Failure::NotAsked(_) | Failure::NoAnswer(_))) = &sent {
                self.rest(node, failure);
            }
            outcome = submission::surer(outcome, submission::of(sent));
            if outcome == Submission::Accepted {
                break;
            }
        }
        outcome
    }

    /// Looks at each node by itself: is it on the right cluster, is it behind, and does its newest block change? One that
    /// is behind is asked after all others from now on. For health.
    pub(crate) async fn look(&self, head_age_max: Duration) -> Vec<(&str, Result<(), Fault>)> {
        let looks = self.nodes.iter().map(|node| async move {
            let found = node.look(self, head_age_max).await;
            (node.name.as_str(), found)
        });
        join_all(looks).await
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

/// An answer as what it should be.
pub(crate) fn read_answer<T: DeserializeOwned>(
    answer: Result<Value, NodeError>,
) -> Result<T, Fault> {
    let answer = answer.map_err(|error| Failure::Node(error).fault())?;
    serde_json::from_value(answer)
        .map_err(|error| unavailable(format_args!("the node answered nonsense: {error}")))
}

impl Node {
    fn new(url: &Url) -> Self {
        Self {
            url: url.clone(),
            name: redacted(url),
            proven: AtomicBool::new(false),
            rests_until: AtomicU64::new(0),
            stale: AtomicBool::new(false),
            head: Mutex::new(None),
        }
    }

    async fn ask_many(
        &self,
        rpc: &Rpc,
        calls: &[Call],
    ) -> Result<Vec<Result<Value, NodeError>>, Failure> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        // Nothing is asked of a node before it has said that it is on the right cluster, and again after each failure:
        // behind one URL there may be another node now.
        if !self.proven.load(Ordering::Relaxed) {
            self.prove(rpc).await?;
        }
        debug!(
            node = self.name,
            calls = calls.len(),
            first = calls[0].0,
            "asking"
        );
        self.exchange(rpc, calls).await
    }

    async fn look(&self, rpc: &Rpc, head_age_max: Duration) -> Result<(), Fault> {
        self.prove(rpc).await.map_err(Failure::fault)?;
        let calls = [
            ("getHealth", json!([])),
            ("getSlot", json!([{ "commitment": "confirmed" }])),
        ];
        let answers = self.exchange(rpc, &calls).await.map_err(Failure::fault)?;
        let found = self.look_at(answers, head_age_max);
        self.stale.store(found.is_err(), Ordering::Relaxed);
        found
    }

    fn look_at(
        &self,
        answers: Vec<Result<Value, NodeError>>,
        head_age_max: Duration,
    ) -> Result<(), Fault> {
        let mut answers = answers.into_iter();
        let mut next = || answers.next().unwrap_or(Ok(Value::Null));
        let _: Value = read_answer(next())?;
        let slot: u64 = read_answer(next())?;
        let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match *head {
            Some((seen, since)) if seen == slot => since,
            _ => Instant::now(),
        };
        *head = Some((slot, since));
        let age = since.elapsed();
        if age > head_age_max {
            let what = format!(
                "the newest block is {} seconds old: the node is stuck",
                age.as_secs()
            );
            return Err(unavailable(what));
        }
        Ok(())
    }

    async fn prove(&self, rpc: &Rpc) -> Result<(), Failure> {
        let not_asked = |failure| match failure {
            // Not even this was understood: for whoever asked, nothing has happened.
            Failure::NoAnswer(fault) | Failure::NotAsked(fault) => Failure::NotAsked(fault),
            Failure::Node(_) => Failure::NotAsked(failure.fault()),
        };
        let call = [("getGenesisHash", json!([]))];
        let answer = self.exchange(rpc, &call).await.map_err(not_asked)?.pop();
        let found: String =
            read_answer(answer.unwrap_or(Ok(Value::Null))).map_err(Failure::NotAsked)?;
        if !found.starts_with(&rpc.genesis) {
            let problem = format!(
                "the node {} is on the cluster with the genesis hash {found}, not {}",
                self.name, rpc.genesis
            );
            return Err(Failure::NotAsked(unavailable(problem)));
        }
        self.proven.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// One round trip. The answers stand in the order of the calls.
    async fn exchange(
        &self,
        rpc: &Rpc,
        calls: &[Call],
    ) -> Result<Vec<Result<Value, NodeError>>, Failure> {
        let request = |(id, (method, params)): (usize, &Call)| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let requests: Vec<Value> = calls.iter().enumerate().map(request).collect();
        let body = match requests.as_slice() {
            [one] => one.clone(),
            many => json!(many),
        };
        let text = post(&rpc.http, &self.url, &body)
            .await
            .map_err(|error| error.failure())?;
        let nonsense = |what: &str| Failure::NoAnswer(unavailable(format_args!("the node {what}")));
        let responses = match serde_json::from_slice(&text) {
            Ok(Responses::Many(responses)) => responses,
            Ok(Responses::One(response)) if calls.len() == 1 => vec![response],
            Ok(Responses::One(Response {
                error: Some(error), ..
            })) => return Err(refused(error)),
            Ok(Responses::One(_)) => return Err(nonsense("answered one of many")),
            Err(error) => return Err(nonsense(&format!("answered no JSON-RPC: {error}"))),
        };
        let mut by_id = BTreeMap::new();
        for response in responses {
            let answer = match response.error {
                Some(error) if LIMIT_CODES.contains(&error.code) => return Err(refused(error)),
                Some(error) => Err(error),
                None => Ok(response.result),
            };
            by_id.insert(response.id, answer);
        }
        let in_order = (0..calls.len() as u64).map(|id| {
            let answer = by_id.remove(&Some(id));
            answer.ok_or_else(|| nonsense("left a question of a batch out"))
        });
        in_order.collect()
    }
}

/// What nodes and gateways say inside HTTP 200 when somebody asked too much, or the node is behind and says nothing.
const LIMIT_CODES: [i64; 3] = [-32005, -32007, 429];

fn refused(error: NodeError) -> Failure {
    Failure::NotAsked(unavailable(format_args!(
        "the node says {}: {}",
        error.code, error.message
    )))
}

/// A URL as it may be printed: keys stand in the path, the query, or before the host.
pub(crate) fn redacted(url: &Url) -> String {
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or("?"))
}

pub(crate) fn unavailable(what: impl std::fmt::Display) -> Fault {
    Fault::new(FaultKind::ChainUnavailable, what)
}

/// Answers with which no request was passed on: no key, a bad one, no such place, too long, too many. Of all others it
/// is not certain.
const TURNED_AWAY: [u16; 5] = [401, 403, 404, 413, 429];

/// Why HTTP brought nothing.
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
        let fault = unavailable(self);
        match self {
            // Turned away at the door, by whoever stands before the node.
            Self::Status(status) if TURNED_AWAY.contains(status) => Failure::NotAsked(fault),
            Self::Connect(_) => Failure::NotAsked(fault),
            _ => Failure::NoAnswer(fault),
        }
    }
}

/// A POST, with a limit on what is read and no URL in any error.
async fn post(http: &reqwest::Client, url: &Url, body: &Value) -> Result<Vec<u8>, HttpError> {
    let request = http.post(url.clone()).json(body);
    let mut response = request.send().await.map_err(HttpError::of)?;
    let status = response.status();
    if !status.is_success() {
        return Err(HttpError::Status(status.as_u16()));
    }
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(HttpError::of)? {
        if text.len() + chunk.len() > ANSWER_MAX {
            return Err(HttpError::TooLong);
        }
        text.extend_from_slice(&chunk);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_a_url_are_not_printed() {
        let url = Url::parse("https://user:secret@node.example:8899/v2/secret?key=secret").unwrap();
        assert_eq!(redacted(&url), "https://node.example:8899");
    }
}
