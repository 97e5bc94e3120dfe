//! The moment at which a call must be over.

use std::time::Duration;

use tokio::time::Instant;

/// The distance of "no deadline": thirty years. The clock cannot add the longest durations.
const NO_DEADLINE: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The moment at which a call must be over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Self {
        Self(Instant::now() + timeout.min(NO_DEADLINE))
    }

    pub(crate) fn at(self) -> Instant {
        self.0
    }

    /// The time that is left.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest duration, which callers write for "no limit", overflowed the clock and panicked
    /// at every call.
    #[tokio::test]
    async fn the_longest_timeouts_do_not_overflow() {
        for timeout in [
            Duration::MAX,
            Duration::from_secs(u64::MAX / 2),
            NO_DEADLINE,
        ] {
            assert!(Deadline::after(timeout).left() > NO_DEADLINE / 2);
        }
    }
}
