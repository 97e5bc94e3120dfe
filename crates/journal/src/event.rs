//! The feed of events: every change of a settlement, in order, for readers that can resume.

use std::fmt;
use std::str::FromStr;

use quittance_core::{PaymentId, Timestamp, TransactionId};
use tokio::sync::watch;

/// The most events in one answer. An event takes about 300 bytes of memory.
pub const EVENTS_MAX: u32 = 1000;

/// The default number of events in one answer.
const EVENTS_DEFAULT: u32 = 100;

/// The most characters of a cursor: two numbers of 64 bits, and a separator.
const CURSOR_LEN_MAX: usize = 48;

/// What happened to a settlement.
///
/// Callers match every kind: a new one must not be handled by a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// An attempt has begun.
    Claimed,
    /// A transaction was signed for it. It is sent after that.
    Signed,
    /// It settled.
    Settled,
    /// The attempt failed.
    Failed,
    /// The attempt ended, and nothing was sent.
    Released,
    /// Success was reported, and the chain took the payment back for good.
    Lost,
    /// The chain took the payment back. It is sent again.
    Reopened,
    /// `success: true` is reported for the first time.
    Reported,
    /// The payment's block is final, or nothing was sent to settle it.
    Final,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Claimed,
        Self::Signed,
        Self::Settled,
        Self::Failed,
        Self::Released,
        Self::Lost,
        Self::Reopened,
        Self::Reported,
        Self::Final,
    ];

    /// The name in the journal's files and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Signed => "signed",
            Self::Settled => "settled",
            Self::Failed => "failed",
            Self::Released => "released",
            Self::Lost => "lost",
            Self::Reopened => "reopened",
            Self::Reported => "reported",
            Self::Final => "final",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EventKind {
    type Err = UnknownEvent;

    fn from_str(name: &str) -> Result<Self, UnknownEvent> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == name);
        found.ok_or_else(|| UnknownEvent(name.to_owned()))
    }
}

/// A text is not the name of a kind of event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown event {0:?}: use claimed, signed, settled, failed, released, lost, reopened, reported or final"
)]
pub struct UnknownEvent(pub String);

/// One change of a settlement. It never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettlementEvent {
    /// The position right behind this event.
    pub cursor: EventCursor,
    /// The settlement.
    pub settlement: PaymentId,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// What happened.
    pub kind: EventKind,
    /// The transaction that was signed, that decided the attempt, or that the chain took back.
    pub transaction: Option<TransactionId>,
    /// The network's CAIP-2 identifier.
    pub network: String,
    /// The caller that claimed this attempt: the name of its key. `None` if any caller may ask.
    pub caller: Option<String>,
    /// When it happened, by the engine's clock.
    pub at: Timestamp,
}

/// A position in the feed. Its text has a meaning for its journal only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventCursor(String);

impl EventCursor {
    /// The text, for journals.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for EventCursor {
    type Err = InvalidEventCursor;

    /// Reads a text of 1 to 48 letters, digits, `-` and `_`. So a cursor fits into a header, a
    /// query and a signed message without an escape. Whether the journal knows the position is
    /// checked later.
    fn from_str(text: &str) -> Result<Self, InvalidEventCursor> {
        let is_permitted = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let is_cursor =
            (1..=CURSOR_LEN_MAX).contains(&text.len()) && text.bytes().all(is_permitted);
        match is_cursor {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidEventCursor),
        }
    }
}

/// A text is not a position in the feed of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid cursor: pass the id of the last event unchanged")]
pub struct InvalidEventCursor;

/// Which events to read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventFilter {
    /// Only events of attempts that this caller claimed. `None` reads those of all callers.
    pub caller: Option<String>,
    /// Only events of this network (CAIP-2). `None` reads those of all networks.
    pub network: Option<String>,
    /// How many events an answer has at most: from 1 to [`EVENTS_MAX`].
    pub limit: u32,
}

impl Default for EventFilter {
    fn default() -> Self {
        Self {
            caller: None,
            network: None,
            limit: EVENTS_DEFAULT,
        }
    }
}

impl EventFilter {
    /// All events, at most a hundred in an answer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only events of attempts that this caller claimed.
    #[must_use]
    pub fn caller(mut self, caller: impl Into<String>) -> Self {
        self.caller = Some(caller.into());
        self
    }

    /// Only events of this network (CAIP-2).
    #[must_use]
    pub fn network(mut self, network: impl Into<String>) -> Self {
        self.network = Some(network.into());
        self
    }

    /// At most this many events in an answer. Values outside 1 to [`EVENTS_MAX`] become the nearest
    /// of these two.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit.clamp(1, EVENTS_MAX);
        self
    }
}

/// A part of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// The events that match the filter, in the order of the feed.
    pub events: Vec<SettlementEvent>,
    /// Where to continue: behind the last event that was looked at, also if none matched.
    pub next: EventCursor,
    /// Whether the feed had more events behind `next`. If not, wait for
    /// [`NewEvents::changed`].
    pub has_more: bool,
}

/// Wakes readers when there are new events, for implementations of [`Journal`](crate::Journal).
#[derive(Debug, Clone)]
pub struct EventSignal(watch::Sender<()>);

impl Default for EventSignal {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}

impl EventSignal {
    /// Wakes all readers. Call it when new events can be read.
    pub fn wake(&self) {
        self.0.send_replace(());
    }

    /// A reader that wants to be woken.
    pub fn subscribe(&self) -> NewEvents {
        NewEvents(self.0.subscribe())
    }
}

/// Waits for new events; see [`Journal::new_events`](crate::Journal::new_events).
#[derive(Debug, Clone)]
pub struct NewEvents(watch::Receiver<()>);

impl NewEvents {
    /// Waits until there may be new events since the last call. It may return without a new one. It
    /// does not return after the journal was closed.
    ///
    /// Safe to cancel: the next call returns then what this one has not.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_read_as_it_is_written() {
        for kind in EventKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        let unknown = "open".parse::<EventKind>().unwrap_err();
        for kind in EventKind::ALL {
            assert!(unknown.to_string().contains(kind.as_str()), "{kind}");
        }
    }

    #[test]
    fn a_cursor_has_only_plain_characters() {
        for text in ["0", "17", "123-456", "a_b-C", &"9".repeat(48)] {
            let cursor: EventCursor = text.parse().unwrap();
            assert_eq!((cursor.to_string().as_str(), cursor.as_str()), (text, text));
        }
        for text in ["", " 1", "1\n", "1'", "é", "%31", "1.2", &"9".repeat(49)] {
            assert_eq!(
                text.parse::<EventCursor>(),
                Err(InvalidEventCursor),
                "{text}"
            );
        }
    }

    /// A wake-up between a read and the wait for the next one must not be lost.
    #[tokio::test]
    async fn a_reader_is_woken_for_what_came_before_it_waits() {
        let signal = EventSignal::default();
        let mut reader = signal.subscribe();
        signal.wake();
        reader.changed().await;
        let idle = tokio::time::timeout(std::time::Duration::from_millis(20), reader.changed());
        assert!(idle.await.is_err());
        signal.wake();
        reader.changed().await;
        drop(signal);
        let closed = tokio::time::timeout(std::time::Duration::from_millis(20), reader.changed());
        assert!(closed.await.is_err());
    }
}
