//! A payer hears what became of its payments, and replaces a voucher that the server corrects.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use quittance_buyer::{BuyError, Buyer, BuyerBuilder, Limits};
use quittance_core::json::Object;
use quittance_core::wire::{PaymentPayload, PaymentRequirements, SettleResponse, header};
use quittance_core::{
    Amount, AuthorizationState, Next, Payer, PayerError, PaymentOutcome, Quote, QuoteError,
    SignedPayment, Timestamp,
};
use quittance_testing::world::{Environment, SimulatedPayer, World};
use serde_json::json;
use tokio::net::TcpListener;

/// What one purchase costs, in atomic units.
const PRICE: u64 = 10_000;

/// What the payer puts into its channel with the first payment, in atomic units.
const DEPOSIT: u64 = 100_000;

/// The payer's books of its channel.
#[derive(Default)]
struct Books {
    /// What the server has charged, as far as the payer knows.
    charged: u64,
    /// The ceilings of all vouchers that it signed.
    signed: Vec<u64>,
    /// The outcomes that it heard.
    heard: Vec<String>,
    /// What it answers to each refusal, whatever that says.
    always: Option<Next>,
    /// The state of its vouchers.
    state: Option<AuthorizationState>,
    /// Whether it never answers an outcome.
    hangs: bool,
}

/// A payer with one channel on the simulated chain. Each voucher has a ceiling: the most that the
/// channel may charge in all.
#[derive(Clone)]
struct VoucherPayer {
    wallet: Arc<SimulatedPayer>,
    books: Arc<Mutex<Books>>,
}

impl VoucherPayer {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    fn signed(&self) -> Vec<u64> {
        self.books().signed.clone()
    }
}

fn ceiling_of(payload: &Object) -> u64 {
    payload.tree()["ceiling"].as_u64().unwrap()
}

/// What the server says that the channel has charged.
fn correction(terms: &[PaymentRequirements]) -> Option<u64> {
    let extra = terms.first()?.extra.as_ref()?;
    extra.tree().get("charged")?.as_u64()
}

#[async_trait]
impl Payer for VoucherPayer {
    fn address(&self) -> &str {
        self.wallet.address()
    }

    fn quote(&self, requirements: &PaymentRequirements) -> Result<Quote, QuoteError> {
        let mut quote = self.wallet.quote(requirements)?;
        if self.books().signed.is_empty() {
            quote.locks = Amount::from(DEPOSIT - PRICE);
        }
        Ok(quote)
    }

    async fn pay(
        &self,
        requirements: &PaymentRequirements,
        _offered: Option<&Object>,
        _now: Timestamp,
    ) -> Result<SignedPayment, PayerError> {
        let mut books = self.books();
        let price: u64 = requirements.amount.parse().unwrap();
        let ceiling = books.charged + price;
        books.signed.push(ceiling);
        let payload = Object::of(&json!({ "ceiling": ceiling })).unwrap();
        Ok(SignedPayment::lasting(payload))
    }

    async fn authorization_state(
        &self,
        _network: &str,
        _asset: &str,
        _payload: &Object,
        expires: Timestamp,
    ) -> AuthorizationState {
        assert_eq!(expires, Timestamp::NEVER);
        let state = self.books().state.clone();
        state.unwrap_or(AuthorizationState::Unknown)
    }

    async fn observe(
        &self,
        requirements: &PaymentRequirements,
        payload: &Object,
        outcome: PaymentOutcome<'_>,
    ) -> Next {
        assert_eq!(requirements.amount, PRICE.to_string());
        if self.books().hangs {
            return std::future::pending().await;
        }
        let (mut books, ceiling) = (self.books(), ceiling_of(payload));
        match outcome {
            PaymentOutcome::Served { receipt } => {
                let amount = receipt.and_then(|it| it.amount.clone());
                books.heard.push(format!("served {ceiling}: {amount:?}"));
                books.charged = ceiling;
                Next::Keep
            }
            PaymentOutcome::Refused { terms, receipt, .. } => {
                let charged = correction(terms);
                let reason = receipt.and_then(|it| it.error_reason.clone());
                let heard = format!("refused {ceiling}: {charged:?}, {reason:?}");
                books.heard.push(heard);
                if let Some(always) = books.always {
                    return always;
                }
                match charged {
                    // The channel has charged this very voucher.
                    Some(charged) if charged == ceiling => Next::Used,
                    // The server can prove it: the payer has signed that voucher.
                    Some(charged) if charged == 0 || books.signed.contains(&charged) => {
                        books.charged = charged;
                        Next::Replace
                    }
                    _ => Next::Keep,
                }
            }
        }
    }
}

/// What the server does with a voucher whose ceiling is right.
#[derive(Clone, Copy, PartialEq)]
enum Serving {
    Delivers,
    /// Charges, and answers 500 without a receipt.
    ChargesAndFails,
}

/// What the server says of itself.
struct ServerBooks {
    charged: u64,
    serving: Serving,
    /// Replaces each refusal.
    refusal: Option<Response>,
    /// The requirements before a payment.
    terms: PaymentRequirements,
    /// The ceilings that it saw.
    seen: Vec<u64>,
}

/// A server that charges a channel.
#[derive(Clone)]
struct Channel {
    url: String,
    books: Arc<Mutex<ServerBooks>>,
}

fn terms_of(world: &World) -> PaymentRequirements {
    let mut terms = world.requirements();
    terms.amount = PRICE.to_string();
    terms
}

fn corrected(mut terms: PaymentRequirements, charged: u64) -> PaymentRequirements {
    terms.extra = Some(Object::of(&json!({ "charged": charged })).unwrap());
    terms
}

/// A 402 response with these requirements.
fn required(terms: &[PaymentRequirements], error: &str) -> Response {
    let value = header::encode(&json!({ "x402Version": 2, "error": error,
        "resource": { "url": "http://a.example/" }, "accepts": terms }));
    let header = [(header::PAYMENT_REQUIRED, value)];
    (StatusCode::PAYMENT_REQUIRED, header).into_response()
}

impl Channel {
    async fn start(world: &World) -> Self {
        let books = Arc::new(Mutex::new(ServerBooks {
            charged: 0,
            serving: Serving::Delivers,
            refusal: None,
            terms: terms_of(world),
            seen: Vec::new(),
        }));
        let own = books.clone();
        let app = Router::new().fallback(any(move |headers: HeaderMap| {
            let answer = Self::answer(&mut own.lock().unwrap(), &headers);
            async move { answer }
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, books }
    }

    fn books(&self) -> MutexGuard<'_, ServerBooks> {
        self.books.lock().unwrap()
    }

    fn answer(books: &mut ServerBooks, headers: &HeaderMap) -> Response {
        let Some(payment) = headers.get(header::PAYMENT_SIGNATURE) else {
            return required(std::slice::from_ref(&books.terms), "Payment required");
        };
        let payment: PaymentPayload = header::decode("payment", payment.as_bytes()).unwrap();
        let ceiling = ceiling_of(&payment.payload);
        books.seen.push(ceiling);
        if ceiling != books.charged + PRICE {
            let terms = corrected(books.terms.clone(), books.charged);
            let refusal = books.refusal.take();
            return refusal
                .unwrap_or_else(|| required(&[terms], "the voucher is not the next one"));
        }
        books.charged = ceiling;
        if books.serving == Serving::ChargesAndFails {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        let mut receipt = SettleResponse::settled("sim:1", None, "");
        receipt.amount = Some(PRICE.to_string());
        let header = [(header::PAYMENT_RESPONSE, header::encode(&receipt))];
        (header, "goods").into_response()
    }
}

struct Fixture {
    world: World,
    channel: Channel,
    payer: VoucherPayer,
    buyer: Buyer,
}

async fn fixture(change: impl FnOnce(BuyerBuilder) -> BuyerBuilder) -> Fixture {
    let world = Environment::new().world;
    let channel = Channel::start(&world).await;
    let payer = VoucherPayer {
        wallet: Arc::new(world.payer(0)),
        books: Arc::default(),
    };
    let buyer = buyer(&world, &payer, change);
    Fixture {
        world,
        channel,
        payer,
        buyer,
    }
}

fn buyer(
    world: &World,
    payer: &VoucherPayer,
    change: impl FnOnce(BuyerBuilder) -> BuyerBuilder,
) -> Buyer {
    let builder = Buyer::builder().payer(payer.clone()).clock(world.clock());
    change(builder).build().unwrap()
}

impl Fixture {
    async fn get(&self) -> Result<quittance_buyer::Purchase, BuyError> {
        self.buyer.get(&self.channel.url).await
    }

    /// Another process with the payer's key has bought this often.
    fn behind_by(&self, purchases: u64) {
        let charged = purchases * PRICE;
        self.channel.books().charged = charged;
        self.payer.books().signed.push(charged);
    }
}

#[tokio::test]
async fn payer_hears_what_became_of_each_payment() {
    let fixture = fixture(|builder| builder).await;
    for _ in 0..2 {
        let purchase = fixture.get().await.unwrap();
        assert_eq!(purchase.response.text().await.unwrap(), "goods");
    }
    fixture.channel.books().serving = Serving::ChargesAndFails;
    fixture.get().await.unwrap();
    // A lost response says nothing about the payment.
    let heard = fixture.payer.books().heard.clone();
    let amount = Some(PRICE.to_string());
    let served = |ceiling: u64| format!("served {ceiling}: {amount:?}");
    assert_eq!(heard, [served(PRICE), served(2 * PRICE)]);
    assert_eq!(fixture.channel.books().seen, [PRICE, 2 * PRICE, 3 * PRICE]);
}

/// The payer's books are behind, and the refusal has the right ones.
#[tokio::test]
async fn refused_voucher_is_replaced_in_the_same_call() {
    let fixture = fixture(|builder| builder).await;
    fixture.behind_by(3);
    let purchase = fixture.get().await.unwrap();
    let cost = purchase.cost.unwrap();
    assert_eq!(cost.amount, Amount::from(PRICE));
    // The cost names the requirements that were paid.
    assert_eq!(correction(&[cost.requirements]), Some(3 * PRICE));
    assert_eq!(fixture.channel.books().seen, [PRICE, 4 * PRICE]);
    assert!(fixture.buyer.open_payments().is_empty());
    assert_eq!(fixture.payer.books().charged, 4 * PRICE);
}

/// A server must not get a voucher for what it only claims to have charged.
#[tokio::test]
async fn payer_decides_whether_a_correction_is_proven() {
    let fixture = fixture(|builder| builder).await;
    fixture.channel.books().charged = 5 * PRICE;
    let refused = fixture.get().await;
    assert!(
        matches!(refused, Err(BuyError::Refused { .. })),
        "{refused:?}"
    );
    assert_eq!(fixture.payer.signed(), [PRICE]);
    assert_eq!(fixture.buyer.open_payments().len(), 1);
    // The next call presents the same voucher.
    fixture.channel.books().charged = 0;
    fixture.get().await.unwrap();
    assert_eq!(fixture.payer.signed(), [PRICE]);
    assert!(fixture.buyer.open_payments().is_empty());
}

/// The response was lost, and the server has charged the voucher. Another one would pay twice.
#[tokio::test]
async fn charged_voucher_is_not_replaced() {
    let fixture = fixture(|builder| builder).await;
    fixture.channel.books().serving = Serving::ChargesAndFails;
    fixture.get().await.unwrap();
    fixture.channel.books().serving = Serving::Delivers;
    for state in [AuthorizationState::Unknown, AuthorizationState::Used(None)] {
        fixture.payer.books().state = Some(state);
        match fixture.get().await {
            Err(BuyError::Used { open, .. }) => assert!(open.never_expires()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fixture.payer.signed(), [PRICE]);
    let [open] = fixture.buyer.open_payments().try_into().unwrap();
    assert!(fixture.buyer.abandon(&open.id).await);
    fixture.payer.books().charged = PRICE;
    fixture.get().await.unwrap();
    assert_eq!(fixture.payer.signed(), [PRICE, 2 * PRICE]);
}

#[tokio::test]
async fn call_replaces_a_voucher_at_most_twice() {
    let fixture = fixture(|builder| builder).await;
    fixture.channel.books().charged = 7 * PRICE;
    fixture.payer.books().always = Some(Next::Replace);
    let refused = fixture.get().await;
    assert!(
        matches!(refused, Err(BuyError::Refused { .. })),
        "{refused:?}"
    );
    assert_eq!(fixture.payer.signed().len(), 3);
    // Only the last one is open: it has replaced the others.
    assert_eq!(fixture.buyer.open_payments().len(), 1);
}

#[tokio::test]
async fn replacement_stays_within_the_limits() {
    let first = Amount::from(DEPOSIT).to_decimal(6);
    let fixture = fixture(|builder| builder.limits(Limits::default().in_total(&first))).await;
    fixture.channel.books().charged = 7 * PRICE;
    fixture.payer.books().always = Some(Next::Replace);
    match fixture.get().await {
        Err(BuyError::Refused { reason, open, .. }) => {
            assert!(reason.contains("no other payment was signed"), "{reason}");
            assert!(reason.contains("in total are signed"), "{reason}");
            assert_eq!(fixture.buyer.open_payments(), [*open]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fixture.payer.signed(), [PRICE]);
}

/// The deposit of the first payment counts against the limits.
#[tokio::test]
async fn deposit_over_the_limit_is_not_paid() {
    let limits = Limits::default().per_payment("0.09");
    let fixture = fixture(|builder| builder.limits(limits)).await;
    let refused = fixture.get().await.unwrap_err().to_string();
    assert!(refused.contains("locks up 0.09 more"), "{refused}");
    assert!(fixture.payer.signed().is_empty());
    let allowing = Limits::default().per_payment("0.01").locked("0.09");
    let buyer = buyer(&fixture.world, &fixture.payer, |it| it.limits(allowing));
    buyer.get(&fixture.channel.url).await.unwrap();
    assert_eq!(fixture.payer.signed(), [PRICE]);
}

/// A refusal that changes the price, the recipient or the flow is no reason to sign another one.
#[tokio::test]
async fn voucher_is_replaced_only_for_the_same_purchase() {
    let more = |terms: &mut PaymentRequirements| terms.amount = (PRICE + 1).to_string();
    let other = |terms: &mut PaymentRequirements| {
        terms.pay_to = Environment::new().world.payer(1).address().to_owned();
    };
    let upfront = |terms: &mut PaymentRequirements| {
        terms.extra = Object::of(&json!({ "paymentFlow": "upfront" })).ok();
    };
    let foreign = |terms: &mut PaymentRequirements| terms.network = "test:1".to_owned();
    type Change = fn(&mut PaymentRequirements);
    for change in [more as Change, other, upfront, foreign] {
        let fixture = fixture(|builder| builder).await;
        fixture.behind_by(3);
        fixture.payer.books().always = Some(Next::Replace);
        let mut terms = corrected(terms_of(&fixture.world), 3 * PRICE);
        change(&mut terms);
        fixture.channel.books().refusal = Some(required(&[terms.clone()], "other"));
        let refused = fixture.get().await.unwrap_err();
        assert!(
            matches!(&refused, BuyError::Refused { reason, .. } if reason.contains("same purchase")),
            "{refused}"
        );
        assert_eq!(fixture.channel.books().seen, [PRICE]);
        // An option for the same purchase counts wherever it stands.
        let same = corrected(terms_of(&fixture.world), 3 * PRICE);
        fixture.channel.books().refusal = Some(required(&[terms, same], "other"));
        fixture.payer.books().charged = 3 * PRICE;
        fixture.get().await.unwrap();
        assert_eq!(fixture.channel.books().seen, [PRICE, PRICE, 4 * PRICE]);
    }
}

#[tokio::test]
async fn refusal_without_options_replaces_nothing() {
    let fixture = fixture(|builder| builder).await;
    fixture.behind_by(3);
    fixture.payer.books().always = Some(Next::Replace);
    fixture.channel.books().refusal = Some(StatusCode::PAYMENT_REQUIRED.into_response());
    let refused = fixture.get().await.unwrap_err();
    assert!(
        refused.to_string().contains("no payment options"),
        "{refused}"
    );
    assert_eq!(fixture.channel.books().seen, [PRICE]);
}

/// A payer that keeps the call waiting does not lose the delivery, and gets no second payment.
#[tokio::test]
async fn payer_that_does_not_answer_keeps_the_payment() {
    let in_time = |builder: BuyerBuilder| builder.timeout(Duration::from_millis(500));
    let fixture = fixture(in_time).await;
    fixture.payer.books().hangs = true;
    fixture.get().await.unwrap();
    fixture.channel.books().charged = 7 * PRICE;
    assert!(fixture.get().await.is_err());
    assert_eq!(fixture.payer.signed(), [PRICE, PRICE]);
}

/// A lost voucher blocked other requirements for the same request for ever.
#[tokio::test]
async fn lost_voucher_does_not_block_once_it_can_charge_nothing() {
    let fixture = fixture(|builder| builder).await;
    fixture.channel.books().serving = Serving::ChargesAndFails;
    fixture.get().await.unwrap();
    // The server asks for another recipient.
    let other = fixture.world.payer(1).address().to_owned();
    fixture.channel.books().terms.pay_to = other;
    fixture.channel.books().charged = 0;
    fixture.channel.books().serving = Serving::Delivers;
    for state in [
        AuthorizationState::Unknown,
        AuthorizationState::Usable,
        AuthorizationState::Used(None),
    ] {
        fixture.payer.books().state = Some(state);
        let open = fixture.get().await;
        assert!(
            matches!(open, Err(BuyError::AlreadyOpen { .. })),
            "{open:?}"
        );
    }
    fixture.payer.books().state = Some(AuthorizationState::Expired);
    fixture.get().await.unwrap();
    assert!(fixture.buyer.open_payments().is_empty());
}

fn in_file(fixture: &Fixture, path: &Path) -> Buyer {
    let payer = &fixture.payer;
    buyer(&fixture.world, payer, |builder| builder.state_file(path))
}

/// A process ends after the replacement was presented: the next one presents it again.
#[tokio::test]
async fn replacement_survives_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("purchases.json");
    let fixture = fixture(|builder| builder).await;
    fixture.behind_by(3);
    fixture.channel.books().serving = Serving::ChargesAndFails;
    let first = in_file(&fixture, &path);
    let broken = first.get(&fixture.channel.url).await.unwrap();
    let open = broken.cost.unwrap().open.unwrap();
    drop(first);
    let second = in_file(&fixture, &path);
    assert_eq!(second.open_payments(), [open]);
    let seen = fixture.channel.books().seen.len();
    let used = second.get(&fixture.channel.url).await;
    assert!(matches!(used, Err(BuyError::Used { .. })), "{used:?}");
    assert_eq!(fixture.channel.books().seen[seen..], [4 * PRICE]);
}
