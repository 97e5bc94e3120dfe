//! What the chain says that a transaction did.

use alloy::primitives::{Address, LogData};
use alloy::sol_types::SolEvent;
use serde::Deserialize;

/// The outcome of an included transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Whether the transaction as a whole did not revert.
    pub succeeded: bool,
    /// The logs of all contracts, in order.
    pub logs: Vec<Log>,
}

impl Evidence {
    /// The logs of one contract, in order.
    pub fn logs_of(&self, contract: Address) -> impl Iterator<Item = &Log> {
        self.logs.iter().filter(move |log| log.address == contract)
    }
}

/// One log of a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Log {
    /// The contract that emitted it.
    pub address: Address,
    /// Its topics and its data.
    #[serde(flatten)]
    pub data: LogData,
}

impl Log {
    /// The log as an event of type `E`; `None` if it is another event.
    pub fn decode<E: SolEvent>(&self) -> Option<E> {
        E::decode_raw_log(self.data.topics().iter().copied(), &self.data.data).ok()
    }
}
