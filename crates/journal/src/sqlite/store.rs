//! The writing side: one connection, the lock, and a check of the files before each commit.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tracing::warn;

use super::condition::Condition;
use super::errors::problem_of;
use super::files::Files;
use super::format::{TOUCH, prepare};
use crate::error::JournalError;
use crate::event::EventSignal;
use crate::group::{Store, Waiting};

/// Begins a transaction with the lock for writing, so that no write of it finds the file locked.
const BEGIN: &str = "BEGIN IMMEDIATE";

/// Writes to the database. It keeps the lock until its last write is done.
pub(super) struct Writer {
    pub(super) files: Files,
    pub(super) options: SqliteConnectOptions,
    pub(super) connection: SqliteConnection,
    /// Whether a write failed on the connection. SQLite may have rolled back by itself, and the
    /// driver does not notice that. So the connection is not used again.
    pub(super) is_spent: bool,
    pub(super) condition: Arc<Condition>,
    /// Wakes the readers of events.
    pub(super) signal: EventSignal,
}

/// Opens a connection that writes. Creates or migrates the tables.
pub(super) async fn connect(
    options: &SqliteConnectOptions,
) -> Result<SqliteConnection, JournalError> {
    let connection = SqliteConnection::connect_with(options).await;
    let mut connection = connection.map_err(problem_of)?;
    prepare(&mut connection).await?;
    Ok(connection)
}

#[async_trait]
impl Store for Writer {
    type Connection = SqliteConnection;
    type Error = sqlx::Error;

    async fn commit(&mut self, batch: &mut [Waiting<Self>]) -> Result<(), JournalError> {
        let committed = self.try_commit(batch).await;
        let found = match &committed {
            Err(error) => Some(error.clone()),
            // A batch may have changed nothing, such as a renewed membership. Only something that
            // reached the disk shows that a problem is over.
            Ok(()) if self.condition.now().is_some() => self.try_commit(&mut []).await.err(),
            Ok(()) => None,
        };
        self.condition.note(found);
        if committed.is_ok() {
            self.signal.wake();
        }
        committed
    }

    /// Looks at the files. After a failure, it also tries to write: while the journal is known to
    /// fail, no settlement may request a write.
    async fn idle(&mut self) {
        let found = match self.condition.now() {
            None => self.files.change(),
            Some(_) => self.try_commit(&mut []).await.err(),
        };
        self.condition.note(found);
    }

    async fn close(self) {
        // Close before the lock in `files` is released.
        if let Err(error) = self.connection.close().await {
            warn!(%error, "the journal could not be closed");
        }
        drop(self.files);
    }
}

impl Writer {
    /// Commits all writes of a batch, or none. An empty batch tests whether a commit succeeds.
    async fn try_commit(&mut self, batch: &mut [Waiting<Self>]) -> Result<(), JournalError> {
        if let Some(damage) = self.condition.damage() {
            return Err(damage);
        }
        if let Some(change) = self.files.change() {
            return Err(change);
        }
        self.reconnect().await?;
        let written = execute_all(&mut self.connection, batch).await;
        self.is_spent = written.is_err();
        written.map_err(|error| unwritable(problem_of(error)))
    }

    /// Opens another connection if the last write failed. The old connection is closed after that:
    /// with no connection open in between, SQLite would delete the log.
    async fn reconnect(&mut self) -> Result<(), JournalError> {
        if !self.is_spent {
            return Ok(());
        }
        let fresh = connect(&self.options).await.map_err(unwritable)?;
        let spent = std::mem::replace(&mut self.connection, fresh);
        if let Err(error) = spent.close().await {
            warn!(%error, "a connection to the journal could not be closed");
        }
        self.is_spent = false;
        Ok(())
    }
}

/// Damage stays damage. Any other problem of the storage is a failed write.
fn unwritable(error: JournalError) -> JournalError {
    match error {
        JournalError::Unavailable { cause } => JournalError::Unwritable { cause },
        error => error,
    }
}

/// Executes all writes in one SQLite transaction.
async fn execute_all(
    connection: &mut SqliteConnection,
    batch: &mut [Waiting<Writer>],
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with(BEGIN).await?;
    for write in batch.iter_mut() {
        if !write.execute(&mut transaction).await? {
            transaction.rollback().await?;
            return execute_each(connection, batch).await;
        }
    }
    if batch.is_empty() {
        // Something must reach the disk, else nothing is tested.
        sqlx::raw_sql(TOUCH).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

/// As [`execute_all`], for a batch in which a write fails alone: its changes are undone, and the
/// others go on. Each write has a savepoint, which most batches need not pay for.
async fn execute_each(
    connection: &mut SqliteConnection,
    batch: &mut [Waiting<Writer>],
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with(BEGIN).await?;
    for write in batch {
        let mut savepoint = transaction.begin().await?;
        match write.execute(&mut savepoint).await? {
            true => savepoint.commit().await?,
            false => savepoint.rollback().await?,
        }
    }
    transaction.commit().await
}
