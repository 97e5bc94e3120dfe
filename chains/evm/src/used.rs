//! Which transaction used an authorization.

use alloy::primitives::{Address, B256, U64};
use alloy::sol_types::SolEvent;
use quittance_core::{Fault, Found};
use quittance_nodes::Nodes;
use serde::Deserialize;
use serde_json::json;

use crate::abi::Eip3009;
use crate::chain::Evidence;
use crate::status;

/// An EIP-3009 authorization that was used, or cancelled by its payer. The token logs either with the same topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationUse {
    /// The token.
    pub token: Address,
    /// Who signed the authorization.
    pub authorizer: Address,
    /// The authorization's nonce.
    pub nonce: B256,
}

/// How many blocks are searched in one call: the first of these that the node takes. Providers allow 10,000 (many), 1,000,
/// or 10 (the free plans of some).
const WIDTHS: [u64; 3] = [1_000, 100, 10];

/// How many calls a search takes at most. An authorization is looked for soon after it was used, because it was unused when
/// it was claimed: the first call finds it nearly always.
const WINDOWS_MAX: u64 = 5;

/// `eth_getLogs`, as much of it as is needed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogJson {
    transaction_hash: B256,
    /// Its block was replaced.
    #[serde(default)]
    removed: bool,
}

/// The included transaction that used an authorization; `None` where none of the newest blocks has it.
///
/// # Errors
/// When no node searches logs.
pub(crate) async fn find(
    rpc: &Nodes,
    used: &AuthorizationUse,
) -> Result<Option<Found<Evidence>>, Fault> {
    let head: U64 = rpc.ask("eth_blockNumber", json!([])).await?;
    let mut failed = None;
    for width in WIDTHS {
        match search(rpc, used, head.to(), width).await {
            Ok(Some(hash)) => return Ok(Some(status::inclusion(rpc, hash).await)),
            Ok(None) => return Ok(None),
            Err(fault) => failed = Some(fault),
        }
    }
    failed.map_or(Ok(None), Err)
}

/// Searches back from the newest block, `width` blocks at a time.
async fn search(
    rpc: &Nodes,
    used: &AuthorizationUse,
    head: u64,
    width: u64,
) -> Result<Option<B256>, Fault> {
    let topics = json!([
        [
            Eip3009::AuthorizationUsed::SIGNATURE_HASH,
            Eip3009::AuthorizationCanceled::SIGNATURE_HASH
        ],
        used.authorizer.into_word(),
        used.nonce,
    ]);
    for window in 0..WINDOWS_MAX {
        let Some(to) = head.checked_sub(window * width) else {
            break;
        };
        let from = to.saturating_sub(width - 1);
        let filter = json!([{
            "address": used.token,
            "fromBlock": U64::from(from),
            "toBlock": U64::from(to),
            "topics": topics,
        }]);
        let logs: Vec<LogJson> = rpc.ask("eth_getLogs", filter).await?;
        if let Some(log) = logs.iter().find(|log| !log.removed) {
            return Ok(Some(log.transaction_hash));
        }
    }
    Ok(None)
}
