//! The cluster's records of our fee payers' transactions.
//!
//! Nothing here knows a scheme or a payment. What a transaction moved is how the balances of the
//! accounts have changed.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use async_trait::async_trait;
use quittance_books::{
    Blocks, Bound, KnownTransactions, Ledger, Sent, Transfer, UsedAuthorization,
};
use quittance_core::{Amount, Fault, LaneId, Network, Timestamp, TransactionId};
use quittance_nodes::{Object, Reply, decode_reply, unavailable};
use serde::Deserialize;
use serde_json::{Value, json};
use solana_commitment_config::CommitmentConfig;
use solana_pubkey::Pubkey;
use solana_rpc_client_api::config::{RpcSignaturesForAddressConfig, RpcTransactionConfig};
use solana_rpc_client_api::request::{MAX_GET_CONFIRMED_SIGNATURES_FOR_ADDRESS2_LIMIT, RpcRequest};
use solana_transaction::versioned::VersionedTransaction;
use solana_transaction_status_client_types::{
    EncodedTransaction, TransactionBinaryEncoding, UiLoadedAddresses, UiTransactionEncoding,
    UiTransactionTokenBalance,
};

use super::config::SolanaConfig;
use super::meta;
use super::results::ListedTransaction;
use super::rpc::{Rpc, request};
use crate::evidence::Balance;
use crate::transaction::payment_id;

/// How many transactions are fetched in one round trip, as many as gateways allow in a batch.
const FETCHED: usize = 100;

/// The most transactions in one list.
const PAGE: usize = MAX_GET_CONFIRMED_SIGNATURES_FOR_ADDRESS2_LIMIT;

/// Reads the records of a Solana cluster.
pub struct SolanaLedger {
    network: Network,
    rpc: Rpc,
    lanes: Vec<LaneId>,
    mints: Vec<String>,
}

/// A result of `getTransaction`. A reply without one of its fields is a fault.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    slot: u64,
    block_time: Option<u64>,
    transaction: EncodedTransaction,
    meta: Object<RecordMeta>,
}

/// What a transaction did and cost.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordMeta {
    err: Value,
    fee: u64,
    pre_balances: Vec<u64>,
    post_balances: Vec<u64>,
    pre_token_balances: Vec<UiTransactionTokenBalance>,
    post_token_balances: Vec<UiTransactionTokenBalance>,
    /// Missing if the transaction has no lookup tables.
    #[serde(default)]
    loaded_addresses: Option<UiLoadedAddresses>,
}

/// An included transaction, who has signed it, and what they have signed.
struct Found {
    sent: Sent,
    signers: Vec<Pubkey>,
    message: Vec<u8>,
}

impl SolanaLedger {
    pub(super) fn new(config: &SolanaConfig, lanes: &[LaneId]) -> Result<Self, reqwest::Error> {
        Ok(Self {
            network: config.network.clone(),
            rpc: Rpc::new(&config.genesis, &config.rpc_urls, config.rpc_timeout)?,
            lanes: lanes.to_vec(),
            mints: config
                .tokens
                .iter()
                .map(|token| token.mint.to_string())
                .collect(),
        })
    }

    async fn slot(&self, commitment: CommitmentConfig) -> Result<u64, Fault> {
        let params = json!([commitment]);
        self.rpc.ask(RpcRequest::GetSlot, params).await
    }

    /// The time of the first block at this slot or later. Many slots have no block.
    async fn time(&self, slot: u64) -> Result<Timestamp, Fault> {
        let params = json!([slot, 1, CommitmentConfig::confirmed()]);
        let blocks: Vec<u64> = self.rpc.ask(RpcRequest::GetBlocksWithLimit, params).await?;
        let missing = || unavailable(format_args!("the nodes have no block from slot {slot} on"));
        let block = blocks.first().ok_or_else(missing)?;
        let time: Option<u64> = self
            .rpc
            .ask(RpcRequest::GetBlockTime, json!([block]))
            .await?;
        let untimed = || {
            unavailable(format_args!(
                "the nodes do not know the time of block {block}"
            ))
        };
        time.map(Timestamp::from_secs).ok_or_else(untimed)
    }

    /// The first slot with a block of this time or later, from `first` on. One more than `head` if
    /// there is none.
    async fn first_since(&self, time: Timestamp, first: u64, head: u64) -> Result<u64, Fault> {
        let (mut from, mut to) = (first, head.saturating_add(1));
        while from < to {
            let middle = from + (to - from) / 2;
            match self.time(middle).await? < time {
                true => from = middle + 1,
                false => to = middle,
            }
        }
        Ok(from)
    }

    async fn fetch(&self, ids: &[TransactionId]) -> Vec<Result<Option<Found>, Fault>> {
        let requests: Vec<_> = ids
            .iter()
            .map(|id| {
                let options = RpcTransactionConfig {
                    encoding: Some(UiTransactionEncoding::Base64),
                    commitment: Some(CommitmentConfig::confirmed()),
                    max_supported_transaction_version: Some(0),
                };
                request(RpcRequest::GetTransaction, json!([id.as_str(), options]))
            })
            .collect();
        match self.rpc.nodes().ask_many(&requests).await {
            Ok(replies) => {
                let pairs = ids.iter().zip(replies);
                pairs.map(|(id, reply)| found(id, reply)).collect()
            }
            Err(fault) => ids.iter().map(|_| Err(fault.clone())).collect(),
        }
    }

    /// The transactions that name an account, the newest first, behind `before`.
    async fn list(
        &self,
        account: &LaneId,
        before: Option<String>,
    ) -> Result<Vec<ListedTransaction>, Fault> {
        let options = RpcSignaturesForAddressConfig {
            before,
            limit: Some(PAGE),
            commitment: Some(CommitmentConfig::confirmed()),
            ..RpcSignaturesForAddressConfig::default()
        };
        let params = json!([account.address(), options]);
        self.rpc
            .ask(RpcRequest::GetSignaturesForAddress, params)
            .await
    }
}

#[async_trait]
impl Ledger for SolanaLedger {
    fn network(&self) -> &Network {
        &self.network
    }

    fn lanes(&self) -> &[LaneId] {
        &self.lanes
    }

    fn assets(&self) -> Vec<String> {
        self.mints.clone()
    }

    fn holds(&self, _: &str) -> bool {
        false
    }

    /// A node that has deleted old blocks would report their transactions as absent, so the first
    /// block must be there.
    async fn blocks(&self, from: Bound, to: Bound) -> Result<Blocks, Fault> {
        let newest = match to {
            Bound::Final => CommitmentConfig::finalized(),
            _ => CommitmentConfig::confirmed(),
        };
        let newest = self.slot(newest).await?;
        let oldest: u64 = self
            .rpc
            .ask(RpcRequest::GetFirstAvailableBlock, json!([]))
            .await?;
        let first = match from {
            Bound::Block(slot) => slot,
            Bound::Time(time) => self.first_since(time, oldest, newest).await?,
            _ => newest,
        };
        let last = match to {
            Bound::Block(slot) => slot.min(newest),
            Bound::Time(time) => {
                let after = self.first_since(time, oldest, newest).await?;
                after.saturating_sub(1)
            }
            _ => newest,
        };
        if first < oldest {
            return Err(unavailable(format_args!(
                "the nodes have deleted the blocks before slot {oldest}: use a node that keeps them"
            )));
        }
        if first > last {
            return Err(unavailable(format_args!(
                "the first slot {first} is after the last one, {last}"
            )));
        }
        Ok(Blocks {
            from: self.time(first).await?,
            to: self.time(last).await?,
            numbers: first..=last,
        })
    }

    async fn look_up(&self, ids: &[TransactionId]) -> Vec<Result<Option<Sent>, Fault>> {
        let mut all = Vec::with_capacity(ids.len());
        for some in ids.chunks(FETCHED) {
            let found = self.fetch(some).await.into_iter();
            all.extend(found.map(|found| Ok(found?.map(|found| found.sent))));
        }
        all
    }

    /// A transaction is one payment, whose identity is its message.
    async fn used(&self, transaction: &TransactionId) -> Result<Vec<UsedAuthorization>, Fault> {
        let found = self.fetch(std::slice::from_ref(transaction)).await;
        let gone = || unavailable(format_args!("the nodes do not have {transaction}"));
        let found = found.into_iter().next().unwrap_or(Ok(None))?;
        let found = found.ok_or_else(gone)?;
        let tokens = found.sent.transfers.iter();
        let mut tokens = tokens.filter_map(|transfer| Some((transfer.asset.clone()?, transfer)));
        let (Some((asset, transfer)), None) = (tokens.next(), tokens.next()) else {
            return Ok(Vec::new());
        };
        Ok(vec![UsedAuthorization {
            id: payment_id(&self.network, &found.message),
            scheme: "exact",
            payer: transfer.from.clone(),
            pay_to: transfer.to.clone(),
            asset,
            amount: transfer.amount,
        }])
    }

    /// Reads the list of the fee payer's transactions. Anyone can name a fee payer in a
    /// transaction; only those that it has signed are its own.
    async fn others(
        &self,
        lane: &LaneId,
        blocks: &RangeInclusive<u64>,
        known: &KnownTransactions,
        hand_over: &mut (dyn FnMut(Sent) + Send),
    ) -> Result<(), Fault> {
        let mut before = None;
        loop {
            let page = self.list(lane, before).await?;
            let is_new = |listed: &&ListedTransaction| blocks.contains(&listed.slot);
            let ids = page.iter().filter(is_new);
            let ids: Vec<TransactionId> = ids
                .map(|listed| TransactionId::new(&listed.signature))
                .filter(|id| !known.has(id))
                .collect();
            for some in ids.chunks(FETCHED) {
                for (id, found) in some.iter().zip(self.fetch(some).await) {
                    let gone = || unavailable(format_args!("the nodes no longer have {id}"));
                    let found = found?.ok_or_else(gone)?;
                    let mut signers = found.signers.iter();
                    if signers.any(|signer| signer.to_string() == lane.address()) {
                        hand_over(found.sent);
                    }
                }
            }
            match page.last() {
                Some(last) if last.slot >= *blocks.start() => {
                    before = Some(last.signature.clone());
                }
                _ => return Ok(()),
            }
        }
    }
}

impl fmt::Debug for SolanaLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SolanaLedger")
            .field("network", &self.network)
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}

/// The transaction in a reply; `None` if no block has it.
fn found(id: &TransactionId, reply: Reply) -> Result<Option<Found>, Fault> {
    let Some(record) = decode_reply::<Option<Record>>(reply)? else {
        return Ok(None);
    };
    let unreadable = || unavailable(format_args!("the node returned {id} unreadably"));
    let EncodedTransaction::Binary(_, TransactionBinaryEncoding::Base64) = record.transaction
    else {
        return Err(unreadable());
    };
    let transaction = record.transaction.decode().ok_or_else(unreadable)?;
    let signature = transaction.signatures.first().map(ToString::to_string);
    let fee_payer = transaction.message.static_account_keys().first();
    let (Some(fee_payer), Some(time)) = (fee_payer, record.block_time) else {
        return Err(unreadable());
    };
    if signature.as_deref() != Some(id.as_str()) {
        return Err(unreadable());
    }
    let lane = LaneId::new(&fee_payer.to_string());
    let time = Timestamp::from_secs(time);
    let mut sent = Sent::new(id.clone(), lane, record.slot, time);
    let Object(meta) = record.meta;
    sent.fee = Amount::from(meta.fee);
    sent.succeeded = meta.err.is_null();
    let signers = signers(&transaction);
    if sent.succeeded {
        sent.transfers = transfers(&transaction, signers.len(), meta)?;
    }
    Ok(Some(Found {
        sent,
        signers,
        message: transaction.message.serialize(),
    }))
}

/// The accounts that have signed a transaction: its first ones.
fn signers(transaction: &VersionedTransaction) -> Vec<Pubkey> {
    let count = usize::from(transaction.message.header().num_required_signatures);
    let keys = transaction.message.static_account_keys();
    keys.iter().take(count).copied().collect()
}

/// What a transaction moved: tokens between owners, and lamports from its signers.
fn transfers(
    transaction: &VersionedTransaction,
    signers: usize,
    meta: RecordMeta,
) -> Result<Vec<Transfer>, Fault> {
    let mut keys = transaction.message.static_account_keys().to_vec();
    if let Some(addresses) = meta.loaded_addresses {
        keys.extend(meta::loaded(addresses)?);
    }
    let (before, after) = (&meta.pre_balances, &meta.post_balances);
    if before.len() != keys.len() || after.len() != keys.len() {
        return Err(unavailable("the node returned balances of other accounts"));
    }
    let change = |at: usize| {
        let fee = if at == 0 { meta.fee } else { 0 };
        i128::from(after[at]) + i128::from(fee) - i128::from(before[at])
    };
    let changes = (0..keys.len()).map(|at| (keys[at].to_string(), change(at)));
    // Lamports of other accounts move when accounts are made and closed, which is not a payment.
    let lost = (0..signers).any(|at| change(at) < 0);
    let mut transfers = match lost {
        true => paired(None, &changes.collect::<Vec<_>>()),
        false => Vec::new(),
    };
    let balances = meta::balances(meta.pre_token_balances, meta.post_token_balances)?;
    transfers.extend(token_transfers(balances));
    Ok(transfers)
}

/// The tokens that moved between owners.
fn token_transfers(balances: Vec<Balance>) -> Vec<Transfer> {
    let mut by_mint: BTreeMap<String, BTreeMap<String, i128>> = BTreeMap::new();
    for balance in balances {
        let change = i128::from(balance.after) - i128::from(balance.before);
        let owners = by_mint.entry(balance.mint).or_default();
        *owners.entry(balance.owner.unwrap_or_default()).or_default() += change;
    }
    let paired = by_mint
        .into_iter()
        .map(|(mint, changes)| paired(Some(&mint), &Vec::from_iter(changes)));
    paired.flatten().collect()
}

/// Transfers that explain these changes of balances: the largest decrease pays the largest
/// increase, and so on. One payer and one recipient have one explanation. What remains was minted
/// or burned, or withheld as a fee.
fn paired(asset: Option<&str>, changes: &[(String, i128)]) -> Vec<Transfer> {
    let side = |is_its: fn(i128) -> bool| {
        let its = changes.iter().filter(|(_, change)| is_its(*change));
        let mut its: Vec<(&str, u128)> = its
            .map(|(owner, change)| (owner.as_str(), change.unsigned_abs()))
            .collect();
        its.sort_by_key(|(_, amount)| *amount);
        its
    };
    let (mut debits, mut credits) = (side(|change| change < 0), side(|change| change > 0));
    let mut transfers = Vec::new();
    loop {
        let (from, to, amount) = match (debits.last_mut(), credits.last_mut()) {
            (None, None) => return transfers,
            (Some(debit), None) => (debit.0, "", std::mem::take(&mut debit.1)),
            (None, Some(credit)) => ("", credit.0, std::mem::take(&mut credit.1)),
            (Some(debit), Some(credit)) => {
                let amount = debit.1.min(credit.1);
                debit.1 -= amount;
                credit.1 -= amount;
                (debit.0, credit.0, amount)
            }
        };
        transfers.push(Transfer {
            asset: asset.map(str::to_owned),
            from: from.to_owned(),
            to: to.to_owned(),
            amount: Amount::from(u64::try_from(amount).unwrap_or(u64::MAX)),
        });
        for left in [&mut debits, &mut credits] {
            left.retain(|(_, amount)| *amount > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use proptest::prelude::*;
    use solana_message::{MessageHeader, VersionedMessage, v0};
    use solana_signature::Signature;

    use super::*;

    fn of(transfers: &[Transfer], account: &str) -> i128 {
        let amount =
            |transfer: &Transfer| i128::from(u64::try_from(transfer.amount.units()).unwrap());
        let sum = |is_its: &dyn Fn(&&Transfer) -> bool| -> i128 {
            transfers.iter().filter(|it| is_its(it)).map(amount).sum()
        };
        sum(&|transfer| transfer.to == account) - sum(&|transfer| transfer.from == account)
    }

    /// A transaction of two accounts, of which the first signs and pays the fee of 5,000 lamports.
    fn reply(before: [u64; 2], after: [u64; 2], err: &Value) -> (TransactionId, Reply) {
        let transaction = VersionedTransaction {
            signatures: vec![Signature::from([7; 64])],
            message: VersionedMessage::V0(v0::Message {
                header: MessageHeader {
                    num_required_signatures: 1,
                    ..MessageHeader::default()
                },
                account_keys: vec![Pubkey::from([1; 32]), Pubkey::from([2; 32])],
                ..v0::Message::default()
            }),
        };
        let bytes = BASE64.encode(wincode::serialize(&transaction).unwrap());
        let reply = json!({
            "slot": 9, "blockTime": 8, "transaction": [bytes, "base64"],
            "meta": { "err": err, "fee": 5_000, "preBalances": before, "postBalances": after,
                "preTokenBalances": [], "postTokenBalances": [] },
        });
        let id = transaction.signatures[0].to_string();
        (TransactionId::new(&id), Ok(reply))
    }

    #[test]
    fn lamports_that_a_signer_loses_are_a_transfer() {
        let sent = |before, after, err: &Value| {
            let (id, reply) = reply(before, after, err);
            found(&id, reply).unwrap().unwrap().sent
        };
        let [payer, thief] = [1, 2].map(|byte| Pubkey::from([byte; 32]).to_string());
        let plain = sent([9_000, 0], [4_000, 0], &Value::Null);
        assert_eq!(
            (plain.lane.address(), plain.fee),
            (&*payer, Amount::from(5_000))
        );
        assert_eq!(plain.transfers, []);
        let theft = sent([9_000, 0], [3_000, 1_000], &Value::Null);
        let amount = Amount::from(1_000);
        assert_eq!(theft.transfers, [Transfer::native(&payer, &thief, amount)]);
        // A transaction that failed has cost its fee, and moved nothing.
        let failed = sent(
            [9_000, 0],
            [4_000, 0],
            &json!({ "InstructionError": [0, 1] }),
        );
        assert!(!failed.succeeded && failed.transfers.is_empty());
    }

    #[test]
    fn another_transaction_is_not_the_one_that_was_asked_for() {
        let (_, reply) = reply([9_000, 0], [4_000, 0], &Value::Null);
        assert!(found(&TransactionId::new("2"), reply).is_err());
        assert!(
            found(&TransactionId::new("2"), Ok(Value::Null))
                .unwrap()
                .is_none()
        );
    }

    proptest! {
        #[test]
        fn transfers_explain_every_change(changes in proptest::collection::vec(-50_i128..50, 0..8)) {
            let named: Vec<_> = changes.iter().enumerate()
                .map(|(at, change)| (format!("account {at}"), *change)).collect();
            let transfers = paired(Some("mint"), &named);
            for (name, change) in &named {
                prop_assert_eq!(of(&transfers, name), *change, "{:?}", transfers);
            }
            prop_assert!(transfers.iter().all(|transfer| !transfer.amount.is_zero()));
        }
    }
}
