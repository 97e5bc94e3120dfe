//! A limit on the unsuccessful payments of each client.
//!
//! The seller cannot verify a payment. It asks the facilitator, which counts all clients of a
//! seller as one caller. Without this limit, one client could use up the facilitator's rate limit
//! with payments that never settle, and stop the sales to all others.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

/// The number of buckets for all addresses, so that a client with many addresses cannot fill the
/// memory: each takes about 40 bytes. Two addresses may share a bucket. A secret hash key decides
/// which, so an attacker cannot choose them.
const BUCKETS: u64 = 1 << 16;

/// How many unsuccessful payments a client may present.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientLimit {
    /// The long-term rate; 0 means no limit.
    pub(crate) per_minute: u32,
    /// How many are allowed at once, after a pause.
    pub(crate) burst: u32,
}

impl Default for ClientLimit {
    /// 2 % of what this project's facilitator allows one caller in a minute (3,000), so one client
    /// cannot starve the others. Payments that settle do not count.
    fn default() -> Self {
        Self {
            per_minute: 60,
            burst: 60,
        }
    }
}

impl ClientLimit {
    /// After how long one unsuccessful payment no longer counts.
    fn interval(self) -> Duration {
        Duration::from_secs(60) / self.per_minute.max(1)
    }

    /// How far ahead of now a bucket's time may be.
    fn tolerance(self) -> Duration {
        self.interval() * self.burst.max(1)
    }
}

/// The clients' buckets. Each is stored as the time at which it will be full again (the generic
/// cell rate algorithm).
#[derive(Default)]
pub(crate) struct ClientLimiter {
    full_at: Mutex<HashMap<u64, Instant>>,
    secret: RandomState,
    /// Whether the warning about unknown addresses was logged.
    warned: AtomicBool,
}

/// A presented payment. It counts against its client unless it settles.
pub(crate) struct CountedAttempt {
    clients: Arc<ClientLimiter>,
    limit: ClientLimit,
    /// `None` if clients are not counted.
    bucket: Option<u64>,
    state: AttemptState,
}

/// The progress of a presented payment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AttemptState {
    /// The facilitator verifies the payment, which counts.
    Presented,
    /// The payment was verified. It does not count during the sale, so that a client may have many
    /// sales at once. It counts again if the sale ends without settlement.
    Verified,
    /// The payment has settled and does not count.
    Settled,
}

impl ClientLimiter {
    /// Counts a payment before the facilitator verifies it.
    ///
    /// # Errors
    /// When the client is over its limit: how long it has to wait.
    pub(crate) fn present(
        self: &Arc<Self>,
        limit: ClientLimit,
        client: Option<IpAddr>,
    ) -> Result<CountedAttempt, Duration> {
        let bucket = match (limit.per_minute, client) {
            (0, _) | (_, None) => None,
            (_, Some(address)) => Some(self.secret.hash_one(subscriber(address)) % BUCKETS),
        };
        if let Some(bucket) = bucket {
            self.take(limit, bucket)?;
        }
        Ok(CountedAttempt {
            clients: Arc::clone(self),
            limit,
            bucket,
            state: AttemptState::Presented,
        })
    }

    /// Logs a warning, once, if clients should be limited and this client's address is unknown.
    pub(crate) fn check_address(&self, limit: ClientLimit, client: Option<IpAddr>) {
        if limit.per_minute > 0 && client.is_none() && !self.warned.swap(true, Ordering::Relaxed) {
            warn!(
                "the clients' addresses are unknown, so their unsuccessful payments are not limited: \
                 serve with `into_make_service_with_connect_info::<SocketAddr>()`, and give \
                 `PaymentLayer::clients` the number of proxies that append to X-Forwarded-For"
            );
        }
    }

    fn take(&self, limit: ClientLimit, bucket: u64) -> Result<(), Duration> {
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

    /// Counts one more, without a limit: a sale that has failed cannot be refused.
    fn charge(&self, limit: ClientLimit, bucket: u64) {
        let now = Instant::now();
        self.change(bucket, |full_at| {
            *full_at = (*full_at).max(now) + limit.interval();
        });
    }

    fn give_back(&self, limit: ClientLimit, bucket: u64) {
        self.change(bucket, |full_at| {
            *full_at = full_at.checked_sub(limit.interval()).unwrap_or(*full_at);
        });
    }

    fn change<T>(&self, bucket: u64, change: impl FnOnce(&mut Instant) -> T) -> T {
        // Each change is one assignment, so a panic of another task leaves the map consistent.
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        change(full_at.entry(bucket).or_insert_with(Instant::now))
    }
}

impl CountedAttempt {
    /// Records that the payment was verified.
    pub(crate) fn verified(&mut self) {
        if let (AttemptState::Presented, Some(bucket)) = (self.state, self.bucket) {
            self.clients.give_back(self.limit, bucket);
        }
        self.state = AttemptState::Verified;
    }

    /// Records that the payment has settled.
    pub(crate) fn settled(&mut self) {
        self.verified();
        self.state = AttemptState::Settled;
    }
}

impl Drop for CountedAttempt {
    fn drop(&mut self) {
        if let (AttemptState::Verified, Some(bucket)) = (self.state, self.bucket) {
            self.clients.charge(self.limit, bucket);
        }
    }
}

/// The addresses of one subscriber, as one value: an IPv4 address, or an IPv6 network of 64 bits.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const LIMIT: ClientLimit = ClientLimit {
        per_minute: 60,
        burst: 3,
    };

    fn client(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    #[tokio::test(start_paused = true)]
    async fn client_over_its_limit_waits_and_others_do_not() {
        let clients = Arc::new(ClientLimiter::default());
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
    async fn only_unsettled_sales_count_against_the_client() {
        let clients = Arc::new(ClientLimiter::default());
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
    async fn clients_without_limit_or_address_are_not_counted() {
        let clients = Arc::new(ClientLimiter::default());
        let unlimited = ClientLimit {
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
    async fn any_number_of_addresses_takes_bounded_memory() {
        let clients = Arc::new(ClientLimiter::default());
        for bits in 0..2 * u32::try_from(BUCKETS).unwrap() {
            let address = std::net::Ipv4Addr::from_bits(bits).into();
            let _ = clients.present(LIMIT, Some(address));
        }
        assert!(clients.full_at.lock().unwrap().len() as u64 <= BUCKETS);
    }

    #[test]
    fn addresses_of_one_subscriber_are_one_client() {
        let of = |text: &str| subscriber(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
