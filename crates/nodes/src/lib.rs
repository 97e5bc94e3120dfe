//! JSON-RPC to the nodes of one chain: several of them, in order, with what they may cost bounded and what they say told
//! apart.
//!
//! A client of our own, because of three things that money needs of it: it tells *nobody was asked* from *no answer came*,
//! which for a transaction that was sent is the difference that matters; it asks many things in one round trip, each with
//! its own answer; and it reads no more than it must. What a chain's nodes are asked is the chain's business.

mod failure;
mod http;
mod limit;
mod node;
mod object;
mod reply;
mod submission;

use std::time::Duration;

use futures_util::future::join_all;
use quittance_core::{Fault, Submission};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

pub use crate::failure::{Failure, NodeError, read_answer, unavailable};
pub use crate::http::redacted;
use crate::node::Node;
pub use crate::object::Object;

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

    /// The codes by which this chain's gateways say that they were asked too much, beside those
    /// that all gateways share. A node that says one of them certainly did nothing.
    fn limit_codes(&self) -> &[i64] {
        &[]
    }
}

/// The nodes of one chain, in order of preference.
#[derive(Debug)]
pub struct Nodes {
    identity: Box<dyn Identity>,
    nodes: Vec<Node>,
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
                    node.rest(&failure);
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
        self.ask_many_in_doubt(calls, |_| false).await
    }

    /// As [`ask_many`](Self::ask_many), for answers that say nothing of the chain they are from.
    /// Where a node's answers are in `doubt`, because a node of another chain would say such
    /// things, it must show once more that it is on the right one.
    ///
    /// # Errors
    /// When no node answers at all.
    pub async fn ask_many_in_doubt(
        &self,
        calls: &[Call],
        doubt: impl Fn(&[Answer]) -> bool,
    ) -> Result<Vec<Answer>, Fault> {
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
            match self.ask_in_doubt(node, &asked, &doubt).await {
                Ok(found) => {
                    for (at, answer) in open.into_iter().zip(found) {
                        // The first node's error is told where the others have nothing better.
                        if answers[at].is_none() || answer.is_ok() {
                            answers[at] = Some(answer);
                        }
                    }
                }
                Err(failure) => {
                    node.rest(&failure);
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
        self.ask_one_node_in_doubt(calls, |_| false).await
    }

    /// As [`ask_one_node`](Self::ask_one_node), with `doubt` as in
    /// [`ask_many_in_doubt`](Self::ask_many_in_doubt).
    ///
    /// # Errors
    /// When no node answers.
    pub async fn ask_one_node_in_doubt(
        &self,
        calls: &[Call],
        doubt: impl Fn(&[Answer]) -> bool,
    ) -> Result<Vec<Answer>, Fault> {
        let mut last = None;
        for node in self.order() {
            match self.ask_in_doubt(node, calls, &doubt).await {
                Ok(found) => return Ok(found),
                Err(failure) => {
                    node.rest(&failure);
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

    /// Asks one thing of every node that is not known to be behind, all at once; of all, where
    /// every one is. Each must first show that it is on the right chain. For a question to which
    /// one wrong answer costs money.
    pub async fn ask_every_current(&self, call: &Call) -> Vec<Answer> {
        let is_current = |node: &&Node| !node.is_stale() && !node.rests();
        let mut nodes: Vec<&Node> = self.nodes.iter().filter(is_current).collect();
        if nodes.is_empty() {
            nodes = self.nodes.iter().collect();
        }
        let calls = std::slice::from_ref(call);
        let asked = nodes
            .into_iter()
            .map(|node| async move { (node, node.ask_again(&*self.identity, calls).await) });
        let mut answers = Vec::new();
        for (node, found) in join_all(asked).await {
            match found {
                Ok(found) => answers.extend(found),
                Err(failure) => node.rest(&failure),
            }
        }
        answers
    }

    /// Hands a signed transaction, by this call, to the nodes in turn, until one has it. No refusal takes back that a node
    /// asked before may have it. `refusal` says what a node's refusal means.
    pub async fn send(&self, call: &Call, refusal: fn(&NodeError) -> Submission) -> Submission {
        let mut outcome = Submission::Refused(no_node());
        for node in self.order() {
            let calls = std::slice::from_ref(call);
            let sent = node.ask_proven(&*self.identity, calls).await;
            let sent = sent.and_then(only_one);
            if let Err(failure @ (Failure::NotAsked(_) | Failure::NoAnswer(_))) = &sent {
                node.rest(failure);
            }
            outcome = submission::surer(outcome, submission::of(sent, refusal));
            if matches!(outcome, Submission::Accepted | Submission::SequenceUsed) {
                break;
            }
        }
        outcome
    }

    /// Looks at each node by itself, for health: whether it is on the right chain, and what `judge`
    /// says to its answers to these calls, if any. `judge` is told which node it is, counted from
    /// 0. One that it does not like is behind, and one that does not answer, or for another chain,
    /// is worse: each is asked after all others from now on.
    pub async fn look(
        &self,
        calls: &[Call],
        judge: impl Fn(usize, Vec<Answer>) -> Result<(), Fault>,
    ) -> Vec<(&str, Result<(), Fault>)> {
        let looks = self.nodes.iter().enumerate().map(|(at, node)| {
            let judge = &judge;
            async move {
                let found = match node.ask_again(&*self.identity, calls).await {
                    Ok(answers) => judge(at, answers),
                    Err(failure) => {
                        node.rest(&failure);
                        Err(failure.fault())
                    }
                };
                node.stands_still(found.is_err());
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
        let mut nodes: Vec<&Node> = self.nodes.iter().collect();
        nodes.sort_by_key(|node| node.is_stale() || node.rests());
        nodes
    }

    async fn ask_node(&self, node: &Node, call: &Call) -> Result<Value, Failure> {
        let calls = std::slice::from_ref(call);
        node.ask(&*self.identity, calls).await.and_then(only_one)
    }

    async fn ask_in_doubt(
        &self,
        node: &Node,
        calls: &[Call],
        doubt: &impl Fn(&[Answer]) -> bool,
    ) -> Result<Vec<Answer>, Failure> {
        let answers = node.ask(&*self.identity, calls).await?;
        if doubt(&answers) {
            node.prove(&*self.identity).await?;
        }
        Ok(answers)
    }
}

/// The answer to a call that was asked alone.
fn only_one(answers: Vec<Answer>) -> Result<Value, Failure> {
    let answer = answers.into_iter().next();
    answer
        .ok_or_else(|| Failure::NoAnswer(unavailable("the node answered nothing")))?
        .map_err(Failure::Node)
}

fn no_node() -> Fault {
    unavailable("no node is configured")
}
