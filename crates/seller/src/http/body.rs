//! Response bodies, and reading a handler's body before the payment is settled.

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

/// The error of a request's or a response's body.
pub(crate) type BoxedBodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a response: the handler's, or one of this crate.
pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, BoxedBodyError>;

/// How long a handler's body is read before it counts as large. Payments are usually valid for a
/// minute, and must still be valid when they are settled.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The result of reading a handler's body.
pub(crate) enum BufferOutcome {
    /// The whole body.
    Complete(BufferedBody),
    /// A body that is larger or slower than the limits. It still yields all of its bytes.
    Large(ResponseBody),
    /// The body ended with an error.
    Failed(BoxedBodyError),
}

/// Reads a body up to `bytes_max` bytes.
pub(crate) async fn buffer(mut body: ResponseBody, bytes_max: usize) -> BufferOutcome {
    let deadline = Instant::now() + READ_TIMEOUT;
    let mut read = VecDeque::new();
    let mut size = 0;
    while body.size_hint().lower() <= (bytes_max - size) as u64 {
        match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                read.push_back(frame);
                if length > bytes_max - size {
                    break;
                }
                size += length;
            }
            Ok(Some(Err(error))) => return BufferOutcome::Failed(error),
            Ok(None) => return BufferOutcome::Complete(BufferedBody::from_frames(read)),
            Err(_) => break,
        }
    }
    BufferOutcome::Large(PrefixedBody { read, rest: body }.boxed_unsync())
}

/// A complete body in memory. Clones share the bytes.
#[derive(Debug, Clone)]
pub(crate) struct BufferedBody {
    data: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
}

impl BufferedBody {
    fn from_frames(frames: VecDeque<Frame<Bytes>>) -> Self {
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

    /// A body of these parts.
    pub(crate) fn new(data: Vec<Bytes>, trailers: Option<HeaderMap>) -> Self {
        Self {
            data: data.into(),
            trailers,
        }
    }

    /// Removes the next frame.
    pub(crate) fn next_frame(&mut self) -> Option<Frame<Bytes>> {
        match self.data.pop_front() {
            Some(data) => Some(Frame::data(data)),
            None => self.trailers.take().map(Frame::trailers),
        }
    }

    /// Whether no frame is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    /// The number of data bytes that are left.
    pub(crate) fn len(&self) -> usize {
        self.data.iter().map(Bytes::len).sum()
    }
}

impl http_body::Body for BufferedBody {
    type Data = Bytes;
    type Error = BoxedBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxedBodyError>>> {
        Poll::Ready(self.next_frame().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len() as u64)
    }
}

/// A body whose first frames were already read.
struct PrefixedBody {
    read: VecDeque<Frame<Bytes>>,
    rest: ResponseBody,
}

impl http_body::Body for PrefixedBody {
    type Data = Bytes;
    type Error = BoxedBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxedBodyError>>> {
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
