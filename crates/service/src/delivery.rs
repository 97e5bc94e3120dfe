//! Notices when an answer is dropped before the connection took it.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::{IntoResponse, Response};
use axum::{Error, Json};
use http_body::{Frame, SizeHint};
use quittance_core::PaymentId;
use quittance_core::wire::SettleResponse;
use quittance_engine::Engine;

/// The answer to `POST /settle`. If it reports success and the connection ends before the whole
/// answer was sent, the engine is notified. The seller has not received it and will ask again.
pub(crate) fn settled(engine: &Engine, outcome: SettleResponse) -> Response {
    let extra = outcome.extra.as_ref().filter(|_| outcome.success);
    let id = extra.and_then(|extra| {
        let tree = extra.tree();
        tree.get("settlement")?.as_str()?.parse::<PaymentId>().ok()
    });
    let response = Json(outcome).into_response();
    let Some(id) = id else {
        return response;
    };
    let engine = engine.clone();
    response.map(|body| {
        let lost = move || engine.answer_was_lost(id);
        Body::new(Watched {
            body,
            lost: Some(lost),
        })
    })
}

/// A body that calls `lost` when it is dropped before its last frame was taken.
struct Watched<F: FnOnce()> {
    body: Body,
    lost: Option<F>,
}

impl<F: FnOnce() + Unpin> HttpBody for Watched<F> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        // After the last frame, a server may not poll again.
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.lost = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<F: FnOnce()> Drop for Watched<F> {
    fn drop(&mut self) {
        if let Some(lost) = self.lost.take() {
            lost();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn watched() -> (Body, Arc<AtomicBool>) {
        let is_lost = Arc::new(AtomicBool::new(false));
        let lost = Arc::clone(&is_lost);
        let body = Body::new(Watched {
            body: Body::from("all of it"),
            lost: Some(move || lost.store(true, Ordering::SeqCst)),
        });
        (body, is_lost)
    }

    #[tokio::test]
    async fn an_answer_dropped_before_its_end_is_lost() {
        let (body, is_lost) = watched();
        drop(body);
        assert!(is_lost.load(Ordering::SeqCst));
        let (body, is_lost) = watched();
        assert_eq!(body.size_hint().exact(), Some(9));
        let text = axum::body::to_bytes(body, 100).await.unwrap();
        assert_eq!(text, "all of it");
        assert!(!is_lost.load(Ordering::SeqCst));
    }
}
