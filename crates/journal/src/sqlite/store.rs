//! The writing side: one connection, the lock, and a check of the files before each commit.

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tracing::{error, warn};

use super::BUSY_TIMEOUT;
use super::errors::SqlError;
use super::files::Files;
use super::format::{TOUCH, prepare};
use super::sql::STATEMENTS_MAX;
use crate::condition::Condition;
use crate::error::JournalError;
use crate::event::EventSignal;
use crate::group::{Store, Waiting};

/// Begins a transaction with the lock for writing, so that no write of it finds the file locked.
const BEGIN: &str = "BEGIN IMMEDIATE";

/// How the database is written.
///
/// With the write-ahead log, FULL is what makes a commit survive a power cut. The cache is 32 MiB:
/// identities are random, so each write touches other pages of the indexes. The log is copied to
/// the file when it has 8,000 pages (32 MiB): a page that is written often is then copied once.
const SETTINGS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = ON; PRAGMA cache_size = -32768; PRAGMA wal_autocheckpoint = 8000";

/// Writes to the database, one batch at a time, on a thread that may block. `None` after a panic.
pub(super) struct Writer(Option<Open>);

/// The open database. It keeps the lock until its last write is done.
pub(super) struct Open {
    /// Closed before the lock in `files` is released, so it is dropped first.
    connection: Connection,
    files: Files,
    path: PathBuf,
    /// Whether a write failed on the connection. SQLite may have rolled back by itself. So the
    /// connection is not used again.
    is_spent: bool,
    condition: Arc<Condition>,
    /// Wakes the readers of events.
    signal: EventSignal,
}

/// Opens a connection that writes. Creates or migrates the tables. SQLite never creates the file:
/// if the name is gone for a moment, a new and empty journal would allow settled payments to settle
/// again.
fn connect(path: &Path) -> Result<Connection, JournalError> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(SqlError::problem)?;
    prepare(&connection)?;
    Ok(connection)
}

/// Opens the file, for one thread at a time.
pub(super) fn open(path: &Path, access: OpenFlags) -> Result<Connection, SqlError> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection.busy_timeout(BUSY_TIMEOUT)?;
    if access.contains(OpenFlags::SQLITE_OPEN_READ_WRITE) {
        connection.execute_batch(SETTINGS)?;
    }
    Ok(connection)
}

impl Writer {
    /// Opens the database in these files, or creates its tables.
    pub(super) async fn open(
        mut files: Files,
        condition: Arc<Condition>,
        signal: EventSignal,
    ) -> Result<Self, JournalError> {
        let path = files.path().to_owned();
        let opened = spawn_blocking(move || {
            let connection = connect(&path)?;
            files.remember()?;
            Ok(Open {
                connection,
                files,
                path,
                is_spent: false,
                condition,
                signal,
            })
        });
        let opened = opened.await.unwrap_or(Err(JournalError::Closed));
        Ok(Self(Some(opened?)))
    }

    /// Does some work with the open database, where a thread may block. `None` if that panicked
    /// now or earlier.
    async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Open) -> T + Send + 'static,
    ) -> Option<T> {
        let mut open = self.0.take()?;
        let done = spawn_blocking(move || {
            let done = work(&mut open);
            (open, done)
        });
        match done.await {
            Ok((open, done)) => {
                self.0 = Some(open);
                Some(done)
            }
            Err(panic) => {
                error!(%panic, "the journal is closed");
                None
            }
        }
    }
}

#[async_trait]
impl Store for Writer {
    type Connection = Connection;
    type Error = SqlError;

    async fn commit(&mut self, batch: &mut Vec<Waiting<Self>>) -> Result<(), JournalError> {
        let mut writes = mem::take(batch);
        let done = self.with(move |open| (open.commit(&mut writes), writes));
        // The callers of a batch that is gone get `Closed`.
        let (committed, writes) = done.await.ok_or(JournalError::Closed)?;
        *batch = writes;
        committed
    }

    /// Looks at the files. After a failure, it also tries to write: while the journal is known to
    /// fail, no settlement may request a write.
    async fn idle(&mut self) {
        self.with(Open::look).await;
    }

    async fn close(self) {
        if let Some(open) = self.0 {
            drop(spawn_blocking(move || open.close()).await);
        }
    }
}

impl Open {
    fn commit(&mut self, batch: &mut [Waiting<Writer>]) -> Result<(), JournalError> {
        let committed = self.try_commit(batch);
        let found = match &committed {
            Err(error) => Some(error.clone()),
            // A batch may have changed nothing, such as a renewed membership. Only something that
            // reached the disk shows that a problem is over.
            Ok(()) if self.condition.now().is_some() => self.try_commit(&mut []).err(),
            Ok(()) => None,
        };
        self.condition.note(found);
        if committed.is_ok() {
            self.signal.wake();
        }
        committed
    }

    fn look(&mut self) {
        let found = match self.condition.now() {
            None => self.files.change(),
            Some(_) => self.try_commit(&mut []).err(),
        };
        self.condition.note(found);
    }

    /// Commits all writes of a batch, or none. An empty batch tests whether a commit succeeds.
    fn try_commit(&mut self, batch: &mut [Waiting<Writer>]) -> Result<(), JournalError> {
        if let Some(damage) = self.condition.damage() {
            return Err(damage);
        }
        if let Some(change) = self.files.change() {
            return Err(change);
        }
        self.reconnect()?;
        // A write never waits here: SQLite answers on this thread.
        let written = Handle::current().block_on(execute_all(&mut self.connection, batch));
        self.is_spent = written.is_err();
        written.map_err(|error| error.problem().of_a_write())
    }

    /// Opens another connection if the last write failed. The old connection is closed after that:
    /// with no connection open in between, SQLite would delete the log.
    fn reconnect(&mut self) -> Result<(), JournalError> {
        if !self.is_spent {
            return Ok(());
        }
        let fresh = connect(&self.path).map_err(JournalError::of_a_write)?;
        let spent = mem::replace(&mut self.connection, fresh);
        if let Err((_, error)) = spent.close() {
            warn!(%error, "a connection to the journal could not be closed");
        }
        self.is_spent = false;
        Ok(())
    }

    fn close(self) {
        // Close before the lock in `files` is released.
        if let Err((_, error)) = self.connection.close() {
            warn!(%error, "the journal could not be closed");
        }
        drop(self.files);
    }
}

/// Executes all writes in one SQLite transaction. After an error, the connection is spent.
async fn execute_all(
    connection: &mut Connection,
    batch: &mut [Waiting<Writer>],
) -> Result<(), SqlError> {
    connection.execute_batch(BEGIN)?;
    for write in batch.iter_mut() {
        if !write.execute(connection).await? {
            connection.execute_batch("ROLLBACK")?;
            return execute_each(connection, batch).await;
        }
    }
    if batch.is_empty() {
        // Something must reach the disk, else nothing is tested.
        connection.execute_batch(TOUCH)?;
    }
    Ok(connection.execute_batch("COMMIT")?)
}

/// As [`execute_all`], for a batch in which a write fails alone: its changes are undone, and the
/// others go on. Each write has a savepoint, which most batches need not pay for.
async fn execute_each(
    connection: &mut Connection,
    batch: &mut [Waiting<Writer>],
) -> Result<(), SqlError> {
    connection.execute_batch(BEGIN)?;
    for write in batch {
        connection.execute_batch("SAVEPOINT alone")?;
        let end = match write.execute(connection).await? {
            true => "RELEASE alone",
            false => "ROLLBACK TO alone; RELEASE alone",
        };
        connection.execute_batch(end)?;
    }
    Ok(connection.execute_batch("COMMIT")?)
}
