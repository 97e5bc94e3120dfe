//! A lane: one signer, one transaction after the other.
//!
//! What waits is grouped as far as the chain allows, signed at the next place, written to the journal, and sent. A place
//! is used up only when a transaction for it may be out there; until then the next group gets it.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use quittance_core::{Chain, Fault, FaultKind, LaneId, PaymentId, Reason, Submission};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{debug, error, warn};

use crate::job::{Progress, Ready};
use crate::keeper::Journaled;
use crate::rail::Rail;

/// How many settlements may wait in one lane.
const QUEUE_MAX: usize = 8192;

/// How many transactions of one lane may be out at once. Nodes keep 16 to 64 of one account in order (geth: 16 at
/// least, 64 usually); beyond that they drop some.
const IN_FLIGHT_MAX: usize = 16;

/// How long a group waits for room among the transactions that are out. As long as callers wait for a settlement.
const ROOM_WAIT: Duration = Duration::from_secs(20);

/// Where settlements are handed to a lane.
pub(crate) struct Lane<C: Chain> {
    pub(crate) id: LaneId,
    jobs: mpsc::Sender<Ready<C>>,
    waiting: Arc<AtomicUsize>,
}

/// Who works on them.
pub(crate) struct Worker<C: Chain> {
    id: LaneId,
    jobs: mpsc::Receiver<Ready<C>>,
    waiting: Arc<AtomicUsize>,
    /// Taken from the queue, and not yet sent.
    held: VecDeque<Ready<C>>,
    /// The next place, once it is known.
    next_place: Option<u64>,
}

/// A lane and its worker.
pub(crate) fn new<C: Chain>(id: LaneId) -> (Lane<C>, Worker<C>) {
    let (sender, jobs) = mpsc::channel(QUEUE_MAX);
    let waiting = Arc::new(AtomicUsize::new(0));
    let lane = Lane {
        id: id.clone(),
        jobs: sender,
        waiting: Arc::clone(&waiting),
    };
    (
        lane,
        Worker {
            id,
            jobs,
            waiting,
            held: VecDeque::new(),
            next_place: None,
        },
    )
}

impl<C: Chain> Lane<C> {
    /// Queues a settlement; gives it back where the queue is full.
    pub(crate) fn accept(&self, ready: Ready<C>) -> Option<Ready<C>> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let refused = self.jobs.try_send(ready).err()?;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(refused.into_inner())
    }

    /// How many settlements wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl<C: Chain> Worker<C> {
    /// Works until there is no more work.
    pub(crate) async fn run(mut self, rail: Arc<Rail<C>>) {
        loop {
            // A mistake in a chain or a scheme must not end the lane. What was in hand stays open in the journal, where the
            // next sweep finds it.
            let worked = AssertUnwindSafe(self.work(&rail)).catch_unwind().await;
            match worked {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => {
                    error!(lane = %self.id, "a lane panicked");
                    self.next_place = None;
                }
            }
        }
    }

    /// Sends one group. Says whether there may be more.
    async fn work(&mut self, rail: &Arc<Rail<C>>) -> bool {
        let room = rail.watch.room(&self.id, IN_FLIGHT_MAX);
        if timeout(ROOM_WAIT, room).await.is_err() {
            self.give_back(rail).await;
            return true;
        }
        let Some(group) = self.next_group(&*rail.chain).await else {
            return false;
        };
        self.waiting.fetch_sub(group.len(), Ordering::Relaxed);
        self.send(rail, group).await;
        true
    }

    /// Nothing has moved for long: whoever waits may try another facilitator, or later another lane.
    async fn give_back(&mut self, rail: &Arc<Rail<C>>) {
        while let Ok(ready) = self.jobs.try_recv() {
            self.held.push_back(ready);
        }
        let group: Vec<_> = self.held.drain(..).collect();
        self.waiting.fetch_sub(group.len(), Ordering::Relaxed);
        let stuck = format!("the transactions of {} are not being included", self.id);
        let fault = Fault::new(FaultKind::Busy, stuck);
        release_all(rail, group, fault).await;
    }

    /// The next settlement, and all those behind it that may travel with it. Those that may not keep their order.
    async fn next_group(&mut self, chain: &C) -> Option<Vec<Ready<C>>> {
        if self.held.is_empty() {
            self.held.push_back(self.jobs.recv().await?);
        }
        while let Ok(ready) = self.jobs.try_recv() {
            self.held.push_back(ready);
        }
        let mut group = vec![self.held.pop_front()?];
        let mut apart = VecDeque::new();
        while let Some(ready) = self.held.pop_front() {
            let actions: Vec<&C::Action> = group.iter().map(|ready| &ready.action).collect();
            let together = !ready.job.alone && !group[0].job.alone;
            if together && chain.groups(&actions, &ready.action) {
                group.push(ready);
            } else {
                apart.push_back(ready);
            }
        }
        self.held = apart;
        Some(group)
    }

    /// Signs a group's transaction, writes it down, and sends it.
    async fn send(&mut self, rail: &Arc<Rail<C>>, group: Vec<Ready<C>>) {
        let group = drop_late(rail, group).await;
        if group.is_empty() {
            return;
        }
        let place = match self.place(rail).await {
            Ok(place) => place,
            Err(fault) => return release_all(rail, group, fault).await,
        };
        let reserved = rail.watch.reserve(&self.id, place);
        let actions: Vec<&C::Action> = group.iter().map(|ready| &ready.action).collect();
        let signed = match rail.chain.prepare(&self.id, place, &actions).await {
            Ok(signed) => signed,
            Err(fault) => return release_all(rail, group, fault).await,
        };
        let ids: Vec<PaymentId> = group.iter().map(|ready| ready.job.id).collect();
        let Some(journaled) = rail.keeper.record(rail.network(), signed, &ids).await else {
            return;
        };
        self.submit(rail, group, journaled).await;
        drop(reserved);
    }

    async fn submit(&mut self, rail: &Arc<Rail<C>>, group: Vec<Ready<C>>, journaled: Journaled) {
        let id = journaled.transaction().id.clone();
        let place = journaled.transaction().place;
        // From here on it may be out there. Whoever waits may know its id before the node has answered.
        group
            .iter()
            .for_each(|ready| ready.job.hold.report(Progress::Sent(id.clone())));
        let submission = journaled.submit(&*rail.chain).await;
        debug!(transaction = %id, ?submission, payments = group.len(), "submitted");
        metrics::histogram!("quittance_transaction_payments", "network" => rail.network().to_owned())
            .record(group.len() as f64);
        if let Submission::Refused(fault) = submission {
            group
                .iter()
                .for_each(|ready| ready.job.hold.report(Progress::Waiting));
            if rail.keeper.withdraw(&id).await.is_some() {
                release_all(rail, group, fault).await;
            }
            return;
        }
        self.next_place = match submission {
            Submission::PlaceTaken => {
                warn!(lane = %self.id, place, "somebody else sends transactions with this signer");
                None
            }
            _ => Some(place + 1),
        };
        let jobs = group.into_iter().map(|ready| ready.job).collect();
        rail.watch.add(jobs, journaled);
    }

    /// The next place: behind everything the chain has and everything the journal has.
    async fn place(&mut self, rail: &Rail<C>) -> Result<u64, Fault> {
        if let Some(place) = self.next_place {
            return Ok(place);
        }
        let journal = &rail.keeper.journal;
        let journaled = journal.next_place(rail.network(), &self.id).await?;
        let floor = rail.chain.floor(&self.id).await?.unwrap_or_default();
        let place = floor.max(journaled);
        self.next_place = Some(place);
        Ok(place)
    }
}

/// Concludes those whose time has run out while they waited.
async fn drop_late<C: Chain>(rail: &Arc<Rail<C>>, group: Vec<Ready<C>>) -> Vec<Ready<C>> {
    let (late, group): (Vec<_>, Vec<_>) = group
        .into_iter()
        .partition(|ready| rail.is_too_late(&ready.job));
    for Ready { job, .. } in late {
        rail.fail(job, Reason::SETTLEMENT_EXPIRED.into(), None)
            .await;
    }
    group
}

/// Gives a whole group back, in one write to the journal.
async fn release_all<C: Chain>(rail: &Arc<Rail<C>>, group: Vec<Ready<C>>, fault: Fault) {
    let released = group
        .into_iter()
        .map(|Ready { job, .. }| rail.release(job, fault.clone()));
    futures_util::future::join_all(released).await;
}
