//! Where transactions stand.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{B256, U64};
use quittance_core::{Fault, Found, LaneId, Status, Transaction, TransactionId, Watched};
use quittance_nodes::{Nodes, Reply, Request, decode_reply};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::chain::{Evidence, Log};

/// A look at where transactions stand.
pub(crate) struct Lookup<'rpc> {
    rpc: &'rpc Nodes,
    /// Up to which block a nonce counts as taken: a shallower block may be replaced.
    deep: U64,
}

/// One place, as far as it could be learnt.
type Looked = Result<Status<Evidence>, Fault>;

/// `eth_getTransactionReceipt`, as much of it as is needed. A field that is missing is an answer that cannot be used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Receipt {
    transaction_hash: B256,
    /// Missing, or zero, of a transaction that is only expected to be in a block.
    block_hash: Option<B256>,
    block_number: Option<U64>,
    status: U64,
    logs: Vec<Log>,
}

/// `eth_getBlockByNumber`, as much of it as is needed.
#[derive(Deserialize, Clone)]
struct Block {
    hash: Option<B256>,
}

impl<'rpc> Lookup<'rpc> {
    pub(crate) async fn new(rpc: &'rpc Nodes, confirmations_required: u64) -> Result<Self, Fault> {
        let head: U64 = rpc.ask("eth_blockNumber", json!([])).await?;
        let deep = head.to::<u64>().saturating_sub(confirmations_required - 1);
        Ok(Self {
            rpc,
            deep: U64::from(deep),
        })
    }

    /// Where these places stand, by two batches. The first asks for each lane which nonces are taken for good, then for
    /// each transaction its receipt: what is included between the two answers is seen by the second. The second asks for
    /// the blocks that the receipts name.
    ///
    /// # Errors
    /// When no node answers at all.
    pub(crate) async fn sequences(&self, watched: &[Watched]) -> Result<Vec<Looked>, Fault> {
        let mut lanes: BTreeMap<&LaneId, Result<u64, Fault>> = BTreeMap::new();
        for sequence in watched {
            lanes.insert(&sequence.lane, Ok(0));
        }
        let counts = lanes.keys().map(|lane| {
            Request::new(
                "eth_getTransactionCount",
                json!([lane.address(), self.deep]),
            )
        });
        let receipts = watched
            .iter()
            .flat_map(|sequence| &sequence.transactions)
            .map(|transaction| {
                let id = json!([transaction.id.as_str()]);
                Request::new("eth_getTransactionReceipt", id)
            });
        let calls: Vec<Request> = counts.chain(receipts).collect();
        let mut answers = self.rpc.ask_many(&calls).await?.into_iter();
        for (count, answer) in lanes.values_mut().zip(answers.by_ref()) {
            *count = decode_reply::<U64>(answer).map(|count| count.to());
        }
        let receipts: Vec<Result<Option<Receipt>, Fault>> = watched
            .iter()
            .map(|sequence| {
                receipt_of(sequence, answers.by_ref().take(sequence.transactions.len()))
            })
            .collect();
        let blocks = Blocks::of(self.rpc, receipts.iter().flatten().flatten()).await?;
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

/// The chain's blocks that receipts name, and its newest block, which was asked for after the receipts.
struct Blocks {
    head: u64,
    by_number: BTreeMap<U64, Result<Option<Block>, Fault>>,
}

impl Blocks {
    /// One call for each block, however many receipts name it.
    async fn of(rpc: &Nodes, receipts: impl Iterator<Item = &Receipt>) -> Result<Self, Fault> {
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
        let calls: Vec<Request> = head.chain(blocks).collect();
        let mut answers = rpc.ask_many(&calls).await?.into_iter();
        let head = answers.next().unwrap_or(Ok(Value::Null));
        let head = decode_reply::<U64>(head)?.to();
        let blocks = answers.map(decode_reply);
        Ok(Self {
            head,
            by_number: numbers.into_iter().zip(blocks).collect(),
        })
    }

    /// Where a transaction with this receipt stands.
    ///
    /// A receipt alone proves nothing. Some nodes tell receipts of the block that is being built, with a hash of zeros (the
    /// preconfirmations of Base's Flashblocks) or with the hash it is expected to have; some keep the receipts of blocks
    /// that were replaced for a while. It counts once the chain has that very block.
    fn status(&self, receipt: Receipt) -> Looked {
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

/// An included transaction by its hash, which a log named. At depth 0 where its receipt is not there, or not of a block that
/// the chain has: then it cannot be said yet what it did.
pub(crate) async fn inclusion(rpc: &Nodes, hash: B256) -> Found<Evidence> {
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

async fn status(rpc: &Nodes, hash: B256) -> Looked {
    let receipt: Option<Receipt> = rpc.ask("eth_getTransactionReceipt", json!([hash])).await?;
    match receipt.filter(|receipt| receipt.transaction_hash == hash) {
        Some(receipt) => {
            let blocks = Blocks::of(rpc, std::iter::once(&receipt)).await?;
            blocks.status(receipt)
        }
        None => Ok(Status::Pending),
    }
}

/// The receipt of the one transaction for this place that was included. One that could not be asked about may be it.
fn receipt_of(
    sequence: &Watched,
    answers: impl Iterator<Item = Reply>,
) -> Result<Option<Receipt>, Fault> {
    let mut unknown = None;
    for (transaction, answer) in sequence.transactions.iter().zip(answers) {
        match decode_reply::<Option<Receipt>>(answer) {
            // A receipt for something else proves nothing.
            Ok(Some(receipt)) if receipt.is_for(transaction) => return Ok(Some(receipt)),
            Ok(_) => {}
            Err(fault) => unknown = Some(fault),
        }
    }
    unknown.map_or(Ok(None), Err)
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
        fn only_a_receipt_of_a_block_that_the_chain_has_is_an_inclusion(
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
                Status::Dropped => prop_assert!(false, "a receipt is no proof of absence"),
            }
        }
    }

    #[test]
    fn a_block_that_cannot_be_asked_about_is_a_fault() {
        let fault = quittance_nodes::unavailable("no answer");
        let by_number = [(U64::from(3), Err(fault))].into();
        let blocks = Blocks { head: 5, by_number };
        assert!(blocks.status(receipt(Some(3), Some(1))).is_err());
    }
}
