//! The seller's layer: nobody pays for a failure, nobody is served for nothing, and browsers and routers get along with it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod common;

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
use common::{Puppet, TestOffer, failed, listen, purchaser, terms};
use futures_util::future::join_all;
use futures_util::stream;
use quittance_core::json::Object;
use quittance_core::wire::{
    PaymentRequired, PaymentRequirements, ResourceInfo, SettleResponse, SupportedKind,
    VerifyResponse, header, v1,
};
use quittance_core::{Fault, FaultKind, Malformed, Network, Offer, OfferError, Reason, Rejection};
use quittance_http::{RemoteError, RemoteFacilitator};
use quittance_seller::{Longer, PaymentLayer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tower::{Layer as _, Service as _};

fn layer(facilitator: &Arc<Puppet>) -> PaymentLayer {
    PaymentLayer::new(facilitator.clone()).accept(TestOffer::new())
}

/// A payment as it stands in its header. Each is another one.
fn payment(version: u64) -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(1000);
    let payload = json!({ "number": NUMBER.fetch_add(1, Ordering::SeqCst) });
    header::encode(&json!({ "x402Version": version, "accepted": terms(), "payload": payload }))
}

async fn pay(url: &str) -> reqwest::Response {
    pay_with(url, &payment(2)).await
}

async fn pay_with(url: &str, payment: &str) -> reqwest::Response {
    let request = reqwest::Client::new().get(url);
    let request = request.header(header::PAYMENT_SIGNATURE, payment);
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
async fn a_handler_that_fails_says_that_nothing_was_settled_to_a_buyer_that_trusts_it() {
    let puppet = Puppet::new();
    let handler = || async { StatusCode::INTERNAL_SERVER_ERROR };
    let url = listen(Router::new().route("/", any(handler).layer(layer(&puppet)))).await;
    let shop = purchaser(|builder| builder.trust(&url));
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
    assert_eq!(shop.payer.signed.load(Ordering::SeqCst), 2);
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
    let resource: ResourceInfo = required.resource.unwrap().read("resource").unwrap();
    assert_eq!(resource.url, format!("{url}/api/goods?x=1"));
}

/// A handler that counts how often it runs.
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

/// attacks.md 121, 187. A browser asks first, without payment. Its question ran the handler of an `any`
/// route, with a body of the asker's: a handler that does deeds did them for nothing.
#[tokio::test]
async fn a_preflight_never_reaches_a_handler() {
    let puppet = Puppet::new();
    let goods = (
        [("access-control-allow-origin", "*"), ("x-goods", "goods")],
        "goods",
    );
    let (handler, runs) = counting(goods);
    let url = listen(Router::new().route("/", handler.layer(layer(&puppet)))).await;
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
    assert_eq!((runs.count(), puppet.verify_calls()), (0, 0));
}

/// attacks.md 187. A paid HEAD ran the handler, was charged, and delivered no byte.
#[tokio::test]
async fn a_method_that_delivers_nothing_is_neither_served_nor_charged() {
    let puppet = Puppet::new();
    let (handler, runs) = counting("goods");
    let url = listen(Router::new().route("/", handler.layer(layer(&puppet)))).await;
    for method in ["HEAD", "OPTIONS", "TRACE"] {
        let answer = pay_by(method, &url).await;
        assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED, "{method}");
        assert!(answer.headers().contains_key(header::PAYMENT_REQUIRED));
        let word = receipt(answer.headers());
        assert_eq!(word.error_reason.as_deref(), Some("handler_failed"));
        assert!(word.error_message.unwrap().starts_with(method));
    }
    assert_eq!(
        (runs.count(), puppet.verify_calls(), puppet.settle_calls()),
        (0, 0, 0)
    );
    // Only its handler knows what another method does.
    for method in ["GET", "DELETE", "FOO"] {
        assert_eq!(pay_by(method, &url).await.text().await.unwrap(), "goods");
    }
    assert_eq!((runs.count(), puppet.settle_calls()), (3, 3));
}

/// A 304 was charged, and its client had bought what it held already.
#[tokio::test]
async fn an_answer_is_charged_for_when_it_delivers_or_does_something() {
    for (status, charged) in [
        (200, 1),
        (204, 1),
        (206, 1),
        (303, 1),
        (304, 0),
        (404, 0),
        (500, 0),
    ] {
        let puppet = Puppet::new();
        let status = StatusCode::from_u16(status).unwrap();
        let (handler, _) = counting(status);
        let url = listen(Router::new().route("/", handler.layer(layer(&puppet)))).await;
        let answer = pay(&url).await;
        assert_eq!(answer.status(), status);
        assert_eq!(puppet.settle_calls(), charged, "{status}");
        let word = receipt(answer.headers());
        let reason = (charged == 0).then_some("handler_failed");
        assert_eq!(
            (word.success, word.error_reason.as_deref()),
            (charged == 1, reason)
        );
    }
}

/// The facilitator's sentence was dropped, and the buyer had a bare code.
#[tokio::test]
async fn what_a_facilitator_says_of_a_refusal_reaches_the_client() {
    let puppet = Puppet::new();
    let url =
        listen(Router::new().route("/", get(|| async { "goods" }).layer(layer(&puppet)))).await;
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
        for told in [v1, v2] {
            assert_eq!(told["error"], "invalid_exact_evm_insufficient_balance");
            assert_eq!(told["errorMessage"], "has 5, [2Jrequired 10000");
        }
        receipt
    };
    puppet.verifies(Ok(VerifyResponse::invalid(&rejection(), None)));
    assert_eq!(refused().await, None);
    puppet.verifies(Ok(VerifyResponse::valid(None)));
    puppet.settles(Ok(SettleResponse::failed("test:1", &rejection(), None, "")));
    let value = refused().await.unwrap();
    let told: SettleResponse = header::decode("receipt", value.as_bytes()).unwrap();
    assert_eq!(told.error_message, rejection().detail);
}

fn pending() -> SettleResponse {
    failed("settlement_pending", "0xabc")
}

/// The second answer replaced the first whole: a fault left the buyer without the transaction's id, and the verdict of another
/// instance of the facilitator, which did not know of it, read as if nothing had been sent.
#[tokio::test]
async fn a_transaction_that_was_named_is_not_dropped_when_asking_again_names_none() {
    for second in [
        Err(Fault::new(FaultKind::ChainUnavailable, "down").into()),
        Err(Malformed::new("paymentPayload", "no").into()),
        Ok(failed("invalid_exact_evm_insufficient_balance", "")),
        Ok(failed("settlement_pending", "")),
    ] {
        let puppet = Puppet::new();
        puppet.settles_first([Ok(pending()), second]);
        let url =
            listen(Router::new().route("/", get(|| async { "goods" }).layer(layer(&puppet)))).await;
        let answer = pay(&url).await;
        assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED);
        assert_eq!(receipt(answer.headers()), pending());
    }
    for (second, transaction) in [
        (SettleResponse::settled("test:1", None, "0xdef"), "0xdef"),
        (SettleResponse::settled("test:1", None, ""), "0xabc"),
    ] {
        let puppet = Puppet::new();
        puppet.settles_first([Ok(pending()), Ok(second)]);
        let url =
            listen(Router::new().route("/", get(|| async { "goods" }).layer(layer(&puppet)))).await;
        let answer = pay(&url).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(receipt(answer.headers()).transaction, transaction);
    }
}

/// Nothing was reserved between verifying and settling: one payment, presented twenty times at once, ran twenty handlers.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_is_being_served_is_served_to_nobody_else() {
    let puppet = Puppet::new();
    let (count, released) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (own, wait) = (count.clone(), released.clone());
    let handler = move || {
        own.fetch_add(1, Ordering::SeqCst);
        let wait = wait.clone();
        async move { wait.notified().await }
    };
    let url = listen(Router::new().route("/", get(handler).layer(layer(&puppet)))).await;
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
        (count.load(Ordering::SeqCst), puppet.settle_calls()),
        (1, 1)
    );
    // It has bought its answer, whatever the facilitator says of it now.
    let again = pay_with(&url, &payment).await;
    assert_eq!(again.status(), StatusCode::PAYMENT_REQUIRED);
    let word = receipt(again.headers());
    assert_eq!(word.error_reason.as_deref(), Some("duplicate_settlement"));
    assert_eq!(word.transaction, "0x1");
    assert_eq!(
        (count.load(Ordering::SeqCst), puppet.verify_calls()),
        (1, 1)
    );
}

/// attacks.md 186. An unknown field in the payload, another one each time, made one authorization look like twenty:
/// twenty handlers ran, and one was paid.
#[tokio::test(flavor = "multi_thread")]
async fn one_authorization_runs_one_handler_whatever_stands_beside_it() {
    let puppet = Puppet::new();
    let (runs, released) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (own, wait) = (runs.clone(), released.clone());
    let handler = move || {
        own.fetch_add(1, Ordering::SeqCst);
        let wait = wait.clone();
        async move { wait.notified().await }
    };
    let url = listen(Router::new().route("/", get(handler).layer(layer(&puppet)))).await;
    let spelled = |beside: usize| {
        let payload = json!({ "number": 7, "x": beside });
        let payment = json!({ "x402Version": 2, "accepted": terms(), "payload": payload });
        let request = reqwest::Client::new().get(&url);
        let request = request.header(header::PAYMENT_SIGNATURE, header::encode(&payment));
        async move { request.send().await.unwrap().status() }
    };
    let first = tokio::spawn(spelled(0));
    while runs.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // With a handler for each it would never end.
    let others = join_all((1..20).map(spelled));
    let others = tokio::time::timeout(Duration::from_secs(10), others).await;
    for status in others.unwrap() {
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
    released.notify_one();
    assert_eq!(first.await.unwrap(), StatusCode::OK);
    assert_eq!((runs.load(Ordering::SeqCst), puppet.settle_calls()), (1, 1));
}

#[tokio::test]
async fn a_handler_that_panics_leaves_its_payments_place() {
    let puppet = Puppet::new();
    let panics = Arc::new(AtomicBool::new(true));
    let own = panics.clone();
    let handler = move || {
        let panics = own.swap(false, Ordering::SeqCst);
        async move { assert!(!panics, "as it was told") }
    };
    let url = listen(Router::new().route("/", get(handler).layer(layer(&puppet)))).await;
    let payment = payment(2);
    let request = reqwest::Client::new().get(&url);
    let broken = request.header(header::PAYMENT_SIGNATURE, &payment).send();
    assert!(broken.await.is_err());
    assert_eq!(pay_with(&url, &payment).await.status(), StatusCode::OK);
    assert_eq!(puppet.settle_calls(), 1);
}

/// attacks.md 127. The sale lived in its client's connection: who hung up once the handler had done its deed paid nothing.
#[tokio::test]
async fn a_client_that_hangs_up_while_the_handler_runs_has_paid_all_the_same() {
    let puppet = Puppet::new();
    let (begun, released) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, wait) = (begun.clone(), released.clone());
    let handler = move || {
        let (begins, wait) = (begins.clone(), wait.clone());
        async move {
            begins.notify_one();
            wait.notified().await;
        }
    };
    let url = listen(Router::new().route("/", get(handler).layer(layer(&puppet)))).await;
    let client = tokio::spawn(async move { pay(&url).await });
    begun.notified().await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    // Time enough for the server to see that the connection is gone.
    tokio::time::sleep(Duration::from_millis(200)).await;
    released.notify_one();
    let settled = async {
        while puppet.settle_calls() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let settled = tokio::time::timeout(Duration::from_secs(10), settled).await;
    assert!(settled.is_ok(), "the payment was not settled");
}

/// attacks.md 129, 188. The answer was lost with its client, and the payment, presented again, bought nothing.
#[tokio::test]
async fn an_answer_whose_client_went_away_is_given_out_once_to_the_same_request() {
    let puppet = Puppet::new();
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
    let url = listen(Router::new().route("/", get(handler).layer(layer(&puppet)))).await;
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
    while puppet.settle_calls() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let other = pay_with(&format!("{url}?other"), &payment).await;
    assert_eq!(other.status(), StatusCode::PAYMENT_REQUIRED);
    let again = pay_with(&url, &payment).await;
    assert_eq!(again.status(), StatusCode::OK);
    assert_eq!(again.headers()["cache-control"], "no-store");
    let word = receipt(again.headers());
    assert_eq!((word.success, word.transaction.as_str()), (true, "0x1"));
    assert_eq!(again.text().await.unwrap(), "goods");
    // Once: the next answer says where the money went.
    let third = pay_with(&url, &payment).await;
    assert_eq!(third.status(), StatusCode::PAYMENT_REQUIRED);
    let word = receipt(third.headers());
    assert_eq!((word.success, word.transaction.as_str()), (false, "0x1"));
    assert_eq!((runs.count(), puppet.settle_calls()), (1, 1));
}

/// A client may also go away in the middle of an answer.
#[tokio::test]
async fn an_answer_that_was_cut_off_on_its_way_is_given_out_again() {
    // More than all sockets between hold.
    const MEBIBYTES: usize = 32;
    let puppet = Puppet::new();
    let goods = || async {
        let piece = Bytes::from(vec![b'x'; 1024 * 1024]);
        Body::from_stream(stream::iter(vec![Ok::<_, Infallible>(piece); MEBIBYTES]))
    };
    let price = layer(&puppet).buffer(2 * MEBIBYTES * 1024 * 1024, Longer::Refuse);
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
    assert_eq!(puppet.settle_calls(), 1);
}

/// A full bucket or a facilitator that starts anew threw the handler's work away.
#[tokio::test(start_paused = true)]
async fn a_moments_fault_of_settling_does_not_throw_the_answer_away() {
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
        let puppet = Puppet::new();
        puppet.settles_first(faults);
        let mut shop = layer(&puppet).layer(tower::service_fn(async |_: Request<Body>| {
            Ok::<_, Infallible>(Response::new(Body::from("goods")))
        }));
        let request = Request::builder().uri("http://shop.example/");
        let request = request.header(header::PAYMENT_SIGNATURE, payment(2));
        let answer = shop
            .call(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        assert_eq!((answer.status(), puppet.settle_calls()), (status, calls));
    }
}

async fn listen_knowing_clients(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// Presents the payment with this number, from this address.
async fn present_for(url: &str, number: u64, address: &str) -> reqwest::Response {
    let payload = json!({ "number": number });
    let payment = json!({ "x402Version": 2, "accepted": terms(), "payload": payload });
    let request = reqwest::Client::new().get(url);
    let request = request.header(header::PAYMENT_SIGNATURE, header::encode(&payment));
    let request = request.header("x-forwarded-for", address);
    request.send().await.unwrap()
}

/// attacks.md 213, 221. One client without money used up what the facilitator allows the seller, and no sale was possible.
#[tokio::test]
async fn a_client_whose_payments_do_not_settle_is_not_asked_about_for_long() {
    let puppet = Puppet::new();
    let handler = || async { "goods" };
    let app = Router::new()
        .route("/", get(handler).layer(layer(&puppet).clients(1, 3, 0)))
        .route(
            "/proxied",
            get(handler).layer(layer(&puppet).clients(1, 3, 1)),
        );
    let url = listen_knowing_clients(app).await;
    // Sales are not limited.
    for number in 0..10 {
        assert_eq!(present_for(&url, number, "").await.status(), StatusCode::OK);
    }
    puppet.rejects("invalid_exact_evm_insufficient_balance");
    let before = puppet.verify_calls();
    for number in 100..110 {
        // Without a proxy the header is the client's own word.
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
        let word = receipt(answer.headers());
        assert_eq!(word.error_reason.as_deref(), Some("handler_failed"));
    }
    assert_eq!(puppet.verify_calls(), before + 3);
    // A request without payment costs nothing.
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

/// What a page in a browser does: it asks, reads the terms, pays, reads the receipt. Clients of the
/// reference implementation send `Access-Control-Expose-Headers` with the payment.
#[tokio::test]
async fn a_page_in_a_browser_can_pay_where_the_layer_is_told_of_cors() {
    let puppet = Puppet::new();
    let (handler, runs) = counting("goods");
    let price = layer(&puppet).cors(quittance_seller::cors());
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
    assert_eq!((runs.count(), puppet.verify_calls()), (0, 0));
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

/// What is wrong with the configuration stood in a log that was not kept.
#[tokio::test]
async fn a_seller_that_is_misconfigured_says_so_at_the_start_and_in_its_answers() {
    let puppet = Puppet::new();
    assert_eq!(layer(&puppet).check().await, Ok(()));
    let broken = PaymentLayer::new(puppet.clone()).accept(BrokenOffer(TestOffer::new()));
    let nothing = PaymentLayer::new(puppet.clone());
    for (layer, says) in [(broken, "no fee payer"), (nothing, "PaymentLayer::accept")] {
        let fault = layer.check().await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Misconfigured);
        assert!(fault.detail.contains(says), "{fault}");
        let url = listen(Router::new().route("/", get(|| async { "goods" }).layer(layer))).await;
        let answer = reqwest::get(&url).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let told: Value = answer.json().await.unwrap();
        assert_eq!(told["error"], "misconfigured");
        assert!(told["message"].as_str().unwrap().contains(says), "{told}");
    }
    puppet.supports(&[(2, "other:1")]);
    let fault = layer(&puppet).check().await.unwrap_err();
    assert!(fault.detail.contains("test:1"), "{fault}");
}

/// An offer that its facilitator says too little of.
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

/// An offer that tells another number each time.
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
        Object::of(&json!({ "number": number, "feePayer": "nobody" })).ok()
    }
}

#[tokio::test]
async fn what_an_offer_hints_at_is_told_and_nobody_is_held_to_it() {
    let puppet = Puppet::new();
    let facts = json!({ "feePayer": "somebody" });
    puppet.says_of_all(&facts);
    let price = PaymentLayer::new(puppet.clone());
    let price = price.accept(HintingOffer(TestOffer::new(), AtomicUsize::new(0)));
    let url = listen(Router::new().route("/", get(|| async { "goods" }).layer(price))).await;
    for number in 0..3 {
        let answer = reqwest::get(&url).await.unwrap();
        let value = answer.headers()[header::PAYMENT_REQUIRED].as_bytes();
        let v2: PaymentRequired = header::decode("402", value).unwrap();
        let v1: v1::PaymentRequired = answer.json().await.unwrap();
        let told = json!({ "feePayer": "somebody", "number": number });
        for extra in [&v2.accepts[0].extra, &v1.accepts[0].extra] {
            assert_eq!(json!(extra.as_ref().unwrap().tree()), told);
        }
    }
    let with = |extra: &Value| {
        let mut accepted = terms();
        accepted["extra"] = extra.clone();
        let payload = json!({ "number": extra["number"] });
        header::encode(&json!({ "x402Version": 2, "accepted": accepted, "payload": payload }))
    };
    for (extra, status) in [
        (
            json!({ "feePayer": "somebody", "number": 1 }),
            StatusCode::OK,
        ),
        (facts, StatusCode::OK),
        (
            json!({ "feePayer": "nobody", "number": 2 }),
            StatusCode::PAYMENT_REQUIRED,
        ),
    ] {
        let request = reqwest::Client::new().get(&url);
        let request = request.header(header::PAYMENT_SIGNATURE, with(&extra));
        assert_eq!(request.send().await.unwrap().status(), status, "{extra}");
    }
}

/// One offer that could not be made took the route down with all others.
#[tokio::test]
async fn an_offer_that_cannot_be_made_spoils_no_other() {
    let puppet = Puppet::new();
    let broken = || PaymentLayer::new(puppet.clone()).accept(BrokenOffer(TestOffer::new()));
    let app = Router::new()
        .route("/broken", get(|| async { "goods" }).layer(broken()))
        .route(
            "/both",
            get(|| async { "goods" }).layer(broken().accept(TestOffer::new())),
        );
    let url = listen(app).await;
    let broken = pay(&format!("{url}/broken")).await;
    assert_eq!(broken.status(), StatusCode::SERVICE_UNAVAILABLE);
    let told: Value = broken.json().await.unwrap();
    assert_eq!(told["error"], "misconfigured");
    assert_eq!(pay(&format!("{url}/both")).await.status(), StatusCode::OK);
}

/// attacks.md 115: what was paid for must not lie in a cache, nor what was not paid for.
#[tokio::test]
async fn every_answer_forbids_caches_and_says_by_what_it_differs() {
    let puppet = Puppet::new();
    let handler = || async {
        let headers = [
            ("cache-control", "public, no-transform, max-age=3600"),
            ("vary", "accept"),
        ];
        (headers, "goods")
    };
    let url = listen(Router::new().route("/", get(handler).layer(layer(&puppet)))).await;
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
async fn a_payment_longer_than_any_is_431() {
    let puppet = Puppet::new();
    let url =
        listen(Router::new().route("/", get(|| async { "goods" }).layer(layer(&puppet)))).await;
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

/// An empty `PAYMENT-REQUIRED` stood over good terms in the body, and a client of version 2 found
/// no way to pay.
#[tokio::test]
async fn only_the_versions_the_facilitator_speaks_are_offered_and_no_empty_list_hides_them() {
    for (kinds, in_header, in_body) in [
        (&[(2, "test:1")][..], Some(2), 2),
        (&[(1, "test")], None, 1),
        (&[(2, "test:1"), (1, "test")], Some(2), 1),
    ] {
        let puppet = Puppet::new();
        puppet.supports(kinds);
        let url =
            listen(Router::new().route("/", get(|| async { "" }).layer(layer(&puppet)))).await;
        let answer = reqwest::get(&url).await.unwrap();
        let value = answer.headers().get(header::PAYMENT_REQUIRED).cloned();
        let header = value.map(|value| header::decode("402", value.as_bytes()).unwrap());
        let body: Value = answer.json().await.unwrap();
        assert_eq!(
            header.as_ref().map(|it: &Value| it["x402Version"].clone()),
            in_header.map(Value::from)
        );
        assert_eq!(body["x402Version"], in_body);
        for said in [Some(body), header].into_iter().flatten() {
            assert_eq!(said["accepts"].as_array().unwrap().len(), 1);
        }
    }
}

/// A buyer of either version pays where the facilitator speaks one only.
#[tokio::test]
async fn a_facilitator_of_one_version_is_no_obstacle() {
    for kinds in [&[(2, "test:1")][..], &[(1, "test")]] {
        let puppet = Puppet::new();
        puppet.supports(kinds);
        let url =
            listen(Router::new().route("/", get(|| async { "goods" }).layer(layer(&puppet)))).await;
        let bought = purchaser(|builder| builder).buyer.get(&url).await.unwrap();
        assert_eq!(bought.response.text().await.unwrap(), "goods");
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
    let mut number = 0;
    let mut ask = async |fee_payer: Option<&str>| {
        let mut request = Request::builder().uri("http://shop.example/");
        if let Some(fee_payer) = fee_payer {
            let mut accepted = terms();
            accepted["extra"] = json!({ "feePayer": fee_payer });
            number += 1;
            let payload = json!({ "number": number });
            let payment = json!({ "x402Version": 2, "accepted": accepted, "payload": payload });
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
    let payment = payment(2);
    let printed = pay_with(&url, &payment).await.text().await.unwrap();
    assert!(printed.contains("Sensitive") && !printed.contains(&payment));
}

async fn remote(status: StatusCode, body: &'static str) -> RemoteFacilitator {
    let answer = move || async move { (status, [("retry-after", "17")], body).into_response() };
    let supported = r#"{"kinds":[{"x402Version":2,"scheme":"exact","network":"test:1"}]}"#;
    let app = Router::new()
        .route("/supported", get(move || async move { supported }))
        .fallback(any(answer));
    RemoteFacilitator::new(&listen(app).await).unwrap()
}

/// A 502 with `settlement_pending` and a transaction was a plain fault: its id was lost on the way to the buyer. A success
/// under such a status is none, and its transaction is known all the same.
#[tokio::test]
async fn a_transaction_is_taken_from_an_answer_of_any_status_and_a_success_is_not() {
    use quittance_core::Facilitator;
    const PENDING: &str = r#"{"success":false,"errorReason":"settlement_pending","transaction":"0xabc","network":"test:1"}"#;
    const NONE: &str = r#"{"success":false,"errorReason":"settlement_pending","transaction":"","network":"test:1"}"#;
    const SETTLED: &str = r#"{"success":true,"transaction":"0xabc","network":"test:1"}"#;
    let payment = common::request(0);
    for status in [
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ] {
        let told = remote(status, PENDING).await.settle(&payment).await;
        assert_eq!(told, Ok(pending()));
        let told = remote(status, NONE).await.settle(&payment).await;
        assert!(told.is_err(), "{status}");
        let told = remote(status, SETTLED)
            .await
            .settle(&payment)
            .await
            .unwrap();
        assert!(told.is_pending() && told.transaction == "0xabc", "{told:?}");
    }
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
    let nobody = RemoteFacilitator::new("http://127.0.0.1:1").unwrap();
    let Err(FacilitatorError::Fault(fault)) = nobody.settle(&payment).await else {
        panic!("somebody is there")
    };
    assert!(fault.not_attempted);
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

#[test]
fn what_is_printed_of_a_facilitator_is_its_origin() {
    let url = "https://user:hunter2@a.example/hunter2/?key=hunter2";
    let printed = format!("{:?}", RemoteFacilitator::new(url).unwrap());
    assert_eq!(printed, "RemoteFacilitator(https://a.example)");
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

/// Some wallets write one payment into both headers, as it is or in the form of each version.
#[tokio::test]
async fn one_payment_in_both_headers_is_one_payment_and_two_are_none() {
    let puppet = Puppet::new();
    let url =
        listen(Router::new().route("/", get(|| async { "goods" }).layer(layer(&puppet)))).await;
    let v2 = |payload: Value| {
        header::encode(&json!({ "x402Version": 2, "accepted": terms(), "payload": payload }))
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
    // Each case has a payment of its own: one that was sold for is not sold for again.
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
        let settled = puppet.settle_calls();
        assert_eq!(ask(&headers).await, status, "{headers:?}");
        assert_eq!(puppet.settle_calls() - settled, usize::from(status == 200));
    }
}

#[tokio::test]
async fn a_payment_without_its_version_is_of_the_version_of_its_header() {
    let puppet = Puppet::new();
    let url =
        listen(Router::new().route("/", get(|| async { "goods" }).layer(layer(&puppet)))).await;
    let v2 = json!({ "accepted": terms(), "payload": { "case": 2 } });
    let v1 = json!({ "scheme": "exact", "network": "test", "payload": { "case": 1 } });
    for (name, payment) in [(header::PAYMENT_SIGNATURE, v2), (header::X_PAYMENT, v1)] {
        let request = reqwest::Client::new().get(&url);
        let answer = request.header(name, header::encode(&payment)).send().await;
        assert_eq!(answer.unwrap().status(), StatusCode::OK, "{name}");
    }
}

/// The head of an answer on a connection, in lower case, once the body that it announces has come.
async fn answer_on(connection: &mut TcpStream) -> String {
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

/// A 402 to a POST left its body on the connection. The server closed that without a word, and the
/// buyer's next request on it failed: the one with the payment.
#[tokio::test]
async fn a_refusal_leaves_a_connection_that_works_or_says_that_it_closes() {
    let facilitator = Puppet::new();
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
            let said = answer_on(&mut connection).await;
            let expected = format!("http/1.1 {status}");
            assert!(said.starts_with(&expected), "{late}: {said}");
            assert!(!said.contains("connection: close"), "{late}: {said}");
        }
    }
    // A body that does not come, one that is too long to be dropped, and one that waits for a word.
    for more in [
        "Content-Length: 10\r\n",
        "Content-Length: 10000000000\r\n",
        "Content-Length: 10\r\nExpect: 100-continue\r\n",
        "Transfer-Encoding: chunked\r\n",
    ] {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(head(more).as_bytes()).await.unwrap();
        let said = answer_on(&mut connection).await;
        assert!(said.starts_with("http/1.1 402"), "{more}: {said}");
        assert!(said.contains("connection: close"), "{more}: {said}");
    }
}
