//! A lane: one signer, one transaction after the other; where transactions stand in no line, many side by side.
//!
//! What waits is taken from each payer in turn, grouped as far as the chain allows, signed at the next place, written to the journal, and sent. In a line, a
//! place is used up only when a transaction for it may be out there; until then the next group gets it. Where there is no
//! line, each gets a place of its own, and one that is not used is missed by nobody.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use quittance_core::{Chain, Fault, FaultKind, LaneId, PaymentId, Reason, Submission};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tracing::{debug, error, warn};

use crate::job::{Progress, Ready};
use crate::rail::Rail;
use crate::turns::Turns;
use crate::watch::Sending;
use crate::writer::Journaled;

/// How many settlements may wait in one lane.
const QUEUE_MAX: usize = 8192;

/// How many of those that wait are looked at for whether they may travel along. The largest groups have some dozens; to look at
/// all of a long queue for each transaction is work that grows with its square.
const LOOK_AHEAD_MAX: usize = 256;

/// How long a group waits for room among the transactions that are out. As long as callers wait for a settlement.
const ROOM_WAIT: Duration = Duration::from_secs(20);

/// How far ahead of the journal's own number the chain's may be and be believed at once: nodes keep
/// up to 64 transactions of one signer, so another program that uses it has rarely sent more in
/// between.
const AHEAD_MAX: u64 = 64;

/// How long nodes must say the same before more is believed. A node's slip is over by then; a
/// journal that was restored from an old copy, or a signer that is used elsewhere, is still what it
/// is.
const AHEAD_BELIEVED_AFTER: Duration = Duration::from_secs(60);

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
    held: Turns<Ready<C>>,
    /// The next place, once it is known.
    next_sequence: Option<u64>,
    jumps: Jumps,
    /// Whether the chain includes what this signer sends in order. Believed until it says otherwise.
    in_line: bool,
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
            held: Turns::default(),
            next_sequence: None,
            jumps: Jumps::default(),
            in_line: true,
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
                    // Without a line, what is on its way has places that the journal does not know yet.
                    if self.in_line {
                        self.next_sequence = None;
                    }
                }
            }
        }
    }

    /// Sends one group. Says whether there may be more.
    async fn work(&mut self, rail: &Arc<Rail<C>>) -> bool {
        let room = rail.watch.room(&self.id, rail.chain.in_flight_max());
        if timeout(ROOM_WAIT, room).await.is_err() {
            self.give_back(rail).await;
            return true;
        }
        let Some(batch) = self.next_batch(&*rail.chain).await else {
            return false;
        };
        self.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
        self.send(rail, batch).await;
        true
    }

    /// Nothing has moved for long: whoever waits may try another facilitator, or later another lane.
    async fn give_back(&mut self, rail: &Arc<Rail<C>>) {
        while let Ok(ready) = self.jobs.try_recv() {
            self.hold(ready);
        }
        let batch = self.held.take_all();
        self.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
        let stuck = format!("the transactions of {} are not being included", self.id);
        let fault = Fault::new(FaultKind::Busy, stuck);
        release_all(rail, batch, fault).await;
    }

    fn hold(&mut self, ready: Ready<C>) {
        let payer = Arc::clone(&ready.job.payer);
        self.held.push(&payer, ready);
    }

    /// The next settlement, and all those that may travel with it.
    async fn next_batch(&mut self, chain: &C) -> Option<Vec<Ready<C>>> {
        if self.held.is_empty() {
            let ready = self.jobs.recv().await?;
            self.hold(ready);
        }
        while let Ok(ready) = self.jobs.try_recv() {
            self.hold(ready);
        }
        let goes = |batch: &[Ready<C>], next: &Ready<C>| {
            let together = !next.job.alone && batch.iter().all(|ready| !ready.job.alone);
            let actions: Vec<&C::Action> = batch.iter().map(|ready| &ready.action).collect();
            together && chain.can_batch(&actions, &next.action)
        };
        Some(self.held.next_batch(LOOK_AHEAD_MAX, goes))
    }

    /// Sends a group at the next place. In a line, that is known only when it is known what became of this one; where there
    /// is none, many are on their way side by side, and share the journal's writes and the network's time.
    async fn send(&mut self, rail: &Arc<Rail<C>>, batch: Vec<Ready<C>>) {
        let batch = drop_late(rail, batch);
        if batch.is_empty() {
            return;
        }
        let sequence = match self.sequence(rail).await {
            Ok(sequence) => sequence,
            Err(fault) => return release_all(rail, batch, fault).await,
        };
        // Before anything waits: it counts among those that are out from now on.
        let reserved = rail.watch.reserve(&self.id, sequence);
        let sent = send(Arc::clone(rail), reserved, batch);
        if self.in_line {
            self.next_sequence = sent.await;
            return;
        }
        self.next_sequence = Some(sequence + 1);
        let id = self.id.clone();
        rail.spawn(async move {
            if AssertUnwindSafe(sent).catch_unwind().await.is_err() {
                error!(lane = %id, sequence, "a lane panicked");
            }
        });
    }

    /// The next place: behind everything the chain has and everything the journal has.
    async fn sequence(&mut self, rail: &Rail<C>) -> Result<u64, Fault> {
        if let Some(sequence) = self.next_sequence {
            return Ok(sequence);
        }
        let journal = &rail.writer.journal;
        let journaled = journal.next_sequence(rail.network(), &self.id).await?;
        let floor = rail.chain.next_sequence(&self.id).await?;
        let said = floor.unwrap_or_default();
        if !self.jumps.believes(said, journaled, Instant::now()) {
            let what = format!(
                "the nodes say that the next number of {} is {said}, and the journal's is {journaled}: it is believed in a \
                 minute if they still say so",
                self.id
            );
            return Err(Fault::new(FaultKind::ChainUnavailable, what));
        }
        let sequence = floor.unwrap_or_default().max(journaled);
        (self.in_line, self.next_sequence) = (floor.is_some(), Some(sequence));
        Ok(sequence)
    }
}

/// Doubts a number of the chain's that is far ahead of the journal's own: the journal would keep
/// it, and everything behind it would wait until the gap is filled, at a price. It is believed once
/// nodes have said no less for a while: then the journal is an old one, or another program sends
/// with this signer.
#[derive(Debug, Default)]
struct Jumps {
    /// The number in doubt, and since when it has been said.
    doubted: Option<(u64, Instant)>,
}

impl Jumps {
    /// Whether the chain's number is believed.
    fn believes(&mut self, said: u64, journaled: u64, now: Instant) -> bool {
        // Without a number in the journal the signer is a new one here.
        if journaled == 0 || said <= journaled.saturating_add(AHEAD_MAX) {
            self.doubted = None;
            return true;
        }
        match self.doubted {
            Some((first, since)) if said >= first => {
                let believed = now.duration_since(since) >= AHEAD_BELIEVED_AFTER;
                if believed {
                    warn!(said, journaled, "a signer has been used elsewhere");
                    self.doubted = None;
                }
                believed
            }
            _ => {
                self.doubted = Some((said, now));
                false
            }
        }
    }
}

/// Signs a group's transaction for the reserved place, writes it down, and sends it. Says which place is the next then, if
/// that is known.
async fn send<C: Chain>(
    rail: Arc<Rail<C>>,
    reserved: Sending<C>,
    batch: Vec<Ready<C>>,
) -> Option<u64> {
    let (lane, sequence) = &reserved.key;
    let actions: Vec<&C::Action> = batch.iter().map(|ready| &ready.action).collect();
    let signed = match rail.chain.prepare(lane, *sequence, &actions).await {
        Ok(signed) => signed,
        Err(fault) => {
            try_alone(&rail, lane, batch, fault).await;
            return Some(*sequence);
        }
    };
    let ids: Vec<PaymentId> = batch.iter().map(|ready| ready.job.id).collect();
    let Some(journaled) = rail.writer.record(rail.network(), signed, &ids).await else {
        return Some(*sequence);
    };
    submit(&rail, batch, journaled).await
}

/// As [`send`], of what is written down.
async fn submit<C: Chain>(
    rail: &Arc<Rail<C>>,
    batch: Vec<Ready<C>>,
    journaled: Journaled,
) -> Option<u64> {
    let id = journaled.transaction().id.clone();
    let (lane, sequence) = journaled.key();
    // From here on it may be out there. Whoever waits may know its id before the node has answered.
    batch
        .iter()
        .for_each(|ready| ready.job.hold.report(Progress::Sent(id.clone())));
    let submission = journaled.submit(&*rail.chain).await;
    debug!(transaction = %id, ?submission, payments = batch.len(), "submitted");
    metrics::histogram!("quittance_transaction_payments", "network" => rail.network().to_owned())
        .record(batch.len() as f64);
    if let Submission::Refused(fault) = submission {
        batch
            .iter()
            .for_each(|ready| ready.job.hold.report(Progress::Waiting));
        if rail.writer.withdraw(&id).await.is_some() {
            release_all(rail, batch, fault).await;
        }
        return Some(sequence);
    }
    let jobs = batch.into_iter().map(|ready| ready.job).collect();
    rail.watch.add(jobs, journaled);
    match submission {
        Submission::SequenceUsed => {
            warn!(%lane, sequence, "another program sends transactions with this signer");
            None
        }
        _ => Some(sequence + 1),
    }
}

/// Takes out those whose time has run out while they waited, or would before they could be included: they would cost a
/// transaction and settle nothing. The others do not wait until these are concluded.
fn drop_late<C: Chain>(rail: &Arc<Rail<C>>, batch: Vec<Ready<C>>) -> Vec<Ready<C>> {
    let (late, batch): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .partition(|ready| rail.is_too_late_to_send(&ready.job));
    if !late.is_empty() {
        rail.spawn(end_late(Arc::clone(rail), late));
    }
    batch
}

/// Concludes those that are late. Where the clock is in doubt they may be good still, and are given back.
async fn end_late<C: Chain>(rail: Arc<Rail<C>>, late: Vec<Ready<C>>) {
    if let Some(fault) = rail.doubts_time().await {
        return release_all(&rail, late, fault).await;
    }
    for Ready { job, .. } in late {
        rail.fail(job, Reason::SETTLEMENT_EXPIRED.into(), None)
            .await;
    }
}

/// What becomes of a group that the chain does not sign. Their number may be at fault, or one of them: each is tried alone,
/// once, by the same signer. Where the nodes do not answer, or the time is bad, none of them would fare better alone.
async fn try_alone<C: Chain>(
    rail: &Arc<Rail<C>>,
    lane: &LaneId,
    batch: Vec<Ready<C>>,
    fault: Fault,
) {
    let is_passing = matches!(fault.kind, FaultKind::ChainUnavailable | FaultKind::Busy);
    if batch.len() == 1 || is_passing {
        return release_all(rail, batch, fault).await;
    }
    warn!(payments = batch.len(), %fault, "the chain does not sign these together: each is tried alone");
    for Ready { mut job, action } in batch {
        job.alone = true;
        rail.queue(job, action, Some(lane.clone())).await;
    }
}

/// Gives a whole group back, in one write to the journal.
async fn release_all<C: Chain>(rail: &Arc<Rail<C>>, batch: Vec<Ready<C>>, fault: Fault) {
    let released = batch
        .into_iter()
        .map(|Ready { job, .. }| rail.release(job, fault.clone()));
    futures_util::future::join_all(released).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_far_ahead_is_believed_once_it_has_been_said_for_a_minute() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut jumps = Jumps::default();
        assert!(jumps.believes(64 + 5, 5, at(0)));
        assert!(!jumps.believes(201, 5, at(0)));
        assert!(!jumps.believes(230, 5, at(59)));
        assert!(jumps.believes(230, 5, at(60)));
        // A slip is forgotten.
        assert!(!jumps.believes(201, 5, at(100)));
        assert!(jumps.believes(6, 6, at(130)));
        assert!(!jumps.believes(201, 6, at(170)));
        // So is what was said before something less.
        assert!(!jumps.believes(150, 6, at(240)));
        assert!(!jumps.believes(150, 6, at(299)));
        assert!(jumps.believes(150, 6, at(300)));
        // A journal that knows nothing of this signer.
        assert!(jumps.believes(100_000, 0, at(301)));
    }
}
