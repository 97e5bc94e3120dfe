//! Following the sent transactions until the chain has decided.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use quittance_core::{Chain, Effect, Status, TransactionId, Watched};
use quittance_journal::SettlementStep;
use tracing::{error, warn};

use super::replace::start_next_step;
use crate::context::{Context, Returned};
use crate::job::Job;

/// The shortest pause between two looks. A local chain has included a transaction by then.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// Follows all outstanding transactions, as long as this process runs.
///
/// The pause grows after a check that finds nothing decided, and shrinks after one that does. So it
/// adapts to the time between the chain's blocks.
pub(crate) async fn run<C: Chain>(context: Arc<Context<C>>) {
    let mut pause = PAUSE_MIN;
    loop {
        tokio::time::sleep(pause).await;
        let watched = context.outstanding.watched();
        if watched.is_empty() {
            context.outstanding.added().await;
            pause = PAUSE_MIN;
            continue;
        }
        // A panic in a chain or a scheme must not end the watching of the other transactions.
        let decided = AssertUnwindSafe(look(&context, &watched))
            .catch_unwind()
            .await;
        pause = match decided {
            Ok(0) => pause * 3 / 2,
            Ok(_) => pause / 2,
            Err(_) => {
                let network = context.network();
                error!(
                    network,
                    "the check of the outstanding transactions panicked"
                );
                context.timing.look_every
            }
        };
        pause = pause.clamp(PAUSE_MIN, context.timing.look_every);
    }
}

/// Looks once at all outstanding transactions. Returns how many sequence numbers were decided.
async fn look<C: Chain>(context: &Arc<Context<C>>, watched: &[Watched]) -> usize {
    let statuses = context.chain.status(watched).await;
    let mut follows = Vec::new();
    let mut faults = 0;
    for (watched, status) in watched.iter().zip(statuses) {
        match status {
            Ok(status) => follows.push(follow(context, watched, status)),
            Err(fault) => {
                // One log line for all faults of a check.
                if faults == 0 {
                    let network = context.network();
                    warn!(network, %fault, "the status of sent transactions is unknown");
                }
                faults += 1;
            }
        }
    }
    let decided = join_all(follows).await;
    decided.into_iter().filter(|decided| *decided).count()
}

/// Acts on the status of one sequence number. Returns whether it was decided.
async fn follow<C: Chain>(
    context: &Arc<Context<C>>,
    watched: &Watched,
    status: Status<C::Evidence>,
) -> bool {
    let is_dropped = matches!(status, Status::Dropped);
    let dropped_for = context.outstanding.dropped_for(watched, is_dropped);
    match status {
        Status::Included {
            id,
            confirmations,
            evidence,
        } if confirmations >= confirmations_required(context, watched) => {
            let key = (watched.lane.clone(), watched.sequence);
            let is_noop = context
                .outstanding
                .at(&key, |entry| entry.noops.contains(&id));
            let jobs = context.outstanding.take(watched);
            match is_noop {
                Some(true) => resume_all(context, jobs),
                _ => conclude_all(context, jobs, &id, &evidence).await,
            }
            true
        }
        Status::Included { .. } | Status::Executing { .. } => false,
        Status::Dropped if dropped_for.is_some_and(|time| time >= context.timing.dropped_after) => {
            let (lane, sequence) = (&watched.lane, watched.sequence);
            warn!(%lane, sequence, "a sent transaction can no longer be included");
            resume_all(context, context.outstanding.take(watched));
            true
        }
        Status::Dropped => false,
        Status::Pending => {
            start_next_step(context, watched);
            false
        }
    }
}

/// How many confirmations the payments of a sequence number need. Those of one batch need the same
/// number.
fn confirmations_required<C: Chain>(context: &Context<C>, watched: &Watched) -> u64 {
    let key = (watched.lane.clone(), watched.sequence);
    let of_jobs = context.outstanding.at(&key, |entry| {
        let payments = entry.jobs.iter().map(|job| &**job.payment());
        let needed = payments.map(|payment| context.confirmations_required(payment));
        needed.max()
    });
    let of_chain = context.chain.confirmations_required();
    of_jobs.flatten().unwrap_or(of_chain)
}

/// Hands jobs back to recovery.
fn resume_all<C: Chain>(context: &Context<C>, jobs: Vec<Job<C>>) {
    for job in jobs {
        context.hand_back(Returned::Resume(job));
    }
}

/// Concludes the jobs of a transaction that has enough confirmations, each by what the transaction
/// did for it.
///
/// A payment is judged only by a transaction that was made to settle it. If two payments had one
/// sequence number by mistake, the transaction of one could look like the other's: the same price
/// and the same recipient. A payment whose step was included goes on from there.
async fn conclude_all<C: Chain>(
    context: &Arc<Context<C>>,
    jobs: Vec<Job<C>>,
    id: &TransactionId,
    evidence: &C::Evidence,
) {
    let made_for = match context.writer.journal.settlements_of(id).await {
        Ok(made_for) => made_for,
        Err(error) => {
            warn!(transaction = %id, %error, "the payments of a transaction cannot be read");
            return resume_all(context, jobs);
        }
    };
    let (jobs, others): (Vec<_>, Vec<_>) = jobs
        .into_iter()
        .partition(|job| made_for.contains(&SettlementStep::settling(job.id())));
    resume_all(context, others);
    let ends = jobs
        .into_iter()
        .map(|job| conclude(context, job, id, evidence));
    join_all(ends).await;
}

/// Concludes one job by what an included transaction did for it.
async fn conclude<C: Chain>(
    context: &Context<C>,
    job: Job<C>,
    id: &TransactionId,
    evidence: &C::Evidence,
) {
    let effect = catch_unwind(AssertUnwindSafe(|| {
        job.payment().effect(job.amount(), evidence)
    }));
    match effect {
        Ok(Effect::Transferred(amount)) => {
            let transaction = Some(id.clone());
            context
                .settled(job, transaction, amount, Some(evidence))
                .await;
        }
        Ok(Effect::Mismatch(found)) => context.fail(job, found, Some(id.clone())).await,
        // To find out why takes round trips. The other jobs do not wait for that.
        Ok(Effect::None(_)) => context.hand_back(Returned::Resume(job)),
        // The settlement stays open in the journal, where the next sweep finds it.
        Err(_) => {
            error!(settlement = %job.id(), "a scheme panicked while it judged a transaction");
        }
    }
}
