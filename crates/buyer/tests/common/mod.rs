//! A server whose responses a test sets, and a buyer with a scripted payer.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary uses its part, and stops where it cannot go on"
)]

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use quittance_buyer::{Buyer, BuyerBuilder};
use quittance_core::wire::{PaymentRequired, SettleResponse, header};
use quittance_core::{ManualClock, Timestamp};
use quittance_testing::scripted::{TestPayer, requirements};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// When the clock of every test starts.
pub const START: Timestamp = Timestamp::from_secs(1_000_000);

/// After this time, no block accepts a payment that was signed at the start.
pub const LONG_AFTER_SECS: u64 = 10_000;

pub async fn listen(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// The requirements of the server, as JSON.
pub fn terms() -> Value {
    serde_json::to_value(requirements()).unwrap()
}

pub fn required_of(accepts: &[Value]) -> String {
    let text =
        json!({ "x402Version": 2, "resource": { "url": "http://a.example/" }, "accepts": accepts });
    header::encode(&text)
}

/// A 402 response with this reason.
pub fn refusal(error: &str) -> Response {
    let mut required: PaymentRequired =
        header::decode("402", required_of(&[terms()]).as_bytes()).unwrap();
    required.error = Some(error.to_owned());
    let value = header::encode(&required);
    (
        StatusCode::PAYMENT_REQUIRED,
        [(header::PAYMENT_REQUIRED, value)],
    )
        .into_response()
}

/// The response with a receipt.
pub fn with_receipt(answer: Response, receipt: &SettleResponse) -> Response {
    with_header(answer, header::PAYMENT_RESPONSE, &header::encode(receipt))
}

/// The response with a header.
pub fn with_header(mut answer: Response, name: &'static str, value: &str) -> Response {
    answer.headers_mut().insert(name, value.parse().unwrap());
    answer
}

/// The response to a payment.
pub type Say = Arc<dyn Fn() -> Response + Send + Sync>;

/// A server whose response to a payment a test sets. It remembers the payments it received.
#[derive(Clone)]
pub struct Server {
    pub url: String,
    seen: Arc<Mutex<Vec<String>>>,
    say: Arc<Mutex<Say>>,
}

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener)
    }

    pub fn on(listener: TcpListener) -> Self {
        let mut server = Self {
            url: String::new(),
            seen: Arc::default(),
            say: Arc::new(Mutex::new(Arc::new(|| "goods".into_response()))),
        };
        let own = server.clone();
        let app = Router::new().fallback(any(move |request: Request| {
            let own = own.clone();
            async move { own.answer(&request) }
        }));
        server.url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        server
    }

    fn answer(&self, request: &Request) -> Response {
        let payment = request.headers().get(header::PAYMENT_SIGNATURE);
        match payment.or(request.headers().get(header::X_PAYMENT)) {
            Some(payment) => {
                let payment = payment.to_str().unwrap().to_owned();
                self.seen.lock().unwrap().push(payment);
                let say = self.say.lock().unwrap().clone();
                say()
            }
            None => refusal("Payment required"),
        }
    }

    pub fn says(&self, say: impl Fn() -> Response + Send + Sync + 'static) {
        *self.say.lock().unwrap() = Arc::new(say);
    }

    /// The number of payments it received, and of different ones.
    pub fn seen(&self) -> (usize, usize) {
        let seen = self.seen.lock().unwrap().clone();
        let different: std::collections::BTreeSet<_> = seen.iter().collect();
        (seen.len(), different.len())
    }
}

pub struct Purchaser {
    pub buyer: Buyer,
    pub payer: TestPayer,
    pub clock: Arc<ManualClock>,
}

pub fn purchaser(change: impl FnOnce(BuyerBuilder) -> BuyerBuilder) -> Purchaser {
    let (payer, clock) = (TestPayer::default(), Arc::new(ManualClock::new(START)));
    let builder = Buyer::builder().payer(payer.clone()).clock(clock.clone());
    let buyer = change(builder).build().unwrap();
    Purchaser {
        buyer,
        payer,
        clock,
    }
}
