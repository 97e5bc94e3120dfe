//! A journal whose disk is full on demand, or whose process ends at a certain write.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use quittance_core::{
    Fault, LaneId, PaymentId, SchemeState, StateId, StateStore, Timestamp, Transaction,
    TransactionId,
};
use quittance_engine::{
    Claim, Claimed, Cursor, Ended, Entry, EventCursor, EventFilter, Events, FencingToken, Filter,
    HandedOver, Journal, JournalError, Lease, LeaseName, Members, NewEvents, Outcome, Page,
    ReplicaId, Reported, Restored, Settlement, SettlementStep, StoredState, TransactionPage,
};
use tokio::sync::Notify;

/// A write that a settlement is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the methods of a journal")]
pub enum JournalWrite {
    Claim,
    Record,
    Withdraw,
    Conclude,
    Reopen,
    ReportSuccess,
    WriteState,
}

/// The moment at which a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashPoint {
    /// The number of the write at which it ends: 1 is the first.
    pub write: usize,
    /// Whether this write has an effect. Its caller does not see an answer in either case.
    pub is_written: bool,
}

/// Ends the process at a write: from then on, no write has an effect or an answer.
#[derive(Debug, Default)]
pub struct Crash {
    point: OnceLock<CrashPoint>,
    writes: AtomicUsize,
    at: OnceLock<JournalWrite>,
    permitted: AtomicUsize,
    happened: Notify,
}

impl Crash {
    /// Plans a crash. Only the first plan counts.
    pub fn plan(&self, point: CrashPoint) {
        // A second plan is ignored.
        let _ = self.point.set(point);
    }

    /// Waits for the crash.
    pub async fn happened(&self) {
        while self.at.get().is_none() {
            self.happened.notified().await;
        }
    }

    /// The write at which the process ended, if it has.
    pub fn at(&self) -> Option<JournalWrite> {
        self.at.get().copied()
    }

    /// How many successes the writes have permitted to answer. A process that ends may not have
    /// answered all of them.
    pub fn permitted(&self) -> usize {
        self.permitted.load(Ordering::SeqCst)
    }

    /// Notes whether a write has permitted to answer a success.
    fn permits(&self, is_permitted: bool) -> bool {
        self.permitted
            .fetch_add(usize::from(is_permitted), Ordering::SeqCst);
        is_permitted
    }

    /// Counts a write before it is made.
    fn before(&self, write: JournalWrite) -> Result<usize, JournalError> {
        let number = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        self.reach(write, number, false)?;
        Ok(number)
    }

    /// Ends the process if this is the moment.
    fn reach(
        &self,
        write: JournalWrite,
        number: usize,
        is_written: bool,
    ) -> Result<(), JournalError> {
        let now = CrashPoint {
            write: number,
            is_written,
        };
        if self.point.get() == Some(&now) && self.at.set(write).is_ok() {
            self.happened.notify_one();
        }
        self.check()
    }

    fn check(&self) -> Result<(), JournalError> {
        match self.at() {
            Some(_) => Err(JournalError::unavailable("the process has ended")),
            None => Ok(()),
        }
    }
}

/// Which writes fail. Reads never do.
#[derive(Debug, Default)]
pub struct Failing {
    /// Claims.
    pub claims: AtomicBool,
    /// Everything after a claim.
    pub rest: AtomicBool,
    /// Whether the journal reports that it is unusable.
    pub is_known: AtomicBool,
    /// How long it takes until it is known that "reported" was written, in milliseconds.
    pub tell_takes: AtomicU64,
    /// Whether the next settlement is taken back by the chain right before its success is reported.
    pub takes_back: AtomicBool,
    /// How long it takes to list what is not final, in milliseconds.
    pub list_takes: AtomicU64,
    /// When the process ends.
    pub crash: Crash,
    /// When the process is stopped for a while.
    pub pause: Pause,
}

/// Stops the process at a write for a while, as SIGSTOP does: the thread sleeps, so an engine must
/// have a runtime with one thread of its own.
#[derive(Debug, Default)]
pub struct Pause(OnceLock<(JournalWrite, bool, Duration)>, AtomicBool);

impl Pause {
    /// Plans a pause of this duration at the first write of this kind: after it if `is_written`,
    /// else before it. Only the first plan counts.
    pub fn plan(&self, write: JournalWrite, is_written: bool, duration: Duration) {
        // A second plan is ignored.
        let _ = self.0.set((write, is_written, duration));
    }

    /// Whether the process is stopped, or was.
    pub fn has_begun(&self) -> bool {
        self.1.load(Ordering::SeqCst)
    }

    fn reach(&self, write: JournalWrite, is_written: bool) {
        let Some((at, after, duration)) = self.0.get() else {
            return;
        };
        if (*at, *after) == (write, is_written) && !self.1.swap(true, Ordering::SeqCst) {
            std::thread::sleep(*duration);
        }
    }
}

impl Failing {
    /// Makes a write, unless it fails by `full` or after a crash.
    async fn write<T, E: From<JournalError>>(
        &self,
        write: JournalWrite,
        full: &AtomicBool,
        result: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        is_full(full)?;
        let number = self.crash.before(write)?;
        self.pause.reach(write, false);
        let result = result.await?;
        self.pause.reach(write, true);
        self.crash.reach(write, number, true)?;
        Ok(result)
    }

    /// Whether a write that is not part of one settlement fails.
    fn other_write(&self) -> Result<(), JournalError> {
        is_full(&self.rest)?;
        self.crash.check()
    }

    /// All writes fail, and the journal knows; or none.
    pub fn everything(&self, fails: bool) {
        for failing in [&self.claims, &self.rest, &self.is_known] {
            failing.store(fails, Ordering::SeqCst);
        }
    }
}

/// A journal whose disk is full on demand.
pub struct FlakyJournal<J> {
    /// The journal behind it.
    pub inner: J,
    /// What fails now.
    pub failing: Arc<Failing>,
}

fn is_full(failing: &AtomicBool) -> Result<(), JournalError> {
    match failing.load(Ordering::SeqCst) {
        true => Err(JournalError::unavailable("the disk is full")),
        false => Ok(()),
    }
}

#[async_trait]
impl<J: Journal> StateStore for FlakyJournal<J> {
    async fn state(&self, id: &StateId) -> Result<Option<SchemeState>, Fault> {
        self.inner.state(id).await
    }

    async fn write_state(&self, state: &SchemeState) -> Result<bool, Fault> {
        let write = async {
            let is_written = self.inner.write_state(state).await?;
            Ok(self.failing.crash.permits(is_written))
        };
        let (failing, kind) = (&self.failing, JournalWrite::WriteState);
        failing.write(kind, &failing.rest, write).await
    }

    async fn due_states(
        &self,
        network: &str,
        scheme: &str,
        now: Timestamp,
        again: Timestamp,
        limit: u32,
    ) -> Result<Vec<SchemeState>, Fault> {
        self.failing.other_write()?;
        let due = self.inner.due_states(network, scheme, now, again, limit);
        due.await
    }

    async fn put_off_states(&self, seen: &[(SchemeState, Option<Timestamp>)]) -> Result<(), Fault> {
        self.failing.other_write()?;
        self.inner.put_off_states(seen).await
    }
}

#[async_trait]
impl<J: Journal> Journal for FlakyJournal<J> {
    fn problem(&self) -> Option<String> {
        match self.failing.is_known.load(Ordering::SeqCst) {
            true => Some("the disk is full".to_owned()),
            false => self.inner.problem(),
        }
    }

    async fn claim(&self, claim: &Claim, now: Timestamp) -> Result<Claimed, JournalError> {
        let write = self.inner.claim(claim, now);
        let (failing, kind) = (&self.failing, JournalWrite::Claim);
        failing.write(kind, &failing.claims, write).await
    }

    async fn record(
        &self,
        network: &str,
        transaction: &Transaction,
        settlements: &[SettlementStep],
        token: Option<FencingToken>,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        let write = self
            .inner
            .record(network, transaction, settlements, token, now);
        let (failing, kind) = (&self.failing, JournalWrite::Record);
        failing.write(kind, &failing.rest, write).await
    }

    async fn withdraw(
        &self,
        transaction: &TransactionId,
        token: Option<FencingToken>,
    ) -> Result<(), JournalError> {
        let write = self.inner.withdraw(transaction, token);
        let (failing, kind) = (&self.failing, JournalWrite::Withdraw);
        failing.write(kind, &failing.rest, write).await
    }

    async fn conclude(
        &self,
        id: &PaymentId,
        attempt: u32,
        outcome: &Outcome,
        state: Option<&SchemeState>,
        now: Timestamp,
    ) -> Result<Ended, JournalError> {
        let write = self.inner.conclude(id, attempt, outcome, state, now);
        let (failing, kind) = (&self.failing, JournalWrite::Conclude);
        failing.write(kind, &failing.rest, write).await
    }

    async fn reopen(
        &self,
        id: &PaymentId,
        attempt: u32,
        now: Timestamp,
    ) -> Result<bool, JournalError> {
        let write = self.inner.reopen(id, attempt, now);
        let (failing, kind) = (&self.failing, JournalWrite::Reopen);
        failing.write(kind, &failing.rest, write).await
    }

    async fn finalize(&self, ids: &[PaymentId], now: Timestamp) -> Result<(), JournalError> {
        self.failing.other_write()?;
        self.inner.finalize(ids, now).await
    }

    async fn not_final(&self, network: &str) -> Result<Vec<PaymentId>, JournalError> {
        let takes = self.failing.list_takes.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(takes)).await;
        self.inner.not_final(network).await
    }

    async fn report_success(
        &self,
        id: &PaymentId,
        attempt: u32,
        key: Option<&str>,
        now: Timestamp,
    ) -> Result<Reported, JournalError> {
        is_full(&self.failing.rest)?;
        if self.failing.takes_back.swap(false, Ordering::SeqCst) {
            self.inner.reopen(id, attempt, now).await?;
        }
        let write = async {
            let reported = self.inner.report_success(id, attempt, key, now).await?;
            self.failing.crash.permits(reported != Reported::No);
            Ok(reported)
        };
        let (failing, kind) = (&self.failing, JournalWrite::ReportSuccess);
        let reported = failing.write(kind, &failing.rest, write).await;
        let takes = self.failing.tell_takes.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(takes)).await;
        reported
    }

    async fn settlement(&self, id: &PaymentId) -> Result<Option<Settlement>, JournalError> {
        self.inner.settlement(id).await
    }

    async fn settlements_of(
        &self,
        id: &TransactionId,
    ) -> Result<Vec<SettlementStep>, JournalError> {
        self.inner.settlements_of(id).await
    }

    async fn open(&self, network: &str) -> Result<Vec<PaymentId>, JournalError> {
        self.inner.open(network).await
    }

    async fn page(&self, filter: &Filter, after: Option<Cursor>) -> Result<Page, JournalError> {
        self.inner.page(filter, after).await
    }

    async fn transactions_at(
        &self,
        network: &str,
        lane: &LaneId,
        sequences: Range<u64>,
    ) -> Result<Vec<Transaction>, JournalError> {
        self.inner.transactions_at(network, lane, sequences).await
    }

    async fn next_sequence(&self, network: &str, lane: &LaneId) -> Result<u64, JournalError> {
        self.inner.next_sequence(network, lane).await
    }

    async fn transactions(
        &self,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<TransactionPage, JournalError> {
        self.inner.transactions(after, limit).await
    }

    async fn states(
        &self,
        after: Option<&StateId>,
        limit: u32,
    ) -> Result<Vec<StoredState>, JournalError> {
        self.inner.states(after, limit).await
    }

    async fn restore(&self, entry: &Entry) -> Result<Restored, JournalError> {
        self.failing.other_write()?;
        self.inner.restore(entry).await
    }

    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u64, JournalError> {
        self.failing.other_write()?;
        self.inner.prune(before, limit).await
    }

    fn replica(&self) -> ReplicaId {
        self.inner.replica()
    }

    async fn renew(&self, duration: Duration) -> Result<Members, JournalError> {
        self.failing.other_write()?;
        self.inner.renew(duration).await
    }

    async fn leave(&self) -> Result<(), JournalError> {
        self.failing.other_write()?;
        self.inner.leave().await
    }

    async fn acquire(&self, name: &LeaseName) -> Result<Option<Lease>, JournalError> {
        self.failing.other_write()?;
        self.inner.acquire(name).await
    }

    async fn release(&self, name: &LeaseName) -> Result<(), JournalError> {
        self.failing.other_write()?;
        self.inner.release(name).await
    }

    async fn take_up(&self, ids: &[PaymentId]) -> Result<Vec<PaymentId>, JournalError> {
        self.failing.other_write()?;
        self.inner.take_up(ids).await
    }

    async fn hand_over(
        &self,
        id: &PaymentId,
        attempt: u32,
        lane: Option<&LaneId>,
    ) -> Result<bool, JournalError> {
        self.failing.other_write()?;
        self.inner.hand_over(id, attempt, lane).await
    }

    async fn handed_over(
        &self,
        network: &str,
        limit: u32,
    ) -> Result<Vec<HandedOver>, JournalError> {
        self.inner.handed_over(network, limit).await
    }

    async fn wait_for_hand_over(&self) {
        self.inner.wait_for_hand_over().await;
    }

    async fn hold_state(
        &self,
        state: &StateId,
        payment: &PaymentId,
        duration: Duration,
    ) -> Result<bool, JournalError> {
        self.failing.other_write()?;
        self.inner.hold_state(state, payment, duration).await
    }

    async fn release_state(
        &self,
        state: &StateId,
        payment: &PaymentId,
    ) -> Result<(), JournalError> {
        self.failing.other_write()?;
        self.inner.release_state(state, payment).await
    }

    async fn events(
        &self,
        filter: &EventFilter,
        after: Option<&EventCursor>,
    ) -> Result<Events, JournalError> {
        self.inner.events(filter, after).await
    }

    async fn newest_event(&self) -> Result<EventCursor, JournalError> {
        self.inner.newest_event().await
    }

    fn new_events(&self) -> NewEvents {
        self.inner.new_events()
    }

    async fn event_cursor(&self, reader: &str) -> Result<Option<EventCursor>, JournalError> {
        self.inner.event_cursor(reader).await
    }

    async fn save_event_cursor(
        &self,
        reader: &str,
        cursor: &EventCursor,
    ) -> Result<(), JournalError> {
        self.failing.other_write()?;
        self.inner.save_event_cursor(reader, cursor).await
    }

    async fn remove_events(&self, before: Timestamp, limit: u32) -> Result<u64, JournalError> {
        self.failing.other_write()?;
        self.inner.remove_events(before, limit).await
    }
}
