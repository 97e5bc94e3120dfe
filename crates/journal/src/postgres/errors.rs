//! What an error of PostgreSQL means for the journal.

use crate::error::{Cause, JournalError};
use crate::group::StoreError;

/// Whether an error is about one row or one write, and not about the database.
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

/// Whether a write contradicts a rule: one that is checked before it, a constraint of the tables,
/// or what a type can hold.
fn is_refusal(error: &sqlx::Error) -> bool {
    /// The classes "data exception", "integrity constraint violation" and "program limit exceeded",
    /// such as a text that is too long for an index. See appendix A of PostgreSQL's documentation.
    const CLASSES: [&str; 3] = ["22", "23", "54"];
    let is_refusal = |code: String| CLASSES.iter().any(|class| code.starts_with(class));
    matches!(error, sqlx::Error::Encode(_)) || code(error).is_some_and(is_refusal)
}

/// The SQLSTATE of an error that the server has answered with.
fn code(error: &sqlx::Error) -> Option<String> {
    let code = error.as_database_error()?.code()?;
    Some(code.into_owned())
}

/// Whether the server reports that its files are damaged.
fn is_damage(error: &sqlx::Error) -> bool {
    const DATA_CORRUPTED: &str = "XX001";
    const INDEX_CORRUPTED: &str = "XX002";
    code(error).is_some_and(|code| [DATA_CORRUPTED, INDEX_CORRUPTED].contains(&&*code))
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
