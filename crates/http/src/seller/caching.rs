//! What an answer that one client paid for says to caches and browsers on its way.

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ALLOW, CACHE_CONTROL, ORIGIN, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};

/// What else a handler's own `Cache-Control` may say beside `no-store`. Everything else allows something: `public`, an age,
/// or `must-understand`, with which a cache may pass over `no-store`.
const STRICTER: [&str; 5] = [
    "private",
    "no-cache",
    "no-transform",
    "must-revalidate",
    "proxy-revalidate",
];

/// Headers that caches near servers obey instead of `Cache-Control`.
const FOR_SERVERS_CACHES: [&str; 2] = ["cdn-cache-control", "surrogate-control"];

/// By what answers differ: a cache that keeps one all the same must not give it to who paid otherwise, or not at all.
const BY_PAYMENT: HeaderValue = HeaderValue::from_static("PAYMENT-SIGNATURE, X-PAYMENT");

/// Marks an answer as one client's only.
pub(super) fn make_private(headers: &mut HeaderMap) {
    let said: Vec<String> = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|directive| directive.trim().to_ascii_lowercase())
        .filter(|directive| STRICTER.contains(&directive.as_str()))
        .collect();
    let all = said.iter().fold("no-store".to_owned(), |all, directive| {
        format!("{all}, {directive}")
    });
    let value = HeaderValue::try_from(all).expect("words of our own list");
    headers.insert(CACHE_CONTROL, value);
    for name in FOR_SERVERS_CACHES {
        headers.remove(name);
    }
    headers.append(VARY, BY_PAYMENT);
}

/// Whether a browser asks by this what it may do (CORS). Any other `OPTIONS` is a request like all others.
pub(super) fn is_preflight<I>(request: &Request<I>) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(ORIGIN)
        && request
            .headers()
            .contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// What a browser needs of the answer to such a question; the rest may be what is being sold.
pub(super) fn of_preflight(headers: &HeaderMap) -> HeaderMap {
    let stays = |name: &HeaderName| {
        *name == ALLOW || *name == VARY || name.as_str().starts_with("access-control-")
    };
    let headers = headers.iter().filter(|(name, _)| stays(name));
    let mut kept = HeaderMap::new();
    for (name, value) in headers {
        kept.append(name.clone(), value.clone());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn private(said: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in said {
            headers.append(*name, HeaderValue::from_static(value));
        }
        make_private(&mut headers);
        headers
    }

    #[test]
    fn what_forbids_caches_more_stays_and_what_allows_them_anything_goes() {
        for (said, then) in [
            (None, "no-store"),
            (Some("public, max-age=60, s-maxage=60"), "no-store"),
            (Some("must-understand, immutable"), "no-store"),
            (
                Some("No-Transform, private,x"),
                "no-store, no-transform, private",
            ),
        ] {
            let said: Vec<_> = said.iter().map(|said| ("cache-control", *said)).collect();
            assert_eq!(private(&said)[CACHE_CONTROL], then);
        }
        assert!(!private(&[("cdn-cache-control", "max-age=9")]).contains_key("cdn-cache-control"));
    }

    #[test]
    fn what_answers_differ_by_is_added_to_what_they_differ_by_already() {
        let headers = private(&[("vary", "accept")]);
        let all: Vec<_> = headers.get_all(VARY).iter().collect();
        assert_eq!(all, ["accept", "PAYMENT-SIGNATURE, X-PAYMENT"]);
    }
}
