//! The journal in one SQLite file, for one machine: no server to run.
//!
//! One task writes. It takes all writes that wait, makes one SQLite transaction of them, and answers them all after one
//! fsync: under load the price of durability is shared, and alone a write waits for nobody. Readers have connections of
//! their own.
//!
//! The file's format is described in `docs/journal.md`.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use quittance_core::{LaneId, PaymentId, Reason, Timestamp, Transaction, TransactionId};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteRow, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row};
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::{Claim, Claimed, FAILURES_MAX, Journal, JournalError, Outcome, Settlement, State};

/// The version of the file's format, in SQLite's `user_version`.
const FORMAT: i64 = 1;

/// The tables of format 1.
const SCHEMA: &str = include_str!("schema.sql");

/// How many writes may wait. Each is a settlement's; more than this many at once and callers are told to wait.
const QUEUE_MAX: usize = 4096;

/// How many writes share one fsync at most: a quarter of a thousand small rows take a few milliseconds.
const GROUP_MAX: usize = 256;

/// How many readers there are. Reads take microseconds; four keep two cores busy.
const READERS: u32 = 4;

/// A journal in a SQLite file. One process at a time has it.
#[derive(Debug)]
pub struct SqliteJournal {
    writes: mpsc::Sender<Write>,
    readers: SqlitePool,
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
    Tell {
        id: PaymentId,
        attempt: u32,
        now: Timestamp,
        reply: Reply<bool>,
    },
}

type Reply<T> = oneshot::Sender<Result<T, JournalError>>;

impl From<sqlx::Error> for JournalError {
    fn from(error: sqlx::Error) -> Self {
        Self(error.to_string())
    }
}

impl SqliteJournal {
    /// Opens the journal in this file, or begins one.
    ///
    /// # Errors
    /// When another process has it, the file cannot be written, or it is of a newer format.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        let path = path.as_ref();
        let lock = lock(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // With the write-ahead log, FULL is what makes a commit survive a power cut.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5))
            .disable_statement_logging();
        let mut writer = SqliteConnection::connect_with(&options).await?;
        prepare(&mut writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true))
            .await?;
        let (writes, waiting) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(write_all(writer, waiting, lock));
        Ok(Self { writes, readers })
    }

    async fn write<T>(&self, write: impl FnOnce(Reply<T>) -> Write) -> Result<T, JournalError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || JournalError("the writer has stopped".to_owned());
        self.writes
            .send(write(reply))
            .await
            .map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// Takes the lock beside the journal. It is the operating system's: a process that dies has given it back.
fn lock(path: &Path) -> Result<File, JournalError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let failed =
        |error: &dyn std::fmt::Display| JournalError(format!("{}: {error}", name.display()));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&name)
        .map_err(|error| failed(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(failed(&"another process has this journal")),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(&error)),
    }
}

async fn prepare(connection: &mut SqliteConnection) -> Result<(), JournalError> {
    let format: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await?;
    match format {
        0 => {
            sqlx::raw_sql(SCHEMA).execute(connection).await?;
            Ok(())
        }
        FORMAT => Ok(()),
        newer => Err(JournalError(format!(
            "the file has format {newer}; this program knows {FORMAT}"
        ))),
    }
}

/// The writer: as long as there is a journal. It keeps the lock until its last write is done.
async fn write_all(
    mut connection: SqliteConnection,
    mut waiting: mpsc::Receiver<Write>,
    _lock: File,
) {
    let mut group = Vec::with_capacity(GROUP_MAX);
    while waiting.recv_many(&mut group, GROUP_MAX).await > 0 {
        metrics::histogram!("quittance_journal_group_size").record(group.len() as f64);
        match write_group(&mut connection, &group).await {
            Ok(answers) => group
                .drain(..)
                .zip(answers)
                .for_each(|(write, answer)| write.answer(answer)),
            Err(error) => {
                error!(%error, "the journal cannot be written");
                metrics::counter!("quittance_journal_errors_total").increment(1);
                let error = JournalError::from(error);
                group.drain(..).for_each(|write| write.fail(error.clone()));
            }
        }
    }
}

/// What a write is answered.
enum Answer {
    Done,
    Claimed(Claimed),
    Changed(bool),
}

/// All writes of a group, or none of them.
async fn write_group(
    connection: &mut SqliteConnection,
    group: &[Write],
) -> Result<Vec<Answer>, sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut answers = Vec::with_capacity(group.len());
    for write in group {
        answers.push(write.execute(&mut transaction).await?);
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
            Self::Tell {
                id, attempt, now, ..
            } => tell(connection, id, *attempt, *now)
                .await
                .map(Answer::Changed),
        }
    }

    /// Answers. Whoever asked may be gone; what was written stays.
    fn answer(self, answer: Answer) {
        match (self, answer) {
            (Self::Claim(.., reply), Answer::Claimed(claimed)) => drop(reply.send(Ok(claimed))),
            (Self::Conclude { reply, .. } | Self::Tell { reply, .. }, Answer::Changed(changed)) => {
                drop(reply.send(Ok(changed)))
            }
            (Self::Record { reply, .. } | Self::Withdraw(_, reply), Answer::Done) => {
                drop(reply.send(Ok(())));
            }
            (..) => unreachable!("each write makes its own kind of answer"),
        }
    }

    fn fail(self, error: JournalError) {
        match self {
            Self::Claim(.., reply) => drop(reply.send(Err(error))),
            Self::Conclude { reply, .. } | Self::Tell { reply, .. } => {
                drop(reply.send(Err(error)));
            }
            Self::Record { reply, .. } | Self::Withdraw(_, reply) => drop(reply.send(Err(error))),
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
    .bind(place(transaction.place))
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

async fn tell(
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

async fn with_transactions(
    connection: &mut SqliteConnection,
    settlement: Settlement,
) -> Result<Settlement, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT s.attempt, t.id, t.lane, t.place, t.bytes
         FROM settlement_transactions s JOIN transactions t ON t.id = s.transaction_id
         WHERE s.settlement = ?1 AND NOT t.withdrawn ORDER BY s.attempt, t.number",
    )
    .bind(settlement.claim.id.as_bytes().as_slice())
    .fetch_all(connection)
    .await?;
    let transactions = rows
        .iter()
        .map(|row| Ok((number(row.try_get("attempt")?)?, transaction(row)?)));
    Ok(Settlement {
        transactions: transactions.collect::<Result<_, sqlx::Error>>()?,
        ..settlement
    })
}

fn transaction(row: &SqliteRow) -> Result<Transaction, sqlx::Error> {
    Ok(Transaction {
        id: TransactionId::new(row.try_get("id")?),
        lane: LaneId::new(row.try_get("lane")?),
        place: number(row.try_get("place")?)?,
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
        state: state(row)?,
        transactions: Vec::new(),
        claimed_at: time(row.try_get("claimed_at")?)?,
        told_at: row
            .try_get::<Option<i64>, _>("told_at")?
            .map(time)
            .transpose()?,
    })
}

fn state(row: &SqliteRow) -> Result<State, sqlx::Error> {
    let transaction: Option<String> = row.try_get("transaction_id")?;
    let transaction = transaction.as_deref().map(TransactionId::new);
    let detail: Option<String> = row.try_get("detail")?;
    let detail = detail.unwrap_or_default();
    Ok(match row.try_get::<&str, _>("state")? {
        "open" => State::Open,
        "settled" => State::Concluded(Outcome::Settled {
            transaction: transaction
                .ok_or_else(|| nonsense("a settlement without its transaction"))?,
            amount: parsed(row, "settled_amount")?,
        }),
        "failed" => {
            let reason = Reason::read(row.try_get::<String, _>("reason")?);
            State::Concluded(Outcome::Failed {
                reason,
                detail,
                transaction,
            })
        }
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

fn place(place: u64) -> i64 {
    i64::try_from(place).unwrap_or(i64::MAX)
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

    async fn tell(
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
        // One read transaction, so that the settlement and its transactions are of one moment.
        let mut reader = self.readers.begin().await?;
        let settlement = fetch(&mut reader, id).await?;
        reader.commit().await?;
        Ok(settlement)
    }

    async fn settlements_of(
        &self,
        transaction: &TransactionId,
    ) -> Result<Vec<PaymentId>, JournalError> {
        let rows =
            sqlx::query("SELECT settlement FROM settlement_transactions WHERE transaction_id = ?1")
                .bind(transaction.as_str())
                .fetch_all(&self.readers)
                .await?;
        Ok(rows
            .iter()
            .map(|row| payment_id(row, "settlement"))
            .collect::<Result<_, _>>()?)
    }

    async fn open(&self, network: &str) -> Result<Vec<PaymentId>, JournalError> {
        let rows = sqlx::query(
            "SELECT id FROM settlements WHERE network = ?1 AND state = 'open' ORDER BY claimed_at, id",
        )
        .bind(network)
        .fetch_all(&self.readers)
        .await?;
        Ok(rows
            .iter()
            .map(|row| payment_id(row, "id"))
            .collect::<Result<_, _>>()?)
    }

    async fn transactions_at(
        &self,
        network: &str,
        lane: &LaneId,
        places: Range<u64>,
    ) -> Result<Vec<Transaction>, JournalError> {
        let rows = sqlx::query(
            "SELECT id, lane, place, bytes FROM transactions
             WHERE network = ?1 AND lane = ?2 AND place >= ?3 AND place < ?4 AND NOT withdrawn ORDER BY place, number",
        )
        .bind(network)
        .bind(lane.address())
        .bind(place(places.start))
        .bind(place(places.end))
        .fetch_all(&self.readers)
        .await?;
        Ok(rows.iter().map(transaction).collect::<Result<_, _>>()?)
    }

    async fn next_place(&self, network: &str, lane: &LaneId) -> Result<u64, JournalError> {
        let highest: Option<i64> = sqlx::query_scalar(
            "SELECT max(place) FROM transactions WHERE network = ?1 AND lane = ?2 AND NOT withdrawn",
        )
        .bind(network)
        .bind(lane.address())
        .fetch_one(&self.readers)
        .await?;
        Ok(highest
            .map(number::<u64>)
            .transpose()?
            .map_or(0, |highest| highest + 1))
    }
}
