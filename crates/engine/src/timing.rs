//! How long the engine waits before it acts on a sent transaction.

use std::time::Duration;

/// How long the engine waits before it acts on a sent transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// The longest pause between two looks at the sent transactions.
    pub look_every: Duration,
    /// How long before the same bytes are sent again.
    pub resubmit_after: Duration,
    /// How long before a lane's first transaction is replaced by one with a higher fee, and again
    /// before each further replacement.
    pub replace_after: Duration,
    /// How long every look must find a transaction dropped before it counts as dropped.
    pub gone_for: Duration,
    /// The pause between two sweeps. A sweep searches for gaps in a lane's sequence numbers, open
    /// settlements that no task works on, and settled payments that the chain took back. A settled
    /// payment is looked at after this time, and then ever less often until it is final.
    pub sweep_every: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            // Half the time between blocks of a fast chain.
            look_every: Duration::from_secs(1),
            // Nodes rarely lose a transaction, and sending it again is cheap.
            resubmit_after: Duration::from_secs(5),
            // Slow chains need twelve seconds for a block. Two full blocks do not justify a higher fee.
            replace_after: Duration::from_secs(30),
            // The nodes behind one URL may be a few blocks apart.
            gone_for: Duration::from_secs(5),
            // A sweep finds nothing unless something went wrong.
            sweep_every: Duration::from_secs(15),
        }
    }
}
