//! Finds the transaction that used an authorization.

use alloy::primitives::B256;
use alloy::providers::Provider;
use alloy::rpc::types::Filter;
use alloy::sol_types::SolEvent;
use quittance_core::{Fault, Found};

use super::results::FoundLog;
use super::rpc::Rpc;
use super::status;
use super::transport::fault;
use crate::abi::Eip3009;
use crate::eip3009::AuthorizationUse;
use crate::evidence::Evidence;

/// How many blocks one request searches: the first of these that the node accepts. Providers allow
/// 10,000 (many), 1,000, or 10 (some free plans).
const WIDTHS: [u64; 3] = [1_000, 100, 10];

/// How many requests a search makes at most. The authorization was unused when its payment was
/// claimed, so its use is recent, and the first request nearly always finds it.
const WINDOWS_MAX: u64 = 5;

/// The included transaction that used an authorization; `None` if the searched blocks have none.
///
/// # Errors
/// If no node searches logs.
pub(crate) async fn find(
    rpc: &Rpc,
    used: &AuthorizationUse,
) -> Result<Option<Found<Evidence>>, Fault> {
    let head = rpc.provider().get_block_number().await.map_err(fault)?;
    let mut failed = None;
    for width in WIDTHS {
        match search(rpc, used, head, width).await {
            Ok(Some(hash)) => return Ok(Some(status::inclusion(rpc, hash).await)),
            Ok(None) => return Ok(None),
            Err(fault) => failed = Some(fault),
        }
    }
    failed.map_or(Ok(None), Err)
}

/// Searches back from the newest block, `width` blocks at a time.
async fn search(
    rpc: &Rpc,
    used: &AuthorizationUse,
    head: u64,
    width: u64,
) -> Result<Option<B256>, Fault> {
    let filter = Filter::new()
        .address(used.token)
        .event_signature(vec![
            Eip3009::AuthorizationUsed::SIGNATURE_HASH,
            Eip3009::AuthorizationCanceled::SIGNATURE_HASH,
        ])
        .topic1(used.authorizer.into_word())
        .topic2(used.nonce);
    for window in 0..WINDOWS_MAX {
        let Some(to) = head.checked_sub(window * width) else {
            break;
        };
        let from = to.saturating_sub(width - 1);
        let filter = filter.clone().from_block(from).to_block(to);
        let logs: Vec<FoundLog> = rpc.ask("eth_getLogs", (filter,)).await?;
        if let Some(log) = logs.iter().find(|log| !log.removed) {
            return Ok(Some(log.transaction_hash));
        }
    }
    Ok(None)
}
