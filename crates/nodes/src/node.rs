//! One node.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join;
use serde_json::{Value, json};
use tracing::{debug, warn};
use url::Url;

use crate::http::{RETRY_AFTER_MAX, post, redacted};
use crate::reply::{FIRST_ID, Missed, in_order};
use crate::{Answer, Call, Failure, Identity, unavailable};

/// For how long a node that did not answer is asked only when every other one fails.
const REST: Duration = Duration::from_secs(15);

/// For how long a node's word that it is on the right chain is believed. Behind one URL there may
/// be another node a moment later; asking along with every question would cost as many requests
/// again.
const PROOF_KEPT: Duration = Duration::from_secs(2);

/// For how long a node is asked in batches of the size it takes, before a larger one is tried
/// again.
const BATCH_KEPT: Duration = Duration::from_secs(300);

/// By how much a batch shrinks that a node refuses: from the largest, of 100, it takes four steps
/// to a single call.
const BATCH_SHRINKS: usize = 4;

/// One node, by its URL.
#[derive(Debug)]
pub(crate) struct Node {
    http: reqwest::Client,
    url: Url,
    /// The URL without what may be secret in it.
    name: String,
    started: Instant,
    /// Milliseconds after the start at which it last said that it is on the right chain, plus one;
    /// 0 when it has not since it last failed.
    proven: AtomicU64,
    /// Milliseconds after the start until which it rests.
    rests_until: AtomicU64,
    /// Whether it was behind, or wrong, when it was last looked at.
    stale: AtomicBool,
    /// How many calls it takes in one request, and until when that is believed, in milliseconds
    /// after the start.
    batch_max: AtomicUsize,
    batch_max_until: AtomicU64,
}

/// What is known of whether a node is on the right chain.
enum Proof {
    Missing,
    Old,
    Fresh,
}

impl Node {
    pub(crate) fn new(http: &reqwest::Client, url: &Url) -> Self {
        Self {
            http: http.clone(),
            url: url.clone(),
            name: redacted(url),
            started: Instant::now(),
            proven: AtomicU64::new(0),
            rests_until: AtomicU64::new(0),
            stale: AtomicBool::new(false),
            batch_max: AtomicUsize::new(usize::MAX),
            batch_max_until: AtomicU64::new(0),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    pub(crate) fn stands_still(&self, stale: bool) {
        self.stale.store(stale, Ordering::Relaxed);
    }

    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    pub(crate) fn rests(&self) -> bool {
        self.rests_until.load(Ordering::Relaxed) > self.now()
    }

    /// The node is asked last for a while, and must show anew that it is on the right chain.
    pub(crate) fn rest(&self, failure: &Failure) {
        warn!(node = self.name, ?failure, "a node does not answer");
        self.proven.store(0, Ordering::Relaxed);
        let asked_for = match failure {
            Failure::NotAsked(fault) | Failure::NoAnswer(fault) => fault.retry_after,
            Failure::Node(_) => None,
        };
        let rest = asked_for.unwrap_or(REST).clamp(REST, RETRY_AFTER_MAX);
        self.rests_until
            .store(self.now() + rest.as_millis() as u64, Ordering::Relaxed);
    }

    /// The answers, in the order of the calls. Nothing is asked of a node that has not said that it
    /// is on the right chain. It is asked for that again after each failure; and every now and
    /// then, beside the calls, so that it costs no time. Then no answer counts when it has
    /// changed.
    pub(crate) async fn ask(
        &self,
        identity: &dyn Identity,
        calls: &[Call],
    ) -> Result<Vec<Answer>, Failure> {
        match self.proof() {
            Proof::Fresh => self.exchange(identity, calls).await,
            Proof::Old => {
                let calls = self.exchange(identity, calls);
                let (proof, answers) = join(self.prove(identity), calls).await;
                proof.and(answers)
            }
            Proof::Missing => self.ask_again(identity, calls).await,
        }
    }

    /// As [`ask`](Self::ask), of what may not reach a node of another chain, such as a transaction.
    pub(crate) async fn ask_proven(
        &self,
        identity: &dyn Identity,
        calls: &[Call],
    ) -> Result<Vec<Answer>, Failure> {
        match self.proof() {
            Proof::Fresh => self.exchange(identity, calls).await,
            Proof::Old | Proof::Missing => self.ask_again(identity, calls).await,
        }
    }

    /// As [`ask`](Self::ask), and the proof is asked for whatever was said before.
    pub(crate) async fn ask_again(
        &self,
        identity: &dyn Identity,
        calls: &[Call],
    ) -> Result<Vec<Answer>, Failure> {
        self.prove(identity).await?;
        self.exchange(identity, calls).await
    }

    fn proof(&self) -> Proof {
        match self.proven.load(Ordering::Relaxed) {
            0 => Proof::Missing,
            at if self.now().saturating_sub(at - 1) > PROOF_KEPT.as_millis() as u64 => Proof::Old,
            _ => Proof::Fresh,
        }
    }

    /// Asks the node which chain it is on.
    ///
    /// # Errors
    /// That it was not asked what it was to be asked: it is on another chain, or does not say.
    pub(crate) async fn prove(&self, identity: &dyn Identity) -> Result<(), Failure> {
        let now = self.now();
        let proof = self.identify(identity).await;
        let proven = if proof.is_ok() { now + 1 } else { 0 };
        self.proven.store(proven, Ordering::Relaxed);
        // Not even this was understood: for what was to be asked, nothing has happened.
        proof.map_err(|failure| Failure::NotAsked(failure.fault()))
    }

    async fn identify(&self, identity: &dyn Identity) -> Result<(), Failure> {
        let answer = self.exchange(identity, &[identity.question()]).await?;
        let answer = answer.into_iter().next().unwrap_or(Ok(Value::Null));
        let answer = answer.map_err(Failure::Node)?;
        identity.check(&answer).map_err(|wrong| {
            let what = format_args!("the node {} is {wrong}", self.name);
            Failure::NotAsked(unavailable(what))
        })
    }

    /// The answers, in the order of the calls, in as few requests as the node takes. What is asked
    /// later is answered later.
    async fn exchange(
        &self,
        identity: &dyn Identity,
        calls: &[Call],
    ) -> Result<Vec<Answer>, Failure> {
        let mut answers = Vec::with_capacity(calls.len());
        let mut size = self.batch_max();
        let mut was_refused = false;
        while let Some(open) = calls.get(answers.len()..).filter(|open| !open.is_empty()) {
            let batch = open.get(..size).unwrap_or(open);
            match self.request(identity, batch).await {
                Ok(found) => {
                    answers.extend(found);
                    if std::mem::take(&mut was_refused) {
                        self.remember_batch_max(size);
                    }
                }
                Err(missed) if missed.fewer_may_work && batch.len() > 1 => {
                    debug!(node = self.name, calls = batch.len(), failure = ?missed.failure, "a batch is refused");
                    size = batch.len().div_ceil(BATCH_SHRINKS);
                    was_refused = true;
                }
                Err(missed) => return Err(missed.failure),
            }
        }
        Ok(answers)
    }

    /// How many calls the node takes in one request, as far as is known.
    fn batch_max(&self) -> usize {
        match self.batch_max_until.load(Ordering::Relaxed) > self.now() {
            true => self.batch_max.load(Ordering::Relaxed),
            false => usize::MAX,
        }
    }

    fn remember_batch_max(&self, size: usize) {
        warn!(node = self.name, size, "the node takes only small batches");
        self.batch_max.store(size, Ordering::Relaxed);
        let until = self.now() + BATCH_KEPT.as_millis() as u64;
        self.batch_max_until.store(until, Ordering::Relaxed);
    }

    /// One round trip. The answers stand in the order of the calls.
    async fn request(
        &self,
        identity: &dyn Identity,
        calls: &[Call],
    ) -> Result<Vec<Answer>, Missed> {
        let first = calls.first().map_or("", |(method, _)| method);
        debug!(node = self.name, calls = calls.len(), first, "asking");
        let request = |(id, (method, params)): (u64, &Call)| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let requests: Vec<Value> = (FIRST_ID..).zip(calls).map(request).collect();
        // Not every gateway takes a list of one.
        let body = match requests.as_slice() {
            [one] => one.clone(),
            many => json!(many),
        };
        let answered = post(&self.http, &self.url, &body).await;
        let responses = answered.map_err(|error| error.missed())?;
        in_order(responses, calls.len(), identity.limit_codes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        let http = reqwest::Client::new();
        Node::new(&http, &"http://127.0.0.1:1".parse().unwrap())
    }

    /// The same node, this much later.
    fn later(node: &mut Node, time: Duration) {
        node.started = node.started.checked_sub(time).unwrap();
    }

    #[test]
    fn a_small_batch_is_remembered_and_forgotten_again() {
        let mut node = node();
        assert_eq!(node.batch_max(), usize::MAX);
        node.remember_batch_max(3);
        later(&mut node, BATCH_KEPT - Duration::from_secs(1));
        assert_eq!(node.batch_max(), 3);
        later(&mut node, Duration::from_secs(2));
        assert_eq!(node.batch_max(), usize::MAX);
    }

    #[test]
    fn a_node_rests_as_long_as_it_asks_for_within_bounds() {
        let rests = |asked_for: Option<u64>, passed: u64| {
            let mut node = node();
            let mut fault = unavailable("slow down");
            fault.retry_after = asked_for.map(Duration::from_secs);
            node.rest(&Failure::NotAsked(fault));
            later(&mut node, Duration::from_secs(passed));
            node.rests()
        };
        assert!(rests(None, 14) && !rests(None, 16));
        assert!(rests(Some(1), 14) && !rests(Some(1), 16));
        assert!(rests(Some(60), 59) && !rests(Some(60), 61));
        assert!(rests(Some(100_000), 119) && !rests(Some(100_000), 121));
    }
}
