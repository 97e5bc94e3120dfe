//! Whether the journal can be used now, for its readers and its writer.

use std::sync::{PoisonError, RwLock};

use tracing::{error, info};

use crate::error::JournalError;

/// What is wrong with the journal now; `None` while it works.
#[derive(Debug, Default)]
pub(crate) struct Condition(RwLock<Option<JournalError>>);

impl Condition {
    /// What is wrong now.
    pub(crate) fn now(&self) -> Option<JournalError> {
        // A thread that panicked with the lock left a complete value: it is replaced in one step.
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What is wrong now, if that makes reads wrong too. After a failed write alone, everything
    /// that was written before can be read.
    pub(crate) fn unreadable(&self) -> Option<JournalError> {
        let now = self.now()?;
        (!matches!(now, JournalError::Unwritable { .. })).then_some(now)
    }

    /// The error that ends all writing in this process.
    pub(crate) fn damage(&self) -> Option<JournalError> {
        let now = self.now()?;
        matches!(now, JournalError::Damaged { .. }).then_some(now)
    }

    /// Notes what was found, and logs each change once.
    pub(crate) fn note(&self, found: Option<JournalError>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // A damaged file stays damaged, whatever else is found.
        if *known == found || matches!(*known, Some(JournalError::Damaged { .. })) {
            return;
        }
        match &found {
            Some(problem) => error!(%problem, "nothing is settled until the journal works again"),
            None => info!("the journal can be written again"),
        }
        metrics::gauge!("quittance_journal_up").set(if found.is_none() { 1.0 } else { 0.0 });
        *known = found;
    }
}
