//! What the chain says that a transaction did.

use alloy::primitives::{Address, Log};

/// The outcome of an included transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evidence {
    /// Whether the transaction as a whole did not revert.
    pub succeeded: bool,
    /// The logs of all contracts, in order.
    pub logs: Vec<Log>,
}

impl Evidence {
    /// The outcome of a transaction with these logs.
    pub fn new(succeeded: bool, logs: Vec<Log>) -> Self {
        Self { succeeded, logs }
    }

    /// The logs of one contract, in order.
    pub fn logs_of(&self, contract: Address) -> impl Iterator<Item = &Log> {
        self.logs.iter().filter(move |log| log.address == contract)
    }
}
