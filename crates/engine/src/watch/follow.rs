//! The watcher: follows what is out until the chain has decided.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use quittance_core::{Chain, Effect, Reason, Rejection, Status, TransactionId, Watched};
use tracing::{error, warn};

use super::replace::push;
use crate::job::Job;
use crate::rail::Rail;

/// The shortest pause between two looks. A local chain has included a transaction by then.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// Follows everything that is out, as long as this process runs.
///
/// Looks that find nothing decided grow apart, and those that do come closer, so that the pause finds the time between the
/// chain's blocks by itself.
pub(crate) async fn run<C: Chain>(rail: Arc<Rail<C>>) {
    let mut pause = PAUSE_MIN;
    loop {
        tokio::time::sleep(pause).await;
        let watched = rail.watch.watched();
        if watched.is_empty() {
            rail.watch.added.notified().await;
            pause = PAUSE_MIN;
            continue;
        }
        // A mistake in a chain or a scheme must not end the watching of everything else.
        let decided = AssertUnwindSafe(look(&rail, &watched)).catch_unwind().await;
        pause = match decided {
            Ok(0) => pause * 3 / 2,
            Ok(_) => pause / 2,
            Err(_) => {
                error!(network = rail.network(), "a look at what is out panicked");
                rail.timing.look_every
            }
        };
        pause = pause.clamp(PAUSE_MIN, rail.timing.look_every);
    }
}

/// Looks once at everything; says how many places were decided.
async fn look<C: Chain>(rail: &Arc<Rail<C>>, watched: &[Watched]) -> usize {
    let statuses = rail.chain.status(watched).await;
    let mut moves = Vec::new();
    let mut faults = 0;
    for (watched, status) in watched.iter().zip(statuses) {
        match status {
            Ok(status) => moves.push(follow(rail, watched, status)),
            Err(fault) => {
                if faults == 0 {
                    warn!(network = rail.network(), %fault, "what is out cannot be followed");
                }
                faults += 1;
            }
        }
    }
    let decided = join_all(moves).await;
    decided.into_iter().filter(|decided| *decided).count()
}

/// Says whether the place was decided.
async fn follow<C: Chain>(
    rail: &Arc<Rail<C>>,
    watched: &Watched,
    status: Status<C::Evidence>,
) -> bool {
    let gone_for = rail
        .watch
        .gone_for(watched, matches!(status, Status::Dropped));
    match status {
        Status::Included {
            id,
            confirmations,
            evidence,
        } if confirmations >= rail.chain.confirmations_required() => {
            let key = (watched.lane.clone(), watched.sequence);
            let filled = rail
                .watch
                .at(&key, |sequence| sequence.fillers.contains(&id));
            let jobs = rail.watch.take(watched);
            match filled {
                Some(true) => take_up_all(rail, jobs),
                _ => decided(rail, jobs, &id, &evidence).await,
            }
            true
        }
        Status::Included { .. } => false,
        Status::Dropped if gone_for.is_some_and(|time| time >= rail.timing.gone_for) => {
            warn!(lane = %watched.lane, sequence = watched.sequence, "a transaction of ours can no longer be included");
            take_up_all(rail, rail.watch.take(watched));
            true
        }
        Status::Dropped => false,
        Status::Pending => {
            push(rail, watched);
            false
        }
    }
}

fn take_up_all<C: Chain>(rail: &Arc<Rail<C>>, jobs: Vec<Job<C>>) {
    for job in jobs {
        rail.spawn(Arc::clone(rail).take_up(job));
    }
}

/// A transaction is in a block, deep enough: what did it do for each payment in it?
///
/// A payment is only ever judged by a transaction that was made for it. Two payments at one place would be a mistake, and
/// the transaction of one can look like the other's: same price, same recipient.
async fn decided<C: Chain>(
    rail: &Arc<Rail<C>>,
    jobs: Vec<Job<C>>,
    id: &TransactionId,
    evidence: &C::Evidence,
) {
    let made_for = match rail.writer.journal.settlements_of(id).await {
        Ok(made_for) => made_for,
        Err(error) => {
            warn!(transaction = %id, %error, "what a transaction was made for cannot be read");
            return take_up_all(rail, jobs);
        }
    };
    let (jobs, others): (Vec<_>, Vec<_>) =
        jobs.into_iter().partition(|job| made_for.contains(&job.id));
    take_up_all(rail, others);
    let ends = jobs.into_iter().map(|job| async {
        let effect = catch_unwind(AssertUnwindSafe(|| {
            job.payment.effect(job.amount, evidence)
        }));
        match effect {
            Ok(Effect::Transferred(amount)) if amount == job.amount => {
                rail.settled(job, id.clone()).await;
            }
            Ok(Effect::Transferred(amount)) => {
                let what = format!("{amount} moved instead of {}", job.amount);
                let found = Rejection::new(Reason::INVALID_TRANSACTION_STATE, what);
                rail.fail(job, found, Some(id.clone())).await;
            }
            Ok(Effect::Mismatch(found)) => rail.fail(job, found, Some(id.clone())).await,
            // Finding out why takes round trips; the others do not wait for it.
            Ok(Effect::None(_)) => take_up_all(rail, vec![job]),
            // It stays open in the journal, where the next sweep finds it.
            Err(_) => error!(settlement = %job.id, "a scheme panicked over what a transaction did"),
        }
    });
    join_all(ends).await;
}
