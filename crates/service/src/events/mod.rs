//! `GET /events`: the changes of the caller's settlements, as server-sent events.
//!
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html>

#![allow(
    unused_qualifications,
    reason = "the code that utoipa generates has them"
)]

mod hold;
mod reader;

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State as AxumState};
use axum::http::HeaderValue;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use quittance_core::RequestCaller;
use quittance_engine::{EventCursor, EventFilter, EventKind, JournalError, SettlementEvent};
use serde::{Deserialize, Serialize};
use tracing::warn;
use utoipa::{IntoParams, ToSchema};

use self::hold::{Hold, held};
use self::reader::Reader;
use crate::error::ErrorResponse;
use crate::openapi::{CursorErrors, LookupErrors, NotFound};
use crate::rate::Caller;
use crate::router::Service;
use crate::server::{Busy, Stopping};
use crate::settlements::SettlementBody;

/// The header in which a client that resumes names the last event it got.
const LAST_EVENT_ID: &str = "last-event-id";

/// The value of `after` for the oldest event that there is.
const OLDEST: &str = "oldest";

/// How often a comment is sent while there is no event. Proxies close connections that are silent
/// for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long a client waits before it connects again: after a restart, all clients do so at once.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// One change of a settlement.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SettlementEvent)]
pub(crate) struct EventBody {
    /// The position right behind this event, for `after`. The same event always has the same id.
    id: String,
    /// What happened.
    event: EventName,
    /// The id of the settlement.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    settlement: String,
    /// The number of the attempt, from 1.
    attempt: u32,
    /// The CAIP-2 identifier of the network.
    network: String,
    /// The transaction that was signed, that decided the attempt, or that the chain removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    transaction: Option<String>,
    /// When it happened, in seconds since 1970.
    at: u64,
    /// The settlement as it is now, which may be later than this event. Absent if the operator has
    /// moved it out of the journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    now: Option<SettlementBody>,
}

/// What happened. `claimed`: an attempt began. `signed`: a transaction was signed for it, and is
/// sent next. `settled`, `failed`, `released`, `lost`: it ended in this state. `reopened`: the
/// chain removed the payment, and it is sent again. `reported`: `success: true` was answered for
/// the first time. `final`: the payment's block is final.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventKind)]
enum EventName {
    Claimed,
    Signed,
    Settled,
    Failed,
    Released,
    Lost,
    Reopened,
    Reported,
    Final,
}

impl From<EventKind> for EventName {
    fn from(kind: EventKind) -> Self {
        match kind {
            EventKind::Claimed => Self::Claimed,
            EventKind::Signed => Self::Signed,
            EventKind::Settled => Self::Settled,
            EventKind::Failed => Self::Failed,
            EventKind::Released => Self::Released,
            EventKind::Lost => Self::Lost,
            EventKind::Reopened => Self::Reopened,
            EventKind::Reported => Self::Reported,
            EventKind::Final => Self::Final,
        }
    }
}

impl EventBody {
    pub(crate) fn new(event: SettlementEvent, now: Option<SettlementBody>) -> Self {
        Self {
            id: event.cursor.to_string(),
            event: event.kind.into(),
            settlement: event.settlement.to_string(),
            attempt: event.attempt,
            network: event.network,
            transaction: event.transaction.map(|id| id.to_string()),
            at: event.at.secs(),
            now,
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// The id of the last event that the client has, or `oldest`. Without it, the stream begins
    /// with the next event. The header `Last-Event-ID` has precedence.
    after: Option<String>,
}

/// Where a stream begins.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    Oldest,
    Newest,
    After(EventCursor),
}

impl Start {
    /// Reads the header of a client that resumes, else the query.
    fn read(header: Option<&HeaderValue>, query: Option<&str>) -> Result<Self, ErrorResponse> {
        let header = header.filter(|value| !value.is_empty());
        let invalid = |field, message: &'static str| ErrorResponse::bad_request(field, message);
        let (field, text) = match (header, query) {
            (Some(value), _) => {
                let text = value.to_str();
                let text = text.map_err(|_| invalid("Last-Event-ID", "the id is not text"))?;
                ("Last-Event-ID", text)
            }
            (None, Some(text)) => ("after", text),
            (None, None) => return Ok(Self::Newest),
        };
        if text == OLDEST {
            return Ok(Self::Oldest);
        }
        let cursor = text.parse();
        let message = "not the id of an event: pass the id of the last event unchanged";
        cursor.map(Self::After).map_err(|_| invalid(field, message))
    }
}

/// The changes of the settlements that the caller's key has claimed, as server-sent events. The
/// field `event` is the kind, `id` the position, and `data` this JSON. Each event comes at least
/// once, and the events of one settlement come in order.
#[utoipa::path(
    get,
    path = "/events",
    security(("key" = [])),
    params(EventsQuery),
    responses(
        (status = 200, description = "The stream.", body = EventBody, content_type = "text/event-stream"),
        NotFound,
        CursorErrors,
        LookupErrors,
    ),
)]
pub(crate) async fn stream(
    AxumState(service): AxumState<Service>,
    query: Result<Query<EventsQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, ErrorResponse> {
    let caller = request.extensions().get().copied();
    let filter = own_events(&service, caller)?;
    let after = match query {
        Ok(Query(query)) => query.after,
        Err(_) => return Err(ErrorResponse::bad_request("after", "unreadable query")),
    };
    let start = Start::read(request.headers().get(LAST_EVENT_ID), after.as_deref())?;
    let share = service.streams.enter(caller).ok_or_else(|| {
        crate::metrics::count_shed();
        ErrorResponse::busy()
    })?;
    let stopping = request.extensions().get::<Stopping>().cloned();
    let feed = service.engine.feed().clone();
    let reader = Reader::start(feed, filter, start, stopping).await;
    let reader = reader.map_err(|error| match error {
        JournalError::UnknownCursor => ErrorResponse::unknown_cursor(),
        error => {
            warn!(%error, "a stream of events does not start");
            ErrorResponse::from(quittance_core::Fault::from(error))
        }
    })?;
    let busy = request.extensions().get::<Busy>().cloned();
    let stream = held(reader.into_stream(), Hold::new(share, busy));
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(stream).keep_alive(keep_alive).into_response();
    // nginx would otherwise collect the events in its buffer.
    let unbuffered = HeaderValue::from_static("no");
    response
        .headers_mut()
        .insert("x-accel-buffering", unbuffered);
    Ok(response)
}

/// The events of the settlements that this caller has claimed.
fn own_events(service: &Service, caller: Option<Caller>) -> Result<EventFilter, ErrorResponse> {
    let name = match caller {
        Some(Caller::Key(at)) => service.keys.name(at),
        _ => None,
    };
    let name = name.and_then(|name| RequestCaller::Known(name.into()).to_text());
    let name = name.ok_or_else(|| {
        ErrorResponse::not_found("this facilitator has no keys, so no events belong to a caller")
    })?;
    Ok(EventFilter::new().caller(name))
}

/// An event in the format of a stream.
fn sent(body: &EventBody, kind: EventKind) -> Event {
    let event = Event::default().id(&body.id).event(kind.as_str());
    let data = serde_json::to_string(body);
    // JSON of these types has no line breaks, and cannot fail.
    event.data(data.expect("a body of plain fields"))
}

/// Only a position, which a client then resumes from.
fn position(cursor: &EventCursor) -> Event {
    Event::default().id(cursor.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_resumes_by_header_then_by_query() {
        let read = |header: Option<&'static str>, query: Option<&str>| {
            let header = header.map(HeaderValue::from_static);
            Start::read(header.as_ref(), query)
        };
        let after = |text: &str| Start::After(text.parse().unwrap());
        assert_eq!(read(None, None).unwrap(), Start::Newest);
        assert_eq!(read(Some(""), None).unwrap(), Start::Newest);
        assert_eq!(read(None, Some("oldest")).unwrap(), Start::Oldest);
        assert_eq!(read(None, Some("17")).unwrap(), after("17"));
        assert_eq!(read(Some("18"), Some("17")).unwrap(), after("18"));
        for (header, query) in [
            (Some("1 8"), None),
            (Some("1'8"), Some("17")),
            (None, Some("")),
            (None, Some("a\nb")),
        ] {
            assert!(read(header, query).is_err(), "{header:?} {query:?}");
        }
    }

    #[test]
    fn every_kind_has_the_journals_name() {
        for kind in EventKind::ALL {
            let name = serde_json::to_string(&EventName::from(kind)).unwrap();
            assert_eq!(name, format!("\"{kind}\""));
        }
    }
}
