//! The handler's answer, read before it is charged for.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::time::{Instant, timeout_at};

/// Whatever went wrong in a body.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer: the handler's, or ours.
pub(super) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// How long a handler's answer is read before it counts as one that is too long. Payments are valid for a minute, and must
/// still be when they are settled.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// A handler's answer, as far as it was read.
pub(super) enum Buffered {
    /// All of it.
    Whole(Body),
    /// The beginning of one that is too long, with the rest behind it.
    Longer(Body),
    /// It broke off.
    Broken(BodyError),
}

/// Reads a body up to `most` bytes.
pub(super) async fn buffer(mut body: Body, most: usize) -> Buffered {
    let deadline = Instant::now() + READ_WITHIN;
    let mut read = VecDeque::new();
    let mut size = 0;
    while body.size_hint().lower() <= (most - size) as u64 {
        match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                read.push_back(frame);
                if length > most - size {
                    break;
                }
                size += length;
            }
            Ok(Some(Err(error))) => return Buffered::Broken(error),
            Ok(None) => return Buffered::Whole(Replayed { read, rest: None }.boxed_unsync()),
            Err(_) => break,
        }
    }
    let rest = Some(body);
    Buffered::Longer(Replayed { read, rest }.boxed_unsync())
}

/// A body of which the beginning was read already.
struct Replayed {
    read: VecDeque<Frame<Bytes>>,
    rest: Option<Body>,
}

impl http_body::Body for Replayed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(frame) = self.read.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty()
            && self
                .rest
                .as_ref()
                .is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let lengths = self.read.iter().filter_map(Frame::data_ref);
        let read: usize = lengths.map(Bytes::len).sum();
        let rest = self.rest.as_ref().map(http_body::Body::size_hint);
        let rest = rest.unwrap_or_else(|| SizeHint::with_exact(0));
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + read as u64);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + read as u64);
        }
        hint
    }
}
