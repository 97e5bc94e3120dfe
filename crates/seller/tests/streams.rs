//! Streams that are paid tick by tick: no chunk leaves before its tick is charged, and no tick is
//! charged without room for it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::stream::Fuse;
use futures_util::{FutureExt, StreamExt, stream};
use http::{Method, StatusCode};
use proptest::prelude::*;
use quittance_core::Flow;
use quittance_core::wire::{SettleResponse, header};
use quittance_http::PAYMENT_STREAM;
use quittance_seller::{Charge, Meter, PaymentLayer, StreamLimits};
use quittance_testing::scripted::{ScriptedFacilitator, TestOffer, failed, requirements};
use serde_json::json;
use tower::ServiceExt as _;

/// The price of [`TestOffer`], which each tick costs.
const PRICE: &str = "10000";

/// Sends the number of each tick.
async fn count(Extension(meter): Extension<Meter>) -> Body {
    Body::from_stream(stream::unfold(meter, |meter| async move {
        let tick = meter.next().await?;
        Some((Ok::<_, std::io::Error>(tick.number.to_string()), meter))
    }))
}

struct Shop {
    facilitator: Arc<ScriptedFacilitator>,
    app: Router,
}

impl Shop {
    fn new(limits: StreamLimits) -> Self {
        Self::with(limits, TestOffer::new(), get(count))
    }

    fn with(limits: StreamLimits, offer: TestOffer, handler: axum::routing::MethodRouter) -> Self {
        let facilitator = ScriptedFacilitator::new();
        let layer = PaymentLayer::new(facilitator.clone()).accept(offer);
        let app = Router::new().route("/", handler.layer(layer.streaming(limits)));
        Self { facilitator, app }
    }

    async fn send(&self, method: Method, payment: Option<&str>, stream: Option<&str>) -> Response {
        let mut request = Request::builder()
            .method(method)
            .uri("http://shop.example/");
        if let Some(payment) = payment {
            request = request.header(header::PAYMENT_SIGNATURE, payment);
        }
        if let Some(stream) = stream {
            request = request.header(PAYMENT_STREAM, stream);
        }
        let request = request.body(Body::empty()).unwrap();
        self.app.clone().oneshot(request).await.unwrap()
    }

    async fn open(&self, channel: &str) -> Open {
        let response = self.send(Method::GET, Some(&payment(channel)), None).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(receipt(&response).success);
        let id = response.headers()[PAYMENT_STREAM]
            .to_str()
            .unwrap()
            .to_owned();
        Open {
            id,
            body: response.into_body().into_data_stream().fuse(),
        }
    }

    async fn tick(&self, stream: &Open, payment: &str) -> Response {
        self.send(Method::POST, Some(payment), Some(&stream.id))
            .await
    }

    async fn pay(&self, stream: &Open) {
        let paid = self.tick(stream, &payment("a")).await;
        assert_eq!(paid.status(), StatusCode::NO_CONTENT);
        assert!(receipt(&paid).success);
    }
}

/// A running stream, as its buyer has it.
struct Open {
    id: String,
    body: Fuse<BodyDataStream>,
}

impl Open {
    /// The next chunk, if it is there.
    fn ready(&mut self) -> Option<String> {
        let chunk = self.body.next().now_or_never()?;
        chunk.map(|chunk| String::from_utf8(chunk.unwrap().to_vec()).unwrap())
    }

    async fn ends(&mut self) -> bool {
        self.body.next().await.is_none()
    }
}

/// A payment out of this channel. Each call makes another one.
fn payment(channel: &str) -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::SeqCst);
    payment_with(&json!({ "number": number, "channel": channel }))
}

fn payment_with(payload: &serde_json::Value) -> String {
    header::encode(&json!({ "x402Version": 2, "accepted": requirements(), "payload": payload }))
}

fn receipt(response: &Response) -> SettleResponse {
    let value = &response.headers()[header::PAYMENT_RESPONSE];
    header::decode("receipt", value.as_bytes()).unwrap()
}

fn charges(shop: &Shop) -> usize {
    let settled = format!("settle {PRICE}");
    let log = shop.facilitator.log();
    log.iter().filter(|entry| **entry == settled).count()
}

#[tokio::test]
async fn each_chunk_leaves_after_its_tick_is_charged() {
    let shop = Shop::new(StreamLimits::default());
    let required = shop.send(Method::GET, None, None).await;
    assert_eq!(required.status(), StatusCode::PAYMENT_REQUIRED);
    let mut stream = shop.open("a").await;
    assert_eq!((stream.ready(), charges(&shop)), (Some("1".into()), 1));
    for number in 2..5 {
        assert_eq!(stream.ready(), None);
        shop.pay(&stream).await;
        assert_eq!(stream.ready(), Some(number.to_string()));
        assert_eq!(charges(&shop), number);
    }
}

#[tokio::test]
async fn a_handler_may_wait_for_its_first_tick() {
    async fn waits(Extension(meter): Extension<Meter>) -> impl IntoResponse {
        let tick = meter.next().await.unwrap();
        format!("after tick {}", tick.number)
    }
    let shop = Shop::with(StreamLimits::default(), TestOffer::new(), get(waits));
    let mut stream = shop.open("a").await;
    assert_eq!(stream.ready(), Some("after tick 1".into()));
    assert!(stream.ends().await && charges(&shop) == 1);
}

#[tokio::test]
async fn a_handler_that_fails_costs_nothing() {
    let failing = || async { StatusCode::BAD_GATEWAY };
    let charging = || async { Extension(Charge::percent("5")) };
    async fn panicking() -> StatusCode {
        panic!("the handler panics")
    }
    for (handler, status) in [
        (get(failing), Some(StatusCode::BAD_GATEWAY)),
        (get(charging), Some(StatusCode::INTERNAL_SERVER_ERROR)),
        (get(panicking), None),
    ] {
        let shop = Shop::with(StreamLimits::default(), TestOffer::new(), handler);
        let payment = payment("a");
        let response = shop.send(Method::GET, Some(&payment), None);
        let response = std::panic::AssertUnwindSafe(response).catch_unwind().await;
        assert_eq!(response.ok().map(|it| it.status()), status);
        assert_eq!(shop.facilitator.settle_calls(), 0);
        // The channel is free again.
        let again = shop.send(Method::GET, Some(&payment), None);
        let again = std::panic::AssertUnwindSafe(again).catch_unwind().await;
        assert_eq!(again.ok().map(|it| it.status()), status);
    }
}

#[tokio::test]
async fn a_refused_first_tick_sells_nothing() {
    let shop = Shop::new(StreamLimits::default());
    shop.facilitator
        .set_settle(Ok(failed("insufficient_funds", "")));
    let response = shop.send(Method::GET, Some(&payment("a")), None).await;
    assert_eq!(response.status(), StatusCode::PAYMENT_REQUIRED);
    assert!(!response.headers().contains_key(PAYMENT_STREAM));
}

#[tokio::test]
async fn a_refused_tick_can_be_followed_by_a_better_one() {
    let shop = Shop::new(StreamLimits::default());
    let mut stream = shop.open("a").await;
    assert_eq!(stream.ready(), Some("1".into()));
    shop.facilitator
        .queue_settle([Ok(failed("not_the_next", ""))]);
    let refused = shop.tick(&stream, &payment("a")).await;
    assert_eq!(refused.status(), StatusCode::PAYMENT_REQUIRED);
    assert_eq!(stream.ready(), None);
    shop.pay(&stream).await;
    assert_eq!(stream.ready(), Some("2".into()));
}

/// The receipt was lost, and the voucher is not valid any more.
#[tokio::test]
async fn a_tick_that_is_presented_again_is_charged_once() {
    let shop = Shop::new(StreamLimits::default());
    let mut stream = shop.open("a").await;
    assert_eq!(stream.ready(), Some("1".into()));
    let payment = payment("a");
    let first = shop.tick(&stream, &payment).await;
    shop.facilitator.reject("cumulative_amount_mismatch");
    let again = shop.tick(&stream, &payment).await;
    assert_eq!(receipt(&first), receipt(&again));
    assert_eq!(again.status(), StatusCode::NO_CONTENT);
    assert_eq!((stream.ready(), stream.ready()), (Some("2".into()), None));
    assert_eq!(charges(&shop), 2);
}

#[tokio::test(start_paused = true)]
async fn a_tick_without_room_is_not_charged() {
    let limits = StreamLimits::default().idle(Duration::from_secs(5));
    let shop = Shop::new(limits);
    let mut stream = shop.open("a").await;
    // The handler has not used the first tick: the second one waits.
    let (second, third) = (payment("a"), payment("a"));
    let full = shop.tick(&stream, &second).await;
    assert_eq!(full.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(charges(&shop), 1);
    let (paid, chunk) = {
        let id = stream.id.clone();
        let waiting = shop.send(Method::POST, Some(&second), Some(&id));
        let reading = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(charges(&shop), 1);
            stream.body.next().await.unwrap().unwrap()
        };
        tokio::join!(waiting, reading)
    };
    assert_eq!(paid.status(), StatusCode::NO_CONTENT);
    assert_eq!((chunk.as_ref(), charges(&shop)), (&b"1"[..], 2));
    let full = shop.tick(&stream, &third).await;
    assert_eq!(full.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(charges(&shop), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_ticks_ends() {
    let limits = StreamLimits::default().idle(Duration::from_secs(5));
    let shop = Shop::new(limits);
    let mut stream = shop.open("a").await;
    assert_eq!(stream.ready(), Some("1".into()));
    assert!(stream.ends().await);
    let over = shop.tick(&stream, &payment("a")).await;
    assert_eq!((over.status(), charges(&shop)), (StatusCode::GONE, 1));
}

#[tokio::test]
async fn a_buyer_that_stops_gets_what_it_has_paid() {
    let shop = Shop::new(StreamLimits::default().waiting(2));
    let mut stream = shop.open("a").await;
    shop.pay(&stream).await;
    let ended = shop.send(Method::DELETE, None, Some(&stream.id)).await;
    assert_eq!(ended.status(), StatusCode::NO_CONTENT);
    let over = shop.tick(&stream, &payment("a")).await;
    assert_eq!((over.status(), charges(&shop)), (StatusCode::GONE, 2));
    let chunks = (stream.ready(), stream.ready());
    assert_eq!(chunks, (Some("1".into()), Some("2".into())));
    assert!(stream.ends().await);
}

#[tokio::test]
async fn a_stream_is_over_when_its_client_disconnects() {
    let shop = Shop::new(StreamLimits::default().streams(1));
    let Open { id, body } = shop.open("a").await;
    let second = shop.send(Method::GET, Some(&payment("b")), None).await;
    assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((shop.facilitator.verify_calls(), charges(&shop)), (1, 1));
    drop(body);
    let over = shop
        .send(Method::POST, Some(&payment("a")), Some(&id))
        .await;
    assert_eq!((over.status(), charges(&shop)), (StatusCode::GONE, 1));
    shop.open("a").await;
}

#[tokio::test]
async fn a_channel_pays_for_one_stream_at_a_time() {
    let shop = Shop::new(StreamLimits::default());
    let mut stream = shop.open("a").await;
    assert_eq!(stream.ready(), Some("1".into()));
    let second = shop.send(Method::GET, Some(&payment("a")), None).await;
    assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
    let mut other = shop.open("b").await;
    assert_eq!(other.ready(), Some("1".into()));
    let crossed = shop.tick(&other, &payment("a")).await;
    assert_eq!(crossed.status(), StatusCode::BAD_REQUEST);
    assert_eq!(charges(&shop), 2);
    drop(stream);
    shop.open("a").await;
}

/// A request for a refund had a price of nothing, and bought ticks.
#[tokio::test]
async fn a_payment_that_buys_nothing_buys_no_tick() {
    let shop = Shop::new(StreamLimits::default());
    let refund = |number: u32| {
        payment_with(&json!({ "number": format!("r{number}"), "channel": "a", "type": "refund" }))
    };
    let first = shop.send(Method::GET, Some(&refund(1)), None).await;
    assert_eq!(first.status(), StatusCode::OK);
    assert!(!first.headers().contains_key(PAYMENT_STREAM));
    let mut stream = shop.open("a").await;
    assert_eq!(stream.ready(), Some("1".into()));
    let tick = shop.tick(&stream, &refund(2)).await;
    assert_eq!(tick.status(), StatusCode::BAD_REQUEST);
    assert_eq!((stream.ready(), charges(&shop)), (None, 1));
}

/// A client that read nothing kept its place for ever, for one tick.
#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_read_frees_its_place() {
    let shop = Shop::new(StreamLimits::default().streams(1));
    let unread = shop.open("a").await;
    let refused = shop.send(Method::GET, Some(&payment("b")), None).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    tokio::time::sleep(Duration::from_secs(301)).await;
    shop.open("a").await;
    let over = shop.tick(&unread, &payment("a")).await;
    assert_eq!(over.status(), StatusCode::GONE);
}

#[tokio::test]
async fn a_stream_is_known_at_its_own_url_only() {
    let shop = Shop::new(StreamLimits::default());
    let stream = shop.open("a").await;
    let request = Request::post("http://other.example/");
    let request = request.header(PAYMENT_STREAM, &stream.id);
    let request = request.header(header::PAYMENT_SIGNATURE, payment("a"));
    let response = shop
        .app
        .clone()
        .oneshot(request.body(Body::empty()).unwrap());
    assert_eq!(response.await.unwrap().status(), StatusCode::GONE);
    let unpaid = shop.send(Method::POST, None, Some("unknown")).await;
    assert_eq!(unpaid.status(), StatusCode::GONE);
    let odd = shop
        .send(Method::PUT, Some(&payment("a")), Some(&stream.id))
        .await;
    assert_eq!(odd.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(charges(&shop), 1);
}

/// In every flow each tick is charged once.
#[tokio::test]
async fn every_flow_can_pay_for_a_stream() {
    for flow in Flow::ALL {
        let offer = TestOffer::new().with_flow(flow).giving_back();
        let shop = Shop::with(StreamLimits::default(), offer, get(count));
        let mut accepted = serde_json::to_value(requirements()).unwrap();
        if flow != Flow::Authorization {
            accepted["extra"] = json!({ "paymentFlow": flow.name() });
        }
        let payment = |number: u64| {
            let payload = json!({ "number": number });
            header::encode(&json!({ "x402Version": 2, "accepted": accepted, "payload": payload }))
        };
        let first = shop.send(Method::GET, Some(&payment(1)), None).await;
        assert_eq!(first.status(), StatusCode::OK, "{flow:?}");
        let id = first.headers()[PAYMENT_STREAM].to_str().unwrap().to_owned();
        let mut body = first.into_body().into_data_stream();
        assert_eq!(body.next().await.unwrap().unwrap().as_ref(), b"1");
        let second = shop.send(Method::POST, Some(&payment(2)), Some(&id)).await;
        assert_eq!(second.status(), StatusCode::NO_CONTENT, "{flow:?}");
        assert_eq!(body.next().await.unwrap().unwrap().as_ref(), b"2");
        let one = match flow {
            Flow::Authorization => ["verify 10000", "settle 10000"].as_slice(),
            Flow::Upfront => &["settle 10000"],
            Flow::Escrow => &["settle 10000", "claim 10000"],
        };
        assert_eq!(shop.facilitator.log(), [one, one].concat(), "{flow:?}");
    }
}

/// What a buyer does.
#[derive(Debug, Clone, Copy)]
enum Move {
    Pays,
    PaysAgain,
    IsRefused,
    Reads,
    Stops,
}

fn a_move() -> impl Strategy<Value = Move> {
    use Move::{IsRefused, Pays, PaysAgain, Reads, Stops};
    prop_oneof![4 => Just(Pays), 1 => Just(PaysAgain), 1 => Just(IsRefused), 5 => Just(Reads), 1 => Just(Stops)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn charges_exceed_chunks_by_at_most_the_waiting_ticks(
        moves in prop::collection::vec(a_move(), 0..30),
        waiting in 1_usize..4,
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let limits = StreamLimits::default().waiting(waiting).idle(Duration::from_secs(5));
            let shop = Shop::new(limits);
            let mut stream = shop.open("a").await;
            let (mut chunks, mut last, mut paid) = (0, payment("a"), 1);
            for step in moves {
                match step {
                    Move::Pays | Move::PaysAgain => {
                        if matches!(step, Move::Pays) {
                            last = payment("a");
                        }
                        let before = charges(&shop);
                        let answer = shop.tick(&stream, &last).await;
                        let is_paid = answer.status() == StatusCode::NO_CONTENT;
                        paid += charges(&shop) - before;
                        // It says so if and only if it is charged, now or before.
                        prop_assert!(is_paid || charges(&shop) == before);
                    }
                    Move::IsRefused => {
                        shop.facilitator.reject("not_the_next");
                        let answer = shop.tick(&stream, &payment("a")).await;
                        prop_assert_ne!(answer.status(), StatusCode::NO_CONTENT);
                        let valid = quittance_core::wire::VerifyResponse::valid(None);
                        shop.facilitator.set_verify(Ok(valid));
                    }
                    Move::Reads => {
                        if let Some(chunk) = stream.ready() {
                            chunks += 1;
                            prop_assert_eq!(chunk, chunks.to_string());
                        }
                    }
                    Move::Stops => {
                        shop.send(Method::DELETE, None, Some(&stream.id)).await;
                    }
                }
                prop_assert_eq!(paid, charges(&shop));
                prop_assert!(chunks <= paid && paid <= chunks + waiting, "{} {}", chunks, paid);
            }
            Ok(())
        })?;
    }
}
