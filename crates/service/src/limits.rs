//! How much the service accepts.

use std::num::NonZeroU32;
use std::time::Duration;

use quittance_engine::FailureLimits;
use serde::Deserialize;

use crate::rate::Rate;

/// The longest time that any wait may be configured to take. No client waits for an hour, and the
/// sum of a few of these never leaves the clock's range.
pub const WAIT_MAX: Duration = Duration::from_secs(3600);

/// How long a stop waits for requests in progress by default: longer than a settlement waits for a
/// block of most chains.
pub const DRAIN: Duration = Duration::from_secs(30);

/// How much the service accepts. Beyond a limit, callers get an error response.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ServiceLimits {
    /// The number of concurrent connections.
    pub connections: usize,
    /// The number of concurrent connections from one address: an IPv4 address or an IPv6 /64. A /48
    /// can have twice as many.
    pub connections_per_address: usize,
    /// The number of payments that are processed concurrently by `/verify` and `/settle`. Waiting
    /// for a settlement does not count.
    pub requests: usize,
    /// The number of concurrent `/settle` requests, those that wait for their settlement included.
    pub waiting: usize,
    /// The number of concurrent streams of `GET /events`. No caller can have more than are free, so
    /// a single one gets half of them.
    pub streams: usize,
    /// The time limit for the headers of the first request on a connection, in seconds.
    pub header_secs: u64,
    /// How long a connection can stay open without a request, in seconds.
    pub idle_secs: u64,
    /// The time limit for a request's body, in seconds.
    pub body_secs: u64,
    /// The time limit for a request beyond `settle_wait_secs`, its body included, in seconds.
    pub request_secs: u64,
    /// The average number of requests per minute from one address without a key; 0 for no limit.
    /// `/verify`, `/settle` and all other paths count separately, here and below.
    pub per_minute: u32,
    /// The number of requests from one address without a key that can follow a pause at once.
    pub burst: u32,
    /// The average number of requests per minute with one key; 0 for no limit.
    pub key_per_minute: u32,
    /// The number of requests with one key that can follow a pause at once.
    pub key_burst: u32,
    /// The number of proxies in front of the service whose `X-Forwarded-For` is trusted.
    pub proxies: usize,
    /// The number of failed transactions in an hour after which a payer is rejected on a network; 0
    /// for no limit.
    pub failed_per_payer: u32,
    /// As `failed_per_payer`, for one recipient.
    pub failed_per_recipient: u32,
}

impl ServiceLimits {
    /// The limits for failed transactions.
    pub fn failures(&self) -> FailureLimits {
        FailureLimits::new(self.failed_per_payer, self.failed_per_recipient)
    }

    /// The rate of an address without a key; `None` for no limit.
    pub fn rate(&self) -> Option<Rate> {
        Some(Rate::new(
            NonZeroU32::new(self.per_minute)?,
            NonZeroU32::new(self.burst)?,
        ))
    }

    /// The rate of a key; `None` for no limit.
    pub fn key_rate(&self) -> Option<Rate> {
        Some(Rate::new(
            NonZeroU32::new(self.key_per_minute)?,
            NonZeroU32::new(self.key_burst)?,
        ))
    }
}

impl Default for ServiceLimits {
    fn default() -> Self {
        let failures = FailureLimits::default();
        Self {
            // An idle connection needs about 10 KiB.
            connections: 4096,
            // Enough for one seller at its full rate with a connection for each payment. Eight
            // addresses are needed to use all connections.
            connections_per_address: 512,
            // A payment needs a few milliseconds for signatures and a round trip to a node, so this
            // is thousands a second. Each holds a request of at most 64 KiB.
            requests: 2048,
            // 400 payments a second that wait 20 seconds for a block; at most half a GiB of
            // requests.
            waiting: 8192,
            // A seller needs one for each of its processes. Each reads the journal at most twenty
            // times a second.
            streams: 256,
            // The headers of a request have less than a kilobyte; a slower client is not a real
            // one.
            header_secs: 10,
            // Sellers send two requests for each payment. An open connection saves them up to three
            // round trips.
            idle_secs: 60,
            // 64 KiB in ten seconds is the speed of a telephone line.
            body_secs: 10,
            request_secs: 15,
            // One address cannot use all of `waiting`, even if each payment waits 20 seconds for a
            // block.
            per_minute: 3000,
            burst: 200,
            // A key belongs to a known party: a seller with 500 requests a second for all of its
            // buyers.
            key_per_minute: 30_000,
            key_burst: 2000,
            proxies: 0,
            failed_per_payer: failures.per_payer,
            failed_per_recipient: failures.per_recipient,
        }
    }
}
