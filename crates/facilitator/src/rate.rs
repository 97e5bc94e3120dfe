//! How often each caller may ask.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};

use crate::peer::Peer;

/// How many buckets all addresses together have, so that whoever has many addresses cannot fill the memory: each takes
/// some hundred bytes. Addresses that meet in one bucket share it; which do, nobody outside can know.
const ADDRESSES: u64 = 1 << 16;

/// How often one caller may ask: a bucket that holds `burst` requests and fills by `per_minute`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests a minute in the long run.
    pub per_minute: NonZeroU32,
    /// Requests at once, after a pause.
    pub burst: NonZeroU32,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Who showed this of the keys.
    Key(usize),
    /// Somebody at this address.
    Peer(Peer),
}

/// Which bucket a caller takes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Bucket {
    Key(usize),
    Address(u64),
}

/// The callers' buckets.
pub(crate) struct Rates {
    buckets: DefaultKeyedRateLimiter<Bucket>,
    secret: RandomState,
}

impl Rates {
    pub(crate) fn new(rate: Rate) -> Self {
        let quota = Quota::per_minute(rate.per_minute).allow_burst(rate.burst);
        Self {
            buckets: DefaultKeyedRateLimiter::dashmap(quota),
            secret: RandomState::new(),
        }
    }

    /// Takes one request from the caller's bucket.
    ///
    /// # Errors
    /// How long until there is one in it.
    pub(crate) fn take(&self, caller: Caller) -> Result<(), Duration> {
        let bucket = match caller {
            Caller::Key(at) => Bucket::Key(at),
            Caller::Peer(peer) => Bucket::Address(self.secret.hash_one(peer) % ADDRESSES),
        };
        self.buckets
            .check_key(&bucket)
            .map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(per_minute: u32, burst: u32) -> Rates {
        Rates::new(Rate {
            per_minute: NonZeroU32::new(per_minute).unwrap(),
            burst: NonZeroU32::new(burst).unwrap(),
        })
    }

    #[test]
    fn each_caller_has_a_bucket_of_its_own_and_is_told_how_long_to_wait() {
        let rates = rates(1, 2);
        for caller in [Caller::Key(0), Caller::Key(1)] {
            assert_eq!(rates.take(caller), Ok(()));
            assert_eq!(rates.take(caller), Ok(()));
            let wait = rates.take(caller).unwrap_err();
            assert!(wait > Duration::ZERO && wait <= Duration::from_secs(60));
        }
    }

    #[test]
    fn addresses_without_end_take_memory_with_an_end() {
        let rates = rates(1, 1);
        for bits in 0..3 * u32::try_from(ADDRESSES).unwrap() {
            let address = std::net::Ipv4Addr::from_bits(bits).into();
            let _ = rates.take(Caller::Peer(Peer::of(address)));
        }
        assert!(rates.buckets.len() as u64 <= ADDRESSES);
    }
}
