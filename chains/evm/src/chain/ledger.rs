//! The chain's records of our signers' transactions: receipts, blocks and counts of nonces.
//!
//! Nothing here knows a scheme, a batch or a payment. What a transaction moved is what the tokens
//! have logged (ERC-20), and its own value.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::{Range, RangeInclusive};

use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::primitives::{Address, B256, Bytes, Log, U64, U256};
use alloy::rpc::client::Waiter;
use alloy::sol_types::SolEvent;
use async_trait::async_trait;
use quittance_books::{
    Blocks, Bound, KnownTransactions, Ledger, Sent, Transfer, UsedAuthorization,
};
use quittance_core::{Amount, Fault, LaneId, Network, Timestamp, TransactionId};
use quittance_nodes::unavailable;
use serde::Deserialize;

use super::Evm;
use super::results::Head;
use super::rpc::Rpc;
use super::transport::fault;
use super::used_in;
use crate::abi::Erc20;

/// How many transactions are looked up in one round trip. Each takes two requests, and the
/// strictest gateways allow 100 in a batch.
const LOOKED_UP: usize = 50;

/// The most blocks that are read one by one in the search for a nonce. A count of nonces at an old
/// block needs a node with old state; the blocks themselves are at every node.
const BLOCKS_READ: u64 = 16;

/// Reads the records of an EVM chain.
#[derive(Debug)]
pub struct EvmLedger {
    network: Network,
    chain_id: u64,
    rpc: Rpc,
    lanes: Vec<LaneId>,
    tokens: Vec<Address>,
}

/// The parts of a receipt that say what a transaction moved and cost.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Receipt {
    transaction_hash: B256,
    block_hash: Option<B256>,
    block_number: Option<U64>,
    /// 1 is a success (EIP-658). Every other value is a failure.
    status: U64,
    gas_used: U256,
    effective_gas_price: U256,
    /// What a rollup takes for the data on its parent chain (OP stack).
    #[serde(default)]
    l1_fee: Option<U256>,
    logs: Vec<Log>,
}

/// The parts of a transaction that a receipt does not have.
#[derive(Debug, Deserialize)]
struct Body {
    hash: B256,
    from: Address,
    to: Option<Address>,
    nonce: U64,
    value: U256,
    #[serde(alias = "data")]
    input: Bytes,
}

/// A block, with the transactions as far as they are needed.
#[derive(Debug, Deserialize)]
struct Block<T> {
    hash: B256,
    timestamp: U64,
    #[serde(default = "Vec::new")]
    transactions: Vec<T>,
}

/// A transaction in a block. Some chains have kinds of transactions with other fields.
#[derive(Debug, Deserialize)]
struct InBlock {
    hash: B256,
    from: Address,
    nonce: U64,
}

/// Sequence numbers that are all in some blocks.
struct Gap {
    blocks: RangeInclusive<u64>,
    nonces: Range<u64>,
}

impl EvmLedger {
    pub(super) fn new(chain: &Evm) -> Self {
        let config = &chain.config;
        Self {
            network: config.network.clone(),
            chain_id: chain.chain_id,
            rpc: chain.rpc.clone(),
            lanes: chain.signers.lanes().to_vec(),
            tokens: config.tokens.iter().map(|token| token.address).collect(),
        }
    }

    async fn head(&self, block: BlockNumberOrTag) -> Result<Head, Fault> {
        let found: Option<Head> = self.rpc.ask("eth_getBlockByNumber", (block, false)).await?;
        found.ok_or_else(|| unavailable(format_args!("the nodes do not have the block {block}")))
    }

    async fn time(&self, block: u64) -> Result<u64, Fault> {
        Ok(self.head(block.into()).await?.timestamp.to())
    }

    /// The first block of this time or later, among the blocks up to `head`. One more than `head`
    /// if there is none.
    async fn first_since(&self, time: Timestamp, head: u64) -> Result<u64, Fault> {
        let (mut from, mut to) = (0, head.saturating_add(1));
        while from < to {
            let middle = from + (to - from) / 2;
            match self.time(middle).await? < time.secs() {
                true => from = middle + 1,
                false => to = middle,
            }
        }
        Ok(from)
    }

    /// How many transactions the signer has sent up to this block, by the nodes' state.
    async fn count(&self, signer: &LaneId, block: BlockId) -> Result<u64, Fault> {
        let params = (signer.address().to_owned(), block);
        let count: Result<U64, Fault> = self.rpc.ask("eth_getTransactionCount", params).await;
        count.map(|count| count.to()).map_err(|fault| {
            let what = "cannot count the signer's transactions at an old block: use a node that \
                        keeps old state (an archive node), or compare from block 0";
            Fault {
                detail: format!("{what}: {}", fault.detail),
                ..fault
            }
        })
    }

    /// How many transactions the signer has sent up to this block, or up to a later one if the
    /// nodes have no state of this one. Returns the block, too. What later blocks have is found as
    /// well, and the comparison leaves it out.
    async fn count_since(&self, signer: &LaneId, block: u64) -> Result<(u64, u64), Fault> {
        if let Ok(count) = self.count(signer, BlockId::number(block)).await {
            return Ok((block, count));
        }
        let newest = self.head(BlockNumberOrTag::Latest).await?.number.to();
        Ok((newest, self.count(signer, BlockId::number(newest)).await?))
    }

    /// The transactions of these ids, at most [`LOOKED_UP`] of them.
    async fn look_up_some(
        &self,
        ids: &[TransactionId],
    ) -> Result<Vec<Result<Option<Sent>, Fault>>, Fault> {
        let mut batch = self.rpc.batch();
        let mut pending = Vec::with_capacity(ids.len());
        for id in ids {
            let params = (id.as_str(),);
            let receipt: Waiter<Option<Receipt>> =
                batch.add("eth_getTransactionReceipt", &params)?;
            let body: Waiter<Option<Body>> = batch.add("eth_getTransactionByHash", &params)?;
            pending.push((receipt, body));
        }
        batch.send().await?;
        let mut found = Vec::with_capacity(ids.len());
        for (id, (receipt, body)) in ids.iter().zip(pending) {
            let receipt = receipt.await.map_err(fault);
            found.push(match (receipt, body.await.map_err(fault)) {
                (Ok(None), _) => Ok(None),
                (Ok(Some(receipt)), Ok(body)) => included(id, receipt, body),
                (Err(fault), _) | (_, Err(fault)) => Err(fault),
            });
        }
        let blocks = self.blocks_of(&found).await?;
        let sent = found.into_iter().map(|found| {
            let Some((receipt, body)) = found? else {
                return Ok(None);
            };
            sent(&receipt, &body, &blocks)
        });
        Ok(sent.collect())
    }

    /// The blocks that these receipts name, by number.
    async fn blocks_of(
        &self,
        found: &[Result<Option<(Receipt, Body)>, Fault>],
    ) -> Result<BTreeMap<u64, Result<Option<Block<B256>>, Fault>>, Fault> {
        let mut pending = BTreeMap::new();
        let mut batch = self.rpc.batch();
        for (receipt, _) in found.iter().flatten().flatten() {
            let Some(number) = receipt.block_number else {
                continue;
            };
            if let Entry::Vacant(unknown) = pending.entry(number.to()) {
                let block: Waiter<Option<Block<B256>>> =
                    batch.add("eth_getBlockByNumber", &(number, false))?;
                unknown.insert(block);
            }
        }
        let mut blocks = BTreeMap::new();
        if pending.is_empty() {
            return Ok(blocks);
        }
        batch.send().await?;
        for (number, block) in pending {
            blocks.insert(number, block.await.map_err(fault));
        }
        Ok(blocks)
    }

    /// The ids of the signer's transactions with these nonces in this block.
    async fn ids_in(
        &self,
        block: u64,
        signer: Address,
        nonces: &Range<u64>,
    ) -> Result<Vec<TransactionId>, Fault> {
        let params = (BlockNumberOrTag::from(block), true);
        let found: Option<Block<InBlock>> = self.rpc.ask("eth_getBlockByNumber", params).await?;
        let found = found
            .ok_or_else(|| unavailable(format_args!("the nodes do not have the block {block}")))?;
        let own = found.transactions.into_iter().filter(|transaction| {
            transaction.from == signer && nonces.contains(&transaction.nonce.to())
        });
        Ok(own.map(|transaction| id(transaction.hash)).collect())
    }

    /// Reads the blocks of a gap one by one.
    async fn read(&self, signer: &LaneId, gap: &Gap) -> Result<Vec<TransactionId>, Fault> {
        let address: Address = signer.address().parse().map_err(unavailable)?;
        let mut ids = Vec::new();
        for block in gap.blocks.clone() {
            ids.extend(self.ids_in(block, address, &gap.nonces).await?);
        }
        let expected = gap.nonces.end - gap.nonces.start;
        if ids.len() as u64 == expected {
            return Ok(ids);
        }
        Err(unavailable(format_args!(
            "the nonce of the signer {signer} rose by {expected} in the blocks {} to {}, which have {} such \
             transactions of it: a delegation (EIP-7702) uses nonces, too",
            gap.blocks.start(),
            gap.blocks.end(),
            ids.len()
        )))
    }

    /// Splits a gap in the middle of its blocks.
    async fn split(&self, signer: &LaneId, gap: Gap) -> Result<[Gap; 2], Fault> {
        let (first, last) = gap.blocks.into_inner();
        let middle = first + (last - first) / 2;
        let count = self.count(signer, BlockId::number(middle)).await?;
        let count = count.clamp(gap.nonces.start, gap.nonces.end);
        Ok([
            Gap {
                blocks: first..=middle,
                nonces: gap.nonces.start..count,
            },
            Gap {
                blocks: middle + 1..=last,
                nonces: count..gap.nonces.end,
            },
        ])
    }
}

#[async_trait]
impl Ledger for EvmLedger {
    fn network(&self) -> &Network {
        &self.network
    }

    fn lanes(&self) -> &[LaneId] {
        &self.lanes
    }

    fn assets(&self) -> Vec<String> {
        let tokens = self.tokens.iter();
        tokens.map(|token| token.to_checksum(None)).collect()
    }

    /// The contracts of channels and of holds.
    fn holds(&self, scheme: &str) -> bool {
        ["batch-settlement", "auth-capture"].contains(&scheme)
    }

    async fn blocks(&self, from: Bound, to: Bound) -> Result<Blocks, Fault> {
        let tag = match to {
            Bound::Block(number) => number.into(),
            Bound::Final => BlockNumberOrTag::Finalized,
            _ => BlockNumberOrTag::Latest,
        };
        let last = self.head(tag).await?;
        let mut last_number: u64 = last.number.to();
        let from_number = match from {
            Bound::Block(number) => number,
            Bound::Time(time) => self.first_since(time, last_number).await?,
            _ => last_number,
        };
        if let Bound::Time(time) = to {
            let after = self.first_since(time, last_number).await?;
            last_number = after.saturating_sub(1);
        }
        if from_number > last_number {
            return Err(unavailable(format_args!(
                "the first block {from_number} is after the last one, {last_number}"
            )));
        }
        let time = |block| self.time(block);
        Ok(Blocks {
            from: Timestamp::from_secs(time(from_number).await?),
            to: Timestamp::from_secs(time(last_number).await?),
            numbers: from_number..=last_number,
        })
    }

    async fn look_up(&self, ids: &[TransactionId]) -> Vec<Result<Option<Sent>, Fault>> {
        let mut all = Vec::with_capacity(ids.len());
        for some in ids.chunks(LOOKED_UP) {
            match self.look_up_some(some).await {
                Ok(found) => all.extend(found),
                Err(fault) => all.extend(some.iter().map(|_| Err(fault.clone()))),
            }
        }
        all
    }

    async fn used(&self, transaction: &TransactionId) -> Result<Vec<UsedAuthorization>, Fault> {
        let mut batch = self.rpc.batch();
        let params = (transaction.as_str(),);
        let receipt: Waiter<Option<Receipt>> = batch.add("eth_getTransactionReceipt", &params)?;
        let body: Waiter<Option<Body>> = batch.add("eth_getTransactionByHash", &params)?;
        batch.send().await?;
        let gone = || unavailable(format_args!("the nodes do not have {transaction}"));
        let receipt = receipt.await.map_err(fault)?.ok_or_else(gone)?;
        let body = body.await.map_err(fault)?;
        match included(transaction, receipt, body)? {
            Some((receipt, body)) if receipt.status == U64::from(1) => {
                let sent = used_in::SentCalls {
                    chain_id: self.chain_id,
                    to: body.to,
                    input: &body.input,
                    logs: &receipt.logs,
                };
                Ok(sent.used())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Compares counts of nonces. Only where a nonce is not known, it searches the blocks.
    async fn others(
        &self,
        lane: &LaneId,
        blocks: &RangeInclusive<u64>,
        known: &KnownTransactions,
        found: &mut (dyn FnMut(Sent) + Send),
    ) -> Result<(), Fault> {
        let (first, last) = (*blocks.start(), *blocks.end());
        let before = match first.checked_sub(1) {
            Some(before) => self.count(lane, BlockId::number(before)).await?,
            None => 0,
        };
        let (last, after) = self.count_since(lane, last).await?;
        let mut gaps = gaps(&(first..=last), before..after, known);
        while let Some(gap) = gaps.pop() {
            if gap.nonces.is_empty() {
                continue;
            }
            if gap.blocks.end() - gap.blocks.start() >= BLOCKS_READ {
                gaps.extend(self.split(lane, gap).await?);
                continue;
            }
            let ids = self.read(lane, &gap).await?;
            for (id, sent) in ids.iter().zip(self.look_up(&ids).await) {
                let gone = || unavailable(format_args!("the nodes no longer have {id}"));
                found(sent?.ok_or_else(gone)?);
            }
        }
        Ok(())
    }
}

/// The nonces that are not known, with the blocks that must have them: from the block of the nonce
/// before them to the block of the nonce after them.
fn gaps(blocks: &RangeInclusive<u64>, nonces: Range<u64>, known: &KnownTransactions) -> Vec<Gap> {
    let mut gaps: Vec<Gap> = Vec::new();
    let mut first = *blocks.start();
    let mut start = nonces.start;
    // Known nonces are looked at one after the other; a gap is what lies between two of them.
    for (nonce, block) in known.numbered(nonces.clone()) {
        if start < nonce {
            gaps.push(Gap {
                blocks: first..=block,
                nonces: start..nonce,
            });
        }
        (first, start) = (block, nonce + 1);
    }
    if start < nonces.end {
        gaps.push(Gap {
            blocks: first..=*blocks.end(),
            nonces: start..nonces.end,
        });
    }
    gaps
}

/// The receipt and the body of an included transaction, if both are of this transaction.
fn included(
    id: &TransactionId,
    receipt: Receipt,
    body: Option<Body>,
) -> Result<Option<(Receipt, Body)>, Fault> {
    let is_asked = |hash: B256| hash.to_string().eq_ignore_ascii_case(id.as_str());
    match body {
        Some(body) if is_asked(receipt.transaction_hash) && is_asked(body.hash) => {
            Ok(Some((receipt, body)))
        }
        _ => Err(unavailable(format_args!(
            "a node has only a part of the transaction {id}"
        ))),
    }
}

/// What an included transaction did. `None` if its block is not one of the chain.
fn sent(
    receipt: &Receipt,
    body: &Body,
    blocks: &BTreeMap<u64, Result<Option<Block<B256>>, Fault>>,
) -> Result<Option<Sent>, Fault> {
    let number = receipt.block_number.map(|number| number.to());
    let block = match number.and_then(|number| blocks.get(&number)) {
        Some(Err(fault)) => return Err(fault.clone()),
        Some(Ok(Some(block))) if Some(block.hash) == receipt.block_hash => block,
        _ => return Ok(None),
    };
    let lane = LaneId::new(&body.from.to_checksum(None));
    let time = Timestamp::from_secs(block.timestamp.to());
    let mut sent = Sent::new(id(body.hash), lane, number.unwrap_or_default(), time);
    sent.sequence = Some(body.nonce.to());
    sent.succeeded = receipt.status == U64::from(1);
    let execution = receipt.gas_used.saturating_mul(receipt.effective_gas_price);
    let data = receipt.l1_fee.unwrap_or_default();
    sent.fee = Amount::new(execution.saturating_add(data));
    if sent.succeeded {
        sent.transfers = transfers(body, &receipt.logs);
    }
    Ok(Some(sent))
}

/// What a transaction that succeeded moved: its own value, and what tokens logged.
fn transfers(body: &Body, logs: &[Log]) -> Vec<Transfer> {
    let text = |address: Address| address.to_checksum(None);
    let mut transfers = Vec::new();
    if !body.value.is_zero() {
        let to = body.to.map(text).unwrap_or_default();
        transfers.push(Transfer::native(
            &text(body.from),
            &to,
            Amount::new(body.value),
        ));
    }
    let logged = logs.iter().filter_map(|log| {
        let transfer = Erc20::Transfer::decode_log_data(&log.data).ok()?;
        let (from, to) = (text(transfer.from), text(transfer.to));
        let amount = Amount::new(transfer.value);
        (!amount.is_zero()).then(|| Transfer::new(&text(log.address), &from, &to, amount))
    });
    transfers.extend(logged);
    transfers
}

/// A transaction's id, as the journal spells it.
fn id(hash: B256) -> TransactionId {
    TransactionId::new(&format!("{hash:#x}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every nonce is either known or in exactly one gap, and the gap has its block.
        #[test]
        fn every_unknown_nonce_is_in_one_gap(
            blocks in proptest::collection::vec((1_u64..4, any::<bool>()), 1..20),
        ) {
            let mut known = KnownTransactions::default();
            let (mut block, mut all) = (10, Vec::new());
            for (nonce, (step, is_known)) in (5_u64..).zip(&blocks) {
                block += step;
                let mut sent = Sent::new(
                    TransactionId::new("0x1"), LaneId::new("signer"), block, Timestamp::from_secs(0),
                );
                sent.sequence = Some(nonce);
                if *is_known {
                    known.add(&sent);
                }
                all.push((nonce, block, *is_known));
            }
            let nonces = 5..5 + all.len() as u64;
            let gaps = gaps(&(10..=block + 3), nonces, &known);
            for (nonce, block, is_known) in all {
                let with = gaps.iter().filter(|gap| gap.nonces.contains(&nonce));
                let with: Vec<&Gap> = with.collect();
                prop_assert_eq!(with.len(), usize::from(!is_known));
                prop_assert!(with.iter().all(|gap| gap.blocks.contains(&block)));
            }
        }
    }
}
