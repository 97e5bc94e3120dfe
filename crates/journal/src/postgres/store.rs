//! The writing side: one connection of this replica, and one writer of all replicas at a time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Executor};
use tokio::time::timeout;
use tracing::warn;

use super::errors::problem_of;
use super::format::{LOCK, prepare};
use crate::condition::Condition;
use crate::error::JournalError;
use crate::group::{Store, Waiting};

/// Ends a transaction whose replica has stopped in it: a paused process must not keep the others
/// from writing. A transaction never waits for anything but the server, so five seconds are much
/// longer than any pause of a process that runs. See "Client Connection Defaults" in PostgreSQL's
/// documentation.
const SETTINGS: [(&str, &str); 4] = [
    ("application_name", "quittance"),
    ("idle_in_transaction_session_timeout", "5s"),
    // The database may have another default. With one, a write would see the moment at which it
    // began to wait for the lock, and not what the writer before it has committed.
    ("default_transaction_isolation", "read committed"),
    // The server may have another default. An answered write survives a crash.
    ("synchronous_commit", "on"),
];

/// How long a batch may take, with the wait for the lock: three times as long as the server waits
/// for a replica that has stopped, and less than callers wait. After that, the connection is given
/// up: when a network loses every packet, it would end only after a quarter of an hour.
const BATCH_TIME_MAX: Duration = Duration::from_secs(15);

/// Writes something that changes nothing, so that a server that only reads refuses it.
const TOUCH: &str = "UPDATE quittance_format SET format = format";

/// Writes to the database.
pub(super) struct Writer {
    options: PgConnectOptions,
    /// `None` after a failure: the next write connects again.
    connection: Option<PgConnection>,
    condition: Arc<Condition>,
}

/// The options of every connection.
pub(super) fn options(options: PgConnectOptions) -> PgConnectOptions {
    options.options(SETTINGS)
}

impl Writer {
    /// Connects, and creates the tables in an empty schema.
    pub(super) async fn connect(
        options: PgConnectOptions,
        condition: Arc<Condition>,
    ) -> Result<Self, JournalError> {
        let connecting = timeout(BATCH_TIME_MAX, connect(&options)).await;
        let connection = connecting.unwrap_or_else(|_| Err(silent()))?;
        Ok(Self {
            options,
            connection: Some(connection),
            condition,
        })
    }

    /// Commits all writes of a batch, or none. An empty batch tests whether a commit succeeds.
    async fn try_commit(&mut self, batch: &mut [Waiting<Self>]) -> Result<(), JournalError> {
        if let Some(damage) = self.condition.damage() {
            return Err(damage);
        }
        let connection = self.connection.take();
        let writing = write(connection, &self.options, batch);
        let written = timeout(BATCH_TIME_MAX, writing).await;
        let written = written.unwrap_or_else(|_| Err(silent()));
        self.connection = Some(written.map_err(JournalError::of_a_write)?);
        Ok(())
    }
}

/// Commits a batch on this connection, or on a new one. Returns the connection. After a failure it
/// is closed: the server may not have noticed, and may hold the lock, and the end of its connection
/// ends its transaction.
async fn write(
    connection: Option<PgConnection>,
    options: &PgConnectOptions,
    batch: &mut [Waiting<Writer>],
) -> Result<PgConnection, JournalError> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => connect(options).await?,
    };
    match execute_all(&mut connection, batch).await {
        Ok(()) => Ok(connection),
        Err(error) => {
            drop(connection.close_hard().await);
            Err(problem_of(error))
        }
    }
}

/// Why a batch was given up.
fn silent() -> JournalError {
    let seconds = BATCH_TIME_MAX.as_secs();
    JournalError::unavailable(format!("the database did not answer within {seconds} s"))
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, JournalError> {
    let connection = PgConnection::connect_with(options).await;
    let mut connection = connection.map_err(problem_of)?;
    prepare(&mut connection).await?;
    Ok(connection)
}

#[async_trait]
impl Store for Writer {
    type Connection = PgConnection;
    type Error = sqlx::Error;

    async fn commit(&mut self, batch: &mut Vec<Waiting<Self>>) -> Result<(), JournalError> {
        let committed = self.try_commit(batch).await;
        let found = match &committed {
            Err(error) => Some(error.clone()),
            // A batch may only have read, such as a lease that is held. Only a write shows that a
            // problem is over.
            Ok(()) if self.condition.now().is_some() => self.try_commit(&mut []).await.err(),
            Ok(()) => None,
        };
        self.condition.note(found);
        committed
    }

    async fn idle(&mut self) {
        if self.condition.now().is_some() {
            let found = self.try_commit(&mut []).await.err();
            self.condition.note(found);
        }
    }

    async fn close(self) {
        if let Some(connection) = self.connection
            && let Err(error) = connection.close().await
        {
            warn!(%error, "the connection to the journal could not be closed");
        }
    }
}

/// Executes all writes in one transaction, while no other replica writes.
async fn execute_all(
    connection: &mut PgConnection,
    batch: &mut [Waiting<Writer>],
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    transaction.execute(LOCK).await?;
    for write in batch.iter_mut() {
        if !write.execute(&mut transaction).await? {
            transaction.rollback().await?;
            return execute_each(connection, batch).await;
        }
    }
    if batch.is_empty() {
        transaction.execute(TOUCH).await?;
    }
    transaction.commit().await
}

/// As [`execute_all`], for a batch in which a write fails alone: its changes are undone, and the
/// others go on. Each write has a savepoint, which most batches need not pay for.
async fn execute_each(
    connection: &mut PgConnection,
    batch: &mut [Waiting<Writer>],
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    transaction.execute(LOCK).await?;
    for write in batch {
        let mut savepoint = transaction.begin().await?;
        match write.execute(&mut savepoint).await? {
            true => savepoint.commit().await?,
            false => savepoint.rollback().await?,
        }
    }
    transaction.commit().await
}
