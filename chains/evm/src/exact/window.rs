//! The time in which an authorization is valid.

use std::time::Duration;

use alloy::primitives::U256;
use quittance_core::{Reason, Rejection, Timestamp};

/// The longest remaining lifetime of an authorization, in seconds. A payment takes minutes. An
/// authorization that is valid for years would have to be remembered for years.
pub(crate) const LIFETIME_MAX_SECS: u64 = 7 * 24 * 3600;

/// How much later than both clocks `validAfter` may be, in seconds. Clocks of wallets are wrong by
/// as much, so the engine waits for such a payment.
const NOT_YET_MAX_SECS: u64 = 15;

/// The block times at which an authorization can be used, in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    /// The time of the block must be later than this.
    pub(crate) valid_after: U256,
    /// The time of the block must be earlier than this.
    pub(crate) valid_before: U256,
    /// The reason code for an authorization that is not valid yet.
    pub(crate) not_yet: Reason,
    /// The reason code for one that has expired, is about to expire, or is valid for too long.
    pub(crate) expired: Reason,
}

impl Window {
    /// The window until `end`, if that is earlier. `expired` is the reason code then.
    pub(crate) fn until(self, end: U256, expired: Reason) -> Self {
        if end >= self.valid_before {
            return self;
        }
        Self {
            valid_before: end,
            expired,
            ..self
        }
    }

    /// Checks that the authorization is valid now or soon, and for `remaining_min` seconds more, by
    /// the stricter of our clock and the chain's.
    pub(crate) fn check(
        &self,
        now: Timestamp,
        chain: Timestamp,
        remaining_min: u64,
    ) -> Result<(), Rejection> {
        let Self {
            valid_after,
            valid_before,
            ..
        } = self;
        let later = now.max(chain);
        let seconds = |moment: Timestamp| U256::from(moment.secs());
        if *valid_before < seconds(later.plus_secs(remaining_min)) {
            let detail = format!(
                "the authorization is valid before {valid_before}, and the time is {later}: at least {remaining_min} seconds must be left"
            );
            return Err(Rejection::new(self.expired.clone(), detail));
        }
        if *valid_before > seconds(later.plus_secs(LIFETIME_MAX_SECS)) {
            let detail = format!(
                "the authorization is valid for more than {LIFETIME_MAX_SECS} seconds: sign an earlier end"
            );
            return Err(Rejection::new(self.expired.clone(), detail));
        }
        // If the authorization becomes valid sooner, the engine waits for it.
        if *valid_after > seconds(later.plus_secs(NOT_YET_MAX_SECS)) {
            let detail =
                format!("the authorization is valid after {valid_after}, and the time is {later}");
            return Err(Rejection::new(self.not_yet.clone(), detail));
        }
        Ok(())
    }

    /// The time until the authorization becomes valid, zero for the next block; `None` if it is
    /// valid. A block later than `validAfter` is needed, and many wallets sign their present time.
    pub(crate) fn opens_in(&self, now: Timestamp, chain: Timestamp) -> Option<Duration> {
        let valid_after = u64::try_from(self.valid_after).unwrap_or(u64::MAX);
        let opens = Timestamp::from_secs(valid_after).plus_secs(1);
        (opens > chain).then(|| Duration::from_secs(opens.secs_since(now)))
    }

    /// Whether a rejection by this window may end with time.
    pub(crate) fn decides(&self, rejection: &Rejection) -> bool {
        rejection.reason == self.not_yet || rejection.reason == self.expired
    }
}
