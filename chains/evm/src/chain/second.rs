//! Confirms large payments by a second node.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, U64, U256};
use quittance_core::{Fault, TransactionId};
use quittance_nodes::{Nodes, Reply, Request, decode_reply, unavailable};
use serde::Deserialize;
use serde_json::json;

use crate::abi::Erc20;
use crate::evidence::{Evidence, Log};

/// How many nodes must agree.
const NODES: usize = 2;

/// The fields of a receipt that are compared.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Receipt {
    block_hash: Option<B256>,
    status: U64,
    logs: Vec<Log>,
}

/// Whether a transaction moved more of a token than its entry in `above`.
pub(super) fn is_needed(above: &BTreeMap<Address, U256>, evidence: &Evidence) -> bool {
    let is_large = |log: &Log| {
        let transfer = log.decode::<Erc20::Transfer>();
        let value = transfer.map(|transfer| transfer.value);
        let bound = above.get(&log.address);
        value
            .zip(bound)
            .is_some_and(|(value, bound)| value > *bound)
    };
    evidence.succeeded && evidence.logs.iter().any(is_large)
}

/// Asks every node that is up to date what a transaction did.
///
/// # Errors
/// While fewer than two nodes agree with `evidence`. This is not a verdict: a node may be a block behind.
pub(super) async fn confirm(
    rpc: &Nodes,
    id: &TransactionId,
    evidence: &Evidence,
) -> Result<(), Fault> {
    let request = Request::new("eth_getTransactionReceipt", json!([id.as_str()]));
    let agrees = |reply: Reply| {
        let receipt = decode_reply::<Option<Receipt>>(reply).ok().flatten();
        receipt.is_some_and(|receipt| receipt.agrees(evidence))
    };
    let replies = rpc.ask_every_current(&request).await.into_iter();
    if replies.filter(|reply| agrees(reply.clone())).count() >= NODES {
        return Ok(());
    }
    let detail = format!(
        "the payment in {id} is large and needs two nodes that confirm it; fewer do so far"
    );
    Err(unavailable(detail))
}

impl Receipt {
    fn agrees(&self, evidence: &Evidence) -> bool {
        let succeeded = self.status == U64::from(1);
        let is_in_a_block = self.block_hash.is_some_and(|hash| !hash.is_zero());
        is_in_a_block && succeeded == evidence.succeeded && self.logs == evidence.logs
    }
}
