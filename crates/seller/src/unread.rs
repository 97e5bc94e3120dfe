//! Requests that are refused before their body is read.
//!
//! A refusal leaves the body on the connection, and in HTTP/1 the next request would begin behind
//! it. The server then closes the connection without a word, and the buyer's next request on it,
//! the one with the payment, fails. So a short body is read and dropped. Where it does not end soon,
//! the answer says `Connection: close` (RFC 9112, section 9.6).

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Request, Response, Version};
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout;

use crate::buffered::{Body, BodyError};

/// How much of a refused body is read, in bytes: the bodies of API calls are shorter, and a longer
/// one costs more than another connection.
const REST_MAX: usize = 64 * 1024;

/// How long a refused body is read. A client sends it right behind the head; this is time for lost
/// packets.
const REST_WITHIN: Duration = Duration::from_millis(500);

/// The answer to a request whose body nothing reads.
pub(crate) async fn refuse<I>(request: Request<I>, mut answer: Response<Body>) -> Response<Body>
where
    I: http_body::Body<Data = Bytes>,
    I::Error: Into<BodyError>,
{
    // HTTP/2 ends one stream and keeps the connection.
    if request.version() > Version::HTTP_11 || request.body().is_end_stream() {
        return answer;
    }
    // A client that waits for "100 Continue" sends its body only to a server that reads on.
    let waits = request.headers().contains_key(EXPECT);
    if waits || !has_ended(request.into_body()).await {
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(CONNECTION, close);
    }
    answer
}

/// Reads a body; whether its end came soon enough.
async fn has_ended<I>(body: I) -> bool
where
    I: http_body::Body<Data = Bytes>,
    I::Error: Into<BodyError>,
{
    if body.size_hint().lower() > REST_MAX as u64 {
        return false;
    }
    let mut body = pin!(Limited::new(body, REST_MAX));
    let read = async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    timeout(REST_WITHIN, read).await == Ok(true)
}
