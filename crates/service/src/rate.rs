//! Rate limits for callers.
//!
//! Replicas of one journal share each limit: a request takes as many places from the caller's
//! bucket as there are replicas. That needs no round trip. A caller whose requests all reach one
//! replica gets its share of the limit only.

use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};

use crate::client_address::ClientAddress;

/// The number of buckets for all addresses together. Each needs about a hundred bytes, so a caller
/// with many addresses cannot fill the memory. Addresses with the same hash share a bucket; the
/// hash is keyed with a secret, so a caller cannot choose them.
const ADDRESSES: u64 = 1 << 16;

/// The rate of an IPv6 /48 as a multiple of the rate of a /64. Providers give one subscriber up to
/// a /48, which contains 65,536 times a /64.
const SITE_SHARE: u32 = 2;

/// The rate of a caller: a bucket that holds `burst` requests and is refilled by `per_minute`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rate {
    /// The average number of requests per minute.
    pub per_minute: NonZeroU32,
    /// The number of requests that can follow a pause at once.
    pub burst: NonZeroU32,
}

impl Rate {
    /// A rate.
    pub fn new(per_minute: NonZeroU32, burst: NonZeroU32) -> Self {
        Self { per_minute, burst }
    }

    fn quota(self) -> Quota {
        Quota::per_minute(self.per_minute).allow_burst(self.burst)
    }

    fn of_site(self) -> Self {
        let larger = |number: NonZeroU32| number.saturating_mul(site_share());
        Self {
            per_minute: larger(self.per_minute),
            burst: larger(self.burst),
        }
    }
}

fn site_share() -> NonZeroU32 {
    NonZeroU32::new(SITE_SHARE).expect("a constant that is not 0")
}

/// A caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// The caller with this key, by its position.
    Key(usize),
    /// A caller without a key, by its address.
    Address(ClientAddress),
}

/// The kind of a request. Each caller has a bucket for each kind. A seller sends /verify for all of
/// its clients, so a client without money can empty that bucket. /settle must still be accepted
/// then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Budget {
    /// `POST /verify`.
    Verify,
    /// `POST /settle`, and refunds.
    Settle,
    /// The other paths that need a key, if there are keys.
    Lookup,
    /// Paths that need no key, and unknown paths.
    Open,
}

/// The callers' buckets. `None` for no limit.
pub(crate) struct Rates {
    keys: Option<Buckets<(Budget, usize)>>,
    addresses: Option<Addresses>,
    members: Members,
}

/// How many replicas share the limits now.
type Members = Arc<dyn Fn() -> usize + Send + Sync>;

struct Addresses {
    networks: Buckets<u64>,
    sites: Buckets<u64>,
    secret: RandomState,
}

impl Rates {
    /// Limits that as many replicas share as `members` says.
    pub(crate) fn new(addresses: Option<Rate>, keys: Option<Rate>, members: Members) -> Self {
        let addresses = addresses.map(|rate| Addresses {
            networks: Buckets::new(rate),
            sites: Buckets::new(rate.of_site()),
            secret: RandomState::new(),
        });
        Self {
            keys: keys.map(Buckets::new),
            addresses,
            members,
        }
    }

    /// Takes one request from the caller's bucket of this kind.
    ///
    /// # Errors
    /// How long to wait until the bucket holds a request.
    pub(crate) fn take(&self, caller: Caller, budget: Budget) -> Result<(), Duration> {
        let members = u32::try_from((self.members)()).unwrap_or(u32::MAX);
        let members = NonZeroU32::new(members).unwrap_or(NonZeroU32::MIN);
        match (caller, &self.keys, &self.addresses) {
            (Caller::Key(at), Some(keys), _) => keys.take(&(budget, at), members),
            (Caller::Address(address), _, Some(addresses)) => {
                addresses.take(address, budget, members)
            }
            _ => Ok(()),
        }
    }
}

impl Addresses {
    fn take(
        &self,
        address: ClientAddress,
        budget: Budget,
        members: NonZeroU32,
    ) -> Result<(), Duration> {
        let bucket = |address: ClientAddress| self.secret.hash_one((budget, address)) % ADDRESSES;
        self.networks.take(&bucket(address), members)?;
        match address.site() {
            Some(site) => self.sites.take(&bucket(site), members),
            None => Ok(()),
        }
    }
}

/// The buckets of many callers.
struct Buckets<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    burst: NonZeroU32,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn new(rate: Rate) -> Self {
        Self {
            limiter: DefaultKeyedRateLimiter::dashmap(rate.quota()),
            burst: rate.burst,
        }
    }

    /// Takes a place for each of the members, but never more than a full bucket has.
    fn take(&self, bucket: &K, members: NonZeroU32) -> Result<(), Duration> {
        let places = members.min(self.burst);
        match self.limiter.check_key_n(bucket, places) {
            Ok(taken) => taken.map_err(|until| until.wait_time_from(DefaultClock::default().now())),
            // Not with fewer places than the bucket has.
            Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(per_minute: u32, burst: u32) -> Rates {
        let rate = Rate {
            per_minute: NonZeroU32::new(per_minute).unwrap(),
            burst: NonZeroU32::new(burst).unwrap(),
        };
        Rates::new(Some(rate), Some(rate), Arc::new(|| 1))
    }

    fn address(text: &str) -> Caller {
        Caller::Address(ClientAddress::new(text.parse().unwrap()))
    }

    #[test]
    fn each_caller_has_its_own_bucket_and_gets_its_wait() {
        let rates = rates(1, 2);
        for caller in [Caller::Key(0), Caller::Key(1), address("192.0.2.1")] {
            assert_eq!(rates.take(caller, Budget::Verify), Ok(()));
            assert_eq!(rates.take(caller, Budget::Verify), Ok(()));
            let wait = rates.take(caller, Budget::Verify).unwrap_err();
            assert!(wait > Duration::ZERO && wait <= Duration::from_secs(60));
        }
    }

    #[test]
    fn each_kind_of_request_has_a_bucket_of_its_own() {
        let rates = rates(1, 1);
        for caller in [Caller::Key(0), address("192.0.2.1")] {
            for budget in [Budget::Verify, Budget::Settle, Budget::Lookup, Budget::Open] {
                assert_eq!(rates.take(caller, budget), Ok(()), "{budget:?}");
                assert!(rates.take(caller, budget).is_err(), "{budget:?}");
            }
        }
    }

    #[test]
    fn keys_and_addresses_have_limits_of_their_own() {
        let rate = |burst| Rate {
            per_minute: NonZeroU32::MIN,
            burst: NonZeroU32::new(burst).unwrap(),
        };
        let passed = |rates: &Rates, caller| {
            let takes = (0..9).filter(|_| rates.take(caller, Budget::Verify).is_ok());
            takes.count()
        };
        let both = Rates::new(Some(rate(2)), Some(rate(4)), Arc::new(|| 1));
        assert_eq!(passed(&both, Caller::Key(0)), 4);
        assert_eq!(passed(&both, address("192.0.2.1")), 2);
        let keys_alone = Rates::new(None, Some(rate(4)), Arc::new(|| 1));
        assert_eq!(passed(&keys_alone, Caller::Key(0)), 4);
        assert_eq!(passed(&keys_alone, address("192.0.2.1")), 9);
    }

    /// With three replicas, each grants a third; and one request passes, however many there are.
    #[test]
    fn replicas_share_the_rate_of_a_caller() {
        for (members, burst, expected) in [(1, 9, 9), (2, 9, 4), (3, 9, 3), (5, 2, 1), (0, 9, 9)] {
            let rate = Rate {
                per_minute: NonZeroU32::MIN,
                burst: NonZeroU32::new(burst).unwrap(),
            };
            let rates = Rates::new(Some(rate), Some(rate), Arc::new(move || members));
            for caller in [Caller::Key(0), address("192.0.2.1")] {
                let passed = (0..20).filter(|_| rates.take(caller, Budget::Verify).is_ok());
                assert_eq!(passed.count(), expected, "{members} replicas");
            }
        }
    }

    #[test]
    fn a_site_of_ipv6_has_twice_the_rate_of_a_network() {
        let rates = rates(1, 3);
        let asked = (0..50).map(|at| address(&format!("2001:db8:1:{at:x}::1")));
        let passed = asked.filter(|caller| rates.take(*caller, Budget::Verify).is_ok());
        assert_eq!(passed.count(), 6);
        assert_eq!(rates.take(address("2001:db8:2::1"), Budget::Verify), Ok(()));
    }

    #[test]
    fn any_number_of_addresses_needs_bounded_memory() {
        let rates = rates(1, 1);
        for bits in 0..3 * u32::try_from(ADDRESSES).unwrap() {
            let address = std::net::Ipv4Addr::from_bits(bits).into();
            let _ = rates.take(Caller::Address(ClientAddress::new(address)), Budget::Verify);
        }
        let addresses = rates.addresses.unwrap();
        assert!(addresses.networks.limiter.len() as u64 <= ADDRESSES);
    }
}
