//! What an error of SQLite means for the journal.

use rusqlite::Error;

use crate::error::{Cause, JournalError};
use crate::group::StoreError;

/// Why a read or a write failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SqlError {
    /// SQLite, or its driver.
    #[error(transparent)]
    Sqlite(#[from] Error),
    /// A row has a value that no version of this program writes.
    #[error("the row has {0}")]
    Unreadable(String),
    /// A write contradicts a rule that is checked before it.
    #[error("{0}")]
    Refused(String),
    /// An error of the journal itself about one write, such as a lease that is lost.
    #[error(transparent)]
    Failed(JournalError),
}

/// An error about a write that contradicts the journal's rules.
pub(super) fn refused(rule: &str) -> SqlError {
    SqlError::Refused(rule.to_owned())
}

/// An error about one row: it has a value that no version of this program writes.
pub(super) fn invalid(what: &str) -> SqlError {
    SqlError::Unreadable(what.to_owned())
}

impl SqlError {
    /// Whether the error is about one row, and not about the file.
    pub(super) fn concerns_one_entry(&self) -> bool {
        self.is_unreadable() || self.is_refusal() || matches!(self, Self::Failed(_))
    }

    /// Whether the error is about the content of a row.
    fn is_unreadable(&self) -> bool {
        matches!(
            self,
            Self::Unreadable(_)
                | Self::Sqlite(
                    Error::FromSqlConversionFailure(..)
                        | Error::InvalidColumnType(..)
                        | Error::IntegralValueOutOfRange(..)
                        | Error::Utf8Error(..)
                        | Error::QueryReturnedNoRows
                )
        )
    }

    /// Whether a write contradicts a rule: one that is checked before it, or a constraint of the
    /// tables.
    fn is_refusal(&self) -> bool {
        /// A text or bytes that are too long for SQLite.
        const TOO_BIG: i32 = 18;
        /// A CHECK, NOT NULL, UNIQUE or foreign key, or a type of a STRICT table.
        const CONSTRAINT: i32 = 19;
        let is_constraint = |code| [TOO_BIG, CONSTRAINT].contains(&code);
        matches!(self, Self::Refused(_)) || self.primary_code().is_some_and(is_constraint)
    }

    /// SQLite's result code without its higher bits, which distinguish kinds of one code. See
    /// <https://www.sqlite.org/rescode.html>.
    fn primary_code(&self) -> Option<i32> {
        match self {
            Self::Sqlite(Error::SqliteFailure(failure, _)) => Some(failure.extended_code & 0xff),
            _ => None,
        }
    }

    /// Whether SQLite reports that the file is damaged (SQLITE_CORRUPT and its kinds) or not a
    /// database (SQLITE_NOTADB).
    pub(super) fn is_damage(&self) -> bool {
        const CORRUPT: i32 = 11;
        const NOT_A_DATABASE: i32 = 26;
        let is_damage = |code| [CORRUPT, NOT_A_DATABASE].contains(&code);
        self.primary_code().is_some_and(is_damage)
    }

    /// What an error that is not about one entry says about the whole journal.
    pub(super) fn problem(self) -> JournalError {
        let is_damage = self.is_damage();
        let cause = Cause::new(self);
        match is_damage {
            true => JournalError::Damaged { cause },
            false => JournalError::Unavailable { cause },
        }
    }
}

impl From<SqlError> for JournalError {
    fn from(error: SqlError) -> Self {
        match error {
            SqlError::Failed(error) => error,
            error if error.is_refusal() => Self::refused(error),
            error if error.is_unreadable() => Self::unreadable(error),
            error => error.problem(),
        }
    }
}

impl StoreError for SqlError {
    fn concerns_one_entry(&self) -> bool {
        self.concerns_one_entry()
    }
}
