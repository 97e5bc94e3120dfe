//! A second node's word on what a transaction did, where so much was paid that one node's is not
//! enough.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, U64, U256};
use quittance_core::{Fault, TransactionId};
use quittance_nodes::{Nodes, Reply, decode_reply, unavailable};
use serde::Deserialize;
use serde_json::json;

use crate::abi::Erc20;
use crate::chain::{Evidence, Log};

/// How many nodes must say the same.
const NODES: usize = 2;

/// `eth_getTransactionReceipt`, as much of it as is compared.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Receipt {
    block_hash: Option<B256>,
    status: U64,
    logs: Vec<Log>,
}

/// Whether a transaction moved more of a token than one node's word is enough `above`.
pub(crate) fn is_needed(above: &BTreeMap<Address, U256>, evidence: &Evidence) -> bool {
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
/// While fewer than two say what the `evidence` says. Nothing follows from that: a node may be a block behind.
pub(crate) async fn confirm(
    rpc: &Nodes,
    id: &TransactionId,
    evidence: &Evidence,
) -> Result<(), Fault> {
    let call = quittance_nodes::Request::new("eth_getTransactionReceipt", json!([id.as_str()]));
    let agrees = |answer: Reply| {
        let receipt = decode_reply::<Option<Receipt>>(answer).ok().flatten();
        receipt.is_some_and(|receipt| receipt.agrees(evidence))
    };
    let answers = rpc.ask_every_current(&call).await.into_iter();
    if answers.filter(|answer| agrees(answer.clone())).count() >= NODES {
        return Ok(());
    }
    let what =
        format!("the payment in {id} is so large that two nodes must have it, and two do not");
    Err(unavailable(what))
}

impl Receipt {
    fn agrees(&self, evidence: &Evidence) -> bool {
        let succeeded = self.status == U64::from(1);
        let is_in_a_block = self.block_hash.is_some_and(|hash| !hash.is_zero());
        is_in_a_block && succeeded == evidence.succeeded && self.logs == evidence.logs
    }
}
