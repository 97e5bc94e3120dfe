//! The action of EVM schemes: a contract call.

use alloy::primitives::{Address, B256, Bytes};

/// A contract call that settles a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// The contract.
    pub to: Address,
    /// The call data.
    pub data: Bytes,
    /// How much gas the call took in the simulation.
    pub gas: u64,
    /// Whether the call may share a transaction with others. It may only if its effect does not
    /// depend on the caller, and if it runs no contract that the payer chose.
    pub batchable: bool,
    /// Identifies the call's effect in a transaction's logs. Calls with equal keys never share a
    /// transaction, because the logs would not show which of them had the effect.
    pub effect_key: B256,
}

impl Call {
    /// A call that shares no transaction. `gas` is what it took in the simulation, and `effect_key`
    /// identifies its effect in the logs.
    pub fn new(to: Address, data: Bytes, gas: u64, effect_key: B256) -> Self {
        Self {
            to,
            data,
            gas,
            batchable: false,
            effect_key,
        }
    }

    /// The same call, which may share a transaction if `batchable`.
    #[must_use]
    pub fn with_batchable(self, batchable: bool) -> Self {
        Self { batchable, ..self }
    }
}
