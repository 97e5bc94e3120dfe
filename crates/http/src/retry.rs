//! Reading `Retry-After`.

use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;

/// The seconds in a `Retry-After` header.
///
/// The header's other form, a date, is ignored: it needs synchronized clocks, and no known
/// facilitator sends it.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}
