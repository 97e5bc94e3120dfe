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

/// What the service bears. Beyond it callers get a clear refusal.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceLimits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one address: an IPv4 address or a /64 of IPv6. A /48 may have twice as many.
    pub connections_per_address: usize,
    /// Payments that are worked on at once, by /verify and /settle. Waiting for a settlement does not count.
    pub requests: usize,
    /// Calls of /settle at once, those that only wait for their settlement included.
    pub waiting: usize,
    /// How long a new client may take to send its first request's headers, in seconds.
    pub header_secs: u64,
    /// How long a connection may stay without a request, in seconds.
    pub idle_secs: u64,
    /// How long a request's body may take to arrive, in seconds.
    pub body_secs: u64,
    /// How long a request may take beyond `settle_wait_secs`, its body included, in seconds.
    pub request_secs: u64,
    /// Requests a minute from one address without a key in the long run; 0 for as many as it likes. /verify, /settle and
    /// everything else count apart, here and below.
    pub per_minute: u32,
    /// Requests at once from one address without a key, after a pause.
    pub burst: u32,
    /// Requests a minute from one key in the long run; 0 for as many as it likes.
    pub key_per_minute: u32,
    /// Requests at once from one key, after a pause.
    pub key_burst: u32,
    /// How many proxies stand in front whose `X-Forwarded-For` is believed.
    pub proxies: usize,
    /// How many transactions may fail in an hour for one payer on one network before it is not served any more; 0 for any
    /// number.
    pub failed_per_payer: u32,
    /// As `failed_per_payer`, for one recipient.
    pub failed_per_recipient: u32,
}

impl ServiceLimits {
    /// How many transactions may fail for one payer or recipient.
    pub fn failures(&self) -> FailureLimits {
        FailureLimits::new(self.failed_per_payer, self.failed_per_recipient)
    }

    /// How often one address may ask that shows no key; `None` for as often as it likes.
    pub fn rate(&self) -> Option<Rate> {
        Some(Rate {
            per_minute: NonZeroU32::new(self.per_minute)?,
            burst: NonZeroU32::new(self.burst)?,
        })
    }

    /// How often one key may ask; `None` for as often as it likes.
    pub fn key_rate(&self) -> Option<Rate> {
        Some(Rate {
            per_minute: NonZeroU32::new(self.key_per_minute)?,
            burst: NonZeroU32::new(self.key_burst)?,
        })
    }
}

impl Default for ServiceLimits {
    fn default() -> Self {
        let failures = FailureLimits::default();
        Self {
            // Each costs some 10 KiB while idle.
            connections: 4096,
            // One seller at its full rate, with each payment on a connection of its own; and it takes eight addresses to
            // fill the house.
            connections_per_address: 512,
            // Each takes some milliseconds of signatures and a round trip to a node, so this is thousands a second; each
            // holds one request of at most 64 KiB.
            requests: 2048,
            // As many as wait for a block on a busy chain: 400 a second for 20 seconds. At most half a GiB of requests.
            waiting: 8192,
            // A request's headers are under a kilobyte: whoever needs longer is not a client.
            header_secs: 10,
            // Sellers ask twice a payment: a connection that waits for the next one saves them a round trip or three.
            idle_secs: 60,
            // 64 KiB in ten seconds is a telephone line.
            body_secs: 10,
            request_secs: 15,
            // One address alone cannot fill `waiting`, even when each of its payments waits 20 seconds for a block.
            per_minute: 3000,
            burst: 200,
            // A key is a party that the operator knows: a seller that asks for all of its buyers, 500 a second.
            key_per_minute: 30_000,
            key_burst: 2000,
            proxies: 0,
            failed_per_payer: failures.per_payer,
            failed_per_recipient: failures.per_recipient,
        }
    }
}
