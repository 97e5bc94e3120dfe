//! Confirms large payments by a second node.

use std::collections::BTreeMap;

use quittance_core::{Fault, TransactionId};
use quittance_nodes::Nodes;
use solana_pubkey::Pubkey;

use super::status;
use crate::evidence::{Balance, Evidence};

/// Whether a transaction moved more of a token than its entry in `above`.
pub(super) fn is_needed(above: &BTreeMap<Pubkey, u64>, evidence: &Evidence) -> bool {
    let is_large = |balance: &Balance| {
        let bound = balance.mint.parse().ok().and_then(|mint| above.get(&mint));
        let increase = balance.after.saturating_sub(balance.before);
        bound.is_some_and(|bound| increase > *bound)
    };
    evidence.error.is_none() && evidence.balances.iter().flatten().any(is_large)
}

/// Checks that two nodes report the same balances.
///
/// # Errors
/// While fewer than two nodes agree with `evidence`. This is not a verdict: a node may be behind.
pub(super) async fn confirm(
    nodes: &Nodes,
    id: &TransactionId,
    evidence: &Evidence,
) -> Result<(), Fault> {
    let request = status::evidence_request(id.as_str());
    let agrees = |reply| {
        let found = status::evidence_of(reply);
        found.is_ok_and(|found| found.error.is_none() && found.balances == evidence.balances)
    };
    nodes.confirm(id, &request, agrees).await
}
