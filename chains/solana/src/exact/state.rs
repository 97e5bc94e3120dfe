//! The state of a signed payment on the cluster: included, expired, or still usable.
//!
//! The id of a payment's transaction is the fee payer's signature, which the payer never sees. So
//! this module searches for the payer's own signature among the transactions of its account since
//! the payment was signed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use quittance_core::json::Object;
use quittance_core::{AuthorizationState, Fault, Timestamp};
use quittance_nodes::{Nodes, Reply, Request, decode_reply};
use serde::Deserialize;
use serde_json::{Value, json};
use solana_message::VersionedMessage;
use solana_pubkey::Pubkey;
use solana_transaction::versioned::VersionedTransaction;

use crate::chain::read::InContext;
use crate::instruction::MEMO;

/// The seconds after which no block can include a signed payment. Its blockhash expires after 150
/// blocks, normally of 0.4 seconds each. This is 2.5 times as long, because a payer that signs
/// again too early pays twice.
pub(super) const EXPIRES_SECS: u64 = 150;

/// The seconds by which the newest finalized block must be later than a payment's end. A block's
/// time is an estimate and may be wrong by this much.
const SETTLED_SECS: u64 = 60;

/// The most transactions in one reply, a limit of the RPC interface.
const PAGE: usize = 1000;

/// The most pages that are read. The state of a payer with more transactions since the payment was
/// signed is unknown.
const PAGES_MAX: usize = 5;

/// The most transactions that are fetched whole. Usually there is one, because each payment has its
/// own memo.
const FETCHES_MAX: usize = 50;

/// The payment as its payer signed it.
struct Signed {
    blockhash: String,
    signature: [u8; 64],
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
            signature: (*transaction.signatures.get(at)?).into(),
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

/// The fields of `getSignaturesForAddress` that are used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    signature: String,
    #[serde(default)]
    block_time: Option<u64>,
    /// The transaction's memos, each after its length; missing if the node does not store them.
    #[serde(default)]
    memo: Option<String>,
}

/// The state of the payment with this payload, whose payer considered it expired from `expires` on.
///
/// # Errors
/// When no node answers.
pub(super) async fn fetch(
    nodes: &Nodes,
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
    let is_dead = is_dead(nodes, &signed, expires).await?;
    let Some(listed) = since_then(nodes, payer, since).await? else {
        return Ok(AuthorizationState::Unknown);
    };
    let (included, all_seen) = find(nodes, &signed, &listed).await?;
    Ok(match (included, is_dead, all_seen) {
        (Some(id), ..) => AuthorizationState::Used(Some(id)),
        (None, true, true) => AuthorizationState::Expired,
        (None, true, false) => AuthorizationState::Unknown,
        (None, false, _) => AuthorizationState::Usable,
    })
}

/// Whether no block can include the payment any more. The node's finalized block must be later than
/// the payment, or the node may not know the blockhash yet.
async fn is_dead(nodes: &Nodes, signed: &Signed, expires: Timestamp) -> Result<bool, Fault> {
    let finalized = json!({ "commitment": "finalized" });
    let calls: [Request; 2] = [
        Request::new("getSlot", json!([finalized])),
        Request::new("isBlockhashValid", json!([signed.blockhash, finalized])),
    ];
    // A node of another cluster knows no blockhash of this one, and would report that the payment
    // has expired.
    let answers = nodes.ask_one_node_in_doubt(&calls, |_| true).await?;
    let mut answers = answers.into_iter();
    let slot: u64 = decode_reply(next(&mut answers))?;
    let valid: InContext<bool> = decode_reply(next(&mut answers))?;
    let time: u64 = nodes.ask("getBlockTime", json!([slot])).await?;
    let is_past = time >= expires.plus_secs(SETTLED_SECS).secs();
    Ok(is_past && !valid.value)
}

fn next(answers: &mut impl Iterator<Item = Reply>) -> Reply {
    answers.next().unwrap_or(Ok(Value::Null))
}

/// The finalized transactions of an account since a time; `None` if the node does not have them all
/// or there are too many.
async fn since_then(
    nodes: &Nodes,
    payer: &Pubkey,
    since: u64,
) -> Result<Option<Vec<Listed>>, Fault> {
    // Nodes delete old blocks and then omit their transactions without an error.
    let first: u64 = nodes.ask("getFirstAvailableBlock", json!([])).await?;
    if first > 0 {
        let oldest: Option<u64> = nodes.ask("getBlockTime", json!([first])).await?;
        if oldest.is_none_or(|oldest| oldest > since) {
            return Ok(None);
        }
    }
    let mut all: Vec<Listed> = Vec::new();
    for _ in 0..PAGES_MAX {
        let mut options = json!({ "commitment": "finalized", "limit": PAGE });
        if let Some(last) = all.last() {
            options["before"] = json!(last.signature);
        }
        let asked = json!([payer.to_string(), options]);
        let page: Vec<Listed> = nodes.ask("getSignaturesForAddress", asked).await?;
        let is_last = page.len() < PAGE;
        all.extend(page);
        let is_older = |listed: &Listed| listed.block_time.is_some_and(|time| time < since);
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
    nodes: &Nodes,
    signed: &Signed,
    listed: &[Listed],
) -> Result<(Option<String>, bool), Fault> {
    let may_be = |listed: &&Listed| match (&listed.memo, &signed.memo) {
        (Some(found), Some(own)) => found.contains(own.as_str()),
        _ => true,
    };
    let mut candidates: Vec<&Listed> = listed.iter().filter(may_be).collect();
    let mut all_seen = candidates.len() <= FETCHES_MAX;
    candidates.truncate(FETCHES_MAX);
    let options = json!({ "commitment": "finalized", "encoding": "base64", "maxSupportedTransactionVersion": 0 });
    for candidate in candidates {
        let asked = json!([candidate.signature, options]);
        let fetched: Value = nodes.ask("getTransaction", asked).await?;
        let text = fetched["transaction"][0].as_str().unwrap_or_default();
        let bytes = BASE64.decode(text).unwrap_or_default();
        all_seen &= !bytes.is_empty();
        let is_it = bytes.windows(64).any(|window| window == signed.signature);
        // A failed transaction transferred nothing and is not included again.
        if is_it && fetched["meta"]["err"].is_null() {
            return Ok((Some(candidate.signature.clone()), all_seen));
        }
    }
    Ok((None, all_seen))
}
