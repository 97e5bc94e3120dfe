//! The feed of events. Triggers of the tables write the events, so that no change goes without one.

use async_trait::async_trait;
use quittance_core::{Timestamp, TransactionId};
use rusqlite::{Connection, Row, params};
use tracing::error;

use super::errors::{SqlError, invalid};
use super::rows::{integer, number, optional_text, parsed, payment_id, seconds, text, time};
use super::sql::{self, Query};
use super::store::Writer;
use crate::event::{EVENTS_MAX, EventCursor, EventFilter, Events, SettlementEvent};
use crate::group::Write;

/// How many events one answer looks at. A caller's own events may be rare among those of others; a
/// look at this many takes a few milliseconds.
const SCAN_MAX: u64 = 10_000;

/// The numbers of the oldest and the newest event. Events are numbered from 1 without a gap: only
/// the oldest ones are ever removed, and the newest one stays.
fn bounds(connection: &Connection) -> Result<Option<(u64, u64)>, SqlError> {
    let of_row = |row: &Row<'_>| {
        let bound = |index| row.get::<_, Option<i64>>(index)?.map(number).transpose();
        Ok(bound(0)?.zip(bound(1)?))
    };
    sql::one(
        connection,
        "SELECT (SELECT min(number) FROM events), (SELECT max(number) FROM events)",
        [],
        of_row,
    )
}

fn cursor(number: u64) -> EventCursor {
    let text = number.to_string().parse();
    text.expect("a number has at most 20 digits")
}

/// The number in a cursor of this kind of journal.
fn position(cursor: &EventCursor) -> Option<u64> {
    let number: u64 = cursor.as_str().parse().ok()?;
    (number.to_string() == cursor.as_str()).then_some(number)
}

/// The position behind the newest event.
pub(super) fn newest(connection: &Connection) -> Result<EventCursor, SqlError> {
    let bounds = bounds(connection)?;
    Ok(cursor(bounds.map_or(0, |(_, newest)| newest)))
}

/// The events behind a position. `None` if the feed does not have the position.
pub(super) fn read(
    connection: &Connection,
    filter: &EventFilter,
    after: Option<&EventCursor>,
) -> Result<Option<Events>, SqlError> {
    let moment = connection.unchecked_transaction()?;
    let (oldest, newest) = bounds(&moment)?.unwrap_or((1, 0));
    let after = match after {
        None => Some(oldest - 1),
        Some(cursor) => position(cursor).filter(|at| (oldest - 1..=newest).contains(at)),
    };
    let Some(after) = after else {
        return Ok(None);
    };
    let limit = filter.limit.clamp(1, EVENTS_MAX);
    let until = newest.min(after.saturating_add(SCAN_MAX));
    let found = listing(filter, after, until, limit).all(&moment, |row| {
        let number: u64 = number(row.get("number")?)?;
        Ok((number, event(row)))
    })?;
    moment.commit()?;
    let next = match found.last() {
        Some((number, _)) if found.len() == limit as usize => *number,
        _ => until,
    };
    let events = found.into_iter().map(|(_, event)| event);
    Ok(Some(Events {
        events: readable(events)?,
        next: cursor(next),
        has_more: next < newest,
    }))
}

fn listing(filter: &EventFilter, after: u64, until: u64, limit: u32) -> Query {
    let query = Query::new("SELECT * FROM events WHERE number > ", integer(after));
    let mut query = query.and(" AND number <= ", integer(until));
    if let Some(caller) = &filter.caller {
        query = query.and(" AND caller = ", caller.clone());
    }
    if let Some(network) = &filter.network {
        query = query.and(" AND network = ", network.clone());
    }
    query.and(" ORDER BY number LIMIT ", limit)
}

/// The events that can be read. One that cannot must not stop the feed.
fn readable(
    found: impl Iterator<Item = Result<SettlementEvent, SqlError>>,
) -> Result<Vec<SettlementEvent>, SqlError> {
    let mut events = Vec::new();
    for event in found {
        match event {
            Ok(event) => events.push(event),
            Err(error) if error.concerns_one_entry() => {
                error!(%error, "skipped an event that cannot be read");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(events)
}

fn event(row: &Row<'_>) -> Result<SettlementEvent, SqlError> {
    let kind = text(row, "kind")?;
    Ok(SettlementEvent {
        cursor: cursor(number(row.get("number")?)?),
        settlement: payment_id(row, "settlement")?,
        attempt: row.get("attempt")?,
        kind: kind.parse().map_err(|error| invalid(&format!("{error}")))?,
        transaction: optional_text(row, "transaction_id")?.map(TransactionId::new),
        network: row.get("network")?,
        caller: row.get("caller")?,
        at: time(row.get("at")?)?,
    })
}

/// The position that a reader has saved.
pub(super) fn saved(
    connection: &Connection,
    reader: &str,
) -> Result<Option<EventCursor>, SqlError> {
    sql::optional(
        connection,
        "SELECT cursor FROM event_readers WHERE name = ?1",
        params![reader],
        |row| parsed(row, "cursor"),
    )
}

/// [`Journal::save_event_cursor`](crate::Journal::save_event_cursor).
pub(super) struct SaveCursor {
    pub(super) reader: String,
    pub(super) cursor: EventCursor,
}

#[async_trait]
impl Write<Writer> for SaveCursor {
    type Answer = ();

    async fn execute(&self, connection: &mut Connection) -> Result<(), SqlError> {
        sql::execute(
            connection,
            "INSERT INTO event_readers (name, cursor) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET cursor = excluded.cursor",
            params![&self.reader, self.cursor.as_str()],
        )?;
        Ok(())
    }
}

/// [`Journal::remove_events`](crate::Journal::remove_events).
pub(super) struct RemoveEvents {
    pub(super) before: Timestamp,
    pub(super) limit: u32,
}

#[async_trait]
impl Write<Writer> for RemoveEvents {
    type Answer = u64;

    async fn execute(&self, connection: &mut Connection) -> Result<u64, SqlError> {
        // A clock that was set back leaves a newer time before an older one. Only the events before
        // the first newer time go, so that the rest has no gap.
        let removed = sql::execute(
            connection,
            "WITH oldest AS (SELECT number, at FROM events ORDER BY number LIMIT ?2)
             DELETE FROM events WHERE number IN (SELECT number FROM oldest)
                 AND number < coalesce((SELECT min(number) FROM oldest WHERE at >= ?1), ?3)
                 AND number < (SELECT max(number) FROM events)",
            params![seconds(self.before), self.limit, i64::MAX],
        )?;
        Ok(removed as u64)
    }
}
