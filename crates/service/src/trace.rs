//! A request id, a log line and a sample for each answer.

use axum::extract::{MatchedPath, Request};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug, info, info_span};

use crate::error::ErrorCode;
use crate::metrics;
use crate::router::HEALTH;

/// The header with the request's id. The service makes the id: with an id of its own, a caller
/// could forge log lines.
const REQUEST_ID: &str = "x-request-id";

/// How many characters of an unknown path are logged: enough to recognise a client's mistake.
const PATH_SHOWN_MAX: usize = 64;

/// Gives each request and its log lines an id. Logs and counts each answer.
pub(crate) async fn trace(request: Request, next: Next) -> Response {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let log = RequestLog::new(&request);
    let span = log.span(&id, request.uri().path());
    let mut response = next.run(request).instrument(span.clone()).await;
    span.in_scope(|| log.record(&response));
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    // An answer is for its caller alone, and it can change at any time.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What is logged and counted of a request. Each part is from a bounded set, whatever callers send.
struct RequestLog {
    /// `None` for an unknown path.
    route: Option<String>,
    method: &'static str,
    started: Instant,
}

impl RequestLog {
    fn new(request: &Request) -> Self {
        let route = request.extensions().get::<MatchedPath>();
        let method = match *request.method() {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::OPTIONS => "OPTIONS",
            _ => "other",
        };
        Self {
            route: route.map(|path| path.as_str().to_owned()),
            method,
            started: Instant::now(),
        }
    }

    /// The span of all log lines about this request. It has the route and not the caller's path,
    /// which may have 15 KiB; only the beginning of an unknown path is shown.
    fn span(&self, id: &str, path: &str) -> Span {
        let span = info_span!(
            "request",
            request_id = id,
            method = self.method,
            path = Empty
        );
        match &self.route {
            Some(route) => span.record("path", route.as_str()),
            None => span.record("path", beginning(path).as_str()),
        };
        span
    }

    fn record(self, response: &Response) {
        let status = response.status();
        let error = response.extensions().get().map(|ErrorCode(code)| *code);
        let took = self.started.elapsed();
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        // Successful payments have log lines of their own. Health is asked every few seconds, and
        // its problems are logged once. Rate-limited requests are logged as a sum.
        let is_health = self.route.as_deref() == Some(HEALTH);
        if status.is_success() || status == StatusCode::TOO_MANY_REQUESTS || is_health {
            debug!(status = status.as_u16(), ms, "answered");
        } else {
            info!(status = status.as_u16(), error, ms, "answered");
        }
        let route = self.route.as_deref().unwrap_or("other");
        metrics::count_answer(route, self.method, status.as_u16(), took);
    }
}

/// The beginning of a path, without control characters.
fn beginning(path: &str) -> String {
    let plain = quittance_core::printable(path);
    plain.chars().take(PATH_SHOWN_MAX).collect()
}
