//! What is out and not included: sent again, for a higher fee when it is high time, and given up when its time is over.

use std::sync::Arc;

use quittance_core::{Chain, Fault, LaneId, Submission, Transaction, Watched};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Place, Sending};
use crate::rail::Rail;
use crate::writer::Journaled;

/// How many transactions are signed for one place at most. A fee raised by a tenth twenty times is six times the fee.
const REPLACEMENTS_MAX: usize = 20;

/// What it is time for.
enum Due {
    /// The same bytes again.
    Resubmit,
    /// A higher fee.
    Replace,
    /// Nothing of what it was for can still happen: the place is used up with a transaction that does nothing.
    Fill,
}

/// Does what it is time for, in a task of its own: a node that hangs keeps nobody from looking.
pub(super) fn push<C: Chain>(rail: &Arc<Rail<C>>, watched: &Watched) {
    let key = (watched.lane.clone(), watched.sequence);
    let first = rail.watch.first(&watched.lane) == Some(watched.sequence);
    let due = rail
        .watch
        .at(&key, |sequence| due(rail, sequence, first))
        .flatten();
    let Some(due) = due else {
        return;
    };
    let rail = Arc::clone(rail);
    rail.clone().spawn(async move {
        let Some(sending) = rail.watch.sending(key) else {
            return;
        };
        let transactions = rail.watch.at(&sending.key, |sequence| {
            sequence.last_sent = Some(Instant::now());
            sequence.transactions.clone()
        });
        let Some((newest, older)) = transactions.as_deref().and_then(<[_]>::split_last) else {
            return;
        };
        let signed = match due {
            Due::Resubmit => Ok(None),
            Due::Replace => rail.chain.replace(newest.transaction()).await,
            // Their time is over only if the clock is right.
            Due::Fill if rail.doubts_time().await.is_some() => Ok(None),
            Due::Fill => {
                let (lane, sequence) = &sending.key;
                rail.chain
                    .noop(lane, *sequence, Some(newest.transaction()))
                    .await
            }
        };
        let signed = signed.unwrap_or_else(|fault| {
            warn!(lane = %sending.key.0, %fault, "nothing new can be offered");
            None
        });
        match signed {
            Some(signed) => offer(&rail, &sending, newest, signed, matches!(due, Due::Fill)).await,
            None => {
                if !matches!(due, Due::Resubmit) {
                    let declined =
                        |sequence: &mut Place<C>| sequence.last_declined = Some(Instant::now());
                    rail.watch.at(&sending.key, declined);
                }
                resubmit(&rail, newest, older).await;
            }
        }
    });
}

fn due<C: Chain>(rail: &Rail<C>, sequence: &Place<C>, first: bool) -> Option<Due> {
    let timing = rail.timing;
    let waited = sequence.since.elapsed();
    let over = |job| rail.is_too_late(job);
    let long_ago = |moment: Option<Instant>| {
        moment.is_none_or(|moment| moment.elapsed() >= timing.resubmit_after)
    };
    // Where a chain has just had nothing to offer, it is not asked at every look.
    if first && sequence.transactions.len() < REPLACEMENTS_MAX && long_ago(sequence.last_declined) {
        // Only those that were for somebody are given up: others may be what a settlement of an earlier run waits for.
        let for_nothing = !sequence.jobs.is_empty() && sequence.jobs.iter().all(over);
        if for_nothing && !sequence.is_filled() && waited >= timing.resubmit_after {
            return Some(Due::Fill);
        }
        if waited >= timing.replace_after * sequence.transactions.len() as u32 {
            return Some(Due::Replace);
        }
    }
    long_ago(sequence.last_sent).then_some(Due::Resubmit)
}

/// Sends the newest bytes again; where the nodes refuse them, those before, which may still be good enough.
async fn resubmit<C: Chain>(rail: &Rail<C>, newest: &Journaled, older: &[Journaled]) {
    for again in std::iter::once(newest).chain(older.iter().rev()) {
        let submission = again.submit(&*rail.chain).await;
        debug!(transaction = %again.transaction().id, ?submission, "sent again");
        if !matches!(submission, Submission::Refused(_)) {
            return;
        }
    }
}

/// Sends a transaction in exchange for the newest.
async fn offer<C: Chain>(
    rail: &Rail<C>,
    sending: &Sending<C>,
    newest: &Journaled,
    signed: Transaction,
    is_filler: bool,
) {
    // All the settlements that the replaced one was for, those among them that nobody here works on as well.
    let settlements = match is_filler {
        true => Vec::new(),
        false => match rail
            .writer
            .journal
            .settlements_of(&newest.transaction().id)
            .await
        {
            Ok(settlements) => settlements,
            Err(error) => return warn!(%error, "no higher fee is offered"),
        },
    };
    let Some(journaled) = rail
        .writer
        .record(rail.network(), signed, &settlements)
        .await
    else {
        return;
    };
    let id = &journaled.transaction().id;
    info!(transaction = %id, replaces = %newest.transaction().id, is_filler, "offering a higher fee");
    metrics::counter!("quittance_replacements_total", "network" => rail.network().to_owned())
        .increment(1);
    if !rail
        .watch
        .replaced(&sending.key, journaled.clone(), is_filler)
    {
        return;
    }
    if let Submission::Refused(fault) = journaled.submit(&*rail.chain).await {
        warn!(transaction = %id, %fault, "the higher fee was refused");
    }
}

/// Uses up a place with a transaction that does nothing, and follows it.
pub(super) async fn fill<C: Chain>(
    rail: &Arc<Rail<C>>,
    lane: &LaneId,
    sequence: u64,
) -> Result<(), Fault> {
    let sending = rail.watch.reserve(lane, sequence);
    let Some(signed) = rail.chain.noop(lane, sequence, None).await? else {
        return Ok(());
    };
    let Some(journaled) = rail.writer.record(rail.network(), signed, &[]).await else {
        return Ok(());
    };
    rail.watch.add(Vec::new(), journaled.clone());
    let submission = journaled.submit(&*rail.chain).await;
    info!(%lane, sequence, ?submission, "filled a hole in the line");
    drop(sending);
    Ok(())
}
