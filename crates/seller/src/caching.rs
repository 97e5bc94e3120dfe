//! What an answer that one client paid for says to caches and browsers on its way.

use http::header::{CACHE_CONTROL, VARY};
use http::{HeaderMap, HeaderName, HeaderValue};

/// What else a handler's own `Cache-Control` may say beside `no-store`. Everything else allows something: `public`, an age,
/// or `must-understand`, with which a cache may pass over `no-store`.
const STRICTER: [&str; 5] = [
    "private",
    "no-cache",
    "no-transform",
    "must-revalidate",
    "proxy-revalidate",
];

/// The end of each header that tells a shared cache to keep an answer whatever `Cache-Control` says:
/// RFC 9213's targeted fields (`CDN-Cache-Control`, and those of Cloudflare, Netlify, Vercel and
/// others, which put their name in front), `Surrogate-Control` (Varnish, Fastly), `Edge-Control`
/// (Akamai), `X-Accel-Expires` (nginx).
const FOR_SHARED_CACHES: [&str; 4] = [
    "cdn-cache-control",
    "surrogate-control",
    "edge-control",
    "x-accel-expires",
];

/// By what answers differ: a cache that keeps one all the same must not give it to who paid otherwise, or not at all.
const BY_PAYMENT: HeaderValue = HeaderValue::from_static("PAYMENT-SIGNATURE, X-PAYMENT");

/// Marks an answer as one client's only.
pub(crate) fn make_private(headers: &mut HeaderMap) {
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
    remove_targeted(headers);
    headers.append(VARY, BY_PAYMENT);
}

/// Removes what a shared cache obeys before `Cache-Control`.
fn remove_targeted(headers: &mut HeaderMap) {
    let is_targeted = |name: &&HeaderName| {
        let mut ends = FOR_SHARED_CACHES.iter();
        ends.any(|end| name.as_str().ends_with(end))
    };
    let targeted: Vec<HeaderName> = headers.keys().filter(is_targeted).cloned().collect();
    for name in targeted {
        headers.remove(name);
    }
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
    }

    /// attacks.md 219.
    #[test]
    fn no_header_that_a_shared_cache_obeys_is_left() {
        for name in [
            "cdn-cache-control",
            "cloudflare-cdn-cache-control",
            "vercel-cdn-cache-control",
            "netlify-cdn-cache-control",
            "surrogate-control",
            "edge-control",
            "x-accel-expires",
        ] {
            let headers = private(&[(name, "max-age=9"), (name, "public"), ("x-other", "stays")]);
            assert!(!headers.contains_key(name), "{name}");
            assert_eq!(headers["x-other"], "stays");
            assert_eq!(headers[CACHE_CONTROL], "no-store");
        }
    }

    #[test]
    fn what_answers_differ_by_is_added_to_what_they_differ_by_already() {
        let headers = private(&[("vary", "accept")]);
        let all: Vec<_> = headers.get_all(VARY).iter().collect();
        assert_eq!(all, ["accept", "PAYMENT-SIGNATURE, X-PAYMENT"]);
    }
}
