//! Access: the keys of callers, and their rates.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::client_address::ClientAddress;
use crate::error::ErrorResponse;
use crate::payments::Endpoint;
use crate::rate::{Budget, Caller, Rates};
use crate::router::{REFUNDS, SETTLE, VERIFY};

/// The header in which a proxy names its client.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The keys that give access. Only their hashes are kept in memory.
#[derive(Debug, Clone)]
pub struct Keys(Option<Arc<[[u8; 32]]>>);

impl Keys {
    /// Every caller has access.
    pub const fn anyone() -> Self {
        Self(None)
    }

    /// Callers that send one of these keys have access.
    pub fn new(keys: &[SecretString]) -> Self {
        Self(Some(
            keys.iter().map(|key| hash(key.expose_secret())).collect(),
        ))
    }

    /// Whether the sender of these headers has access.
    pub(crate) fn allow(&self, headers: &HeaderMap) -> bool {
        self.0.is_none() || self.key_in(headers).is_some()
    }

    /// A name of the key at this position: the first bytes of its hash, which do not change when
    /// the list of keys does.
    pub(crate) fn name(&self, at: usize) -> Option<String> {
        /// Enough to distinguish the keys of one service.
        const NAME_BYTES: usize = 8;
        let hash = self.0.as_ref()?.get(at)?;
        let name = hash.iter().take(NAME_BYTES);
        Some(name.map(|byte| format!("{byte:02x}")).collect())
    }

    /// The position of the key in these headers.
    fn key_in(&self, headers: &HeaderMap) -> Option<usize> {
        self.find(bearer(headers)?)
    }

    /// The position of a key. The comparison takes the same time for every wrong key.
    fn find(&self, key: &str) -> Option<usize> {
        let keys = self.0.as_ref()?;
        let wanted = hash(key);
        // 0 while no key is equal.
        let mut found = 0_u64;
        for (position, key) in (1_u64..).zip(keys.iter()) {
            found.conditional_assign(&position, key.ct_eq(&wanted));
        }
        usize::try_from(found).ok()?.checked_sub(1)
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// The token after `Bearer`. The name of a scheme has no case (RFC 9110, section 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim_start_matches(' '))
}

/// The time between two log lines about rate-limited requests. Each line has their number: with a
/// line for each request, any caller could fill the disk.
const REFUSALS_EVERY: Duration = Duration::from_secs(10);

/// Access control in front of every path.
#[derive(Clone)]
pub(crate) struct Gate {
    keys: Keys,
    rates: Arc<Rates>,
    /// The number of proxies in front whose `X-Forwarded-For` is trusted.
    proxies: usize,
    refusals: Arc<Refusals>,
    has_warned: Arc<AtomicBool>,
}

impl Gate {
    pub(crate) fn new(keys: Keys, rates: Rates, proxies: usize) -> Self {
        Self {
            keys,
            rates: Arc::new(rates),
            proxies,
            refusals: Arc::default(),
            has_warned: Arc::default(),
        }
    }

    /// The caller; `None` if neither a key nor an address is known.
    fn caller(&self, request: &Request) -> Option<Caller> {
        let headers = request.headers();
        if let Some(at) = self.keys.key_in(headers) {
            return Some(Caller::Key(at));
        }
        let connected = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let address = self
            .forwarded(headers)
            .or_else(|| connected.map(|ConnectInfo(address)| address.ip()))?;
        Some(Caller::Address(ClientAddress::new(address)))
    }

    /// The address that a trusted proxy wrote into `X-Forwarded-For`. If it cannot be parsed, all
    /// callers of that proxy share one rate; the log says so once.
    fn forwarded(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let entry = forwarded_for(headers, self.proxies)?;
        let address = address_in(entry);
        if address.is_none() && !self.has_warned.swap(true, Ordering::Relaxed) {
            let entry = quittance_core::printable(entry);
            warn!(
                entry,
                "X-Forwarded-For has no address where limits.proxies says that there is one: these callers share one rate"
            );
        }
        address
    }

    /// Takes one request from the caller's bucket. The error says when to retry.
    fn count(&self, request: &mut Request, budget: Budget) -> Result<(), ErrorResponse> {
        let Some(caller) = self.caller(request) else {
            return Ok(());
        };
        request.extensions_mut().insert(caller);
        self.rates.take(caller, budget).map_err(|wait| {
            self.refusals.note();
            ErrorResponse::rate_limited(wait, endpoint(request))
        })
    }
}

/// Rate-limited requests that are not logged yet.
#[derive(Default)]
struct Refusals(Mutex<(u64, Option<Instant>)>);

impl Refusals {
    fn note(&self) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.0 += 1;
        if since.1.is_none_or(|last| last.elapsed() >= REFUSALS_EVERY) {
            info!(
                requests = since.0,
                "refused: their callers send more than limits.per_minute or limits.key_per_minute allow"
            );
            *since = (0, Some(Instant::now()));
        }
    }
}

/// The entry that the outermost of the trusted proxies wrote. The caller can forge all entries
/// before it.
fn forwarded_for(headers: &HeaderMap, proxies: usize) -> Option<&str> {
    let seen: Vec<&str> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    let at = seen.len().checked_sub(proxies)?;
    Some(seen.get(at)?.trim())
}

/// Parses an address as proxies write it: alone, in brackets, or with a port.
fn address_in(entry: &str) -> Option<IpAddr> {
    let in_brackets = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || Some(entry.parse::<SocketAddr>().ok()?.ip());
    let alone = entry.parse().ok();
    alone.or_else(in_brackets).or_else(with_port)
}

/// Rejects rate-limited requests, then requests without a key if there are keys. Rejected requests
/// count against the limit.
pub(crate) async fn guard(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let budget = match endpoint(&request) {
        Some(Endpoint::Verify) => Budget::Verify,
        Some(Endpoint::Settle) => Budget::Settle,
        None => Budget::Lookup,
    };
    if let Err(problem) = gate.count(&mut request, budget) {
        return problem.into_response();
    }
    if gate.keys.allow(request.headers()) {
        next.run(request).await
    } else {
        ErrorResponse::unauthorized().into_response()
    }
}

/// Rejects rate-limited requests to paths without a key and to unknown paths. Each answer costs
/// some work, and most of them a log line.
pub(crate) async fn count(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    match gate.count(&mut request, Budget::Open) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Accepts every request without a key: a supervisor must always get an answer. A request with a
/// key is rate-limited, because the answer reveals whether the key is valid.
pub(crate) async fn count_keys(
    State(gate): State<Gate>,
    mut request: Request,
    next: Next,
) -> Response {
    if request.headers().contains_key(AUTHORIZATION)
        && let Err(problem) = gate.count(&mut request, Budget::Lookup)
    {
        return problem.into_response();
    }
    next.run(request).await
}

/// The endpoint of a request with a payment.
fn endpoint(request: &Request) -> Option<Endpoint> {
    match request.extensions().get::<MatchedPath>()?.as_str() {
        VERIFY => Some(Endpoint::Verify),
        SETTLE | REFUNDS => Some(Endpoint::Settle),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn only_a_configured_key_gives_access() {
        let keys = Keys::new(&["one".into(), "two".into()]);
        let position = |value: &str| keys.key_in(&headers(&[("authorization", value)]));
        assert_eq!(
            (position("Bearer one"), position("Bearer two")),
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
            assert_eq!(position(wrong), None, "{wrong}");
        }
        assert!(!keys.allow(&HeaderMap::new()));
        assert!(Keys::anyone().allow(&HeaderMap::new()));
        assert!(!format!("{keys:?}").contains("one"));
    }

    #[test]
    fn the_schemes_name_has_no_case() {
        let keys = Keys::new(&["one".into()]);
        for value in ["bearer one", "BEARER one", "Bearer  one"] {
            assert!(keys.allow(&headers(&[("authorization", value)])), "{value}");
        }
        assert!(!keys.allow(&headers(&[("authorization", "Bearer ONE")])));
    }

    #[test]
    fn only_entries_of_trusted_proxies_count() {
        let forged = headers(&[
            ("x-forwarded-for", "10.0.0.1, 192.0.2.1"),
            ("x-forwarded-for", "192.0.2.2"),
        ]);
        let at = |proxies| forwarded_for(&forged, proxies);
        assert_eq!(at(0), None);
        assert_eq!(at(1), Some("192.0.2.2"));
        assert_eq!(at(2), Some("192.0.2.1"));
        assert_eq!(at(4), None);
    }

    #[test]
    fn an_address_is_read_with_a_port_and_in_brackets() {
        for (entry, address) in [
            ("203.0.113.7", Some("203.0.113.7")),
            ("203.0.113.7:4711", Some("203.0.113.7")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:4711", Some("2001:db8::1")),
            ("unknown", None),
            ("203.0.113.7:", None),
            ("203.0.113.7:99999", None),
            ("[2001:db8::1", None),
            ("[203.0.113.7]:x", None),
            ("", None),
        ] {
            let read = address_in(entry).map(|address| address.to_string());
            assert_eq!(read.as_deref(), address, "{entry:?}");
        }
    }

    proptest! {
        #[test]
        fn an_address_is_the_same_in_every_way_of_writing_it(bits: u128, is_v4: bool, port: u16) {
            let address: IpAddr = match is_v4 {
                true => std::net::Ipv4Addr::from_bits(bits as u32).into(),
                false => std::net::Ipv6Addr::from_bits(bits).into(),
            };
            prop_assert_eq!(address_in(&address.to_string()), Some(address));
            prop_assert_eq!(address_in(&format!("[{address}]")), Some(address));
            let with_port = SocketAddr::new(address, port).to_string();
            prop_assert_eq!(address_in(&with_port), Some(address));
        }
    }
}
