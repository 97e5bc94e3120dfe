//! The state of a signed payment on the cluster: included, expired, or still usable.
//!
//! The id of a payment's transaction is the fee payer's signature, which the payer never sees. So
//! this module searches for the payer's own signature among the transactions of its account since
//! the payment was signed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use quittance_core::json::Object;
use quittance_core::{AuthorizationState, Fault, Timestamp};
use quittance_nodes::{Reply, Request, decode_reply};
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
use crate::chain::sender::fault;
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
    let is_dead = is_dead(rpc, &signed, expires).await?;
    let Some(listed) = since_then(rpc, payer, since).await? else {
        return Ok(AuthorizationState::Unknown);
    };
    let (included, all_seen) = find(rpc, &signed, &listed).await?;
    Ok(match (included, is_dead, all_seen) {
        (Some(id), ..) => AuthorizationState::Used(Some(id)),
        (None, true, true) => AuthorizationState::Expired,
        (None, true, false) => AuthorizationState::Unknown,
        (None, false, _) => AuthorizationState::Usable,
    })
}

/// Whether no block can include the payment any more. The node's finalized block must be later than
/// the payment, or the node may not know the blockhash yet.
async fn is_dead(rpc: &Rpc, signed: &Signed, expires: Timestamp) -> Result<bool, Fault> {
    let finalized = CommitmentConfig::finalized();
    let valid = json!([signed.blockhash, finalized]);
    let calls: [Request; 2] = [
        request(RpcRequest::GetSlot, json!([finalized])),
        request(RpcRequest::IsBlockhashValid, valid),
    ];
    // A node of another cluster knows no blockhash of this one, and would report that the payment
    // has expired.
    let answers = rpc.nodes().ask_one_node_in_doubt(&calls, |_| true);
    let mut answers = answers.await?.into_iter();
    let slot: u64 = decode_reply(next(&mut answers))?;
    let valid = decode_response::<bool>(next(&mut answers))?;
    let is_past = block_time(rpc, slot).await? >= expires.plus_secs(SETTLED_SECS).secs();
    Ok(is_past && !valid.value)
}

fn next(answers: &mut impl Iterator<Item = Reply>) -> Reply {
    answers.next().unwrap_or(Ok(Value::Null))
}

/// When a block was made, in seconds since 1970.
async fn block_time(rpc: &Rpc, slot: u64) -> Result<u64, Fault> {
    let time = rpc.client().get_block_time(slot).await.map_err(fault)?;
    // A block from before 1970 is older than any payment.
    Ok(u64::try_from(time).unwrap_or(0))
}

/// The finalized transactions of an account since a time; `None` if the node does not have them all
/// or there are too many.
async fn since_then(
    rpc: &Rpc,
    payer: &Pubkey,
    since: u64,
) -> Result<Option<Vec<ListedTransaction>>, Fault> {
    // Nodes delete old blocks and then omit their transactions without an error.
    let first = rpc.client().get_first_available_block();
    let first = first.await.map_err(fault)?;
    if first > 0 && block_time(rpc, first).await? > since {
        return Ok(None);
    }
    let mut all: Vec<ListedTransaction> = Vec::new();
    for _ in 0..PAGES_MAX {
        let options = RpcSignaturesForAddressConfig {
            before: all.last().map(|last| last.signature.clone()),
            limit: Some(PAGE),
            commitment: Some(CommitmentConfig::finalized()),
            ..RpcSignaturesForAddressConfig::default()
        };
        let asked = json!([payer.to_string(), options]);
        let page: Vec<ListedTransaction> =
            rpc.ask(RpcRequest::GetSignaturesForAddress, asked).await?;
        let is_last = page.len() < PAGE;
        all.extend(page);
        let is_older =
            |listed: &ListedTransaction| listed.block_time.is_some_and(|time| time < since);
        if is_last || all.last().is_some_and(is_older) {
            all.retain(|listed| !is_older(listed));
            return Ok(Some(all));
        }
    }
    Ok(None)
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
        let decoded = fetched.and_then(|found| Some((found.transaction.decode()?, found.meta)));
        let Some((transaction, meta)) = decoded else {
            all_seen = false;
            continue;
        };
        // A failed transaction transferred nothing and is not included again.
        if transaction.signatures.contains(&signed.signature) && meta["err"].is_null() {
            return Ok((Some(candidate.signature.clone()), all_seen));
        }
    }
    Ok((None, all_seen))
}
