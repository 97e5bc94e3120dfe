//! A journal in memory on a simulated disk, for any number of replicas.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use quittance_core::{
    Fault, LaneId, PaymentId, SchemeState, StateId, StateStore, Timestamp, Transaction,
    TransactionId,
};
use quittance_engine::{
    Claim, Claimed, Cursor, Ended, Entry, EventCursor, EventFilter, EventSignal, Events,
    FencingToken, Filter, HandedOver, Journal, JournalError, Lease, LeaseName, Members, NewEvents,
    Outcome, Page, ReplicaId, Reported, Restored, Settlement, SettlementStep, State, StoredState,
    TransactionPage,
};
use tokio::time::{Instant, sleep};

use super::disk::Disk;
use super::mutation::Mutation;
use super::random::Random;

/// How long a write takes at most, before its change is durable and again before its answer. In
/// milliseconds: a slow disk.
const WRITE_MS_MAX: u64 = 4;

/// The database that all replicas share.
struct Database {
    disk: Mutex<Disk>,
    /// Held during a write: all writes are in one order.
    writing: tokio::sync::Mutex<()>,
    random: Mutex<Random>,
    replicas: AtomicU64,
    signal: EventSignal,
}

/// A journal in memory. Each value is one replica.
///
/// A write changes the disk after a simulated time, and answers after another one. A process that
/// ends before the first has lost the write; one that ends between them has lost the answer. It has
/// no state records, refunds, events, restoring and pruning: it refuses them.
pub struct SimulatedJournal {
    database: Arc<Database>,
    replica: ReplicaId,
    has_crashed: Arc<AtomicBool>,
}

impl SimulatedJournal {
    /// An empty journal, whose delays follow from the seed.
    pub fn new(seed: u64) -> Self {
        Self::with(seed, None)
    }

    /// An empty journal with this bug.
    pub fn with(seed: u64, mutation: Option<Mutation>) -> Self {
        let disk = Disk {
            mutation,
            ..Disk::default()
        };
        let database = Database {
            disk: Mutex::new(disk),
            writing: tokio::sync::Mutex::default(),
            random: Mutex::new(Random::new(seed)),
            replicas: AtomicU64::new(0),
            signal: EventSignal::default(),
        };
        Self::of(Arc::new(database))
    }

    fn of(database: Arc<Database>) -> Self {
        let number = database.replicas.fetch_add(1, Ordering::SeqCst) + 1;
        // Not random: a seed must replay exactly.
        let replica = ReplicaId::from_bytes(u128::from(number).to_be_bytes());
        Self {
            database,
            replica,
            has_crashed: Arc::default(),
        }
    }

    /// Another replica with the same database.
    #[must_use]
    pub fn another_replica(&self) -> Self {
        Self::of(Arc::clone(&self.database))
    }

    /// What ends this replica's process: once it is set, no call returns and no write happens.
    pub fn crash_switch(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.has_crashed)
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        let disk = self.database.disk.lock();
        disk.unwrap_or_else(PoisonError::into_inner)
    }

    async fn alive(&self) {
        if self.has_crashed.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    fn half_a_write(&self) -> Duration {
        let random = self.database.random.lock();
        let mut random = random.unwrap_or_else(PoisonError::into_inner);
        Duration::from_millis(random.below(WRITE_MS_MAX + 1))
    }

    /// Waits as long as half of a write takes.
    async fn pause(&self) {
        sleep(self.half_a_write()).await;
        self.alive().await;
    }

    async fn write<T>(&self, change: impl FnOnce(&mut Disk) -> T + Send) -> T
    where
        T: Send,
    {
        self.alive().await;
        let writing = self.database.writing.lock().await;
        sleep(self.half_a_write()).await;
        if self.has_crashed.load(Ordering::SeqCst) {
            // A process that has ended holds no lock of the database.
            drop(writing);
            return std::future::pending().await;
        }
        let answer = change(&mut self.disk());
        drop(writing);
        self.pause().await;
        answer
    }

    async fn read<T>(&self, question: impl FnOnce(&Disk) -> T + Send) -> T {
        self.alive().await;
        question(&self.disk())
    }
}

/// What the simulated journal does not do.
fn unsupported<T>() -> Result<T, JournalError> {
    Err(JournalError::refused(
        "the simulated journal cannot do this",
    ))
}

#[async_trait]
impl StateStore for SimulatedJournal {
    async fn state(&self, _: &StateId) -> Result<Option<SchemeState>, Fault> {
        Ok(None)
    }

    async fn write_state(&self, _: &SchemeState) -> Result<bool, Fault> {
        Ok(unsupported()?)
    }

    async fn due_states(
        &self,
        _: &str,
        _: &str,
        _: Timestamp,
        _: Timestamp,
        _: u32,
    ) -> Result<Vec<SchemeState>, Fault> {
        Ok(Vec::new())
    }

    async fn put_off_states(&self, _: &[(SchemeState, Option<Timestamp>)]) -> Result<(), Fault> {
        Ok(())
    }
}

#[async_trait]
impl Journal for SimulatedJournal {
    async fn claim(&self, claim: &Claim, now: Timestamp) -> Result<Claimed, JournalError> {
        let me = self.replica;
        self.write(|disk| disk.claim(claim, me, now)).await
    }

    async fn record(
        &self,
        network: &str,
        transaction: &Transaction,
        settlements: &[SettlementStep],
        token: Option<FencingToken>,
        _: Timestamp,
    ) -> Result<(), JournalError> {
        let me = self.replica;
        self.write(|disk| disk.record(network, transaction, settlements, me, token))
            .await
    }

    async fn withdraw(
        &self,
        transaction: &TransactionId,
        token: Option<FencingToken>,
    ) -> Result<(), JournalError> {
        let me = self.replica;
        self.write(|disk| disk.withdraw(transaction, me, token))
            .await
    }

    async fn conclude(
        &self,
        id: &PaymentId,
        attempt: u32,
        outcome: &Outcome,
        state: Option<&SchemeState>,
        now: Timestamp,
    ) -> Result<Ended, JournalError> {
        if state.is_some() {
            return unsupported();
        }
        let me = self.replica;
        self.write(|disk| disk.conclude(id, attempt, outcome, me, now))
            .await
    }

    async fn reopen(
        &self,
        id: &PaymentId,
        attempt: u32,
        _: Timestamp,
    ) -> Result<bool, JournalError> {
        let me = self.replica;
        Ok(self.write(|disk| disk.reopen(id, attempt, me)).await)
    }

    async fn finalize(&self, ids: &[PaymentId], now: Timestamp) -> Result<(), JournalError> {
        self.write(|disk| disk.finalize(ids, now)).await;
        Ok(())
    }

    async fn report_success(
        &self,
        id: &PaymentId,
        attempt: u32,
        key: Option<&str>,
        now: Timestamp,
    ) -> Result<Reported, JournalError> {
        let report = |disk: &mut Disk| disk.report_success(id, attempt, key, now);
        Ok(self.write(report).await)
    }

    async fn settlement(&self, id: &PaymentId) -> Result<Option<Settlement>, JournalError> {
        Ok(self.read(|disk| disk.settlement(id)).await)
    }

    async fn settlements_of(
        &self,
        transaction: &TransactionId,
    ) -> Result<Vec<SettlementStep>, JournalError> {
        let found = |disk: &Disk| {
            let mut steps = Vec::new();
            for (settlement, kept) in &disk.settlements {
                let signed = kept.signed.iter().filter(|(_, id, _)| id == transaction);
                steps.extend(signed.map(|(_, _, step)| SettlementStep {
                    settlement: *settlement,
                    step: *step,
                }));
            }
            steps
        };
        Ok(self.read(found).await)
    }

    async fn open(&self, network: &str) -> Result<Vec<PaymentId>, JournalError> {
        let me = self.replica;
        let found = |disk: &Disk| {
            if disk.has(Mutation::ListsNothingOpen) {
                return Vec::new();
            }
            let takes_all = disk.has(Mutation::TakesFromLivingOwners);
            let is_left_out = |owner| owner != me && disk.is_member(owner) && !takes_all;
            let matches =
                |one: &Settlement| one.state == State::Open && !one.owner.is_some_and(is_left_out);
            ids(&disk.listed(network, |one| one.claimed_at, matches))
        };
        Ok(self.read(found).await)
    }

    async fn not_final(&self, network: &str) -> Result<Vec<PaymentId>, JournalError> {
        let matches = |one: &Settlement| {
            one.final_at.is_none() && matches!(one.state, State::Concluded(Outcome::Settled { .. }))
        };
        let time = |one: &Settlement| one.concluded_at.unwrap_or_default();
        let found = |disk: &Disk| match disk.has(Mutation::WatchesNothing) {
            true => Vec::new(),
            false => ids(&disk.listed(network, time, matches)),
        };
        Ok(self.read(found).await)
    }

    async fn page(&self, filter: &Filter, after: Option<Cursor>) -> Result<Page, JournalError> {
        if filter.state_record.is_some() || filter.refund_of.is_some() {
            return Ok(Page::default());
        }
        let start = after.map_or(0, |cursor| cursor.number());
        let found = |disk: &Disk| {
            let all = (1..).zip(&disk.order).filter(|(number, _)| *number > start);
            let all = all.filter_map(|(number, id)| Some((number, disk.settlement(id)?)));
            let matching = all.filter(|(_, one)| {
                let network = filter.network.as_ref();
                network.is_none_or(|network| *network == one.claim.network)
                    && filter.state.is_none_or(|kind| kind == one.state.kind())
            });
            let mut found: Vec<(u64, Settlement)> = matching.collect();
            let limit = filter.limit as usize;
            let next = match found.len() > limit {
                true => Cursor::after(found[limit - 1].0),
                false => None,
            };
            found.truncate(limit);
            Page::new(found.into_iter().map(|(_, one)| one).collect(), next)
        };
        Ok(self.read(found).await)
    }

    async fn transactions_at(
        &self,
        network: &str,
        lane: &LaneId,
        sequences: Range<u64>,
    ) -> Result<Vec<Transaction>, JournalError> {
        let found = |disk: &Disk| {
            let rows = disk.rows.iter().filter(|row| {
                row.network == network && row.transaction.lane == *lane && !row.is_withdrawn
            });
            let mut found: Vec<Transaction> = rows
                .filter(|row| sequences.contains(&row.transaction.sequence))
                .map(|row| row.transaction.clone())
                .collect();
            found.sort_by_key(|transaction| transaction.sequence);
            found
        };
        Ok(self.read(found).await)
    }

    async fn next_sequence(&self, network: &str, lane: &LaneId) -> Result<u64, JournalError> {
        let all = self.transactions_at(network, lane, 0..u64::MAX).await?;
        let mutation = self.read(|disk| disk.mutation).await;
        let newest = all.last().map(|newest| newest.sequence);
        Ok(match mutation {
            Some(Mutation::ForgetsSequences) => 0,
            Some(Mutation::ReusesSequence) => newest.unwrap_or(0),
            _ => newest.map_or(0, |newest| newest + 1),
        })
    }

    async fn transactions(
        &self,
        _: Option<Cursor>,
        _: u32,
    ) -> Result<TransactionPage, JournalError> {
        unsupported()
    }

    async fn states(&self, _: Option<&StateId>, _: u32) -> Result<Vec<StoredState>, JournalError> {
        unsupported()
    }

    async fn restore(&self, _: &Entry) -> Result<Restored, JournalError> {
        unsupported()
    }

    async fn prune(&self, _: Timestamp, _: u32) -> Result<u64, JournalError> {
        unsupported()
    }

    fn replica(&self) -> ReplicaId {
        self.replica
    }

    async fn renew(&self, duration: Duration) -> Result<Members, JournalError> {
        let me = self.replica;
        let renew = move |disk: &mut Disk| {
            let now = Instant::now();
            disk.members.insert(me, now + duration);
            disk.members.retain(|_, until| now < *until);
            let leases = disk.leases.iter().filter_map(|(name, (holder, token))| {
                let holder = (*holder)?;
                disk.members.contains_key(&holder).then(|| Lease {
                    name: name.clone(),
                    holder,
                    token: *token,
                })
            });
            Members {
                replicas: disk.members.keys().copied().collect(),
                leases: leases.collect(),
            }
        };
        Ok(self.write(renew).await)
    }

    async fn leave(&self) -> Result<(), JournalError> {
        let me = self.replica;
        self.write(|disk| disk.members.remove(&me)).await;
        Ok(())
    }

    async fn acquire(&self, name: &LeaseName) -> Result<Option<Lease>, JournalError> {
        let me = self.replica;
        Ok(self.write(|disk| disk.acquire(name, me)).await)
    }

    async fn release(&self, name: &LeaseName) -> Result<(), JournalError> {
        let me = self.replica;
        let release = |disk: &mut Disk| {
            if let Some((holder, _)) = disk.leases.get_mut(name)
                && *holder == Some(me)
            {
                *holder = None;
            }
        };
        self.write(release).await;
        Ok(())
    }

    async fn take_up(&self, ids: &[PaymentId]) -> Result<Vec<PaymentId>, JournalError> {
        let me = self.replica;
        Ok(self.write(|disk| disk.take_up(ids, me)).await)
    }

    async fn hand_over(
        &self,
        id: &PaymentId,
        attempt: u32,
        lane: Option<&LaneId>,
    ) -> Result<bool, JournalError> {
        let me = self.replica;
        Ok(self
            .write(|disk| disk.hand_over(id, attempt, lane, me))
            .await)
    }

    async fn handed_over(
        &self,
        network: &str,
        limit: u32,
    ) -> Result<Vec<HandedOver>, JournalError> {
        let found = |disk: &Disk| {
            let matches = |one: &Settlement| one.state == State::Open && one.owner.is_none();
            let limit = match disk.has(Mutation::ListsNothingOpen) {
                true => 0,
                false => limit,
            };
            let found = disk.listed(network, |one| one.claimed_at, matches);
            let found = found.into_iter().take(limit as usize);
            found
                .map(|kept| HandedOver {
                    id: kept.settlement.claim.id,
                    lane: kept.wanted.clone(),
                })
                .collect()
        };
        Ok(self.read(found).await)
    }

    async fn hold_state(
        &self,
        _: &StateId,
        _: &PaymentId,
        _: Duration,
    ) -> Result<bool, JournalError> {
        unsupported()
    }

    async fn release_state(&self, _: &StateId, _: &PaymentId) -> Result<(), JournalError> {
        unsupported()
    }

    async fn events(
        &self,
        _: &EventFilter,
        _: Option<&EventCursor>,
    ) -> Result<Events, JournalError> {
        unsupported()
    }

    async fn newest_event(&self) -> Result<EventCursor, JournalError> {
        unsupported()
    }

    fn new_events(&self) -> NewEvents {
        self.database.signal.subscribe()
    }

    async fn event_cursor(&self, _: &str) -> Result<Option<EventCursor>, JournalError> {
        unsupported()
    }

    async fn save_event_cursor(&self, _: &str, _: &EventCursor) -> Result<(), JournalError> {
        unsupported()
    }

    async fn remove_events(&self, _: Timestamp, _: u32) -> Result<u64, JournalError> {
        // The engine removes old events from time to time, and there are none.
        Ok(0)
    }
}

fn ids(listed: &[&super::disk::Kept]) -> Vec<PaymentId> {
    let ids = listed.iter().map(|kept| kept.settlement.claim.id);
    ids.collect()
}
