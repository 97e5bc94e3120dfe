//! What all parts of one network's engine share, and the only place where a job ends.
//!
//! Lanes, the watcher and the rail are built on this module. It imports none of them.

use std::num::NonZeroU8;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quittance_core::{
    Amount, Chain, Fault, LaneId, Observed, Payment, PaymentId, Reason, Rejection, SchemeState,
    StateAccess, StateChange, Timestamp, TransactionId,
};
use quittance_journal::{Ended, JournalError, Outcome, Settlement};
use tokio::sync::{Notify, Semaphore, broadcast, mpsc};
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use crate::event::Event;
use crate::failures::Failures;
use crate::health::Monitor;
use crate::in_flight::{InFlight, InFlightGuard, Progress};
use crate::job::{Job, Ready};
use crate::leases::Leases;
use crate::ledger::Ledger;
use crate::outstanding::Outstanding;
use crate::schemes::Schemes;
use crate::timing::Timing;
use crate::writer::JournalWriter;

/// What all parts of one network's engine share.
pub(crate) struct Context<C: Chain> {
    pub(crate) chain: Arc<C>,
    pub(crate) schemes: Schemes<C>,
    pub(crate) writer: JournalWriter,
    pub(crate) timing: Timing,
    pub(crate) in_flight: InFlight,
    pub(crate) outstanding: Arc<Outstanding<C>>,
    pub(crate) health: Monitor<C>,
    pub(crate) ledger: Ledger,
    pub(crate) leases: Leases,
    pub(crate) failures: Failures,
    pub(crate) events: broadcast::Sender<Event>,
    /// Whether this process has handed settlements over that may still have no owner.
    pub(crate) has_handed_over: AtomicBool,
    /// Notified when open settlements should not wait for the next sweep.
    pub(crate) recover_now: Notify,
    /// Limits the transactions of other signers that are being submitted.
    pub(crate) relaying: Semaphore,
    pub(crate) tasks: TaskTracker,
    pub(crate) returned: mpsc::UnboundedSender<Returned<C>>,
}

/// A job that a lane or the watcher cannot finish, and what to do with it.
pub(crate) enum Returned<C: Chain> {
    /// Find out what its transactions have done, and go on from there.
    Resume(Job<C>),
    /// Queue it again in this lane.
    Requeue(Ready<C>, LaneId),
}

impl<C: Chain> Context<C> {
    /// The network's CAIP-2 identifier.
    pub(crate) fn network(&self) -> &str {
        self.chain.network().id()
    }

    /// The time now.
    pub(crate) fn now(&self) -> Timestamp {
        self.writer.clock.now()
    }

    /// How many confirmations the transactions of a payment need.
    pub(crate) fn confirmations_required(&self, payment: &dyn Payment<C>) -> u64 {
        let of_chain = self.chain.confirmations_required();
        of_chain.max(payment.confirmations_required())
    }

    /// Whether this signer is one of the chain's own.
    pub(crate) fn is_own(&self, lane: &LaneId) -> bool {
        self.chain.lanes().contains(lane)
    }

    /// Runs a task until it ends or this process stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.writer.stopping.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                // In this order, so that a simulation repeats itself.
                biased;
                () = stopping.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Loads a settlement. `None` if there is none, or if its row cannot be read: an unreadable row
    /// is reported, and keeps no other one waiting.
    pub(crate) async fn load(&self, id: PaymentId) -> Result<Option<Settlement>, Fault> {
        match self.writer.journal.settlement(&id).await {
            Ok(found) => Ok(found),
            Err(error @ JournalError::Unreadable { .. }) => {
                self.health.skip_unreadable(id, &error.to_string());
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Hands a settlement over to whichever replica can send it, and drops its job. `lane` is the
    /// only lane that can send it, if there is only one.
    pub(crate) async fn hand_over(&self, job: Job<C>, lane: Option<&LaneId>) {
        let (id, attempt) = (job.id(), job.attempt());
        job.report(Progress::Waiting);
        self.has_handed_over.store(true, Ordering::Relaxed);
        if self.writer.hand_over(&id, attempt, lane).await.is_some() {
            debug!(settlement = %id, ?lane, "handed over: this replica has no lane for it");
        }
    }

    /// Reports an event to the subscribers.
    pub(crate) fn report(&self, event: Event) {
        // An error means that there are no subscribers.
        drop(self.events.send(event));
    }

    /// Hands a job back to recovery.
    pub(crate) fn hand_back(&self, returned: Returned<C>) {
        // An error means that this process stops. The job stays open in the journal.
        drop(self.returned.send(returned));
    }

    /// The job of an open settlement from the journal.
    pub(crate) fn resume(
        &self,
        settlement: &Settlement,
        payment: Arc<dyn Payment<C>>,
        guard: InFlightGuard,
    ) -> Job<C> {
        let claim = &settlement.claim;
        let amount = payment.reserves(claim.amount);
        let reservation = self.ledger.add(&claim.payer, &claim.asset, amount);
        Job::resumed(settlement, payment, reservation, guard)
    }

    /// Whether the authorization of a job expires before a transaction sent now could be included.
    pub(crate) fn is_too_late_to_send(&self, job: &Job<C>) -> bool {
        let needed = self.chain.inclusion_time().as_secs();
        self.now().plus_secs(needed) > job.expires() || self.is_too_late(job)
    }

    /// Whether the authorization of a job has expired.
    pub(crate) fn is_too_late(&self, job: &Job<C>) -> bool {
        self.has_passed(job.expires())
    }

    /// Whether a moment has passed.
    pub(crate) fn has_passed(&self, moment: Timestamp) -> bool {
        self.now() >= moment
    }

    /// Ends a job that settled this amount: by this transaction, or without one.
    pub(crate) async fn settled(
        &self,
        job: Job<C>,
        transaction: Option<TransactionId>,
        amount: Amount,
        evidence: Option<&C::Evidence>,
    ) {
        info!(settlement = %job.id(), ?transaction, %amount, "settled");
        self.failures.settled(job.payer(), job.pay_to(), self.now());
        if let (true, Some(transaction)) = (job.success_reported(), &transaction) {
            self.report(Event::Restored {
                network: self.network().to_owned(),
                settlement: job.id(),
                transaction: transaction.clone(),
            });
        }
        let settled = |receipt| Outcome::Settled {
            transaction: transaction.clone(),
            amount,
            receipt,
        };
        loop {
            let Some((change, next)) = self.state_after(&job, amount, evidence).await else {
                return;
            };
            let outcome = settled(change.receipt);
            match self.write_conclusion(&job, &outcome, next.as_ref()).await {
                Some(Ended::StateMoved) => {}
                Some(Ended::Yes) => return job.report(Progress::Concluded(outcome)),
                Some(Ended::No) | None => return,
            }
        }
    }

    /// What a settled job leaves behind, and the next state record, if it changes. `None` if this
    /// process stops first.
    async fn state_after(
        &self,
        job: &Job<C>,
        amount: Amount,
        evidence: Option<&C::Evidence>,
    ) -> Option<(StateChange, Option<SchemeState>)> {
        let payment = job.payment();
        let access = payment.state_access();
        let state = match access {
            None => None,
            Some(access) => self.writer.state(&access.state).await?,
        };
        let steps = self.signed_steps(job).await?;
        let observed = Observed::new(&[], job.answers(), self.now());
        let observed = observed.settling().with_state(state.as_ref());
        let observed = observed.with_signed_steps(&steps);
        let change = payment.state_after(amount, &observed, evidence);
        let next = access.and_then(|access| {
            let (scheme, network) = (job.scheme(), self.network());
            next_state(access, state.as_ref(), &change, network, scheme)
        });
        Some((change, next))
    }

    /// The steps of a job that has its state record for itself, for which a transaction was signed.
    /// Other payments take no steps that their record must know. `None` if this process stops
    /// first.
    async fn signed_steps(&self, job: &Job<C>) -> Option<Vec<NonZeroU8>> {
        let access = job.payment().state_access();
        if !access.is_some_and(|access| access.exclusive) {
            return Some(Vec::new());
        }
        let settlement = self.writer.settlement(&job.id()).await?;
        let signed = settlement
            .iter()
            .flat_map(|it| [&it.transactions, &it.withdrawn]);
        let steps = signed.flatten().filter_map(|it| NonZeroU8::new(it.step));
        let mut steps: Vec<NonZeroU8> = steps.collect();
        steps.sort_unstable();
        steps.dedup();
        Some(steps)
    }

    /// The next state record after a job that did not settle, if its steps change it. The outer
    /// `None` if this process stops first.
    async fn state_after_failure(&self, job: &Job<C>) -> Option<Option<SchemeState>> {
        let steps = self.signed_steps(job).await?;
        let Some(access) = job.payment().state_access().filter(|_| !steps.is_empty()) else {
            return Some(None);
        };
        let state = self.writer.state(&access.state).await?;
        let observed = Observed::new(&[], job.answers(), self.now());
        let observed = observed.settling().with_state(state.as_ref());
        let observed = observed.with_signed_steps(&steps);
        let change = StateChange {
            state: job.payment().state_after_failure(&observed),
            ..StateChange::default()
        };
        let (scheme, network) = (job.scheme(), self.network());
        Some(next_state(access, state.as_ref(), &change, network, scheme))
    }

    /// Ends a job whose money was not transferred.
    pub(crate) async fn fail(
        &self,
        job: Job<C>,
        rejection: Rejection,
        transaction: Option<TransactionId>,
    ) {
        if job.success_reported() {
            return self.lose(job, rejection, transaction).await;
        }
        info!(settlement = %job.id(), %rejection, ?transaction, "failed");
        // The payer is not to blame if another sender was faster, nor for acts of its seller.
        let by_other = rejection.reason == Reason::SETTLED_BY_OTHER_TRANSACTION;
        let by_payer = !by_other && !job.payment().releases_nothing();
        if transaction.is_some() && by_payer {
            self.failures.failed(job.payer(), job.pay_to(), self.now());
        }
        let Rejection { reason, detail, .. } = rejection;
        let outcome = Outcome::Failed {
            reason,
            detail: detail.unwrap_or_default(),
            transaction,
        };
        self.conclude(job, outcome).await;
    }

    /// Ends a job whose success was reported, whose transaction the chain took back, and which can
    /// no longer be settled.
    async fn lose(&self, job: Job<C>, rejection: Rejection, transaction: Option<TransactionId>) {
        let (settlement, network) = (job.id(), self.network().to_owned());
        error!(%settlement, network, %rejection, ?transaction,
            "a payment whose success was reported was undone and cannot be settled again");
        metrics::counter!("quittance_lost_settlements_total", "network" => network.clone())
            .increment(1);
        let Rejection { reason, detail, .. } = rejection;
        let outcome = Outcome::Lost {
            reason,
            detail: detail.unwrap_or_default(),
            transaction,
        };
        self.conclude(job, outcome).await;
        self.report(Event::Lost {
            network,
            settlement,
        });
    }

    /// Releases a job of which nothing was sent. A job whose success was reported stays open, and
    /// the next sweep tries again.
    pub(crate) async fn release(&self, job: Job<C>, fault: Fault) {
        if job.success_reported() {
            return warn!(settlement = %job.id(), %fault, "cannot be sent again yet");
        }
        warn!(settlement = %job.id(), %fault, "released: nothing was sent");
        let outcome = Outcome::Released {
            fault: fault.clone(),
        };
        if self.conclude_unsettled(&job, &outcome).await {
            job.report(Progress::Released(fault));
        }
    }

    /// As [`release`](Self::release), for many jobs in one journal write.
    pub(crate) async fn release_all(&self, batch: Vec<Ready<C>>, fault: Fault) {
        let released = batch
            .into_iter()
            .map(|Ready { job, .. }| self.release(job, fault.clone()));
        futures_util::future::join_all(released).await;
    }

    async fn conclude(&self, job: Job<C>, outcome: Outcome) {
        if self.conclude_unsettled(&job, &outcome).await {
            job.report(Progress::Concluded(outcome));
        }
    }

    /// Writes that a job did not settle, with what its steps leave behind. Returns whether the
    /// outcome may be reported.
    async fn conclude_unsettled(&self, job: &Job<C>, outcome: &Outcome) -> bool {
        loop {
            let Some(next) = self.state_after_failure(job).await else {
                return false;
            };
            match self.write_conclusion(job, outcome, next.as_ref()).await {
                Some(Ended::StateMoved) => {}
                ended => return ended == Some(Ended::Yes),
            }
        }
    }

    /// Writes how a job ended. Only after [`Ended::Yes`] the outcome may be reported. `None` if
    /// this process stops first.
    async fn write_conclusion(
        &self,
        job: &Job<C>,
        outcome: &Outcome,
        state: Option<&SchemeState>,
    ) -> Option<Ended> {
        let (settlement, attempt) = (job.id(), job.attempt());
        let conclusion = self.writer.conclude(&settlement, attempt, outcome, state);
        let ended = conclusion.await;
        if ended != Some(Ended::StateMoved) {
            // Before the outcome is reported: the caller may send the payer's next payment at once.
            job.free_balance();
            if let Some(access) = job.payment().state_access() {
                self.writer.release_state(&access.state, &settlement).await;
            }
        }
        if ended == Some(Ended::No) {
            error!(%settlement, attempt, ?outcome, "the journal has another outcome of this attempt");
        }
        ended
    }
}

/// The record that a change leads to, one revision later. `None` if it does not change.
pub(crate) fn next_state(
    access: &StateAccess,
    state: Option<&SchemeState>,
    change: &StateChange,
    network: &str,
    scheme: &str,
) -> Option<SchemeState> {
    let (content, due) = change.state.clone()?;
    Some(match state {
        Some(state) => state.next(content, due),
        None => SchemeState {
            due,
            ..SchemeState::new(access.state, network, scheme, content)
        },
    })
}
