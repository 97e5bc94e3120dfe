//! How often each caller may ask.

use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};

use crate::client_address::ClientAddress;

/// How many buckets all addresses together have, so that whoever has many addresses cannot fill the memory: each takes
/// some hundred bytes. Addresses that meet in one bucket share it; which do, nobody outside can know.
const ADDRESSES: u64 = 1 << 16;

/// How many times as much as one /64 a whole /48 of IPv6 may ask. Providers give one subscriber up to a /48, which is 65,536
/// times a /64.
const SITE_SHARE: u32 = 2;

/// How often one caller may ask: a bucket that holds `burst` requests and fills by `per_minute`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests a minute in the long run.
    pub per_minute: NonZeroU32,
    /// Requests at once, after a pause.
    pub burst: NonZeroU32,
}

impl Rate {
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

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// Who showed this of the keys.
    Key(usize),
    /// Somebody at this address.
    Peer(ClientAddress),
}

/// What a request is counted as. Each kind has a bucket of its own for every caller: a seller asks /verify for all of its
/// clients, so one client without money can use up that bucket, and /settle must not be refused for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Budget {
    /// `POST /verify`.
    Verify,
    /// `POST /settle`.
    Settle,
    /// What needs a key besides, where there are keys.
    Lookup,
    /// What needs no key, and paths that do not exist.
    Open,
}

/// The callers' buckets. `None` where there is no limit.
pub(crate) struct Rates {
    keys: Option<DefaultKeyedRateLimiter<(Budget, usize)>>,
    addresses: Option<Addresses>,
}

struct Addresses {
    networks: DefaultKeyedRateLimiter<u64>,
    sites: DefaultKeyedRateLimiter<u64>,
    secret: RandomState,
}

impl Rates {
    pub(crate) fn new(addresses: Option<Rate>, keys: Option<Rate>) -> Self {
        let addresses = addresses.map(|rate| Addresses {
            networks: DefaultKeyedRateLimiter::dashmap(rate.quota()),
            sites: DefaultKeyedRateLimiter::dashmap(rate.of_site().quota()),
            secret: RandomState::new(),
        });
        let keys = keys.map(|rate| DefaultKeyedRateLimiter::dashmap(rate.quota()));
        Self { keys, addresses }
    }

    /// Takes one request from the caller's bucket of this kind.
    ///
    /// # Errors
    /// How long until there is one in it.
    pub(crate) fn take(&self, caller: Caller, budget: Budget) -> Result<(), Duration> {
        match (caller, &self.keys, &self.addresses) {
            (Caller::Key(at), Some(keys), _) => take(keys, &(budget, at)),
            (Caller::Peer(peer), _, Some(addresses)) => addresses.take(peer, budget),
            _ => Ok(()),
        }
    }
}

impl Addresses {
    fn take(&self, peer: ClientAddress, budget: Budget) -> Result<(), Duration> {
        let bucket = |peer: ClientAddress| self.secret.hash_one((budget, peer)) % ADDRESSES;
        take(&self.networks, &bucket(peer))?;
        match peer.site() {
            Some(site) => take(&self.sites, &bucket(site)),
            None => Ok(()),
        }
    }
}

fn take<K: Hash + Eq + Clone>(
    buckets: &DefaultKeyedRateLimiter<K>,
    bucket: &K,
) -> Result<(), Duration> {
    buckets
        .check_key(bucket)
        .map_err(|until| until.wait_time_from(DefaultClock::default().now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(per_minute: u32, burst: u32) -> Rates {
        let rate = Rate {
            per_minute: NonZeroU32::new(per_minute).unwrap(),
            burst: NonZeroU32::new(burst).unwrap(),
        };
        Rates::new(Some(rate), Some(rate))
    }

    fn peer(text: &str) -> Caller {
        Caller::Peer(ClientAddress::new(text.parse().unwrap()))
    }

    #[test]
    fn each_caller_has_a_bucket_of_its_own_and_is_told_how_long_to_wait() {
        let rates = rates(1, 2);
        for caller in [Caller::Key(0), Caller::Key(1), peer("192.0.2.1")] {
            assert_eq!(rates.take(caller, Budget::Verify), Ok(()));
            assert_eq!(rates.take(caller, Budget::Verify), Ok(()));
            let wait = rates.take(caller, Budget::Verify).unwrap_err();
            assert!(wait > Duration::ZERO && wait <= Duration::from_secs(60));
        }
    }

    #[test]
    fn each_kind_of_request_has_a_bucket_of_its_own() {
        let rates = rates(1, 1);
        for caller in [Caller::Key(0), peer("192.0.2.1")] {
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
        let both = Rates::new(Some(rate(2)), Some(rate(4)));
        assert_eq!(passed(&both, Caller::Key(0)), 4);
        assert_eq!(passed(&both, peer("192.0.2.1")), 2);
        let keys_alone = Rates::new(None, Some(rate(4)));
        assert_eq!(passed(&keys_alone, Caller::Key(0)), 4);
        assert_eq!(passed(&keys_alone, peer("192.0.2.1")), 9);
    }

    #[test]
    fn a_site_of_ipv6_asks_no_more_than_twice_as_often_as_one_network() {
        let rates = rates(1, 3);
        let asked = (0..50).map(|at| peer(&format!("2001:db8:1:{at:x}::1")));
        let passed = asked.filter(|caller| rates.take(*caller, Budget::Verify).is_ok());
        assert_eq!(passed.count(), 6);
        assert_eq!(rates.take(peer("2001:db8:2::1"), Budget::Verify), Ok(()));
    }

    #[test]
    fn addresses_without_end_take_memory_with_an_end() {
        let rates = rates(1, 1);
        for bits in 0..3 * u32::try_from(ADDRESSES).unwrap() {
            let address = std::net::Ipv4Addr::from_bits(bits).into();
            let _ = rates.take(Caller::Peer(ClientAddress::new(address)), Budget::Verify);
        }
        let addresses = rates.addresses.unwrap();
        assert!(addresses.networks.len() as u64 <= ADDRESSES);
    }
}
