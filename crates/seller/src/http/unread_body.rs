//! Refusing a request without reading its body.
//!
//! In HTTP/1, an unread body blocks the connection. The server then closes it after the response,
//! and the buyer's next request on it, the one with the payment, fails. So a short body is read and
//! dropped. If it does not end soon, the response says `Connection: close` (RFC 9112, section 9.6).

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Request, Response, Version};
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout;

use super::body::{BoxedBodyError, ResponseBody};

/// How many bytes of a refused request's body are read. Bodies of API requests are shorter, and a
/// longer one costs more than another connection.
const UNREAD_BODY_MAX: usize = 64 * 1024;

/// How long a refused request's body is read. A client sends it right after the headers; the rest
/// of this time is for lost packets.
const UNREAD_BODY_TIMEOUT: Duration = Duration::from_millis(500);

/// The response to a request whose body no handler reads.
pub(crate) async fn refuse<I>(
    request: Request<I>,
    mut response: Response<ResponseBody>,
) -> Response<ResponseBody>
where
    I: http_body::Body<Data = Bytes>,
    I::Error: Into<BoxedBodyError>,
{
    // HTTP/2 ends the stream and keeps the connection.
    if request.version() > Version::HTTP_11 || request.body().is_end_stream() {
        return response;
    }
    // A client that waits for "100 Continue" has not sent its body.
    let waits_for_continue = request.headers().contains_key(EXPECT);
    if waits_for_continue || !ends_in_time(request.into_body()).await {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

/// Reads and drops a body. Returns whether it ended within the limits.
async fn ends_in_time<I>(body: I) -> bool
where
    I: http_body::Body<Data = Bytes>,
    I::Error: Into<BoxedBodyError>,
{
    if body.size_hint().lower() > UNREAD_BODY_MAX as u64 {
        return false;
    }
    let mut body = pin!(Limited::new(body, UNREAD_BODY_MAX));
    let read = async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    timeout(UNREAD_BODY_TIMEOUT, read).await == Ok(true)
}
