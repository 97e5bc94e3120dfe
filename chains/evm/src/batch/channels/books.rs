//! The books of the channels: in the seller's store, and the newest ones in memory.
//!
//! Another process may write the same records. A write succeeds only on the revision that it was
//! judged by, so a copy in memory can be stale, but never causes a second charge.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alloy::primitives::B256;
use lru::LruCache;
use quittance_core::{Fault, FaultKind, SchemeState, StateStore, Timestamp};

use super::super::NAME;
use super::super::book::ChannelBook;
use super::super::channel::state_id;

/// How many books are kept in memory. One takes some two kilobytes.
const CACHED_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("it is not zero");

/// The book of a channel, as it is known.
#[derive(Debug, Clone)]
pub(super) struct KnownBook {
    /// The record that it was read from. `None` if nothing was written yet.
    record: Option<SchemeState>,
    pub(super) book: ChannelBook,
    /// Whether it comes from memory, and may be stale.
    pub(super) is_cached: bool,
}

impl KnownBook {
    /// The book of a channel that has no record.
    pub(super) fn new(book: ChannelBook) -> Self {
        Self {
            record: None,
            book,
            is_cached: false,
        }
    }

    /// Whether the channel has a record.
    pub(super) fn has_record(&self) -> bool {
        self.record.is_some()
    }

    fn revision(&self) -> u64 {
        self.record.as_ref().map_or(0, |record| record.revision)
    }
}

/// The books of a seller's channels on one network.
pub(super) struct Books {
    store: Arc<dyn StateStore>,
    network: String,
    cached: Mutex<LruCache<B256, KnownBook>>,
}

impl Books {
    pub(super) fn new(store: Arc<dyn StateStore>, network: &str) -> Self {
        Self {
            store,
            network: network.to_owned(),
            cached: Mutex::new(LruCache::new(CACHED_MAX)),
        }
    }

    /// The book of a channel, from memory or from the store. `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) async fn get(&self, channel: &B256) -> Result<Option<KnownBook>, Fault> {
        if let Some(known) = self.locked().get(channel) {
            return Ok(Some(known.clone()));
        }
        self.reload(channel).await
    }

    /// The book of a channel, from the store.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) async fn reload(&self, channel: &B256) -> Result<Option<KnownBook>, Fault> {
        self.forget(channel);
        let Some(record) = self.store.state(&state_id(channel)).await? else {
            return Ok(None);
        };
        let known = Self::read(record)?;
        self.remember(channel, &known);
        Ok(Some(known))
    }

    /// The book in a record.
    ///
    /// # Errors
    /// If it cannot be read: nothing is charged then.
    pub(super) fn read(record: SchemeState) -> Result<KnownBook, Fault> {
        let book = ChannelBook::read(&record).map_err(|error| {
            let what = format_args!("the book of a channel cannot be read: {error}");
            Fault::new(FaultKind::Internal, what)
        })?;
        Ok(KnownBook {
            record: Some(record),
            book,
            is_cached: false,
        })
    }

    /// Keeps a book in memory, unless a newer one is there.
    pub(super) fn remember(&self, channel: &B256, known: &KnownBook) {
        let mut cached = self.locked();
        let newest = cached.peek(channel).map_or(0, KnownBook::revision);
        if known.revision() >= newest {
            let known = KnownBook {
                is_cached: true,
                ..known.clone()
            };
            cached.put(*channel, known);
        }
    }

    /// Removes a book from memory.
    pub(super) fn forget(&self, channel: &B256) {
        self.locked().pop(channel);
    }

    /// Writes the next book of a channel, and when it must be looked after. `None` if another write
    /// was faster, and the payment must be judged again. On return, the book is durable.
    ///
    /// # Errors
    /// If it could not be written. Then it is not known whether it was.
    pub(super) async fn write(
        &self,
        channel: &B256,
        known: &KnownBook,
        book: ChannelBook,
        due: Option<Timestamp>,
    ) -> Result<Option<ChannelBook>, Fault> {
        let content = book.to_content();
        let content = content.map_err(|error| Fault::new(FaultKind::Internal, error))?;
        let next = match &known.record {
            Some(record) => record.next(content, due),
            None => SchemeState {
                due,
                ..SchemeState::new(state_id(channel), self.network.as_str(), NAME, content)
            },
        };
        // Whatever happens to this task, no later payment is judged by the book before.
        self.forget(channel);
        if !self.store.write_state(&next).await? {
            return Ok(None);
        }
        let known = KnownBook {
            record: Some(next),
            book,
            is_cached: true,
        };
        self.remember(channel, &known);
        Ok(Some(known.book))
    }

    /// The records that are due, the most urgent first. They come again at the time `again`.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(super) async fn due(
        &self,
        now: Timestamp,
        again: Timestamp,
        limit: u32,
    ) -> Result<Vec<SchemeState>, Fault> {
        let due = self
            .store
            .due_states(&self.network, NAME, now, again, limit);
        due.await
    }

    /// Leaves these records alone until their next write.
    ///
    /// # Errors
    /// If that could not be written.
    pub(super) async fn leave(&self, seen: &[SchemeState]) -> Result<(), Fault> {
        let seen: Vec<_> = seen.iter().map(|record| (record.clone(), None)).collect();
        match seen.is_empty() {
            true => Ok(()),
            false => self.store.put_off_states(&seen).await,
        }
    }

    fn locked(&self) -> MutexGuard<'_, LruCache<B256, KnownBook>> {
        // Each change is one insertion or removal, so the map is complete after a panic.
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
