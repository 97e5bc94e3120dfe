//! Metrics: recording them, and `GET /metrics`.

use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::error::ErrorResponse;
use crate::openapi::{CommonErrors, NotFound};
use crate::payments::Endpoint;
use crate::router::Service;

/// The time between two runs of the recorder's upkeep. At a thousand payments a second, five
/// seconds collect a megabyte of samples.
const UPKEEP: Duration = Duration::from_secs(5);

/// The metrics in the text format of Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    responses(
        (status = 200, description = "The metrics.", body = String, content_type = "text/plain"),
        NotFound,
        CommonErrors,
    ),
)]
pub(crate) async fn render(State(service): State<Service>) -> Result<Response, ErrorResponse> {
    let metrics = service.metrics;
    let metrics = metrics.ok_or_else(|| ErrorResponse::not_found("metrics are not recorded"))?;
    metrics::gauge!("quittance_settlements_in_progress").set(service.engine.in_progress() as f64);
    let content_type = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    Ok((content_type, metrics.render()).into_response())
}

/// Counts a verdict and its duration. `network` and `result` are from a bounded set.
pub(crate) fn count_verdict(endpoint: Endpoint, network: &str, result: &str, took: Duration) {
    let labels = [
        ("endpoint", endpoint.name().to_owned()),
        ("network", network.to_owned()),
    ];
    metrics::histogram!("quittance_request_seconds", &labels).record(took.as_secs_f64());
    let [endpoint, network] = labels;
    let labels = [endpoint, network, ("result", result.to_owned())];
    metrics::counter!("quittance_requests_total", &labels).increment(1);
}

/// Counts an HTTP answer and its duration.
pub(crate) fn count_answer(route: &str, method: &'static str, status: u16, took: Duration) {
    metrics::histogram!("quittance_http_seconds", "route" => route.to_owned())
        .record(took.as_secs_f64());
    let labels = [
        ("route", route.to_owned()),
        ("method", method.to_owned()),
        ("status", status.to_string()),
    ];
    metrics::counter!("quittance_http_answers_total", &labels).increment(1);
}

/// Counts a request that was answered `busy`.
pub(crate) fn count_shed() {
    metrics::counter!("quittance_requests_shed_total").increment(1);
}

/// Counts a connection that this service closed.
pub(crate) fn count_closed(why: &'static str) {
    metrics::counter!("quittance_connections_closed_total", "why" => why).increment(1);
}

/// Counts a stream whose client took nothing for too long.
pub(crate) fn count_stalled() {
    metrics::counter!("quittance_event_streams_stalled_total").increment(1);
}

/// Runs the upkeep of the recorder for as long as this future is polled. Without upkeep, and while
/// nothing reads the metrics, every sample stays in memory.
pub async fn keep_metrics(metrics: PrometheusHandle) {
    every(UPKEEP, || metrics.run_upkeep()).await;
}

async fn every(pause: Duration, work: impl Fn()) {
    loop {
        tokio::time::sleep(pause).await;
        work();
    }
}

/// Records the metrics of this process. Run [`keep_metrics`] with the handle.
///
/// # Errors
/// When the process has a recorder already.
pub fn record_metrics() -> Result<PrometheusHandle, BuildError> {
    /// From one signature to a block of a slow chain, in seconds.
    const SECONDS: [f64; 14] = [
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    ];
    /// The sizes of batches.
    const SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), &SIZES)?
        .set_buckets_for_metric(Matcher::Suffix("_payments".to_owned()), &SIZES)?
        .install_recorder()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::timeout;

    use super::*;

    /// Samples stayed in memory until something read /metrics.
    #[tokio::test(start_paused = true)]
    async fn upkeep_runs_without_a_reader_of_the_metrics() {
        let (times, minute) = (AtomicUsize::new(0), Duration::from_secs(61));
        let work = || {
            times.fetch_add(1, Ordering::SeqCst);
        };
        let kept = timeout(minute, every(UPKEEP, work)).await;
        assert!(kept.is_err());
        assert_eq!(times.load(Ordering::SeqCst), 12);
    }
}
