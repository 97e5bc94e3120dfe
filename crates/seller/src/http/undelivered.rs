//! Paid responses that did not reach their client.
//!
//! The payment has settled and the handler has run, but the client disconnected. The response is
//! stored for a while, and delivered once, to a request that is the same and has the same payment.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::Instant;
use tracing::info;

use super::body::{BoxedBodyError, BufferedBody, ResponseBody};
use super::stored::StoredResponse;
use crate::sale_ids::SaleKey;

/// How long a response is stored. A buyer presents its payment again within seconds; if a person
/// has to restart it, within two minutes.
const STORED_FOR: Duration = Duration::from_secs(120);

/// How many bytes all stored responses may take: 60 of the largest that are buffered by default.
/// The oldest are removed first. Their buyers then get the transaction in a 402 response.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// The responses that did not reach their clients. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct UndeliveredResponses(Arc<Mutex<UndeliveredStore>>);

#[derive(Default)]
struct UndeliveredStore {
    responses: HashMap<SaleKey, (Instant, StoredResponse)>,
    /// Their keys in the order in which they expire. May contain keys that were removed.
    order: VecDeque<(Instant, SaleKey)>,
    bytes: usize,
}

impl UndeliveredStore {
    fn insert(&mut self, key: SaleKey, until: Instant, response: StoredResponse) {
        self.remove_expired();
        let bytes = response.bytes();
        if bytes > BYTES_MAX || until <= Instant::now() {
            return;
        }
        while self.bytes + bytes > BYTES_MAX {
            let Some((_, oldest)) = self.order.pop_front() else {
                break;
            };
            self.remove(oldest);
        }
        self.remove(key);
        self.bytes += bytes;
        self.order.push_back((until, key));
        self.responses.insert(key, (until, response));
    }

    fn remove(&mut self, key: SaleKey) -> Option<(Instant, StoredResponse)> {
        let found = self.responses.remove(&key)?;
        self.bytes -= found.1.bytes();
        Some(found)
    }

    fn remove_expired(&mut self) {
        let now = Instant::now();
        while let Some((until, key)) = self.order.front().copied()
            && until <= now
        {
            self.order.pop_front();
            // A response that was stored again later has its own end.
            if self.responses.get(&key).is_some_and(|(end, _)| *end <= now) {
                self.remove(key);
            }
        }
    }
}

impl UndeliveredResponses {
    /// The response with a body that tracks its delivery. It is stored if the client disconnects
    /// before it has received all of it.
    pub(crate) fn track(
        &self,
        key: SaleKey,
        mut response: Response<()>,
        body: BufferedBody,
    ) -> Response<ResponseBody> {
        let copy = StoredResponse::new(&response, &body);
        let guard = Arc::new(DeliveryGuard {
            undelivered: self.clone(),
            key,
            until: Instant::now() + STORED_FOR,
            response: Mutex::new(Some(copy)),
        });
        response.extensions_mut().insert(Arc::clone(&guard));
        response.map(|()| TrackedBody::new(body, guard).boxed_unsync())
    }

    /// Removes the response that is stored for this key, and tracks its delivery again.
    pub(crate) fn take(&self, key: SaleKey) -> Option<Response<ResponseBody>> {
        let mut store = self.locked();
        store.remove_expired();
        let (until, stored) = store.remove(key)?;
        drop(store);
        if until <= Instant::now() {
            return None;
        }
        info!("a paid response is delivered to a client that had disconnected");
        let mut response = stored.head();
        let body = stored.body.clone();
        let guard = Arc::new(DeliveryGuard {
            undelivered: self.clone(),
            key,
            until,
            response: Mutex::new(Some(stored)),
        });
        response.extensions_mut().insert(Arc::clone(&guard));
        Some(response.map(|()| TrackedBody::new(body, guard).boxed_unsync()))
    }

    fn locked(&self) -> MutexGuard<'_, UndeliveredStore> {
        // A panic between two changes leaves at most the sum of bytes too high.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records that a response has reached the server that sends it. A response with a body counts as
/// delivered once the body was read to its end; one without a body counts as delivered now.
pub(crate) fn passed_to_server(response: &mut Response<ResponseBody>) {
    let guard = response.extensions_mut().remove::<Arc<DeliveryGuard>>();
    if let Some(guard) = guard
        && http_body::Body::is_end_stream(response.body())
    {
        guard.delivered();
    }
}

/// A copy of a response in delivery. It is stored if the response is dropped before its delivery.
struct DeliveryGuard {
    undelivered: UndeliveredResponses,
    key: SaleKey,
    until: Instant,
    /// `None` after the delivery.
    response: Mutex<Option<StoredResponse>>,
}

impl DeliveryGuard {
    fn delivered(&self) {
        drop(self.take());
    }

    fn take(&self) -> Option<StoredResponse> {
        self.response
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl Drop for DeliveryGuard {
    fn drop(&mut self) {
        if let Some(response) = self.take() {
            let mut store = self.undelivered.locked();
            store.insert(self.key, self.until, response);
        }
    }
}

/// A body that reports when it was read to its end.
struct TrackedBody {
    body: BufferedBody,
    guard: Arc<DeliveryGuard>,
}

impl TrackedBody {
    fn new(body: BufferedBody, guard: Arc<DeliveryGuard>) -> Self {
        Self { body, guard }
    }
}

impl http_body::Body for TrackedBody {
    type Data = Bytes;
    type Error = BoxedBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxedBodyError>>> {
        let frame = self.body.next_frame();
        if self.body.is_empty() {
            self.guard.delivered();
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.body.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn key(number: u64) -> SaleKey {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        SaleKey(bytes)
    }

    fn body(length: usize) -> BufferedBody {
        BufferedBody::new(vec![Bytes::from(vec![b'x'; length])], None)
    }

    fn lose(store: &UndeliveredResponses, number: u64, length: usize) {
        drop(store.track(key(number), Response::new(()), body(length)));
    }

    async fn read(response: Response<ResponseBody>) -> usize {
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .len()
    }

    #[tokio::test(start_paused = true)]
    async fn undelivered_response_is_delivered_once_and_in_time() {
        let store = UndeliveredResponses::default();
        lose(&store, 1, 10);
        assert!(store.take(key(2)).is_none());
        assert_eq!(read(store.take(key(1)).unwrap()).await, 10);
        assert!(store.take(key(1)).is_none());
        lose(&store, 1, 10);
        advance(STORED_FOR).await;
        assert!(store.take(key(1)).is_none());
        assert_eq!(store.locked().bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn response_lost_twice_keeps_its_first_end() {
        let store = UndeliveredResponses::default();
        lose(&store, 1, 10);
        advance(STORED_FOR / 2).await;
        drop(store.take(key(1)).unwrap());
        assert!(store.take(key(1)).is_some());
        advance(STORED_FOR / 2).await;
        assert!(store.take(key(1)).is_none());
        assert_eq!(store.locked().bytes, 0);
    }

    #[tokio::test]
    async fn delivered_response_is_not_stored() {
        let store = UndeliveredResponses::default();
        assert_eq!(
            read(store.track(key(1), Response::new(()), body(10))).await,
            10
        );
        let nothing = BufferedBody::new(Vec::new(), None);
        let mut empty = store.track(key(2), Response::new(()), nothing.clone());
        passed_to_server(&mut empty);
        drop(empty);
        drop(store.track(key(3), Response::new(()), nothing));
        assert!(store.take(key(1)).is_none());
        assert!(store.take(key(2)).is_none());
        assert!(store.take(key(3)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn oldest_responses_are_removed_when_the_store_is_full() {
        let store = UndeliveredResponses::default();
        let length = BYTES_MAX / 10;
        for number in 0..12 {
            lose(&store, number, length);
            assert!(store.locked().bytes <= BYTES_MAX);
        }
        assert!(store.take(key(0)).is_none() && store.take(key(11)).is_some());
        lose(&store, 99, BYTES_MAX + 1);
        assert!(store.take(key(99)).is_none());
        advance(STORED_FOR).await;
        lose(&store, 100, 1);
        assert_eq!(store.locked().responses.len(), 1);
    }
}
