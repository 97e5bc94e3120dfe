//! Sent transactions whose outcome the chain has not decided yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quittance_core::{Chain, LaneId, Problem, Scope, TransactionId, Watched};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::in_flight::Progress;
use crate::job::Job;
use crate::writer::Journaled;

/// How long a lane's first transaction may wait before the lane counts as stuck: ten blocks of a
/// slow chain, with replacements on the way.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// A lane and a sequence number in it.
pub(crate) type SequenceKey = (LaneId, u64);

/// The sequence numbers that are in use and not decided, each with its transactions and jobs.
pub(crate) struct Outstanding<C: Chain> {
    entries: Mutex<BTreeMap<SequenceKey, Entry<C>>>,
    /// Notified when a transaction is added.
    added: Notify,
    /// Notified when a sequence number is decided.
    decided: Notify,
}

/// One sequence number, with the jobs that wait for it.
pub(crate) struct Entry<C: Chain> {
    /// Every transaction signed for it, newest last.
    pub(crate) transactions: Vec<Journaled>,
    pub(crate) jobs: Vec<Job<C>>,
    /// Those of the transactions that only use up the sequence number.
    pub(crate) noops: Vec<TransactionId>,
    pub(crate) since: Instant,
    /// When bytes were last sent to a node; `None` if unknown.
    pub(crate) last_sent: Option<Instant>,
    /// Since when all its payments have been expired, as far as was looked.
    pub(crate) expired_since: Option<Instant>,
    /// When the chain last had no replacement.
    pub(crate) last_declined: Option<Instant>,
    /// Whether a task sends bytes to a node right now.
    busy: bool,
    /// Since when every look has found it dropped.
    dropped_since: Option<Instant>,
}

impl<C: Chain> Default for Outstanding<C> {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            added: Notify::new(),
            decided: Notify::new(),
        }
    }
}

/// The right to send bytes for a sequence number to a node. Ends when dropped.
pub(crate) struct SendGuard<C: Chain> {
    outstanding: Arc<Outstanding<C>>,
    pub(crate) key: SequenceKey,
}

impl<C: Chain> Drop for SendGuard<C> {
    fn drop(&mut self) {
        let mut entries = self.outstanding.entries();
        let Some(entry) = entries.get_mut(&self.key) else {
            return;
        };
        entry.busy = false;
        // Reserved, and nothing was sent.
        if entry.transactions.is_empty() {
            entries.remove(&self.key);
            drop(entries);
            self.outstanding.decided.notify_waiters();
        }
    }
}

impl<C: Chain> Outstanding<C> {
    /// Reserves a sequence number for a transaction that is about to be signed. Until the guard is
    /// dropped, no other task sends anything for it.
    pub(crate) fn reserve(self: &Arc<Self>, lane: &LaneId, sequence: u64) -> SendGuard<C> {
        let key = (lane.clone(), sequence);
        let mut entries = self.entries();
        entries.entry(key.clone()).or_insert_with(Entry::new).busy = true;
        drop(entries);
        let outstanding = Arc::clone(self);
        SendGuard { outstanding, key }
    }

    /// Watches a transaction that was sent just now.
    pub(crate) fn add(&self, jobs: Vec<Job<C>>, sent: Journaled) {
        let mut entries = self.entries();
        let entry = entries.entry(sent.key()).or_insert_with(Entry::new);
        entry.push(sent);
        entry.jobs.extend(jobs);
        entry.last_sent = Some(Instant::now());
        drop(entries);
        self.added.notify_one();
    }

    /// Watches transactions from the journal that were sent, or were about to be. Their bytes are
    /// sent again at once, because it is unknown whether a node has them. All must have the same
    /// sequence number.
    pub(crate) fn watch_journaled(&self, job: Option<Job<C>>, transactions: Vec<Journaled>) {
        let Some(key) = transactions.first().map(Journaled::key) else {
            return;
        };
        let mut entries = self.entries();
        let entry = entries.entry(key).or_insert_with(Entry::new);
        transactions
            .into_iter()
            .for_each(|transaction| entry.push(transaction));
        entry.jobs.extend(job);
        drop(entries);
        self.added.notify_one();
    }

    /// Adds a replacement for the transactions of a sequence number. Returns whether the number is
    /// still watched.
    pub(crate) fn replaced(&self, key: &SequenceKey, newest: Journaled, is_noop: bool) -> bool {
        let id = newest.transaction().id.clone();
        let replaced = self.at(key, |entry| {
            if is_noop {
                entry.noops.push(id.clone());
            } else {
                entry
                    .jobs
                    .iter()
                    .for_each(|job| job.report(Progress::Sent(id.clone())));
            }
            entry.push(newest);
            entry.last_sent = Some(Instant::now());
        });
        replaced.is_some()
    }

    /// Waits until a transaction is added.
    pub(crate) async fn added(&self) {
        self.added.notified().await;
    }

    /// Waits until fewer than `most` sequence numbers of a lane are outstanding.
    pub(crate) async fn room(&self, lane: &LaneId, most: usize) {
        loop {
            let decided = self.decided.notified();
            if self.entries().keys().filter(|(of, _)| of == lane).count() < most {
                return;
            }
            decided.await;
        }
    }

    /// The lowest outstanding sequence number of a lane.
    pub(crate) fn first(&self, lane: &LaneId) -> Option<u64> {
        let entries = self.entries();
        let mut of_lane = entries.range((lane.clone(), 0)..=(lane.clone(), u64::MAX));
        of_lane.next().map(|((_, sequence), _)| *sequence)
    }

    /// Those of these lanes whose first transaction has waited too long.
    pub(crate) fn stuck(&self, lanes: &[LaneId]) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        let mut last = None;
        let entries = self.entries();
        let own = entries.iter().filter(|((lane, _), _)| lanes.contains(lane));
        for ((lane, sequence), entry) in own {
            let is_first = last.as_ref() != Some(lane);
            last = Some(lane.clone());
            let waited = entry.since.elapsed();
            if is_first && waited > STUCK_AFTER {
                let what = format!(
                    "the transaction {sequence} of the signer {lane} has waited for {} seconds, and \
                     the transactions behind it wait too",
                    waited.as_secs()
                );
                let scope = Scope::Lane(lane.clone());
                problems.push(Problem { scope, what });
            }
        }
        problems
    }

    /// The questions about all outstanding sequence numbers.
    pub(crate) fn watched(&self) -> Vec<Watched> {
        let watched = |entry: &Entry<C>| {
            (!entry.transactions.is_empty()).then(|| crate::writer::watched(&entry.transactions))
        };
        self.entries().values().filter_map(watched).collect()
    }

    /// Removes a sequence number that was decided, and returns its jobs.
    pub(crate) fn take(&self, watched: &Watched) -> Vec<Job<C>> {
        self.remove(&(watched.lane.clone(), watched.sequence))
    }

    /// As [`take`](Self::take), by key.
    pub(crate) fn remove(&self, key: &SequenceKey) -> Vec<Job<C>> {
        let taken = self.entries().remove(key);
        self.decided.notify_waiters();
        taken.map(|entry| entry.jobs).unwrap_or_default()
    }

    /// Records whether a check found a sequence number dropped. Returns for how long every check
    /// has.
    pub(crate) fn dropped_for(&self, watched: &Watched, is_dropped: bool) -> Option<Duration> {
        let key = (watched.lane.clone(), watched.sequence);
        self.at(&key, |entry| {
            let since = || entry.dropped_since.unwrap_or_else(Instant::now);
            entry.dropped_since = is_dropped.then(since);
            entry.dropped_since.map(|since| since.elapsed())
        })?
    }

    /// Takes the right to send bytes for a sequence number, unless another task has it.
    pub(crate) fn start_sending(self: &Arc<Self>, key: SequenceKey) -> Option<SendGuard<C>> {
        let is_free = self.at(&key, |entry| !std::mem::replace(&mut entry.busy, true))?;
        let outstanding = Arc::clone(self);
        is_free.then_some(SendGuard { outstanding, key })
    }

    /// Accesses a sequence number, if it is still watched.
    pub(crate) fn at<T>(
        &self,
        key: &SequenceKey,
        access: impl FnOnce(&mut Entry<C>) -> T,
    ) -> Option<T> {
        self.entries().get_mut(key).map(access)
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<SequenceKey, Entry<C>>> {
        // A thread that panicked with the lock left the map complete: each change is one insertion
        // or removal.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Chain> Entry<C> {
    fn new() -> Self {
        Self {
            transactions: Vec::new(),
            jobs: Vec::new(),
            noops: Vec::new(),
            since: Instant::now(),
            last_sent: None,
            expired_since: None,
            last_declined: None,
            busy: false,
            dropped_since: None,
        }
    }

    /// Adds a transaction, unless it is already here.
    fn push(&mut self, transaction: Journaled) {
        let id = &transaction.transaction().id;
        let is_known = |known: &Journaled| known.transaction().id == *id;
        if !self.transactions.iter().any(is_known) {
            self.transactions.push(transaction);
        }
    }

    /// Whether the newest transaction only uses up the sequence number.
    pub(crate) fn ends_in_noop(&self) -> bool {
        let newest = self.transactions.last();
        newest.is_some_and(|newest| self.noops.contains(&newest.transaction().id))
    }
}
