//! When a server says to ask again.

use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;

/// The seconds in a `Retry-After` header. Its other form, a date, needs a clock that both sides agree on, and no
/// facilitator is known to use it.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}
