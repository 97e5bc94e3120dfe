//! The versions of the file's format, and the migrations to the newest one.

use std::path::Path;

use sqlx::sqlite::SqliteConnection;

use super::errors::problem_of;
use crate::error::{FileProblem, JournalError};

/// The newest format, in SQLite's `user_version`.
pub(super) const FORMAT: i64 = 5;

/// Writes the database's first page without a change of content.
pub(super) const TOUCH: &str = "PRAGMA user_version = 5";

/// The number of tables in formats 1 to 3, in format 4, and since then.
const TABLES: [i64; 3] = [3, 4, 7];

/// The tables of the newest format.
pub(super) const SCHEMA: &str = include_str!("schema.sql");

/// The migrations: the format that each one starts from, and its SQL.
const MIGRATIONS: [(i64, &str); 4] = [
    (1, include_str!("to_format_2.sql")),
    (2, include_str!("to_format_3.sql")),
    (3, include_str!("to_format_4.sql")),
    (4, include_str!("to_format_5.sql")),
];

/// Creates the tables in a new file, or migrates those of an older format.
pub(super) async fn prepare(connection: &mut SqliteConnection) -> Result<(), JournalError> {
    let (mut format, tables) = examine(connection).await.map_err(problem_of)?;
    if (format, tables) == (0, Tables::None) {
        sqlx::raw_sql(SCHEMA)
            .execute(connection)
            .await
            .map_err(problem_of)?;
        return Ok(());
    }
    if format > FORMAT {
        return Err(JournalError::NewerFormat {
            found: format,
            newest: FORMAT,
        });
    }
    if format < 1 || tables != Tables::Ours {
        return Err(JournalError::Unusable {
            path: path(connection).await,
            problem: FileProblem::Foreign,
        });
    }
    for (from, steps) in MIGRATIONS {
        if format == from {
            migrate(connection, steps).await?;
            format += 1;
        }
    }
    Ok(())
}

/// Checks that a database has the newest format, without changing it.
pub(super) async fn check(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<(), JournalError> {
    match examine(connection).await.map_err(problem_of)? {
        (FORMAT, Tables::Ours) => Ok(()),
        (found, _) if found > FORMAT => Err(JournalError::NewerFormat {
            found,
            newest: FORMAT,
        }),
        (found, Tables::Ours) if found > 0 => Err(JournalError::ReadOnly {
            path: path.to_owned(),
            why: "the journal has an older format: run `quittance check`, which migrates it",
        }),
        _ => Err(JournalError::Unusable {
            path: path.to_owned(),
            problem: FileProblem::Foreign,
        }),
    }
}

/// Which tables a database has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tables {
    None,
    Ours,
    Others,
}

/// The database's format and tables.
async fn examine(connection: &mut SqliteConnection) -> Result<(i64, Tables), sqlx::Error> {
    let format: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await?;
    let (all, ours): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE type = 'table'
             AND name IN ('settlements', 'transactions', 'settlement_transactions', 'scheme_states',
                 'leases', 'events', 'event_readers'))
         FROM sqlite_schema",
    )
    .fetch_one(&mut *connection)
    .await?;
    let expected = match format {
        ..4 => TABLES[0],
        4 => TABLES[1],
        5.. => TABLES[2],
    };
    let tables = match (all, ours) {
        (0, _) => Tables::None,
        (_, ours) if ours == expected => Tables::Ours,
        _ => Tables::Others,
    };
    Ok((format, tables))
}

/// The path of the database that a connection has open, for messages.
async fn path(connection: &mut SqliteConnection) -> std::path::PathBuf {
    let path: Result<String, _> =
        sqlx::query_scalar("SELECT file FROM pragma_database_list WHERE name = 'main'")
            .fetch_one(connection)
            .await;
    path.unwrap_or_default().into()
}

/// Runs a migration. It is one SQLite transaction, so a process that dies in it leaves the file as
/// it was.
async fn migrate(
    connection: &mut SqliteConnection,
    steps: &'static str,
) -> Result<(), JournalError> {
    // A migration may replace a table that others refer to. References are checked afterwards.
    let switch = "PRAGMA foreign_keys = OFF";
    let switched = sqlx::raw_sql(switch).execute(&mut *connection).await;
    switched.map_err(problem_of)?;
    let migrated = sqlx::raw_sql(steps).execute(&mut *connection).await;
    if migrated.is_err() {
        // Fails if SQLite has already rolled back by itself.
        drop(sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await);
    }
    let switch = "PRAGMA foreign_keys = ON";
    let switched = sqlx::raw_sql(switch).execute(&mut *connection).await;
    switched.map_err(problem_of)?;
    migrated.map_err(problem_of)?;
    let dangling = sqlx::query("PRAGMA foreign_key_check")
        .fetch_optional(connection)
        .await
        .map_err(problem_of)?;
    match dangling {
        None => Ok(()),
        Some(_) => Err(JournalError::Dangling),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that states another format than it has would be refused, or migrated twice.
    #[test]
    fn each_script_states_the_format_that_it_leaves() {
        let newest = format!("PRAGMA user_version = {FORMAT}");
        assert_eq!(TOUCH, newest);
        assert!(SCHEMA.contains(&format!("{newest};")));
        for (from, sql) in MIGRATIONS {
            let to = format!("PRAGMA user_version = {};", from + 1);
            assert!(sql.contains(&to), "{to}");
        }
        assert_eq!(MIGRATIONS.len() as i64, FORMAT - 1);
    }
}
