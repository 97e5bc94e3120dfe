//! A payer without a chain, and servers that do as they are told.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary uses its part, and stops where it cannot go on"
)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use quittance_buyer::{Buyer, BuyerBuilder};
use quittance_core::json::Object;
use quittance_core::wire::{
    PaymentRequired, PaymentRequirements, SettleResponse, SupportedKind, SupportedResponse,
    VerifyResponse, header,
};
use quittance_core::{
    Amount, Asset, AuthorizationState, Facilitator, FacilitatorError, ManualClock, Network, Offer,
    OfferError, Payer, PayerError, PaymentId, PaymentRequest, Quote, QuoteError, Reason, Timestamp,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// When every test begins.
pub const START: Timestamp = Timestamp::from_secs(1_000_000);

/// How long a payment of these tests is valid.
pub const VALID_SECS: u64 = 60;

/// Longer than any block could take a payment that was signed at the start.
pub const LONG_AFTER_SECS: u64 = 10_000;

pub async fn listen(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// Signs payments that differ in a number, on the network `test:1` that version 1 calls `test`. Names are spelled in any
/// case, as addresses are.
#[derive(Clone, Default)]
pub struct TestPayer {
    pub signed: Arc<AtomicUsize>,
    pub broken: Arc<AtomicBool>,
    /// What the chain says of each payment, by its number; of the others it says nothing.
    pub states: Arc<Mutex<BTreeMap<u64, AuthorizationState>>>,
}

impl TestPayer {
    pub fn signed(&self) -> usize {
        self.signed.load(Ordering::SeqCst)
    }

    pub fn chain_says(&self, number: u64, state: AuthorizationState) {
        self.states.lock().unwrap().insert(number, state);
    }
}

#[async_trait]
impl Payer for TestPayer {
    fn address(&self) -> &str {
        "payer"
    }

    fn quote(&self, terms: &PaymentRequirements) -> Result<Quote, QuoteError> {
        if terms.scheme != "exact" || !["test", "test:1"].contains(&&*terms.network) {
            return Err(QuoteError::NotSupported);
        }
        if !terms.asset.eq_ignore_ascii_case("coin") {
            return Err(QuoteError::unpayable(
                "the asset is not on the payer's own list",
            ));
        }
        Ok(Quote {
            network: "test:1".to_owned(),
            pay_to: terms.pay_to.to_lowercase(),
            asset: Asset {
                address: "coin".to_owned(),
                symbol: "COIN".to_owned(),
                decimals: 6,
            },
            amount: terms.amount.parse().unwrap_or(Amount::from(u64::MAX)),
        })
    }

    async fn pay(
        &self,
        terms: &PaymentRequirements,
        now: Timestamp,
    ) -> Result<(Object, Timestamp), PayerError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(PayerError::signing("the key is away"));
        }
        // Signing takes time, and others go on meanwhile.
        tokio::task::yield_now().await;
        let number = self.signed.fetch_add(1, Ordering::SeqCst);
        let payload = Object::of(&json!({ "number": number })).unwrap();
        Ok((payload, now.plus_secs(terms.max_timeout_seconds)))
    }

    async fn authorization_state(
        &self,
        network: &str,
        asset: &str,
        payload: &Object,
        _expires: Timestamp,
    ) -> AuthorizationState {
        assert_eq!((network, asset), ("test:1", "coin"));
        let number = payload.tree()["number"].as_u64().unwrap();
        let states = self.states.lock().unwrap();
        let state = states.get(&number).cloned();
        state.unwrap_or(AuthorizationState::Unknown)
    }
}

pub fn terms() -> Value {
    json!({ "scheme": "exact", "network": "test:1", "amount": "10000", "asset": "coin", "payTo": "seller",
        "maxTimeoutSeconds": VALID_SECS })
}

pub fn required_of(accepts: &[Value]) -> String {
    let text =
        json!({ "x402Version": 2, "resource": { "url": "http://a.example/" }, "accepts": accepts });
    header::encode(&text)
}

/// An answer 402 with these terms and this reason.
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

/// An answer with a receipt.
pub fn with_receipt(answer: Response, receipt: &SettleResponse) -> Response {
    with_header(answer, header::PAYMENT_RESPONSE, &header::encode(receipt))
}

/// An answer with a header.
pub fn with_header(mut answer: Response, name: &'static str, value: &str) -> Response {
    answer.headers_mut().insert(name, value.parse().unwrap());
    answer
}

pub fn failed(reason: &'static str, transaction: &str) -> SettleResponse {
    let rejection = Reason::new(reason).into();
    SettleResponse::failed("test:1", &rejection, None, transaction)
}

/// What a server says to a payment.
pub type Say = Arc<dyn Fn() -> Response + Send + Sync>;

/// A server whose answer to a payment can be changed. It remembers the payments it was shown.
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

    /// How many payments it was shown, and how many different ones.
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

/// A request for a payment with this number.
pub fn request(number: u64) -> PaymentRequest {
    request_of(&format!("{{\"number\":{number}}}"))
}

/// A request for a payment with this payload, as it is spelled.
pub fn request_of(payload: &str) -> PaymentRequest {
    let terms: PaymentRequirements = serde_json::from_value(terms()).unwrap();
    let accepted = serde_json::to_string(&terms).unwrap();
    let text = format!(r#"{{"x402Version":2,"accepted":{accepted},"payload":{payload}}}"#);
    PaymentRequest::new(serde_json::from_str(&text).unwrap(), terms).unwrap()
}

type Settles = Result<SettleResponse, FacilitatorError>;

/// A facilitator that says what it is told to.
pub struct Puppet {
    verify: Mutex<Result<VerifyResponse, FacilitatorError>>,
    /// `None` hangs.
    settle: Mutex<Option<Settles>>,
    /// What it settles first, in this order.
    first: Mutex<VecDeque<Settles>>,
    supported: Mutex<SupportedResponse>,
    verify_calls: AtomicUsize,
    settle_calls: AtomicUsize,
}

impl Puppet {
    pub fn new() -> Arc<Self> {
        let puppet = Arc::new(Self {
            verify: Mutex::new(Ok(VerifyResponse::valid(Some("payer".to_owned())))),
            settle: Mutex::new(Some(Ok(SettleResponse::settled("test:1", None, "0x1")))),
            first: Mutex::default(),
            supported: Mutex::new(serde_json::from_str(r#"{"kinds":[]}"#).unwrap()),
            verify_calls: AtomicUsize::new(0),
            settle_calls: AtomicUsize::new(0),
        });
        puppet.supports(&[(2, "test:1"), (1, "test")]);
        puppet
    }

    pub fn verifies(&self, answer: Result<VerifyResponse, FacilitatorError>) {
        *self.verify.lock().unwrap() = answer;
    }

    pub fn rejects(&self, reason: &'static str) {
        let rejection = Reason::new(reason).into();
        self.verifies(Ok(VerifyResponse::invalid(&rejection, None)));
    }

    pub fn settles(&self, answer: Settles) {
        *self.settle.lock().unwrap() = Some(answer);
    }

    /// Gives these answers once each, before the one it always gives.
    pub fn settles_first(&self, answers: impl IntoIterator<Item = Settles>) {
        *self.first.lock().unwrap() = answers.into_iter().collect();
    }

    pub fn hangs(&self) {
        *self.settle.lock().unwrap() = None;
    }

    pub fn supports(&self, kinds: &[(u64, &str)]) {
        let kinds: Vec<_> = kinds
            .iter()
            .map(|(version, network)| {
                json!({ "x402Version": version, "scheme": "exact", "network": network })
            })
            .collect();
        *self.supported.lock().unwrap() =
            serde_json::from_value(json!({ "kinds": kinds })).unwrap();
    }

    /// Says something more of what it settles, which offers pass on.
    pub fn adds(&self, extra: &Value) {
        let kinds =
            json!([{ "x402Version": 2, "scheme": "exact", "network": "test:1", "extra": extra }]);
        *self.supported.lock().unwrap() =
            serde_json::from_value(json!({ "kinds": kinds })).unwrap();
    }

    /// The same of both versions.
    pub fn says_of_all(&self, extra: &Value) {
        let kind = |version: u64, network: &str| json!({ "x402Version": version, "scheme": "exact", "network": network, "extra": extra });
        let kinds = json!({ "kinds": [kind(2, "test:1"), kind(1, "test")] });
        *self.supported.lock().unwrap() = serde_json::from_value(kinds).unwrap();
    }

    pub fn verify_calls(&self) -> usize {
        self.verify_calls.load(Ordering::SeqCst)
    }

    pub fn settle_calls(&self) -> usize {
        self.settle_calls.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Facilitator for Puppet {
    async fn verify(&self, _: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        self.verify_calls.fetch_add(1, Ordering::SeqCst);
        self.verify.lock().unwrap().clone()
    }

    async fn settle(&self, _: &PaymentRequest) -> Settles {
        self.settle_calls.fetch_add(1, Ordering::SeqCst);
        if let Some(first) = self.first.lock().unwrap().pop_front() {
            return first;
        }
        let answer = self.settle.lock().unwrap().clone();
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        Ok(self.supported.lock().unwrap().clone())
    }
}

/// What the seller of these tests asks for.
pub struct TestOffer(Network);

impl TestOffer {
    pub fn new() -> Self {
        Self(Network::new("test:1").unwrap().with_alias("test"))
    }
}

impl Offer for TestOffer {
    fn scheme(&self) -> &str {
        "exact"
    }

    fn network(&self) -> &Network {
        &self.0
    }

    fn requirements(&self, kind: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        let terms: PaymentRequirements = serde_json::from_value(terms()).unwrap();
        Ok(PaymentRequirements {
            extra: kind.extra.clone(),
            ..terms
        })
    }

    /// A payment is its number, whatever else stands beside it.
    fn authorization(&self, payload: &Object) -> Option<PaymentId> {
        let tree = payload.tree();
        let number = tree.get("number")?.to_string();
        Some(PaymentId::from_parts(&[number.as_bytes()]))
    }
}
