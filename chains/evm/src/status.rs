//! Where transactions stand.

use std::collections::BTreeMap;

use alloy::primitives::{B256, U64};
use quittance_core::{Fault, LaneId, Status, Transaction, TransactionId, Watched};
use quittance_nodes::{Answer, Call, Nodes, read_answer};
use serde::Deserialize;
use serde_json::json;

use crate::chain::{Evidence, Log};

/// A look at where transactions stand, from one newest block.
pub(crate) struct Lookup<'rpc> {
    rpc: &'rpc Nodes,
    depth_required: u64,
    head: u64,
}

/// One place, as far as it could be learnt.
type Found = Result<Status<Evidence>, Fault>;

/// `eth_getTransactionReceipt`, as much of it as is needed. A field that is missing is an answer that cannot be used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Receipt {
    transaction_hash: B256,
    block_hash: B256,
    block_number: U64,
    status: U64,
    logs: Vec<Log>,
}

/// `eth_getBlockByNumber`, as much of it as is needed.
#[derive(Deserialize)]
struct Block {
    hash: B256,
}

impl<'rpc> Lookup<'rpc> {
    pub(crate) async fn new(rpc: &'rpc Nodes, depth_required: u64) -> Result<Self, Fault> {
        let head: U64 = rpc.ask("eth_blockNumber", json!([])).await?;
        Ok(Self {
            rpc,
            depth_required,
            head: head.to(),
        })
    }

    /// Where these places stand, by one batch: for each lane, which nonces are taken for good; then, for each
    /// transaction, its receipt. In this order: what is included between the two answers is seen by the second.
    ///
    /// # Errors
    /// When no node answers at all.
    pub(crate) async fn places(&self, watched: &[Watched]) -> Result<Vec<Found>, Fault> {
        // A nonce counts as taken when it is taken at the depth asked for; a shallow block may be replaced.
        let deep = U64::from(self.head.saturating_sub(self.depth_required - 1));
        let mut lanes: BTreeMap<&LaneId, Result<u64, Fault>> = BTreeMap::new();
        for place in watched {
            lanes.insert(&place.lane, Ok(0));
        }
        let counts = lanes
            .keys()
            .map(|lane| ("eth_getTransactionCount", json!([lane.address(), deep])));
        let receipts = watched
            .iter()
            .flat_map(|place| &place.transactions)
            .map(|transaction| {
                let id = json!([transaction.id.as_str()]);
                ("eth_getTransactionReceipt", id)
            });
        let calls: Vec<Call> = counts.chain(receipts).collect();
        let mut answers = self.rpc.ask_many(&calls).await?.into_iter();
        for (count, answer) in lanes.values_mut().zip(answers.by_ref()) {
            *count = read_answer::<U64>(answer).map(|count| count.to());
        }
        let mut found = Vec::with_capacity(watched.len());
        for place in watched {
            let answers: Vec<_> = answers.by_ref().take(place.transactions.len()).collect();
            found.push(match receipt_of(place, answers.into_iter()) {
                Ok(Some(receipt)) => self.included(receipt).await,
                Ok(None) => match &lanes[&place.lane] {
                    Ok(count) if *count > place.place => Ok(Status::Gone),
                    Ok(_) => Ok(Status::Pending),
                    Err(fault) => Err(fault.clone()),
                },
                Err(fault) => Err(fault),
            });
        }
        Ok(found)
    }

    /// Where a transaction with this receipt stands.
    async fn included(&self, receipt: Receipt) -> Found {
        let number = receipt.block_number;
        let depth = (self.head + 1).saturating_sub(number.to()).max(1);
        if depth >= self.depth_required && self.depth_required > 1 {
            // Some nodes keep the receipts of blocks that were replaced for a while.
            let params = json!([number, false]);
            let block: Option<Block> = self.rpc.ask("eth_getBlockByNumber", params).await?;
            if block.is_none_or(|block| block.hash != receipt.block_hash) {
                return Ok(Status::Pending);
            }
        }
        Ok(Status::Included {
            id: TransactionId::new(&format!("{:#x}", receipt.transaction_hash)),
            depth,
            evidence: Evidence {
                succeeded: receipt.status == U64::from(1),
                logs: receipt.logs,
            },
        })
    }
}

/// The receipt of the one transaction for this place that was included. One that could not be asked about may be it.
fn receipt_of(
    place: &Watched,
    answers: impl Iterator<Item = Answer>,
) -> Result<Option<Receipt>, Fault> {
    let mut unknown = None;
    for (transaction, answer) in place.transactions.iter().zip(answers) {
        match read_answer::<Option<Receipt>>(answer) {
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
