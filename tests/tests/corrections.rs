//! Corrective answers: what a scheme says in the `extra` of a rejection reaches the buyer, from the
//! facilitator over HTTP and through a failover, after `/verify` and after `/settle`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Extension, Router};
use quittance_core::json::Object;
use quittance_core::wire::{
    PaymentPayload, PaymentRequired, PaymentRequirements, SettleResponse, SupportedKind, header,
};
use quittance_core::{
    Amount, Check, Effect, Facilitator, Network, Observed, Offer, OfferError, Payment, PaymentId,
    PaymentInfo, PaymentRequest, Plan, Reason, Refusal, Rejection, Scheme, SchemeReceipt,
    SchemeState, SignatureClaim, StateAccess, StateChange, StateId, Timestamp,
};
use quittance_http::{Failover, RemoteFacilitator};
use quittance_seller::PaymentLayer;
use quittance_service::{Keys, ServiceOptions, router};
use quittance_testing::world::{
    Environment, Evidence, PRICE, SimulatedChain, SimulatedExact, SimulatedOffer, Transfer, World,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};

const BUSY: Reason = Reason::new("channel_busy");
const STALE: Reason = Reason::new("invalid_channel_cumulative_amount_mismatch");

/// Vouchers of a channel: each charges the price if its ceiling is the sum of all charges with it.
struct Vouchers(SimulatedExact);

/// The ceiling is in the nonce.
struct Voucher {
    payment: Box<dyn Payment<SimulatedChain>>,
    access: StateAccess,
    ceiling: u64,
}

/// What a channel has charged.
fn charged(state: Option<&SchemeState>) -> u64 {
    state.map_or(0, |state| serde_json::from_slice(&state.state).unwrap())
}

impl Scheme<SimulatedChain> for Vouchers {
    fn name(&self) -> &str {
        "exact"
    }

    fn assets(&self) -> Vec<String> {
        self.0.assets()
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<SimulatedChain>>, Refusal> {
        let payment = self.0.decode(request, now)?;
        let nonce = World::transfer_of(request).authorization.nonce;
        let channel = StateId::from_parts(&[payment.info().payer.as_bytes()]);
        Ok(Box::new(Voucher {
            ceiling: u64::from_be_bytes(nonce[..8].try_into().unwrap()),
            access: StateAccess::new(channel, BUSY),
            payment,
        }))
    }
}

impl Payment<SimulatedChain> for Voucher {
    fn info(&self) -> &PaymentInfo {
        self.payment.info()
    }

    fn signatures(&self) -> &[SignatureClaim] {
        self.payment.signatures()
    }

    fn state_access(&self) -> Option<&StateAccess> {
        Some(&self.access)
    }

    fn check(
        &self,
        observed: &Observed<'_, SimulatedChain>,
    ) -> Result<Check<SimulatedChain>, Rejection> {
        let charged = charged(observed.state);
        if self.ceiling == charged + PRICE {
            return Ok(Check::Valid);
        }
        let state = json!({ "channelState": { "chargedCumulativeAmount": charged.to_string() } });
        let rejection = Rejection::new(STALE, "the ceiling is not that of the next charge");
        Err(rejection.with_extra(Object::of(&state).unwrap()))
    }

    fn plan(
        &self,
        _: Amount,
        _: &Observed<'_, SimulatedChain>,
    ) -> Result<Plan<Transfer>, Rejection> {
        Ok(Plan::OffChain)
    }

    fn state_after(
        &self,
        _: Amount,
        observed: &Observed<'_, SimulatedChain>,
        _: Option<&Evidence>,
    ) -> StateChange {
        let charged = charged(observed.state) + PRICE;
        StateChange {
            state: Some((charged.to_string().into_bytes(), None)),
            receipt: SchemeReceipt {
                amount: Some(String::new()),
                extra: None,
            },
        }
    }

    fn effect(&self, amount: Amount, evidence: &Evidence) -> Effect {
        self.payment.effect(amount, evidence)
    }
}

/// The seller's side of [`Vouchers`].
struct VoucherOffer(SimulatedOffer);

impl Offer for VoucherOffer {
    fn scheme(&self) -> &str {
        self.0.scheme()
    }

    fn network(&self) -> &Network {
        self.0.network()
    }

    fn requirements(&self, supported: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        self.0.requirements(supported)
    }

    fn authorization(&self, payload: &Object) -> Option<PaymentId> {
        self.0.authorization(payload)
    }

    fn correct(&self, rejection: &Rejection) -> Option<Object> {
        let state = rejection.extra.as_ref()?.tree().remove("channelState")?;
        Object::of(&json!({ "channelState": state })).ok()
    }
}

async fn listen(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// A facilitator of vouchers behind HTTP.
async fn facilitator(environment: &Environment) -> String {
    let chain = environment.world.chain();
    let scheme = Arc::new(Vouchers(SimulatedExact::new(&chain)));
    let builder = environment.builder().await.chain(chain, vec![scheme]);
    let engine = builder.start().await.unwrap();
    listen(router(engine, ServiceOptions::new(Keys::anyone()))).await
}

/// The facilitator as a seller reaches it: after another one that is down.
async fn reached(url: &str) -> Arc<dyn Facilitator> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let down = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let remote = |url: &str| Arc::new(RemoteFacilitator::new(url).unwrap());
    Arc::new(Failover::new(remote(&down)).or(remote(url)))
}

/// When the handlers of a shop may end.
struct Gate {
    began: Notify,
    may_end: Semaphore,
}

async fn shop(environment: &Environment, url: &str, gate: Arc<Gate>) -> String {
    let offer = VoucherOffer(environment.world.offer());
    let price = PaymentLayer::new(reached(url).await).accept(offer);
    let goods = |Extension(gate): Extension<Arc<Gate>>| async move {
        gate.began.notify_one();
        drop(gate.may_end.acquire().await.unwrap());
        "goods"
    };
    let app = Router::new().route("/goods", get(goods).layer(price));
    listen(app.layer(Extension(gate))).await
}

/// A voucher of payer 0 with this ceiling, in prices. The number makes it another one.
fn voucher(world: &World, ceiling: u64, number: u8) -> Object {
    let payer = World::payer_key(0);
    let requirements = world.requirements();
    let mut nonce = [number; 32];
    nonce[..8].copy_from_slice(&(ceiling * PRICE).to_be_bytes());
    let authorization = quittance_testing::world::Authorization {
        asset: requirements.asset,
        from: world.payer(0).account(),
        to: world.seller(),
        amount: Amount::from(PRICE),
        nonce,
        expires: world.now().plus_secs(60).secs(),
    };
    Object::of(&authorization.sign(world.network(), &payer)).unwrap()
}

/// The answer to a purchase that accepts these requirements.
struct Answer {
    status: StatusCode,
    offered: Option<PaymentRequirements>,
    receipt: Option<SettleResponse>,
}

async fn buy(shop: &str, accepted: &PaymentRequirements, payload: Object) -> Answer {
    let payment = header::encode(&PaymentPayload::new(accepted.clone(), payload));
    let request = reqwest::Client::new().get(format!("{shop}/goods"));
    let request = request.header(header::PAYMENT_SIGNATURE, payment);
    let response = request.send().await.unwrap();
    let named = |name: &str| response.headers().get(name).map(|value| value.as_bytes());
    let offered = named(header::PAYMENT_REQUIRED).map(|value| {
        let required: PaymentRequired = header::decode("required", value).unwrap();
        required.accepts.into_iter().next().unwrap()
    });
    let receipt = named(header::PAYMENT_RESPONSE);
    Answer {
        status: response.status(),
        offered,
        receipt: receipt.map(|value| header::decode("receipt", value).unwrap()),
    }
}

impl Answer {
    /// What the 402 response says of the channel.
    fn charged(&self) -> Value {
        let extra = self.offered.as_ref().unwrap().extra.as_ref();
        let extra = extra.map(Object::tree).unwrap_or_default();
        extra["channelState"]["chargedCumulativeAmount"].clone()
    }
}

fn open_gate() -> Arc<Gate> {
    Arc::new(Gate {
        began: Notify::new(),
        may_end: Semaphore::new(1),
    })
}

/// attacks.md 129: a stale or replayed voucher is answered with the state of its channel.
#[tokio::test(flavor = "multi_thread")]
async fn stale_and_replayed_vouchers_are_corrected_at_verify() {
    let environment = Environment::new();
    let world = &environment.world;
    let facilitator = facilitator(&environment).await;
    let shop = shop(&environment, &facilitator, open_gate()).await;
    let requirements = world.requirements();
    let too_high = buy(&shop, &requirements, voucher(world, 2, 0)).await;
    assert_eq!(too_high.status, StatusCode::PAYMENT_REQUIRED);
    assert_eq!(too_high.charged(), "0");
    // A buyer returns the requirements with the correction in them.
    let corrected = too_high.offered.unwrap();
    let first = voucher(world, 1, 0);
    let sold = buy(&shop, &corrected, first.clone()).await;
    assert_eq!(sold.status, StatusCode::OK);
    assert!(sold.receipt.unwrap().success);
    for (payload, what) in [(first, "replayed"), (voucher(world, 1, 1), "stale")] {
        let refused = buy(&shop, &corrected, payload).await;
        assert_eq!(refused.status, StatusCode::PAYMENT_REQUIRED, "{what}");
        assert_eq!(refused.charged(), PRICE.to_string(), "{what}");
    }
    let sold = buy(&shop, &requirements, voucher(world, 2, 1)).await;
    assert_eq!(sold.status, StatusCode::OK);
}

/// Two sellers of one facilitator serve two vouchers with one ceiling. Both are valid until one
/// settles.
#[tokio::test(flavor = "multi_thread")]
async fn a_voucher_that_is_late_is_corrected_at_settle() {
    let environment = Environment::new();
    let world = &environment.world;
    let facilitator = facilitator(&environment).await;
    let gate = Arc::new(Gate {
        began: Notify::new(),
        may_end: Semaphore::new(0),
    });
    let slow = shop(&environment, &facilitator, Arc::clone(&gate)).await;
    let quick = shop(&environment, &facilitator, open_gate()).await;
    let (requirements, late) = (world.requirements(), voucher(world, 1, 0));
    let accepted = requirements.clone();
    let late = tokio::spawn(async move { buy(&slow, &accepted, late).await });
    gate.began.notified().await;
    let sold = buy(&quick, &requirements, voucher(world, 1, 1)).await;
    assert_eq!(sold.status, StatusCode::OK);
    gate.may_end.add_permits(1);
    let late = late.await.unwrap();
    assert_eq!(late.status, StatusCode::PAYMENT_REQUIRED);
    assert_eq!(late.charged(), PRICE.to_string());
    let receipt = late.receipt.unwrap();
    assert_eq!(receipt.error_reason.as_deref(), Some(STALE.code()));
    let extra = receipt.extra.unwrap().tree();
    assert_eq!(
        extra["channelState"]["chargedCumulativeAmount"],
        PRICE.to_string()
    );
}

/// The facilitator's own answers, to `/verify` and to `/settle`.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_carries_its_extra_over_http() {
    let environment = Environment::new();
    let world = &environment.world;
    let facilitator = reached(&facilitator(&environment).await).await;
    let requirements = world.requirements();
    let payment = PaymentPayload::new(requirements.clone(), voucher(world, 3, 0));
    let request = PaymentRequest::new(payment, requirements).unwrap();
    let verdict = facilitator.verify(&request).await.unwrap();
    let answer = facilitator.settle(&request).await.unwrap();
    for rejection in [verdict.rejection().unwrap(), answer.rejection().unwrap()] {
        assert_eq!(rejection.reason, STALE);
        let extra = rejection.extra.unwrap().tree();
        assert_eq!(extra["channelState"]["chargedCumulativeAmount"], "0");
    }
}
