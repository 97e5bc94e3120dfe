//! The digest of a request's body (RFC 9530), by which a seller knows a repeated request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};
use reqwest::{Body, Request};
use sha2::{Digest, Sha256};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// Adds the digest of the body to a request, if it has a body and no digest yet.
pub(super) fn add(request: &mut Request) {
    let body = request.body().and_then(Body::as_bytes);
    let Some(body) = body.filter(|body| !body.is_empty()) else {
        return;
    };
    let digest = format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(body)));
    let value: HeaderValue = digest.parse().expect("base64 is a valid header value");
    request.headers_mut().entry(CONTENT_DIGEST).or_insert(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(body: &'static str, own: Option<&'static str>) -> Option<String> {
        let url = "http://a.example".parse().unwrap();
        let mut request = Request::new(reqwest::Method::POST, url);
        *request.body_mut() = Some(body.into());
        if let Some(own) = own {
            let own = HeaderValue::from_static(own);
            request.headers_mut().insert(CONTENT_DIGEST, own);
        }
        add(&mut request);
        let value = request.headers().get(CONTENT_DIGEST)?;
        Some(value.to_str().unwrap().to_owned())
    }

    /// The example of RFC 9530, appendix D.
    #[test]
    fn digest_is_that_of_the_specification() {
        let expected = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:";
        let body = "{\"hello\": \"world\"}";
        assert_eq!(digest(body, None).as_deref(), Some(expected));
        assert_eq!(digest(body, Some("own")).as_deref(), Some("own"));
        assert_eq!(digest("", None), None);
    }
}
