//! The status of transactions.

use std::collections::{BTreeMap, BTreeSet};

use alloy::eips::BlockId;
use alloy::primitives::{B256, U64};
use alloy::providers::Provider;
use alloy::rpc::client::Waiter;
use quittance_core::{Fault, Found, LaneId, Status, TransactionId, Watched};

use super::results::{Block, Receipt};
use super::rpc::Rpc;
use super::transport::fault;
use crate::evidence::Evidence;

/// Looks up the status of transactions.
pub(super) struct Lookup<'rpc> {
    rpc: &'rpc Rpc,
    /// The newest block with enough confirmations. A nonce that it does not count may become free
    /// again.
    confirmed_block: u64,
}

/// The status of one sequence number, or why it is unknown.
type StatusResult = Result<Status<Evidence>, Fault>;

/// What a receipt says.
struct Inclusion {
    transaction: TransactionId,
    /// The number and the hash of the block; `None` while the transaction is not in a block.
    block: Option<(u64, B256)>,
    evidence: Evidence,
}

impl<'rpc> Lookup<'rpc> {
    pub(super) async fn new(rpc: &'rpc Rpc, confirmations_required: u64) -> Result<Self, Fault> {
        let head = rpc.provider().get_block_number().await.map_err(fault)?;
        Ok(Self {
            rpc,
            confirmed_block: head.saturating_sub(confirmations_required - 1),
        })
    }

    /// The status of these sequence numbers, by two batches.
    ///
    /// The first batch asks for each lane's confirmed nonce and then for each transaction's
    /// receipt, so a transaction that is included between both is found. The second asks for the
    /// blocks in the receipts.
    ///
    /// # Errors
    /// If no node replies at all.
    pub(super) async fn sequences(&self, watched: &[Watched]) -> Result<Vec<StatusResult>, Fault> {
        let lanes: BTreeSet<&LaneId> = watched.iter().map(|sequence| &sequence.lane).collect();
        let mut batch = self.rpc.batch();
        let mut pending_counts = Vec::with_capacity(lanes.len());
        for lane in lanes {
            let params = (lane.address(), BlockId::number(self.confirmed_block));
            let count: Waiter<U64> = batch.add("eth_getTransactionCount", &params)?;
            pending_counts.push((lane, count));
        }
        let mut pending_receipts = Vec::with_capacity(watched.len());
        for sequence in watched {
            let ids = sequence
                .transactions
                .iter()
                .map(|signed| signed.id.as_str());
            let receipts = ids.map(|id| batch.add("eth_getTransactionReceipt", &(id,)));
            pending_receipts.push(receipts.collect::<Result<Vec<_>, Fault>>()?);
        }
        batch.send().await?;
        let mut counts: BTreeMap<&LaneId, Result<u64, Fault>> = BTreeMap::new();
        for (lane, count) in pending_counts {
            let count = count.await.map(|count| count.to()).map_err(fault);
            counts.insert(lane, count);
        }
        let mut receipts = Vec::with_capacity(watched.len());
        for (sequence, pending) in watched.iter().zip(pending_receipts) {
            receipts.push(included_receipt(sequence, pending).await);
        }
        let blocks = Blocks::fetch(self.rpc, receipts.iter().flatten().flatten()).await?;
        let found = watched.iter().zip(receipts).map(|(sequence, receipt)| {
            match (receipt?, &counts[&sequence.lane]) {
                (Some(receipt), _) => blocks.status(receipt),
                (None, Ok(count)) if *count > sequence.sequence => Ok(Status::Dropped),
                (None, Ok(_)) => Ok(Status::Pending),
                (None, Err(fault)) => Err(fault.clone()),
            }
        });
        Ok(found.collect())
    }
}

/// The hashes of the chain's blocks with the numbers in the receipts, and the number of its newest
/// block, fetched after the receipts.
struct Blocks {
    head: u64,
    by_number: BTreeMap<u64, Result<Option<B256>, Fault>>,
}

impl Blocks {
    /// Fetches each block once.
    async fn fetch(rpc: &Rpc, receipts: impl Iterator<Item = &Inclusion>) -> Result<Self, Fault> {
        let numbers: BTreeSet<u64> = receipts
            .filter_map(|receipt| receipt.block)
            .map(|(number, _)| number)
            .collect();
        let mut by_number = BTreeMap::new();
        if numbers.is_empty() {
            return Ok(Self { head: 0, by_number });
        }
        let mut batch = rpc.batch();
        let head: Waiter<U64> = batch.add("eth_blockNumber", &())?;
        let mut pending = Vec::with_capacity(numbers.len());
        for number in numbers {
            let params = (U64::from(number), false);
            let block: Waiter<Option<Block>> = batch.add("eth_getBlockByNumber", &params)?;
            pending.push((number, block));
        }
        batch.send().await?;
        let head = head.await.map_err(fault)?.to();
        for (number, block) in pending {
            let block = block.await.map_err(fault);
            by_number.insert(
                number,
                block.map(|block| block.and_then(|block| block.hash)),
            );
        }
        Ok(Self { head, by_number })
    }

    /// The status of a transaction with this receipt.
    ///
    /// A receipt alone is not a proof. Some nodes return receipts of the block that is being built,
    /// with a zero hash (Base's Flashblocks) or with the expected hash. Some keep the receipts of
    /// replaced blocks for a while. A receipt counts once the chain has a block with its number and
    /// hash.
    fn status(&self, receipt: Inclusion) -> StatusResult {
        let Some((number, hash)) = receipt.block else {
            return Ok(Status::Pending);
        };
        let block = match self.by_number.get(&number) {
            Some(Ok(block)) => *block,
            Some(Err(fault)) => return Err(fault.clone()),
            None => None,
        };
        let below_head = self.head.checked_sub(number);
        let (Some(below_head), true) = (below_head, block == Some(hash)) else {
            return Ok(Status::Pending);
        };
        Ok(Status::Included {
            id: receipt.transaction,
            confirmations: below_head.saturating_add(1),
            evidence: receipt.evidence,
        })
    }
}

/// The included transaction with this hash, which a log named. It has 0 confirmations if no receipt
/// is from a block of the chain. The transaction's effect is then unknown.
pub(super) async fn inclusion(rpc: &Rpc, hash: B256) -> Found<Evidence> {
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

async fn status(rpc: &Rpc, hash: B256) -> StatusResult {
    let receipt: Option<Receipt> = rpc.ask("eth_getTransactionReceipt", (hash,)).await?;
    match receipt {
        Some(receipt) if receipt.transaction_hash == hash => {
            let receipt = Inclusion::from(receipt);
            let blocks = Blocks::fetch(rpc, std::iter::once(&receipt)).await?;
            blocks.status(receipt)
        }
        _ => Ok(Status::Pending),
    }
}

/// The receipt of the included transaction with this sequence number, if there is one.
///
/// # Errors
/// If none was found and one reply is missing, because that transaction may be included.
async fn included_receipt(
    sequence: &Watched,
    pending: Vec<Waiter<Option<Receipt>>>,
) -> Result<Option<Inclusion>, Fault> {
    let mut missing = None;
    for (transaction, pending) in sequence.transactions.iter().zip(pending) {
        let found = match pending.await {
            Ok(Some(receipt)) => Ok(Inclusion::from(receipt)),
            Ok(None) => continue,
            Err(error) => Err(fault(error)),
        };
        match found {
            // The receipt of another transaction is not a proof.
            Ok(receipt) if receipt.transaction == transaction.id => return Ok(Some(receipt)),
            Ok(_) => {}
            Err(fault) => missing = Some(fault),
        }
    }
    missing.map_or(Ok(None), Err)
}

impl From<Receipt> for Inclusion {
    fn from(receipt: Receipt) -> Self {
        Self {
            transaction: TransactionId::new(&format!("{:#x}", receipt.transaction_hash)),
            block: receipt
                .block_number
                .map(|number| number.to())
                .zip(receipt.block_hash),
            evidence: receipt.into_evidence(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quittance_nodes::unavailable;

    use super::*;

    fn receipt(number: Option<u64>, hash: Option<u8>) -> Inclusion {
        Inclusion {
            transaction: TransactionId::new("0x09"),
            block: number.zip(hash.map(B256::repeat_byte)),
            evidence: Evidence {
                succeeded: true,
                logs: Vec::new(),
            },
        }
    }

    proptest! {
        #[test]
        fn only_receipt_of_a_block_of_the_chain_is_an_inclusion(
            head in 0_u64..5, number in proptest::option::of(0_u64..8), hash in proptest::option::of(0_u8..3),
            there in proptest::option::of(0_u8..3),
        ) {
            let block = there.map(B256::repeat_byte);
            let by_number = number.map(|number| (number, Ok(block))).into_iter().collect();
            let blocks = Blocks { head, by_number };
            match blocks.status(receipt(number, hash)).unwrap() {
                Status::Included { confirmations, .. } => {
                    let number = number.unwrap();
                    prop_assert!(number <= head && hash.is_some() && there == hash);
                    prop_assert_eq!(confirmations, head - number + 1);
                }
                Status::Pending => {
                    let is_there = number.is_some_and(|number| number <= head) && hash.is_some();
                    prop_assert!(!is_there || there != hash);
                }
                Status::Executing { .. } => prop_assert!(false, "a receipt shows what was done"),
                Status::Dropped => prop_assert!(false, "a receipt is not a proof of absence"),
            }
        }
    }

    #[test]
    fn block_that_cannot_be_fetched_is_a_fault() {
        let fault = unavailable("no answer");
        let by_number = [(3, Err(fault))].into();
        let blocks = Blocks { head: 5, by_number };
        assert!(blocks.status(receipt(Some(3), Some(1))).is_err());
    }
}
