//! Reads the journal's feed for one stream.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::Event;
use futures_util::{Stream, stream};
use quittance_engine::{EventCursor, EventFilter, Events, Feed, JournalError, NewEvents};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use super::{EventBody, RETRY_AFTER, Start, position, sent};
use crate::server::Stopping;

/// How many events are read at once. Each takes two kilobytes until the client has it.
const READ_MAX: u32 = 50;

/// The pause between two reads of one stream. The journal wakes all streams with every write, and
/// a client does not notice a twentieth of a second.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a stream waits before it reads again without having been woken.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// How often the position is sent while only events of other callers come. A client then resumes
/// from there, and not from a position whose events are removed some day.
const POSITION_EVERY: Duration = Duration::from_secs(60);

/// The reading side of a stream. It reads only when the client takes the next event, so a slow
/// client needs no more memory than a fast one.
pub(super) struct Reader {
    feed: Feed,
    filter: EventFilter,
    after: EventCursor,
    news: NewEvents,
    stopping: Option<Stopping>,
    ready: VecDeque<Event>,
    has_more: bool,
    read_at: Instant,
    position_at: Instant,
}

impl Reader {
    /// Reads the first part, so that an unknown position is an error response.
    pub(super) async fn start(
        feed: Feed,
        filter: EventFilter,
        start: Start,
        stopping: Option<Stopping>,
    ) -> Result<Self, JournalError> {
        let filter = filter.limit(READ_MAX);
        // Before the first read: what is written after it must wake the reader.
        let news = feed.news();
        let after = match start {
            Start::Oldest => None,
            Start::Newest => Some(feed.newest().await?),
            Start::After(cursor) => Some(cursor),
        };
        let first = feed.events(&filter, after.as_ref()).await?;
        let mut reader = Self {
            feed,
            filter,
            after: first.next.clone(),
            news,
            stopping,
            ready: VecDeque::new(),
            has_more: true,
            read_at: Instant::now(),
            position_at: Instant::now(),
        };
        // A client that loses the connection before the first event resumes from here.
        let start = Event::default().retry(RETRY_AFTER);
        let start = match &after {
            Some(cursor) => start.id(cursor.as_str()),
            None => start,
        };
        reader.ready.push_back(start);
        reader.take(first).await?;
        Ok(reader)
    }

    /// The events as a stream that ends when the server stops, or when the journal fails. The
    /// client connects again then.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> + Send {
        stream::unfold(self, |mut reader| async move {
            let event = reader.next().await?;
            Some((Ok(event), reader))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if !self.wait().await {
                return None;
            }
            if let Err(error) = self.read().await {
                warn!(%error, "a stream of events ends, and its client has to resume");
                return None;
            }
            if self.ready.is_empty() && self.position_at.elapsed() >= POSITION_EVERY {
                self.position_at = Instant::now();
                return Some(position(&self.after));
            }
        }
    }

    /// Waits until there may be more events. `false` if the server stops.
    async fn wait(&mut self) -> bool {
        let (has_more, next_read) = (self.has_more, self.read_at + PAUSE);
        let Self { news, stopping, .. } = self;
        let news = async {
            if !has_more {
                // A missed wake-up only delays the next read.
                let _ = timeout(READ_AGAIN, news.changed()).await;
                sleep_until(next_read).await;
            }
        };
        let stop = async {
            match stopping {
                Some(stopping) => stopping.stopped().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop => false,
            () = news => true,
        }
    }

    async fn read(&mut self) -> Result<(), JournalError> {
        self.read_at = Instant::now();
        let part = self.feed.events(&self.filter, Some(&self.after)).await?;
        self.take(part).await
    }

    /// Prepares events for sending, each with its settlement as it is now.
    async fn take(&mut self, part: Events) -> Result<(), JournalError> {
        for event in part.events {
            let settlement = self.feed.settlement(&event.settlement).await?;
            let kind = event.kind;
            let body = EventBody::new(event, settlement.map(Into::into));
            self.ready.push_back(sent(&body, kind));
            self.position_at = Instant::now();
        }
        self.after = part.next;
        self.has_more = part.has_more;
        Ok(())
    }
}
