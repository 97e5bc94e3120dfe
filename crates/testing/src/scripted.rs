//! The parties of a payment, scripted by a test and without a chain: a facilitator, an offer and a
//! payer, on the network `test:1`.
//!
//! [`ScriptedFacilitator`] returns what the test sets. [`TestOffer`] and [`TestPayer`] agree on
//! payments that differ in a number.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::wire::{
    PaymentPayload, PaymentRequirements, SettleResponse, SupportedKind, SupportedResponse,
    VerifyResponse,
};
use quittance_core::{
    Amount, Asset, AuthorizationState, Facilitator, FacilitatorError, Flow, Network, Offer,
    OfferError, Payer, PayerError, PaymentId, PaymentRequest, Phase, Quote, QuoteError, Reason,
    Rejection, SaleId, SignedPayment, Timestamp, kit,
};
use serde_json::{Value, json};

/// How long a payment for [`requirements`] is valid, in seconds.
pub const VALID_SECS: u64 = 60;

/// What [`TestOffer`] asks for: 10000 units of `coin` on `test:1`.
pub fn requirements() -> PaymentRequirements {
    PaymentRequirements::new("exact", "test:1", "10000", "coin", "seller", VALID_SECS)
}

/// A request with the payment of this number.
pub fn request(number: u64) -> PaymentRequest {
    request_with_payload(&format!("{{\"number\":{number}}}"))
}

/// A request with this payload, in this spelling.
///
/// # Panics
/// When the payload is not a JSON object.
pub fn request_with_payload(payload: &str) -> PaymentRequest {
    let payload: Object = serde_json::from_str(payload).expect("a JSON object");
    let payment = PaymentPayload::new(requirements(), payload);
    PaymentRequest::new(payment, requirements()).expect("a valid request")
}

/// A settle response that failed for this reason.
pub fn failed(reason: &'static str, transaction: &str) -> SettleResponse {
    let rejection = Reason::new(reason).into();
    SettleResponse::failed("test:1", &rejection, None, transaction)
}

fn locked<T>(cell: &Mutex<T>) -> MutexGuard<'_, T> {
    cell.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The result of a settle request.
pub type SettleResult = Result<SettleResponse, FacilitatorError>;

/// A facilitator that returns what the test sets, and counts its requests. At first it verifies and
/// settles every payment, in both protocol versions.
pub struct ScriptedFacilitator {
    verify: Mutex<Result<VerifyResponse, FacilitatorError>>,
    /// Payloads with this field are never verified.
    unverified: Mutex<Option<&'static str>>,
    /// `None` never returns.
    settle: Mutex<Option<SettleResult>>,
    /// The results of the next settle requests, in this order.
    queued: Mutex<VecDeque<SettleResult>>,
    supported: Mutex<SupportedResponse>,
    verify_calls: AtomicUsize,
    settle_calls: AtomicUsize,
    /// What was asked, oldest first.
    log: Mutex<Vec<String>>,
    /// The sale of each settle request, oldest first.
    sales: Mutex<Vec<Option<SaleId>>>,
}

impl ScriptedFacilitator {
    /// A facilitator that accepts every payment.
    pub fn new() -> Arc<Self> {
        let facilitator = Arc::new(Self {
            verify: Mutex::new(Ok(VerifyResponse::valid(Some("payer".to_owned())))),
            unverified: Mutex::default(),
            settle: Mutex::new(Some(Ok(SettleResponse::settled("test:1", None, "0x1")))),
            queued: Mutex::default(),
            supported: Mutex::new(SupportedResponse::new(Vec::new())),
            verify_calls: AtomicUsize::new(0),
            settle_calls: AtomicUsize::new(0),
            log: Mutex::default(),
            sales: Mutex::default(),
        });
        facilitator.set_kinds(&[(2, "test:1"), (1, "test")]);
        facilitator
    }

    /// Sets the result of verify requests.
    pub fn set_verify(&self, result: Result<VerifyResponse, FacilitatorError>) {
        *locked(&self.verify) = result;
    }

    /// Refuses payments in verify requests, for this reason.
    pub fn reject(&self, reason: &'static str) {
        let rejection = Reason::new(reason).into();
        self.set_verify(Ok(VerifyResponse::invalid(&rejection, None)));
    }

    /// Never answers a verify request for a payload with this field.
    pub fn hang_verify(&self, field: &'static str) {
        *locked(&self.unverified) = Some(field);
    }

    /// Sets the result of settle requests.
    pub fn set_settle(&self, result: SettleResult) {
        *locked(&self.settle) = Some(result);
    }

    /// Sets the results of the next settle requests, before the permanent one.
    pub fn queue_settle(&self, results: impl IntoIterator<Item = SettleResult>) {
        *locked(&self.queued) = results.into_iter().collect();
    }

    /// Never answers a settle request from now on.
    pub fn hang_settle(&self) {
        *locked(&self.settle) = None;
    }

    /// Sets the supported versions and networks of the scheme `exact`.
    pub fn set_kinds(&self, kinds: &[(u64, &str)]) {
        let kind =
            |(version, network): &(u64, &str)| SupportedKind::new(*version, "exact", network);
        *locked(&self.supported) = SupportedResponse::new(kinds.iter().map(kind).collect());
    }

    /// Sets the `extra` of all supported kinds, which offers pass on.
    ///
    /// # Panics
    /// When `extra` is not an object.
    pub fn set_extra(&self, extra: &Value) {
        for kind in &mut locked(&self.supported).kinds {
            kind.extra = Some(Object::of(extra).expect("a JSON object"));
        }
    }

    /// Sets the supported extensions.
    pub fn set_extensions<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let names = names.into_iter().map(str::to_owned).collect();
        locked(&self.supported).extensions = Some(names);
    }

    /// What was asked, oldest first: `verify`, or the payload's `type` (`settle` without one), and
    /// the amount.
    pub fn log(&self) -> Vec<String> {
        locked(&self.log).clone()
    }

    /// The sale of each settle request, oldest first.
    pub fn sales(&self) -> Vec<Option<SaleId>> {
        locked(&self.sales).clone()
    }

    /// Adds a request to the log.
    fn note(&self, what: &str, request: &PaymentRequest) {
        let entry = format!("{what} {}", request.requirements.amount);
        locked(&self.log).push(entry);
    }

    /// The number of verify requests.
    pub fn verify_calls(&self) -> usize {
        self.verify_calls.load(Ordering::SeqCst)
    }

    /// The number of settle requests.
    pub fn settle_calls(&self) -> usize {
        self.settle_calls.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for ScriptedFacilitator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScriptedFacilitator")
    }
}

#[async_trait]
impl Facilitator for ScriptedFacilitator {
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        self.note("verify", request);
        self.verify_calls.fetch_add(1, Ordering::SeqCst);
        let unverified = *locked(&self.unverified);
        if unverified.is_some_and(|field| request.payload.tree().contains_key(field)) {
            std::future::pending().await
        }
        locked(&self.verify).clone()
    }

    async fn settle(&self, request: &PaymentRequest) -> SettleResult {
        locked(&self.sales).push(request.sale().cloned());
        let payload = request.payload.tree();
        let act = payload.get("type").and_then(Value::as_str);
        self.note(act.unwrap_or("settle"), request);
        self.settle_calls.fetch_add(1, Ordering::SeqCst);
        if let Some(queued) = locked(&self.queued).pop_front() {
            return queued;
        }
        let result = locked(&self.settle).clone();
        match result {
            Some(result) => result,
            None => std::future::pending().await,
        }
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        Ok(locked(&self.supported).clone())
    }
}

/// An offer for [`requirements`], with the `extra` that the facilitator supports.
///
/// Its escrow flow settles a payload of the type `claim` after the handler.
#[derive(Debug)]
pub struct TestOffer {
    network: Network,
    flow: Flow,
    is_metered: bool,
    gives_back: bool,
}

impl TestOffer {
    /// The offer on `test:1`, which version 1 calls `test`.
    #[expect(clippy::new_without_default, reason = "a test names what it builds")]
    pub fn new() -> Self {
        let network = Network::new("test:1").expect("a valid network");
        Self {
            network: network.with_alias("test"),
            flow: Flow::Authorization,
            is_metered: false,
            gives_back: false,
        }
    }

    /// Sets when the money moves.
    #[must_use]
    pub fn with_flow(self, flow: Flow) -> Self {
        Self { flow, ..self }
    }

    /// Lets handlers charge less than the price.
    #[must_use]
    pub fn metered(self) -> Self {
        Self {
            is_metered: true,
            ..self
        }
    }

    /// Asks the facilitator on a cancel, with a payload of the type `cancel` and an amount of zero.
    #[must_use]
    pub fn giving_back(self) -> Self {
        Self {
            gives_back: true,
            ..self
        }
    }
}

/// The payment with a payload of this type.
fn act(
    name: &str,
    payment: &PaymentRequest,
    amount: Amount,
) -> Result<Option<PaymentRequest>, OfferError> {
    let mut payload = payment.payload.tree();
    payload.insert("type".to_owned(), name.into());
    let payload = Object::of(&payload).map_err(OfferError::Request)?;
    let act = payment.completed(payload, amount);
    act.map(Some).map_err(OfferError::Request)
}

#[async_trait]
impl Offer for TestOffer {
    fn scheme(&self) -> &str {
        "exact"
    }

    fn network(&self) -> &Network {
        &self.network
    }

    fn flow(&self) -> Flow {
        self.flow
    }

    async fn request(
        &self,
        phase: Phase<'_>,
        payment: &PaymentRequest,
        _terms: &PaymentRequirements,
    ) -> Result<Option<PaymentRequest>, OfferError> {
        match (phase, self.flow) {
            (Phase::Verify, Flow::Authorization) => Ok(Some(payment.clone())),
            (Phase::BeforeHandler, Flow::Upfront | Flow::Escrow) => Ok(Some(payment.clone())),
            (Phase::AfterHandler { charged, .. }, Flow::Authorization) => {
                let request = payment.charging(charged).map_err(OfferError::Request)?;
                Ok(Some(request))
            }
            (Phase::AfterHandler { charged, .. }, Flow::Escrow) => act("claim", payment, charged),
            (Phase::Cancel { .. }, _) if self.gives_back => act("cancel", payment, Amount::ZERO),
            _ => Ok(None),
        }
    }

    fn charge(&self, words: &str, price: Amount) -> Option<Result<Amount, OfferError>> {
        /// The decimal places of `coin`.
        const DECIMALS: u8 = 6;
        // It compares no amount with the price: the seller's layer must.
        let charged = match words.parse() {
            Ok(amount) => Ok(amount),
            Err(_) => kit::charged(words, price, DECIMALS),
        };
        self.is_metered.then_some(charged)
    }

    /// The payload's channel.
    fn serial(&self, payload: &Object) -> Option<String> {
        let channel = payload.tree().get("channel")?.as_str()?.to_owned();
        Some(channel)
    }

    /// A payload of the type `refund` buys nothing.
    fn acknowledgement(&self, payload: &Object) -> Option<Object> {
        let is_refund = payload.tree().get("type")? == "refund";
        let body = json!({ "message": "acknowledged" });
        is_refund.then(|| Object::of(&body).expect("a JSON object"))
    }

    /// The facilitator's own correction.
    fn correct(&self, rejection: &Rejection) -> Option<Object> {
        rejection.extra.as_deref().cloned()
    }

    fn requirements(&self, kind: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        Ok(PaymentRequirements {
            extra: kind.extra.clone(),
            ..requirements()
        })
    }

    /// The number identifies a payment. Other fields make no difference.
    fn authorization(&self, payload: &Object) -> Option<PaymentId> {
        let tree = payload.tree();
        let number = tree.get("number")?.to_string();
        Some(PaymentId::from_parts(&[number.as_bytes()]))
    }
}

/// A payer whose payments differ in a number, on the network `test:1`, which version 1 calls
/// `test`. It compares names without case, as chains compare addresses. Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct TestPayer {
    signed: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
    /// The state of each authorization on the chain, by its number. Others are unknown.
    states: Arc<Mutex<BTreeMap<u64, AuthorizationState>>>,
}

impl TestPayer {
    /// The number of payments it has signed.
    pub fn signed(&self) -> usize {
        self.signed.load(Ordering::SeqCst)
    }

    /// Makes signing fail, or work again.
    pub fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// Sets the state of the authorization with this number on the chain.
    pub fn set_state(&self, number: u64, state: AuthorizationState) {
        locked(&self.states).insert(number, state);
    }
}

#[async_trait]
impl Payer for TestPayer {
    fn address(&self) -> &str {
        "payer"
    }

    fn quote(&self, requirements: &PaymentRequirements) -> Result<Quote, QuoteError> {
        if requirements.scheme != "exact" || !["test", "test:1"].contains(&&*requirements.network) {
            return Err(QuoteError::NotSupported);
        }
        if !requirements.asset.eq_ignore_ascii_case("coin") {
            return Err(QuoteError::unpayable(
                "the asset is not on the payer's own list",
            ));
        }
        Ok(Quote {
            network: "test:1".to_owned(),
            pay_to: requirements.pay_to.to_lowercase(),
            asset: Asset {
                address: "coin".to_owned(),
                symbol: "COIN".to_owned(),
                decimals: 6,
            },
            amount: requirements
                .amount
                .parse()
                .unwrap_or(Amount::from(u64::MAX)),
            locks: Amount::ZERO,
        })
    }

    async fn pay(
        &self,
        requirements: &PaymentRequirements,
        _offered: Option<&Object>,
        now: Timestamp,
    ) -> Result<SignedPayment, PayerError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(PayerError::signing("the key is missing"));
        }
        // Other tasks run while a payment is signed.
        tokio::task::yield_now().await;
        let number = self.signed.fetch_add(1, Ordering::SeqCst);
        let payload = Object::of(&json!({ "number": number })).expect("a JSON object");
        let expires = now.plus_secs(requirements.max_timeout_seconds);
        Ok(SignedPayment::new(payload, expires))
    }

    async fn authorization_state(
        &self,
        network: &str,
        asset: &str,
        payload: &Object,
        _expires: Timestamp,
    ) -> AuthorizationState {
        assert_eq!((network, asset), ("test:1", "coin"));
        let number = payload.tree()["number"].as_u64().expect("a number");
        let states = locked(&self.states);
        let state = states.get(&number).cloned();
        state.unwrap_or(AuthorizationState::Unknown)
    }
}
