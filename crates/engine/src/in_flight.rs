//! Which settlements this process works on. At most one task works on a settlement.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use quittance_core::{Fault, PaymentId, TransactionId};
use quittance_journal::Outcome;
use tokio::sync::watch;

/// The progress of a settlement.
#[derive(Debug, Clone)]
pub(crate) enum Progress {
    /// The claim is not in the journal yet.
    Claiming,
    /// Claimed. Nothing was sent yet.
    Waiting,
    /// Sent, or possibly sent, in this transaction.
    Sent(TransactionId),
    /// Ended, and recorded in the journal.
    Concluded(Outcome),
    /// Released: nothing was sent, because of this fault.
    Released(Fault),
}

/// The settlements that this process works on, with their progress.
#[derive(Debug, Clone, Default)]
pub(crate) struct InFlight(Arc<DashMap<PaymentId, watch::Receiver<Progress>>>);

/// The right to work on a settlement. Ends when dropped.
#[derive(Debug)]
pub(crate) struct InFlightGuard {
    id: PaymentId,
    in_flight: InFlight,
    progress: watch::Sender<Progress>,
}

impl InFlight {
    /// Takes the right to work on a settlement.
    ///
    /// # Errors
    /// When another task has it. The receiver follows that task's progress.
    pub(crate) fn guard(&self, id: PaymentId) -> Result<InFlightGuard, watch::Receiver<Progress>> {
        match self.0.entry(id) {
            Entry::Occupied(taken) => Err(taken.get().clone()),
            Entry::Vacant(free) => {
                let (progress, follow) = watch::channel(Progress::Claiming);
                free.insert(follow);
                Ok(InFlightGuard {
                    id,
                    in_flight: self.clone(),
                    progress,
                })
            }
        }
    }

    /// Follows the progress of a settlement, if a task works on it.
    pub(crate) fn follow(&self, id: &PaymentId) -> Option<watch::Receiver<Progress>> {
        self.0.get(id).map(|follow| follow.clone())
    }

    /// The number of settlements in flight.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl InFlightGuard {
    /// Reports progress to all receivers.
    pub(crate) fn report(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }

    /// Follows the progress.
    pub(crate) fn follow(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.in_flight.0.remove(&self.id);
    }
}
