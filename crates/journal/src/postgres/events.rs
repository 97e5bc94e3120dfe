//! The feed of events. Triggers of the tables write the events, so that no change goes without one.

use async_trait::async_trait;
use quittance_core::{Timestamp, TransactionId};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Postgres, QueryBuilder, Row};
use tracing::error;

use super::errors::concerns_one_entry;
use super::reads::MOMENT;
use super::rows::{integer, number, payment_id, seconds, time};
use super::store::Writer;
use crate::event::{EVENTS_MAX, EventCursor, EventFilter, Events, SettlementEvent};
use crate::group::Write;

/// How many events one answer looks at. A caller's own events may be rare among those of others; a
/// look at this many takes a few milliseconds.
const SCAN_MAX: u64 = 10_000;

/// The numbers of the oldest and the newest event. Events are numbered from 1 without a gap: only
/// the oldest ones are ever removed, and the newest one stays.
async fn bounds(connection: &mut PgConnection) -> Result<Option<(u64, u64)>, sqlx::Error> {
    let (oldest, newest): (Option<i64>, Option<i64>) =
        sqlx::query_as("SELECT (SELECT min(number) FROM events), (SELECT max(number) FROM events)")
            .fetch_one(connection)
            .await?;
    let (oldest, newest) = (
        oldest.map(number).transpose()?,
        newest.map(number).transpose()?,
    );
    Ok(oldest.zip(newest))
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
pub(super) async fn newest(connection: &mut PgConnection) -> Result<EventCursor, sqlx::Error> {
    let bounds = bounds(connection).await?;
    Ok(cursor(bounds.map_or(0, |(_, newest)| newest)))
}

/// The events behind a position. `None` if the feed does not have the position.
pub(super) async fn read(
    connection: &mut PgConnection,
    filter: &EventFilter,
    after: Option<&EventCursor>,
) -> Result<Option<Events>, sqlx::Error> {
    let mut moment = connection.begin_with(MOMENT).await?;
    let (oldest, newest) = bounds(&mut moment).await?.unwrap_or((1, 0));
    let after = match after {
        None => Some(oldest - 1),
        Some(cursor) => position(cursor).filter(|at| (oldest - 1..=newest).contains(at)),
    };
    let Some(after) = after else {
        return Ok(None);
    };
    let limit = filter.limit.clamp(1, EVENTS_MAX);
    let until = newest.min(after.saturating_add(SCAN_MAX));
    let rows = listing(filter, after, until, limit)
        .build()
        .fetch_all(&mut *moment)
        .await?;
    moment.commit().await?;
    let next = match rows.last() {
        Some(last) if rows.len() == limit as usize => number(last.try_get("number")?)?,
        _ => until,
    };
    Ok(Some(Events {
        events: readable(&rows)?,
        next: cursor(next),
        has_more: next < newest,
    }))
}

fn listing(filter: &EventFilter, after: u64, until: u64, limit: u32) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new("SELECT * FROM events WHERE number > ");
    query.push_bind(integer(after));
    query.push(" AND number <= ").push_bind(integer(until));
    if let Some(caller) = &filter.caller {
        query.push(" AND caller = ").push_bind(caller);
    }
    if let Some(network) = &filter.network {
        query.push(" AND network = ").push_bind(network);
    }
    query
        .push(" ORDER BY number LIMIT ")
        .push_bind(i64::from(limit));
    query
}

/// The events in these rows. One that cannot be read must not stop the feed.
fn readable(rows: &[PgRow]) -> Result<Vec<SettlementEvent>, sqlx::Error> {
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        match event(row) {
            Ok(event) => events.push(event),
            Err(error) if concerns_one_entry(&error) => {
                error!(%error, "skipped an event that cannot be read");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(events)
}

fn event(row: &PgRow) -> Result<SettlementEvent, sqlx::Error> {
    let kind: &str = row.try_get("kind")?;
    let unknown = |error| sqlx::Error::Decode(Box::new(error));
    let transaction: Option<&str> = row.try_get("transaction_id")?;
    Ok(SettlementEvent {
        cursor: cursor(number(row.try_get("number")?)?),
        settlement: payment_id(row, "settlement")?,
        attempt: number(row.try_get("attempt")?)?,
        kind: kind.parse().map_err(unknown)?,
        transaction: transaction.map(TransactionId::new),
        network: row.try_get("network")?,
        caller: row.try_get("caller")?,
        at: time(row.try_get("at")?)?,
    })
}

/// The position that a reader has saved.
pub(super) async fn saved(
    connection: &mut PgConnection,
    reader: &str,
) -> Result<Option<EventCursor>, sqlx::Error> {
    let saved: Option<String> =
        sqlx::query_scalar("SELECT cursor FROM event_readers WHERE name = $1")
            .bind(reader)
            .fetch_optional(connection)
            .await?;
    let parsed = saved.map(|text| text.parse()).transpose();
    parsed.map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// [`Journal::save_event_cursor`](crate::Journal::save_event_cursor).
pub(super) struct SaveCursor {
    pub(super) reader: String,
    pub(super) cursor: EventCursor,
}

#[async_trait]
impl Write<Writer> for SaveCursor {
    type Answer = ();

    async fn execute(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO event_readers (name, cursor) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET cursor = excluded.cursor",
        )
        .bind(&self.reader)
        .bind(self.cursor.as_str())
        .execute(connection)
        .await?;
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

    async fn execute(&self, connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
        // A clock that was set back leaves a newer time before an older one. Only the events before
        // the first newer time go, so that the rest has no gap.
        let removed = sqlx::query(
            "WITH oldest AS (SELECT number, at FROM events ORDER BY number LIMIT $2)
             DELETE FROM events WHERE number IN (SELECT number FROM oldest)
                 AND number < coalesce((SELECT min(number) FROM oldest WHERE at >= $1), $3)
                 AND number < (SELECT max(number) FROM events)",
        )
        .bind(seconds(self.before))
        .bind(i64::from(self.limit))
        .bind(i64::MAX)
        .execute(connection)
        .await?;
        Ok(removed.rows_affected())
    }
}
