//! A settlement on its way: what the lane and the watcher hand to each other.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use quittance_core::{Amount, Chain, Fault, Payment, PaymentId, Timestamp, TransactionId};
use tokio::sync::watch;

use crate::ledger::Reservation;
use quittance_journal::Outcome;

/// How far a settlement has come, for those who wait for it.
#[derive(Debug, Clone)]
pub(crate) enum Progress {
    /// Not in the journal yet.
    Claiming,
    /// Claimed; nothing was sent yet.
    Waiting,
    /// Sent, or possibly sent, in this transaction.
    Sent(TransactionId),
    /// Ended, and in the journal.
    Concluded(Outcome),
    /// Given back: nothing was sent, and the fault is ours.
    Released(Fault),
}

/// The settlements this process is working on, with their progress. Nobody works on one twice.
#[derive(Debug, Clone, Default)]
pub(crate) struct InFlight(Arc<DashMap<PaymentId, watch::Receiver<Progress>>>);

/// The right to work on a settlement; ends when dropped.
#[derive(Debug)]
pub(crate) struct InFlightGuard {
    id: PaymentId,
    live: InFlight,
    progress: watch::Sender<Progress>,
}

impl InFlight {
    /// The right to work on a settlement, unless somebody has it: then how to wait for them.
    pub(crate) fn hold(&self, id: PaymentId) -> Result<InFlightGuard, watch::Receiver<Progress>> {
        match self.0.entry(id) {
            Entry::Occupied(held) => Err(held.get().clone()),
            Entry::Vacant(free) => {
                let (progress, follow) = watch::channel(Progress::Claiming);
                free.insert(follow);
                Ok(InFlightGuard {
                    id,
                    live: self.clone(),
                    progress,
                })
            }
        }
    }

    /// How to wait for a settlement that is being worked on.
    pub(crate) fn follow(&self, id: &PaymentId) -> Option<watch::Receiver<Progress>> {
        self.0.get(id).map(|follow| follow.clone())
    }

    /// How many are being worked on.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl InFlightGuard {
    /// Tells those who wait.
    pub(crate) fn report(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }

    /// How to wait for it.
    pub(crate) fn follow(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.live.0.remove(&self.id);
    }
}

/// A claimed settlement with all that is needed to finish it.
pub(crate) struct Job<C: Chain> {
    pub(crate) id: PaymentId,
    pub(crate) attempt: u32,
    pub(crate) amount: Amount,
    pub(crate) expires: Timestamp,
    /// Who pays; payers take turns in a lane.
    pub(crate) payer: Arc<str>,
    /// Who receives.
    pub(crate) pay_to: Arc<str>,
    /// What it takes of the payer's balance until it ends.
    pub(crate) reservation: Reservation,
    pub(crate) payment: Arc<dyn Payment<C>>,
    /// Whether it shares no transaction with others: it was in one that had no effect for it, though it should have had; or
    /// in a group that the chain did not sign.
    pub(crate) alone: bool,
    /// Whether success was reported for it, before the chain took it back. It is not given up for a fault of ours.
    pub(crate) told: bool,
    pub(crate) hold: InFlightGuard,
}

/// A job with the action that was found to work a moment ago.
pub(crate) struct Ready<C: Chain> {
    pub(crate) job: Job<C>,
    pub(crate) action: C::Action,
}
