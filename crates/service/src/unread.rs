//! Answers before the end of the request's body.
//!
//! An answer to the headers alone (401, 415, 429, ...) leaves the body on the connection. In HTTP/1
//! hyper then closes the connection without `Connection: close`, and the client's next request on
//! it fails. So a short body is read and discarded. If that takes too long, the answer has
//! `Connection: close` (RFC 9112, section 9.6).

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header::{CONNECTION, EXPECT};
use axum::http::{HeaderValue, Version};
use axum::middleware::Next;
use axum::response::Response;
use quittance_core::json::TEXT_MAX;
use tokio::time::timeout;

/// How long the rest of an unneeded body is read. A client sends the body directly after the
/// headers, so this is time for lost packets.
const REST_WITHIN: Duration = Duration::from_millis(500);

/// Reads the rest of the request's body after the answer, or adds `Connection: close`.
pub(crate) async fn read_or_close(request: Request, next: Next) -> Response {
    // HTTP/2 ends one stream and keeps the connection.
    if request.version() > Version::HTTP_11 || request.body().is_end_stream() {
        return next.run(request).await;
    }
    // A client that waits for "100 Continue" sends its body only if we read on.
    let waits = request.headers().contains_key(EXPECT);
    let (head, body) = request.into_parts();
    let body = Lent::new(body);
    let mut response = next
        .run(Request::from_parts(head, Body::new(body.clone())))
        .await;
    if !body.has_ended() && (waits || !body.skip().await) {
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A body that the handler reads, and that can be read further afterwards.
#[derive(Clone)]
struct Lent(Arc<Mutex<State>>);

struct State {
    body: Body,
    ended: bool,
}

impl Lent {
    fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(State { body, ended: false })))
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn has_ended(&self) -> bool {
        self.with(|state| state.ended || state.body.is_end_stream())
    }

    /// Reads to the end of the body. False if the end is too far away or does not come in time.
    async fn skip(&self) -> bool {
        if self.with(|state| state.body.size_hint().lower()) > TEXT_MAX as u64 {
            return false;
        }
        timeout(REST_WITHIN, self.read_rest()).await == Ok(true)
    }

    async fn read_rest(&self) -> bool {
        let mut left = TEXT_MAX;
        loop {
            match std::future::poll_fn(|context| self.poll(context)).await {
                None => return true,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => {
                    let read = frame.data_ref().map_or(0, Bytes::len);
                    let Some(rest) = left.checked_sub(read) else {
                        return false;
                    };
                    left = rest;
                }
            }
        }
    }

    fn poll(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        self.with(|state| {
            let polled = Pin::new(&mut state.body).poll_frame(context);
            state.ended |= matches!(polled, Poll::Ready(None));
            polled
        })
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        self.poll(context)
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.with(|state| state.body.size_hint())
    }
}
