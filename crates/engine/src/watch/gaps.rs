//! Gaps in a lane: sequence numbers below all outstanding ones for which the chain has no
//! transaction.
//!
//! A chain includes a signer's transactions in order, so a missing one blocks all later ones. It
//! can go missing after its payment was concluded, when the chain is reorganised. Or another
//! program used the signer, and its transaction was dropped. The transactions that the journal has
//! for the number are sent again, which also repairs what a reorganisation undid. If the journal
//! has none, a transaction that does nothing uses up the number. Only the holder of a lane's lease
//! searches it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use quittance_core::{Chain, Fault, LaneId, Status, Watched};
use tracing::warn;

use super::replace::fill_gap;
use crate::context::Context;
use crate::writer::{Journaled, watched};

/// How many sequence numbers of one lane are repaired at a time. Nodes keep 16 to 64 transactions
/// of one signer.
const AT_ONCE_MAX: u64 = 16;

/// Finds gaps and fills them.
#[derive(Default)]
pub(crate) struct GapFiller {
    /// The gaps found in the last search. A node that is behind shows gaps that do not exist, but
    /// not for long.
    found: BTreeMap<LaneId, Range<u64>>,
}

impl GapFiller {
    /// Searches once. Returns whether the chain has taken a transaction back since the last search.
    ///
    /// Transactions from the journal are sent again at once: that is harmless if a node is only
    /// behind. A number without a transaction is filled only if the last search found it too.
    pub(crate) async fn search<C: Chain>(
        &mut self,
        context: &Arc<Context<C>>,
    ) -> Result<bool, Fault> {
        let before = std::mem::take(&mut self.found);
        let mut was_taken_back = false;
        for lane in &context.leases.held() {
            let Some(gap) = find_gap(context, lane).await? else {
                continue;
            };
            let known = before.get(lane);
            let is_known = known.is_some_and(|known| known.start == gap.start);
            if is_known {
                warn!(%lane, sequences = ?gap, "a gap in the sequence numbers");
            }
            let is_missing = repair(context, lane, gap.clone(), is_known).await?;
            was_taken_back |= is_missing && !is_known;
            self.found.insert(lane.clone(), gap);
        }
        Ok(was_taken_back)
    }
}

/// The numbers from the chain's next one to the first outstanding one, or to the lane's next one.
async fn find_gap<C: Chain>(
    context: &Context<C>,
    lane: &LaneId,
) -> Result<Option<Range<u64>>, Fault> {
    let Some(on_chain) = context.chain.next_sequence(lane).await? else {
        return Ok(None);
    };
    let journal = &context.writer.journal;
    let next = journal.next_sequence(context.network(), lane).await?;
    let end = context.outstanding.first(lane).unwrap_or(next);
    Ok((on_chain < end).then(|| on_chain..end.min(on_chain + AT_ONCE_MAX)))
}

/// Sends the journal's transactions of a gap again, as far as they can still be included. Fills the
/// other numbers if `may_fill`. Returns whether the chain lacks a transaction of the journal.
async fn repair<C: Chain>(
    context: &Arc<Context<C>>,
    lane: &LaneId,
    gap: Range<u64>,
    may_fill: bool,
) -> Result<bool, Fault> {
    let mut known: BTreeMap<u64, Vec<Journaled>> = BTreeMap::new();
    let writer = &context.writer;
    let journaled = writer
        .transactions_at(context.network(), lane, gap.clone())
        .await?;
    for journaled in journaled {
        let sequence = journaled.transaction().sequence;
        known.entry(sequence).or_default().push(journaled);
    }
    let watched: Vec<Watched> = known.values().map(|all| watched(all)).collect();
    let statuses = match watched.is_empty() {
        true => Vec::new(),
        false => context.chain.status(&watched).await,
    };
    let (mut included, mut is_missing) = (BTreeSet::new(), false);
    for (watched, status) in watched.iter().zip(statuses) {
        match status? {
            Status::Pending => is_missing = true,
            // Where transactions expire, these can never be included. Sent again, they would be
            // found dropped again, for ever.
            Status::Dropped => drop(known.remove(&watched.sequence)),
            // The node that reported the next number was behind. This is not a gap.
            Status::Included { .. } | Status::Executing { .. } => {
                included.insert(watched.sequence);
            }
        }
    }
    for sequence in gap.filter(|sequence| !included.contains(sequence)) {
        match known.remove(&sequence) {
            Some(transactions) => context.outstanding.watch_journaled(None, transactions),
            None if may_fill => fill_gap(context, lane, sequence).await?,
            None => {}
        }
    }
    Ok(is_missing)
}
