//! Recovery: finishing the open settlements of an earlier process, and jobs that lanes and the
//! watcher hand back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use quittance_core::{
    Chain, CompletedStep, Fault, FaultKind, LaneId, PaymentId, Plan, Reason, Rejection, STEPS_MAX,
    Timestamp, TransactionId,
};
use quittance_journal::{Settlement, State};
use tokio::time::Instant;
use tracing::{debug, info};

use super::Rail;
use super::decoded::VerifyError;
use super::history::{History, NoEffect, Transferred};
use super::used::UsedBy;
use crate::in_flight::InFlightGuard;
use crate::job::Job;
use crate::writer::Journaled;

/// The pause before a chain that does not answer is asked again about a settlement.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause between later tries. A node that refuses thousands of questions refuses them
/// longer if all are repeated every second. Callers wait for twenty seconds.
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// The pause before the nodes are searched again for the user of an authorization.
const PAUSE_UNKNOWN: Duration = Duration::from_secs(3);

/// How long a payment waits until the nodes know which transaction used its authorization. Their
/// indexes are seconds behind, and rarely minutes.
const UNKNOWN_MAX: Duration = Duration::from_secs(600);

/// How many settlements are taken over with one write. After a crash there may be thousands.
const TAKE_OVER_MAX: usize = 256;

/// How many transactions of one attempt may be included without effect. Another payment in the same
/// transaction may have caused the first one. The second one was alone.
const WITHOUT_EFFECT_MAX: usize = 2;

/// What to do about a job that no lane has.
enum Resumption<C: Chain> {
    /// Conclude it: this transaction transferred the money.
    Settled(Transferred<C>),
    /// Watch these transactions, which may still transfer it.
    Watch(Vec<Journaled>),
    /// Carry out this plan.
    Go {
        planned: Planned<C>,
        /// The transaction of the last step so far.
        last: Option<TransactionId>,
        /// Whether to send it without other payments.
        alone: bool,
    },
    /// Wait until the nodes know which transaction used its authorization. If they never do,
    /// conclude it without success.
    Wait { rejection: Rejection },
    /// Conclude it without success. If a transaction was only found dropped, look a second time
    /// before that.
    Fail {
        rejection: Rejection,
        transaction: Option<TransactionId>,
        is_dropped: bool,
    },
}

/// A plan for a payment that is valid now.
struct Planned<C: Chain> {
    plan: Plan<C::Action>,
    /// The signer that must send the plan's action, if only one may.
    sender: Option<LaneId>,
    /// When the authorization expires.
    expires: Timestamp,
}

impl<C: Chain> Rail<C> {
    /// Resumes every open settlement in the journal that no task and no other replica works on.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<(), Fault> {
        let journal = &self.context.writer.journal;
        let open = journal.open(self.context.network()).await?;
        for ids in open.chunks(TAKE_OVER_MAX) {
            self.take_up(ids).await?;
        }
        Ok(())
    }

    /// Takes up those of these settlements that nothing works on, and resumes them.
    pub(super) async fn take_up(self: &Arc<Self>, ids: &[PaymentId]) -> Result<(), Fault> {
        let guard = |id: &PaymentId| Some((*id, self.context.in_flight.guard(*id).ok()?));
        let mut guards: BTreeMap<PaymentId, InFlightGuard> = ids.iter().filter_map(guard).collect();
        // A single process has all lanes, and need not look.
        if self.context.leases.membership().has_others() {
            for id in ids {
                if !guards.contains_key(id) {
                    continue;
                }
                let found = self.load_open(*id).await?;
                if !found.is_some_and(|settlement| self.may_take_up(&settlement)) {
                    guards.remove(id);
                }
            }
        }
        if guards.is_empty() {
            return Ok(());
        }
        let free: Vec<PaymentId> = ids
            .iter()
            .filter(|id| guards.contains_key(id))
            .copied()
            .collect();
        let taken = self.context.writer.journal.take_up(&free).await?;
        for id in taken {
            if let Some(guard) = guards.remove(&id) {
                self.recover_one(id, guard).await?;
            }
        }
        Ok(())
    }

    async fn recover_one(
        self: &Arc<Self>,
        id: PaymentId,
        guard: InFlightGuard,
    ) -> Result<(), Fault> {
        // Load it only now: it may have changed since the listing.
        let Some(settlement) = self.load_open(id).await? else {
            return Ok(());
        };
        match self.context.schemes.decode_again(&settlement) {
            Some(payment) => {
                info!(settlement = %id, "resuming a settlement from the journal");
                let job = self.context.resume(&settlement, payment, guard);
                self.context.spawn(Arc::clone(self).resume(job));
            }
            None => {
                let problem = "no scheme of this network reads its request";
                self.context.health.skip_unreadable(id, problem);
            }
        }
        Ok(())
    }

    /// An open settlement from the journal. `None` if it has ended, or cannot be read.
    async fn load_open(&self, id: PaymentId) -> Result<Option<Settlement>, Fault> {
        let found = self.context.load(id).await?;
        Ok(found.filter(|settlement| settlement.state == State::Open))
    }

    /// Brings a job to its end that no lane has. Finds out what its transactions have done, watches
    /// those that are not decided, and sends a payment again that is still valid.
    ///
    /// It fails only if none of its transactions can have transferred the money and the chain
    /// itself rejects the payment.
    pub(super) async fn resume(self: Arc<Self>, job: Job<C>) {
        let (mut looked_twice, mut pause) = (false, PAUSE);
        let mut unknown_since = None;
        loop {
            match self.next_resumption(&job).await {
                Ok(Resumption::Settled(transferred)) => {
                    let Transferred {
                        transaction,
                        amount,
                        evidence,
                    } = transferred;
                    let (context, transaction) = (&self.context, Some(transaction));
                    return context
                        .settled(job, transaction, amount, Some(&evidence))
                        .await;
                }
                Ok(Resumption::Watch(transactions)) => {
                    let outstanding = &self.context.outstanding;
                    return outstanding.watch_journaled(Some(job), transactions);
                }
                Ok(Resumption::Go {
                    planned,
                    last,
                    alone,
                }) => {
                    let job = job.with_alone(alone).with_expires(planned.expires);
                    let Planned { plan, sender, .. } = planned;
                    return self.carry_out(job, plan, sender, last).await;
                }
                Ok(Resumption::Wait { rejection }) => {
                    let since = *unknown_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= UNKNOWN_MAX {
                        return self.context.fail(job, rejection, None).await;
                    }
                    debug!(settlement = %job.id(),
                        "the authorization is used, and no node knows by which transaction");
                    tokio::time::sleep(PAUSE_UNKNOWN).await;
                }
                // A node may report a sequence number as used before it knows the transaction.
                Ok(Resumption::Fail {
                    is_dropped: true, ..
                }) if !looked_twice => {
                    looked_twice = true;
                    tokio::time::sleep(self.context.timing.dropped_after).await;
                }
                Ok(Resumption::Fail {
                    rejection,
                    transaction,
                    ..
                }) => return self.context.fail(job, rejection, transaction).await,
                Err(fault) => {
                    debug!(settlement = %job.id(), %fault, "cannot be resumed yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// What to do about a job that no lane has. Only some jobs are examined at a time.
    async fn next_resumption(&self, job: &Job<C>) -> Result<Resumption<C>, Fault> {
        let permit = self.recovering.acquire().await;
        let _permit = permit.map_err(|error| Fault::new(FaultKind::Internal, error))?;
        let id = job.id();
        let history = self.history(&id, &**job.payment(), job.amount());
        match history.await? {
            History::Settled(transferred) => Ok(Resumption::Settled(transferred)),
            History::InFlight(transactions) => Ok(Resumption::Watch(transactions)),
            History::NoEffect(no_effect) => self.resumption_without_effect(job, no_effect).await,
        }
    }

    /// What to do about a job whose transactions had no effect.
    async fn resumption_without_effect(
        &self,
        job: &Job<C>,
        mut no_effect: NoEffect<C>,
    ) -> Result<Resumption<C>, Fault> {
        let is_dropped = no_effect.is_dropped;
        // The transaction explains what the chain says about the payment now.
        if let Some((transaction, rejection)) = no_effect.mismatch {
            return Ok(Resumption::Fail {
                rejection,
                transaction: Some(transaction),
                is_dropped,
            });
        }
        let last = no_effect.completed.last();
        let last = last.map(|completed| completed.transaction.clone());
        let (steps_sent, completed) = (no_effect.steps_sent, no_effect.completed);
        let mut judged = self.judge_again(job, steps_sent, completed).await?;
        if let Err(rejection) = &judged {
            let (payment, signed) = (&**job.payment(), &no_effect.signed);
            let user = self.find_user(payment, job.amount(), rejection, signed);
            match user.await? {
                UsedBy::Unused => {}
                UsedBy::Cancelled(rejection) => judged = Err(rejection),
                UsedBy::Ours(transferred) => return Ok(Resumption::Settled(transferred)),
                UsedBy::Other(transaction, rejection) => {
                    return Ok(Resumption::Fail {
                        rejection,
                        transaction: Some(transaction),
                        is_dropped: false,
                    });
                }
                UsedBy::Unknown => {
                    let rejection = rejection.clone();
                    return Ok(Resumption::Wait { rejection });
                }
            }
        }
        let tried = no_effect.without_effect.len();
        let expires = judged.as_ref().map_or(job.expires(), |found| found.expires);
        let is_late = tried == 0 && self.context.has_passed(expires);
        if is_late && let Some(fault) = self.context.health.clock_doubt().await {
            return Err(fault);
        }
        let rejection = match judged {
            _ if is_late => Some(Reason::SETTLEMENT_EXPIRED.into()),
            // Only these bytes could settle it, and they have had their chance.
            Ok(found) if self.is_decided(&found.plan, &no_effect.decided) => None,
            // The payment was valid before and is valid now, so it is sent again. After the first
            // failure it is sent alone, because other payments could make its transaction fail.
            Ok(planned) if tried < WITHOUT_EFFECT_MAX => {
                return Ok(Resumption::Go {
                    planned,
                    last,
                    alone: tried > 0,
                });
            }
            Ok(_) => None,
            Err(rejection) => Some(rejection),
        };
        let (transaction, found) = no_effect.without_effect.pop().unzip();
        let unexplained = || Reason::INVALID_TRANSACTION_STATE.into();
        Ok(Resumption::Fail {
            rejection: rejection.or(found).unwrap_or_else(unexplained),
            transaction,
            is_dropped,
        })
    }

    /// Whether a plan would send a transaction of another signer that the chain has decided
    /// already.
    fn is_decided(&self, plan: &Plan<C::Action>, decided: &BTreeSet<TransactionId>) -> bool {
        let signed = plan.action().and_then(|action| self.chain().signed(action));
        signed.is_some_and(|signed| decided.contains(&signed.id))
    }

    /// What settling a job's payment takes now, after these steps; or the verdict against it.
    async fn judge_again(
        &self,
        job: &Job<C>,
        steps_sent: usize,
        completed: Vec<CompletedStep<C::Evidence>>,
    ) -> Result<Result<Planned<C>, Rejection>, Fault> {
        let payment = job.payment();
        let now = self.context.now();
        let decoded = self.check_signatures(Arc::clone(payment), now).await?;
        let decoded = decoded.settling().after(completed);
        let decoded = self.with_state(decoded).await?;
        match self.check(&decoded).await {
            Ok(verified) => {
                let observed = verified.observed(self.context.now());
                let plan = payment.plan(job.amount(), &observed);
                let plan = plan.and_then(|plan| allow_step(plan, steps_sent));
                Ok(plan.map(|plan| Planned {
                    plan,
                    sender: payment.sender(&observed),
                    expires: verified.expires,
                }))
            }
            Err(VerifyError::Rejected(rejection, _)) => Ok(Err(rejection)),
            Err(VerifyError::Malformed(malformed)) => {
                Ok(Err(Rejection::new(Reason::INVALID_PAYLOAD, malformed)))
            }
            Err(VerifyError::Fault(fault)) => Err(fault),
        }
    }
}

/// Refuses one more step of a payment that had too many.
fn allow_step<Action>(plan: Plan<Action>, sent: usize) -> Result<Plan<Action>, Rejection> {
    match plan {
        Plan::Step { .. } if sent >= STEPS_MAX => {
            let detail = format_args!("the payment needs more than {STEPS_MAX} steps");
            Err(Rejection::new(Reason::INVALID_TRANSACTION_STATE, detail))
        }
        plan => Ok(plan),
    }
}
