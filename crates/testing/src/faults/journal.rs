//! A journal with one fault.

use std::ops::Range;
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

/// What is wrong with a [`FaultyJournal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it; `FaultyJournal` shows each")]
pub enum JournalFault {
    WinsEveryClaim,
    ForgetsExclusivity,
    ForgetsRecords,
    ForgetsSteps,
    ForgetsConclusions,
    ForgetsStateOfConclusions,
    WritesAnyRevision,
    ForgetsStates,
    ReportsSuccessAgain,
    ReportsNoSuccess,
    ListsNothingOpen,
}

impl JournalFault {
    /// All faults.
    pub const ALL: [Self; 11] = [
        Self::WinsEveryClaim,
        Self::ForgetsExclusivity,
        Self::ForgetsRecords,
        Self::ForgetsSteps,
        Self::ForgetsConclusions,
        Self::ForgetsStateOfConclusions,
        Self::WritesAnyRevision,
        Self::ForgetsStates,
        Self::ReportsSuccessAgain,
        Self::ReportsNoSuccess,
        Self::ListsNothingOpen,
    ];
}

/// A journal that does one thing wrong, and everything else as the journal inside it.
pub struct FaultyJournal<J> {
    inner: J,
    fault: Option<JournalFault>,
}

impl<J: Journal> FaultyJournal<J> {
    /// The journal with this fault, or with none.
    pub const fn new(inner: J, fault: Option<JournalFault>) -> Self {
        Self { inner, fault }
    }

    fn has(&self, fault: JournalFault) -> bool {
        self.fault == Some(fault)
    }
}

#[async_trait]
impl<J: Journal> StateStore for FaultyJournal<J> {
    async fn state(&self, id: &StateId) -> Result<Option<SchemeState>, Fault> {
        self.inner.state(id).await
    }

    async fn write_state(&self, state: &SchemeState) -> Result<bool, Fault> {
        let mut state = state.clone();
        if self.has(JournalFault::ForgetsStates) {
            return Ok(true);
        }
        if self.has(JournalFault::WritesAnyRevision) {
            let newest = self.inner.state(&state.id).await?;
            state.revision = newest.map_or(0, |newest| newest.revision) + 1;
        }
        self.inner.write_state(&state).await
    }

    async fn due_states(
        &self,
        network: &str,
        scheme: &str,
        now: Timestamp,
        again: Timestamp,
        limit: u32,
    ) -> Result<Vec<SchemeState>, Fault> {
        let due = self.inner.due_states(network, scheme, now, again, limit);
        due.await
    }

    async fn put_off_states(&self, seen: &[(SchemeState, Option<Timestamp>)]) -> Result<(), Fault> {
        self.inner.put_off_states(seen).await
    }
}

#[async_trait]
impl<J: Journal> Journal for FaultyJournal<J> {
    fn problem(&self) -> Option<String> {
        self.inner.problem()
    }

    async fn claim(&self, claim: &Claim, now: Timestamp) -> Result<Claimed, JournalError> {
        let mut claim = claim.clone();
        if let (true, Some(access)) = (
            self.has(JournalFault::ForgetsExclusivity),
            &mut claim.access,
        ) {
            access.exclusive = false;
        }
        match self.inner.claim(&claim, now).await? {
            Claimed::Taken(settlement) if self.has(JournalFault::WinsEveryClaim) => {
                let attempt = settlement.attempt;
                Ok(Claimed::Won { attempt })
            }
            claimed => Ok(claimed),
        }
    }

    async fn record(
        &self,
        network: &str,
        transaction: &Transaction,
        settlements: &[SettlementStep],
        token: Option<FencingToken>,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        if self.has(JournalFault::ForgetsRecords) {
            return Ok(());
        }
        let mut settlements = settlements.to_vec();
        if self.has(JournalFault::ForgetsSteps) {
            settlements.iter_mut().for_each(|one| one.step = 0);
        }
        let record = self
            .inner
            .record(network, transaction, &settlements, token, now);
        record.await
    }

    async fn withdraw(
        &self,
        transaction: &TransactionId,
        token: Option<FencingToken>,
    ) -> Result<(), JournalError> {
        self.inner.withdraw(transaction, token).await
    }

    async fn conclude(
        &self,
        id: &PaymentId,
        attempt: u32,
        outcome: &Outcome,
        state: Option<&SchemeState>,
        now: Timestamp,
    ) -> Result<Ended, JournalError> {
        if self.has(JournalFault::ForgetsConclusions) {
            return Ok(Ended::Yes);
        }
        let state = state.filter(|_| !self.has(JournalFault::ForgetsStateOfConclusions));
        self.inner.conclude(id, attempt, outcome, state, now).await
    }

    async fn reopen(
        &self,
        id: &PaymentId,
        attempt: u32,
        now: Timestamp,
    ) -> Result<bool, JournalError> {
        self.inner.reopen(id, attempt, now).await
    }

    async fn finalize(&self, ids: &[PaymentId], now: Timestamp) -> Result<(), JournalError> {
        self.inner.finalize(ids, now).await
    }

    async fn not_final(&self, network: &str) -> Result<Vec<PaymentId>, JournalError> {
        self.inner.not_final(network).await
    }

    async fn report_success(
        &self,
        id: &PaymentId,
        attempt: u32,
        key: Option<&str>,
        now: Timestamp,
    ) -> Result<Reported, JournalError> {
        let reported = self.inner.report_success(id, attempt, key, now).await?;
        Ok(match self.fault {
            Some(JournalFault::ReportsSuccessAgain) => Reported::First,
            Some(JournalFault::ReportsNoSuccess) => Reported::No,
            _ => reported,
        })
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
        match self.has(JournalFault::ListsNothingOpen) {
            true => Ok(Vec::new()),
            false => self.inner.open(network).await,
        }
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
        self.inner.restore(entry).await
    }

    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u64, JournalError> {
        self.inner.prune(before, limit).await
    }

    fn replica(&self) -> ReplicaId {
        self.inner.replica()
    }

    async fn renew(&self, duration: Duration) -> Result<Members, JournalError> {
        self.inner.renew(duration).await
    }

    async fn leave(&self) -> Result<(), JournalError> {
        self.inner.leave().await
    }

    async fn acquire(&self, name: &LeaseName) -> Result<Option<Lease>, JournalError> {
        self.inner.acquire(name).await
    }

    async fn release(&self, name: &LeaseName) -> Result<(), JournalError> {
        self.inner.release(name).await
    }

    async fn take_up(&self, ids: &[PaymentId]) -> Result<Vec<PaymentId>, JournalError> {
        self.inner.take_up(ids).await
    }

    async fn hand_over(
        &self,
        id: &PaymentId,
        attempt: u32,
        lane: Option<&LaneId>,
    ) -> Result<bool, JournalError> {
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
        self.inner.hold_state(state, payment, duration).await
    }

    async fn release_state(
        &self,
        state: &StateId,
        payment: &PaymentId,
    ) -> Result<(), JournalError> {
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
        self.inner.save_event_cursor(reader, cursor).await
    }

    async fn remove_events(&self, before: Timestamp, limit: u32) -> Result<u64, JournalError> {
        self.inner.remove_events(before, limit).await
    }
}
