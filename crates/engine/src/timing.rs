//! How long the engine waits before it acts on a sent transaction.

use std::time::Duration;

/// How long the engine waits before it acts on a sent transaction.
///
/// ```
/// use std::time::Duration;
/// use quittance_engine::Timing;
///
/// let timing = Timing::new().with_replace_after(Duration::from_secs(15));
/// assert_eq!(timing.look_every, Duration::from_secs(1));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timing {
    /// The longest pause between two checks of the sent transactions.
    pub look_every: Duration,
    /// How long before the same bytes are sent again.
    pub resubmit_after: Duration,
    /// How long before a lane's first transaction is replaced by one with a higher fee, and again
    /// before each further replacement.
    pub replace_after: Duration,
    /// How long every look must find a transaction dropped before it counts as dropped.
    pub dropped_after: Duration,
    /// The pause between two sweeps. A sweep searches for gaps in a lane's sequence numbers, open
    /// settlements that no task works on, and settled payments that the chain took back. A settled
    /// payment is checked after this time, and then less and less often until it is final.
    pub sweep_every: Duration,
    /// How long this process may act after the last renewal of its membership in the journal. A
    /// process that is killed, paused or cut off loses its work to other replicas after this time.
    pub lease: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self::new()
    }
}

impl Timing {
    /// The default times.
    pub const fn new() -> Self {
        Self {
            // Half the time between blocks of a fast chain.
            look_every: Duration::from_secs(1),
            // Nodes rarely lose a transaction, and sending it again is cheap.
            resubmit_after: Duration::from_secs(5),
            // Slow chains need twelve seconds for a block. Two full blocks do not justify a higher
            // fee.
            replace_after: Duration::from_secs(30),
            // The nodes behind one URL may be a few blocks apart.
            dropped_after: Duration::from_secs(5),
            // A sweep finds nothing unless something went wrong.
            sweep_every: Duration::from_secs(15),
            // A database that fails over is back in a few seconds, and callers wait for twenty.
            lease: Duration::from_secs(10),
        }
    }

    /// Sets [`look_every`](Self::look_every).
    #[must_use]
    pub const fn with_look_every(mut self, pause: Duration) -> Self {
        self.look_every = pause;
        self
    }

    /// Sets [`resubmit_after`](Self::resubmit_after).
    #[must_use]
    pub const fn with_resubmit_after(mut self, wait: Duration) -> Self {
        self.resubmit_after = wait;
        self
    }

    /// Sets [`replace_after`](Self::replace_after).
    #[must_use]
    pub const fn with_replace_after(mut self, wait: Duration) -> Self {
        self.replace_after = wait;
        self
    }

    /// Sets [`dropped_after`](Self::dropped_after).
    #[must_use]
    pub const fn with_dropped_after(mut self, wait: Duration) -> Self {
        self.dropped_after = wait;
        self
    }

    /// Sets [`sweep_every`](Self::sweep_every).
    #[must_use]
    pub const fn with_sweep_every(mut self, pause: Duration) -> Self {
        self.sweep_every = pause;
        self
    }

    /// Sets [`lease`](Self::lease).
    #[must_use]
    pub const fn with_lease(mut self, duration: Duration) -> Self {
        self.lease = duration;
        self
    }
}
