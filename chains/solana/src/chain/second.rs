//! A second node's word on what a transaction did, where so much was paid that one node's is not
//! enough.

use std::collections::BTreeMap;

use quittance_core::{Fault, TransactionId};
use quittance_nodes::{Nodes, unavailable};
use solana_pubkey::Pubkey;

use super::status;
use crate::evidence::{Balance, Evidence};

/// How many nodes must say the same.
const NODES: usize = 2;

/// Whether a transaction moved more of a token than one node's word is enough `above`.
pub(crate) fn is_needed(above: &BTreeMap<Pubkey, u64>, evidence: &Evidence) -> bool {
    let is_large = |balance: &Balance| {
        let bound = balance.mint.parse().ok().and_then(|mint| above.get(&mint));
        let risen = balance.after.saturating_sub(balance.before);
        bound.is_some_and(|bound| risen > *bound)
    };
    evidence.error.is_none() && evidence.balances.iter().flatten().any(is_large)
}

/// Asks every node that is up to date what a transaction did.
///
/// # Errors
/// While fewer than two say of every balance what the `evidence` says. Nothing follows from that: a node may be behind.
pub(crate) async fn confirm(
    rpc: &Nodes,
    id: &TransactionId,
    evidence: &Evidence,
) -> Result<(), Fault> {
    let answers = rpc
        .ask_every_current(&status::evidence_request(id.as_str()))
        .await;
    let agrees = |found: &Evidence| found.error.is_none() && found.balances == evidence.balances;
    let found = answers.into_iter().map(status::evidence_of);
    if found
        .filter(|found| found.as_ref().is_ok_and(agrees))
        .count()
        >= NODES
    {
        return Ok(());
    }
    let what =
        format!("the payment in {id} is so large that two nodes must have it, and two do not");
    Err(unavailable(what))
}
