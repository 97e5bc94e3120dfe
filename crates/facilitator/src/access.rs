//! Who may call, and how often.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::answers::{Endpoint, Problem};
use crate::peer::Peer;
use crate::rate::{Caller, Rates};

/// Where a proxy says for whom it asks.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The keys that callers may show. Only their hashes are kept.
#[derive(Debug, Clone)]
pub struct Keys(Option<Arc<[[u8; 32]]>>);

impl Keys {
    /// Anybody may call.
    pub const fn anyone() -> Self {
        Self(None)
    }

    /// Those may call who show one of these.
    pub fn of(keys: &[SecretString]) -> Self {
        Self(Some(
            keys.iter().map(|key| hash(key.expose_secret())).collect(),
        ))
    }

    /// Whether whoever sent these headers may call.
    pub(crate) fn allow(&self, headers: &HeaderMap) -> bool {
        self.0.is_none() || self.shown(headers).is_some()
    }

    /// Which of the keys these headers show.
    fn shown(&self, headers: &HeaderMap) -> Option<usize> {
        self.find(bearer(headers)?)
    }

    /// Which of the keys this is. Takes the same time for every wrong one.
    fn find(&self, shown: &str) -> Option<usize> {
        let keys = self.0.as_ref()?;
        let shown = hash(shown);
        // 0 for none.
        let mut found = 0_u64;
        for (place, key) in (1_u64..).zip(keys.iter()) {
            found.conditional_assign(&place, key.ct_eq(&shown));
        }
        usize::try_from(found).ok()?.checked_sub(1)
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// The token after `Bearer`; a scheme's name has no case (RFC 9110, section 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim_start_matches(' '))
}

/// What stands before the paths that cost something.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) keys: Keys,
    pub(crate) rates: Option<Arc<Rates>>,
    /// How many proxies stand in front, whose word on the caller's address is taken.
    pub(crate) proxies: usize,
}

impl Door {
    /// Who asks; `None` where neither a key nor an address is known.
    fn caller(&self, request: &Request) -> Option<Caller> {
        let headers = request.headers();
        if let Some(at) = self.keys.shown(headers) {
            return Some(Caller::Key(at));
        }
        let connected = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let address = forwarded_for(headers, self.proxies)
            .or_else(|| connected.map(|ConnectInfo(address)| address.ip()))?;
        Some(Caller::Peer(Peer::of(address)))
    }

    /// Takes one request from the caller's bucket, or says how long it is empty.
    fn count(&self, request: &Request) -> Result<(), Problem> {
        let (Some(rates), Some(caller)) = (&self.rates, self.caller(request)) else {
            return Ok(());
        };
        let rate_limited = |wait| Problem::rate_limited(wait, endpoint(request));
        rates.take(caller).map_err(rate_limited)
    }
}

/// The address that the outermost of so many proxies saw. What stands before it is the caller's own word.
fn forwarded_for(headers: &HeaderMap, proxies: usize) -> Option<IpAddr> {
    let seen: Vec<&str> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    let at = seen.len().checked_sub(proxies)?;
    seen.get(at)?.trim().parse().ok()
}

/// Lets those through who may call, and not too often. Whoever knocks in vain is counted, too.
pub(crate) async fn guard(State(door): State<Door>, request: Request, next: Next) -> Response {
    if let Err(problem) = door.count(&request) {
        return problem.into_response();
    }
    if door.keys.allow(request.headers()) {
        next.run(request).await
    } else {
        Problem::unauthorized().into_response()
    }
}

/// Lets everybody through who shows no key. A key that is shown is counted like any other call: the answer tells whether it is
/// one of ours.
pub(crate) async fn count_keys(State(door): State<Door>, request: Request, next: Next) -> Response {
    if request.headers().contains_key(AUTHORIZATION)
        && let Err(problem) = door.count(&request)
    {
        return problem.into_response();
    }
    next.run(request).await
}

fn endpoint(request: &Request) -> Option<Endpoint> {
    let path = request.extensions().get::<MatchedPath>()?.as_str();
    [Endpoint::Verify, Endpoint::Settle]
        .into_iter()
        .find(|endpoint| path.strip_prefix('/') == Some(endpoint.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let header = |(name, value): &(&'static str, &str)| {
            (
                axum::http::HeaderName::from_static(name),
                value.parse().unwrap(),
            )
        };
        all.iter().map(header).collect()
    }

    #[test]
    fn only_a_key_on_the_list_opens() {
        let keys = Keys::of(&["one".into(), "two".into()]);
        let shown = |value: &str| keys.shown(&headers(&[("authorization", value)]));
        assert_eq!(
            (shown("Bearer one"), shown("Bearer two")),
            (Some(0), Some(1))
        );
        for wrong in [
            "Bearer three",
            "Bearer ",
            "Bearer",
            "one",
            "Basic one",
            "Bearer one two",
        ] {
            assert_eq!(shown(wrong), None, "{wrong}");
        }
        assert!(!keys.allow(&HeaderMap::new()));
        assert!(Keys::anyone().allow(&HeaderMap::new()));
        assert!(!format!("{keys:?}").contains("one"));
    }

    #[test]
    fn the_schemes_name_has_no_case() {
        let keys = Keys::of(&["one".into()]);
        for value in ["bearer one", "BEARER one", "Bearer  one"] {
            assert!(keys.allow(&headers(&[("authorization", value)])), "{value}");
        }
        assert!(!keys.allow(&headers(&[("authorization", "Bearer ONE")])));
    }

    #[test]
    fn of_what_stands_in_forwarded_for_only_what_ones_own_proxies_wrote_counts() {
        let lied = headers(&[
            ("x-forwarded-for", "10.0.0.1, 192.0.2.1"),
            ("x-forwarded-for", "192.0.2.2"),
        ]);
        let at = |proxies| forwarded_for(&lied, proxies).map(|address| address.to_string());
        assert_eq!(at(0), None);
        assert_eq!(at(1).as_deref(), Some("192.0.2.2"));
        assert_eq!(at(2).as_deref(), Some("192.0.2.1"));
        assert_eq!(at(4), None);
    }
}
