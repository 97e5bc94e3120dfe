//! What an error of SQLite means for the journal.

use crate::error::{Cause, JournalError};
use crate::group::StoreError;

/// Whether an error is about the content of one row, and not about the file.
pub(super) fn concerns_one_entry(error: &sqlx::Error) -> bool {
    matches!(
        error,
        sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::RowNotFound
    )
}

/// Whether SQLite reports that the file is damaged (SQLITE_CORRUPT and its kinds) or not a database
/// (SQLITE_NOTADB). See <https://www.sqlite.org/rescode.html>.
pub(super) fn is_damage(error: &sqlx::Error) -> bool {
    /// The lower bits of a result code; the higher bits distinguish kinds of one code.
    const PRIMARY_CODE: i64 = 0xff;
    const CORRUPT: i64 = 11;
    const NOT_A_DATABASE: i64 = 26;
    let database = error.as_database_error();
    let code = database.and_then(|error| error.code()?.parse::<i64>().ok());
    code.is_some_and(|code| [CORRUPT, NOT_A_DATABASE].contains(&(code & PRIMARY_CODE)))
}

impl From<sqlx::Error> for JournalError {
    fn from(error: sqlx::Error) -> Self {
        match concerns_one_entry(&error) {
            true => Self::unreadable(error),
            false => problem_of(error),
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
