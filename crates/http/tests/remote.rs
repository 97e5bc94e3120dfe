//! A facilitator behind HTTP: which responses are verdicts, and what its errors reveal.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{any, get};
use quittance_core::{Facilitator, FacilitatorError, SaleId};
use quittance_http::{RemoteError, RemoteFacilitator};
use quittance_testing::scripted::{failed, request};
use serde_json::json;
use tokio::net::TcpListener;

async fn listen(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// A facilitator whose `/verify` and `/settle` return this response.
async fn remote(status: StatusCode, body: &'static str) -> RemoteFacilitator {
    let answer = move || async move { (status, [("retry-after", "17")], body).into_response() };
    let supported = r#"{"kinds":[{"x402Version":2,"scheme":"exact","network":"test:1"}]}"#;
    let app = Router::new()
        .route("/supported", get(move || async move { supported }))
        .fallback(any(answer));
    RemoteFacilitator::new(&listen(app).await).unwrap()
}

/// Once, a 502 response with `settlement_pending` was a fault, and its transaction did not reach
/// the buyer. A success under such a status does not count, but its transaction does.
#[tokio::test]
async fn transaction_counts_under_any_status_and_success_does_not() {
    const PENDING: &str = r#"{"success":false,"errorReason":"settlement_pending","transaction":"0xabc","network":"test:1"}"#;
    const NONE: &str = r#"{"success":false,"errorReason":"settlement_pending","transaction":"","network":"test:1"}"#;
    const SETTLED: &str = r#"{"success":true,"transaction":"0xabc","network":"test:1"}"#;
    let payment = request(0);
    for status in [
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ] {
        let settled = remote(status, PENDING).await.settle(&payment).await;
        assert_eq!(settled, Ok(failed("settlement_pending", "0xabc")));
        let settled = remote(status, NONE).await.settle(&payment).await;
        assert!(settled.is_err(), "{status}");
        let settled = remote(status, SETTLED)
            .await
            .settle(&payment)
            .await
            .unwrap();
        assert!(
            settled.is_pending() && settled.transaction == "0xabc",
            "{settled:?}"
        );
    }
}

#[tokio::test]
async fn only_unprocessed_requests_are_not_attempted() {
    let payment = request(0);
    for (status, body, not_attempted) in [
        (StatusCode::UNAUTHORIZED, "", true),
        (StatusCode::TOO_MANY_REQUESTS, "", true),
        (StatusCode::TEMPORARY_REDIRECT, "", true),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            r#"{"error":"busy","notAttempted":true}"#,
            true,
        ),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            r#"{"error":"busy"}"#,
            false,
        ),
        (StatusCode::BAD_REQUEST, "", false),
        (StatusCode::BAD_GATEWAY, "", false),
        (StatusCode::OK, "", false),
    ] {
        match remote(status, body).await.settle(&payment).await {
            Err(FacilitatorError::Fault(fault)) => {
                assert_eq!(fault.not_attempted, not_attempted, "{status}")
            }
            other => panic!("{other:?}"),
        }
    }
    let unreachable = RemoteFacilitator::new("http://127.0.0.1:1").unwrap();
    let Err(FacilitatorError::Fault(fault)) = unreachable.settle(&payment).await else {
        panic!("port 1 answers")
    };
    assert!(fault.not_attempted);
}

#[test]
fn url_error_reveals_no_secret() {
    for url in [
        "ftp://user:hunter2@a.example/hunter2?key=hunter2",
        "hunter2",
        "http://[hunter2",
    ] {
        let error: RemoteError = RemoteFacilitator::new(url).unwrap_err();
        assert!(
            !format!("{error} {error:?}").contains("hunter2"),
            "{error:?}"
        );
    }
}

#[test]
fn debug_of_a_remote_facilitator_is_its_origin() {
    let url = "https://user:hunter2@a.example/hunter2/?key=hunter2";
    let printed = format!("{:?}", RemoteFacilitator::new(url).unwrap());
    assert_eq!(printed, "RemoteFacilitator(https://a.example)");
}

#[tokio::test]
async fn sale_is_sent_with_verify_and_settle_requests() {
    let answer = async |headers: HeaderMap| {
        let key = headers.get("idempotency-key");
        let key = key.map_or("none", |key| key.to_str().unwrap());
        let body = json!({ "isValid": true, "payer": key, "success": true, "transaction": key });
        body.to_string()
    };
    let url = listen(Router::new().fallback(any(answer))).await;
    let facilitator = RemoteFacilitator::new(&url).unwrap();
    let sold = request(0).with_sale(SaleId::new("sale-1").unwrap());
    for (request, key) in [(sold, "sale-1"), (request(0), "none")] {
        let verdict = facilitator.verify(&request).await.unwrap();
        assert_eq!(verdict.payer.as_deref(), Some(key));
        let settled = facilitator.settle(&request).await.unwrap();
        assert_eq!(settled.transaction, key);
    }
}
