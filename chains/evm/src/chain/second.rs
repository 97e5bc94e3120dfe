//! Confirms large payments by a second node.

use std::collections::BTreeMap;

use alloy::primitives::{Address, Log, U256};
use alloy::sol_types::SolEvent;
use quittance_core::{Fault, TransactionId};
use quittance_nodes::{Nodes, Reply, Request, decode_reply};
use serde_json::json;

use super::results::Receipt;
use crate::abi::Erc20;
use crate::evidence::Evidence;

/// Whether a transaction moved more of a token than its entry in `above`.
pub(super) fn is_needed(above: &BTreeMap<Address, U256>, evidence: &Evidence) -> bool {
    let is_large = |log: &Log| {
        let transfer = Erc20::Transfer::decode_log_data(&log.data).ok();
        let value = transfer.map(|transfer| transfer.value);
        let bound = above.get(&log.address);
        value
            .zip(bound)
            .is_some_and(|(value, bound)| value > *bound)
    };
    evidence.succeeded && evidence.logs.iter().any(is_large)
}

/// Checks that two nodes have the same receipt.
///
/// # Errors
/// While fewer than two nodes agree with `evidence`. This is not a verdict: a node may be a block
/// behind.
pub(super) async fn confirm(
    nodes: &Nodes,
    id: &TransactionId,
    evidence: &Evidence,
) -> Result<(), Fault> {
    let request = Request::new("eth_getTransactionReceipt", json!([id.as_str()]));
    let agrees = |reply: Reply| {
        let receipt = decode_reply::<Option<Receipt>>(reply);
        let receipt = receipt.ok().flatten();
        receipt.is_some_and(|receipt| {
            let is_in_a_block = receipt.block_hash.is_some_and(|hash| !hash.is_zero());
            is_in_a_block && receipt.into_evidence() == *evidence
        })
    };
    nodes.confirm(id, &request, agrees).await
}
