//! One node: its identity checks, its backoff and its batch size.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join;
use serde_json::Value;
use tracing::{debug, warn};

use crate::failure::{Failure, unavailable};
use crate::http::RETRY_AFTER_MAX;
use crate::request::{Identity, Reply, Request};
use crate::transport::{ExchangeError, Transport};

/// For how long a node that failed is asked only after all others.
const BACK_OFF: Duration = Duration::from_secs(15);

/// For how long a proof of identity counts. Another node may be behind the same URL a moment later,
/// and a proof with every request would double the number of requests.
const IDENTITY_LIFETIME: Duration = Duration::from_secs(2);

/// For how long a node gets batches of the size that it accepted, before a larger one is tried.
const BATCH_MAX_LIFETIME: Duration = Duration::from_secs(300);

/// The divisor of the batch size after a refused batch. A batch of 100 shrinks to 1 in four steps.
const BATCH_DIVISOR: usize = 4;

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    transport: Box<dyn Transport>,
    started: Instant,
    /// When the node last proved its identity, in milliseconds after `started`, plus one; 0 if it
    /// has not since it last failed.
    identified_at: AtomicU64,
    /// When the backoff ends, in milliseconds after `started`.
    backs_off_until: AtomicU64,
    /// Whether the last health check found the node behind or wrong.
    stale: AtomicBool,
    /// How many requests the node accepts in one batch.
    batch_max: AtomicUsize,
    /// Until when `batch_max` counts, in milliseconds after `started`.
    batch_max_until: AtomicU64,
}

/// How recently a node proved its identity.
enum Identified {
    Never,
    Outdated,
    Recently,
}

impl Node {
    pub(crate) fn new(transport: Box<dyn Transport>) -> Self {
        Self {
            transport,
            started: Instant::now(),
            identified_at: AtomicU64::new(0),
            backs_off_until: AtomicU64::new(0),
            stale: AtomicBool::new(false),
            batch_max: AtomicUsize::new(usize::MAX),
            batch_max_until: AtomicU64::new(0),
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.transport.name()
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    pub(crate) fn set_stale(&self, stale: bool) {
        self.stale.store(stale, Ordering::Relaxed);
    }

    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    pub(crate) fn is_backing_off(&self) -> bool {
        self.backs_off_until.load(Ordering::Relaxed) > self.now()
    }

    /// Moves the node behind all others for a while. It must prove its identity again.
    pub(crate) fn back_off(&self, failure: &Failure) {
        warn!(node = self.name(), ?failure, "a node failed");
        self.identified_at.store(0, Ordering::Relaxed);
        let requested = match failure {
            Failure::NotSent(fault) | Failure::NoReply(fault) => fault.retry_after,
            Failure::Node(_) => None,
        };
        let time = requested
            .unwrap_or(BACK_OFF)
            .clamp(BACK_OFF, RETRY_AFTER_MAX);
        self.backs_off_until
            .store(self.now() + time.as_millis() as u64, Ordering::Relaxed);
    }

    /// The replies, in the order of the requests.
    ///
    /// A node that has never proved its identity, or has failed since, must do so first. An
    /// outdated proof is renewed beside the requests, which costs no time; if it fails, no reply
    /// counts.
    pub(crate) async fn ask(
        &self,
        identity: &dyn Identity,
        requests: &[Request],
    ) -> Result<Vec<Reply>, Failure> {
        match self.identified() {
            Identified::Recently => self.exchange(requests).await,
            Identified::Outdated => {
                let exchange = self.exchange(requests);
                let (identity, replies) = join(self.check_identity(identity), exchange).await;
                identity.and(replies)
            }
            Identified::Never => self.check_and_ask(identity, requests).await,
        }
    }

    /// As [`ask`](Self::ask), for requests that must not reach a node of another chain, such as
    /// transactions: an outdated proof is renewed first.
    pub(crate) async fn ask_identified(
        &self,
        identity: &dyn Identity,
        requests: &[Request],
    ) -> Result<Vec<Reply>, Failure> {
        match self.identified() {
            Identified::Recently => self.exchange(requests).await,
            Identified::Outdated | Identified::Never => {
                self.check_and_ask(identity, requests).await
            }
        }
    }

    /// As [`ask`](Self::ask), after a new proof of identity in any case.
    pub(crate) async fn check_and_ask(
        &self,
        identity: &dyn Identity,
        requests: &[Request],
    ) -> Result<Vec<Reply>, Failure> {
        self.check_identity(identity).await?;
        self.exchange(requests).await
    }

    fn identified(&self) -> Identified {
        let lifetime = IDENTITY_LIFETIME.as_millis() as u64;
        match self.identified_at.load(Ordering::Relaxed) {
            0 => Identified::Never,
            at if self.now().saturating_sub(at - 1) > lifetime => Identified::Outdated,
            _ => Identified::Recently,
        }
    }

    /// Asks the node which chain it is on.
    ///
    /// # Errors
    /// [`Failure::NotSent`]: the request that depends on the identity was not sent, or does not
    /// count.
    pub(crate) async fn check_identity(&self, identity: &dyn Identity) -> Result<(), Failure> {
        let now = self.now();
        let checked = self.ask_identity(identity).await;
        let identified_at = if checked.is_ok() { now + 1 } else { 0 };
        self.identified_at.store(identified_at, Ordering::Relaxed);
        checked.map_err(|failure| Failure::NotSent(failure.fault()))
    }

    async fn ask_identity(&self, identity: &dyn Identity) -> Result<(), Failure> {
        let replies = self.exchange(&[identity.request()]).await?;
        let reply = replies.into_iter().next().unwrap_or(Ok(Value::Null));
        let result = reply.map_err(Failure::Node)?;
        identity.check(&result).map_err(|wrong| {
            let detail = format_args!("the node {} is {wrong}", self.name());
            Failure::NotSent(unavailable(detail))
        })
    }

    /// The replies, in the order of the requests, by as few round trips as the node accepts. They
    /// are made one after another.
    async fn exchange(&self, requests: &[Request]) -> Result<Vec<Reply>, Failure> {
        let mut replies = Vec::with_capacity(requests.len());
        let mut size = self.batch_max();
        let mut was_refused = false;
        while let Some(open) = requests
            .get(replies.len()..)
            .filter(|open| !open.is_empty())
        {
            let batch = open.get(..size).unwrap_or(open);
            match self.round_trip(batch).await {
                Ok(found) => {
                    replies.extend(found);
                    if std::mem::take(&mut was_refused) {
                        self.remember_batch_max(size);
                    }
                }
                Err(error) if error.fewer_may_work && batch.len() > 1 => {
                    debug!(node = self.name(), requests = batch.len(), failure = ?error.failure, "a batch was refused");
                    size = batch.len().div_ceil(BATCH_DIVISOR);
                    was_refused = true;
                }
                Err(error) => return Err(error.failure),
            }
        }
        Ok(replies)
    }

    /// How many requests the node accepts in one batch, as far as known.
    fn batch_max(&self) -> usize {
        match self.batch_max_until.load(Ordering::Relaxed) > self.now() {
            true => self.batch_max.load(Ordering::Relaxed),
            false => usize::MAX,
        }
    }

    fn remember_batch_max(&self, size: usize) {
        warn!(
            node = self.name(),
            size, "the node accepts only small batches"
        );
        self.batch_max.store(size, Ordering::Relaxed);
        let until = self.now() + BATCH_MAX_LIFETIME.as_millis() as u64;
        self.batch_max_until.store(until, Ordering::Relaxed);
    }

    /// One round trip. The replies are in the order of the requests, one for each.
    async fn round_trip(&self, requests: &[Request]) -> Result<Vec<Reply>, ExchangeError> {
        let first = requests.first().map_or("", |request| &request.method);
        let name = self.name();
        debug!(node = name, requests = requests.len(), first, "request");
        let replies = self.transport.exchange(requests).await?;
        match replies.len() == requests.len() {
            true => Ok(replies),
            false => {
                let what = format_args!("the node {name} replied to another number of requests");
                let failure = Failure::NoReply(unavailable(what));
                Err(ExchangeError::new(failure).with_fewer())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json_rpc::JsonRpc;

    fn node() -> Node {
        let (http, url) = (
            reqwest::Client::new(),
            "http://127.0.0.1:1".parse().unwrap(),
        );
        Node::new(Box::new(JsonRpc::new(&http, &url, &[])))
    }

    /// A node that replies to this many requests of a round trip, and takes at most `most`.
    #[derive(Debug)]
    struct Scripted {
        replies: fn(usize) -> usize,
        most: usize,
    }

    #[async_trait::async_trait]
    impl Transport for Scripted {
        fn name(&self) -> &str {
            "scripted"
        }

        async fn exchange(&self, requests: &[Request]) -> Result<Vec<Reply>, ExchangeError> {
            if requests.len() > self.most {
                let failure = Failure::NotSent(unavailable("too many"));
                return Err(ExchangeError::new(failure).with_fewer());
            }
            let reply = |request: &Request| Ok(request.params.clone());
            let count = (self.replies)(requests.len());
            Ok(requests.iter().cycle().take(count).map(reply).collect())
        }
    }

    async fn exchange(replies: fn(usize) -> usize, most: usize) -> Result<Vec<Reply>, Failure> {
        let node = Node::new(Box::new(Scripted { replies, most }));
        let requests: Vec<Request> = (0..10).map(|at| Request::new("ask", at.into())).collect();
        node.exchange(&requests).await
    }

    #[tokio::test]
    async fn each_request_of_a_transport_has_one_reply() {
        let expected: Vec<Reply> = (0..10).map(|at| Ok(at.into())).collect();
        for most in [1, 3, 100] {
            assert_eq!(exchange(|count| count, most).await.unwrap(), expected);
        }
        for replies in [|_| 0, |count| count - 1, |count| count + 1] {
            let failure = exchange(replies, 100).await.unwrap_err();
            assert!(matches!(failure, Failure::NoReply(_)), "{failure:?}");
        }
        let failure = exchange(|count| count, 0).await.unwrap_err();
        assert!(matches!(failure, Failure::NotSent(_)), "{failure:?}");
    }

    /// Moves the node's clock forward.
    fn advance(node: &mut Node, time: Duration) {
        node.started = node.started.checked_sub(time).unwrap();
    }

    #[test]
    fn small_batch_size_is_kept_for_its_lifetime() {
        let mut node = node();
        assert_eq!(node.batch_max(), usize::MAX);
        node.remember_batch_max(3);
        advance(&mut node, BATCH_MAX_LIFETIME - Duration::from_secs(1));
        assert_eq!(node.batch_max(), 3);
        advance(&mut node, Duration::from_secs(2));
        assert_eq!(node.batch_max(), usize::MAX);
    }

    #[test]
    fn backoff_follows_retry_after_within_bounds() {
        let backs_off = |retry_after: Option<u64>, passed: u64| {
            let mut node = node();
            let mut fault = unavailable("slow down");
            fault.retry_after = retry_after.map(Duration::from_secs);
            node.back_off(&Failure::NotSent(fault));
            advance(&mut node, Duration::from_secs(passed));
            node.is_backing_off()
        };
        assert!(backs_off(None, 14) && !backs_off(None, 16));
        assert!(backs_off(Some(1), 14) && !backs_off(Some(1), 16));
        assert!(backs_off(Some(60), 59) && !backs_off(Some(60), 61));
        assert!(backs_off(Some(100_000), 119) && !backs_off(Some(100_000), 121));
    }
}
