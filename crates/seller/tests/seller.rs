//! The seller's layer: failures are not charged, unpaid requests are not served, and the layer
//! works with browsers, routers and connections.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get, post};
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream;
use quittance_buyer::Buyer;
use quittance_core::json::Object;
use quittance_core::wire::{
    PaymentRequired, PaymentRequirements, ResourceInfo, SettleResponse, SupportedKind,
    VerifyResponse, header, v1,
};
use quittance_core::{
    Fault, FaultKind, Malformed, ManualClock, Network, Offer, OfferError, Reason, Rejection,
    Timestamp,
};
use quittance_http::RemoteFacilitator;
use quittance_seller::{LargeBody, PaymentLayer};
use quittance_testing::scripted::{
    ScriptedFacilitator, TestOffer, TestPayer, VALID_SECS, failed, requirements,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tower::{Layer as _, Service as _};

/// When the buyer's clock starts.
const START: Timestamp = Timestamp::from_secs(1_000_000);

async fn listen(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// The requirements of [`TestOffer`], as a client repeats them.
fn accepted() -> Value {
    serde_json::to_value(requirements()).unwrap()
}

fn layer(facilitator: &Arc<ScriptedFacilitator>) -> PaymentLayer {
    PaymentLayer::new(facilitator.clone()).accept(TestOffer::new())
}

/// The value of a payment header. Each call makes another payment.
fn payment(version: u64) -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(1000);
    let payload = json!({ "number": NUMBER.fetch_add(1, Ordering::SeqCst) });
    header::encode(&json!({ "x402Version": version, "accepted": accepted(), "payload": payload }))
}

async fn pay(url: &str) -> reqwest::Response {
    pay_with(url, &payment(2)).await
}

async fn pay_with(url: &str, payment: &str) -> reqwest::Response {
    let request = reqwest::Client::new().get(url);
    let request = request.header(header::PAYMENT_SIGNATURE, payment);
    request.send().await.unwrap()
}

fn receipt_in(headers: &HeaderMap) -> SettleResponse {
    header::decode("receipt", headers[header::PAYMENT_RESPONSE].as_bytes()).unwrap()
}

/// A body of `count` pieces of 1 KiB, and possibly an error at its end.
fn pieces(count: usize, fails: bool) -> Body {
    let whole = (0..count).map(|_| Ok(Bytes::from(vec![b'x'; 1024])));
    let end = fails.then(|| Err(std::io::Error::other("the disk failed")));
    Body::from_stream(stream::iter(whole.chain(end)))
}

#[tokio::test]
async fn response_that_ends_early_is_not_charged() {
    let facilitator = ScriptedFacilitator::new();
    let handler = || async { pieces(3, true) };
    let url = listen(Router::new().route("/", get(handler).layer(layer(&facilitator)))).await;
    let answer = pay(&url).await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let receipt = receipt_in(answer.headers());
    assert_eq!(
        (receipt.success, receipt.error_reason.as_deref()),
        (false, Some("handler_failed"))
    );
    assert_eq!(facilitator.settle_calls(), 0);
}

#[tokio::test]
async fn large_response_is_settled_first_or_refused() {
    for (count, large_body, status, charged) in [
        (4, LargeBody::Refuse, StatusCode::OK, 1),
        (5, LargeBody::Refuse, StatusCode::INTERNAL_SERVER_ERROR, 0),
        (500, LargeBody::SettleFirst, StatusCode::OK, 1),
    ] {
        let facilitator = ScriptedFacilitator::new();
        let handler = move || async move { pieces(count, false) };
        let layer = layer(&facilitator).buffer(4096, large_body);
        let url = listen(Router::new().route("/", get(handler).layer(layer))).await;
        let answer = pay(&url).await;
        assert_eq!(answer.status(), status);
        assert_eq!(facilitator.settle_calls(), charged);
        if charged == 1 {
            assert_eq!(answer.bytes().await.unwrap(), vec![b'x'; 1024 * count]);
        }
    }
}

#[tokio::test]
async fn trusting_buyer_pays_again_after_a_failed_handler() {
    let facilitator = ScriptedFacilitator::new();
    let handler = || async { StatusCode::INTERNAL_SERVER_ERROR };
    let url = listen(Router::new().route("/", any(handler).layer(layer(&facilitator)))).await;
    let (payer, clock) = (TestPayer::default(), Arc::new(ManualClock::new(START)));
    let buyer = Buyer::builder().payer(payer.clone()).clock(clock.clone());
    let buyer = buyer.trust(&url).build().unwrap();
    assert!(buyer.get(&url).await.unwrap().cost.unwrap().open.is_some());
    clock.advance(100 * VALID_SECS);
    // The first payment has expired unused, so the buyer signs a second one.
    buyer.get(&url).await.unwrap();
    assert_eq!(payer.signed(), 2);
    assert_eq!(facilitator.settle_calls(), 0);
}

#[tokio::test]
async fn resource_url_includes_the_nested_routers_prefix() {
    let facilitator = ScriptedFacilitator::new();
    let inner = Router::new().route(
        "/goods",
        get(|| async { "goods" }).layer(layer(&facilitator)),
    );
    let url = listen(Router::new().nest("/api", inner)).await;
    let answer = reqwest::get(format!("{url}/api/goods?x=1")).await.unwrap();
    let value = answer.headers()[header::PAYMENT_REQUIRED]
        .as_bytes()
        .to_vec();
    let required: PaymentRequired = header::decode("402", &value).unwrap();
    let resource: ResourceInfo = required.resource.unwrap().read("resource").unwrap();
    assert_eq!(resource.url, format!("{url}/api/goods?x=1"));
}

/// A handler with this response that counts its runs.
fn counting(answer: impl IntoResponse + Clone + Send + Sync + 'static) -> (MethodRouter, Runs) {
    let runs = Runs::default();
    let own = runs.clone();
    let handler = move || {
        own.0.fetch_add(1, Ordering::SeqCst);
        let answer = answer.clone();
        async move { answer }
    };
    (any(handler), runs)
}

#[derive(Clone, Default)]
struct Runs(Arc<AtomicUsize>);

impl Runs {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

async fn pay_by(method: &str, url: &str) -> reqwest::Response {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let request = reqwest::Client::new().request(method, url);
    let request = request.header(header::PAYMENT_SIGNATURE, payment(2));
    request.send().await.unwrap()
}

/// attacks.md 121, 187. A browser sends a preflight first, without payment. Once, the preflight ran
/// the handler of an `any` route, with a body, unpaid.
#[tokio::test]
async fn preflight_never_reaches_the_handler() {
    let facilitator = ScriptedFacilitator::new();
    let goods = (
        [("access-control-allow-origin", "*"), ("x-goods", "goods")],
        "goods",
    );
    let (handler, runs) = counting(goods);
    let url = listen(Router::new().route("/", handler.layer(layer(&facilitator)))).await;
    let client = reqwest::Client::new();
    let options = || client.request(Method::OPTIONS, &url);
    let asks = || options().header("origin", "http://a.example");
    for paid in [false, true] {
        let mut preflight = asks()
            .header("access-control-request-method", "POST")
            .body("do it");
        if paid {
            preflight = preflight.header(header::PAYMENT_SIGNATURE, payment(2));
        }
        let answer = preflight.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        assert!(!answer.headers().contains_key("x-goods"));
        assert_eq!(answer.text().await.unwrap(), "");
    }
    for no_preflight in [options(), asks(), client.head(&url)] {
        let answer = no_preflight.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED);
    }
    assert_eq!((runs.count(), facilitator.verify_calls()), (0, 0));
}

/// attacks.md 187. Once, a paid HEAD ran the handler and was charged, but delivered nothing.
#[tokio::test]
async fn method_without_content_is_neither_served_nor_charged() {
    let facilitator = ScriptedFacilitator::new();
    let (handler, runs) = counting("goods");
    let url = listen(Router::new().route("/", handler.layer(layer(&facilitator)))).await;
    for method in ["HEAD", "OPTIONS", "TRACE"] {
        let answer = pay_by(method, &url).await;
        assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED, "{method}");
        assert!(answer.headers().contains_key(header::PAYMENT_REQUIRED));
        let receipt = receipt_in(answer.headers());
        assert_eq!(receipt.error_reason.as_deref(), Some("handler_failed"));
        assert!(receipt.error_message.unwrap().starts_with(method));
    }
    assert_eq!(
        (
            runs.count(),
            facilitator.verify_calls(),
            facilitator.settle_calls()
        ),
        (0, 0, 0)
    );
    // Only the handler knows what other methods do.
    for method in ["GET", "DELETE", "FOO"] {
        assert_eq!(pay_by(method, &url).await.text().await.unwrap(), "goods");
    }
    assert_eq!((runs.count(), facilitator.settle_calls()), (3, 3));
}

/// Once, a 304 was charged, although the client already had the content.
#[tokio::test]
async fn response_is_charged_by_its_status() {
    for (status, charged) in [
        (200, 1),
        (204, 1),
        (206, 1),
        (303, 1),
        (304, 0),
        (404, 0),
        (500, 0),
    ] {
        let facilitator = ScriptedFacilitator::new();
        let status = StatusCode::from_u16(status).unwrap();
        let (handler, _) = counting(status);
        let url = listen(Router::new().route("/", handler.layer(layer(&facilitator)))).await;
        let answer = pay(&url).await;
        assert_eq!(answer.status(), status);
        assert_eq!(facilitator.settle_calls(), charged, "{status}");
        let receipt = receipt_in(answer.headers());
        let reason = (charged == 0).then_some("handler_failed");
        assert_eq!(
            (receipt.success, receipt.error_reason.as_deref()),
            (charged == 1, reason)
        );
    }
}

/// Once, the facilitator's message was dropped, and the buyer got only the code.
#[tokio::test]
async fn facilitators_refusal_message_reaches_the_client() {
    let facilitator = ScriptedFacilitator::new();
    let url =
        listen(Router::new().route("/", get(|| async { "goods" }).layer(layer(&facilitator))))
            .await;
    let rejection = || {
        let reason = Reason::new("invalid_exact_evm_insufficient_balance");
        Rejection::new(reason, "has 5, \u{1b}[2Jrequired 10000")
    };
    let refused = async || {
        let answer = pay(&url).await;
        assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED);
        let value = answer.headers()[header::PAYMENT_REQUIRED].as_bytes();
        let v2: Value = header::decode("402", value).unwrap();
        let receipt = answer.headers().get(header::PAYMENT_RESPONSE).cloned();
        let v1: Value = answer.json().await.unwrap();
        for required in [v1, v2] {
            assert_eq!(required["error"], "invalid_exact_evm_insufficient_balance");
            assert_eq!(required["errorMessage"], "has 5, [2Jrequired 10000");
        }
        receipt
    };
    facilitator.set_verify(Ok(VerifyResponse::invalid(&rejection(), None)));
    assert_eq!(refused().await, None);
    facilitator.set_verify(Ok(VerifyResponse::valid(None)));
    facilitator.set_settle(Ok(SettleResponse::failed("test:1", &rejection(), None, "")));
    let value = refused().await.unwrap();
    let receipt: SettleResponse = header::decode("receipt", value.as_bytes()).unwrap();
    assert_eq!(receipt.error_message, rejection().detail);
}

fn pending() -> SettleResponse {
    failed("settlement_pending", "0xabc")
}

/// Once, the second response replaced the first. After a fault the buyer did not get the
/// transaction, and the verdict of another instance of the facilitator looked as if nothing had
/// been sent.
#[tokio::test]
async fn second_settle_response_keeps_the_named_transaction() {
    for second in [
        Err(Fault::new(FaultKind::ChainUnavailable, "down").into()),
        Err(Malformed::new("paymentPayload", "no").into()),
        Ok(failed("invalid_exact_evm_insufficient_balance", "")),
        Ok(failed("settlement_pending", "")),
    ] {
        let facilitator = ScriptedFacilitator::new();
        facilitator.queue_settle([Ok(pending()), second]);
        let url =
            listen(Router::new().route("/", get(|| async { "goods" }).layer(layer(&facilitator))))
                .await;
        let answer = pay(&url).await;
        assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED);
        assert_eq!(receipt_in(answer.headers()), pending());
    }
    for (second, transaction) in [
        (SettleResponse::settled("test:1", None, "0xdef"), "0xdef"),
        (SettleResponse::settled("test:1", None, ""), "0xabc"),
    ] {
        let facilitator = ScriptedFacilitator::new();
        facilitator.queue_settle([Ok(pending()), Ok(second)]);
        let url =
            listen(Router::new().route("/", get(|| async { "goods" }).layer(layer(&facilitator))))
                .await;
        let answer = pay(&url).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(receipt_in(answer.headers()).transaction, transaction);
    }
}

/// Once, nothing was reserved between verification and settlement. One payment that was presented
/// 20 times at once ran 20 handlers.
#[tokio::test(flavor = "multi_thread")]
async fn payment_in_use_is_refused_to_other_requests() {
    let facilitator = ScriptedFacilitator::new();
    let (count, released) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (own, wait) = (count.clone(), released.clone());
    let handler = move || {
        own.fetch_add(1, Ordering::SeqCst);
        let wait = wait.clone();
        async move { wait.notified().await }
    };
    let url = listen(Router::new().route("/", get(handler).layer(layer(&facilitator)))).await;
    let payment = payment(2);
    let first = tokio::spawn({
        let (url, payment) = (url.clone(), payment.clone());
        async move { pay_with(&url, &payment).await }
    });
    while count.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    for answer in join_all((0..20).map(|_| pay_with(&url, &payment))).await {
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["retry-after"], "1");
    }
    released.notify_one();
    assert_eq!(first.await.unwrap().status(), StatusCode::OK);
    assert_eq!(
        (count.load(Ordering::SeqCst), facilitator.settle_calls()),
        (1, 1)
    );
    // It has bought its response, so it is refused without the facilitator.
    let again = pay_with(&url, &payment).await;
    assert_eq!(again.status(), StatusCode::PAYMENT_REQUIRED);
    let receipt = receipt_in(again.headers());
    assert_eq!(
        receipt.error_reason.as_deref(),
        Some("duplicate_settlement")
    );
    assert_eq!(receipt.transaction, "0x1");
    assert_eq!(
        (count.load(Ordering::SeqCst), facilitator.verify_calls()),
        (1, 1)
    );
}

/// attacks.md 186. Once, different unknown fields in the payload made one authorization look like
/// 20 payments: 20 handlers ran, and one was paid.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_payload_fields_do_not_make_another_payment() {
    let facilitator = ScriptedFacilitator::new();
    let (runs, released) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (own, wait) = (runs.clone(), released.clone());
    let handler = move || {
        own.fetch_add(1, Ordering::SeqCst);
        let wait = wait.clone();
        async move { wait.notified().await }
    };
    let url = listen(Router::new().route("/", get(handler).layer(layer(&facilitator)))).await;
    let spelled = |beside: usize| {
        let payload = json!({ "number": 7, "x": beside });
        let payment = json!({ "x402Version": 2, "accepted": accepted(), "payload": payload });
        let request = reqwest::Client::new().get(&url);
        let request = request.header(header::PAYMENT_SIGNATURE, header::encode(&payment));
        async move { request.send().await.unwrap().status() }
    };
    let first = tokio::spawn(spelled(0));
    while runs.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // If a handler ran for each, this would wait for ever.
    let others = join_all((1..20).map(spelled));
    let others = tokio::time::timeout(Duration::from_secs(10), others).await;
    for status in others.unwrap() {
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
    released.notify_one();
    assert_eq!(first.await.unwrap(), StatusCode::OK);
    assert_eq!(
        (runs.load(Ordering::SeqCst), facilitator.settle_calls()),
        (1, 1)
    );
}

#[tokio::test]
async fn panic_of_the_handler_releases_the_reservation() {
    let facilitator = ScriptedFacilitator::new();
    let panics = Arc::new(AtomicBool::new(true));
    let own = panics.clone();
    let handler = move || {
        let panics = own.swap(false, Ordering::SeqCst);
        async move { assert!(!panics, "the handler panics once") }
    };
    let url = listen(Router::new().route("/", get(handler).layer(layer(&facilitator)))).await;
    let payment = payment(2);
    let request = reqwest::Client::new().get(&url);
    let broken = request.header(header::PAYMENT_SIGNATURE, &payment).send();
    assert!(broken.await.is_err());
    assert_eq!(pay_with(&url, &payment).await.status(), StatusCode::OK);
    assert_eq!(facilitator.settle_calls(), 1);
}

/// attacks.md 127. Once, a sale ended with its client's connection, so a client that disconnected
/// after the handler had acted was not charged.
#[tokio::test]
async fn client_that_disconnects_during_the_handler_is_charged() {
    let facilitator = ScriptedFacilitator::new();
    let (begun, released) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, wait) = (begun.clone(), released.clone());
    let handler = move || {
        let (begins, wait) = (begins.clone(), wait.clone());
        async move {
            begins.notify_one();
            wait.notified().await;
        }
    };
    let url = listen(Router::new().route("/", get(handler).layer(layer(&facilitator)))).await;
    let client = tokio::spawn(async move { pay(&url).await });
    begun.notified().await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    // The server notices the closed connection in this time.
    tokio::time::sleep(Duration::from_millis(200)).await;
    released.notify_one();
    let settled = async {
        while facilitator.settle_calls() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let settled = tokio::time::timeout(Duration::from_secs(10), settled).await;
    assert!(settled.is_ok(), "the payment was not settled");
}

/// attacks.md 129, 188. Once, the response was lost when its client disconnected, and the payment
/// bought nothing when it was presented again.
#[tokio::test]
async fn undelivered_response_goes_once_to_the_same_request() {
    let facilitator = ScriptedFacilitator::new();
    let (begun, released) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, wait, runs) = (begun.clone(), released.clone(), Runs::default());
    let own = runs.clone();
    let handler = move || {
        let (begins, wait) = (begins.clone(), wait.clone());
        own.0.fetch_add(1, Ordering::SeqCst);
        async move {
            begins.notify_one();
            wait.notified().await;
            "goods"
        }
    };
    let url = listen(Router::new().route("/", get(handler).layer(layer(&facilitator)))).await;
    let payment = payment(2);
    let client = tokio::spawn({
        let (url, payment) = (url.clone(), payment.clone());
        async move { pay_with(&url, &payment).await }
    });
    begun.notified().await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    tokio::time::sleep(Duration::from_millis(200)).await;
    released.notify_one();
    while facilitator.settle_calls() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let other = pay_with(&format!("{url}?other"), &payment).await;
    assert_eq!(other.status(), StatusCode::PAYMENT_REQUIRED);
    let again = pay_with(&url, &payment).await;
    assert_eq!(again.status(), StatusCode::OK);
    assert_eq!(again.headers()["cache-control"], "no-store");
    let receipt = receipt_in(again.headers());
    assert_eq!(
        (receipt.success, receipt.transaction.as_str()),
        (true, "0x1")
    );
    assert_eq!(again.text().await.unwrap(), "goods");
    // It is delivered once. The next response names the transaction.
    let third = pay_with(&url, &payment).await;
    assert_eq!(third.status(), StatusCode::PAYMENT_REQUIRED);
    let receipt = receipt_in(third.headers());
    assert_eq!(
        (receipt.success, receipt.transaction.as_str()),
        (false, "0x1")
    );
    assert_eq!((runs.count(), facilitator.settle_calls()), (1, 1));
}

/// A client may also disconnect in the middle of a response.
#[tokio::test]
async fn response_cut_off_in_delivery_is_delivered_again() {
    // More than the buffers of all sockets on the way.
    const MEBIBYTES: usize = 32;
    let facilitator = ScriptedFacilitator::new();
    let goods = || async {
        let piece = Bytes::from(vec![b'x'; 1024 * 1024]);
        Body::from_stream(stream::iter(vec![Ok::<_, Infallible>(piece); MEBIBYTES]))
    };
    let price = layer(&facilitator).buffer(2 * MEBIBYTES * 1024 * 1024, LargeBody::Refuse);
    let url = listen(Router::new().route("/", get(goods).layer(price))).await;
    let payment = payment(2);
    let mut cut_off = pay_with(&url, &payment).await;
    assert!(cut_off.chunk().await.unwrap().is_some());
    drop(cut_off);
    let given = async {
        loop {
            let again = pay_with(&url, &payment).await;
            if again.status() == StatusCode::OK {
                return again.bytes().await.unwrap().len();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let given = tokio::time::timeout(Duration::from_secs(10), given).await;
    assert_eq!(given.unwrap(), MEBIBYTES * 1024 * 1024);
    assert_eq!(
        pay_with(&url, &payment).await.status(),
        StatusCode::PAYMENT_REQUIRED
    );
    assert_eq!(facilitator.settle_calls(), 1);
}

/// Once, a rate limit or a restart of the facilitator discarded the handler's response.
#[tokio::test(start_paused = true)]
async fn temporary_fault_of_settlement_keeps_the_response() {
    let busy = || Err(Fault::new(FaultKind::Busy, "busy").into());
    let down = || Err(Fault::new(FaultKind::FacilitatorUnreachable, "down").into());
    let far = || {
        let fault = Fault::new(FaultKind::Busy, "busy");
        let retry_after = Some(Duration::from_secs(17));
        Err(Fault {
            retry_after,
            ..fault
        }
        .into())
    };
    let never = || Err(Fault::new(FaultKind::Misconfigured, "no").into());
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    for (faults, status, calls) in [
        (vec![busy()], StatusCode::OK, 2),
        (vec![busy(), down(), busy()], StatusCode::OK, 4),
        (vec![busy(), down(), busy(), busy()], unavailable, 4),
        (vec![far()], unavailable, 1),
        (vec![never()], unavailable, 1),
    ] {
        let facilitator = ScriptedFacilitator::new();
        facilitator.queue_settle(faults);
        let mut service = layer(&facilitator).layer(tower::service_fn(async |_: Request<Body>| {
            Ok::<_, Infallible>(Response::new(Body::from("goods")))
        }));
        let request = Request::builder().uri("http://seller.example/");
        let request = request.header(header::PAYMENT_SIGNATURE, payment(2));
        let answer = service
            .call(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        assert_eq!(
            (answer.status(), facilitator.settle_calls()),
            (status, calls)
        );
    }
}

async fn listen_with_addresses(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// Presents the payment with this number and this `X-Forwarded-For`.
async fn present_for(url: &str, number: u64, address: &str) -> reqwest::Response {
    let payload = json!({ "number": number });
    let payment = json!({ "x402Version": 2, "accepted": accepted(), "payload": payload });
    let request = reqwest::Client::new().get(url);
    let request = request.header(header::PAYMENT_SIGNATURE, header::encode(&payment));
    let request = request.header("x-forwarded-for", address);
    request.send().await.unwrap()
}

/// attacks.md 213, 221. Once, one client without money could use up the facilitator's rate limit
/// for the seller, and stop all sales.
#[tokio::test]
async fn client_with_unsettled_payments_is_rate_limited() {
    let facilitator = ScriptedFacilitator::new();
    let handler = || async { "goods" };
    let app = Router::new()
        .route(
            "/",
            get(handler).layer(layer(&facilitator).clients(1, 3, 0)),
        )
        .route(
            "/proxied",
            get(handler).layer(layer(&facilitator).clients(1, 3, 1)),
        );
    let url = listen_with_addresses(app).await;
    // Sales are not limited.
    for number in 0..10 {
        assert_eq!(present_for(&url, number, "").await.status(), StatusCode::OK);
    }
    facilitator.reject("invalid_exact_evm_insufficient_balance");
    let before = facilitator.verify_calls();
    for number in 100..110 {
        // Without a proxy, the client itself sent the header.
        let answer = present_for(&url, number, &format!("192.0.2.{number}")).await;
        if number < 103 {
            assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED);
            continue;
        }
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        let after: u64 = answer.headers()["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=60).contains(&after), "{after}");
        let receipt = receipt_in(answer.headers());
        assert_eq!(receipt.error_reason.as_deref(), Some("handler_failed"));
    }
    assert_eq!(facilitator.verify_calls(), before + 3);
    // A request without payment does not count.
    assert_eq!(
        reqwest::get(&url).await.unwrap().status(),
        StatusCode::PAYMENT_REQUIRED
    );
    let proxied = format!("{url}/proxied");
    for number in 0..10 {
        let address = format!("10.0.0.1, 192.0.2.{number}:4711");
        let answer = present_for(&proxied, number, &address).await;
        assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED);
    }
}

/// A payment that verifies and does not settle runs the handler unpaid, so it counts.
#[tokio::test]
async fn verified_payments_that_do_not_settle_are_rate_limited() {
    let facilitator = ScriptedFacilitator::new();
    facilitator.set_settle(Ok(failed("insufficient_funds", "")));
    let handler = get(|| async { "goods" });
    let layer = layer(&facilitator).clients(1, 3, 0);
    let url = listen_with_addresses(Router::new().route("/", handler.layer(layer))).await;
    for number in 0..3 {
        let response = present_for(&url, number, "").await;
        assert_eq!(response.status(), StatusCode::PAYMENT_REQUIRED);
    }
    let response = present_for(&url, 3, "").await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(facilitator.verify_calls(), 3);
}

/// A page in a browser sends a preflight, reads the payment options, pays, and reads the receipt.
/// Clients of the reference implementation send `Access-Control-Expose-Headers` with the payment.
#[tokio::test]
async fn page_in_a_browser_can_pay_with_cors() {
    let facilitator = ScriptedFacilitator::new();
    let (handler, runs) = counting("goods");
    let price = layer(&facilitator).cors(quittance_seller::cors());
    let url = listen(Router::new().route("/", handler.layer(price))).await;
    let client = reqwest::Client::new();
    let listed = |answer: &reqwest::Response, name: &str| -> Vec<String> {
        let value = answer.headers()[name].to_str().unwrap().to_lowercase();
        value
            .split(',')
            .map(|name| name.trim().to_owned())
            .collect()
    };
    let preflight = client
        .request(Method::OPTIONS, &url)
        .header("origin", "https://app.example")
        .header("access-control-request-method", "GET")
        .header(
            "access-control-request-headers",
            "access-control-expose-headers,payment-signature",
        );
    let preflight = preflight.send().await.unwrap();
    assert!(preflight.status().is_success());
    assert_eq!(preflight.headers()["access-control-allow-origin"], "*");
    assert_eq!(listed(&preflight, "access-control-allow-methods"), ["get"]);
    let allowed = listed(&preflight, "access-control-allow-headers");
    for name in ["payment-signature", "access-control-expose-headers"] {
        assert!(allowed.contains(&name.to_owned()), "{allowed:?}");
    }
    assert_eq!((runs.count(), facilitator.verify_calls()), (0, 0));
    let page = || client.get(&url).header("origin", "https://app.example");
    let paid = page().header(header::PAYMENT_SIGNATURE, payment(2));
    for (request, status, name) in [
        (
            page(),
            StatusCode::PAYMENT_REQUIRED,
            header::PAYMENT_REQUIRED,
        ),
        (paid, StatusCode::OK, header::PAYMENT_RESPONSE),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status);
        assert!(answer.headers().contains_key(name));
        assert_eq!(answer.headers()["access-control-allow-origin"], "*");
        let readable = listed(&answer, "access-control-expose-headers");
        assert!(readable.contains(&name.to_lowercase()), "{readable:?}");
        assert!(readable.contains(&"retry-after".to_owned()));
    }
    assert_eq!(runs.count(), 1);
}

/// Once, configuration problems were only in the log.
#[tokio::test]
async fn misconfigured_seller_says_so_in_check_and_responses() {
    let facilitator = ScriptedFacilitator::new();
    assert_eq!(layer(&facilitator).check().await, Ok(()));
    let broken = PaymentLayer::new(facilitator.clone()).accept(BrokenOffer(TestOffer::new()));
    let nothing = PaymentLayer::new(facilitator.clone());
    for (layer, says) in [(broken, "no fee payer"), (nothing, "PaymentLayer::accept")] {
        let fault = layer.check().await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Misconfigured);
        assert!(fault.detail.contains(says), "{fault}");
        let url = listen(Router::new().route("/", get(|| async { "goods" }).layer(layer))).await;
        let answer = reqwest::get(&url).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["error"], "misconfigured");
        assert!(body["message"].as_str().unwrap().contains(says), "{body}");
    }
    facilitator.set_kinds(&[(2, "other:1")]);
    let fault = layer(&facilitator).check().await.unwrap_err();
    assert!(fault.detail.contains("test:1"), "{fault}");
}

/// An offer that lacks a field in the facilitator's response.
struct BrokenOffer(TestOffer);

impl Offer for BrokenOffer {
    fn scheme(&self) -> &str {
        self.0.scheme()
    }

    fn network(&self) -> &Network {
        self.0.network()
    }

    fn requirements(&self, _: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        let missing = Malformed::new("extra.feePayer", "no fee payer");
        Err(OfferError::Supported(missing))
    }
}

/// An offer whose hints contain another number each time.
struct HintingOffer(TestOffer, AtomicUsize);

#[async_trait]
impl Offer for HintingOffer {
    fn scheme(&self) -> &str {
        self.0.scheme()
    }

    fn network(&self) -> &Network {
        self.0.network()
    }

    fn requirements(&self, kind: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        self.0.requirements(kind)
    }

    async fn hints(&self) -> Option<Object> {
        let number = self.1.fetch_add(1, Ordering::SeqCst);
        Object::of(&json!({ "number": number, "feePayer": "other" })).ok()
    }
}

#[tokio::test]
async fn hints_are_offered_and_not_required() {
    let facilitator = ScriptedFacilitator::new();
    let extra = json!({ "feePayer": "known" });
    facilitator.set_extra(&extra);
    let price = PaymentLayer::new(facilitator.clone());
    let price = price.accept(HintingOffer(TestOffer::new(), AtomicUsize::new(0)));
    let url = listen(Router::new().route("/", get(|| async { "goods" }).layer(price))).await;
    for number in 0..3 {
        let answer = reqwest::get(&url).await.unwrap();
        let value = answer.headers()[header::PAYMENT_REQUIRED].as_bytes();
        let v2: PaymentRequired = header::decode("402", value).unwrap();
        let v1: v1::PaymentRequired = answer.json().await.unwrap();
        let expected = json!({ "feePayer": "known", "number": number });
        for extra in [&v2.accepts[0].extra, &v1.accepts[0].extra] {
            assert_eq!(json!(extra.as_ref().unwrap().tree()), expected);
        }
    }
    let with = |extra: &Value| {
        let mut accepted = accepted();
        accepted["extra"] = extra.clone();
        let payload = json!({ "number": extra["number"] });
        header::encode(&json!({ "x402Version": 2, "accepted": accepted, "payload": payload }))
    };
    for (extra, status) in [
        (json!({ "feePayer": "known", "number": 1 }), StatusCode::OK),
        (extra, StatusCode::OK),
        (
            json!({ "feePayer": "other", "number": 2 }),
            StatusCode::PAYMENT_REQUIRED,
        ),
    ] {
        let request = reqwest::Client::new().get(&url);
        let request = request.header(header::PAYMENT_SIGNATURE, with(&extra));
        assert_eq!(request.send().await.unwrap().status(), status, "{extra}");
    }
}

/// An offer with an extension of its own, and one that the facilitator must support.
struct SponsoredOffer(TestOffer);

impl Offer for SponsoredOffer {
    fn scheme(&self) -> &str {
        self.0.scheme()
    }

    fn network(&self) -> &Network {
        self.0.network()
    }

    fn requirements(&self, kind: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        self.0.requirements(kind)
    }

    fn extensions(&self, supported: &[String]) -> Option<Object> {
        let mut all = json!({ "own": { "info": 1 } });
        if supported.iter().any(|name| name == "eip2612GasSponsoring") {
            all["eip2612GasSponsoring"] = json!({ "info": { "version": "1" } });
        }
        Object::of(&all).ok()
    }
}

#[tokio::test]
async fn extension_is_offered_if_the_facilitator_supports_it() {
    for (supported, names) in [
        (None, vec!["own"]),
        (Some("other"), vec!["own"]),
        (
            Some("eip2612GasSponsoring"),
            vec!["eip2612GasSponsoring", "own"],
        ),
    ] {
        let facilitator = ScriptedFacilitator::new();
        facilitator.set_extensions(supported);
        let layer = PaymentLayer::new(facilitator.clone())
            .accept(TestOffer::new())
            .accept(SponsoredOffer(TestOffer::new()));
        let url = listen(Router::new().route("/", get(|| async { "ok" }).layer(layer))).await;
        let answer = reqwest::get(&url).await.unwrap();
        let offered = answer.headers()[header::PAYMENT_REQUIRED].as_bytes();
        let offered: PaymentRequired = header::decode("offered", offered).unwrap();
        let extensions: Object = offered.extensions.unwrap().read("extensions").unwrap();
        let offered: Vec<_> = extensions.tree().keys().cloned().collect();
        assert_eq!(offered, names);
    }
}

/// Once, one failing offer made the route unavailable.
#[tokio::test]
async fn failing_offer_does_not_affect_the_others() {
    let facilitator = ScriptedFacilitator::new();
    let broken = || PaymentLayer::new(facilitator.clone()).accept(BrokenOffer(TestOffer::new()));
    let app = Router::new()
        .route("/broken", get(|| async { "goods" }).layer(broken()))
        .route(
            "/both",
            get(|| async { "goods" }).layer(broken().accept(TestOffer::new())),
        );
    let url = listen(app).await;
    let broken = pay(&format!("{url}/broken")).await;
    assert_eq!(broken.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body: Value = broken.json().await.unwrap();
    assert_eq!(body["error"], "misconfigured");
    assert_eq!(pay(&format!("{url}/both")).await.status(), StatusCode::OK);
}

/// attacks.md 115. No cache may store a paid response, nor a refusal.
#[tokio::test]
async fn every_response_forbids_caching_and_varies_by_payment() {
    let facilitator = ScriptedFacilitator::new();
    let handler = || async {
        let headers = [
            ("cache-control", "public, no-transform, max-age=3600"),
            ("vary", "accept"),
        ];
        (headers, "goods")
    };
    let url = listen(Router::new().route("/", get(handler).layer(layer(&facilitator)))).await;
    for (answer, caches) in [
        (reqwest::get(&url).await.unwrap(), "no-store"),
        (pay(&url).await, "no-store, no-transform"),
    ] {
        assert_eq!(answer.headers()["cache-control"], caches);
        let mut vary = answer.headers().get_all("vary").iter();
        assert!(vary.any(|value| value == "PAYMENT-SIGNATURE, X-PAYMENT"));
    }
}

/// attacks.md 118.
#[tokio::test]
async fn overlong_payment_header_is_431() {
    let facilitator = ScriptedFacilitator::new();
    let url =
        listen(Router::new().route("/", get(|| async { "goods" }).layer(layer(&facilitator))))
            .await;
    for name in [header::PAYMENT_SIGNATURE, header::X_PAYMENT] {
        for (length, status) in [
            (header::VALUE_MAX, StatusCode::BAD_REQUEST),
            (
                header::VALUE_MAX + 4,
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            ),
        ] {
            let request = reqwest::Client::new().get(&url);
            let request = request.header(name, "A".repeat(length));
            assert_eq!(request.send().await.unwrap().status(), status, "{name}");
        }
    }
}

#[tokio::test]
async fn unknown_version_is_refused_by_its_code() {
    let facilitator = ScriptedFacilitator::new();
    let url =
        listen(Router::new().route("/", get(|| async { "goods" }).layer(layer(&facilitator))))
            .await;
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
async fn cloned_layer_can_be_changed() {
    let facilitator = ScriptedFacilitator::new();
    let plain = PaymentLayer::new(facilitator.clone());
    let priced = plain.clone().accept(TestOffer::new());
    let app = Router::new()
        .route("/plain", get(|| async { "goods" }).layer(plain))
        .route("/priced", get(|| async { "goods" }).layer(priced));
    let url = listen(app).await;
    let status = async |path: &str| reqwest::get(format!("{url}{path}")).await.unwrap().status();
    assert_eq!(status("/plain").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(status("/priced").await, StatusCode::PAYMENT_REQUIRED);
}

/// Once, an empty `PAYMENT-REQUIRED` header hid the options in the body, and a version 2 client
/// found none.
#[tokio::test]
async fn only_versions_of_the_facilitator_are_offered() {
    for (kinds, in_header, in_body) in [
        (&[(2, "test:1")][..], Some(2), 2),
        (&[(1, "test")], None, 1),
        (&[(2, "test:1"), (1, "test")], Some(2), 1),
    ] {
        let facilitator = ScriptedFacilitator::new();
        facilitator.set_kinds(kinds);
        let url =
            listen(Router::new().route("/", get(|| async { "" }).layer(layer(&facilitator)))).await;
        let answer = reqwest::get(&url).await.unwrap();
        let value = answer.headers().get(header::PAYMENT_REQUIRED).cloned();
        let header = value.map(|value| header::decode("402", value.as_bytes()).unwrap());
        let body: Value = answer.json().await.unwrap();
        assert_eq!(
            header.as_ref().map(|it: &Value| it["x402Version"].clone()),
            in_header.map(Value::from)
        );
        assert_eq!(body["x402Version"], in_body);
        for required in [Some(body), header].into_iter().flatten() {
            assert_eq!(required["accepts"].as_array().unwrap().len(), 1);
        }
    }
}

/// The buyer chooses the version that the facilitator supports.
#[tokio::test]
async fn buyer_pays_a_facilitator_of_either_version() {
    for kinds in [&[(2, "test:1")][..], &[(1, "test")]] {
        let facilitator = ScriptedFacilitator::new();
        facilitator.set_kinds(kinds);
        let url =
            listen(Router::new().route("/", get(|| async { "goods" }).layer(layer(&facilitator))))
                .await;
        let buyer = Buyer::builder()
            .payer(TestPayer::default())
            .build()
            .unwrap();
        let bought = buyer.get(&url).await.unwrap();
        assert_eq!(bought.response.text().await.unwrap(), "goods");
    }
}

/// A facilitator with several fee payers names them in turn. Once, a buyer that got one just before
/// the seller asked again was refused, as if it had paid for other options.
#[tokio::test(start_paused = true)]
async fn recently_replaced_options_are_accepted() {
    let facilitator = ScriptedFacilitator::new();
    let mut service = layer(&facilitator).layer(tower::service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(Response::new(Body::from("goods")))
    }));
    let mut number = 0;
    let mut ask = async |fee_payer: Option<&str>| {
        let mut request = Request::builder().uri("http://seller.example/");
        if let Some(fee_payer) = fee_payer {
            let mut accepted = accepted();
            accepted["extra"] = json!({ "feePayer": fee_payer });
            number += 1;
            let payload = json!({ "number": number });
            let payment = json!({ "x402Version": 2, "accepted": accepted, "payload": payload });
            request = request.header(header::PAYMENT_SIGNATURE, header::encode(&payment));
        }
        let request = request.body(Body::empty()).unwrap();
        service.call(request).await.unwrap().status()
    };
    let minute = Duration::from_secs(60);
    for fee_payer in ["one", "two", "three"] {
        tokio::time::advance(minute / 2).await;
        facilitator.set_extra(&json!({ "feePayer": fee_payer }));
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
async fn payment_header_is_marked_sensitive() {
    let facilitator = ScriptedFacilitator::new();
    let handler = |headers: HeaderMap| async move { format!("{headers:?}") };
    let url = listen(Router::new().route("/", get(handler).layer(layer(&facilitator)))).await;
    let payment = payment(2);
    let printed = pay_with(&url, &payment).await.text().await.unwrap();
    assert!(printed.contains("Sensitive") && !printed.contains(&payment));
}

/// A facilitator behind HTTP whose `/verify` and `/settle` return this response.
async fn remote(status: StatusCode, body: &'static str) -> RemoteFacilitator {
    let answer = move || async move { (status, [("retry-after", "17")], body).into_response() };
    let supported = r#"{"kinds":[{"x402Version":2,"scheme":"exact","network":"test:1"}]}"#;
    let app = Router::new()
        .route("/supported", get(move || async move { supported }))
        .fallback(any(answer));
    RemoteFacilitator::new(&listen(app).await).unwrap()
}

/// Some facilitators answer 400 to payments that others settle. That is not a verdict on the
/// payment.
#[tokio::test]
async fn facilitators_failure_is_503_with_its_retry_after() {
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

/// An engine in this process reports a payload that it cannot parse as malformed.
#[tokio::test]
async fn malformed_payload_is_400_and_a_fault_is_503() {
    let facilitator = ScriptedFacilitator::new();
    let url =
        listen(Router::new().route("/", get(|| async { "goods" }).layer(layer(&facilitator))))
            .await;
    facilitator.set_verify(Err(Malformed::new("paymentPayload.payload", "no").into()));
    assert_eq!(pay(&url).await.status(), StatusCode::BAD_REQUEST);
    facilitator.set_verify(Err(Fault::new(FaultKind::Internal, "no").into()));
    assert_eq!(pay(&url).await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

/// Some wallets write one payment into both headers, in one form or in the form of each version.
#[tokio::test]
async fn equal_payments_in_both_headers_are_one_payment() {
    let facilitator = ScriptedFacilitator::new();
    let url =
        listen(Router::new().route("/", get(|| async { "goods" }).layer(layer(&facilitator))))
            .await;
    let v2 = |payload: Value| {
        header::encode(&json!({ "x402Version": 2, "accepted": accepted(), "payload": payload }))
    };
    let v1 = |payload: Value| {
        header::encode(
            &json!({ "x402Version": 1, "scheme": "exact", "network": "test", "payload": payload }),
        )
    };
    let ask = async |headers: &[(&str, String)]| {
        let mut request = reqwest::Client::new().get(&url);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        request.send().await.unwrap().status()
    };
    let (signature, x_payment) = (header::PAYMENT_SIGNATURE, header::X_PAYMENT);
    // Each case has a payment of its own, because a payment buys one response.
    let one = |case: u64| json!({ "case": case, "b": "2" });
    let respelled = |case: u64| json!({ "b": "2", "case": case });
    let other = |case: u64| json!({ "case": case, "b": "3" });
    for (status, headers) in [
        (200, [(signature, v2(one(0))), (x_payment, v2(one(0)))]),
        (
            200,
            [(signature, v2(one(1))), (x_payment, v1(respelled(1)))],
        ),
        (
            200,
            [(signature, v2(one(2))), (signature, v2(respelled(2)))],
        ),
        (200, [(x_payment, v1(one(3))), (x_payment, v1(one(3)))]),
        (400, [(signature, v2(one(4))), (x_payment, v2(other(4)))]),
        (400, [(signature, v2(one(5))), (x_payment, v1(other(5)))]),
        (400, [(signature, v2(one(6))), (signature, v2(other(6)))]),
        (
            400,
            [(signature, v2(one(7))), (x_payment, "e30=".to_owned())],
        ),
    ] {
        let settled = facilitator.settle_calls();
        assert_eq!(ask(&headers).await, status, "{headers:?}");
        assert_eq!(
            facilitator.settle_calls() - settled,
            usize::from(status == 200)
        );
    }
}

#[tokio::test]
async fn payment_without_version_has_its_headers_version() {
    let facilitator = ScriptedFacilitator::new();
    let url =
        listen(Router::new().route("/", get(|| async { "goods" }).layer(layer(&facilitator))))
            .await;
    let v2 = json!({ "accepted": accepted(), "payload": { "case": 2 } });
    let v1 = json!({ "scheme": "exact", "network": "test", "payload": { "case": 1 } });
    for (name, payment) in [(header::PAYMENT_SIGNATURE, v2), (header::X_PAYMENT, v1)] {
        let request = reqwest::Client::new().get(&url);
        let answer = request.header(name, header::encode(&payment)).send().await;
        assert_eq!(answer.unwrap().status(), StatusCode::OK, "{name}");
    }
}

/// The head of a response on a connection, in lower case, after its whole body has arrived.
async fn response_head(connection: &mut TcpStream) -> String {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1).unwrap();
            let length: usize = length.lines().next().unwrap().parse().unwrap();
            if body.len() >= length {
                return head.to_owned();
            }
        }
        let more = connection.read_buf(&mut read).await.unwrap();
        assert!(more > 0, "closed after {text:?}");
    }
}

/// Once, a 402 response to a POST left the body on the connection. The server closed it, and the
/// buyer's next request on it, the one with the payment, failed.
#[tokio::test]
async fn refusal_keeps_the_connection_usable_or_closes_it() {
    let facilitator = ScriptedFacilitator::new();
    let goods = post(|_: Bytes| async { "goods" }).layer(layer(&facilitator));
    let url = listen(Router::new().route("/goods", goods)).await;
    let address = url.strip_prefix("http://").unwrap();
    let head = |more: &str| format!("POST /goods HTTP/1.1\r\nHost: x\r\n{more}\r\n");
    for late in [0, 20, 200] {
        let payment = payment(2);
        let name = header::PAYMENT_SIGNATURE;
        let paid = format!("Content-Length: 4000\r\n{name}: {payment}\r\n");
        let mut connection = TcpStream::connect(address).await.unwrap();
        for (more, status) in [("Content-Length: 4000\r\n", "402"), (&paid, "200")] {
            connection.write_all(head(more).as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(late)).await;
            connection.write_all(&[b'x'; 4000]).await.unwrap();
            let received = response_head(&mut connection).await;
            let expected = format!("http/1.1 {status}");
            assert!(received.starts_with(&expected), "{late}: {received}");
            assert!(
                !received.contains("connection: close"),
                "{late}: {received}"
            );
        }
    }
    // A body that does not arrive, one that is too long to be read, and one that waits for 100.
    for more in [
        "Content-Length: 10\r\n",
        "Content-Length: 10000000000\r\n",
        "Content-Length: 10\r\nExpect: 100-continue\r\n",
        "Transfer-Encoding: chunked\r\n",
    ] {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(head(more).as_bytes()).await.unwrap();
        let received = response_head(&mut connection).await;
        assert!(received.starts_with("http/1.1 402"), "{more}: {received}");
        assert!(received.contains("connection: close"), "{more}: {received}");
    }
}

/// 202 says that the response comes later, so the buyer comes back for it.
#[tokio::test]
async fn buyer_gets_the_response_to_a_pending_payment() {
    let facilitator = ScriptedFacilitator::new();
    let pending = || Ok(failed("settlement_pending", "0x1"));
    facilitator.queue_settle([pending(), pending()]);
    let goods = get(|| async { "goods" }).layer(layer(&facilitator).answer_pending());
    let url = listen(Router::new().route("/", goods)).await;
    let buyer = Buyer::builder().payer(TestPayer::default());
    let buyer = buyer.build().unwrap();
    let purchase = buyer.get(&url).await.unwrap();
    assert_eq!(purchase.response.status(), StatusCode::OK);
    assert_eq!(purchase.response.text().await.unwrap(), "goods");
    assert!(buyer.open_payments().is_empty());
}
