//! A journal whose disk is full on demand.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use quittance_core::{
    Fault, LaneId, PaymentId, SchemeState, StateId, StateStore, Timestamp, Transaction,
    TransactionId,
};
use quittance_engine::{
    Claim, Claimed, Cursor, Ended, Filter, Journal, JournalError, Outcome, Page, Settlement,
    SettlementStep,
};

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
}

impl Failing {
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

fn full(failing: &AtomicBool) -> Result<(), JournalError> {
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
        full(&self.failing.rest)?;
        self.inner.write_state(state).await
    }

    async fn due_states(
        &self,
        network: &str,
        scheme: &str,
        now: Timestamp,
        again: Timestamp,
        limit: u32,
    ) -> Result<Vec<SchemeState>, Fault> {
        full(&self.failing.rest)?;
        let due = self.inner.due_states(network, scheme, now, again, limit);
        due.await
    }

    async fn put_off_states(&self, seen: &[(SchemeState, Option<Timestamp>)]) -> Result<(), Fault> {
        full(&self.failing.rest)?;
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
        full(&self.failing.claims)?;
        self.inner.claim(claim, now).await
    }

    async fn record(
        &self,
        network: &str,
        transaction: &Transaction,
        settlements: &[SettlementStep],
        now: Timestamp,
    ) -> Result<(), JournalError> {
        full(&self.failing.rest)?;
        self.inner
            .record(network, transaction, settlements, now)
            .await
    }

    async fn withdraw(&self, transaction: &TransactionId) -> Result<(), JournalError> {
        full(&self.failing.rest)?;
        self.inner.withdraw(transaction).await
    }

    async fn conclude(
        &self,
        id: &PaymentId,
        attempt: u32,
        outcome: &Outcome,
        state: Option<&SchemeState>,
        now: Timestamp,
    ) -> Result<Ended, JournalError> {
        full(&self.failing.rest)?;
        self.inner.conclude(id, attempt, outcome, state, now).await
    }

    async fn reopen(&self, id: &PaymentId, attempt: u32) -> Result<bool, JournalError> {
        full(&self.failing.rest)?;
        self.inner.reopen(id, attempt).await
    }

    async fn finalize(&self, ids: &[PaymentId], now: Timestamp) -> Result<(), JournalError> {
        full(&self.failing.rest)?;
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
    ) -> Result<bool, JournalError> {
        full(&self.failing.rest)?;
        if self.failing.takes_back.swap(false, Ordering::SeqCst) {
            self.inner.reopen(id, attempt).await?;
        }
        let reported = self.inner.report_success(id, attempt, key, now).await;
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
}
