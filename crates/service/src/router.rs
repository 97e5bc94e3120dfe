//! The routes of the service: the specification's section 7, and paths for operators.

use std::sync::Arc;
use std::time::Duration;

use axum::error_handling::HandleErrorLayer;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Version};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{BoxError, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use quittance_core::Network;
use quittance_core::json::TEXT_MAX;
use quittance_engine::Engine;
use tower::util::MapRequestLayer;
use tower::{Layer, ServiceBuilder};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::error;

use crate::error::ErrorResponse;
use crate::gate::{self, Gate, Keys};
use crate::limits::{ServiceLimits, WAIT_MAX};
use crate::rate::{Rate, Rates};
use crate::server::Spare;
use crate::shares::Shares;
use crate::trace::trace;
use crate::{events, health, metrics, openapi, path, payments, settlements, unread};

/// The path that is answered under any load.
pub(crate) const HEALTH: &str = "/health";

/// The paths that take a payment.
pub(crate) const VERIFY: &str = "/verify";
pub(crate) const SETTLE: &str = "/settle";
pub(crate) const REFUNDS: &str = "/settlements/{id}/refunds";

/// The options of the service.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServiceOptions {
    /// The keys of the callers.
    pub keys: Keys,
    /// The rate of each address that sends no key; `None` for no limit. [`serve`](crate::serve)
    /// knows the addresses. Another server must add [`ConnectInfo`](axum::extract::ConnectInfo) to
    /// each request, or there is no limit. `/verify`, `/settle` and all other paths count
    /// separately.
    pub rate: Option<Rate>,
    /// The rate of each key; `None` for no limit. The paths count separately, as above.
    pub key_rate: Option<Rate>,
    /// The number of proxies in front of the service whose `X-Forwarded-For` is trusted.
    pub proxies: usize,
    /// The number of payments that are processed concurrently. Further callers are answered `busy`,
    /// and so is a caller that already has as many places as are free.
    pub requests_max: usize,
    /// The number of `/settle` requests that wait concurrently for their settlement. Shared between
    /// callers like `requests_max`.
    pub waiting_max: usize,
    /// The number of concurrent streams of events. Shared between callers like `requests_max`.
    pub streams_max: usize,
    /// The time limit for a request's body.
    pub body_max: Duration,
    /// The time limit for a request, its body included.
    pub request_max: Duration,
    /// The metrics of `GET /metrics`; `None` for no metrics.
    pub metrics: Option<PrometheusHandle>,
}

impl ServiceOptions {
    /// Options with the default limits, for callers with these keys.
    pub fn new(keys: Keys) -> Self {
        Self::with_limits(
            &ServiceLimits::default(),
            quittance_engine::SETTLE_WAIT,
            keys,
        )
    }

    /// Options that follow from these limits. `settle_wait` is how long the engine lets `POST
    /// /settle` wait for its settlement: the time limit of a request comes on top of it.
    pub fn with_limits(limits: &ServiceLimits, settle_wait: Duration, keys: Keys) -> Self {
        Self {
            keys,
            rate: limits.rate(),
            key_rate: limits.key_rate(),
            proxies: limits.proxies,
            requests_max: limits.requests,
            waiting_max: limits.waiting,
            streams_max: limits.streams,
            body_max: Duration::from_secs(limits.body_secs),
            request_max: settle_wait
                .min(WAIT_MAX)
                .saturating_add(Duration::from_secs(limits.request_secs)),
            metrics: None,
        }
    }
}

/// The state of all handlers.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) engine: Engine,
    pub(crate) keys: Keys,
    /// Places for payments that are being processed.
    pub(crate) working: Shares,
    /// Places for `/settle` requests, those that wait for their settlement included.
    pub(crate) waiting: Shares,
    /// Places for streams of events.
    pub(crate) streams: Shares,
    pub(crate) body_max: Duration,
    pub(crate) metrics: Option<PrometheusHandle>,
    pub(crate) networks: Arc<[Network]>,
}

/// The service, for [`serve`](crate::serve) or for a server of your own.
pub fn router(engine: Engine, options: ServiceOptions) -> Router {
    let members = {
        let engine = engine.clone();
        Arc::new(move || engine.members())
    };
    let rates = Rates::new(options.rate, options.key_rate, members);
    let gate = Gate::new(options.keys.clone(), rates, options.proxies);
    let networks = engine.health().into_iter().map(|(network, _)| network);
    let service = Service {
        networks: networks.collect(),
        engine,
        keys: options.keys,
        working: Shares::new(options.requests_max),
        waiting: Shares::new(options.waiting_max),
        streams: Shares::new(options.streams_max),
        body_max: options.body_max,
        metrics: options.metrics,
    };
    let timeout = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(|_: BoxError| async {
            ErrorResponse::timeout()
        }))
        .timeout(options.request_max);
    let routes = routes_with_key(&gate)
        .merge(health_route(&gate))
        .merge(open_routes(&gate))
        .layer(DefaultBodyLimit::max(TEXT_MAX))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(timeout)
        .layer(middleware::from_fn(only_health_on_spare))
        .layer(middleware::from_fn(unread::read_or_close))
        .layer(middleware::from_fn(trace))
        .with_state(service);
    // Paths are normalized before routing. A layer of the inner router would run after it.
    Router::new().fallback_service(MapRequestLayer::new(path::normalized).layer(routes))
}

/// Routes that need a key, if there are keys.
fn routes_with_key(gate: &Gate) -> Router<Service> {
    Router::new()
        .route(VERIFY, post(payments::verify))
        .route(SETTLE, post(payments::settle))
        .route("/settlements/{id}", get(settlements::by_id))
        .route(REFUNDS, post(payments::refund))
        .route("/settlements", get(settlements::by_transaction))
        .route("/events", get(events::stream))
        .method_not_allowed_fallback(method_not_allowed)
        .route_layer(middleware::from_fn_with_state(gate.clone(), gate::guard))
}

/// The route that is always answered, and with more detail for callers with a key.
fn health_route(gate: &Gate) -> Router<Service> {
    let count = middleware::from_fn_with_state(gate.clone(), gate::count_keys);
    Router::new()
        .route(HEALTH, get(health::health))
        .method_not_allowed_fallback(method_not_allowed)
        .route_layer(count)
}

/// Routes that need no key, and all unknown paths.
fn open_routes(gate: &Gate) -> Router<Service> {
    Router::new()
        .route("/supported", get(health::supported))
        .route("/metrics", get(metrics::render))
        .route("/openapi.json", get(openapi::render))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(unknown_path)
        .layer(middleware::from_fn_with_state(gate.clone(), gate::count))
}

async fn method_not_allowed() -> ErrorResponse {
    ErrorResponse::method_not_allowed()
}

async fn unknown_path() -> ErrorResponse {
    ErrorResponse::not_found("there is no such path; see /openapi.json")
}

/// On a spare connection only `/health` is answered, and only once. The other connections are
/// needed for payments.
async fn only_health_on_spare(request: Request, next: Next) -> Response {
    if request.extensions().get::<Spare>().is_none() {
        return next.run(request).await;
    }
    let is_http1 = request.version() <= Version::HTTP_11;
    let mut response = match request.uri().path() {
        HEALTH => next.run(request).await,
        _ => {
            metrics::count_shed();
            ErrorResponse::busy().into_response()
        }
    };
    if is_http1 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or(panic.downcast_ref::<&str>().copied());
    error!(what = message, "a request panicked");
    ErrorResponse::internal().into_response()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;

    #[test]
    fn limits_become_the_services_options() {
        let mut limits = ServiceLimits::default();
        (limits.requests, limits.waiting, limits.streams) = (3, 9, 6);
        (limits.body_secs, limits.request_secs) = (4, 5);
        (limits.per_minute, limits.burst) = (6, 2);
        (limits.key_per_minute, limits.key_burst) = (8, 7);
        limits.proxies = 1;
        let keys = Keys::new(&["sesame".into()]);
        let options = ServiceOptions::with_limits(&limits, Duration::from_secs(7), keys);
        assert!(!options.keys.allow(&HeaderMap::new()));
        let rate = options.rate.unwrap();
        assert_eq!((rate.per_minute.get(), rate.burst.get()), (6, 2));
        let rate = options.key_rate.unwrap();
        assert_eq!((rate.per_minute.get(), rate.burst.get()), (8, 7));
        assert_eq!((options.requests_max, options.waiting_max), (3, 9));
        assert_eq!(options.streams_max, 6);
        assert_eq!(options.proxies, 1);
        assert_eq!(options.body_max, Duration::from_secs(4));
        assert_eq!(options.request_max, Duration::from_secs(12));
    }
}
