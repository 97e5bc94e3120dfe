//! What is out there: every place in every lane whose outcome the chain has not decided yet.

mod follow;
mod gaps;
mod replace;
mod settled;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quittance_core::{Chain, LaneId, Problem, Scope, TransactionId, Watched};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::job::{Job, Progress};
use crate::writer::Journaled;

pub(crate) use follow::run;
pub(crate) use gaps::GapFiller;
pub(crate) use settled::Settled;

/// How long the watcher waits before it does something about what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two looks, when nothing has happened for a while.
    pub look_every: Duration,
    /// Before the same bytes are sent again.
    pub resubmit_after: Duration,
    /// Before a higher fee is offered for the first transaction in line, and again before each higher one.
    pub replace_after: Duration,
    /// For how long a place must be found gone before it counts.
    pub gone_for: Duration,
    /// Between two searches for what was left: holes in a lane's line, settlements nobody works on, and settled payments that
    /// the chain took back. A settled payment is looked at after this time, and then ever less often until it is final.
    pub sweep_every: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            // Half the time between blocks of a fast chain.
            look_every: Duration::from_secs(1),
            // A node that has lost a transaction is rare, and sending it again is cheap.
            resubmit_after: Duration::from_secs(5),
            // Slow chains take twelve seconds for a block; two full blocks are no reason to pay more.
            replace_after: Duration::from_secs(30),
            // Nodes behind one URL may be a few blocks apart.
            gone_for: Duration::from_secs(5),
            // There is nothing to be found, unless something went wrong.
            sweep_every: Duration::from_secs(15),
        }
    }
}

/// For how long a lane's first transaction may wait before the lane counts as stuck. Ten blocks of a slow chain, with fees
/// raised on the way.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// What is out there, by lane and place.
pub(crate) struct Watch<C: Chain> {
    sequences: Mutex<BTreeMap<(LaneId, u64), Place<C>>>,
    /// Something was added.
    pub(crate) added: Notify,
    /// Something was decided.
    decided: Notify,
}

/// One place, with those who wait for it.
pub(crate) struct Place<C: Chain> {
    /// Every transaction signed for it, newest last.
    pub(crate) transactions: Vec<Journaled>,
    pub(crate) jobs: Vec<Job<C>>,
    /// Those of the transactions that do nothing but use the place up.
    pub(crate) fillers: Vec<TransactionId>,
    pub(crate) since: Instant,
    /// When bytes were last handed to a node; `None` if nobody knows.
    pub(crate) last_sent: Option<Instant>,
    /// When the chain last had nothing to offer in exchange.
    pub(crate) last_declined: Option<Instant>,
    /// Whether somebody is handing bytes to a node.
    busy: bool,
    /// Since when it was found gone, every time.
    gone_since: Option<Instant>,
}

impl<C: Chain> Default for Watch<C> {
    fn default() -> Self {
        Self {
            sequences: Mutex::default(),
            added: Notify::new(),
            decided: Notify::new(),
        }
    }
}

/// The right to hand bytes for a place to a node; ends when dropped.
pub(crate) struct Sending<C: Chain> {
    watch: Arc<Watch<C>>,
    pub(crate) key: (LaneId, u64),
}

impl<C: Chain> Drop for Sending<C> {
    fn drop(&mut self) {
        let mut sequences = self.watch.sequences();
        let Some(sequence) = sequences.get_mut(&self.key) else {
            return;
        };
        sequence.busy = false;
        // Reserved, and nothing was sent.
        if sequence.transactions.is_empty() {
            sequences.remove(&self.key);
            drop(sequences);
            self.watch.decided.notify_waiters();
        }
    }
}

impl<C: Chain> Watch<C> {
    /// Reserves a place for a transaction that is about to be signed: nobody else fills it meanwhile.
    pub(crate) fn reserve(self: &Arc<Self>, lane: &LaneId, sequence: u64) -> Sending<C> {
        let key = (lane.clone(), sequence);
        let mut sequences = self.sequences();
        sequences.entry(key.clone()).or_insert_with(Place::new).busy = true;
        drop(sequences);
        let watch = Arc::clone(self);
        Sending { watch, key }
    }

    /// Follows a transaction that was sent just now.
    pub(crate) fn add(&self, jobs: Vec<Job<C>>, sent: Journaled) {
        let mut sequences = self.sequences();
        let sequence = sequences.entry(sent.key()).or_insert_with(Place::new);
        sequence.push(sent);
        sequence.jobs.extend(jobs);
        sequence.last_sent = Some(Instant::now());
        drop(sequences);
        self.added.notify_one();
    }

    /// Follows what the journal says was sent, or was about to be. The bytes are sent again at once: nobody knows.
    /// All transactions are of one place.
    pub(crate) fn adopt(&self, job: Option<Job<C>>, transactions: Vec<Journaled>) {
        let Some(key) = transactions.first().map(Journaled::key) else {
            return;
        };
        let mut sequences = self.sequences();
        let sequence = sequences.entry(key).or_insert_with(Place::new);
        transactions
            .into_iter()
            .for_each(|transaction| sequence.push(transaction));
        sequence.jobs.extend(job);
        drop(sequences);
        self.added.notify_one();
    }

    /// A transaction was signed for a place in exchange for those before it. Says whether anybody still watches.
    pub(crate) fn replaced(&self, key: &(LaneId, u64), newest: Journaled, is_filler: bool) -> bool {
        let id = newest.transaction().id.clone();
        let replaced = self.at(key, |sequence| {
            if is_filler {
                sequence.fillers.push(id.clone());
            } else {
                sequence
                    .jobs
                    .iter()
                    .for_each(|job| job.hold.report(Progress::Sent(id.clone())));
            }
            sequence.push(newest);
            sequence.last_sent = Some(Instant::now());
        });
        replaced.is_some()
    }

    /// Waits until fewer than `most` places of a lane are out.
    pub(crate) async fn room(&self, lane: &LaneId, most: usize) {
        loop {
            let decided = self.decided.notified();
            if self.sequences().keys().filter(|(of, _)| of == lane).count() < most {
                return;
            }
            decided.await;
        }
    }

    /// The first place of a lane that is out.
    pub(crate) fn first(&self, lane: &LaneId) -> Option<u64> {
        let sequences = self.sequences();
        let mut of_lane = sequences.range((lane.clone(), 0)..=(lane.clone(), u64::MAX));
        of_lane.next().map(|((_, sequence), _)| *sequence)
    }

    /// The lanes in which nothing has moved for long.
    pub(crate) fn stuck(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        let mut last = None;
        for ((lane, at), sequence) in self.sequences().iter() {
            let first_in_line = last.as_ref() != Some(lane);
            last = Some(lane.clone());
            let waited = sequence.since.elapsed();
            if first_in_line && waited > STUCK_AFTER {
                let what = format!(
                    "the transaction {at} of the signer {lane} has waited for {} seconds; those behind it wait too",
                    waited.as_secs()
                );
                let scope = Scope::Lane(lane.clone());
                problems.push(Problem { scope, what });
            }
        }
        problems
    }

    pub(crate) fn watched(&self) -> Vec<Watched> {
        let watched = |((lane, at), sequence): (&(LaneId, u64), &Place<C>)| {
            let transactions = sequence.transactions.iter();
            (!sequence.transactions.is_empty()).then(|| Watched {
                lane: lane.clone(),
                sequence: *at,
                transactions: transactions
                    .map(|journaled| journaled.transaction().clone())
                    .collect(),
            })
        };
        self.sequences().iter().filter_map(watched).collect()
    }

    /// Takes a place out that was decided.
    pub(crate) fn take(&self, watched: &Watched) -> Vec<Job<C>> {
        let taken = self
            .sequences()
            .remove(&(watched.lane.clone(), watched.sequence));
        self.decided.notify_waiters();
        taken.map(|sequence| sequence.jobs).unwrap_or_default()
    }

    /// Notes whether a place was found gone; says for how long it was.
    pub(crate) fn gone_for(&self, watched: &Watched, gone: bool) -> Option<Duration> {
        let key = (watched.lane.clone(), watched.sequence);
        self.at(&key, |sequence| {
            sequence.gone_since = gone.then(|| sequence.gone_since.unwrap_or_else(Instant::now));
            sequence.gone_since.map(|since| since.elapsed())
        })?
    }

    /// The right to hand bytes for a place to a node, unless somebody has it.
    pub(crate) fn sending(self: &Arc<Self>, key: (LaneId, u64)) -> Option<Sending<C>> {
        let free = self.at(&key, |sequence| {
            !std::mem::replace(&mut sequence.busy, true)
        })?;
        let watch = Arc::clone(self);
        free.then_some(Sending { watch, key })
    }

    /// Looks at a place, if anybody still watches it.
    pub(crate) fn at<T>(
        &self,
        key: &(LaneId, u64),
        look: impl FnOnce(&mut Place<C>) -> T,
    ) -> Option<T> {
        self.sequences().get_mut(key).map(look)
    }

    fn sequences(&self) -> MutexGuard<'_, BTreeMap<(LaneId, u64), Place<C>>> {
        // Whoever panicked with the lock left the map whole: each change is one insertion or removal.
        self.sequences
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Chain> Place<C> {
    fn new() -> Self {
        Self {
            transactions: Vec::new(),
            jobs: Vec::new(),
            fillers: Vec::new(),
            since: Instant::now(),
            last_sent: None,
            last_declined: None,
            busy: false,
            gone_since: None,
        }
    }

    /// Adds a transaction, unless it is here.
    fn push(&mut self, transaction: Journaled) {
        let id = &transaction.transaction().id;
        if !self
            .transactions
            .iter()
            .any(|known| known.transaction().id == *id)
        {
            self.transactions.push(transaction);
        }
    }

    /// Whether the newest transaction does nothing but use the place up.
    pub(crate) fn is_filled(&self) -> bool {
        let newest = self.transactions.last();
        newest.is_some_and(|newest| self.fillers.contains(&newest.transaction().id))
    }
}
