//! How many payments one client may present without success.
//!
//! The layer cannot judge a payment: it asks the facilitator, which counts all the seller's clients
//! as one caller. A client without money could use up that budget with payments that never settle,
//! and stop the sales of all others.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[cfg(feature = "axum")]
use axum::extract::ConnectInfo;
use http::{HeaderMap, Request};
use tokio::time::Instant;
use tracing::warn;

/// How many buckets all addresses together have, so that a client with many addresses cannot fill
/// the memory: each takes some forty bytes. Addresses that meet in one bucket share it; which do,
/// no outsider can know.
const BUCKETS: u64 = 1 << 16;

/// Where a proxy writes for whom it asks.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// How many payments one client may present without success, and how clients are told apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    /// In the long run; 0 for no limit.
    pub(crate) per_minute: u32,
    /// At once, after a pause.
    pub(crate) burst: u32,
    /// How many proxies stand in front that append to `X-Forwarded-For`.
    pub(crate) proxies: usize,
}

impl Default for Limit {
    /// A fiftieth of what a facilitator of this project takes from one caller in a minute (3,000),
    /// so one client cannot starve the others. An honest client's payments succeed and cost nothing.
    fn default() -> Self {
        Self {
            per_minute: 60,
            burst: 60,
            proxies: 0,
        }
    }
}

impl Limit {
    /// How long one failed payment takes to be forgotten.
    fn interval(self) -> Duration {
        Duration::from_secs(60) / self.per_minute.max(1)
    }

    /// How far a bucket may be behind.
    fn tolerance(self) -> Duration {
        self.interval() * self.burst.max(1)
    }
}

/// The clients' buckets. Each is the moment at which it will be full again (the generic cell rate
/// algorithm), which is all that a bucket needs to remember.
#[derive(Default)]
pub(crate) struct Clients {
    full_at: Mutex<HashMap<u64, Instant>>,
    secret: RandomState,
    /// Whether it was logged that clients cannot be told apart.
    warned: AtomicBool,
}

/// One payment that a client presents, counted until it has succeeded.
pub(crate) struct Attempt {
    clients: Arc<Clients>,
    limit: Limit,
    /// `None` where clients are not counted.
    bucket: Option<u64>,
    state: State,
}

/// How far a payment has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The facilitator is asked: it counts.
    Asked,
    /// The payer has the money. It does not count meanwhile, so that a client may have many sales at
    /// once, and counts when the sale ends without success.
    Verified,
    /// It has settled: it never counts.
    Settled,
}

impl Clients {
    /// Counts a payment before the facilitator is asked about it.
    ///
    /// # Errors
    /// How long the client has to wait.
    pub(crate) fn present(
        self: &Arc<Self>,
        limit: Limit,
        client: Option<IpAddr>,
    ) -> Result<Attempt, Duration> {
        let bucket = match (limit.per_minute, client) {
            (0, _) | (_, None) => None,
            (_, Some(address)) => Some(self.secret.hash_one(subscriber(address)) % BUCKETS),
        };
        if let Some(bucket) = bucket {
            self.take(limit, bucket)?;
        }
        Ok(Attempt {
            clients: Arc::clone(self),
            limit,
            bucket,
            state: State::Asked,
        })
    }

    /// The address of a request's client, where it is known. Logs once why it is not.
    pub(crate) fn address<I>(&self, limit: Limit, request: &Request<I>) -> Option<IpAddr> {
        let connected = connected(request).map(|address| address.ip());
        let found = match forwarded(request.headers(), limit.proxies) {
            Forwarded::For(address) => Some(address),
            Forwarded::Unreadable => None,
            Forwarded::Not => connected,
        };
        if limit.per_minute > 0 && found.is_none() && !self.warned.swap(true, Ordering::Relaxed) {
            warn!(
                "clients cannot be told apart, so their payments without success are not limited: \
                 serve with `into_make_service_with_connect_info::<SocketAddr>()`, and tell \
                 `PaymentLayer::clients` how many proxies append to X-Forwarded-For"
            );
        }
        found
    }

    fn take(&self, limit: Limit, bucket: u64) -> Result<(), Duration> {
        let now = Instant::now();
        self.change(bucket, |full_at| {
            let next = (*full_at).max(now) + limit.interval();
            let behind = next - now;
            if behind > limit.tolerance() {
                return Err(behind - limit.tolerance());
            }
            *full_at = next;
            Ok(())
        })
    }

    /// Counts one more, whatever there is. A sale that failed cannot be refused any more.
    fn charge(&self, limit: Limit, bucket: u64) {
        let now = Instant::now();
        self.change(bucket, |full_at| {
            *full_at = (*full_at).max(now) + limit.interval();
        });
    }

    fn give_back(&self, limit: Limit, bucket: u64) {
        self.change(bucket, |full_at| {
            *full_at = full_at.checked_sub(limit.interval()).unwrap_or(*full_at);
        });
    }

    fn change<T>(&self, bucket: u64, change: impl FnOnce(&mut Instant) -> T) -> T {
        // Each change is one assignment, so a panic elsewhere leaves the map whole.
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        change(full_at.entry(bucket).or_insert_with(Instant::now))
    }
}

impl Attempt {
    /// The payment would settle.
    pub(crate) fn verified(&mut self) {
        if let (State::Asked, Some(bucket)) = (self.state, self.bucket) {
            self.clients.give_back(self.limit, bucket);
        }
        self.state = State::Verified;
    }

    /// The payment has settled.
    pub(crate) fn settled(&mut self) {
        self.verified();
        self.state = State::Settled;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let (State::Verified, Some(bucket)) = (self.state, self.bucket) {
            self.clients.charge(self.limit, bucket);
        }
    }
}

/// The address that a request's connection comes from, where the server passed it on.
fn connected<I>(request: &Request<I>) -> Option<SocketAddr> {
    let extensions = request.extensions();
    #[cfg(feature = "axum")]
    if let Some(ConnectInfo(address)) = extensions.get::<ConnectInfo<SocketAddr>>() {
        return Some(*address);
    }
    extensions.get::<SocketAddr>().copied()
}

/// What `X-Forwarded-For` says of a client.
#[derive(Debug, PartialEq, Eq)]
enum Forwarded {
    /// The outermost of our proxies saw this address.
    For(IpAddr),
    /// It wrote something that is no address.
    Unreadable,
    /// No proxy is known, or the request came past them.
    Not,
}

/// The address that the outermost of so many proxies saw. What stands before it is the client's own
/// word.
fn forwarded(headers: &HeaderMap, proxies: usize) -> Forwarded {
    let seen: Vec<&str> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    let at = match proxies {
        0 => None,
        proxies => seen.len().checked_sub(proxies),
    };
    match at.and_then(|at| seen.get(at)) {
        None => Forwarded::Not,
        Some(text) => address(text.trim()).map_or(Forwarded::Unreadable, Forwarded::For),
    }
}

/// An address as proxies write it: some add the port, some put IPv6 in brackets.
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

/// What one subscriber of a network has: an IPv4 address, or all of an IPv6 network of 64 bits.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::time::advance;

    const LIMIT: Limit = Limit {
        per_minute: 60,
        burst: 3,
        proxies: 0,
    };

    fn client(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_fail_a_few_times_and_others_are_not_touched_by_it() {
        let clients = Arc::new(Clients::default());
        for _ in 0..3 {
            drop(clients.present(LIMIT, client(1)).ok().unwrap());
        }
        let wait = clients.present(LIMIT, client(1)).err().unwrap();
        assert_eq!(wait, Duration::from_secs(1));
        assert!(clients.present(LIMIT, client(2)).is_ok());
        advance(wait).await;
        assert!(clients.present(LIMIT, client(1)).is_ok());
        assert!(clients.present(LIMIT, client(1)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn sales_cost_nothing_however_many_are_under_way_and_failed_ones_do() {
        let clients = Arc::new(Clients::default());
        let mut sales = Vec::new();
        for _ in 0..100 {
            let mut sale = clients.present(LIMIT, client(1)).ok().unwrap();
            sale.verified();
            sales.push(sale);
        }
        for sale in &mut sales {
            sale.settled();
        }
        drop(sales);
        for _ in 0..3 {
            let mut sale = clients.present(LIMIT, client(1)).ok().unwrap();
            sale.verified();
        }
        assert!(clients.present(LIMIT, client(1)).is_err());
    }

    #[tokio::test]
    async fn without_a_limit_or_an_address_all_pass() {
        let clients = Arc::new(Clients::default());
        let unlimited = Limit {
            per_minute: 0,
            ..LIMIT
        };
        for _ in 0..100 {
            assert!(clients.present(unlimited, client(1)).is_ok());
            assert!(clients.present(LIMIT, None).is_ok());
        }
        assert!(clients.full_at.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn addresses_without_end_take_memory_with_an_end() {
        let clients = Arc::new(Clients::default());
        for bits in 0..2 * u32::try_from(BUCKETS).unwrap() {
            let address = std::net::Ipv4Addr::from_bits(bits).into();
            let _ = clients.present(LIMIT, Some(address));
        }
        assert!(clients.full_at.lock().unwrap().len() as u64 <= BUCKETS);
    }

    #[test]
    fn only_what_our_own_proxies_wrote_counts_in_any_of_its_spellings() {
        let headers = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(FORWARDED_FOR, value.parse().unwrap());
            }
            headers
        };
        let found = |text: &str| Forwarded::For(text.parse().unwrap());
        let lied = headers(&["10.0.0.1, 192.0.2.1", "192.0.2.2"]);
        assert_eq!(forwarded(&lied, 0), Forwarded::Not);
        assert_eq!(forwarded(&lied, 1), found("192.0.2.2"));
        assert_eq!(forwarded(&lied, 2), found("192.0.2.1"));
        assert_eq!(forwarded(&lied, 4), Forwarded::Not);
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

    #[test]
    fn addresses_that_one_subscriber_can_choose_among_are_one_client() {
        let of = |text: &str| subscriber(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }

    proptest! {
        #[test]
        fn no_header_makes_reading_it_panic(text in "[ -~]{0,60}", proxies in 0usize..5) {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static(FORWARDED_FOR),
                text.parse().unwrap(),
            )]);
            let _ = forwarded(&headers, proxies);
        }
    }
}
