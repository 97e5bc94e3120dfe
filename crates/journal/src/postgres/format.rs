//! The version of the tables, and their creation.

use sqlx::Connection;
use sqlx::postgres::PgConnection;

use super::errors::problem_of;
use crate::error::JournalError;

/// The newest format.
pub(super) const FORMAT: i64 = 1;

/// The tables of the newest format.
const SCHEMA: &str = include_str!("schema.sql");

/// Lets only one replica write, until its transaction ends. The lock belongs to the schema of the
/// journal's tables, so several journals can be in one database.
pub(super) const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('quittance journal '
    || current_schema(), 0))";

/// Creates the tables in an empty schema. Several replicas may start at once.
pub(super) async fn prepare(connection: &mut PgConnection) -> Result<(), JournalError> {
    let mut transaction = connection.begin().await.map_err(problem_of)?;
    let locked = sqlx::raw_sql(LOCK).execute(&mut *transaction).await;
    locked.map_err(problem_of)?;
    match examine(&mut transaction).await.map_err(problem_of)? {
        Found::Nothing => {
            let created = sqlx::raw_sql(SCHEMA).execute(&mut *transaction).await;
            created.map_err(problem_of)?;
        }
        Found::Format(FORMAT) => {}
        other => return Err(unusable(other)),
    }
    // A dropped transaction would keep the lock until the connection's next statement.
    transaction.commit().await.map_err(problem_of)
}

/// Checks that the tables have the newest format.
pub(super) async fn check(connection: &mut PgConnection) -> Result<(), JournalError> {
    match examine(connection).await.map_err(problem_of)? {
        Found::Format(FORMAT) => Ok(()),
        other => Err(unusable(other)),
    }
}

/// As [`check`], or that there are no tables at all.
pub(super) async fn check_or_empty(connection: &mut PgConnection) -> Result<(), JournalError> {
    match examine(connection).await.map_err(problem_of)? {
        Found::Format(FORMAT) | Found::Nothing => Ok(()),
        other => Err(unusable(other)),
    }
}

/// What a schema has.
#[derive(Clone, Copy)]
enum Found {
    /// No table.
    Nothing,
    /// The tables of a journal.
    Format(i64),
    /// Tables of another program.
    Others,
}

fn unusable(found: Found) -> JournalError {
    match found {
        Found::Format(found) if found > FORMAT => JournalError::NewerFormat {
            found,
            newest: FORMAT,
        },
        Found::Nothing => JournalError::unavailable("the schema has no journal"),
        Found::Format(_) | Found::Others => JournalError::unavailable(
            "the schema has tables of another program: use a database or a schema of its own",
        ),
    }
}

async fn examine(connection: &mut PgConnection) -> Result<Found, sqlx::Error> {
    let (tables, ours): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE tablename = 'quittance_format')
         FROM pg_tables WHERE schemaname = current_schema()",
    )
    .fetch_one(&mut *connection)
    .await?;
    match (tables, ours) {
        (0, _) => Ok(Found::Nothing),
        (_, 0) => Ok(Found::Others),
        _ => {
            let format = sqlx::query_scalar("SELECT max(format) FROM quittance_format");
            format.fetch_one(connection).await.map(Found::Format)
        }
    }
}
