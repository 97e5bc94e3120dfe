//! Multicall3: a contract that makes several calls in one transaction.
//!
//! Its calls come from its own address, never from a signer of the facilitator. It is at the same
//! address on most chains. Source: `Multicall3.sol` of `mds1/multicall3`.

use alloy::primitives::{Address, Bytes, address};
use alloy::sol_types::SolCall;

use crate::abi::Multicall3;

/// The address of Multicall3, the same on every chain that has it.
pub const MULTICALL3: Address = address!("cA11bde05977b3631167028862bE2a173976CA11");

/// One call in a transaction of Multicall3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InnerCall {
    /// The contract.
    pub to: Address,
    /// The call data.
    pub data: Bytes,
    /// Whether the other calls count if this one reverts. Otherwise all of them revert.
    pub may_fail: bool,
}

/// The data of a call to [`MULTICALL3`] that makes these calls in order, without value.
pub fn aggregate(calls: impl IntoIterator<Item = InnerCall>) -> Bytes {
    let call = |call: InnerCall| Multicall3::Call3 {
        target: call.to,
        allowFailure: call.may_fail,
        callData: call.data,
    };
    let calls = calls.into_iter().map(call).collect();
    Multicall3::aggregate3Call { calls }.abi_encode().into()
}
