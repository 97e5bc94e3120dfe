//! The journal in one SQLite file, for one machine. It needs no server.
//!
//! One task writes, with group commit. Readers have connections of their own. `docs/journal.md`
//! describes the file's format.

mod errors;
mod events;
mod files;
mod format;
mod leases;
mod members;
mod prune;
mod readers;
mod reads;
mod refusals;
mod restore;
mod rows;
mod sql;
mod states;
mod store;
mod writes;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use quittance_core::{
    Fault, LaneId, PaymentId, SchemeState, StateId, StateStore, Timestamp, Transaction,
    TransactionId,
};
use rusqlite::Connection;
use tracing::warn;

use self::errors::SqlError;
use self::files::Files;
use self::leases::Fence;
use self::members::Shared;
use self::readers::Readers;
use self::store::Writer;
use crate::condition::Condition;
use crate::entry::{Entry, Restored, StoredState, TransactionPage};
use crate::error::JournalError;
use crate::event::{EventCursor, EventFilter, EventSignal, Events, NewEvents};
use crate::group::{Queue, Write};
use crate::journal::Journal;
use crate::page::{Cursor, Filter, Page};
use crate::replica::{FencingToken, HandedOver, Lease, LeaseName, Members, ReplicaId};
use crate::settlement::{Claim, Claimed, Ended, Outcome, Reported, Settlement, SettlementStep};

/// How long a connection waits for the lock of another program that writes to the file, such as an
/// operator's `sqlite3`. Readers and backups do not hold it. Then the writes fail, and their
/// callers try again: they wait for twenty seconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A journal in a SQLite file. One process at a time can open it.
pub struct SqliteJournal {
    replica: ReplicaId,
    /// Where writes wait, or the file that was opened for reading only.
    writes: Result<Arc<Queue<Writer>>, PathBuf>,
    readers: Readers,
    condition: Arc<Condition>,
    shared: Arc<Shared>,
    signal: EventSignal,
}

impl fmt::Debug for SqliteJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteJournal")
            .field("condition", &self.condition)
            .finish_non_exhaustive()
    }
}

impl SqliteJournal {
    /// Opens the journal in this file, or creates it. Only the file's owner may read a new one. A
    /// file of an older format is migrated.
    ///
    /// # Errors
    /// When another process has it open, when the file cannot be written, belongs to another
    /// program, or has a newer format.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        let files = Files::open(path.as_ref())?;
        for file in files::readable_by_others(files.path()) {
            let file = file.display();
            warn!(%file, "other users of this machine can read the journal: chmod 600");
        }
        let path = files.path().to_owned();
        let condition = Arc::new(Condition::default());
        let signal = EventSignal::default();
        let writer = Writer::open(files, Arc::clone(&condition), signal.clone()).await?;
        let readers = Readers::open(path).await?;
        metrics::gauge!("quittance_journal_up").set(1.0);
        Ok(Self {
            replica: ReplicaId::new(),
            writes: Ok(Arc::new(Queue::start(writer))),
            readers,
            condition,
            shared: Arc::default(),
            signal,
        })
    }

    /// Another replica with the same open file, in this process. For tests, and for programs that
    /// run several engines. The file is closed when the last one is dropped.
    #[must_use]
    pub fn another_replica(&self) -> Self {
        Self {
            replica: ReplicaId::new(),
            writes: self.writes.clone(),
            readers: self.readers.clone(),
            condition: Arc::clone(&self.condition),
            shared: Arc::clone(&self.shared),
            signal: self.signal.clone(),
        }
    }

    /// What a write with a lane's transaction is allowed by.
    fn fence(&self, token: Option<FencingToken>) -> Fence {
        Fence {
            replica: self.replica,
            shared: Arc::clone(&self.shared),
            token,
        }
    }

    /// Opens the journal in this file for reading, also while another process writes to it. Every
    /// write fails with [`JournalError::ReadOnly`].
    ///
    /// # Errors
    /// When the file cannot be read, belongs to another program, or has another format.
    pub async fn open_read_only(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        let path = std::fs::canonicalize(path.as_ref())
            .map_err(|error| JournalError::file(path.as_ref(), error))?;
        let readers = Readers::open(path.clone()).await?;
        let file = path.clone();
        let checked = readers.read(move |connection| Ok(format::check(connection, &file)));
        checked.await??;
        Ok(Self {
            replica: ReplicaId::new(),
            writes: Err(path),
            readers,
            condition: Arc::default(),
            shared: Arc::default(),
            signal: EventSignal::default(),
        })
    }

    /// Makes a write.
    async fn write<W: Write<Writer>>(&self, write: W) -> Result<W::Answer, JournalError> {
        match &self.writes {
            Ok(writes) => writes.write(write).await,
            Err(path) => Err(JournalError::ReadOnly {
                path: path.clone(),
                why: "the journal is open for reading only",
            }),
        }
    }

    /// What an operator should know about the journal in this file: damage that SQLite finds, and
    /// files that other users can read. Reads the whole file. May be called while a process has the
    /// journal open.
    ///
    /// # Errors
    /// When the file cannot be read at all.
    pub async fn inspect(path: impl AsRef<Path>) -> Result<Vec<String>, JournalError> {
        /// More lines about one damaged file add nothing.
        const LINES_MAX: usize = 5;
        let path = std::fs::canonicalize(path.as_ref())
            .map_err(|error| JournalError::file(path.as_ref(), error))?;
        let mut found: Vec<String> = files::readable_by_others(&path)
            .iter()
            .map(|file| {
                let file = file.display();
                format!("other users of this machine can read {file}: chmod 600 {file}")
            })
            .collect();
        let readers = Readers::open(path.clone()).await?;
        let checked = readers.read(|connection| {
            sql::all(connection, "PRAGMA quick_check", [], |row| {
                Ok(row.get::<_, String>(0)?)
            })
        });
        let lines = match checked.await {
            Err(error) if error.is_damage() => vec![error.to_string()],
            checked => checked?,
        };
        let damage = lines.iter().filter(|line| *line != "ok").take(LINES_MAX);
        found.extend(damage.map(|line| format!("{} is damaged: {line}", path.display())));
        Ok(found)
    }

    /// Reads, unless what is read may be wrong.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, SqlError> + Send + 'static,
    ) -> Result<T, JournalError> {
        if let Some(problem) = self.condition.unreadable() {
            return Err(problem);
        }
        let error = match self.readers.read(read).await {
            Ok(found) => return Ok(found),
            Err(error) if error.concerns_one_entry() => return Err(error.into()),
            Err(error) => error.problem(),
        };
        if matches!(error, JournalError::Damaged { .. }) {
            self.condition.note(Some(error.clone()));
        }
        Err(error)
    }
}

#[async_trait]
impl StateStore for SqliteJournal {
    async fn state(&self, id: &StateId) -> Result<Option<SchemeState>, Fault> {
        let id = *id;
        let read = self.read(move |connection| reads::state(connection, &id));
        Ok(read.await?)
    }

    async fn write_state(&self, state: &SchemeState) -> Result<bool, Fault> {
        let write = states::WriteState(state.clone());
        Ok(self.write(write).await?)
    }

    async fn due_states(
        &self,
        network: &str,
        scheme: &str,
        now: Timestamp,
        again: Timestamp,
        limit: u32,
    ) -> Result<Vec<SchemeState>, Fault> {
        // Every sweep asks. Most of the time none is due, and reading needs no place in the queue.
        let take = states::TakeDue {
            network: network.to_owned(),
            scheme: scheme.to_owned(),
            now,
            again,
            limit,
        };
        let asked = take.clone();
        let read = self.read(move |connection| asked.is_any_due(connection));
        match read.await? {
            true => Ok(self.write(take).await?),
            false => Ok(Vec::new()),
        }
    }

    async fn put_off_states(&self, seen: &[(SchemeState, Option<Timestamp>)]) -> Result<(), Fault> {
        let put_off = states::PutOff(seen.to_vec());
        Ok(self.write(put_off).await?)
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    fn problem(&self) -> Option<String> {
        self.condition.now().map(|problem| problem.to_string())
    }

    async fn claim(&self, claim: &Claim, now: Timestamp) -> Result<Claimed, JournalError> {
        let write = writes::InsertClaim {
            claim: claim.clone(),
            replica: self.replica,
            now,
        };
        self.write(write).await
    }

    async fn record(
        &self,
        network: &str,
        transaction: &Transaction,
        settlements: &[SettlementStep],
        token: Option<FencingToken>,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        let record = writes::Record {
            network: network.to_owned(),
            transaction: transaction.clone(),
            settlements: settlements.to_vec(),
            fence: self.fence(token),
            now,
        };
        self.write(record).await
    }

    async fn withdraw(
        &self,
        transaction: &TransactionId,
        token: Option<FencingToken>,
    ) -> Result<(), JournalError> {
        let withdraw = writes::Withdraw {
            transaction: transaction.clone(),
            fence: self.fence(token),
        };
        self.write(withdraw).await
    }

    async fn conclude(
        &self,
        id: &PaymentId,
        attempt: u32,
        outcome: &Outcome,
        state: Option<&SchemeState>,
        now: Timestamp,
    ) -> Result<Ended, JournalError> {
        let conclude = writes::Conclude {
            id: *id,
            attempt,
            replica: self.replica,
            outcome: outcome.clone(),
            state: state.cloned(),
            now,
        };
        self.write(conclude).await
    }

    async fn reopen(
        &self,
        id: &PaymentId,
        attempt: u32,
        now: Timestamp,
    ) -> Result<bool, JournalError> {
        let reopen = writes::Reopen {
            id: *id,
            attempt,
            replica: self.replica,
            now,
        };
        self.write(reopen).await
    }

    async fn finalize(&self, ids: &[PaymentId], now: Timestamp) -> Result<(), JournalError> {
        let ids = ids.to_vec();
        self.write(writes::Finalize { ids, now }).await
    }

    async fn report_success(
        &self,
        id: &PaymentId,
        attempt: u32,
        key: Option<&str>,
        now: Timestamp,
    ) -> Result<Reported, JournalError> {
        let report = writes::ReportSuccess {
            id: *id,
            attempt,
            key: key.filter(|key| !key.is_empty()).map(str::to_owned),
            now,
        };
        self.write(report).await
    }

    async fn settlement(&self, id: &PaymentId) -> Result<Option<Settlement>, JournalError> {
        let id = *id;
        let read = self.read(move |connection| reads::fetch_at_one_moment(connection, &id));
        read.await
    }

    async fn settlements_of(
        &self,
        transaction: &TransactionId,
    ) -> Result<Vec<SettlementStep>, JournalError> {
        let transaction = transaction.clone();
        let read = self.read(move |connection| reads::settlements_of(connection, &transaction));
        read.await
    }

    async fn open(&self, network: &str) -> Result<Vec<PaymentId>, JournalError> {
        let (network, shared, own) = (network.to_owned(), Arc::clone(&self.shared), self.replica);
        let is_of_other = move |owner: ReplicaId| owner != own && shared.is_member(&owner);
        let read = self.read(move |connection| reads::open(connection, &network, is_of_other));
        read.await
    }

    async fn not_final(&self, network: &str) -> Result<Vec<PaymentId>, JournalError> {
        let network = network.to_owned();
        let read = self.read(move |connection| reads::not_final(connection, &network));
        read.await
    }

    async fn page(&self, filter: &Filter, after: Option<Cursor>) -> Result<Page, JournalError> {
        let filter = filter.clone();
        let read = self.read(move |connection| reads::page(connection, &filter, after));
        read.await
    }

    async fn transactions_at(
        &self,
        network: &str,
        lane: &LaneId,
        sequences: Range<u64>,
    ) -> Result<Vec<Transaction>, JournalError> {
        let (network, lane) = (network.to_owned(), lane.clone());
        let read = self
            .read(move |connection| reads::transactions_at(connection, &network, &lane, sequences));
        read.await
    }

    async fn next_sequence(&self, network: &str, lane: &LaneId) -> Result<u64, JournalError> {
        let (network, lane) = (network.to_owned(), lane.clone());
        let read = self.read(move |connection| reads::next_sequence(connection, &network, &lane));
        read.await
    }

    async fn transactions(
        &self,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<TransactionPage, JournalError> {
        let read = self.read(move |connection| reads::transactions(connection, after, limit));
        read.await
    }

    async fn states(
        &self,
        after: Option<&StateId>,
        limit: u32,
    ) -> Result<Vec<StoredState>, JournalError> {
        let after = after.copied();
        let read =
            self.read(move |connection| reads::all_states(connection, after.as_ref(), limit));
        read.await
    }

    async fn restore(&self, entry: &Entry) -> Result<Restored, JournalError> {
        self.write(restore::Restore(entry.clone())).await
    }

    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u64, JournalError> {
        self.write(prune::Prune { before, limit }).await
    }

    fn replica(&self) -> ReplicaId {
        self.replica
    }

    async fn renew(&self, duration: Duration) -> Result<Members, JournalError> {
        let renew = leases::Renew {
            replica: self.replica,
            shared: Arc::clone(&self.shared),
            duration,
        };
        self.write(renew).await
    }

    async fn leave(&self) -> Result<(), JournalError> {
        let leave = leases::Leave {
            replica: self.replica,
            shared: Arc::clone(&self.shared),
        };
        self.write(leave).await
    }

    async fn acquire(&self, name: &LeaseName) -> Result<Option<Lease>, JournalError> {
        let acquire = leases::Acquire {
            name: name.clone(),
            replica: self.replica,
            shared: Arc::clone(&self.shared),
        };
        self.write(acquire).await
    }

    async fn release(&self, name: &LeaseName) -> Result<(), JournalError> {
        let release = leases::Release {
            name: name.clone(),
            replica: self.replica,
        };
        self.write(release).await
    }

    async fn take_up(&self, ids: &[PaymentId]) -> Result<Vec<PaymentId>, JournalError> {
        let take_up = leases::TakeUp {
            ids: ids.to_vec(),
            replica: self.replica,
            shared: Arc::clone(&self.shared),
        };
        self.write(take_up).await
    }

    async fn hand_over(
        &self,
        id: &PaymentId,
        attempt: u32,
        lane: Option<&LaneId>,
    ) -> Result<bool, JournalError> {
        let hand_over = leases::HandOver {
            id: *id,
            attempt,
            lane: lane.cloned(),
            replica: self.replica,
        };
        self.write(hand_over).await
    }

    async fn handed_over(
        &self,
        network: &str,
        limit: u32,
    ) -> Result<Vec<HandedOver>, JournalError> {
        let network = network.to_owned();
        let read = self.read(move |connection| reads::handed_over(connection, &network, limit));
        read.await
    }

    async fn hold_state(
        &self,
        state: &StateId,
        payment: &PaymentId,
        duration: Duration,
    ) -> Result<bool, JournalError> {
        Ok(self.shared.hold(*state, *payment, duration))
    }

    async fn release_state(
        &self,
        state: &StateId,
        payment: &PaymentId,
    ) -> Result<(), JournalError> {
        self.shared.release(state, payment);
        Ok(())
    }

    async fn events(
        &self,
        filter: &EventFilter,
        after: Option<&EventCursor>,
    ) -> Result<Events, JournalError> {
        let (filter, after) = (filter.clone(), after.cloned());
        let read = self.read(move |connection| events::read(connection, &filter, after.as_ref()));
        read.await?.ok_or(JournalError::UnknownCursor)
    }

    async fn newest_event(&self) -> Result<EventCursor, JournalError> {
        self.read(events::newest).await
    }

    fn new_events(&self) -> NewEvents {
        self.signal.subscribe()
    }

    async fn event_cursor(&self, reader: &str) -> Result<Option<EventCursor>, JournalError> {
        let reader = reader.to_owned();
        let read = self.read(move |connection| events::saved(connection, &reader));
        read.await
    }

    async fn save_event_cursor(
        &self,
        reader: &str,
        cursor: &EventCursor,
    ) -> Result<(), JournalError> {
        let save = events::SaveCursor {
            reader: reader.to_owned(),
            cursor: cursor.clone(),
        };
        self.write(save).await
    }

    async fn remove_events(&self, before: Timestamp, limit: u32) -> Result<u64, JournalError> {
        let remove = events::RemoveEvents { before, limit };
        self.write(remove).await
    }
}
