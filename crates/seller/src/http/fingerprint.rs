//! The fingerprint of a request: what makes two requests the same.

use std::net::IpAddr;

use http::header::{
    ACCEPT, ACCEPT_LANGUAGE, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, RANGE,
    TRANSFER_ENCODING,
};
use http::{HeaderName, Method, Request};
use quittance_core::PaymentRequest;
use sha2::{Digest, Sha256};

use crate::sale_ids::SaleKey;

/// The digest of a request's body (RFC 9530). The layer cannot read the body, so it compares what
/// the client says of it.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// The request headers that select a response or authorize its client. A settled payment is public,
/// because its signature is on the chain. So the payment alone does not entitle a client.
const COMPARED_HEADERS: [HeaderName; 8] = [
    AUTHORIZATION,
    COOKIE,
    ACCEPT,
    ACCEPT_LANGUAGE,
    RANGE,
    CONTENT_TYPE,
    CONTENT_LENGTH,
    CONTENT_DIGEST,
];

/// Parts of the names of custom credential headers, such as `X-API-Key`, `X-Auth-Token` and
/// `X-Session-Id`.
const CREDENTIAL_PARTS: [&str; 5] = ["auth", "key", "secret", "session", "token"];

fn is_credential(name: &HeaderName) -> bool {
    CREDENTIAL_PARTS
        .iter()
        .any(|part| name.as_str().contains(part))
}

/// Identifies a request without its payment.
pub(crate) struct RequestFingerprint {
    hash: Sha256,
    client: Option<IpAddr>,
    may_have_body: bool,
    has_digest: bool,
}

impl RequestFingerprint {
    /// The fingerprint of a request to this URL from this client.
    pub(crate) fn new<I>(request: &Request<I>, url: &str, client: Option<IpAddr>) -> Self {
        let mut hash = Sha256::new();
        add(&mut hash, request.method().as_str().as_bytes());
        add(&mut hash, url.as_bytes());
        for name in COMPARED_HEADERS {
            let values = request.headers().get_all(&name);
            add(&mut hash, &(values.iter().count() as u64).to_be_bytes());
            values
                .iter()
                .for_each(|value| add(&mut hash, value.as_bytes()));
        }
        let credentials = request.headers().iter();
        let credentials = credentials.filter(|(name, _)| is_credential(name));
        let mut credentials: Vec<_> = credentials
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        // Proxies may change the order of headers.
        credentials.sort_unstable();
        for (name, value) in credentials {
            add(&mut hash, name.as_bytes());
            add(&mut hash, value);
        }
        Self {
            hash,
            client,
            may_have_body: may_have_body(request),
            has_digest: request.headers().contains_key(CONTENT_DIGEST),
        }
    }

    /// Whether a stored response may be delivered to this request.
    ///
    /// Not if it may have a body and the client's address is unknown. Bodies are not compared, so
    /// anyone who reads the payment from the chain could request the response.
    pub(crate) fn is_redeliverable(&self) -> bool {
        !self.may_have_body || self.client.is_some()
    }

    /// Whether the request is still known after a restart of the seller: its client and its body
    /// are.
    pub(crate) fn outlives_process(&self) -> bool {
        self.is_redeliverable() && (!self.may_have_body || self.has_digest)
    }

    /// The key of this request of this client with this payment: its whole payload, including the
    /// signature.
    pub(crate) fn with_payment(&self, payment: &PaymentRequest) -> SaleKey {
        let client = self.client.map(|client| client.to_string());
        self.key(&client.unwrap_or_default(), payment)
    }

    /// As [`with_payment`](Self::with_payment), of any client. For payments with an identifier: it
    /// is not on the chain, so only its buyer knows it.
    pub(crate) fn of_any_client(&self, payment: &PaymentRequest) -> SaleKey {
        self.key("any", payment)
    }

    fn key(&self, client: &str, payment: &PaymentRequest) -> SaleKey {
        let mut hash = self.hash.clone();
        add(&mut hash, client.as_bytes());
        hash.update(payment.version.number().to_be_bytes());
        hash.update(payment.origin().as_bytes());
        hash.update(payment.payload.canonical_hash());
        SaleKey(hash.finalize().into())
    }
}

/// Adds a part with its length, so that moving a border changes the hash.
fn add(hash: &mut Sha256, part: &[u8]) {
    hash.update((part.len() as u64).to_be_bytes());
    hash.update(part);
}

fn may_have_body<I>(request: &Request<I>) -> bool {
    let headers = request.headers();
    match headers.get(CONTENT_LENGTH) {
        Some(length) => length != "0",
        None => request.method() != Method::GET || headers.contains_key(TRANSFER_ENCODING),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_request_or_client_has_another_fingerprint() {
        let request = |change: &dyn Fn(&mut Request<()>)| {
            let mut request = Request::new(());
            *request.uri_mut() = "http://a.example/goods?x=1".parse().unwrap();
            change(&mut request);
            request
        };
        let fingerprint = |client: Option<IpAddr>, change: &dyn Fn(&mut Request<()>)| {
            let request = request(change);
            let found = RequestFingerprint::new(&request, &request.uri().to_string(), client);
            let key = found.with_payment(&quittance_testing::scripted::request(1));
            found.is_redeliverable().then_some(key)
        };
        let here = Some(IpAddr::from([192, 0, 2, 1]));
        let plain = fingerprint(here, &|_| {}).unwrap();
        assert_eq!(fingerprint(here, &|_| {}), Some(plain));
        let header = |name: HeaderName, value: &'static str| {
            move |request: &mut Request<()>| {
                request.headers_mut().insert(&name, value.parse().unwrap());
            }
        };
        assert_ne!(
            fingerprint(Some(IpAddr::from([192, 0, 2, 2])), &|_| {}),
            Some(plain)
        );
        for name in COMPARED_HEADERS {
            assert_ne!(fingerprint(here, &header(name, "7")), Some(plain));
        }
        // The handler that would check them does not run for a stored response.
        for name in ["x-api-key", "x-auth-token", "x-session-id", "client-secret"] {
            let name = HeaderName::from_static(name);
            assert_ne!(fingerprint(here, &header(name, "7")), Some(plain));
        }
        // Headers that differ between two identical requests are not compared.
        for name in ["x-request-id", "cf-ray", "traceparent", "x-forwarded-for"] {
            let name = HeaderName::from_static(name);
            assert_eq!(fingerprint(here, &header(name, "7")), Some(plain));
        }
        let posts = |request: &mut Request<()>| *request.method_mut() = Method::POST;
        let other = |request: &mut Request<()>| *request.uri_mut() = "/other".parse().unwrap();
        assert_ne!(fingerprint(here, &posts), Some(plain));
        assert_ne!(fingerprint(here, &other), Some(plain));
        // Without an address, only requests without a body: bodies are not compared.
        assert!(fingerprint(None, &|_| {}).is_some());
        assert!(fingerprint(None, &posts).is_none());
        assert!(fingerprint(None, &header(CONTENT_LENGTH, "7")).is_none());
        assert!(fingerprint(None, &header(TRANSFER_ENCODING, "chunked")).is_none());
    }

    #[test]
    fn after_a_restart_a_body_is_known_by_its_digest() {
        let here = Some(IpAddr::from([192, 0, 2, 1]));
        let outlives = |method: Method, digest: Option<&'static str>, client| {
            let mut request = Request::new(());
            *request.method_mut() = method;
            if let Some(digest) = digest {
                let digest = digest.parse().unwrap();
                request.headers_mut().insert(CONTENT_DIGEST, digest);
            }
            RequestFingerprint::new(&request, "/", client).outlives_process()
        };
        assert!(outlives(Method::GET, None, None));
        assert!(outlives(Method::POST, Some("sha-256=:eA==:"), here));
        assert!(!outlives(Method::POST, None, here));
        assert!(!outlives(Method::POST, Some("sha-256=:eA==:"), None));
    }
}
