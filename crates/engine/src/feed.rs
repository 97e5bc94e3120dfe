//! The feed of events, for those that follow settlements: streams and webhooks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quittance_core::{Clock, PaymentId, Timestamp};
use quittance_journal::{
    EventCursor, EventFilter, Events, Journal, JournalError, LeaseName, NewEvents, Settlement,
};
use tracing::warn;

/// The pause between two removals of old events. An event is removed at most this much too late.
const REMOVE_EVERY: Duration = Duration::from_secs(60);

/// How many events one write removes at most. It takes some milliseconds, in which no settlement is
/// written.
const REMOVE_MAX: u32 = 1000;

/// Reads the feed of an engine's journal; see [`Engine::feed`](crate::Engine::feed).
#[derive(Clone)]
pub struct Feed {
    journal: Arc<dyn Journal>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

impl Feed {
    pub(crate) const fn new(journal: Arc<dyn Journal>, clock: Arc<dyn Clock>) -> Self {
        Self { journal, clock }
    }

    /// The events behind a position; see [`Journal::events`].
    ///
    /// # Errors
    /// As [`Journal::events`].
    pub async fn events(
        &self,
        filter: &EventFilter,
        after: Option<&EventCursor>,
    ) -> Result<Events, JournalError> {
        self.journal.events(filter, after).await
    }

    /// The position behind every event that can be read now; see [`Journal::newest_event`].
    ///
    /// # Errors
    /// As [`Journal::newest_event`].
    pub async fn newest(&self) -> Result<EventCursor, JournalError> {
        self.journal.newest_event().await
    }

    /// Wakes a reader; see [`Journal::new_events`].
    pub fn news(&self) -> NewEvents {
        self.journal.new_events()
    }

    /// A settlement as it is now. `None` if the journal does not have it any more.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn settlement(&self, id: &PaymentId) -> Result<Option<Settlement>, JournalError> {
        self.journal.settlement(id).await
    }

    /// The position that a reader has saved; see [`Journal::event_cursor`].
    ///
    /// # Errors
    /// As [`Journal::event_cursor`].
    pub async fn saved(&self, reader: &str) -> Result<Option<EventCursor>, JournalError> {
        self.journal.event_cursor(reader).await
    }

    /// Saves a reader's position; see [`Journal::save_event_cursor`].
    ///
    /// # Errors
    /// As [`Journal::save_event_cursor`].
    pub async fn save(&self, reader: &str, cursor: &EventCursor) -> Result<(), JournalError> {
        self.journal.save_event_cursor(reader, cursor).await
    }

    /// Whether this process is the one that reads for this reader, of all replicas with the same
    /// journal. It stays so until its membership ends.
    ///
    /// # Errors
    /// As [`Journal::acquire`].
    pub async fn acquire(&self, reader: &str) -> Result<bool, JournalError> {
        let name = LeaseName::from_text(reader);
        Ok(self.journal.acquire(&name).await?.is_some())
    }

    /// Removes events that are older than `keep`, for as long as this future is polled.
    pub async fn remove_old(&self, keep: Duration) {
        loop {
            let now = self.clock.now().secs();
            let before = Timestamp::from_secs(now.saturating_sub(keep.as_secs()));
            match self.journal.remove_events(before, REMOVE_MAX).await {
                Ok(removed) if removed >= u64::from(REMOVE_MAX) => continue,
                Ok(_) => {}
                Err(error) => warn!(%error, "old events were not removed"),
            }
            tokio::time::sleep(REMOVE_EVERY).await;
        }
    }
}
