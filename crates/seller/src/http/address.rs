//! The address of a request's client.

use std::net::{IpAddr, SocketAddr};

#[cfg(feature = "axum")]
use axum::extract::ConnectInfo;
use http::{HeaderMap, Request};

/// The header in which proxies append the address of their client.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The address of a request's client, if it is known. With `proxies` in front of the server, it is
/// the address that the outermost of them appended to `X-Forwarded-For`.
pub(crate) fn client<I>(request: &Request<I>, proxies: usize) -> Option<IpAddr> {
    match forwarded(request.headers(), proxies) {
        Forwarded::Client(address) => Some(address),
        Forwarded::Unreadable => None,
        Forwarded::Missing => connected(request).map(|address| address.ip()),
    }
}

/// The remote address of the request's connection, if the server provides it.
fn connected<I>(request: &Request<I>) -> Option<SocketAddr> {
    let extensions = request.extensions();
    #[cfg(feature = "axum")]
    if let Some(ConnectInfo(address)) = extensions.get::<ConnectInfo<SocketAddr>>() {
        return Some(*address);
    }
    extensions.get::<SocketAddr>().copied()
}

/// The client's address in `X-Forwarded-For`.
#[derive(Debug, PartialEq, Eq)]
enum Forwarded {
    /// The address that the outermost proxy of the server appended.
    Client(IpAddr),
    /// The outermost proxy appended something that is not an address.
    Unreadable,
    /// No proxy is configured, or the request did not pass through all of them.
    Missing,
}

/// The address that the outermost of `proxies` appended. The client controls everything before it.
fn forwarded(headers: &HeaderMap, proxies: usize) -> Forwarded {
    let listed: Vec<&str> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    let at = match proxies {
        0 => None,
        proxies => listed.len().checked_sub(proxies),
    };
    match at.and_then(|at| listed.get(at)) {
        None => Forwarded::Missing,
        Some(text) => address(text.trim()).map_or(Forwarded::Unreadable, Forwarded::Client),
    }
}

/// Parses an address as proxies write it: some add the port, some put IPv6 in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let alone = bare.unwrap_or(text).parse().ok();
    alone.or_else(|| {
        text.parse()
            .ok()
            .map(|with_port: SocketAddr| with_port.ip())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_addresses_of_known_proxies_count() {
        let headers = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(FORWARDED_FOR, value.parse().unwrap());
            }
            headers
        };
        let found = |text: &str| Forwarded::Client(text.parse().unwrap());
        let forged = headers(&["10.0.0.1, 192.0.2.1", "192.0.2.2"]);
        assert_eq!(forwarded(&forged, 0), Forwarded::Missing);
        assert_eq!(forwarded(&forged, 1), found("192.0.2.2"));
        assert_eq!(forwarded(&forged, 2), found("192.0.2.1"));
        assert_eq!(forwarded(&forged, 4), Forwarded::Missing);
        for (written, meant) in [
            ("192.0.2.7:4711", "192.0.2.7"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
        ] {
            assert_eq!(
                forwarded(&headers(&[written]), 1),
                found(meant),
                "{written}"
            );
        }
        for written in ["unknown", "_hidden", "", "192.0.2.7:x", "[192.0.2.7"] {
            assert_eq!(forwarded(&headers(&[written]), 1), Forwarded::Unreadable);
        }
    }

    proptest! {
        #[test]
        fn any_forwarded_header_is_parsed_without_a_panic(text in "[ -~]{0,60}", proxies in 0usize..5) {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static(FORWARDED_FOR),
                text.parse().unwrap(),
            )]);
            let _ = forwarded(&headers, proxies);
        }
    }
}
