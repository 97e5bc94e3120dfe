//! The versions of the file's format, and the way from each to the newest.

use sqlx::sqlite::SqliteConnection;

use super::JournalError;

/// The newest version of the file's format, in SQLite's `user_version`.
pub(super) const FORMAT: i64 = 2;

/// Writes the database's first page and changes nothing.
pub(super) const TOUCH: &str = "PRAGMA user_version = 2";

/// How many tables the schema makes, in every format.
const TABLES: i64 = 3;

/// The tables of the newest format.
const SCHEMA: &str = include_str!("schema.sql");

/// Brings a file of format 1 to format 2.
const TO_FORMAT_2: &str = include_str!("to_format_2.sql");

/// Makes the tables in a new file, or brings those of an older format to the newest.
pub(super) async fn prepare(connection: &mut SqliteConnection) -> Result<(), JournalError> {
    let format: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await?;
    let (all, ours): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE type = 'table'
             AND name IN ('settlements', 'transactions', 'settlement_transactions')) FROM sqlite_schema",
    )
    .fetch_one(&mut *connection)
    .await?;
    match format {
        0 if all == 0 => {
            sqlx::raw_sql(SCHEMA).execute(connection).await?;
            Ok(())
        }
        1 if ours == TABLES => migrate(connection, TO_FORMAT_2).await,
        FORMAT if ours == TABLES => Ok(()),
        0..=FORMAT => Err(JournalError::Unavailable(
            "the file is a database of another program".to_owned(),
        )),
        newer => Err(JournalError::Unavailable(format!(
            "the file has format {newer}; this program knows {FORMAT}"
        ))),
    }
}

/// Runs a migration, which is one SQLite transaction: a process that dies in it leaves the file as it was.
async fn migrate(
    connection: &mut SqliteConnection,
    steps: &'static str,
) -> Result<(), JournalError> {
    // References are checked at the end: the table that they point to is made anew in between.
    sqlx::raw_sql("PRAGMA foreign_keys = OFF")
        .execute(&mut *connection)
        .await?;
    let migrated = sqlx::raw_sql(steps).execute(&mut *connection).await;
    if migrated.is_err() {
        // Nothing to roll back where SQLite has done so by itself.
        drop(sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await);
    }
    sqlx::raw_sql("PRAGMA foreign_keys = ON")
        .execute(&mut *connection)
        .await?;
    migrated?;
    let dangling = sqlx::query("PRAGMA foreign_key_check")
        .fetch_optional(connection)
        .await?;
    match dangling {
        None => Ok(()),
        Some(_) => Err(JournalError::Unavailable(
            "the file has transactions of settlements that it does not have".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that says another format than it has is refused by the next program, or migrated again.
    #[test]
    fn what_changes_nothing_changes_no_format() {
        let says = format!("PRAGMA user_version = {FORMAT}");
        assert_eq!(TOUCH, says);
        for sql in [SCHEMA, TO_FORMAT_2] {
            assert!(sql.contains(&format!("{says};")));
        }
    }
}
