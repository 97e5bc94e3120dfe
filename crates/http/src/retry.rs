//! Reading `Retry-After`.

use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;

/// The seconds in a `Retry-After` header.
///
/// A date, the header's other form, is ignored: it needs a clock that both sides agree on, and no
/// facilitator is known to send one.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}
