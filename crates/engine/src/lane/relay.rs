//! Relaying a transaction that another party has signed.

use std::sync::Arc;

use quittance_core::{Chain, Transaction};
use tracing::warn;

use super::send::{drop_late, record, submit};
use crate::context::Context;
use crate::job::Ready;

/// How many of these transactions are submitted at once on one network: as many as one provider of
/// nodes serves for one client.
pub(crate) const RELAYING_MAX: usize = 64;

/// Records and sends the transaction that the action already is. Nothing waits for it, and it waits
/// for no other transaction of its signer.
pub(crate) async fn relay<C: Chain>(
    context: Arc<Context<C>>,
    ready: Ready<C>,
    signed: Transaction,
) {
    let Ok(_permit) = context.relaying.acquire().await else {
        return;
    };
    let batch = drop_late(&context, vec![ready]);
    if batch.is_empty() {
        return;
    }
    let id = signed.id.clone();
    match record(&context, &batch, signed, None).await {
        Some(journaled) => drop(submit(&context, batch, journaled, None).await),
        None => warn!(transaction = %id, "not sent: the journal has no record of it"),
    }
}
