//! Cache headers of paid responses.

use http::header::{CACHE_CONTROL, VARY};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The directives of a handler's `Cache-Control` that remain beside `no-store`. All others weaken
/// it: `public`, an age, or `must-understand`, which lets a cache ignore `no-store`.
const RESTRICTIVE: [&str; 5] = [
    "private",
    "no-cache",
    "no-transform",
    "must-revalidate",
    "proxy-revalidate",
];

/// The suffixes of headers that override `Cache-Control` in a shared cache: RFC 9213's targeted
/// fields (`CDN-Cache-Control`, and those of Cloudflare, Netlify, Vercel and others with a prefix),
/// `Surrogate-Control` (Varnish, Fastly), `Edge-Control` (Akamai), `X-Accel-Expires` (nginx).
const FOR_SHARED_CACHES: [&str; 4] = [
    "cdn-cache-control",
    "surrogate-control",
    "edge-control",
    "x-accel-expires",
];

/// `Vary`: a cache that stores the response anyway must not serve it to a request with another
/// payment, or with none.
const PAYMENT_HEADERS: HeaderValue = HeaderValue::from_static("PAYMENT-SIGNATURE, X-PAYMENT");

/// Forbids caches to store a response.
pub(crate) fn make_private(headers: &mut HeaderMap) {
    let kept: Vec<String> = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|directive| directive.trim().to_ascii_lowercase())
        .filter(|directive| RESTRICTIVE.contains(&directive.as_str()))
        .collect();
    let all = kept.iter().fold("no-store".to_owned(), |all, directive| {
        format!("{all}, {directive}")
    });
    let value = HeaderValue::try_from(all).expect("the directives are valid header values");
    headers.insert(CACHE_CONTROL, value);
    remove_targeted(headers);
    headers.append(VARY, PAYMENT_HEADERS);
}

/// Removes the headers that override `Cache-Control` in a shared cache.
fn remove_targeted(headers: &mut HeaderMap) {
    let is_targeted = |name: &&HeaderName| {
        let mut suffixes = FOR_SHARED_CACHES.iter();
        suffixes.any(|suffix| name.as_str().ends_with(suffix))
    };
    let targeted: Vec<HeaderName> = headers.keys().filter(is_targeted).cloned().collect();
    for name in targeted {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn private(stated: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in stated {
            headers.append(*name, HeaderValue::from_static(value));
        }
        make_private(&mut headers);
        headers
    }

    #[test]
    fn only_restrictive_cache_directives_remain() {
        for (stated, kept) in [
            (None, "no-store"),
            (Some("public, max-age=60, s-maxage=60"), "no-store"),
            (Some("must-understand, immutable"), "no-store"),
            (
                Some("No-Transform, private,x"),
                "no-store, no-transform, private",
            ),
        ] {
            let headers: Vec<_> = stated.iter().map(|it| ("cache-control", *it)).collect();
            assert_eq!(private(&headers)[CACHE_CONTROL], kept);
        }
    }

    /// attacks.md 219.
    #[test]
    fn headers_for_shared_caches_are_removed() {
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
    fn payment_headers_are_added_to_vary() {
        let headers = private(&[("vary", "accept")]);
        let all: Vec<_> = headers.get_all(VARY).iter().collect();
        assert_eq!(all, ["accept", "PAYMENT-SIGNATURE, X-PAYMENT"]);
    }
}
