//! Holes in a lane's line: places below everything that is out, which the chain does not have.
//!
//! A chain includes a signer's transactions in order, so one that is missing keeps all that follow it from being included.
//! It can go missing after its payment was concluded, when the chain is reorganised; or when somebody else's transaction
//! at the signer's place was dropped. What the journal has for the place is sent again, which also repairs what a
//! reorganisation undid; where it has nothing, a transaction that does nothing takes the place.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use quittance_core::{Chain, Fault, LaneId, Status, Watched};
use tracing::warn;

use super::replace::fill;
use crate::rail::Rail;
use crate::writer::{Journaled, watched};

/// How many places of one lane are mended at a time; nodes keep 16 to 64 of one signer.
const AT_ONCE_MAX: u64 = 16;

/// Finds holes and mends them.
#[derive(Default)]
pub(crate) struct GapFiller {
    /// The holes found in the last search. A node that is behind shows a hole where there is none, but not for long.
    found: BTreeMap<LaneId, Range<u64>>,
}

impl GapFiller {
    /// Searches once; says whether the chain has taken something back since the last time. What the journal has bytes for is sent again at once: that is harmless
    /// where a node is only behind. A place that nothing is known for is filled when it was there the last time already.
    pub(crate) async fn search<C: Chain>(&mut self, rail: &Arc<Rail<C>>) -> Result<bool, Fault> {
        let before = std::mem::take(&mut self.found);
        let mut is_news = false;
        for lane in rail.chain.lanes() {
            let Some(hole) = hole(rail, lane).await? else {
                continue;
            };
            let seen_before = before
                .get(lane)
                .is_some_and(|before| before.start == hole.start);
            if seen_before {
                warn!(%lane, sequences = ?hole, "a hole in the line");
            }
            let is_missing = mend(rail, lane, hole.clone(), seen_before).await?;
            is_news |= is_missing && !seen_before;
            self.found.insert(lane.clone(), hole);
        }
        Ok(is_news)
    }
}

/// What lies between the chain's next place and the first that is out, or the next to be used.
async fn hole<C: Chain>(rail: &Rail<C>, lane: &LaneId) -> Result<Option<Range<u64>>, Fault> {
    let Some(floor) = rail.chain.next_sequence(lane).await? else {
        return Ok(None);
    };
    let journal = &rail.writer.journal;
    let next = journal.next_sequence(rail.network(), lane).await?;
    let end = rail.watch.first(lane).unwrap_or(next);
    Ok((floor < end).then(|| floor..end.min(floor + AT_ONCE_MAX)))
}

/// Sends again what is known for the places of a hole and can still be included; fills the others, if `may_fill`. Says
/// whether the chain lacks anything that is known.
async fn mend<C: Chain>(
    rail: &Arc<Rail<C>>,
    lane: &LaneId,
    hole: Range<u64>,
    may_fill: bool,
) -> Result<bool, Fault> {
    let mut known: BTreeMap<u64, Vec<Journaled>> = BTreeMap::new();
    for journaled in Journaled::at(&rail.writer, rail.network(), lane, hole.clone()).await? {
        known
            .entry(journaled.transaction().sequence)
            .or_default()
            .push(journaled);
    }
    let watched: Vec<Watched> = known.values().map(|all| watched(all)).collect();
    let statuses = match watched.is_empty() {
        true => Vec::new(),
        false => rail.chain.status(&watched).await,
    };
    // Where transactions expire, those of a free place may be dead. Sent again, they would be found gone again, for ever.
    let (mut included, mut is_missing) = (BTreeSet::new(), false);
    for (sequence, status) in watched.iter().zip(statuses) {
        match status? {
            Status::Pending => is_missing = true,
            Status::Dropped => drop(known.remove(&sequence.sequence)),
            // The node that told the next place was behind: here is no hole.
            Status::Included { .. } => drop(included.insert(sequence.sequence)),
        }
    }
    for sequence in hole.filter(|sequence| !included.contains(sequence)) {
        match known.remove(&sequence) {
            Some(transactions) => rail.watch.adopt(None, transactions),
            None if may_fill => fill(rail, lane, sequence).await?,
            None => {}
        }
    }
    Ok(is_missing)
}
