//! JSON-RPC to the nodes of one chain: several of them, in order, with what they may cost bounded and what they say told
//! apart.
//!
//! A client of our own, because of three things that money needs of it: it tells *nobody was asked* from *no answer came*,
//! which for a transaction that was sent is the difference that matters; it asks many things in one round trip, each with
//! its own answer; and it reads no more than it must. What a chain's nodes are asked is the chain's business.

mod failure;
mod http;
mod node;
mod submission;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use quittance_core::{Fault, Submission};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

pub use crate::failure::{Failure, NodeError, read_answer, unavailable};
pub use crate::http::redacted;
use crate::node::Node;

/// A call: method and parameters.
pub type Call = (&'static str, Value);

/// One node's answer to one call.
pub type Answer = Result<Value, NodeError>;

/// How a node shows that it is one of this chain's.
pub trait Identity: std::fmt::Debug + Send + Sync + 'static {
    /// What it is asked before anything else, such as `eth_chainId`.
    fn question(&self) -> Call;

    /// Whether the answer is right.
    ///
    /// # Errors
    /// What is wrong, to be read behind "the node … is": "on chain 1, not 8453".
    fn check(&self, answer: &Value) -> Result<(), String>;
}

/// The nodes of one chain, in order of preference.
#[derive(Debug)]
pub struct Nodes {
    identity: Box<dyn Identity>,
    nodes: Vec<Node>,
    started: Instant,
}

impl Nodes {
    /// Nothing is asked yet. An answer that takes longer than `timeout` counts as none.
    ///
    /// # Errors
    /// When this machine cannot make an HTTP client, for want of certificates for instance.
    pub fn new(
        urls: &[Url],
        timeout: Duration,
        identity: impl Identity,
    ) -> Result<Self, reqwest::Error> {
        let clients = http::Clients::new(timeout)?;
        Ok(Self {
            identity: Box::new(identity),
            nodes: urls
                .iter()
                .map(|url| Node::new(clients.of(url), url))
                .collect(),
            started: Instant::now(),
        })
    }

    /// Asks one thing: of each node until one answers. One that answers with an error may only be behind.
    ///
    /// # Errors
    /// When no node answers, and what the first of them said if none of them likes the question.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, Fault> {
        let call = (method, params);
        let mut said = None;
        let mut last = None;
        for node in self.order() {
            match self.ask_node(node, &call).await.and_then(failure::typed) {
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
    /// answer, in the order of the calls.
    ///
    /// # Errors
    /// When no node answers at all.
    pub async fn ask_many(&self, calls: &[Call]) -> Result<Vec<Answer>, Fault> {
        let mut answers: Vec<Option<Answer>> = vec![None; calls.len()];
        let mut last = None;
        for node in self.order() {
            let open: Vec<usize> = (0..calls.len())
                .filter(|&at| !matches!(answers[at], Some(Ok(_))))
                .collect();
            if open.is_empty() {
                break;
            }
            let asked: Vec<Call> = open.iter().map(|&at| calls[at].clone()).collect();
            match self.ask_node_many(node, &asked).await {
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
    pub async fn ask_one_node(&self, calls: &[Call]) -> Result<Vec<Answer>, Fault> {
        let mut last = None;
        for node in self.order() {
            match self.ask_node_many(node, calls).await {
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
    pub async fn ask_every(&self, call: &Call) -> Vec<Answer> {
        let asked = self.nodes.iter().map(|node| self.ask_node(node, call));
        let answered = join_all(asked).await.into_iter();
        answered
            .filter_map(|answer| match answer {
                Ok(value) => Some(Ok(value)),
                Err(Failure::Node(error)) => Some(Err(error)),
                Err(_) => None,
            })
            .collect()
    }

    /// Hands a signed transaction, by this call, to the nodes in turn, until one has it. No refusal takes back that a node
    /// asked before may have it. `refusal` says what a node's refusal means.
    pub async fn send(&self, call: &Call, refusal: fn(&NodeError) -> Submission) -> Submission {
        let mut outcome = Submission::Refused(no_node());
        for node in self.order() {
            let sent = self.ask_node(node, call).await;
            if let Err(failure @ (Failure::NotAsked(_) | Failure::NoAnswer(_))) = &sent {
                self.rest(node, failure);
            }
            outcome = submission::surer(outcome, submission::of(sent, refusal));
            if matches!(outcome, Submission::Accepted | Submission::PlaceTaken) {
                break;
            }
        }
        outcome
    }

    /// Looks at each node by itself, for health: whether it is on the right chain, and what `judge` says to its answers to
    /// these calls, if any. `judge` is told which node it is, counted from 0. One that it does not like is behind: it is
    /// asked after all others from now on.
    pub async fn look(
        &self,
        calls: &[Call],
        judge: impl Fn(usize, Vec<Answer>) -> Result<(), Fault>,
    ) -> Vec<(&str, Result<(), Fault>)> {
        let looks = self.nodes.iter().enumerate().map(|(at, node)| {
            let judge = &judge;
            async move {
                let asked = node.ask_again(&*self.identity, calls).await;
                let found = asked.map_err(Failure::fault).and_then(|answers| {
                    let found = judge(at, answers);
                    node.stands_still(found.is_err());
                    found
                });
                (node.name(), found)
            }
        });
        join_all(looks).await
    }

    /// Whether every node is behind, as far as was seen: what is asked of them is not how things are.
    pub fn all_stale(&self) -> bool {
        self.nodes.iter().all(Node::is_stale)
    }

    /// Every node once: those that rest, or are behind, last.
    fn order(&self) -> Vec<&Node> {
        let now = self.started.elapsed();
        let mut nodes: Vec<&Node> = self.nodes.iter().collect();
        nodes.sort_by_key(|node| node.is_stale() || node.rests(now));
        nodes
    }

    async fn ask_node(&self, node: &Node, call: &Call) -> Result<Value, Failure> {
        let mut answers = self.ask_node_many(node, std::slice::from_ref(call)).await?;
        let answer = answers.pop();
        answer
            .ok_or_else(|| Failure::NoAnswer(unavailable("the node answered nothing")))?
            .map_err(Failure::Node)
    }

    async fn ask_node_many(&self, node: &Node, calls: &[Call]) -> Result<Vec<Answer>, Failure> {
        node.ask(&*self.identity, calls).await
    }

    fn rest(&self, node: &Node, failure: &Failure) {
        node.rest(self.started.elapsed(), failure);
    }
}

fn no_node() -> Fault {
    unavailable("no node is configured")
}
