//! The status of transactions.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{B256, U64};
use quittance_core::{Fault, Found, LaneId, Status, Transaction, TransactionId, Watched};
use quittance_nodes::{Nodes, Reply, Request, decode_reply};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::evidence::{Evidence, Log};

/// Looks up the status of transactions.
pub(super) struct Lookup<'rpc> {
    rpc: &'rpc Nodes,
    /// The newest block with enough confirmations. A nonce that it does not count may become free again.
    confirmed_block: U64,
}

/// The status of one sequence number, or why it is unknown.
type StatusResult = Result<Status<Evidence>, Fault>;

/// The needed fields of a receipt. A receipt without one of them cannot be used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Receipt {
    transaction_hash: B256,
    /// Missing or zero while the transaction is not in a block.
    block_hash: Option<B256>,
    block_number: Option<U64>,
    status: U64,
    logs: Vec<Log>,
}

/// The needed field of a block.
#[derive(Deserialize, Clone)]
struct Block {
    hash: Option<B256>,
}

impl<'rpc> Lookup<'rpc> {
    pub(super) async fn new(rpc: &'rpc Nodes, confirmations_required: u64) -> Result<Self, Fault> {
        let head: U64 = rpc.ask("eth_blockNumber", json!([])).await?;
        let confirmed_block = head.to::<u64>().saturating_sub(confirmations_required - 1);
        Ok(Self {
            rpc,
            confirmed_block: U64::from(confirmed_block),
        })
    }

    /// The status of these sequence numbers, by two batches.
    ///
    /// The first batch asks for each lane's confirmed nonce and then for each transaction's receipt, so a
    /// transaction that is included between both is found. The second asks for the blocks in the receipts.
    ///
    /// # Errors
    /// If no node replies at all.
    pub(super) async fn sequences(&self, watched: &[Watched]) -> Result<Vec<StatusResult>, Fault> {
        let mut lanes: BTreeMap<&LaneId, Result<u64, Fault>> = BTreeMap::new();
        for sequence in watched {
            lanes.insert(&sequence.lane, Ok(0));
        }
        let counts = lanes.keys().map(|lane| {
            Request::new(
                "eth_getTransactionCount",
                json!([lane.address(), self.confirmed_block]),
            )
        });
        let receipts = watched
            .iter()
            .flat_map(|sequence| &sequence.transactions)
            .map(|transaction| {
                let id = json!([transaction.id.as_str()]);
                Request::new("eth_getTransactionReceipt", id)
            });
        let requests: Vec<Request> = counts.chain(receipts).collect();
        let mut replies = self.rpc.ask_many(&requests).await?.into_iter();
        for (count, reply) in lanes.values_mut().zip(replies.by_ref()) {
            *count = decode_reply::<U64>(reply).map(|count| count.to());
        }
        let receipts: Vec<Result<Option<Receipt>, Fault>> = watched
            .iter()
            .map(|sequence| {
                included_receipt(sequence, replies.by_ref().take(sequence.transactions.len()))
            })
            .collect();
        let blocks = Blocks::fetch(self.rpc, receipts.iter().flatten().flatten()).await?;
        let found = watched.iter().zip(receipts).map(|(sequence, receipt)| {
            match (receipt?, &lanes[&sequence.lane]) {
                (Some(receipt), _) => blocks.status(receipt),
                (None, Ok(count)) if *count > sequence.sequence => Ok(Status::Dropped),
                (None, Ok(_)) => Ok(Status::Pending),
                (None, Err(fault)) => Err(fault.clone()),
            }
        });
        Ok(found.collect())
    }
}

/// The chain's blocks with the numbers in the receipts, and its newest block, fetched after the receipts.
struct Blocks {
    head: u64,
    by_number: BTreeMap<U64, Result<Option<Block>, Fault>>,
}

impl Blocks {
    /// Fetches each block once.
    async fn fetch(rpc: &Nodes, receipts: impl Iterator<Item = &Receipt>) -> Result<Self, Fault> {
        let numbers: BTreeSet<U64> = receipts
            .filter_map(|receipt| receipt.block_number)
            .collect();
        if numbers.is_empty() {
            let by_number = BTreeMap::new();
            return Ok(Self { head: 0, by_number });
        }
        let head = std::iter::once(Request::new("eth_blockNumber", json!([])));
        let blocks = numbers
            .iter()
            .map(|number| Request::new("eth_getBlockByNumber", json!([number, false])));
        let requests: Vec<Request> = head.chain(blocks).collect();
        let mut replies = rpc.ask_many(&requests).await?.into_iter();
        let head = replies.next().unwrap_or(Ok(Value::Null));
        let head = decode_reply::<U64>(head)?.to();
        let blocks = replies.map(decode_reply);
        Ok(Self {
            head,
            by_number: numbers.into_iter().zip(blocks).collect(),
        })
    }

    /// The status of a transaction with this receipt.
    ///
    /// A receipt alone is not a proof. Some nodes return receipts of the block that is being built, with a
    /// zero hash (Base's Flashblocks) or with the expected hash. Some keep the receipts of replaced blocks
    /// for a while. A receipt counts once the chain has a block with its number and hash.
    fn status(&self, receipt: Receipt) -> StatusResult {
        let (Some(number), Some(hash)) = (receipt.block_number, receipt.block_hash) else {
            return Ok(Status::Pending);
        };
        let block = match self.by_number.get(&number) {
            Some(Ok(block)) => block.as_ref().and_then(|block| block.hash),
            Some(Err(fault)) => return Err(fault.clone()),
            None => None,
        };
        let below_head = self.head.checked_sub(number.to());
        let (Some(below_head), true) = (below_head, block == Some(hash)) else {
            return Ok(Status::Pending);
        };
        Ok(Status::Included {
            id: TransactionId::new(&format!("{:#x}", receipt.transaction_hash)),
            confirmations: below_head.saturating_add(1),
            evidence: Evidence {
                succeeded: receipt.status == U64::from(1),
                logs: receipt.logs,
            },
        })
    }
}

/// The included transaction with this hash, which a log named. It has 0 confirmations if there is no receipt
/// of a block that the chain has: then it is not known yet what the transaction did.
pub(super) async fn inclusion(rpc: &Nodes, hash: B256) -> Found<Evidence> {
    match status(rpc, hash).await {
        Ok(Status::Included {
            id,
            confirmations,
            evidence,
        }) => Found {
            id,
            confirmations,
            evidence,
        },
        _ => Found {
            id: TransactionId::new(&format!("{hash:#x}")),
            confirmations: 0,
            evidence: Evidence {
                succeeded: false,
                logs: Vec::new(),
            },
        },
    }
}

async fn status(rpc: &Nodes, hash: B256) -> StatusResult {
    let receipt: Option<Receipt> = rpc.ask("eth_getTransactionReceipt", json!([hash])).await?;
    match receipt.filter(|receipt| receipt.transaction_hash == hash) {
        Some(receipt) => {
            let blocks = Blocks::fetch(rpc, std::iter::once(&receipt)).await?;
            blocks.status(receipt)
        }
        None => Ok(Status::Pending),
    }
}

/// The receipt of the included transaction with this sequence number, if there is one.
///
/// # Errors
/// If none was found and one reply is missing, because that transaction may be included.
fn included_receipt(
    sequence: &Watched,
    replies: impl Iterator<Item = Reply>,
) -> Result<Option<Receipt>, Fault> {
    let mut missing = None;
    for (transaction, reply) in sequence.transactions.iter().zip(replies) {
        match decode_reply::<Option<Receipt>>(reply) {
            // The receipt of another transaction is not a proof.
            Ok(Some(receipt)) if receipt.is_for(transaction) => return Ok(Some(receipt)),
            Ok(_) => {}
            Err(fault) => missing = Some(fault),
        }
    }
    missing.map_or(Ok(None), Err)
}

impl Receipt {
    fn is_for(&self, transaction: &Transaction) -> bool {
        format!("{:#x}", self.transaction_hash) == transaction.id.as_str()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn receipt(number: Option<u64>, hash: Option<u8>) -> Receipt {
        Receipt {
            transaction_hash: B256::repeat_byte(9),
            block_hash: hash.map(B256::repeat_byte),
            block_number: number.map(U64::from),
            status: U64::from(1),
            logs: Vec::new(),
        }
    }

    proptest! {
        #[test]
        fn only_receipt_of_a_block_of_the_chain_is_an_inclusion(
            head in 0_u64..5, number in proptest::option::of(0_u64..8), hash in proptest::option::of(0_u8..3),
            there in proptest::option::of(proptest::option::of(0_u8..3)),
        ) {
            let block = there.map(|hash| Block { hash: hash.map(B256::repeat_byte) });
            let by_number = number.map(|number| (U64::from(number), Ok(block))).into_iter().collect();
            let blocks = Blocks { head, by_number };
            match blocks.status(receipt(number, hash)).unwrap() {
                Status::Included { confirmations, .. } => {
                    let number = number.unwrap();
                    prop_assert!(number <= head && hash.is_some() && there.flatten() == hash);
                    prop_assert_eq!(confirmations, head - number + 1);
                }
                Status::Pending => {
                    let is_there = number.is_some_and(|number| number <= head) && hash.is_some();
                    prop_assert!(!is_there || there.flatten() != hash);
                }
                Status::Dropped => prop_assert!(false, "a receipt is not a proof of absence"),
            }
        }
    }

    #[test]
    fn block_that_cannot_be_fetched_is_a_fault() {
        let fault = quittance_nodes::unavailable("no answer");
        let by_number = [(U64::from(3), Err(fault))].into();
        let blocks = Blocks { head: 5, by_number };
        assert!(blocks.status(receipt(Some(3), Some(1))).is_err());
    }
}
