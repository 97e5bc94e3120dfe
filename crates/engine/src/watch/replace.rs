//! Handles transactions that are sent and not included. Each is sent again, replaced by one with a
//! higher fee, or replaced by one that only uses up the sequence number.

use std::sync::Arc;

use quittance_core::{Chain, Fault, LaneId, Reason, Submission, Transaction, Watched};
use quittance_journal::FencingToken;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::context::{Context, Returned};
use crate::outstanding::{Entry, SendGuard, SequenceKey};
use crate::writer::Journaled;

/// How many transactions are signed for one sequence number at most. Twenty increases of a tenth
/// make six times the fee.
const REPLACEMENTS_MAX: usize = 20;

/// What to do next about a transaction that is not included.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NextStep {
    /// Send the same bytes again.
    Resubmit,
    /// Send a replacement with a higher fee.
    Replace,
    /// Send a replacement that only uses up the sequence number, because every payment of the
    /// transaction has expired.
    Cancel,
    /// Give up the payments of a transaction that another party has signed, because they have
    /// expired.
    GiveUp,
}

/// Starts the next step, if one is due, in a task of its own: a node that hangs must not delay the
/// next look.
pub(super) fn start_next_step<C: Chain>(context: &Arc<Context<C>>, watched: &Watched) {
    let key = (watched.lane.clone(), watched.sequence);
    let is_own = context.is_own(&watched.lane);
    let is_first = context.outstanding.first(&watched.lane) == Some(watched.sequence);
    let step = context.outstanding.at(&key, |entry| match is_own {
        true => next_step(context, entry, is_first),
        false => next_step_of_other(context, entry),
    });
    if let Some(step) = step.flatten() {
        context.spawn(take_step(Arc::clone(context), key, step));
    }
}

/// The step that is due now.
fn next_step<C: Chain>(context: &Context<C>, entry: &Entry<C>, is_first: bool) -> Option<NextStep> {
    let timing = context.timing;
    let waited = entry.since.elapsed();
    let is_long_ago = |moment: Option<Instant>| {
        moment.is_none_or(|moment| moment.elapsed() >= timing.resubmit_after)
    };
    let has_room = entry.transactions.len() < REPLACEMENTS_MAX;
    // A chain that has just had no replacement is not asked again at every look.
    if is_first && has_room && is_long_ago(entry.last_declined) {
        let has_expired = |job| context.is_too_late(job);
        // Without jobs, a settlement of an earlier run may still wait for the transaction.
        let all_expired = !entry.jobs.is_empty() && entry.jobs.iter().all(has_expired);
        if all_expired && !entry.ends_in_noop() && waited >= timing.resubmit_after {
            return Some(NextStep::Cancel);
        }
        if waited >= timing.replace_after * entry.transactions.len() as u32 {
            return Some(NextStep::Replace);
        }
    }
    is_long_ago(entry.last_sent).then_some(NextStep::Resubmit)
}

/// The step that is due now for a transaction that another party has signed. Only that party could
/// replace it.
///
/// A payment that has expired cannot settle any more, by its scheme's own word. A block that had it
/// just before may still be missing at the nodes, so there is a pause before it is given up.
fn next_step_of_other<C: Chain>(context: &Context<C>, entry: &mut Entry<C>) -> Option<NextStep> {
    let timing = context.timing;
    let has_expired = |job| context.is_too_late(job);
    let all_expired = !entry.jobs.is_empty() && entry.jobs.iter().all(has_expired);
    let since = || entry.expired_since.unwrap_or_else(Instant::now);
    entry.expired_since = all_expired.then(since);
    let waited = entry.expired_since.map(|since| since.elapsed());
    if waited.is_some_and(|waited| waited >= timing.replace_after) {
        return Some(NextStep::GiveUp);
    }
    let is_long_ago = |sent: Instant| sent.elapsed() >= timing.resubmit_after;
    let is_due = entry.last_sent.is_none_or(is_long_ago);
    is_due.then_some(NextStep::Resubmit)
}

/// Concludes the expired payments of a transaction that another party has signed. If the chain
/// includes it nevertheless, a later request for the payment finds it.
async fn give_up<C: Chain>(context: &Context<C>, sending: &SendGuard<C>) {
    // The payments have expired only if the clock is right.
    if context.health.clock_doubt().await.is_some() {
        return;
    }
    let (lane, sequence) = sending.key.clone();
    warn!(%lane, sequence, "its payments have expired: no longer watched");
    for job in context.outstanding.remove(&sending.key) {
        match context.is_too_late(&job) {
            true => {
                let expired = Reason::SETTLEMENT_EXPIRED.into();
                context.fail(job, expired, None).await;
            }
            // It has joined since the last look.
            false => context.hand_back(Returned::Resume(job)),
        }
    }
}

/// Takes a step for one sequence number, unless another task sends bytes for it.
async fn take_step<C: Chain>(context: Arc<Context<C>>, key: SequenceKey, step: NextStep) {
    let Some(sending) = context.outstanding.start_sending(key) else {
        return;
    };
    if step == NextStep::GiveUp {
        return give_up(&context, &sending).await;
    }
    let transactions = context.outstanding.at(&sending.key, |entry| {
        entry.last_sent = Some(Instant::now());
        entry.transactions.clone()
    });
    let Some((newest, older)) = transactions.as_deref().and_then(<[_]>::split_last) else {
        return;
    };
    // Without the lease of its lane, only the old bytes are sent again.
    if let Some(token) = context.leases.token(&sending.key.0) {
        let signed = sign(&context, &sending.key, newest, step).await;
        let signed = signed.unwrap_or_else(|fault| {
            warn!(lane = %sending.key.0, %fault, "no replacement could be signed");
            None
        });
        if let Some(signed) = signed {
            let signed = (signed, token);
            let is_noop = step == NextStep::Cancel;
            return submit_replacement(&context, &sending, newest, signed, is_noop).await;
        }
    }
    if step != NextStep::Resubmit {
        context.outstanding.at(&sending.key, |entry| {
            entry.last_declined = Some(Instant::now());
        });
    }
    resubmit(&context, newest, older).await;
}

/// Signs what a step sends. `None` if the step sends the old bytes.
async fn sign<C: Chain>(
    context: &Context<C>,
    (lane, sequence): &SequenceKey,
    newest: &Journaled,
    step: NextStep,
) -> Result<Option<Transaction>, Fault> {
    let newest = newest.transaction();
    match step {
        NextStep::Resubmit | NextStep::GiveUp => Ok(None),
        NextStep::Replace => context.chain.replace(newest).await,
        // The payments have expired only if the clock is right.
        NextStep::Cancel if context.health.clock_doubt().await.is_some() => Ok(None),
        NextStep::Cancel => context.chain.noop(lane, *sequence, Some(newest)).await,
    }
}

/// Sends the newest bytes again. If the nodes refuse them, sends the older ones, whose fee may
/// still be sufficient. Those of another signer replace nothing here, so all of them are sent.
async fn resubmit<C: Chain>(context: &Context<C>, newest: &Journaled, older: &[Journaled]) {
    let is_own = context.is_own(&newest.transaction().lane);
    for again in std::iter::once(newest).chain(older.iter().rev()) {
        let submission = again.submit(&*context.chain).await;
        debug!(transaction = %again.transaction().id, ?submission, "sent again");
        if is_own && !matches!(submission, Submission::Refused(_)) {
            return;
        }
    }
}

/// Records a replacement of the newest transaction and sends it.
async fn submit_replacement<C: Chain>(
    context: &Context<C>,
    sending: &SendGuard<C>,
    newest: &Journaled,
    (signed, token): (Transaction, FencingToken),
    is_noop: bool,
) {
    let replaced = &newest.transaction().id;
    // The replacement settles all payments of the replaced transaction, also those that no task of
    // this process works on.
    let settlements = match is_noop {
        true => Ok(Vec::new()),
        false => context.writer.journal.settlements_of(replaced).await,
    };
    let settlements = match settlements {
        Ok(settlements) => settlements,
        Err(error) => return warn!(%error, "no replacement is sent"),
    };
    let recorded = context
        .writer
        .record(context.network(), signed, &settlements, Some(token))
        .await;
    let Some(journaled) = recorded else {
        return;
    };
    let id = &journaled.transaction().id;
    info!(transaction = %id, replaces = %replaced, is_noop, "sending a replacement");
    let network = context.network().to_owned();
    metrics::counter!("quittance_replacements_total", "network" => network).increment(1);
    let is_watched = context
        .outstanding
        .replaced(&sending.key, journaled.clone(), is_noop);
    if !is_watched {
        return;
    }
    if let Submission::Refused(fault) = journaled.submit(&*context.chain).await {
        warn!(transaction = %id, %fault, "the replacement was refused");
    }
}

/// Uses up a sequence number with a transaction that does nothing else, and watches it.
pub(super) async fn fill_gap<C: Chain>(
    context: &Arc<Context<C>>,
    lane: &LaneId,
    sequence: u64,
) -> Result<(), Fault> {
    let sending = context.outstanding.reserve(lane, sequence);
    let Some(token) = context.leases.token(lane) else {
        return Ok(());
    };
    let Some(signed) = context.chain.noop(lane, sequence, None).await? else {
        return Ok(());
    };
    let (network, token) = (context.network(), Some(token));
    let recorded = context.writer.record(network, signed, &[], token).await;
    let Some(journaled) = recorded else {
        return Ok(());
    };
    context.outstanding.add(Vec::new(), journaled.clone());
    let submission = journaled.submit(&*context.chain).await;
    info!(%lane, sequence, ?submission, "filled a gap in the sequence numbers");
    drop(sending);
    Ok(())
}
