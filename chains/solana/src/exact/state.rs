//! The state of a signed payment on the cluster: included, expired, or still usable.
//!
//! The id of a payment's transaction is the fee payer's signature, which the payer never sees. So
//! this module searches for the payer's own signature among the transactions of its account since
//! the payment was signed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use quittance_core::json::Object;
use quittance_core::{AuthorizationState, Fault, Timestamp};
use quittance_nodes::{Reply, decode_reply, unavailable};
use serde::Deserialize;
use serde_json::{Value, json};
use solana_commitment_config::CommitmentConfig;
use solana_message::VersionedMessage;
use solana_pubkey::Pubkey;
use solana_rpc_client_api::config::{RpcSignaturesForAddressConfig, RpcTransactionConfig};
use solana_rpc_client_api::request::{MAX_GET_CONFIRMED_SIGNATURES_FOR_ADDRESS2_LIMIT, RpcRequest};
use solana_signature::Signature;
use solana_transaction::versioned::VersionedTransaction;
use solana_transaction_status_client_types::UiTransactionEncoding;

use crate::chain::results::{FetchedTransaction, ListedTransaction, decode_response};
use crate::chain::rpc::{Rpc, request};
use crate::instruction::MEMO;

/// The seconds after which no block can include a signed payment. Its blockhash expires after 150
/// blocks, normally of 0.4 seconds each. This is 2.5 times as long, because a payer that signs
/// again too early pays twice.
pub(super) const EXPIRES_SECS: u64 = 150;

/// The seconds by which the newest finalized block must be later than a payment's end. A block's
/// time is an estimate and may be wrong by this much.
const SETTLED_SECS: u64 = 60;

/// The most transactions in one reply.
const PAGE: usize = MAX_GET_CONFIRMED_SIGNATURES_FOR_ADDRESS2_LIMIT;

/// The most pages that are read. The state of a payer with more transactions since the payment was
/// signed is unknown.
const PAGES_MAX: usize = 5;

/// The most transactions that are fetched whole. Usually there is one, because each payment has its
/// own memo.
const FETCHES_MAX: usize = 50;

/// The payment as its payer signed it.
struct Signed {
    blockhash: String,
    signature: Signature,
    memo: Option<String>,
}

impl Signed {
    fn parse(payer: &Pubkey, payload: &Object) -> Option<Self> {
        #[derive(Deserialize)]
        struct Payload {
            transaction: String,
        }
        let payload: Payload = payload.read("payload").ok()?;
        let bytes = BASE64.decode(payload.transaction).ok()?;
        let transaction: VersionedTransaction = wincode::deserialize(&bytes).ok()?;
        let message = &transaction.message;
        let keys = message.static_account_keys();
        let at = keys.iter().position(|key| key == payer)?;
        Some(Self {
            blockhash: message.recent_blockhash().to_string(),
            signature: *transaction.signatures.get(at)?,
            memo: memo(message),
        })
    }
}

fn memo(message: &VersionedMessage) -> Option<String> {
    let keys = message.static_account_keys();
    let is_memo = |index: u8| keys.get(usize::from(index)) == Some(&MEMO);
    let instruction = message
        .instructions()
        .iter()
        .find(|it| is_memo(it.program_id_index))?;
    String::from_utf8(instruction.data.clone()).ok()
}

/// The state of the payment with this payload, whose payer considered it expired from `expires` on.
///
/// # Errors
/// When no node answers.
pub(super) async fn fetch(
    rpc: &Rpc,
    payer: &Pubkey,
    payload: &Object,
    expires: Timestamp,
) -> Result<AuthorizationState, Fault> {
    let Some(signed) = Signed::parse(payer, payload) else {
        return Ok(AuthorizationState::Unknown);
    };
    let Some(since) = expires.secs().checked_sub(EXPIRES_SECS + SETTLED_SECS) else {
        return Ok(AuthorizationState::Unknown);
    };
    let dead_at = dead_at(rpc, &signed, expires).await?;
    let listed = since_then(rpc, payer, since, dead_at.unwrap_or(0)).await?;
    let Some(listed) = listed else {
        return Ok(AuthorizationState::Unknown);
    };
    let (included, all_seen) = find(rpc, &signed, &listed).await?;
    Ok(match (included, dead_at.is_some(), all_seen) {
        (Some(id), ..) => AuthorizationState::Used(Some(id)),
        (None, true, true) => AuthorizationState::Expired,
        (None, true, false) => AuthorizationState::Unknown,
        (None, false, _) => AuthorizationState::Usable,
    })
}

/// The slot of a finalized block after which no block can include the payment; `None` if there is
/// none yet. The block must be later than the payment, or its node may not know the blockhash yet.
async fn dead_at(rpc: &Rpc, signed: &Signed, expires: Timestamp) -> Result<Option<u64>, Fault> {
    let params = json!([signed.blockhash, CommitmentConfig::finalized()]);
    let calls = [request(RpcRequest::IsBlockhashValid, params)];
    let decode = |answers: Vec<Reply>| decode_response::<bool>(next(&mut answers.into_iter()));
    // A node of another cluster knows no blockhash of this one, and would report that the payment
    // has expired.
    let valid = rpc.nodes().ask_one_node_decoded(&calls, |_| true, decode);
    let valid = valid.await?;
    let slot = valid.context.slot;
    let time = block_time(rpc, slot).await?;
    let time = time.ok_or_else(|| unavailable("the node has no time for a finalized block"))?;
    let is_past = time >= expires.plus_secs(SETTLED_SECS).secs();
    Ok((is_past && !valid.value).then_some(slot))
}

fn next(answers: &mut impl Iterator<Item = Reply>) -> Reply {
    answers.next().unwrap_or(Ok(Value::Null))
}

/// When a block was made, in seconds since 1970; `None` if the node does not know.
async fn block_time(rpc: &Rpc, slot: u64) -> Result<Option<u64>, Fault> {
    let time: Option<i64> = rpc.ask(RpcRequest::GetBlockTime, json!([slot])).await?;
    // A block from before 1970 is older than any payment.
    Ok(time.map(|time| u64::try_from(time).unwrap_or(0)))
}

/// The finalized transactions of an account since a time, at least up to the block with the slot
/// `up_to`; `None` if a node does not have them all or there are too many.
async fn since_then(
    rpc: &Rpc,
    payer: &Pubkey,
    since: u64,
    mut up_to: u64,
) -> Result<Option<Vec<ListedTransaction>>, Fault> {
    let mut all: Vec<ListedTransaction> = Vec::new();
    for _ in 0..PAGES_MAX {
        let before = all.last().map(|last| last.signature.clone());
        let page = Page::fetch(rpc, payer, before, up_to).await?;
        // Nodes delete old blocks and then omit their transactions without an error.
        let first = page.first_block;
        if first > 0
            && block_time(rpc, first)
                .await?
                .is_none_or(|time| time > since)
        {
            return Ok(None);
        }
        let is_last = page.listed.len() < PAGE;
        // A node that does not have the last transaction of this page would list nothing before it.
        up_to = page.listed.iter().map(|one| one.slot).fold(up_to, u64::max);
        all.extend(page.listed);
        let is_older =
            |listed: &ListedTransaction| listed.block_time.is_some_and(|time| time < since);
        if is_last || all.last().is_some_and(is_older) {
            all.retain(|listed| !is_older(listed));
            return Ok(Some(all));
        }
    }
    Ok(None)
}

/// Some finalized transactions of an account, as one node listed them.
struct Page {
    /// The newest first.
    listed: Vec<ListedTransaction>,
    /// The slot of the oldest block that the node has.
    first_block: u64,
}

impl Page {
    /// The newest transactions, or those before one of them, from a node that has the block with
    /// the slot `up_to`. The node that answered an earlier question may have stopped since.
    ///
    /// # Errors
    /// If no node replies that has that block.
    async fn fetch(
        rpc: &Rpc,
        payer: &Pubkey,
        before: Option<String>,
        up_to: u64,
    ) -> Result<Self, Fault> {
        let finalized = CommitmentConfig::finalized();
        let options = RpcSignaturesForAddressConfig {
            before,
            limit: Some(PAGE),
            commitment: Some(finalized),
            // There may be several nodes behind one URL.
            min_context_slot: Some(up_to),
            ..RpcSignaturesForAddressConfig::default()
        };
        // The slot comes first and the oldest block last: a node gets and deletes blocks meanwhile.
        let calls = [
            request(RpcRequest::GetSlot, json!([finalized])),
            request(
                RpcRequest::GetSignaturesForAddress,
                json!([payer.to_string(), options]),
            ),
            request(RpcRequest::GetFirstAvailableBlock, json!([])),
        ];
        let decode = |answers: Vec<Reply>| {
            let mut answers = answers.into_iter();
            let slot: u64 = decode_reply(next(&mut answers))?;
            if slot < up_to {
                return Err(unavailable(
                    "the node is behind the one that was asked before",
                ));
            }
            Ok(Self {
                listed: decode_reply(next(&mut answers))?,
                first_block: decode_reply(next(&mut answers))?,
            })
        };
        // A node of another cluster lists nothing.
        let page = rpc.nodes().ask_one_node_decoded(&calls, |_| true, decode);
        page.await
    }
}

/// The id of the transaction that carried out the payment, if there is one, and whether all
/// candidates were seen.
async fn find(
    rpc: &Rpc,
    signed: &Signed,
    listed: &[ListedTransaction],
) -> Result<(Option<String>, bool), Fault> {
    let may_be = |listed: &&ListedTransaction| match (&listed.memo, &signed.memo) {
        (Some(found), Some(own)) => found.contains(own.as_str()),
        _ => true,
    };
    let mut candidates: Vec<&ListedTransaction> = listed.iter().filter(may_be).collect();
    let mut all_seen = candidates.len() <= FETCHES_MAX;
    candidates.truncate(FETCHES_MAX);
    let options = RpcTransactionConfig {
        encoding: Some(UiTransactionEncoding::Base64),
        commitment: Some(CommitmentConfig::finalized()),
        max_supported_transaction_version: Some(0),
    };
    for candidate in candidates {
        let asked = json!([candidate.signature, options]);
        let fetched: Option<FetchedTransaction> =
            rpc.ask(RpcRequest::GetTransaction, asked).await?;
        let read = fetched.and_then(|found| Some((found.transaction()?, found.meta?.0)));
        let Some((transaction, meta)) = read else {
            all_seen = false;
            continue;
        };
        // A failed transaction transferred nothing and is not included again.
        if transaction.signatures.contains(&signed.signature) && meta.err.is_null() {
            return Ok((Some(candidate.signature.clone()), all_seen));
        }
    }
    Ok((None, all_seen))
}
