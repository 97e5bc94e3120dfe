//! The handler's answer, read before it is charged for.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::time::{Instant, timeout_at};

/// Whatever went wrong in a body.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer: the handler's, or ours.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// How long a handler's answer is read before it counts as one that is too long. Payments are valid for a minute, and must
/// still be when they are settled.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// A handler's answer, as far as it was read.
pub(crate) enum Buffered {
    /// All of it.
    Whole(Whole),
    /// The beginning of one that is too long, with the rest behind it.
    Longer(Body),
    /// It broke off.
    Broken(BodyError),
}

/// Reads a body up to `most` bytes.
pub(crate) async fn buffer(mut body: Body, most: usize) -> Buffered {
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
            Ok(None) => return Buffered::Whole(Whole::read(read)),
            Err(_) => break,
        }
    }
    Buffered::Longer(Replayed { read, rest: body }.boxed_unsync())
}

/// A body that is here to its last byte. Clones share the bytes.
#[derive(Debug, Clone)]
pub(crate) struct Whole {
    data: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Whole {
    fn read(frames: VecDeque<Frame<Bytes>>) -> Self {
        let mut trailers = None;
        let data = |frame: Frame<Bytes>| match frame.into_data() {
            Ok(data) => Some(data),
            Err(other) => {
                trailers = other.into_trailers().ok();
                None
            }
        };
        let data = frames.into_iter().filter_map(data).collect();
        Self { data, trailers }
    }

    #[cfg(test)]
    pub(crate) fn of(data: Vec<Bytes>, trailers: Option<HeaderMap>) -> Self {
        Self {
            data: data.into(),
            trailers,
        }
    }

    /// Takes the next part of it.
    pub(crate) fn next(&mut self) -> Option<Frame<Bytes>> {
        match self.data.pop_front() {
            Some(data) => Some(Frame::data(data)),
            None => self.trailers.take().map(Frame::trailers),
        }
    }

    /// Whether no part of it is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    /// How many bytes of data are left.
    pub(crate) fn len(&self) -> usize {
        self.data.iter().map(Bytes::len).sum()
    }
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(self.next().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len() as u64)
    }
}

/// A body of which the beginning was read already.
struct Replayed {
    read: VecDeque<Frame<Bytes>>,
    rest: Body,
}

impl http_body::Body for Replayed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.read.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let lengths = self.read.iter().filter_map(Frame::data_ref);
        let read: usize = lengths.map(Bytes::len).sum();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + read as u64);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + read as u64);
        }
        hint
    }
}
