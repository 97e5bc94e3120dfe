//! What an error of SQLite means for the journal.

use crate::error::{Cause, JournalError};
use crate::group::StoreError;

/// Whether an error is about one row, and not about the file.
pub(super) fn concerns_one_entry(error: &sqlx::Error) -> bool {
    is_unreadable(error) || is_refusal(error)
}

/// Whether an error is about the content of a row.
fn is_unreadable(error: &sqlx::Error) -> bool {
    matches!(
        error,
        sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::RowNotFound
    )
}

/// An error about a write that contradicts the journal's rules.
pub(super) fn refused(rule: &str) -> sqlx::Error {
    sqlx::Error::Encode(rule.into())
}

/// An error of the journal itself about one write, such as a lease that is lost.
pub(super) fn failed(error: JournalError) -> sqlx::Error {
    sqlx::Error::Encode(Box::new(error))
}

/// Whether a write contradicts a rule: one that is checked before it, or a constraint of the
/// tables.
fn is_refusal(error: &sqlx::Error) -> bool {
    /// A text or bytes that are too long for SQLite.
    const TOO_BIG: i64 = 18;
    /// A CHECK, NOT NULL, UNIQUE or foreign key, or a type of a STRICT table.
    const CONSTRAINT: i64 = 19;
    let is_constraint = |code| [TOO_BIG, CONSTRAINT].contains(&code);
    matches!(error, sqlx::Error::Encode(_)) || primary_code(error).is_some_and(is_constraint)
}

/// SQLite's result code without its higher bits, which distinguish kinds of one code. See
/// <https://www.sqlite.org/rescode.html>.
fn primary_code(error: &sqlx::Error) -> Option<i64> {
    let code = error.as_database_error()?.code()?.parse::<i64>().ok()?;
    Some(code & 0xff)
}

/// Whether SQLite reports that the file is damaged (SQLITE_CORRUPT and its kinds) or not a database
/// (SQLITE_NOTADB).
pub(super) fn is_damage(error: &sqlx::Error) -> bool {
    const CORRUPT: i64 = 11;
    const NOT_A_DATABASE: i64 = 26;
    primary_code(error).is_some_and(|code| [CORRUPT, NOT_A_DATABASE].contains(&code))
}

impl From<sqlx::Error> for JournalError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Encode(cause) => match cause.downcast::<Self>() {
                Ok(error) => *error,
                Err(rule) => Self::refused(rule),
            },
            error if is_refusal(&error) => Self::refused(error),
            error if is_unreadable(&error) => Self::unreadable(error),
            error => problem_of(error),
        }
    }
}

/// What an error that is not about one entry says about the whole journal.
pub(super) fn problem_of(error: sqlx::Error) -> JournalError {
    let is_damage = is_damage(&error);
    let cause = Cause::new(error);
    match is_damage {
        true => JournalError::Damaged { cause },
        false => JournalError::Unavailable { cause },
    }
}

impl StoreError for sqlx::Error {
    fn concerns_one_entry(&self) -> bool {
        concerns_one_entry(self)
    }
}
