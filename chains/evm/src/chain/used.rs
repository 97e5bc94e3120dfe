//! Finds the transaction that used an authorization.

use alloy::primitives::B256;
use alloy::providers::Provider;
use alloy::rpc::client::Waiter;
use alloy::rpc::types::Filter;
use alloy::sol_types::SolEvent;
use quittance_core::{Fault, Found};

use super::results::{FoundLog, Sent};
use super::rpc::Rpc;
use super::status;
use super::transport::fault;
use crate::abi::{Eip3009, Erc20, Permit2};
use crate::eip3009::AuthorizationUse;
use crate::evidence::Evidence;
use crate::permit2::{PERMIT2, PermitUse};

/// A query for the transaction that used an authorization.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthorizationSearch {
    /// For an EIP-3009 authorization. The token logs its nonce.
    Eip3009(AuthorizationUse),
    /// For a permit. Permit2 logs no nonce of a transfer, so the search compares the transfers that
    /// the token logged, and the data of their transactions.
    Permit2(PermitUse),
}

/// How many blocks one request searches: the first of these that the node accepts. Providers allow
/// 10,000 (many), 1,000, or 10 (some free plans).
const WIDTHS: [u64; 3] = [1_000, 100, 10];

/// How many requests a search makes at most. The authorization was unused when its payment was
/// claimed, so its use is recent, and the first request nearly always finds it.
const WINDOWS_MAX: u64 = 5;

/// How many transfers of one request are compared with a permit, the newest first. A buyer pays one
/// seller one amount less often than this in a thousand blocks.
const TRANSFERS_MAX: usize = 64;

/// The included transaction that used an authorization; `None` if the searched blocks have none.
///
/// # Errors
/// If no node searches logs.
pub(crate) async fn find(
    rpc: &Rpc,
    used: &AuthorizationSearch,
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
    used: &AuthorizationSearch,
    head: u64,
    width: u64,
) -> Result<Option<B256>, Fault> {
    let filter = filter(used);
    let mut invalidated = None;
    for window in 0..WINDOWS_MAX {
        let Some(to) = head.checked_sub(window * width) else {
            break;
        };
        let from = to.saturating_sub(width - 1);
        let filter = filter.clone().from_block(from).to_block(to);
        let mut logs: Vec<FoundLog> = rpc.ask("eth_getLogs", (filter,)).await?;
        logs.retain(|found| !found.removed);
        let user = match used {
            AuthorizationSearch::Eip3009(_) => logs.first().map(|found| found.transaction_hash),
            AuthorizationSearch::Permit2(permit) => {
                let mut invalidations = logs
                    .iter()
                    .filter(|found| permit.is_invalidated(&found.log));
                let newest = invalidations.next_back();
                invalidated = invalidated.or(newest.map(|found| found.transaction_hash));
                find_transfer(rpc, permit, &logs).await?
            }
        };
        if user.is_some() {
            return Ok(user);
        }
    }
    // A used nonce can be invalidated as well, so a transfer comes first.
    Ok(invalidated)
}

/// The logs among which the search looks.
fn filter(used: &AuthorizationSearch) -> Filter {
    match used {
        AuthorizationSearch::Eip3009(used) => Filter::new()
            .address(used.token)
            .event_signature(vec![
                Eip3009::AuthorizationUsed::SIGNATURE_HASH,
                Eip3009::AuthorizationCanceled::SIGNATURE_HASH,
            ])
            .topic1(used.authorizer.into_word())
            .topic2(used.nonce),
        AuthorizationSearch::Permit2(permit) => Filter::new()
            .address(vec![permit.token, PERMIT2])
            .event_signature(vec![
                Erc20::Transfer::SIGNATURE_HASH,
                Permit2::UnorderedNonceInvalidation::SIGNATURE_HASH,
            ])
            .topic1(permit.owner.into_word()),
    }
}

/// The newest transaction that made the permit's transfer and has the permit in its data.
async fn find_transfer(
    rpc: &Rpc,
    permit: &PermitUse,
    logs: &[FoundLog],
) -> Result<Option<B256>, Fault> {
    let transfers = logs.iter().rev();
    let transfers = transfers.filter(|found| permit.is_transfer(&found.log));
    let mut batch = rpc.batch();
    let mut sent = Vec::new();
    for found in transfers.take(TRANSFERS_MAX) {
        let hash = found.transaction_hash;
        let transaction: Waiter<Option<Sent>> = batch.add("eth_getTransactionByHash", &(hash,))?;
        sent.push((hash, transaction));
    }
    if sent.is_empty() {
        return Ok(None);
    }
    batch.send().await?;
    for (hash, transaction) in sent {
        let transaction = transaction.await.map_err(fault)?;
        if transaction.is_some_and(|transaction| permit.is_named_in(&transaction.input)) {
            return Ok(Some(hash));
        }
    }
    Ok(None)
}
