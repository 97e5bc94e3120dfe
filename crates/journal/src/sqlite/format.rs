//! The versions of the file's format, and the migrations to the newest one.

use std::path::Path;

use rusqlite::Connection;

use super::errors::SqlError;
use super::sql;
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
pub(super) fn prepare(connection: &Connection) -> Result<(), JournalError> {
    let (mut format, tables) = examine(connection).map_err(SqlError::problem)?;
    if (format, tables) == (0, Tables::None) {
        return run(connection, SCHEMA);
    }
    if format > FORMAT {
        return Err(JournalError::NewerFormat {
            found: format,
            newest: FORMAT,
        });
    }
    if format < 1 || tables != Tables::Ours {
        return Err(JournalError::Unusable {
            path: connection.path().unwrap_or_default().into(),
            problem: FileProblem::Foreign,
        });
    }
    for (from, steps) in MIGRATIONS {
        if format == from {
            migrate(connection, steps)?;
            format += 1;
        }
    }
    Ok(())
}

/// Checks that a database has the newest format, without changing it.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), JournalError> {
    match examine(connection).map_err(SqlError::problem)? {
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
fn examine(connection: &Connection) -> Result<(i64, Tables), SqlError> {
    let format = sql::one(connection, "PRAGMA user_version", [], |row| Ok(row.get(0)?))?;
    let (all, ours): (i64, i64) = sql::one(
        connection,
        "SELECT count(*), count(*) FILTER (WHERE type = 'table'
             AND name IN ('settlements', 'transactions', 'settlement_transactions', 'scheme_states',
                 'leases', 'events', 'event_readers'))
         FROM sqlite_schema",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
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

/// Runs a migration. It is one SQLite transaction, so a process that dies in it leaves the file as
/// it was.
fn migrate(connection: &Connection, steps: &str) -> Result<(), JournalError> {
    // A migration may replace a table that others refer to. References are checked afterwards.
    run(connection, "PRAGMA foreign_keys = OFF")?;
    let migrated = run(connection, steps);
    if migrated.is_err() {
        // Fails if SQLite has already rolled back by itself.
        drop(run(connection, "ROLLBACK"));
    }
    run(connection, "PRAGMA foreign_keys = ON")?;
    migrated?;
    let is_dangling = sql::exists(connection, "PRAGMA foreign_key_check", []);
    match is_dangling.map_err(SqlError::problem)? {
        false => Ok(()),
        true => Err(JournalError::Dangling),
    }
}

/// Runs statements without values.
fn run(connection: &Connection, statements: &str) -> Result<(), JournalError> {
    let done = connection.execute_batch(statements);
    done.map_err(|error| SqlError::from(error).problem())
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
