//! What the chain says that a transaction did.

use alloy::consensus::Eip658Value;
use alloy::network::AnyTransactionReceipt;
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

    /// The outcome by a receipt; `None` if the receipt has no status (EIP-658).
    pub fn from_receipt(receipt: AnyTransactionReceipt) -> Option<Self> {
        let receipt = receipt.0.inner.inner.inner.receipt;
        let Eip658Value::Eip658(succeeded) = receipt.status else {
            return None;
        };
        Some(Self {
            succeeded,
            logs: receipt.logs.into_iter().map(|log| log.inner).collect(),
        })
    }

    /// The logs of one contract, in order.
    pub fn logs_of(&self, contract: Address) -> impl Iterator<Item = &Log> {
        self.logs.iter().filter(move |log| log.address == contract)
    }
}
