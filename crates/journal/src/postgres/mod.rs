//! The journal in PostgreSQL, for any number of processes.
//!
//! Each process has one task that writes, with group commit. A lock of the database lets one of
//! them write at a time: all writes are one after another, as in one file. Readers have connections
//! of their own, and never wait for a writer. `docs/journal.md` describes the tables.

mod errors;
mod events;
mod format;
mod holds;
mod leases;
mod listener;
mod prune;
mod reads;
mod refusals;
mod restore;
mod rows;
mod states;
mod store;
mod writes;

use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use quittance_core::{
    Fault, LaneId, PaymentId, SchemeState, StateId, StateStore, Timestamp, Transaction,
    TransactionId,
};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Postgres};
use tokio::sync::Notify;
use tokio::time::timeout;

use self::errors::{concerns_one_entry, problem_of};
use self::leases::Fence;
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

/// How many connections read, and listen. A server has a hundred by default, for all replicas.
const READERS: u32 = 6;

/// How long a read waits for a connection. Its caller then gets a fault, and tries again.
const CONNECTION_MAX: Duration = Duration::from_secs(10);

/// How long a read may take. A page takes milliseconds. Without a limit, a read waits for a quarter
/// of an hour when a network loses every packet.
const READ_MAX: Duration = Duration::from_secs(10);

/// How often a replica looks for settlements that were handed over, without a notification.
const HANDED_OVER_EVERY: Duration = Duration::from_secs(1);

/// A journal in a PostgreSQL database. Any number of processes can open it; each is a replica.
///
/// The tables are in the schema that the connection creates tables in: `public`, unless the URL or
/// the role says otherwise.
pub struct PostgresJournal {
    replica: ReplicaId,
    /// Where writes wait. `None` if the journal was opened for reading only.
    writes: Option<Queue<Writer>>,
    readers: PgPool,
    condition: Arc<Condition>,
    signal: EventSignal,
    handed_over: Arc<Notify>,
}

impl fmt::Debug for PostgresJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresJournal")
            .field("replica", &self.replica)
            .field("condition", &self.condition)
            .finish_non_exhaustive()
    }
}

impl PostgresJournal {
    /// Opens the journal at a URL, as a new replica, such as
    /// `postgres://user:password@host/database?sslmode=verify-full`. Creates its tables in an empty
    /// schema. Several replicas may do so at once.
    ///
    /// # Errors
    /// When the URL cannot be read, the server cannot be reached, or the schema has the tables of
    /// another program or of a newer format.
    pub async fn open(url: &str) -> Result<Self, JournalError> {
        let options = options(url)?;
        let condition = Arc::new(Condition::default());
        let writer = Writer::connect(options.clone(), Arc::clone(&condition)).await?;
        metrics::gauge!("quittance_journal_up").set(1.0);
        Ok(Self::new(options, condition, Some(Queue::start(writer))))
    }

    /// Opens the journal at a URL for reading. Every write fails with [`JournalError::Refused`].
    ///
    /// # Errors
    /// As [`open`](Self::open), and when there is no journal.
    pub async fn open_read_only(url: &str) -> Result<Self, JournalError> {
        let journal = Self::new(options(url)?, Arc::default(), None);
        let mut reader = journal.reader().await?;
        format::check(&mut reader).await?;
        drop(reader);
        Ok(journal)
    }

    /// Checks that the database at a URL has a journal, or is empty. Changes nothing.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn check(url: &str) -> Result<(), JournalError> {
        let connection = options(url)?.connect().await;
        let mut connection = connection.map_err(problem_of)?;
        let checked = format::check_or_empty(&mut connection).await;
        drop(connection.close().await);
        checked
    }

    fn new(
        options: PgConnectOptions,
        condition: Arc<Condition>,
        writes: Option<Queue<Writer>>,
    ) -> Self {
        let pool = PgPoolOptions::new().max_connections(READERS);
        let pool = pool.acquire_timeout(CONNECTION_MAX);
        let readers = pool.connect_lazy_with(options);
        let (signal, handed_over) = (EventSignal::default(), Arc::new(Notify::new()));
        let listening = listener::listen(readers.clone(), signal.clone(), Arc::clone(&handed_over));
        tokio::spawn(listening);
        Self {
            replica: ReplicaId::new(),
            writes,
            readers,
            condition,
            signal,
            handed_over,
        }
    }

    /// What a write with a lane's transaction is allowed by.
    fn fence(&self, token: Option<FencingToken>) -> Fence {
        Fence {
            replica: self.replica,
            token,
        }
    }

    fn check_writable(&self) -> Result<&Queue<Writer>, JournalError> {
        let writes = self.writes.as_ref();
        writes.ok_or_else(|| JournalError::refused("the journal is open for reading only"))
    }

    /// Makes a write.
    async fn write<W: Write<Writer>>(&self, write: W) -> Result<W::Answer, JournalError> {
        self.check_writable()?.write(write).await
    }

    /// A connection that reads.
    async fn reader(&self) -> Result<PoolConnection<Postgres>, JournalError> {
        self.readers.acquire().await.map_err(problem_of)
    }

    /// The result of a read. A connection that failed is closed: the state of its transaction is
    /// unknown.
    fn checked<T>(
        mut reader: PoolConnection<Postgres>,
        read: Result<T, sqlx::Error>,
    ) -> Result<T, JournalError> {
        match read {
            Ok(read) => Ok(read),
            Err(error) if concerns_one_entry(&error) => Err(error.into()),
            Err(error) => {
                reader.close_on_drop();
                Err(problem_of(error))
            }
        }
    }
}

/// A read, unless the server is silent.
async fn in_time<T>(read: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let silent = || io::Error::new(ErrorKind::TimedOut, "the database does not answer");
    let read = timeout(READ_MAX, read).await;
    read.unwrap_or_else(|_| Err(silent().into()))
}

impl Drop for PostgresJournal {
    fn drop(&mut self) {
        // Ends the task that listens. Its connections are closed with the last of them.
        let readers = self.readers.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { readers.close().await });
        }
    }
}

/// The options of a connection. The URL has a password, so an error does not repeat it.
fn options(url: &str) -> Result<PgConnectOptions, JournalError> {
    let read = PgConnectOptions::from_str(url);
    let read = read.map_err(|error| {
        JournalError::unavailable(format!("the URL of the journal cannot be read: {error}"))
    })?;
    Ok(store::options(read).disable_statement_logging())
}

#[async_trait]
impl StateStore for PostgresJournal {
    async fn state(&self, id: &StateId) -> Result<Option<SchemeState>, Fault> {
        let mut reader = self.reader().await?;
        let read = in_time(reads::state(&mut reader, id)).await;
        Ok(Self::checked(reader, read)?)
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
        let mut reader = self.reader().await?;
        let read = in_time(states::any_due(&mut reader, network, scheme, now)).await;
        if !Self::checked(reader, read)? {
            return Ok(Vec::new());
        }
        let take = states::TakeDue {
            network: network.to_owned(),
            scheme: scheme.to_owned(),
            now,
            again,
            limit,
        };
        Ok(self.write(take).await?)
    }

    async fn put_off_states(&self, seen: &[(SchemeState, Option<Timestamp>)]) -> Result<(), Fault> {
        let put_off = states::PutOff(seen.to_vec());
        Ok(self.write(put_off).await?)
    }
}

#[async_trait]
impl Journal for PostgresJournal {
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
        let mut reader = self.reader().await?;
        let read = in_time(reads::fetch_at_one_moment(&mut reader, id)).await;
        Self::checked(reader, read)
    }

    async fn settlements_of(
        &self,
        transaction: &TransactionId,
    ) -> Result<Vec<SettlementStep>, JournalError> {
        let mut reader = self.reader().await?;
        let read = in_time(reads::settlements_of(&mut reader, transaction)).await;
        Self::checked(reader, read)
    }

    async fn open(&self, network: &str) -> Result<Vec<PaymentId>, JournalError> {
        let mut reader = self.reader().await?;
        let read = in_time(reads::open(&mut reader, network, &self.replica)).await;
        Self::checked(reader, read)
    }

    async fn not_final(&self, network: &str) -> Result<Vec<PaymentId>, JournalError> {
        let mut reader = self.reader().await?;
        let read = in_time(reads::not_final(&mut reader, network)).await;
        Self::checked(reader, read)
    }

    async fn page(&self, filter: &Filter, after: Option<Cursor>) -> Result<Page, JournalError> {
        let mut reader = self.reader().await?;
        let read = in_time(reads::page(&mut reader, filter, after)).await;
        Self::checked(reader, read)
    }

    async fn transactions_at(
        &self,
        network: &str,
        lane: &LaneId,
        sequences: Range<u64>,
    ) -> Result<Vec<Transaction>, JournalError> {
        let mut reader = self.reader().await?;
        let read = in_time(reads::transactions_at(
            &mut reader,
            network,
            lane,
            sequences,
        ))
        .await;
        Self::checked(reader, read)
    }

    async fn next_sequence(&self, network: &str, lane: &LaneId) -> Result<u64, JournalError> {
        let mut reader = self.reader().await?;
        let read = in_time(reads::next_sequence(&mut reader, network, lane)).await;
        Self::checked(reader, read)
    }

    async fn transactions(
        &self,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<TransactionPage, JournalError> {
        let mut reader = self.reader().await?;
        let read = in_time(reads::transactions(&mut reader, after, limit)).await;
        Self::checked(reader, read)
    }

    async fn states(
        &self,
        after: Option<&StateId>,
        limit: u32,
    ) -> Result<Vec<StoredState>, JournalError> {
        let mut reader = self.reader().await?;
        let read = in_time(reads::all_states(&mut reader, after, limit)).await;
        Self::checked(reader, read)
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
            duration,
        };
        self.write(renew).await
    }

    async fn leave(&self) -> Result<(), JournalError> {
        let leave = leases::Leave {
            replica: self.replica,
        };
        self.write(leave).await
    }

    async fn acquire(&self, name: &LeaseName) -> Result<Option<Lease>, JournalError> {
        let acquire = leases::Acquire {
            name: name.clone(),
            replica: self.replica,
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
        let mut reader = self.reader().await?;
        let read = in_time(reads::handed_over(&mut reader, network, limit)).await;
        Self::checked(reader, read)
    }

    async fn wait_for_hand_over(&self) {
        // A notification may be lost with its connection.
        drop(timeout(HANDED_OVER_EVERY, self.handed_over.notified()).await);
    }

    async fn hold_state(
        &self,
        state: &StateId,
        payment: &PaymentId,
        duration: Duration,
    ) -> Result<bool, JournalError> {
        self.check_writable()?;
        let mut connection = self.reader().await?;
        let read = in_time(holds::hold(&mut connection, state, payment, duration)).await;
        Self::checked(connection, read)
    }

    async fn release_state(
        &self,
        state: &StateId,
        payment: &PaymentId,
    ) -> Result<(), JournalError> {
        self.check_writable()?;
        let mut connection = self.reader().await?;
        let read = in_time(holds::release(&mut connection, state, payment)).await;
        Self::checked(connection, read)
    }

    async fn events(
        &self,
        filter: &EventFilter,
        after: Option<&EventCursor>,
    ) -> Result<Events, JournalError> {
        let mut reader = self.reader().await?;
        let read = in_time(events::read(&mut reader, filter, after)).await;
        let found = Self::checked(reader, read)?;
        found.ok_or(JournalError::UnknownCursor)
    }

    async fn newest_event(&self) -> Result<EventCursor, JournalError> {
        let mut reader = self.reader().await?;
        let read = in_time(events::newest(&mut reader)).await;
        Self::checked(reader, read)
    }

    fn new_events(&self) -> NewEvents {
        self.signal.subscribe()
    }

    async fn event_cursor(&self, reader: &str) -> Result<Option<EventCursor>, JournalError> {
        let mut connection = self.reader().await?;
        let read = in_time(events::saved(&mut connection, reader)).await;
        Self::checked(connection, read)
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
