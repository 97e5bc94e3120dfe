//! The HTTP service: the specification's section 7, and what operators need.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::error_handling::HandleErrorLayer;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, MatchedPath, Path, Query, Request, State};
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{BoxError, Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use quittance_core::json::TEXT_MAX;
use quittance_core::wire::{SettleResponse, VerifyResponse, network_named};
use quittance_core::{
    Facilitator, FacilitatorError, Malformed, Network, PaymentId, PaymentRequest,
    Problem as HealthProblem, Rejection, Scope, TransactionId,
};
use quittance_engine::Engine;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tower::util::MapRequestLayer;
use tower::{Layer, ServiceBuilder};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug, error, info, info_span, warn};

use crate::delivery;
use crate::gate::{self, Door, Keys};
use crate::limits::{ServiceLimits, WAIT_MAX};
use crate::path;
use crate::problem::{Endpoint, ErrorCode, Problem, SettlementState};
use crate::rate::{Caller, Rate, Rates};
use crate::server::Spare;
use crate::shares::{Share, Shares};
use crate::unread;

/// The description of this interface.
const OPENAPI: &str = include_str!("../openapi.json");

/// The request's id, given by us: a caller's own could forge lines of our log.
const REQUEST_ID: &str = "x-request-id";

/// The path that is answered whatever else is going on.
const HEALTH: &str = "/health";

/// How much of a path that does not exist is logged, in characters: enough to see a client's mistake.
const PATH_SHOWN_MAX: usize = 64;

/// What the service needs besides an engine.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// Who may call.
    pub keys: Keys,
    /// How often each address may ask that shows no key; `None` for as often as it likes. Addresses are what
    /// [`serve`](crate::serve) knows; another server has to say them by [`ConnectInfo`](axum::extract::ConnectInfo), or they
    /// are not limited. /verify, /settle and everything else are counted apart.
    pub rate: Option<Rate>,
    /// How often each key may ask; `None` for as often as it likes. Counted apart as above.
    pub key_rate: Option<Rate>,
    /// How many proxies stand in front and write `X-Forwarded-For`, which is believed that far.
    pub proxies: usize,
    /// How many payments are worked on at once. Beyond it callers are answered `busy`, and a caller that holds as many
    /// places as are still free is answered so before.
    pub requests_max: usize,
    /// How many calls of /settle wait at once for their settlement. Shared out like `requests_max`.
    pub waiting_max: usize,
    /// How long a request's body may take to arrive.
    pub body_max: Duration,
    /// How long one request may take.
    pub request_max: Duration,
    /// Where `GET /metrics` reads.
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
            body_max: Duration::from_secs(limits.body_secs),
            request_max: settle_wait
                .min(WAIT_MAX)
                .saturating_add(Duration::from_secs(limits.request_secs)),
            metrics: None,
        }
    }
}

#[derive(Clone)]
struct Service {
    engine: Engine,
    keys: Keys,
    /// Places for payments that are worked on.
    working: Shares,
    /// Places for calls of /settle, waiting included.
    waiting: Shares,
    body_max: Duration,
    metrics: Option<PrometheusHandle>,
    networks: Arc<[Network]>,
}

/// The service, to be served by [`serve`](crate::serve) or mounted in a server of your own.
pub fn router(engine: Engine, options: ServiceOptions) -> Router {
    let rates = Rates::new(options.rate, options.key_rate);
    let door = Door::new(options.keys.clone(), rates, options.proxies);
    let networks = engine.health().into_iter().map(|(network, _)| network);
    let service = Service {
        networks: networks.collect(),
        engine,
        keys: options.keys,
        working: Shares::new(options.requests_max),
        waiting: Shares::new(options.waiting_max),
        body_max: options.body_max,
        metrics: options.metrics,
    };
    let timeout = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(|_: BoxError| async {
            Problem::timeout()
        }))
        .timeout(options.request_max);
    let routes = guarded(&door)
        .merge(telling(&door))
        .merge(open(&door))
        .layer(DefaultBodyLimit::max(TEXT_MAX))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(timeout)
        .layer(middleware::from_fn(health_alone_when_full))
        .layer(middleware::from_fn(unread::read_or_close))
        .layer(middleware::from_fn(trace))
        .with_state(service);
    // Before routing, which a layer of the router's own would come after.
    Router::new().fallback_service(MapRequestLayer::new(path::normalized).layer(routes))
}

/// What needs a key, where there are keys.
fn guarded(door: &Door) -> Router<Service> {
    Router::new()
        .route("/verify", post(verify))
        .route("/settle", post(settle))
        .route("/settlements/{id}", get(settlement))
        .route("/settlements", get(settlements_of))
        .method_not_allowed_fallback(other_methods)
        .route_layer(middleware::from_fn_with_state(door.clone(), gate::guard))
}

/// What is always answered, and says more to those with a key.
fn telling(door: &Door) -> Router<Service> {
    let count = middleware::from_fn_with_state(door.clone(), gate::count_keys);
    Router::new()
        .route(HEALTH, get(health))
        .method_not_allowed_fallback(other_methods)
        .route_layer(count)
}

/// What needs no key, and what does not exist.
fn open(door: &Door) -> Router<Service> {
    let description = || async { ([(CONTENT_TYPE, "application/json")], OPENAPI) };
    Router::new()
        .route("/supported", get(supported))
        .route("/metrics", get(render_metrics))
        .route("/openapi.json", get(description))
        .method_not_allowed_fallback(other_methods)
        .fallback(|| async { Problem::not_found("there is no such path; see /openapi.json") })
        .layer(middleware::from_fn_with_state(door.clone(), gate::count))
}

async fn other_methods() -> Problem {
    Problem::method_not_allowed()
}

/// On a connection that was taken although there are too many, only `/health` is answered, and only once; the others are needed
/// for payments.
async fn health_alone_when_full(request: Request, next: Next) -> Response {
    if request.extensions().get::<Spare>().is_none() {
        return next.run(request).await;
    }
    let is_http1 = request.version() <= Version::HTTP_11;
    let mut response = match request.uri().path() {
        HEALTH => next.run(request).await,
        _ => {
            shed();
            Problem::busy().into_response()
        }
    };
    if is_http1 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

fn shed() {
    metrics::counter!("quittance_requests_shed_total").increment(1);
}

impl Service {
    /// A place among these. Only payments need one: whoever asks how the service is must be answered when it has too much to
    /// do.
    fn place(shares: &Shares, caller: Option<Caller>) -> Result<Share, Problem> {
        shares.enter(caller).ok_or_else(|| {
            shed();
            Problem::busy()
        })
    }

    /// The network of a request by our own name for it; those that are not served share one. What callers write is not logged
    /// and not counted by: it may be anything, and 60 KiB of it.
    fn network(&self, request: &PaymentRequest) -> String {
        let asked = &request.requirements.network;
        let known = self.networks.iter().find(|network| network.is(asked));
        known.map_or_else(|| "other".to_owned(), |network| network.id().to_owned())
    }

    /// A request that was read, or what the caller is told. Holds no slot: a body that comes slowly keeps nobody out.
    async fn read(
        &self,
        request: Request,
        endpoint: Endpoint,
    ) -> Result<Result<PaymentRequest, Refused>, Problem> {
        if !may_be_json(request.headers()) {
            return Err(Problem::unsupported_media_type());
        }
        let body = timeout(self.body_max, Bytes::from_request(request, &()))
            .await
            .map_err(|_| Problem::body_timeout())?
            .map_err(|rejection| unreceived(&rejection, endpoint))?;
        match PaymentRequest::decode(&body) {
            Ok(request) => Ok(Ok(request)),
            Err(refusal) => {
                let network = network_named(&body).unwrap_or_default();
                match endpoint.refuse(refusal) {
                    Ok(rejection) => Ok(Err(Refused { rejection, network })),
                    Err(problem) => Err(problem.on_network(&network)),
                }
            }
        }
    }
}

/// A request with a verdict against it by its message alone, and the network that it names.
struct Refused {
    rejection: Rejection,
    network: String,
}

/// A missing type is forgiven; a wrong one is a form or worse. A type's name has no case, and may have parameters behind it.
fn may_be_json(headers: &HeaderMap) -> bool {
    let is_json = |value: &HeaderValue| {
        let essence = value.to_str().unwrap_or_default().split(';').next();
        essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
    };
    headers.get(CONTENT_TYPE).is_none_or(is_json)
}

fn unreceived(rejection: &BytesRejection, endpoint: Endpoint) -> Problem {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large(),
        _ => Problem::malformed(&Malformed::new("body", "was not received whole"), endpoint),
    }
}

async fn verify(
    State(service): State<Service>,
    request: Request,
) -> Result<Json<VerifyResponse>, Problem> {
    let endpoint = Endpoint::Verify;
    let caller = request.extensions().get().copied();
    let request = match service.read(request, endpoint).await? {
        Ok(request) => request,
        Err(refused) => return Ok(Json(VerifyResponse::invalid(&refused.rejection, None))),
    };
    let _working = Service::place(&service.working, caller)?;
    let started = Instant::now();
    let answer = service.engine.verify(&request).await;
    let result = match &answer {
        Ok(verdict) if verdict.is_valid => "valid",
        Ok(verdict) => verdict.invalid_reason.as_deref().unwrap_or("invalid"),
        Err(error) => error_code(error),
    };
    let network = service.network(&request);
    observe(endpoint, &network, result, started);
    info!(
        result,
        network,
        payer = answer
            .as_ref()
            .ok()
            .and_then(|verdict| verdict.payer.as_deref()),
        "verify"
    );
    answer.map(Json).map_err(|error| problem(endpoint, error))
}

async fn settle(State(service): State<Service>, request: Request) -> Result<Response, Problem> {
    let endpoint = Endpoint::Settle;
    let caller = request.extensions().get().copied();
    let request = match service.read(request, endpoint).await? {
        Ok(request) => request,
        Err(Refused { rejection, network }) => {
            let refused = SettleResponse::failed(&network, &rejection, None, "");
            return Ok(Json(refused).into_response());
        }
    };
    let _waiting = Service::place(&service.waiting, caller)?;
    let working = Service::place(&service.working, caller)?;
    let started = Instant::now();
    let answer = service.engine.settle_with_permit(&request, working).await;
    let result = match &answer {
        Ok(outcome) if outcome.success => "settled",
        Ok(outcome) => outcome.error_reason.as_deref().unwrap_or("failed"),
        Err(error) => error_code(error),
    };
    let network = service.network(&request);
    observe(endpoint, &network, result, started);
    let told = answer.as_ref().ok();
    info!(
        result,
        network,
        payer = told.and_then(|outcome| outcome.payer.as_deref()),
        transaction = told.map(|outcome| outcome.transaction.as_str()),
        "settle"
    );
    match answer {
        Ok(outcome) => Ok(delivery::settled(&service.engine, outcome)),
        Err(error) => Err(problem(endpoint, error).on_network(&request.requirements.network)),
    }
}

async fn supported(State(service): State<Service>) -> Result<Response, Problem> {
    let supported = service
        .engine
        .supported()
        .await
        .map_err(|error| problem(Endpoint::Verify, error))?;
    Ok(Json(supported).into_response())
}

async fn settlement(
    State(service): State<Service>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let id: PaymentId = id
        .ok()
        .and_then(|Path(id)| id.parse().ok())
        .ok_or_else(|| {
            Problem::not_found("not a settlement's id; by transaction: /settlements?transaction=…")
        })?;
    let found = service
        .engine
        .settlement(&id)
        .await
        .map_err(Problem::from)?;
    let found = found.ok_or_else(|| Problem::not_found("no such settlement"))?;
    Ok(Json(SettlementState::from(found)).into_response())
}

#[derive(Deserialize)]
struct OfTransaction {
    transaction: String,
}

async fn settlements_of(
    State(service): State<Service>,
    of: Result<Query<OfTransaction>, QueryRejection>,
) -> Result<Response, Problem> {
    let named = of.ok().filter(|Query(of)| !of.transaction.is_empty());
    let Query(of) = named.ok_or_else(|| {
        Problem::bad_request("transaction", "say which: /settlements?transaction=…")
    })?;
    let found = service
        .engine
        .settlements_of(&TransactionId::new(&of.transaction))
        .await
        .map_err(Problem::from)?;
    let states: Vec<SettlementState> = found.into_iter().map(Into::into).collect();
    Ok(Json(json!({ "settlements": states })).into_response())
}

/// How the service is: 200 while anything can be settled, 503 when nothing can. What exactly is wrong is for those who
/// may call.
async fn health(State(service): State<Service>, headers: HeaderMap) -> Result<Response, Problem> {
    let supported = service.engine.supported().await;
    let supported = supported.map_err(|error| problem(Endpoint::Verify, error))?;
    let detailed = service.keys.allow(&headers);
    let mut clean = true;
    let mut networks = Vec::new();
    for (network, health) in service.engine.health() {
        let works = supported.kinds.iter().any(|kind| network.is(&kind.network));
        clean &= health.problems.is_empty();
        let mut told = json!({ "network": network.id(), "works": works });
        if detailed {
            told["problems"] = health.problems.iter().map(told_problem).collect();
        }
        networks.push(told);
    }
    let (status, word) = match (supported.kinds.is_empty(), clean) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "down"),
        (false, false) => (StatusCode::OK, "degraded"),
        (false, true) => (StatusCode::OK, "ok"),
    };
    let journal = service.engine.journal_problem();
    let mut body =
        json!({ "status": word, "journal": { "works": journal.is_none() }, "networks": networks });
    if detailed {
        if let Some(problem) = journal {
            body["journal"]["problem"] = json!(problem);
        }
        body["inProgress"] = json!(service.engine.in_progress());
    }
    Ok((status, Json(body)).into_response())
}

fn told_problem(problem: &HealthProblem) -> Value {
    json!({ "concerns": concerns(&problem.scope), "problem": problem.what })
}

fn concerns(scope: &Scope) -> String {
    match scope {
        Scope::Network => "network".to_owned(),
        Scope::Asset(asset) => format!("asset {asset}"),
        Scope::Lane(lane) => format!("signer {lane}"),
        Scope::Advisory => "nothing yet".to_owned(),
    }
}

async fn render_metrics(State(service): State<Service>) -> Result<Response, Problem> {
    let metrics = service
        .metrics
        .ok_or_else(|| Problem::not_found("metrics are not recorded"))?;
    metrics::gauge!("quittance_settlements_in_progress").set(service.engine.in_progress() as f64);
    Ok((
        [(CONTENT_TYPE, "text/plain; version=0.0.4")],
        metrics.render(),
    )
        .into_response())
}

fn error_code(error: &FacilitatorError) -> &'static str {
    match error {
        FacilitatorError::Malformed(_) => "invalid_payload",
        FacilitatorError::Fault(fault) => fault.kind.code(),
    }
}

fn problem(endpoint: Endpoint, error: FacilitatorError) -> Problem {
    if let FacilitatorError::Fault(fault) = &error {
        warn!(%fault, "no verdict");
    }
    endpoint.problem(error)
}

/// Counts an answer and how long it took. The labels are our own words and a bounded set.
fn observe(endpoint: Endpoint, network: &str, result: &str, started: Instant) {
    let labels = [
        ("endpoint", endpoint.name().to_owned()),
        ("network", network.to_owned()),
    ];
    metrics::histogram!("quittance_request_seconds", &labels)
        .record(started.elapsed().as_secs_f64());
    let [endpoint, network] = labels;
    metrics::counter!(
        "quittance_requests_total",
        &[endpoint, network, ("result", result.to_owned())]
    )
    .increment(1);
}

/// Gives each request an id, and each log line of it; logs and counts each answer.
async fn trace(request: Request, next: Next) -> Response {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let asked = Asked::of(&request);
    let span = asked.span(&id, request.uri().path());
    let mut response = next.run(request).instrument(span.clone()).await;
    span.in_scope(|| asked.answered(&response));
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    // No answer of a facilitator is anybody else's.
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What is counted of a request: of each part there are few, whatever callers send.
struct Asked {
    /// `None` for a path that does not exist.
    route: Option<String>,
    method: &'static str,
    at: Instant,
}

impl Asked {
    fn of(request: &Request) -> Self {
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
            at: Instant::now(),
        }
    }

    /// The span of all log lines about this request. It has our own name of the path: a caller may write anything, and 15 KiB
    /// of it. Of a path that does not exist it shows the beginning.
    fn span(&self, id: &str, path: &str) -> Span {
        let span = info_span!(
            "request",
            request_id = id,
            method = self.method,
            path = Empty
        );
        match &self.route {
            Some(route) => span.record("path", route.as_str()),
            None => span.record("path", shown(path).as_str()),
        };
        span
    }

    fn answered(self, response: &Response) {
        let Self { route, method, at } = self;
        let status = response.status();
        let error = response.extensions().get().map(|ErrorCode(code)| *code);
        let took = at.elapsed();
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        // What succeeds says more in lines of its own. Health is asked every few seconds, and what makes it bad is logged once.
        // Refusals for the rate are logged in sum.
        let is_health = route.as_deref() == Some(HEALTH);
        if status.is_success() || status == StatusCode::TOO_MANY_REQUESTS || is_health {
            debug!(status = status.as_u16(), ms, "answered");
        } else {
            info!(status = status.as_u16(), error, ms, "answered");
        }
        let route = route.unwrap_or_else(|| "other".to_owned());
        metrics::histogram!("quittance_http_seconds", "route" => route.clone())
            .record(took.as_secs_f64());
        let labels = [
            ("route", route),
            ("method", method.to_owned()),
            ("status", status.as_u16().to_string()),
        ];
        metrics::counter!("quittance_http_answers_total", &labels).increment(1);
    }
}

/// The beginning of a path, without what a terminal would act upon.
fn shown(path: &str) -> String {
    let plain = quittance_http::printable(path);
    plain.chars().take(PATH_SHOWN_MAX).collect()
}

fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let what = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or(panic.downcast_ref::<&str>().copied());
    error!(what, "a request panicked");
    Problem::internal().into_response()
}

/// How often metrics are tidied up: at a thousand payments a second that is a megabyte of measurements.
const UPKEEP: Duration = Duration::from_secs(5);

/// Tidies up what was measured, for as long as it is let. Without this, and as long as nobody reads the metrics, every
/// measurement ever made stays in memory.
pub async fn keep_metrics(metrics: PrometheusHandle) {
    every(UPKEEP, || metrics.run_upkeep()).await;
}

async fn every(pause: Duration, work: impl Fn()) {
    loop {
        tokio::time::sleep(pause).await;
        work();
    }
}

/// Records metrics for the whole process. Whoever records them has them [kept](keep_metrics), too.
///
/// # Errors
/// When somebody does already.
pub fn record_metrics() -> Result<PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    /// From a signature to a block of a slow chain, in seconds.
    const SECONDS: [f64; 14] = [
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    ];
    /// How much travelled together.
    const SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
    use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), &SIZES)?
        .set_buckets_for_metric(Matcher::Suffix("_payments".to_owned()), &SIZES)?
        .install_recorder()
}

/// The interface's description, for those who check answers against it.
pub fn openapi() -> Arc<Value> {
    Arc::new(serde_json::from_str(OPENAPI).expect("a file of this crate"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn limits_become_the_services_options() {
        let mut limits = ServiceLimits::default();
        (limits.requests, limits.waiting) = (3, 9);
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
        assert_eq!(options.proxies, 1);
        assert_eq!(options.body_max, Duration::from_secs(4));
        assert_eq!(options.request_max, Duration::from_secs(12));
    }

    #[test]
    fn a_media_types_name_has_no_case_and_ends_at_its_parameters() {
        let is_json = |value: &str| {
            let headers = [(CONTENT_TYPE, value.parse().unwrap())];
            may_be_json(&headers.into_iter().collect())
        };
        for json in [
            "application/json",
            "Application/JSON",
            "application/json;charset=utf-8",
            "application/json ; charset=utf-8",
        ] {
            assert!(is_json(json), "{json}");
        }
        for other in ["application/jsonp", "application/json5", "text/json", ""] {
            assert!(!is_json(other), "{other}");
        }
        assert!(may_be_json(&HeaderMap::new()));
    }

    /// Measurements piled up until somebody asked for /metrics; where nobody did, for ever.
    #[tokio::test(start_paused = true)]
    async fn what_was_measured_is_tidied_up_whether_anybody_asks_for_it_or_not() {
        let (times, minute) = (AtomicUsize::new(0), Duration::from_secs(61));
        let work = || {
            times.fetch_add(1, Ordering::SeqCst);
        };
        let kept = timeout(minute, every(UPKEEP, work)).await;
        assert!(kept.is_err());
        assert_eq!(times.load(Ordering::SeqCst), 12);
    }
}
