//! The seller's layer: nobody pays for a failure, nobody is served for nothing, and browsers and routers get along with it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod common;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use common::{Puppet, TestOffer, listen, purchaser, terms};
use futures_util::stream;
use quittance_core::wire::{PaymentRequired, SettleResponse, header, v1};
use quittance_core::{Fault, FaultKind, Malformed};
use quittance_http::{Longer, PaymentLayer, RemoteError, RemoteFacilitator};
use serde_json::{Value, json};
use tower::{Layer as _, Service as _};

fn layer(facilitator: &Arc<Puppet>) -> PaymentLayer {
    PaymentLayer::new(facilitator.clone()).accept(TestOffer::new())
}

/// A payment of version 2 as it stands in its header.
fn payment(version: u64) -> String {
    header::encode(&json!({ "x402Version": version, "accepted": terms(), "payload": {} }))
}

async fn pay(url: &str) -> reqwest::Response {
    let client = reqwest::Client::new();
    let request = client
        .get(url)
        .header(header::PAYMENT_SIGNATURE, payment(2));
    request.send().await.unwrap()
}

fn receipt(headers: &HeaderMap) -> SettleResponse {
    header::decode("receipt", headers[header::PAYMENT_RESPONSE].as_bytes()).unwrap()
}

/// A handler's answer in pieces of a kilobyte; the last one may be an error.
fn pieces(count: usize, breaks: bool) -> Body {
    let whole = (0..count).map(|_| Ok(Bytes::from(vec![b'x'; 1024])));
    let end = breaks.then(|| Err(std::io::Error::other("the disk is gone")));
    Body::from_stream(stream::iter(whole.chain(end)))
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_charged_for() {
    let puppet = Puppet::new();
    let handler = || async { pieces(3, true) };
    let url = listen(Router::new().route("/", get(handler).layer(layer(&puppet)))).await;
    let answer = pay(&url).await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let word = receipt(answer.headers());
    assert_eq!(
        (word.success, word.error_reason.as_deref()),
        (false, Some("handler_failed"))
    );
    assert_eq!(puppet.settle_calls(), 0);
}

#[tokio::test]
async fn an_answer_is_whole_up_to_the_buffer_and_beyond_it_settled_first_or_refused() {
    for (count, longer, status, charged) in [
        (4, Longer::Refuse, StatusCode::OK, 1),
        (5, Longer::Refuse, StatusCode::INTERNAL_SERVER_ERROR, 0),
        (500, Longer::SettleFirst, StatusCode::OK, 1),
    ] {
        let puppet = Puppet::new();
        let handler = move || async move { pieces(count, false) };
        let layer = layer(&puppet).buffer(4096, longer);
        let url = listen(Router::new().route("/", get(handler).layer(layer))).await;
        let answer = pay(&url).await;
        assert_eq!(answer.status(), status);
        assert_eq!(puppet.settle_calls(), charged);
        if charged == 1 {
            assert_eq!(answer.bytes().await.unwrap(), vec![b'x'; 1024 * count]);
        }
    }
}

#[tokio::test]
async fn a_handler_that_fails_says_that_nothing_was_settled_and_the_buyer_believes_it_in_time() {
    let puppet = Puppet::new();
    let handler = || async { StatusCode::INTERNAL_SERVER_ERROR };
    let url = listen(Router::new().route("/", any(handler).layer(layer(&puppet)))).await;
    let shop = purchaser(|builder| builder);
    assert!(
        shop.buyer
            .get(&url)
            .await
            .unwrap()
            .cost
            .unwrap()
            .open
            .is_some()
    );
    shop.clock.advance(common::LONG_AFTER_SECS);
    // The old one is over: nothing stands in the way of a new one.
    shop.buyer.get(&url).await.unwrap();
    assert_eq!(
        shop.payer.signed.load(std::sync::atomic::Ordering::SeqCst),
        2
    );
    assert_eq!(puppet.settle_calls(), 0);
}

#[tokio::test]
async fn under_a_nested_router_the_resource_is_what_the_client_asked_for() {
    let puppet = Puppet::new();
    let inner = Router::new().route("/goods", get(|| async { "goods" }).layer(layer(&puppet)));
    let url = listen(Router::new().nest("/api", inner)).await;
    let answer = reqwest::get(format!("{url}/api/goods?x=1")).await.unwrap();
    let value = answer.headers()[header::PAYMENT_REQUIRED]
        .as_bytes()
        .to_vec();
    let required: PaymentRequired = header::decode("402", &value).unwrap();
    assert_eq!(required.resource.url, format!("{url}/api/goods?x=1"));
}

/// attacks.md 121. A browser asks first, without payment.
#[tokio::test]
async fn a_preflight_passes_unpaid_and_gets_no_goods() {
    let puppet = Puppet::new();
    let handler = || async { ([("access-control-allow-origin", "*")], "goods") };
    let url = listen(Router::new().route("/", any(handler).layer(layer(&puppet)))).await;
    let client = reqwest::Client::new();
    let answer = client.request(Method::OPTIONS, &url).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    assert_eq!(answer.text().await.unwrap(), "");
    let head = client.head(&url).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::PAYMENT_REQUIRED);
}

#[tokio::test]
async fn a_payment_of_an_unknown_version_is_refused_by_that_name() {
    let puppet = Puppet::new();
    let url =
        listen(Router::new().route("/", get(|| async { "goods" }).layer(layer(&puppet)))).await;
    let client = reqwest::Client::new();
    let other = header::encode(&json!({ "x402Version": 3, "something": "else" }));
    for (name, value) in [
        (header::PAYMENT_SIGNATURE, payment(3)),
        (header::PAYMENT_SIGNATURE, other.clone()),
        (header::X_PAYMENT, other),
    ] {
        let answer = client.get(&url).header(name, value).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED);
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["error"], "invalid_x402_version");
    }
}

#[tokio::test]
async fn a_layer_can_be_changed_after_it_was_cloned() {
    let puppet = Puppet::new();
    let plain = PaymentLayer::new(puppet.clone());
    let priced = plain.clone().accept(TestOffer::new());
    let app = Router::new()
        .route("/plain", get(|| async { "goods" }).layer(plain))
        .route("/priced", get(|| async { "goods" }).layer(priced));
    let url = listen(app).await;
    let status = async |path: &str| reqwest::get(format!("{url}{path}")).await.unwrap().status();
    assert_eq!(status("/plain").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(status("/priced").await, StatusCode::PAYMENT_REQUIRED);
}

#[tokio::test]
async fn only_the_versions_the_facilitator_speaks_are_offered() {
    for (kinds, in_v2, in_v1) in [
        (&[(2, "test:1")][..], 1, 0),
        (&[(1, "test")], 0, 1),
        (&[(2, "test:1"), (1, "test")], 1, 1),
    ] {
        let puppet = Puppet::new();
        puppet.supports(kinds);
        let url =
            listen(Router::new().route("/", get(|| async { "" }).layer(layer(&puppet)))).await;
        let answer = reqwest::get(&url).await.unwrap();
        let value = answer.headers()[header::PAYMENT_REQUIRED]
            .as_bytes()
            .to_vec();
        let v2: PaymentRequired = header::decode("402", &value).unwrap();
        let v1: v1::PaymentRequired = answer.json().await.unwrap();
        assert_eq!((v2.accepts.len(), v1.accepts.len()), (in_v2, in_v1));
    }
}

/// A facilitator with several fee payers names them in turn: whoever was told one just before the seller asked again was
/// refused as if it had paid on other terms.
#[tokio::test(start_paused = true)]
async fn a_buyer_may_pay_on_the_terms_it_was_told_when_the_facilitator_has_others_by_now() {
    let puppet = Puppet::new();
    let mut shop = layer(&puppet).layer(tower::service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(Response::new(Body::from("goods")))
    }));
    let mut ask = async |fee_payer: Option<&str>| {
        let mut request = Request::builder().uri("http://shop.example/");
        if let Some(fee_payer) = fee_payer {
            let mut accepted = terms();
            accepted["extra"] = json!({ "feePayer": fee_payer });
            let payment = json!({ "x402Version": 2, "accepted": accepted, "payload": {} });
            request = request.header(header::PAYMENT_SIGNATURE, header::encode(&payment));
        }
        let request = request.body(Body::empty()).unwrap();
        shop.call(request).await.unwrap().status()
    };
    let minute = Duration::from_secs(60);
    for fee_payer in ["one", "two", "three"] {
        tokio::time::advance(minute / 2).await;
        puppet.adds(&json!({ "feePayer": fee_payer }));
        assert_eq!(ask(None).await, StatusCode::PAYMENT_REQUIRED);
    }
    for known in ["three", "two", "one"] {
        assert_eq!(ask(Some(known)).await, StatusCode::OK, "{known}");
    }
    assert_eq!(ask(Some("four")).await, StatusCode::PAYMENT_REQUIRED);
    tokio::time::advance(minute).await;
    assert_eq!(ask(Some("three")).await, StatusCode::OK);
    assert_eq!(ask(Some("one")).await, StatusCode::PAYMENT_REQUIRED);
}

#[tokio::test]
async fn a_payment_is_hidden_from_what_prints_headers() {
    let puppet = Puppet::new();
    let handler = |headers: HeaderMap| async move { format!("{headers:?}") };
    let url = listen(Router::new().route("/", get(handler).layer(layer(&puppet)))).await;
    let printed = pay(&url).await.text().await.unwrap();
    assert!(printed.contains("Sensitive") && !printed.contains(&payment(2)));
}

async fn remote(status: StatusCode, body: &'static str) -> RemoteFacilitator {
    let answer = move || async move { (status, [("retry-after", "17")], body).into_response() };
    let supported = r#"{"kinds":[{"x402Version":2,"scheme":"exact","network":"test:1"}]}"#;
    let app = Router::new()
        .route("/supported", get(move || async move { supported }))
        .fallback(any(answer));
    RemoteFacilitator::new(&listen(app).await).unwrap()
}

/// Some facilitators answer 400 to what other ones settle: that says nothing about the buyer.
#[tokio::test]
async fn what_a_facilitator_cannot_read_is_not_the_buyers_fault_and_its_patience_is_passed_on() {
    for (status, body) in [
        (
            StatusCode::BAD_REQUEST,
            r#"{"error":"paymentPayload is invalid"}"#,
        ),
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"busy"}"#),
        (StatusCode::TOO_MANY_REQUESTS, ""),
    ] {
        let layer =
            PaymentLayer::new(Arc::new(remote(status, body).await)).accept(TestOffer::new());
        let url = listen(Router::new().route("/", get(|| async { "goods" }).layer(layer))).await;
        let answer = pay(&url).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["retry-after"], "17");
    }
}

#[tokio::test]
async fn only_what_was_turned_away_at_the_door_is_said_to_be_untouched() {
    use quittance_core::{Facilitator, FacilitatorError};
    let payment = common::request(0);
    for (status, body, untouched) in [
        (StatusCode::UNAUTHORIZED, "", true),
        (StatusCode::TOO_MANY_REQUESTS, "", true),
        (StatusCode::TEMPORARY_REDIRECT, "", true),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            r#"{"error":"busy","untouched":true}"#,
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
                assert_eq!(fault.untouched, untouched, "{status}")
            }
            other => panic!("{other:?}"),
        }
    }
    let nobody = RemoteFacilitator::new("http://127.0.0.1:1").unwrap();
    let Err(FacilitatorError::Fault(fault)) = nobody.settle(&payment).await else {
        panic!("somebody is there")
    };
    assert!(fault.untouched);
}

#[test]
fn an_error_about_a_url_does_not_tell_what_is_secret_in_it() {
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

/// What the engine in this process cannot read in a payload is the buyer's.
#[tokio::test]
async fn a_payload_that_cannot_be_read_is_the_buyers_fault() {
    let puppet = Puppet::new();
    let url =
        listen(Router::new().route("/", get(|| async { "goods" }).layer(layer(&puppet)))).await;
    puppet.verifies(Err(Malformed::new("paymentPayload.payload", "no").into()));
    assert_eq!(pay(&url).await.status(), StatusCode::BAD_REQUEST);
    puppet.verifies(Err(Fault::new(FaultKind::Internal, "no").into()));
    assert_eq!(pay(&url).await.status(), StatusCode::SERVICE_UNAVAILABLE);
}
