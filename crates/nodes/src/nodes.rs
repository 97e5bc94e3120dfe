//! Requests to several nodes in turn, or to all of them.

use std::time::Duration;

use futures_util::future::join_all;
use quittance_core::{Fault, Submission};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use crate::failure::{Failure, NodeError, unavailable};
use crate::health::NodesHealth;
use crate::http::Clients;
use crate::json_rpc::JsonRpc;
use crate::node::Node;
use crate::request::{Identity, Reply, Request, decode_result};
use crate::submission;
use crate::transport::Transport;

/// The nodes of one chain, in order of preference.
#[derive(Debug)]
pub struct Nodes {
    identity: Box<dyn Identity>,
    nodes: Vec<Node>,
}

impl Nodes {
    /// Makes the clients and sends nothing. A reply that takes longer than `timeout` counts as
    /// missing.
    ///
    /// # Errors
    /// If this machine cannot make an HTTP client, for example without root certificates.
    pub fn new(
        urls: &[Url],
        timeout: Duration,
        identity: impl Identity,
    ) -> Result<Self, reqwest::Error> {
        let clients = Clients::new(timeout)?;
        let transport = |url: &Url| -> Box<dyn Transport> {
            let limit_codes = identity.limit_codes();
            Box::new(JsonRpc::new(clients.for_url(url), url, limit_codes))
        };
        let transports = urls.iter().map(transport).collect();
        Ok(Self::with_transports(transports, identity))
    }

    /// Nodes that are reached in other ways than JSON-RPC by HTTP, in order of preference.
    pub fn with_transports(transports: Vec<Box<dyn Transport>>, identity: impl Identity) -> Self {
        Self {
            identity: Box::new(identity),
            nodes: transports.into_iter().map(Node::new).collect(),
        }
    }

    /// Sends one request to each node in turn, until one returns a result of type `T`. A node that
    /// returns an error may only be behind, so the next one is asked.
    ///
    /// # Errors
    /// If no node returns such a result: the first node's error, or else the last failure.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, Fault> {
        let request = Request::new(method, params);
        let result = self.ask_decoded(&request, decode_result).await;
        result.map_err(Failure::fault)
    }

    /// Sends one request to each node in turn, until `decode` accepts a result.
    ///
    /// # Errors
    /// If it accepts none: the first node's error, or else the last failure.
    pub async fn ask_decoded<T>(
        &self,
        request: &Request,
        decode: impl Fn(Value) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut first_error = None;
        let mut last_failure = None;
        for node in self.order() {
            match self.ask_node(node, request).await.and_then(&decode) {
                Ok(result) => return Ok(result),
                Err(failure @ Failure::Node(_)) => first_error = first_error.or(Some(failure)),
                Err(failure) => {
                    node.back_off(&failure);
                    last_failure = Some(failure);
                }
            }
        }
        let failure = first_error.or(last_failure);
        Err(failure.unwrap_or_else(|| Failure::NotSent(no_node())))
    }

    /// Sends many requests to one node in one round trip, and those without a result to the next
    /// node. The replies are in the order of the requests.
    ///
    /// # Errors
    /// If no node replies at all.
    pub async fn ask_many(&self, requests: &[Request]) -> Result<Vec<Reply>, Fault> {
        self.ask_many_in_doubt(requests, |_| false).await
    }

    /// As [`ask_many`](Self::ask_many), for results that do not show which chain they are from.
    ///
    /// `in_doubt` says whether a node of another chain could have given these replies. If so, the
    /// node must prove its identity once more.
    ///
    /// # Errors
    /// If no node replies at all.
    pub async fn ask_many_in_doubt(
        &self,
        requests: &[Request],
        in_doubt: impl Fn(&[Reply]) -> bool,
    ) -> Result<Vec<Reply>, Fault> {
        let mut replies: Vec<Option<Reply>> = vec![None; requests.len()];
        let mut last_failure = None;
        for node in self.order() {
            let open: Vec<usize> = (0..requests.len())
                .filter(|&at| !matches!(replies[at], Some(Ok(_))))
                .collect();
            if open.is_empty() {
                break;
            }
            let batch: Vec<Request> = open.iter().map(|&at| requests[at].clone()).collect();
            match self.ask_in_doubt(node, &batch, &in_doubt).await {
                Ok(found) => {
                    for (at, reply) in open.into_iter().zip(found) {
                        // The first node's error stays if no other node has a result.
                        if replies[at].is_none() || reply.is_ok() {
                            replies[at] = Some(reply);
                        }
                    }
                }
                Err(failure) => {
                    node.back_off(&failure);
                    last_failure = Some(failure);
                }
            }
        }
        let complete: Option<Vec<_>> = replies.into_iter().collect();
        complete.ok_or_else(|| last_failure.map_or_else(no_node, Failure::fault))
    }

    /// Sends several requests whose replies must come from the same node, to each node in turn
    /// until the replies of one are `complete`. The replies of two nodes are never mixed.
    ///
    /// If no node's replies are complete, they are those of the first node that replied.
    ///
    /// # Errors
    /// If no node replies.
    pub async fn ask_one_node_until(
        &self,
        requests: &[Request],
        complete: impl Fn(&[Reply]) -> bool,
    ) -> Result<Vec<Reply>, Fault> {
        let mut first_replies = None;
        let mut last_failure = None;
        for node in self.order() {
            match node.ask(&*self.identity, requests).await {
                Ok(replies) if complete(&replies) => return Ok(replies),
                Ok(replies) => first_replies = first_replies.or(Some(replies)),
                Err(failure) => {
                    node.back_off(&failure);
                    last_failure = Some(failure);
                }
            }
        }
        first_replies.ok_or_else(|| last_failure.map_or_else(no_node, Failure::fault))
    }

    /// Sends several requests whose replies must come from the same node, to each node in turn
    /// until one replies. `in_doubt` is as in [`ask_many_in_doubt`](Self::ask_many_in_doubt).
    ///
    /// # Errors
    /// If no node replies.
    pub async fn ask_one_node_in_doubt(
        &self,
        requests: &[Request],
        in_doubt: impl Fn(&[Reply]) -> bool,
    ) -> Result<Vec<Reply>, Fault> {
        self.ask_one_node_decoded(requests, in_doubt, Ok).await
    }

    /// As [`ask_one_node_in_doubt`](Self::ask_one_node_in_doubt), until `decode` accepts the
    /// replies of a node. A node whose replies it does not accept may only be behind.
    ///
    /// # Errors
    /// If it accepts none: the fault of the last node.
    pub async fn ask_one_node_decoded<T>(
        &self,
        requests: &[Request],
        in_doubt: impl Fn(&[Reply]) -> bool,
        decode: impl Fn(Vec<Reply>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut last_fault = None;
        for node in self.order() {
            let found = match self.ask_in_doubt(node, requests, &in_doubt).await {
                Ok(replies) => decode(replies),
                Err(failure) => {
                    node.back_off(&failure);
                    Err(failure.fault())
                }
            };
            match found {
                Ok(decoded) => return Ok(decoded),
                Err(fault) => last_fault = Some(fault),
            }
        }
        Err(last_fault.unwrap_or_else(no_node))
    }

    /// Sends one request to every node at the same time. For a question to which "not yet" and "no
    /// longer" have the same answer.
    pub async fn ask_every(&self, request: &Request) -> Vec<Reply> {
        let asked = self.nodes.iter().map(|node| self.ask_node(node, request));
        let results = join_all(asked).await.into_iter();
        results
            .filter_map(|result| match result {
                Ok(value) => Some(Ok(value)),
                Err(Failure::Node(error)) => Some(Err(error)),
                Err(_) => None,
            })
            .collect()
    }

    /// Sends one request at the same time to every node that is not known to be behind, or to all
    /// if every node is. Each must prove its identity first. For a question to which one wrong
    /// answer costs money.
    pub async fn ask_every_current(&self, request: &Request) -> Vec<Reply> {
        let is_current = |node: &&Node| !node.is_stale() && !node.is_backing_off();
        let mut nodes: Vec<&Node> = self.nodes.iter().filter(is_current).collect();
        if nodes.is_empty() {
            nodes = self.nodes.iter().collect();
        }
        let requests = std::slice::from_ref(request);
        let asked = nodes
            .into_iter()
            .map(|node| async move { (node, node.check_and_ask(&*self.identity, requests).await) });
        let mut replies = Vec::new();
        for (node, found) in join_all(asked).await {
            match found {
                Ok(found) => replies.extend(found),
                Err(failure) => node.back_off(&failure),
            }
        }
        replies
    }

    /// As [`submit`](Self::submit), for nodes that return the id of a transaction that they take.
    /// `refusal` says what a node's error means, as
    /// [`Refusals::submission`](crate::Refusals::submission) does.
    pub async fn send(
        &self,
        request: &Request,
        refusal: impl Fn(&NodeError) -> Submission,
    ) -> Submission {
        let meaning = |reply: &Reply| submission::taken_by_id(reply, &refusal);
        self.submit(request, meaning).await
    }

    /// Submits a signed transaction, with this request, to the nodes in turn until one has it.
    ///
    /// A refusal never overrides that a node asked before may have it. `meaning` says what a node's
    /// reply means. [`Submission::Refused`] must be certain: a result that it does not know is
    /// [`Submission::Unknown`].
    pub async fn submit(
        &self,
        request: &Request,
        meaning: impl Fn(&Reply) -> Submission,
    ) -> Submission {
        let mut outcome = Submission::Refused(no_node());
        for node in self.order() {
            let requests = std::slice::from_ref(request);
            let reply = node.ask_identified(&*self.identity, requests).await;
            let reply = reply.and_then(only_one);
            if let Err(failure @ (Failure::NotSent(_) | Failure::NoReply(_))) = &reply {
                node.back_off(failure);
            }
            outcome = submission::stronger(outcome, submission::from_reply(reply, &meaning));
            if matches!(outcome, Submission::Accepted | Submission::SequenceUsed) {
                break;
            }
        }
        outcome
    }

    /// Checks each node by itself: whether it is on the right chain, and what `judge` says about
    /// its replies to `requests`. `judge` also gets the node's number, counted from 0.
    ///
    /// A node that fails is stale: from now on it is asked after all others.
    pub async fn health(
        &self,
        requests: &[Request],
        judge: impl Fn(usize, Vec<Reply>) -> Result<(), Fault>,
    ) -> NodesHealth {
        let checks = self.nodes.iter().enumerate().map(|(at, node)| {
            let judge = &judge;
            async move {
                let found = match node.check_and_ask(&*self.identity, requests).await {
                    Ok(replies) => judge(at, replies),
                    Err(failure) => {
                        node.back_off(&failure);
                        Err(failure.fault())
                    }
                };
                node.set_stale(found.is_err());
                (node.name(), found)
            }
        });
        NodesHealth::from_checks(join_all(checks).await)
    }

    /// Whether the last health check found every node stale: their replies describe an old state.
    pub fn all_stale(&self) -> bool {
        self.nodes.iter().all(Node::is_stale)
    }

    /// Every node once: those that are stale or back off come last.
    fn order(&self) -> Vec<&Node> {
        let mut nodes: Vec<&Node> = self.nodes.iter().collect();
        nodes.sort_by_key(|node| node.is_stale() || node.is_backing_off());
        nodes
    }

    async fn ask_node(&self, node: &Node, request: &Request) -> Result<Value, Failure> {
        let requests = std::slice::from_ref(request);
        node.ask(&*self.identity, requests).await.and_then(only_one)
    }

    async fn ask_in_doubt(
        &self,
        node: &Node,
        requests: &[Request],
        in_doubt: &impl Fn(&[Reply]) -> bool,
    ) -> Result<Vec<Reply>, Failure> {
        let replies = node.ask(&*self.identity, requests).await?;
        if in_doubt(&replies) {
            node.check_identity(&*self.identity).await?;
        }
        Ok(replies)
    }
}

/// The result of a request that was sent alone.
fn only_one(replies: Vec<Reply>) -> Result<Value, Failure> {
    let reply = replies.into_iter().next();
    reply
        .ok_or_else(|| Failure::NoReply(unavailable("the node returned no reply")))?
        .map_err(Failure::Node)
}

fn no_node() -> Fault {
    unavailable("no node is configured")
}
