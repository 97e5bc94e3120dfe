//! Both ends of a stream: the buyer pays a tick for each chunk, and no more.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::stream;
use http::{Method, StatusCode};
use quittance_buyer::{BuyError, Buyer, LimitError, Limits, PaidStream};
use quittance_core::Amount;
use quittance_seller::{Meter, PaymentLayer, StreamLimits};
use quittance_testing::scripted::{ScriptedFacilitator, TestOffer, TestPayer, failed};
use tokio::net::TcpListener;

/// The price of a tick in atomic units.
const PRICE: u64 = 10_000;

/// Sends this many lines, one for each tick.
async fn lines(Path(lines): Path<u64>, Extension(meter): Extension<Meter>) -> Body {
    Body::from_stream(stream::unfold(
        (meter, 0),
        move |(meter, sent)| async move {
            if sent == lines {
                return None;
            }
            let tick = meter.next().await?;
            let line = format!("{}\n", tick.number);
            Some((Ok::<_, std::io::Error>(line), (meter, sent + 1)))
        },
    ))
}

struct Shop {
    facilitator: Arc<ScriptedFacilitator>,
    url: String,
}

impl Shop {
    async fn start(change: impl FnOnce(Router) -> Router) -> Self {
        let facilitator = ScriptedFacilitator::new();
        let layer = PaymentLayer::new(facilitator.clone()).accept(TestOffer::new());
        let limits = StreamLimits::default().idle(Duration::from_secs(2));
        let handler = get(lines).layer(layer.streaming(limits));
        let app = change(Router::new().route("/lines/{lines}", handler));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { facilitator, url }
    }

    fn lines(&self, lines: u64) -> String {
        format!("{}/lines/{lines}", self.url)
    }

    fn charged(&self) -> u64 {
        self.facilitator.settle_calls() as u64
    }
}

fn buyer(limits: Limits) -> Buyer {
    let buyer = Buyer::builder().payer(TestPayer::default()).limits(limits);
    buyer.timeout(Duration::from_secs(20)).build().unwrap()
}

/// The lines until the end.
async fn rest(stream: &mut PaidStream) -> String {
    let mut text = Vec::new();
    while let Some(chunk) = stream.chunk().await.unwrap() {
        text.extend_from_slice(&chunk);
    }
    String::from_utf8(text).unwrap()
}

fn numbers(count: u64) -> String {
    (1..=count).map(|number| format!("{number}\n")).collect()
}

/// At the end the buyer may have paid a tick before it saw that no chunk follows.
fn is_one_more_at_most(ticks: u64, chunks: u64) -> bool {
    ticks == chunks || ticks == chunks + 1
}

#[tokio::test]
async fn a_buyer_pays_a_tick_for_each_chunk() {
    let shop = Shop::start(|app| app).await;
    let mut stream = buyer(Limits::default())
        .stream(&shop.lines(20))
        .await
        .unwrap();
    assert_eq!((stream.status(), stream.cost().ticks), (StatusCode::OK, 1));
    assert_eq!(rest(&mut stream).await, numbers(20));
    assert!(stream.problem().is_none());
    let cost = stream.cost();
    assert!(is_one_more_at_most(cost.ticks, 20), "{cost:?}");
    assert_eq!(cost.ticks, shop.charged());
    assert_eq!(cost.charged, Amount::from(cost.ticks * PRICE));
    assert!(cost.signed >= cost.charged);
    assert_eq!(cost.asset.as_ref().unwrap().symbol, "COIN");
}

#[tokio::test]
async fn a_limit_ends_the_stream_after_what_is_paid() {
    let shop = Shop::start(|app| app).await;
    let limits = Limits::default().per_stream("0.05");
    let buyer = buyer(limits);
    for _ in 0..2 {
        let mut stream = buyer.stream(&shop.lines(1000)).await.unwrap();
        assert_eq!(rest(&mut stream).await, numbers(5));
        let problem = stream.problem().unwrap();
        let is_limit = matches!(problem, BuyError::OverLimit(LimitError::Stream { .. }));
        assert!(is_limit, "{problem}");
        assert_eq!(stream.cost().charged, Amount::from(5 * PRICE));
    }
    assert_eq!(shop.charged(), 10);
    let shop = Shop::start(|app| app).await;
    let in_total = Limits::default().in_total("0.03");
    let mut stream = self::buyer(in_total)
        .stream(&shop.lines(1000))
        .await
        .unwrap();
    assert_eq!(rest(&mut stream).await, numbers(3));
    assert!(stream.problem().is_some());
}

#[tokio::test]
async fn a_buyer_that_stops_or_does_not_read_does_not_pay() {
    let shop = Shop::start(|app| app).await;
    let buyer = buyer(Limits::default());
    let mut stream = buyer.stream(&shop.lines(1000)).await.unwrap();
    for _ in 0..3 {
        stream.chunk().await.unwrap().unwrap();
    }
    let cost = stream.stop().await;
    assert_eq!((cost.ticks, shop.charged()), (3, 3));
    let mut stream = buyer.stream(&shop.lines(1000)).await.unwrap();
    stream.chunk().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    // The stream has ended for lack of ticks.
    assert_eq!(stream.chunk().await.unwrap(), None);
    assert_eq!((stream.cost().ticks, shop.charged()), (1, 4));
}

#[tokio::test]
async fn a_refused_tick_ends_the_stream_with_its_reason() {
    let shop = Shop::start(|app| app).await;
    let mut stream = buyer(Limits::default())
        .stream(&shop.lines(1000))
        .await
        .unwrap();
    assert_eq!(stream.chunk().await.unwrap().unwrap().as_ref(), b"1\n");
    shop.facilitator
        .set_settle(Ok(failed("insufficient_balance", "")));
    assert_eq!(rest(&mut stream).await, "");
    let problem = stream.problem().unwrap().to_string();
    assert!(problem.contains("insufficient_balance"), "{problem}");
    let cost = stream.cost();
    assert_eq!((cost.ticks, cost.charged), (1, Amount::from(PRICE)));
    assert_eq!(cost.signed, Amount::from(2 * PRICE));
}

/// A proxy loses the receipt of each second tick. The buyer presents the same payment again.
#[tokio::test]
async fn a_lost_receipt_costs_nothing() {
    let ticks = Arc::new(AtomicUsize::new(0));
    let lossy = move |request: Request, next: Next| {
        let ticks = ticks.clone();
        async move {
            let is_tick = request.method() == Method::POST;
            let response: Response = next.run(request).await;
            match is_tick && ticks.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                true => ([("retry-after", "0")], StatusCode::BAD_GATEWAY).into_response(),
                false => response,
            }
        }
    };
    let shop = Shop::start(|app| app.layer(from_fn(lossy))).await;
    let mut stream = buyer(Limits::default())
        .stream(&shop.lines(5))
        .await
        .unwrap();
    assert_eq!(rest(&mut stream).await, numbers(5));
    assert!(stream.problem().is_none(), "{:?}", stream.problem());
    // The last receipt may be lost together with the stream.
    assert!(is_one_more_at_most(shop.charged(), stream.cost().ticks));
}

#[tokio::test]
async fn a_response_that_is_no_stream_costs_its_price() {
    let plain = PaymentLayer::new(ScriptedFacilitator::new()).accept(TestOffer::new());
    let plain = get(|| async { "plain" }).layer(plain);
    let free = get(|| async { "free" });
    let app = |app: Router| app.route("/plain", plain).route("/free", free);
    let shop = Shop::start(app).await;
    let buyer = buyer(Limits::default());
    for (path, ticks) in [("plain", 1), ("free", 0)] {
        let mut stream = buyer.stream(&format!("{}/{path}", shop.url)).await.unwrap();
        assert_eq!(rest(&mut stream).await, path);
        assert_eq!(stream.cost().ticks, ticks);
        assert!(stream.problem().is_none());
    }
}
