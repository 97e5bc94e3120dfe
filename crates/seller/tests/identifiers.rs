//! The extension `payment-identifier`: one name stands for one request with one payment.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use quittance_buyer::Buyer;
use quittance_core::wire::{PaymentPayload, SettleResponse, header};
use quittance_core::{Flow, ManualClock, Timestamp};
use quittance_seller::{PaymentLayer, PaymentService};
use quittance_testing::scripted::{
    ScriptedFacilitator, TestOffer, TestPayer, failed, requirements,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tower::util::BoxCloneSyncService;
use tower::{Layer as _, ServiceExt as _, service_fn};

const ID: &str = "pay_7d5d747be160e280504c099d984bcfe0";

type Handler = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// A seller with the clock of the test, and with a count of its handler's runs.
struct Shop {
    facilitator: Arc<ScriptedFacilitator>,
    service: PaymentService<Handler>,
    runs: Arc<AtomicUsize>,
    clock: Arc<ManualClock>,
    began: Arc<Notify>,
    may_end: Arc<Notify>,
}

fn shop(flow: Flow, change: impl FnOnce(PaymentLayer) -> PaymentLayer) -> Shop {
    let facilitator = ScriptedFacilitator::new();
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
    let layer = PaymentLayer::new(facilitator.clone()).accept(TestOffer::new().with_flow(flow));
    let layer = change(layer.clock(clock.clone()));
    let (runs, began, may_end) = <(Arc<AtomicUsize>, Arc<Notify>, Arc<Notify>)>::default();
    let (counted, start, end) = (runs.clone(), began.clone(), may_end.clone());
    let handler = service_fn(move |request: Request<Body>| {
        let (counted, start, end) = (counted.clone(), start.clone(), end.clone());
        async move {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            if request.uri().path() == "/slow" {
                start.notify_one();
                end.notified().await;
            }
            let mut response = Response::new(Body::from(format!("run {run}")));
            if request.uri().path() == "/fails" {
                *response.status_mut() = StatusCode::BAD_GATEWAY;
            }
            Ok(response)
        }
    });
    Shop {
        facilitator,
        service: layer.layer(BoxCloneSyncService::new(handler)),
        runs,
        clock,
        began,
        may_end,
    }
}

fn payment(flow: Flow, number: u64, extensions: &Value) -> String {
    let mut accepted = serde_json::to_value(requirements()).unwrap();
    if flow != Flow::Authorization {
        accepted["extra"] = json!({ "paymentFlow": flow.name() });
    }
    let payload = json!({ "number": number });
    header::encode(&json!({
        "x402Version": 2, "accepted": accepted, "payload": payload, "extensions": extensions,
    }))
}

fn named(id: &str) -> Value {
    json!({ "payment-identifier": { "info": { "required": false, "id": id } } })
}

fn get(path: &str, payment: &str) -> Request<Body> {
    let request = Request::get(format!("http://shop.example{path}"));
    let request = request.header(header::PAYMENT_SIGNATURE, payment);
    request.body(Body::empty()).unwrap()
}

/// The status, the receipt, and the body.
async fn ask(shop: &Shop, request: Request<Body>) -> (u16, Option<SettleResponse>, String) {
    let response = shop.service.clone().oneshot(request).await.unwrap();
    let receipt = response.headers().get(header::PAYMENT_RESPONSE);
    let receipt = receipt.map(|value| header::decode("receipt", value.as_bytes()).unwrap());
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, receipt, String::from_utf8(body.to_vec()).unwrap())
}

/// attacks.md 130: the same name buys one response, and it is the same every time.
#[tokio::test]
async fn name_gets_its_response_again_for_a_day() {
    for flow in Flow::ALL {
        let shop = shop(flow, PaymentLayer::payment_identifiers);
        let payment = |number, id| payment(flow, number, &named(id));
        let first = ask(&shop, get("/a", &payment(1, ID))).await;
        assert_eq!((first.0, &*first.2), (200, "run 0"), "{flow:?}");
        assert!(first.1.as_ref().unwrap().success);
        let settled = shop.facilitator.settle_calls();
        for _ in 0..3 {
            assert_eq!(
                ask(&shop, get("/a", &payment(1, ID))).await,
                first,
                "{flow:?}"
            );
        }
        // Another request, and another payment.
        for request in [get("/b", &payment(1, ID)), get("/a", &payment(2, ID))] {
            let (status, receipt, body) = ask(&shop, request).await;
            assert_eq!((status, receipt), (409, None), "{flow:?}");
            assert!(body.contains("payment_identifier_conflict"), "{body}");
        }
        // Without its name, or with another one, the payment buys nothing either.
        let other = "pay_00000000000000000000000000000000";
        for payment in [payment(1, other), self::payment(flow, 1, &json!({}))] {
            assert_eq!(ask(&shop, get("/a", &payment)).await.0, 402, "{flow:?}");
        }
        assert_eq!(shop.facilitator.settle_calls(), settled, "{flow:?}");
        shop.clock.advance(24 * 3600);
        assert_eq!(
            ask(&shop, get("/a", &payment(2, ID))).await.0,
            200,
            "{flow:?}"
        );
        assert_eq!(
            ask(&shop, get("/a", &payment(1, ID))).await.0,
            409,
            "{flow:?}"
        );
        assert_eq!(shop.runs.load(Ordering::SeqCst), 2, "{flow:?}");
    }
}

#[tokio::test]
async fn of_concurrent_requests_with_one_name_one_runs() {
    let shop = Arc::new(shop(Flow::Authorization, PaymentLayer::payment_identifiers));
    let payment = |number| payment(Flow::Authorization, number, &named(ID));
    let first = tokio::spawn({
        let (shop, request) = (shop.clone(), get("/slow", &payment(1)));
        async move { ask(&shop, request).await }
    });
    shop.began.notified().await;
    assert_eq!(ask(&shop, get("/slow", &payment(1))).await.0, 503);
    assert_eq!(ask(&shop, get("/slow", &payment(2))).await.0, 409);
    shop.may_end.notify_one();
    let first = first.await.unwrap();
    assert_eq!(first.0, 200);
    assert_eq!(ask(&shop, get("/slow", &payment(1))).await, first);
    assert_eq!(shop.runs.load(Ordering::SeqCst), 1);
}

/// A name is bound only once money may move. Otherwise anyone could use up the names of others.
#[tokio::test]
async fn name_of_a_payment_that_moved_nothing_is_free() {
    let shop = shop(Flow::Authorization, PaymentLayer::payment_identifiers);
    let payment = |number| payment(Flow::Authorization, number, &named(ID));
    shop.facilitator.reject("insufficient_funds");
    assert_eq!(ask(&shop, get("/a", &payment(1))).await.0, 402);
    let valid = quittance_core::wire::VerifyResponse::valid(None);
    shop.facilitator.set_verify(Ok(valid));
    assert_eq!(ask(&shop, get("/fails", &payment(2))).await.0, 502);
    // The outcome of this one is unknown.
    shop.facilitator
        .set_settle(Ok(failed("settlement_pending", "0x1")));
    assert_eq!(ask(&shop, get("/a", &payment(3))).await.0, 402);
    assert_eq!(ask(&shop, get("/a", &payment(4))).await.0, 409);
    let settled = SettleResponse::settled("test:1", None, "0x1");
    shop.facilitator.set_settle(Ok(settled));
    assert_eq!(ask(&shop, get("/a", &payment(3))).await.0, 200);
}

#[tokio::test]
async fn name_is_read_strictly_and_may_be_required() {
    let none = json!({});
    let optional = shop(Flow::Authorization, PaymentLayer::payment_identifiers);
    let required = shop(
        Flow::Authorization,
        PaymentLayer::require_payment_identifiers,
    );
    let off = shop(Flow::Authorization, |layer| layer);
    let flow = Flow::Authorization;
    let invalid = [named("short"), json!({ "payment-identifier": 1 })];
    for (number, invalid) in (0..).zip(&invalid) {
        let payment = payment(flow, number, invalid);
        assert_eq!(ask(&optional, get("/", &payment)).await.0, 400);
        assert_eq!(ask(&off, get("/", &payment)).await.0, 200);
    }
    let echo = json!({ "payment-identifier": { "info": { "required": true } } });
    for (number, without) in [(2, &none), (3, &echo)] {
        let (status, _, body) = ask(&required, get("/", &payment(flow, number, without))).await;
        assert_eq!(status, 400);
        assert!(body.contains("payment-identifier.info.id"), "{body}");
        assert_eq!(
            ask(&optional, get("/", &payment(flow, number, without)))
                .await
                .0,
            200
        );
    }
    assert_eq!(
        ask(&required, get("/", &payment(flow, 4, &named(ID))))
            .await
            .0,
        200
    );
    for (shop, offered) in [
        (&optional, Some(false)),
        (&required, Some(true)),
        (&off, None),
    ] {
        let request = Request::get("http://shop.example/")
            .body(Body::empty())
            .unwrap();
        let response = shop.service.clone().oneshot(request).await.unwrap();
        let value = response.headers()[header::PAYMENT_REQUIRED].as_bytes();
        let said: Value = header::decode("required", value).unwrap();
        let info = said["extensions"]["payment-identifier"]["info"]["required"].as_bool();
        assert_eq!(info, offered);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        // Version 1 has no place for a name.
        let is_in_v1 = body["x402Version"] == 1;
        assert_eq!(is_in_v1, offered != Some(true), "{body}");
    }
}

#[tokio::test]
async fn name_with_another_body_is_a_conflict() {
    let shop = shop(Flow::Authorization, PaymentLayer::payment_identifiers);
    let payment = payment(Flow::Authorization, 1, &named(ID));
    let post = |digest: &str| {
        let request = Request::post("http://shop.example/");
        let request = request.header(header::PAYMENT_SIGNATURE, &payment);
        let request = request.header("content-digest", digest);
        request.body(Body::from("a body")).unwrap()
    };
    assert_eq!(ask(&shop, post("sha-256=:b25l:")).await.0, 200);
    assert_eq!(ask(&shop, post("sha-256=:b25l:")).await.0, 200);
    assert_eq!(ask(&shop, post("sha-256=:dHdv:")).await.0, 409);
    assert_eq!(shop.runs.load(Ordering::SeqCst), 1);
}

/// The buyer names its payment where names are read, and presents it with the same name again.
#[tokio::test]
async fn buyer_names_its_payment_once() {
    for is_read in [true, false] {
        let facilitator = ScriptedFacilitator::new();
        let layer = PaymentLayer::new(facilitator.clone()).accept(TestOffer::new());
        let layer = if is_read {
            layer.payment_identifiers()
        } else {
            layer
        };
        let seen: Arc<std::sync::Mutex<Vec<(Value, bool)>>> = Arc::default();
        let noted = seen.clone();
        let note = axum::middleware::from_fn(
            move |request: axum::extract::Request, next: axum::middleware::Next| {
                let noted = noted.clone();
                async move {
                    let headers = request.headers();
                    if let Some(value) = headers.get(header::PAYMENT_SIGNATURE) {
                        let sent: PaymentPayload =
                            header::decode("payment", value.as_bytes()).unwrap();
                        let extensions = sent.extensions.map(|it| it.tree());
                        let id = extensions.unwrap_or_default()["payment-identifier"]["info"]["id"]
                            .clone();
                        let has_digest = headers.contains_key("content-digest");
                        noted.lock().unwrap().push((id, has_digest));
                    }
                    next.run(request).await
                }
            },
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let route = post(|| async { "sold" }).layer(layer);
        let app = Router::new().route("/", route).layer(note);
        tokio::spawn(async move { axum::serve(listener, app).await });
        let busy = quittance_core::Fault::new(quittance_core::FaultKind::Busy, "busy");
        let busy = quittance_core::Fault {
            retry_after: Some(Duration::from_secs(60)),
            ..busy
        };
        facilitator.queue_settle([Err(busy.into())]);
        let buyer = Buyer::builder().payer(TestPayer::default());
        let buyer = buyer.limits(quittance_buyer::Limits::default().per_payment("1"));
        let buyer = buyer.build().unwrap();
        let request = || {
            reqwest::Client::new()
                .post(&url)
                .body("a body")
                .build()
                .unwrap()
        };
        assert!(buyer.execute(request()).await.is_err());
        let purchase = buyer.execute(request()).await.unwrap();
        assert_eq!(purchase.response.text().await.unwrap(), "sold");
        let seen = seen.lock().unwrap().clone();
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert_eq!(seen[0], seen[1]);
        assert!(seen[0].1, "the body has a digest");
        let id = seen[0].0.as_str();
        assert_eq!(
            id.is_some_and(|id| id.starts_with("pay_")),
            is_read,
            "{seen:?}"
        );
    }
}
