//! A lane: one signer, which sends one transaction after the other. On chains without sequence
//! numbers it sends many concurrently.
//!
//! The lane takes waiting settlements from each payer in turn and batches them as far as the chain
//! allows. It signs the batch for the next sequence number, records the transaction in the journal,
//! and sends it. A sequence number counts as used only if a transaction for it may have reached a
//! node. Until then, the next batch gets the same number. On chains without sequence numbers each
//! batch gets a number of its own, and unused numbers do no harm.
//!
//! Only the holder of the lane's lease sends in it. The lease is checked right before a transaction
//! is signed, and its token in the write that records the transaction.
//!
//! A transaction that another party has signed has no lane here. It is relayed as it is.

mod relay;
mod send;
mod sequence;
mod turns;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use quittance_core::{Chain, Fault, FaultKind, LaneId};
use quittance_journal::FencingToken;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tracing::error;

pub(crate) use self::relay::{RELAYING_MAX, relay};
use self::sequence::Jumps;
use self::turns::Turns;
use crate::context::Context;
use crate::job::Ready;

/// How many settlements may wait in one lane.
const QUEUE_MAX: usize = 8192;

/// How many waiting settlements are examined for one batch. The largest batches have some dozens.
/// To examine a whole long queue for each transaction is work that grows with its square.
const LOOK_AHEAD_MAX: usize = 256;

/// How long a batch waits until the lane has fewer outstanding transactions. Callers wait as long
/// for a settlement.
const ROOM_WAIT: Duration = Duration::from_secs(20);

/// The entrance of a lane.
pub(crate) struct Lane<C: Chain> {
    pub(crate) id: LaneId,
    jobs: mpsc::Sender<Ready<C>>,
    waiting: Arc<AtomicUsize>,
}

/// The task that sends a lane's settlements.
pub(crate) struct Worker<C: Chain> {
    id: LaneId,
    jobs: mpsc::Receiver<Ready<C>>,
    waiting: Arc<AtomicUsize>,
    /// Taken from the queue and not sent yet.
    held: Turns<Ready<C>>,
    /// The next sequence number, if it is known.
    next_sequence: Option<u64>,
    /// The tenure of the lane's lease that the number is known for.
    tenure: Option<FencingToken>,
    jumps: Jumps,
    /// Whether the chain has sequence numbers. Assumed until the chain says otherwise.
    is_sequential: bool,
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
    let worker = Worker {
        id,
        jobs,
        waiting,
        held: Turns::default(),
        next_sequence: None,
        tenure: None,
        jumps: Jumps::default(),
        is_sequential: true,
    };
    (lane, worker)
}

impl<C: Chain> Lane<C> {
    /// Queues a settlement. Returns it if the queue is full.
    pub(crate) fn accept(&self, ready: Ready<C>) -> Option<Ready<C>> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let refused = self.jobs.try_send(ready).err()?;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(refused.into_inner())
    }

    /// The number of waiting settlements.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl<C: Chain> Worker<C> {
    /// Works until the lane's entrance is dropped.
    pub(crate) async fn run(mut self, context: Arc<Context<C>>) {
        loop {
            // A panic in a chain or a scheme must not end the lane. The settlements of the batch
            // stay open in the journal, and the next sweep finds them.
            let worked = AssertUnwindSafe(self.work(&context)).catch_unwind().await;
            match worked {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => {
                    error!(lane = %self.id, "a lane panicked");
                    // Without sequence numbers, batches in progress have numbers that the journal
                    // does not know yet.
                    if self.is_sequential {
                        self.next_sequence = None;
                    }
                }
            }
        }
    }

    /// Sends one batch. Returns `false` if there will be no more.
    async fn work(&mut self, context: &Arc<Context<C>>) -> bool {
        let room = context
            .outstanding
            .room(&self.id, context.chain.in_flight_max());
        if timeout(ROOM_WAIT, room).await.is_err() {
            self.release_waiting(context).await;
            return true;
        }
        let Some(batch) = self.next_batch(&*context.chain).await else {
            return false;
        };
        self.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
        self.send(context, batch).await;
        true
    }

    /// Releases all waiting settlements, because no transaction was included for long. Their
    /// callers may try another facilitator, or another lane later.
    async fn release_waiting(&mut self, context: &Arc<Context<C>>) {
        while let Ok(ready) = self.jobs.try_recv() {
            self.hold(ready);
        }
        let batch = self.held.take_all();
        self.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
        let stuck = format!("the transactions of {} are not being included", self.id);
        let fault = Fault::new(FaultKind::Busy, stuck);
        context.release_all(batch, fault).await;
    }

    fn hold(&mut self, ready: Ready<C>) {
        let payer = Arc::clone(ready.job.payer());
        self.held.push(&payer, ready);
    }

    /// The next settlement, and all those that can share its transaction.
    async fn next_batch(&mut self, chain: &C) -> Option<Vec<Ready<C>>> {
        if self.held.is_empty() {
            let ready = self.jobs.recv().await?;
            self.hold(ready);
        }
        while let Ok(ready) = self.jobs.try_recv() {
            self.hold(ready);
        }
        let fits = |batch: &[Ready<C>], next: &Ready<C>| {
            let may_share = batch
                .iter()
                .all(|ready| ready.job.may_share_with(&next.job));
            let actions: Vec<&C::Action> = batch.iter().map(|ready| &ready.action).collect();
            may_share && chain.can_batch(&actions, &next.action)
        };
        Some(self.held.next_batch(LOOK_AHEAD_MAX, fits))
    }

    /// Sends a batch with the next sequence number. The number after that is known only once this
    /// one is sent. Without sequence numbers, many batches are sent concurrently, and share the
    /// journal's commits and the network's time.
    async fn send(&mut self, context: &Arc<Context<C>>, batch: Vec<Ready<C>>) {
        let batch = send::drop_late(context, batch);
        if batch.is_empty() {
            return;
        }
        let Some(token) = context.leases.token_to_send(&self.id) else {
            return send::find_other_lane(context, batch);
        };
        // Another replica may have used the lane in between.
        if self.tenure != Some(token) {
            self.tenure = Some(token);
            self.next_sequence = None;
        }
        let sequence = match self.sequence(context).await {
            Ok(sequence) => sequence,
            Err(fault) => return context.release_all(batch, fault).await,
        };
        // Reserve before anything waits: the number counts as outstanding from now on.
        let reserved = context.outstanding.reserve(&self.id, sequence);
        let sent = send::send(Arc::clone(context), reserved, token, batch);
        if self.is_sequential {
            self.next_sequence = sent.await;
            return;
        }
        self.next_sequence = Some(sequence + 1);
        let id = self.id.clone();
        context.spawn(async move {
            if AssertUnwindSafe(sent).catch_unwind().await.is_err() {
                error!(lane = %id, sequence, "a lane panicked");
            }
        });
    }

    /// The next sequence number: above all that the chain has and all that the journal has.
    async fn sequence(&mut self, context: &Context<C>) -> Result<u64, Fault> {
        if let Some(sequence) = self.next_sequence {
            return Ok(sequence);
        }
        let journal = &context.writer.journal;
        let journaled = journal.next_sequence(context.network(), &self.id).await?;
        let on_chain = context.chain.next_sequence(&self.id).await?;
        let sequence = on_chain.unwrap_or_default();
        if !self.jumps.accepts(sequence, journaled, Instant::now()) {
            let what = format!(
                "the nodes say that the next number of {} is {sequence}, and the journal's is \
                 {journaled}: the nodes' number is used if they still report it in a minute",
                self.id
            );
            return Err(Fault::new(FaultKind::ChainUnavailable, what));
        }
        let sequence = sequence.max(journaled);
        self.is_sequential = on_chain.is_some();
        self.next_sequence = Some(sequence);
        Ok(sequence)
    }
}
