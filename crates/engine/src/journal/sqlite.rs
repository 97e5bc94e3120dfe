//! The journal in one SQLite file, for one machine: no server to run.
//!
//! One task writes. It takes all writes that wait, makes one SQLite transaction of them, and answers them all after one
//! fsync: under load the price of durability is shared, and alone a write waits for nobody. Readers have connections of
//! their own.
//!
//! The file's format is described in `docs/journal.md`.

use std::ops::Range;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use quittance_core::{LaneId, PaymentId, Reason, Timestamp, Transaction, TransactionId};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteRow, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row, Sqlite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::files::{self, Files};
use super::format::{TOUCH, prepare};
use super::{Claim, Claimed, FAILURES_MAX, Journal, JournalError, Outcome, Settlement, State};

/// How many writes may wait. Each is a settlement's; more than this many at once and callers are told to wait.
const QUEUE_MAX: usize = 4096;

/// How many writes share one fsync at most: a quarter of a thousand small rows take a few milliseconds.
const GROUP_MAX: usize = 256;

/// How many readers there are. Reads take microseconds; four keep two cores busy.
const READERS: u32 = 4;

/// How often the files are looked at while nothing is written, and how often a journal that failed is tried again. A look
/// costs microseconds; a disk that has room again should be used soon.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A journal in a SQLite file. One process at a time has it.
#[derive(Debug)]
pub struct SqliteJournal {
    writes: mpsc::Sender<Write>,
    readers: SqlitePool,
    condition: Arc<Condition>,
}

/// A write that waits, with whom to answer.
enum Write {
    Claim(Claim, Timestamp, Reply<Claimed>),
    Record {
        network: String,
        transaction: Transaction,
        settlements: Vec<PaymentId>,
        now: Timestamp,
        reply: Reply<()>,
    },
    Withdraw(TransactionId, Reply<()>),
    Conclude {
        id: PaymentId,
        attempt: u32,
        outcome: Outcome,
        now: Timestamp,
        reply: Reply<bool>,
    },
    Reopen {
        id: PaymentId,
        attempt: u32,
        reply: Reply<bool>,
    },
    Finalize(Vec<PaymentId>, Timestamp, Reply<()>),
    Tell {
        id: PaymentId,
        attempt: u32,
        now: Timestamp,
        reply: Reply<bool>,
    },
}

type Reply<T> = oneshot::Sender<Result<T, JournalError>>;

/// What is wrong with the journal now, if anything is.
#[derive(Debug, Default)]
struct Condition(RwLock<Option<Trouble>>);

/// What is wrong with a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trouble {
    /// The last write failed. What was written before can be read.
    Unwritable(String),
    /// The files are not those that are open, or not whole: what is read may be an old state, or nothing.
    Lost(String),
    /// SQLite found the database damaged. It is not written any more by this process.
    Damaged(String),
}

impl From<sqlx::Error> for JournalError {
    fn from(error: sqlx::Error) -> Self {
        match is_about_one_row(&error) {
            true => Self::Unreadable(error.to_string()),
            false => Self::Unavailable(error.to_string()),
        }
    }
}

/// Whether an error is about what one row says, and not about the file.
fn is_about_one_row(error: &sqlx::Error) -> bool {
    matches!(
        error,
        sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::RowNotFound
    )
}

/// Whether SQLite says that the database is damaged (SQLITE_CORRUPT and its kinds) or no database (SQLITE_NOTADB).
fn is_damage(error: &sqlx::Error) -> bool {
    /// SQLite's result codes; the kinds of one are told apart by higher bits.
    const PRIMARY_CODE: i64 = 0xff;
    const CORRUPT: i64 = 11;
    const NOT_A_DATABASE: i64 = 26;
    let database = error.as_database_error();
    let code = database.and_then(|error| error.code()?.parse::<i64>().ok());
    code.is_some_and(|code| [CORRUPT, NOT_A_DATABASE].contains(&(code & PRIMARY_CODE)))
}

impl Trouble {
    fn of(error: &sqlx::Error) -> Self {
        match is_damage(error) {
            true => Self::Damaged(format!("the journal is damaged: {error}")),
            false => Self::Unwritable(format!("the journal cannot be written: {error}")),
        }
    }

    fn what(&self) -> &str {
        match self {
            Self::Unwritable(what) | Self::Lost(what) | Self::Damaged(what) => what,
        }
    }

    fn error(&self) -> JournalError {
        JournalError::Unavailable(self.what().to_owned())
    }
}

impl Condition {
    fn now(&self) -> Option<Trouble> {
        // A thread that panicked with the lock left a whole value: it is replaced at once.
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Notes what was found, and reports it once.
    fn note(&self, found: Option<Trouble>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // A damaged file stays damaged, whatever else is found.
        if *known == found || matches!(*known, Some(Trouble::Damaged(_))) {
            return;
        }
        match &found {
            Some(trouble) => error!(problem = trouble.what(), "nothing is settled"),
            None => info!("the journal can be written again"),
        }
        metrics::gauge!("quittance_journal_up").set(if found.is_none() { 1.0 } else { 0.0 });
        *known = found;
    }
}

impl SqliteJournal {
    /// Opens the journal in this file, or begins one. Only the file's owner may read a new one.
    ///
    /// # Errors
    /// When another process has it, the file cannot be written, is another program's, or is of a newer format.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        let mut files = Files::open(path.as_ref())?;
        for file in files::readable_by_others(files.path()) {
            let file = file.display();
            warn!(%file, "other users of this machine can read the journal: chmod 600");
        }
        let options = options(files.path());
        let writer = connect(&options).await?;
        files.remember()?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            // A reader that connects anew finds whatever file has the name by then.
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.clone().read_only(true))
            .await?;
        let (writes, waiting) = mpsc::channel(QUEUE_MAX);
        let condition = Arc::new(Condition::default());
        metrics::gauge!("quittance_journal_up").set(1.0);
        let writer = Writer {
            files,
            options,
            connection: writer,
            is_spent: false,
            condition: Arc::clone(&condition),
        };
        tokio::spawn(writer.run(waiting));
        Ok(Self {
            writes,
            readers,
            condition,
        })
    }

    /// What an operator should know of the journal in this file: damage that SQLite finds, and who can read it. Reads the
    /// whole file; may be called while a process has the journal.
    ///
    /// # Errors
    /// When it cannot be read at all.
    pub async fn inspect(path: impl AsRef<Path>) -> Result<Vec<String>, JournalError> {
        /// More lines of one damaged file say nothing new.
        const LINES_MAX: usize = 5;
        let path = std::fs::canonicalize(path.as_ref()).map_err(|error| {
            JournalError::Unavailable(format!("{}: {error}", path.as_ref().display()))
        })?;
        let mut found: Vec<String> = files::readable_by_others(&path)
            .iter()
            .map(|file| {
                let file = file.display();
                format!("other users of this machine can read {file}: chmod 600 {file}")
            })
            .collect();
        let mut connection = options(&path).read_only(true).connect().await?;
        let checked = sqlx::query_scalar("PRAGMA quick_check")
            .fetch_all(&mut connection)
            .await;
        let lines: Vec<String> = match checked {
            Err(error) if is_damage(&error) => vec![error.to_string()],
            checked => checked?,
        };
        let damage = lines.iter().filter(|line| *line != "ok").take(LINES_MAX);
        found.extend(damage.map(|line| format!("{} is damaged: {line}", path.display())));
        connection.close().await?;
        Ok(found)
    }

    async fn write<T>(&self, write: impl FnOnce(Reply<T>) -> Write) -> Result<T, JournalError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || JournalError::Unavailable("the writer has stopped".to_owned());
        self.writes
            .send(write(reply))
            .await
            .map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// A connection to read with, as long as what is read can be believed.
    async fn reader(&self) -> Result<PoolConnection<Sqlite>, JournalError> {
        match self.condition.now() {
            Some(trouble @ (Trouble::Lost(_) | Trouble::Damaged(_))) => Err(trouble.error()),
            Some(Trouble::Unwritable(_)) | None => Ok(self.readers.acquire().await?),
        }
    }

    /// What became of a read. A connection that failed is not used again: the state of its transaction is unknown.
    async fn read<T>(
        &self,
        reader: PoolConnection<Sqlite>,
        read: Result<T, sqlx::Error>,
    ) -> Result<T, JournalError> {
        let Err(error) = &read else {
            return Ok(read?);
        };
        if !is_about_one_row(error) {
            if is_damage(error) {
                self.condition.note(Some(Trouble::of(error)));
            }
            if let Err(error) = reader.close().await {
                warn!(%error, "a reader of the journal could not be closed");
            }
        }
        Ok(read?)
    }
}

/// How the database is opened. Never made anew: the file that has the name might be missing for a moment, and a journal
/// that begins with nothing would settle what has settled.
fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        // With the write-ahead log, FULL is what makes a commit survive a power cut.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        .disable_statement_logging()
}

/// A connection to write with, to a database that is this program's.
async fn connect(options: &SqliteConnectOptions) -> Result<SqliteConnection, JournalError> {
    let mut connection = SqliteConnection::connect_with(options).await?;
    prepare(&mut connection).await?;
    Ok(connection)
}

/// The writer: as long as there is a journal. It keeps the lock until its last write is done.
struct Writer {
    files: Files,
    options: SqliteConnectOptions,
    connection: SqliteConnection,
    /// Whether a write failed on the connection. SQLite may have rolled back by itself then, which the driver does not
    /// notice: the connection is not used again.
    is_spent: bool,
    condition: Arc<Condition>,
}

impl Writer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Write>) {
        let mut batch = Vec::with_capacity(GROUP_MAX);
        loop {
            match timeout(LOOK_EVERY, waiting.recv_many(&mut batch, GROUP_MAX)).await {
                Ok(0) => break,
                Ok(_) => self.serve(&mut batch).await,
                Err(_) => self.look().await,
            }
        }
        // Before the lock is given back.
        if let Err(error) = self.connection.close().await {
            warn!(%error, "the journal could not be closed");
        }
    }

    /// Writes a group, and answers it.
    async fn serve(&mut self, batch: &mut Vec<Write>) {
        metrics::histogram!("quittance_journal_group_size").record(batch.len() as f64);
        let written = self.write(batch).await;
        self.condition.note(written.as_ref().err().cloned());
        match written {
            Ok(answers) => batch
                .drain(..)
                .zip(answers)
                .for_each(|(write, answer)| write.answer(answer)),
            Err(trouble) => {
                metrics::counter!("quittance_journal_errors_total").increment(1);
                batch
                    .drain(..)
                    .for_each(|write| write.fail(trouble.error()));
            }
        }
    }

    /// Looks at the files while nothing is written. After a failure it also tries whether a write succeeds: as long as
    /// nothing can be settled, nobody else may ask for one.
    async fn look(&mut self) {
        let found = match self.condition.now() {
            None => self.files.damage().map(Trouble::Lost),
            Some(_) => self.write(&[]).await.err(),
        };
        self.condition.note(found);
    }

    /// All writes of a group, or none of them.
    async fn write(
        &mut self,
        batch: &[Write],
    ) -> Result<Vec<Result<Answer, JournalError>>, Trouble> {
        if let Some(damaged @ Trouble::Damaged(_)) = self.condition.now() {
            return Err(damaged);
        }
        if let Some(damage) = self.files.damage() {
            return Err(Trouble::Lost(damage));
        }
        self.reconnect().await?;
        let written = write_group(&mut self.connection, batch).await;
        self.is_spent = written.is_err();
        written.map_err(|error| Trouble::of(&error))
    }

    /// Opens another connection where the last write failed. The old one is closed after that: were there none in between,
    /// SQLite would put the log away.
    async fn reconnect(&mut self) -> Result<(), Trouble> {
        if !self.is_spent {
            return Ok(());
        }
        let fresh = connect(&self.options).await;
        let fresh = fresh.map_err(|error| Trouble::Unwritable(error.to_string()))?;
        let spent = std::mem::replace(&mut self.connection, fresh);
        if let Err(error) = spent.close().await {
            warn!(%error, "a connection to the journal could not be closed");
        }
        self.is_spent = false;
        Ok(())
    }
}

/// What a write is answered.
enum Answer {
    Done,
    Claimed(Claimed),
    Changed(bool),
}

/// All writes of a group, or none of them. A write that finds a row that cannot be read has its own error and changes
/// nothing; the others are written.
async fn write_group(
    connection: &mut SqliteConnection,
    batch: &[Write],
) -> Result<Vec<Result<Answer, JournalError>>, sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut answers = Vec::with_capacity(batch.len());
    for write in batch {
        answers.push(match write.execute(&mut transaction).await {
            Err(error) if is_about_one_row(&error) => Err(error.into()),
            answer => Ok(answer?),
        });
    }
    if batch.is_empty() {
        // Something must reach the disk, or nothing is tried.
        sqlx::raw_sql(TOUCH).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(answers)
}

impl Write {
    async fn execute(&self, connection: &mut SqliteConnection) -> Result<Answer, sqlx::Error> {
        match self {
            Self::Claim(claim, now, _) => execute_claim(connection, claim, *now)
                .await
                .map(Answer::Claimed),
            Self::Record {
                network,
                transaction,
                settlements,
                now,
                ..
            } => record(connection, network, transaction, settlements, *now)
                .await
                .map(|()| Answer::Done),
            Self::Withdraw(id, _) => withdraw(connection, id).await.map(|()| Answer::Done),
            Self::Conclude {
                id,
                attempt,
                outcome,
                now,
                ..
            } => conclude(connection, id, *attempt, outcome, *now)
                .await
                .map(Answer::Changed),
            Self::Reopen { id, attempt, .. } => {
                reopen(connection, id, *attempt).await.map(Answer::Changed)
            }
            Self::Finalize(ids, now, _) => {
                finalize(connection, ids, *now).await.map(|()| Answer::Done)
            }
            Self::Tell {
                id, attempt, now, ..
            } => report_success(connection, id, *attempt, *now)
                .await
                .map(Answer::Changed),
        }
    }

    /// Answers. Whoever asked may be gone; what was written stays.
    fn answer(self, answer: Result<Answer, JournalError>) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return self.fail(error),
        };
        match (self, answer) {
            (Self::Claim(.., reply), Answer::Claimed(claimed)) => drop(reply.send(Ok(claimed))),
            (
                Self::Conclude { reply, .. }
                | Self::Reopen { reply, .. }
                | Self::Tell { reply, .. },
                Answer::Changed(changed),
            ) => drop(reply.send(Ok(changed))),
            (
                Self::Record { reply, .. } | Self::Withdraw(_, reply) | Self::Finalize(_, _, reply),
                Answer::Done,
            ) => {
                drop(reply.send(Ok(())));
            }
            (..) => unreachable!("each write makes its own kind of answer"),
        }
    }

    fn fail(self, error: JournalError) {
        match self {
            Self::Claim(.., reply) => drop(reply.send(Err(error))),
            Self::Conclude { reply, .. }
            | Self::Reopen { reply, .. }
            | Self::Tell { reply, .. } => {
                drop(reply.send(Err(error)));
            }
            Self::Record { reply, .. } | Self::Withdraw(_, reply) | Self::Finalize(_, _, reply) => {
                drop(reply.send(Err(error)))
            }
        }
    }
}

async fn execute_claim(
    connection: &mut SqliteConnection,
    claim: &Claim,
    now: Timestamp,
) -> Result<Claimed, sqlx::Error> {
    let won = sqlx::query_scalar::<_, i64>(
        "INSERT INTO settlements (id, network, scheme, payer, pay_to, asset, amount, expires, request, decoded_at,
             attempt, failures, state, claimed_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 1, 0, 'open', ?11)
         ON CONFLICT (id) DO UPDATE SET
             network = excluded.network, scheme = excluded.scheme, payer = excluded.payer, pay_to = excluded.pay_to,
             asset = excluded.asset, amount = excluded.amount, expires = excluded.expires,
             request = excluded.request, decoded_at = excluded.decoded_at,
             attempt = attempt + 1, state = 'open', reason = NULL, detail = NULL, transaction_id = NULL,
             claimed_at = excluded.claimed_at, concluded_at = NULL
         WHERE state IN ('failed', 'released') AND failures < ?12
         RETURNING attempt",
    )
    .bind(claim.id.as_bytes().as_slice())
    .bind(&claim.network)
    .bind(&claim.scheme)
    .bind(&claim.payer)
    .bind(&claim.pay_to)
    .bind(&claim.asset)
    .bind(claim.amount.to_string())
    .bind(seconds(claim.expires))
    .bind(&claim.request)
    .bind(seconds(claim.decoded_at))
    .bind(seconds(now))
    .bind(FAILURES_MAX)
    .fetch_optional(&mut *connection)
    .await?;
    match won {
        Some(attempt) => Ok(Claimed::Won {
            attempt: number(attempt)?,
        }),
        None => match fetch(connection, &claim.id).await? {
            Some(settlement) => Ok(Claimed::Taken(Box::new(settlement))),
            None => Err(sqlx::Error::RowNotFound),
        },
    }
}

async fn record(
    connection: &mut SqliteConnection,
    network: &str,
    transaction: &Transaction,
    settlements: &[PaymentId],
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    // The same bytes may be signed for another place where the place is not part of them.
    sqlx::query(
        "INSERT INTO transactions (id, network, lane, place, bytes, signed_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (id) DO UPDATE SET withdrawn = 0, lane = excluded.lane, place = excluded.place,
             signed_at = excluded.signed_at",
    )
    .bind(transaction.id.as_str())
    .bind(network)
    .bind(transaction.lane.address())
    .bind(sequence(transaction.sequence))
    .bind(&*transaction.bytes)
    .bind(seconds(now))
    .execute(&mut *connection)
    .await?;
    for id in settlements {
        sqlx::query(
            "INSERT INTO settlement_transactions (settlement, attempt, transaction_id)
             SELECT id, attempt, ?2 FROM settlements WHERE id = ?1 AND state = 'open'
             ON CONFLICT DO UPDATE SET attempt = excluded.attempt",
        )
        .bind(id.as_bytes().as_slice())
        .bind(transaction.id.as_str())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

async fn withdraw(
    connection: &mut SqliteConnection,
    id: &TransactionId,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE transactions SET withdrawn = 1 WHERE id = ?1")
        .bind(id.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

async fn conclude(
    connection: &mut SqliteConnection,
    id: &PaymentId,
    attempt: u32,
    outcome: &Outcome,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    let (state, reason, detail, transaction, amount) = match outcome {
        Outcome::Settled {
            transaction,
            amount,
        } => ("settled", None, None, Some(transaction), Some(amount)),
        Outcome::Failed {
            reason,
            detail,
            transaction,
        } => (
            "failed",
            Some(reason.code()),
            Some(detail.as_str()),
            transaction.as_ref(),
            None,
        ),
        Outcome::Lost {
            reason,
            detail,
            transaction,
        } => (
            "lost",
            Some(reason.code()),
            Some(detail.as_str()),
            transaction.as_ref(),
            None,
        ),
        Outcome::Released { fault } => ("released", None, Some(fault.as_str()), None, None),
    };
    // A failure with a transaction cost gas; those are counted.
    let failed = matches!(
        outcome,
        Outcome::Failed {
            transaction: Some(_),
            ..
        }
    );
    let concluded = sqlx::query(
        "UPDATE settlements SET state = ?3, reason = ?4, detail = ?5, transaction_id = ?6, settled_amount = ?7,
             failures = failures + ?8, concluded_at = ?9
         WHERE id = ?1 AND attempt = ?2 AND state = 'open'",
    )
    .bind(id.as_bytes().as_slice())
    .bind(attempt)
    .bind(state)
    .bind(reason)
    .bind(detail)
    .bind(transaction.map(TransactionId::as_str))
    .bind(amount.map(ToString::to_string))
    .bind(i64::from(failed))
    .bind(seconds(now))
    .execute(connection)
    .await?;
    Ok(concluded.rows_affected() == 1)
}

async fn reopen(
    connection: &mut SqliteConnection,
    id: &PaymentId,
    attempt: u32,
) -> Result<bool, sqlx::Error> {
    let reopened = sqlx::query(
        "UPDATE settlements SET state = 'open', transaction_id = NULL, settled_amount = NULL, concluded_at = NULL
         WHERE id = ?1 AND attempt = ?2 AND state = 'settled' AND final_at IS NULL",
    )
    .bind(id.as_bytes().as_slice())
    .bind(attempt)
    .execute(connection)
    .await?;
    Ok(reopened.rows_affected() == 1)
}

async fn finalize(
    connection: &mut SqliteConnection,
    ids: &[PaymentId],
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    for id in ids {
        sqlx::query("UPDATE settlements SET final_at = ?2 WHERE id = ?1 AND state = 'settled'")
            .bind(id.as_bytes().as_slice())
            .bind(seconds(now))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

async fn report_success(
    connection: &mut SqliteConnection,
    id: &PaymentId,
    attempt: u32,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    let told = sqlx::query(
        "UPDATE settlements SET told_at = ?3
         WHERE id = ?1 AND attempt = ?2 AND state = 'settled' AND told_at IS NULL",
    )
    .bind(id.as_bytes().as_slice())
    .bind(attempt)
    .bind(seconds(now))
    .execute(connection)
    .await?;
    Ok(told.rows_affected() == 1)
}

async fn fetch(
    connection: &mut SqliteConnection,
    id: &PaymentId,
) -> Result<Option<Settlement>, sqlx::Error> {
    let row = sqlx::query("SELECT * FROM settlements WHERE id = ?1")
        .bind(id.as_bytes().as_slice())
        .fetch_optional(&mut *connection)
        .await?;
    match row {
        Some(row) => with_transactions(connection, settlement(&row)?)
            .await
            .map(Some),
        None => Ok(None),
    }
}

/// In one read transaction, so that the settlement and its transactions are of one moment.
async fn fetch_at_one_moment(
    connection: &mut SqliteConnection,
    id: &PaymentId,
) -> Result<Option<Settlement>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let settlement = fetch(&mut transaction, id).await?;
    transaction.commit().await?;
    Ok(settlement)
}

async fn with_transactions(
    connection: &mut SqliteConnection,
    settlement: Settlement,
) -> Result<Settlement, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT s.attempt, t.id, t.lane, t.place, t.bytes, t.withdrawn
         FROM settlement_transactions s JOIN transactions t ON t.id = s.transaction_id
         WHERE s.settlement = ?1 ORDER BY s.attempt, t.number",
    )
    .bind(settlement.claim.id.as_bytes().as_slice())
    .fetch_all(connection)
    .await?;
    let mut settlement = settlement;
    for row in &rows {
        let all = match row.try_get("withdrawn")? {
            false => &mut settlement.transactions,
            true => &mut settlement.withdrawn,
        };
        all.push((number(row.try_get("attempt")?)?, transaction(row)?));
    }
    Ok(settlement)
}

fn transaction(row: &SqliteRow) -> Result<Transaction, sqlx::Error> {
    Ok(Transaction {
        id: TransactionId::new(row.try_get("id")?),
        lane: LaneId::new(row.try_get("lane")?),
        sequence: number(row.try_get("place")?)?,
        bytes: row.try_get::<&[u8], _>("bytes")?.into(),
    })
}

fn settlement(row: &SqliteRow) -> Result<Settlement, sqlx::Error> {
    Ok(Settlement {
        claim: Claim {
            id: payment_id(row, "id")?,
            network: row.try_get("network")?,
            scheme: row.try_get("scheme")?,
            payer: row.try_get("payer")?,
            pay_to: row.try_get("pay_to")?,
            asset: row.try_get("asset")?,
            amount: parsed(row, "amount")?,
            expires: time(row.try_get("expires")?)?,
            request: row.try_get("request")?,
            decoded_at: time(row.try_get("decoded_at")?)?,
        },
        attempt: number(row.try_get("attempt")?)?,
        failures: number(row.try_get("failures")?)?,
        state: state(row)?,
        transactions: Vec::new(),
        withdrawn: Vec::new(),
        claimed_at: time(row.try_get("claimed_at")?)?,
        concluded_at: moment(row, "concluded_at")?,
        success_reported_at: moment(row, "told_at")?,
        final_at: moment(row, "final_at")?,
    })
}

/// A time that may not have come yet.
fn moment(row: &SqliteRow, column: &str) -> Result<Option<Timestamp>, sqlx::Error> {
    let seconds: Option<i64> = row.try_get(column)?;
    seconds.map(time).transpose()
}

fn state(row: &SqliteRow) -> Result<State, sqlx::Error> {
    let transaction: Option<String> = row.try_get("transaction_id")?;
    let transaction = transaction.as_deref().map(TransactionId::new);
    let detail: Option<String> = row.try_get("detail")?;
    let detail = detail.unwrap_or_default();
    let reason = || row.try_get::<String, _>("reason").map(Reason::from_code);
    Ok(match row.try_get::<&str, _>("state")? {
        "open" => State::Open,
        "settled" => State::Concluded(Outcome::Settled {
            transaction: transaction
                .ok_or_else(|| nonsense("a settlement without its transaction"))?,
            amount: parsed(row, "settled_amount")?,
        }),
        "failed" => State::Concluded(Outcome::Failed {
            reason: reason()?,
            detail,
            transaction,
        }),
        "lost" => State::Concluded(Outcome::Lost {
            reason: reason()?,
            detail,
            transaction,
        }),
        "released" => State::Concluded(Outcome::Released { fault: detail }),
        other => return Err(nonsense(&format!("the state {other:?}"))),
    })
}

fn payment_id(row: &SqliteRow, column: &str) -> Result<PaymentId, sqlx::Error> {
    let bytes = row.try_get::<&[u8], _>(column)?;
    bytes
        .try_into()
        .map(PaymentId::from_bytes)
        .map_err(|_| nonsense("an identity that is not 32 bytes"))
}

fn parsed<T: FromStr>(row: &SqliteRow, column: &str) -> Result<T, sqlx::Error> {
    row.try_get::<&str, _>(column)?
        .parse()
        .map_err(|_| nonsense(column))
}

/// SQLite's integers have a sign. No time or number here comes near the end of them; one that would is as good as the
/// end.
fn seconds(time: Timestamp) -> i64 {
    i64::try_from(time.secs()).unwrap_or(i64::MAX)
}

fn sequence(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

fn time(seconds: i64) -> Result<Timestamp, sqlx::Error> {
    number(seconds).map(Timestamp::from_secs)
}

fn number<T: TryFrom<i64>>(value: i64) -> Result<T, sqlx::Error> {
    T::try_from(value).map_err(|_| nonsense("a number out of range"))
}

fn nonsense(what: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("the journal holds {what}").into())
}

#[async_trait]
impl Journal for SqliteJournal {
    fn problem(&self) -> Option<String> {
        self.condition
            .now()
            .map(|trouble| trouble.what().to_owned())
    }

    async fn claim(&self, claim: &Claim, now: Timestamp) -> Result<Claimed, JournalError> {
        self.write(|reply| Write::Claim(claim.clone(), now, reply))
            .await
    }

    async fn record(
        &self,
        network: &str,
        transaction: &Transaction,
        settlements: &[PaymentId],
        now: Timestamp,
    ) -> Result<(), JournalError> {
        let (network, transaction, settlements) = (
            network.to_owned(),
            transaction.clone(),
            settlements.to_vec(),
        );
        self.write(|reply| Write::Record {
            network,
            transaction,
            settlements,
            now,
            reply,
        })
        .await
    }

    async fn withdraw(&self, transaction: &TransactionId) -> Result<(), JournalError> {
        self.write(|reply| Write::Withdraw(transaction.clone(), reply))
            .await
    }

    async fn conclude(
        &self,
        id: &PaymentId,
        attempt: u32,
        outcome: &Outcome,
        now: Timestamp,
    ) -> Result<bool, JournalError> {
        let (id, outcome) = (*id, outcome.clone());
        self.write(|reply| Write::Conclude {
            id,
            attempt,
            outcome,
            now,
            reply,
        })
        .await
    }

    async fn reopen(&self, id: &PaymentId, attempt: u32) -> Result<bool, JournalError> {
        let id = *id;
        self.write(|reply| Write::Reopen { id, attempt, reply })
            .await
    }

    async fn finalize(&self, ids: &[PaymentId], now: Timestamp) -> Result<(), JournalError> {
        self.write(|reply| Write::Finalize(ids.to_vec(), now, reply))
            .await
    }

    async fn report_success(
        &self,
        id: &PaymentId,
        attempt: u32,
        now: Timestamp,
    ) -> Result<bool, JournalError> {
        let id = *id;
        self.write(|reply| Write::Tell {
            id,
            attempt,
            now,
            reply,
        })
        .await
    }

    async fn settlement(&self, id: &PaymentId) -> Result<Option<Settlement>, JournalError> {
        let mut reader = self.reader().await?;
        let found = fetch_at_one_moment(&mut reader, id).await;
        self.read(reader, found).await
    }

    async fn settlements_of(
        &self,
        transaction: &TransactionId,
    ) -> Result<Vec<PaymentId>, JournalError> {
        let mut reader = self.reader().await?;
        let rows =
            sqlx::query("SELECT settlement FROM settlement_transactions WHERE transaction_id = ?1")
                .bind(transaction.as_str())
                .fetch_all(&mut *reader)
                .await;
        let rows = self.read(reader, rows).await?;
        Ok(rows
            .iter()
            .map(|row| payment_id(row, "settlement"))
            .collect::<Result<_, _>>()?)
    }

    async fn open(&self, network: &str) -> Result<Vec<PaymentId>, JournalError> {
        let mut reader = self.reader().await?;
        let rows = sqlx::query(
            "SELECT id FROM settlements WHERE network = ?1 AND state = 'open' ORDER BY claimed_at, id",
        )
        .bind(network)
        .fetch_all(&mut *reader)
        .await;
        let rows = self.read(reader, rows).await?;
        let readable = |row: &SqliteRow| match payment_id(row, "id") {
            Ok(id) => Some(id),
            Err(error) => {
                error!(%error, network, "an open settlement is passed over");
                None
            }
        };
        Ok(rows.iter().filter_map(readable).collect())
    }

    async fn not_final(&self, network: &str) -> Result<Vec<PaymentId>, JournalError> {
        let mut reader = self.reader().await?;
        let rows = sqlx::query(
            "SELECT id FROM settlements WHERE network = ?1 AND state = 'settled' AND final_at IS NULL
             ORDER BY concluded_at, id",
        )
        .bind(network)
        .fetch_all(&mut *reader)
        .await;
        let rows = self.read(reader, rows).await?;
        let readable = |row: &SqliteRow| match payment_id(row, "id") {
            Ok(id) => Some(id),
            Err(error) => {
                error!(%error, network, "a settled payment is passed over");
                None
            }
        };
        Ok(rows.iter().filter_map(readable).collect())
    }

    async fn transactions_at(
        &self,
        network: &str,
        lane: &LaneId,
        sequences: Range<u64>,
    ) -> Result<Vec<Transaction>, JournalError> {
        let mut reader = self.reader().await?;
        let rows = sqlx::query(
            "SELECT id, lane, place, bytes FROM transactions
             WHERE network = ?1 AND lane = ?2 AND place >= ?3 AND place < ?4 AND NOT withdrawn ORDER BY place, number",
        )
        .bind(network)
        .bind(lane.address())
        .bind(sequence(sequences.start))
        .bind(sequence(sequences.end))
        .fetch_all(&mut *reader)
        .await;
        let rows = self.read(reader, rows).await?;
        Ok(rows.iter().map(transaction).collect::<Result<_, _>>()?)
    }

    async fn next_sequence(&self, network: &str, lane: &LaneId) -> Result<u64, JournalError> {
        let mut reader = self.reader().await?;
        let highest: Result<Option<i64>, _> = sqlx::query_scalar(
            "SELECT max(place) FROM transactions WHERE network = ?1 AND lane = ?2 AND NOT withdrawn",
        )
        .bind(network)
        .bind(lane.address())
        .fetch_one(&mut *reader)
        .await;
        let highest = self.read(reader, highest).await?;
        Ok(highest
            .map(number::<u64>)
            .transpose()?
            .map_or(0, |highest| highest + 1))
    }
}
