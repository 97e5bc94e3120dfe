//! `auth-capture` on the contract of holds: holding a payment has the properties of every scheme,
//! and charges, captures, voids and refunds do what they say.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy::primitives::{Address, B256, U256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_core::wire::SettleResponse;
use quittance_core::{
    Amount, Clock, Facilitator, FacilitatorError, FaultKind, Observed, PaymentRequest, Reason,
    RequestCaller, Scheme, SchemeState, StateStore, SystemClock,
};
use quittance_devnet::{Account, Evm as Local, USDC};
use quittance_engine::{Engine, EngineBuilder};
use quittance_evm::auth_capture::{AuthCapture, AuthCaptureConfig, V1_0, reason, state_id};
use quittance_evm::{Evm, EvmConfig, reason as exact_reason};
use quittance_testing::faults::{EngineParts, FaultySchemeFixture, PlantedFault, SchemeFault};
use quittance_tests::conformance::life::{Act, LifeFixture};
use quittance_tests::conformance::scheme::{self, SchemeFixture};
use quittance_tests::engine::{assert_invalid, assert_refused, settled_at_last as settled};
use quittance_tests::evm::{PRICE, Setting, set, set_required};
use quittance_tests::holds::{
    Hold, authorize_elsewhere, balances, fund_refunds, held, sellers_authorizer,
};
use quittance_tests::mutations::{NOT_CAUGHT_IN_EXACT, assert_caught};
use quittance_tests::permit2::{allow, approved};
use serde_json::{Value, json};

/// Where a request has the payer's authorization.
const AUTHORIZATION: &str = "/paymentPayload/payload/authorization";

fn scheme_of(config: EvmConfig, settings: AuthCaptureConfig) -> (Evm, AuthCapture) {
    let evm = Evm::new(config).unwrap();
    let scheme = AuthCapture::new(&evm).with_config(settings).unwrap();
    (evm, scheme)
}

/// An operator that pays the seller's refunds, and is the authorizer of sellers without a key.
fn settings() -> AuthCaptureConfig {
    let mut settings = AuthCaptureConfig::default();
    settings.authorizer = Some(Setting::signers()[0].address);
    settings.refunds_for = [(Setting::seller().address, sellers_authorizer().address())].into();
    settings
}

async fn builder(setting: &Setting, settings: AuthCaptureConfig) -> EngineBuilder {
    let (evm, scheme) = scheme_of(setting.config(), settings);
    setting.builder().await.chain(evm, vec![Arc::new(scheme)])
}

async fn engine(setting: &Setting) -> Engine {
    builder(setting, settings()).await.start().await.unwrap()
}

struct HoldFixture(Setting);

#[async_trait]
impl SchemeFixture for HoldFixture {
    type Chain = Evm;

    const PRICE: Amount = Amount::new(U256::from_limbs([PRICE, 0, 0, 0]));

    async fn new() -> Self {
        Self(Setting::start().await)
    }

    fn scheme(&self) -> Arc<dyn Scheme<Evm>> {
        Arc::new(scheme_of(self.0.config(), settings()).1)
    }

    async fn engine(&self) -> Engine {
        engine(&self.0).await
    }

    async fn request(&self) -> PaymentRequest {
        Hold::new().authorize()
    }

    async fn alike(&self) -> [PaymentRequest; 2] {
        let first = Hold::new();
        let mut second = first.clone();
        second.payer = Local::accounts()[3].clone();
        second.terms.payer = second.payer.address;
        [first, second].map(|hold| hold.authorize())
    }

    fn twin(&self, request: &PaymentRequest) -> PaymentRequest {
        let signature = json!(format!("0x{}", "11".repeat(65)));
        set(request, "/paymentPayload/payload/signature", signature)
    }

    async fn spoiled(&self) -> Vec<(&'static str, PaymentRequest, Reason)> {
        spoiled()
    }

    async fn pointless(&self) -> [(PaymentRequest, Reason); 2] {
        let nothing = Hold::of(&Setting::buyer(), 0);
        let mut to_itself = Hold::new();
        to_itself.terms.receiver = Setting::buyer().address;
        to_itself.requirements.pay_to = Setting::buyer().address.to_string();
        [
            (nothing.authorize(), Reason::AMOUNT_TOO_LOW),
            (to_itself.authorize(), Reason::INVALID_PAYMENT_REQUIREMENTS),
        ]
    }

    /// What is held is the contract's until it is captured.
    async fn received(&self) -> Amount {
        Amount::new(held(&self.0).await)
    }

    async fn hold(&self) {
        self.0.hold().await;
    }

    async fn go_on(&self) {
        self.0.go_on().await;
    }

    async fn drain_payer(&self) -> bool {
        self.0.drain(Setting::buyer().address).await;
        true
    }

    async fn settle_elsewhere(&self, request: &PaymentRequest) -> bool {
        authorize_elsewhere(&self.0, request).await;
        true
    }
}

quittance_tests::scheme_conformance!(HoldFixture);

#[async_trait]
impl EngineParts for HoldFixture {
    fn parts(&self) -> (Evm, Arc<dyn Scheme<Evm>>) {
        let (evm, scheme) = scheme_of(self.0.config(), settings());
        (evm, Arc::new(scheme))
    }

    async fn builder(&self) -> EngineBuilder {
        self.0.builder().await
    }
}

/// Some minutes: `make mutations`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn planted_faults_are_caught() {
    let properties = scheme::properties::<FaultySchemeFixture<HoldFixture>>();
    let faults = SchemeFault::ALL.map(PlantedFault::Scheme);
    assert_caught(&properties, faults, &NOT_CAUGHT_IN_EXACT).await;
}

/// Lives of a payment: it is held and captured, voided and refunded, or charged at once.
struct HoldLives {
    setting: Setting,
    /// The hold of the newest life.
    newest: Mutex<Hold>,
}

/// What the acts of a life move, in atomic units.
const HELD: u128 = 100;
const CAPTURED: u128 = 60;
const CAPTURED_INSTEAD: u128 = 30;
const REFUNDED: u128 = 20;

#[async_trait]
impl LifeFixture for HoldLives {
    type Chain = Evm;

    async fn new() -> Self {
        let setting = Setting::start().await;
        fund_refunds(&setting).await;
        Self {
            setting,
            newest: Mutex::new(Hold::new()),
        }
    }

    fn parts(&self) -> (Evm, Arc<dyn Scheme<Evm>>) {
        let (evm, scheme) = scheme_of(self.setting.config(), settings());
        (evm, Arc::new(scheme))
    }

    async fn acts(&self) -> Vec<Act> {
        let hold = Hold::of(&Setting::buyer(), 100);
        *self.newest.lock().unwrap() = hold.clone();
        let (whole, rest) = (balances(HELD, 0), balances(HELD - CAPTURED, CAPTURED));
        vec![
            Act::new("authorize", hold.authorize()).excludes(&["charge"]),
            Act::new("capture", hold.capture(CAPTURED, whole))
                .after(&["authorize"])
                .excludes(&["capture less"]),
            Act::new("refund", hold.refund(REFUNDED, rest))
                .after(&["authorize", "capture"])
                .excludes(&["capture less"]),
            Act::new("void", hold.void())
                .after(&["authorize"])
                .excludes(&["capture", "capture less", "refund"]),
            Act::new("capture less", hold.capture(CAPTURED_INSTEAD, whole))
                .after(&["authorize"])
                .excludes(&["capture", "refund"]),
            Act::new("charge", hold.charge(HELD))
                .settled_only()
                .excludes(&["authorize", "capture", "refund", "void", "capture less"]),
        ]
    }

    /// By the contract's logs.
    async fn effects(&self, _: &[Act], _: &dyn StateStore) -> Vec<Option<u64>> {
        let hold = self.newest.lock().unwrap().clone();
        let setting = &self.setting;
        let [authorized, charged, captured, voided, refunded] =
            hold.logged(setting, CAPTURED, REFUNDED).await;
        let [_, _, less, ..] = hold.logged(setting, CAPTURED_INSTEAD, REFUNDED).await;
        let effects = [authorized, captured, refunded, voided, less, charged];
        effects.map(Some).to_vec()
    }

    async fn hold(&self) {
        self.setting.hold().await;
    }

    async fn go_on(&self) {
        self.setting.go_on().await;
    }
}

mod life {
    use super::HoldLives;
    quittance_tests::life_conformance!(HoldLives);
}

/// Lives in which one request captures a part and returns the rest: two transactions.
struct CloseOutLives(HoldLives);

#[async_trait]
impl LifeFixture for CloseOutLives {
    type Chain = Evm;

    async fn new() -> Self {
        Self(HoldLives::new().await)
    }

    fn parts(&self) -> (Evm, Arc<dyn Scheme<Evm>>) {
        self.0.parts()
    }

    async fn acts(&self) -> Vec<Act> {
        let hold = Hold::of(&Setting::buyer(), 100);
        *self.0.newest.lock().unwrap() = hold.clone();
        let whole = balances(HELD, 0);
        vec![
            Act::new("authorize", hold.authorize()),
            Act::new("capture and void", hold.capture_and_void(CAPTURED, whole))
                .after(&["authorize"])
                .excludes(&["void", "capture"]),
            Act::new("void", hold.void())
                .after(&["authorize"])
                .excludes(&["capture and void", "capture"]),
            Act::new("capture", hold.capture(HELD, whole))
                .after(&["authorize"])
                .excludes(&["capture and void", "void"]),
        ]
    }

    /// By the contract's logs. A void that belongs to a capture is no void of its own.
    async fn effects(&self, _: &[Act], _: &dyn StateStore) -> Vec<Option<u64>> {
        let hold = self.0.newest.lock().unwrap().clone();
        let setting = &self.0.setting;
        let [authorized, _, part, voided, _] = hold.logged(setting, CAPTURED, 0).await;
        let [_, _, whole, ..] = hold.logged(setting, HELD, 0).await;
        let both = part.min(voided);
        // A capture of the part without its void would be neither act.
        assert!(part <= 1 && part == both || voided == 0, "{part} {voided}");
        let effects = [authorized, part, voided - both, whole];
        effects.map(Some).to_vec()
    }

    async fn hold(&self) {
        self.0.hold().await;
    }

    async fn go_on(&self) {
        self.0.go_on().await;
    }
}

mod close_out_life {
    use super::CloseOutLives;
    quittance_tests::life_conformance!(CloseOutLives);
}

/// Payments that are wrong in one way each, in the order of the checks.
fn spoiled() -> Vec<(&'static str, PaymentRequest, Reason)> {
    let hold = Hold::new();
    let good = hold.authorize();
    let odd = Address::repeat_byte(7);
    let now = SystemClock.now().secs();
    let extra = |field: &str, value: Value| hold.clone().with_extra(field, value).authorize();
    let payload =
        |field: &str, value: Value| set(&good, &format!("/paymentPayload/payload/{field}"), value);
    let authorization =
        |field: &str, value: Value| set(&good, &format!("{AUTHORIZATION}/{field}"), value);
    let added = |field: &str, value: Value| {
        let mut payload = hold.payload();
        payload[field] = value;
        hold.request(&payload)
    };
    let until = |valid_before: u64| {
        let hold = Hold::new().with_terms(|terms| terms.pre_approval_expiry = valid_before);
        hold.authorize()
    };
    let deadlines =
        |capture: u64, refund: u64| Hold::new().with_deadlines(capture, refund).authorize();
    let stranger = PrivateKeySigner::random();
    let poor = Account {
        address: stranger.address(),
        signer: stranger,
        ..Setting::buyer()
    };
    let signed_by_another = {
        let mut other = hold.clone();
        other.payer.signer = PrivateKeySigner::random();
        other.authorize()
    };
    vec![
        (
            "an unknown type",
            added("type", json!("gift")),
            reason::PAYLOAD_TYPE,
        ),
        (
            "another contract of holds",
            extra("authCaptureEscrow", json!(odd)),
            reason::EXTRA,
        ),
        (
            "no operator",
            extra("captureAuthorizer", Value::Null),
            reason::EXTRA,
        ),
        (
            "no deadline",
            extra("captureDeadline", Value::Null),
            reason::EXTRA,
        ),
        ("no domain", extra("name", json!("")), reason::EXTRA),
        (
            "fees in the wrong order",
            extra("minFeeBps", json!(1)),
            reason::EXTRA,
        ),
        (
            "fees over everything",
            extra("maxFeeBps", json!(10_001)),
            reason::EXTRA,
        ),
        (
            "fees without a receiver",
            extra("maxFeeBps", json!(5)),
            reason::EXTRA,
        ),
        (
            "the removed field",
            extra("autoCapture", json!(true)),
            reason::UNSUPPORTED_PAYMENT_FLOW,
        ),
        (
            "an unknown flow",
            extra("paymentFlow", json!("upfront")),
            reason::UNSUPPORTED_PAYMENT_FLOW,
        ),
        (
            "a contract as the operator",
            extra("operatorType", json!("custom")),
            reason::UNSUPPORTED_OPERATOR_TYPE,
        ),
        ("a policy", extra("policy", json!(odd)), reason::POLICY),
        (
            "another operator",
            extra("captureAuthorizer", json!(odd)),
            reason::OPERATOR_NOT_ADMITTED,
        ),
        (
            "an unknown method",
            extra("assetTransferMethod", json!("cash")),
            reason::UNSUPPORTED_ASSET_TRANSFER_METHOD,
        ),
        (
            "another method",
            extra("assetTransferMethod", json!("permit2")),
            reason::PAYLOAD_METHOD_MISMATCH,
        ),
        (
            "another collector",
            authorization("to", json!(odd)),
            reason::TOKEN_COLLECTOR_MISMATCH,
        ),
        (
            "another contract's collector",
            extra("authCaptureEscrow", json!(V1_0.escrow)),
            reason::TOKEN_COLLECTOR_MISMATCH,
        ),
        (
            "not valid from the beginning",
            authorization("validAfter", json!("1")),
            reason::AUTHORIZATION_NOT_YET_VALID,
        ),
        (
            "another amount than was signed",
            authorization("value", json!((PRICE + 1).to_string())),
            reason::AMOUNT_MISMATCH,
        ),
        (
            "a charge of what is held",
            added("amount", json!("1")),
            reason::PAYLOAD_FORMAT,
        ),
        (
            "no authorizer for the salt",
            extra("receiverAuthorizer", Value::Null),
            reason::PAYLOAD_FORMAT,
        ),
        (
            "another authorizer",
            extra("receiverAuthorizer", json!(odd)),
            reason::SALT_BINDING_MISMATCH,
        ),
        (
            "another salt",
            payload("salt", json!(B256::repeat_byte(3))),
            reason::SALT_BINDING_MISMATCH,
        ),
        (
            "another receiver than was signed",
            set_required(&good, "payTo", json!(odd)),
            reason::NONCE_MISMATCH,
        ),
        (
            "a later deadline than was signed",
            extra(
                "captureDeadline",
                json!(hold.terms.authorization_expiry + 1),
            ),
            reason::NONCE_MISMATCH,
        ),
        (
            "a higher fee than was signed",
            hold.clone()
                .with_extra("feeRecipient", json!(odd))
                .with_extra("maxFeeBps", json!(10))
                .authorize(),
            reason::NONCE_MISMATCH,
        ),
        (
            "the nonce of another hold",
            authorization("nonce", json!(B256::repeat_byte(9))),
            reason::NONCE_MISMATCH,
        ),
        ("expired", until(now - 1), reason::AUTHORIZATION_EXPIRED),
        (
            "about to expire",
            until(now + 3),
            reason::AUTHORIZATION_EXPIRED,
        ),
        (
            "valid for longer than the hold",
            until(now + 2 * 3600),
            reason::DEADLINE_ORDERING,
        ),
        (
            "refunds end before captures",
            deadlines(now + 3600, now + 3599),
            reason::DEADLINE_ORDERING,
        ),
        (
            "the hold ends before the time for the payment",
            {
                let hold = Hold::new().with_deadlines(now + 59, now + 3600);
                let hold = hold.with_terms(|terms| terms.pre_approval_expiry = now + 30);
                hold.authorize()
            },
            reason::DEADLINE_ORDERING,
        ),
        (
            "refunds for years",
            deadlines(now + 3600, now + 10 * 365 * 24 * 3600),
            reason::EXTRA,
        ),
        (
            "the signature of another key",
            signed_by_another,
            reason::SIGNATURE,
        ),
        (
            "a payer without money",
            Hold::of(&poor, PRICE).authorize(),
            reason::INSUFFICIENT_BALANCE,
        ),
    ]
}

async fn settle(engine: &Engine, request: &PaymentRequest) -> SettleResponse {
    engine.settle(request).await.unwrap()
}

fn amounts(answer: &SettleResponse) -> (Value, Value) {
    let extra = answer.extra.as_ref().unwrap().tree();
    let field = |name: &str| extra[name].clone();
    (field("capturableAmount"), field("refundableAmount"))
}

/// The whole life of a hold: all is held, a part is captured twice, a part of that is paid back,
/// and the rest is returned.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_lives_from_its_authorization_to_its_void() {
    let setting = Setting::start().await;
    fund_refunds(&setting).await;
    let engine = engine(&setting).await;
    let buyer = Setting::buyer().address;
    let before = setting.local.balance(USDC, buyer).await.unwrap();
    let hold = Hold::of(&Setting::buyer(), 100);

    let first = hold.authorize();
    let verdict = engine.verify(&first).await.unwrap();
    assert!(verdict.is_valid, "{verdict:?}");
    let answer = settled(&engine, &first).await;
    assert_eq!(answer.amount.as_deref(), Some("100"));
    assert_eq!(amounts(&answer), (json!("100"), json!("0")));
    let extra = answer.extra.unwrap().tree();
    assert_eq!(extra["paymentInfoHash"], json!(hold.id()));
    assert_eq!(held(&setting).await, U256::from(100));

    let capture = hold.capture(40, balances(100, 0));
    assert!(engine.verify(&capture).await.unwrap().is_valid);
    let answer = settled(&engine, &capture).await;
    assert_eq!(answer.amount.as_deref(), Some("40"));
    assert_eq!(amounts(&answer), (json!("60"), json!("40")));
    settled(&engine, &hold.capture(10, balances(60, 40))).await;
    assert_eq!(setting.received().await, Amount::from(50));

    let answer = settled(&engine, &hold.refund(20, balances(50, 50))).await;
    assert_eq!(answer.amount.as_deref(), Some("20"));
    assert_eq!(amounts(&answer), (json!("50"), json!("30")));

    let answer = settled(&engine, &hold.void()).await;
    assert_eq!(answer.amount.as_deref(), Some("0"));
    assert_eq!(amounts(&answer), (json!("0"), json!("30")));
    assert_eq!(hold.balances(&setting).await, balances(0, 30));
    // 100 went, 20 came from the operator, and 50 came back.
    let after = setting.local.balance(USDC, buyer).await.unwrap();
    assert_eq!(before - after, U256::from(30));
    assert_eq!(held(&setting).await, U256::ZERO);
    drop(engine);
    let id = state_id(&hold.id());
    let record = setting.journal().await.state(&id).await.unwrap().unwrap();
    assert_eq!(record.due, None);
}

/// A capture is signed for the balances that it finds. So it is made once, whatever is repeated.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_is_made_once_and_answered_to_every_repeat() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let hold = Hold::of(&Setting::buyer(), 100);
    settled(&engine, &hold.authorize()).await;
    let capture = hold.capture(40, balances(100, 0));
    let answers = join_all((0..5).map(|_| settled(&engine, &capture))).await;
    let transactions: Vec<_> = answers.iter().map(|it| &it.transaction).collect();
    assert!(transactions.iter().all(|it| *it == transactions[0]));
    assert_eq!(
        settled(&engine, &capture).await.transaction,
        *transactions[0]
    );
    assert_eq!(setting.received().await, Amount::from(40));
    // Signed for the same balances, with another amount.
    let other = hold.capture(50, balances(100, 0));
    assert!(!settle(&engine, &other).await.success);
    let late = hold.capture(1, balances(99, 1));
    assert_refused(
        &settle(&engine, &late).await,
        &reason::UNEXPECTED_PAYMENT_STATE,
    );
    let over = hold.capture(61, balances(60, 40));
    assert_refused(
        &settle(&engine, &over).await,
        &reason::INSUFFICIENT_AUTHORIZATION,
    );
    assert_eq!(setting.received().await, Amount::from(40));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_is_of_what_the_seller_signs_and_no_more() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let hold = Hold::of(&Setting::buyer(), 100).charged();
    let raw = hold.authorize();
    assert!(engine.verify(&raw).await.unwrap().is_valid);
    assert_refused(&settle(&engine, &raw).await, &reason::PAYLOAD_FORMAT);
    assert_refused(
        &settle(&engine, &hold.charge(101)).await,
        &reason::AMOUNT_MISMATCH,
    );
    let changed = |field: &str, value: Value| {
        let path = format!("/paymentPayload/payload/{field}");
        set(&hold.charge(70), &path, value)
    };
    for (request, reason) in [
        (changed("amount", json!("71")), reason::AUTHORIZER_SIGNATURE),
        (
            changed("feeAmount", json!("1")),
            reason::FEE_BPS_OUT_OF_RANGE,
        ),
        (
            changed("feeReceiver", json!(Address::repeat_byte(9))),
            reason::AUTHORIZER_SIGNATURE,
        ),
        (
            changed("authorizerSignature", json!("0x")),
            reason::UNAUTHENTICATED_AUTHORIZER_REQUEST,
        ),
    ] {
        assert_refused(&settle(&engine, &request).await, &reason);
    }
    let answer = settled(&engine, &hold.charge(70)).await;
    assert_eq!(answer.amount.as_deref(), Some("70"));
    assert_eq!(amounts(&answer), (json!("0"), json!("70")));
    assert_eq!(setting.received().await, Amount::from(70));
    assert_eq!(held(&setting).await, U256::ZERO);
    // Nothing is held.
    for act in [hold.void(), hold.capture(1, balances(0, 70))] {
        assert_refused(&settle(&engine, &act).await, &reason::PAYLOAD_TYPE);
    }
    // The same authorization is worth nothing any more.
    let held_now = hold.clone().with_extra("paymentFlow", json!("escrow"));
    assert!(!settle(&engine, &held_now.authorize()).await.success);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_is_held_like_an_authorization() {
    let setting = approved().await;
    let engine = engine(&setting).await;
    let hold = Hold::of(&Setting::buyer(), 100);
    let answer = settled(&engine, &hold.authorize_by_permit2()).await;
    assert_eq!(answer.amount.as_deref(), Some("100"));
    // The nonce is the owner's, over both methods, but the contract collects a payment once.
    let answer = settle(&engine, &hold.authorize()).await;
    assert_refused(&answer, &reason::PAYMENT_ALREADY_COLLECTED);
    let hold = hold.with_extra("assetTransferMethod", json!("permit2"));
    settled(&engine, &hold.capture(100, balances(100, 0))).await;
    assert_eq!(setting.received().await, Amount::from(100));
}

/// Each permit passes its own simulation. Together they need more than the payer has allowed, so
/// one would revert at the operator's cost.
#[tokio::test(flavor = "multi_thread")]
async fn permits_beyond_the_allowance_cost_no_gas() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let buyer = Setting::buyer();
    allow(&setting, buyer.address, 199).await;
    let requests = [(); 2].map(|()| Hold::of(&buyer, 100).authorize_by_permit2());
    let signer = Setting::signers()[0].address;
    let before = setting.sent(signer).await;
    let settled = join_all(requests.iter().map(|request| engine.settle(request))).await;
    let success = |answer: &Result<SettleResponse, FacilitatorError>| {
        answer.as_ref().is_ok_and(|it| it.success)
    };
    let successes = settled.iter().filter(|answer| success(answer)).count();
    assert_eq!((successes, held(&setting).await), (1, U256::from(100)));
    assert_eq!(setting.sent(signer).await - before, 1);
}

/// The collector takes all that was authorized, and returns what is not charged. The balance was
/// compared with the charges alone.
#[tokio::test(flavor = "multi_thread")]
async fn charges_beyond_the_balance_cost_no_gas() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let signer = Setting::signers()[0].address;
    let success = |answer: &Result<SettleResponse, FacilitatorError>| {
        answer.as_ref().is_ok_and(|it| it.success)
    };
    // The required amount is the price, or what is charged of it.
    for required in [100_u64, 10] {
        let payer = setting.payer_with(199).await;
        let charge = |_| {
            let hold = Hold::of(&payer, 100).with_extra("paymentFlow", json!("authorization"));
            hold.charge(10).charging(required.into()).unwrap()
        };
        let requests = [0, 1].map(charge);
        let before = setting.sent(signer).await;
        let settled = join_all(requests.iter().map(|request| engine.settle(request))).await;
        assert_eq!(settled.iter().filter(|answer| success(answer)).count(), 1);
        assert_eq!(setting.sent(signer).await - before, 1);
    }
}

/// While a charge is open, another one that does not fit beside it is not called valid: nor by the
/// next process.
#[tokio::test(flavor = "multi_thread")]
async fn a_charge_is_verified_beside_what_an_open_one_authorizes() {
    let setting = Setting::start().await;
    let first = engine(&setting).await;
    let payer = setting.payer_with(199).await;
    let charge = || Hold::of(&payer, 100).charged().charge(10);
    let is_busy = async |engine: &Engine| match engine.verify(&charge()).await {
        Err(FacilitatorError::Fault(fault)) => fault.kind == FaultKind::Busy,
        _ => false,
    };
    setting.hold().await;
    let open = charge().charging(10_u64.into()).unwrap();
    let answer = first.settle(&open).await.unwrap();
    assert!(answer.is_pending(), "{answer:?}");
    assert!(is_busy(&first).await);
    first.shut_down(Duration::ZERO).await;
    drop(first);
    let second = engine(&setting).await;
    assert!(is_busy(&second).await);
    setting.go_on().await;
    settled(&second, &open).await;
}

/// A payer settled its own payment first, with a key of its own at the facilitator. The seller
/// delivered, and the payer's key could void the hold.
#[tokio::test(flavor = "multi_thread")]
async fn only_its_caller_shares_a_hold_that_it_may_void() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let by =
        |name: &'static str, request: PaymentRequest| request.by(RequestCaller::Known(name.into()));
    let hold = Hold::of(&Setting::buyer(), 100).authorized_by(Setting::signers()[0].address);
    let request = hold.authorize();
    setting.hold().await;
    let first = engine.settle(&by("payer", request.clone())).await.unwrap();
    assert!(first.is_pending(), "{first:?}");
    let verdict = engine.verify(&by("seller", request.clone())).await.unwrap();
    assert_invalid(&verdict, &Reason::DUPLICATE_SETTLEMENT);
    let same = engine.verify(&by("payer", request)).await.unwrap();
    assert!(same.is_valid, "{same:?}");
    setting.go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_without_an_approval_is_refused() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let verdict = engine.verify(&Hold::new().authorize_by_permit2()).await;
    assert_invalid(&verdict.unwrap(), &exact_reason::PERMIT2_ALLOWANCE_REQUIRED);
}

/// One request captures a part and returns the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_captured_and_the_rest_returned_by_one_request() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let hold = Hold::of(&Setting::buyer(), 100);
    settled(&engine, &hold.authorize()).await;
    let all = hold.capture_and_void(100, balances(100, 0));
    assert_refused(
        &settle(&engine, &all).await,
        &reason::VOID_REMAINDER_FULL_CAPTURE,
    );
    let close = hold.capture_and_void(30, balances(100, 0));
    let forged = set(
        &close,
        "/paymentPayload/payload/voidAuthorizerSignature",
        json!(format!("0x{}", "22".repeat(65))),
    );
    assert_refused(
        &settle(&engine, &forged).await,
        &reason::VOID_AUTHORIZER_SIGNATURE,
    );
    let sent = setting.sent(hold.terms.operator).await;
    let answer = settled(&engine, &close).await;
    assert_eq!(answer.amount.as_deref(), Some("30"));
    assert_eq!(amounts(&answer), (json!("0"), json!("30")));
    assert_eq!(setting.sent(hold.terms.operator).await, sent + 2);
    assert_eq!(hold.balances(&setting).await, balances(0, 30));
    assert_eq!(setting.received().await, Amount::from(30));
    assert_eq!(held(&setting).await, U256::ZERO);
    let void = settle(&engine, &hold.void()).await;
    assert_refused(&void, &reason::ZERO_AUTHORIZATION);
}

/// Fees are within the bounds that the payer has signed, and go to the account that it has signed.
#[tokio::test(flavor = "multi_thread")]
async fn a_fee_is_paid_within_its_bounds() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let agent = Address::repeat_byte(0xfe);
    let hold = Hold::of(&Setting::buyer(), 10_000).with_fees(100, 200, agent);
    settled(&engine, &hold.authorize()).await;
    let whole = balances(10_000, 0);
    let changed = |field: &str, value: Value| {
        let path = format!("/paymentPayload/payload/{field}");
        set(&hold.capture(5_000, whole), &path, value)
    };
    for (request, reason) in [
        (
            changed("feeAmount", json!("49")),
            reason::FEE_BPS_OUT_OF_RANGE,
        ),
        (
            changed("feeAmount", json!("101")),
            reason::FEE_BPS_OUT_OF_RANGE,
        ),
        (
            changed("feeAmount", json!("51")),
            reason::AUTHORIZER_SIGNATURE,
        ),
        (
            changed("feeReceiver", json!(Address::repeat_byte(1))),
            reason::FEE_RECEIVER,
        ),
    ] {
        assert_refused(&settle(&engine, &request).await, &reason);
    }
    let answer = settled(&engine, &hold.capture(5_000, whole)).await;
    assert_eq!(answer.amount.as_deref(), Some("5000"));
    assert_eq!(setting.received().await, Amount::from(4_950));
    let fee = setting.local.balance(USDC, agent).await.unwrap();
    assert_eq!(fee, U256::from(50));
}

/// A refund is paid from the operator's own tokens, so the operator must want it.
#[tokio::test(flavor = "multi_thread")]
async fn a_refund_needs_the_operators_agreement_and_its_tokens() {
    let setting = Setting::start().await;
    let hold = Hold::of(&Setting::buyer(), 100);
    let refund = |amount| hold.refund(amount, balances(0, 100));
    {
        let engine = engine(&setting).await;
        settled(&engine, &hold.authorize()).await;
        settled(&engine, &hold.capture(100, balances(100, 0))).await;
        let answer = settle(&engine, &refund(10)).await;
        assert_refused(&answer, &reason::REFUND_FUNDING_UNAVAILABLE);
    }
    fund_refunds(&setting).await;
    {
        // It has the tokens, and has not agreed to spend them.
        let unwilling = builder(&setting, AuthCaptureConfig::default()).await;
        let engine = unwilling.start().await.unwrap();
        let answer = settle(&engine, &refund(10)).await;
        assert_refused(&answer, &reason::REFUND_FUNDING_UNAVAILABLE);
    }
    let engine = engine(&setting).await;
    assert_refused(
        &settle(&engine, &refund(101)).await,
        &reason::REFUND_EXCEEDS_CAPTURE,
    );
    settled(&engine, &refund(10)).await;
    assert_eq!(hold.balances(&setting).await, balances(0, 90));
}

/// A payer drained the operator's refunds alone: it made holds for a seller whose refunds are paid,
/// signed the acts itself, and had its money back as the fee.
#[tokio::test(flavor = "multi_thread")]
async fn refunds_are_for_a_sellers_own_holds_without_foreign_fees() {
    let setting = Setting::start().await;
    fund_refunds(&setting).await;
    let engine = engine(&setting).await;
    let (payer, operator) = (Setting::buyer(), Setting::signers()[0].address);
    let own_key = PrivateKeySigner::random();
    let by_itself = Hold {
        authorizer: own_key.clone(),
        ..Hold::of(&payer, 100).authorized_by(own_key.address())
    };
    let with_fee = |receiver| Hold::of(&payer, 100).with_fees(0, 10_000, receiver);
    for (hold, is_refunded) in [
        (
            by_itself.clone().with_fees(10_000, 10_000, payer.address),
            false,
        ),
        (by_itself, false),
        (with_fee(payer.address), false),
        (with_fee(operator), true),
    ] {
        settled(&engine, &hold.authorize()).await;
        settled(&engine, &hold.capture(100, balances(100, 0))).await;
        let answer = settle(&engine, &hold.refund(100, balances(0, 100))).await;
        match is_refunded {
            true => assert!(answer.success, "{answer:?}"),
            false => assert_refused(&answer, &reason::REFUND_FUNDING_UNAVAILABLE),
        }
    }
    // The facilitator's own authorizer is another one, too.
    let delegated = Hold::of(&payer, 100).authorized_by(operator);
    let shop = || RequestCaller::Known("shop".into());
    let without = |request: &PaymentRequest| {
        let path = "/paymentPayload/payload/authorizerSignature";
        set(request, path, json!("0x")).by(shop())
    };
    settled(&engine, &delegated.authorize().by(shop())).await;
    settled(&engine, &without(&delegated.capture(100, balances(100, 0)))).await;
    let refund = without(&delegated.refund(100, balances(0, 100)));
    let answer = settle(&engine, &refund).await;
    assert_refused(&answer, &reason::REFUND_FUNDING_UNAVAILABLE);
}

/// Any client that saw a signed capture could add an empty signature, and end the hold.
#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_void_is_not_added_to_a_signed_capture() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let whole = balances(100, 0);
    let added = |request: &PaymentRequest| {
        let path = "/paymentPayload/payload/voidAuthorizerSignature";
        set(request, path, json!("0x"))
    };
    let own = Hold::of(&Setting::buyer(), 100);
    settled(&engine, &own.authorize()).await;
    let capture = own.capture_and_void(10, whole);
    for caller in [RequestCaller::Anyone, RequestCaller::Known("shop".into())] {
        let answer = settle(&engine, &added(&capture).by(caller)).await;
        assert_refused(&answer, &reason::UNAUTHENTICATED_AUTHORIZER_REQUEST);
    }
    assert_eq!(own.balances(&setting).await, whole);
    // The facilitator is the authorizer, and its key has signed the capture only.
    let operator = &Setting::signers()[0];
    let delegated = Hold {
        authorizer: operator.signer.clone(),
        ..Hold::of(&Setting::buyer(), 100).authorized_by(operator.address)
    };
    let by = |name: &str| RequestCaller::Known(name.into());
    settled(&engine, &delegated.authorize().by(by("shop"))).await;
    let capture = added(&delegated.capture_and_void(10, whole));
    let answer = settle(&engine, &capture.clone().by(by("other"))).await;
    assert_refused(&answer, &reason::UNAUTHENTICATED_AUTHORIZER_REQUEST);
    settled(&engine, &capture.by(by("shop"))).await;
    assert_eq!(delegated.balances(&setting).await, balances(0, 10));
}

/// A newer version may have written the record: the caller has done nothing wrong.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_record_is_no_fault_of_the_caller() {
    let setting = Setting::start().await;
    let (_, scheme) = scheme_of(setting.config(), settings());
    let hold = Hold::of(&Setting::buyer(), 100).authorized_by(Setting::signers()[0].address);
    let path = "/paymentPayload/payload/authorizerSignature";
    let void = set(&hold.void(), path, json!("0x")).by(RequestCaller::Known("shop".into()));
    let now = SystemClock.now();
    let payment = scheme.decode(&void, now).unwrap();
    let verdict = |state: Option<&SchemeState>| {
        let checked = payment.check(&Observed::new(&[], &[], now).with_state(state));
        checked.err().unwrap().reason
    };
    let content = br#"{"version":2}"#.to_vec();
    let newer = SchemeState::new(
        state_id(&hold.id()),
        "eip155:84532",
        "auth-capture",
        content,
    );
    assert_eq!(verdict(Some(&newer)), reason::VERIFICATION_FAILED);
    let expected = reason::UNAUTHENTICATED_AUTHORIZER_REQUEST;
    assert_eq!(verdict(None), expected);
}

/// The token refuses the payer after it has paid. The answer said that the capture has failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_succeeds_whose_rest_cannot_be_returned() {
    alloy::sol! { function blacklist(address account) external; }
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let hold = Hold::of(&Setting::buyer(), 100);
    settled(&engine, &hold.authorize()).await;
    let account = hold.payer.address;
    let block = blacklistCall { account }.abi_encode();
    let owner = Local::accounts()[9].address;
    setting.local.send(owner, USDC, block).await.unwrap();
    let close = hold.capture_and_void(30, balances(100, 0));
    for _ in 0..2 {
        let answer = settled(&engine, &close).await;
        assert_eq!(answer.amount.as_deref(), Some("30"));
        assert_eq!(amounts(&answer), (json!("70"), json!("30")));
    }
    assert_eq!(hold.balances(&setting).await, balances(70, 30));
    assert_eq!(setting.received().await, Amount::from(30));
    // The record has what is left, so the seller can still have it.
    settled(&engine, &hold.capture(70, balances(70, 30))).await;
    assert_eq!(setting.received().await, Amount::from(100));
}

/// Acts after the first one are the receiver's: by its authorizer's signature, or by the caller
/// that has made the hold if the facilitator is the authorizer.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_authorizer_or_the_maker_of_a_hold_captures_it() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let whole = balances(100, 0);
    let without = |request: &PaymentRequest| {
        set(
            request,
            "/paymentPayload/payload/authorizerSignature",
            json!("0x"),
        )
    };
    let own = Hold::of(&Setting::buyer(), 100);
    settled(&engine, &own.authorize()).await;
    let forged = Hold {
        authorizer: PrivateKeySigner::random(),
        ..own.clone()
    };
    for (request, reason) in [
        (forged.capture(10, whole), reason::AUTHORIZER_SIGNATURE),
        (forged.void(), reason::AUTHORIZER_SIGNATURE),
        (
            without(&own.void()),
            reason::UNAUTHENTICATED_AUTHORIZER_REQUEST,
        ),
        (
            without(&own.void()).by(RequestCaller::Known("shop".into())),
            reason::UNAUTHENTICATED_AUTHORIZER_REQUEST,
        ),
    ] {
        assert_refused(&settle(&engine, &request).await, &reason);
    }
    // The facilitator is the authorizer.
    let shop = || RequestCaller::Known("shop".into());
    let delegated = Hold::of(&Setting::buyer(), 100).authorized_by(Setting::signers()[0].address);
    settled(&engine, &delegated.authorize().by(shop())).await;
    let capture = without(&delegated.capture(10, whole));
    for caller in [RequestCaller::Anyone, RequestCaller::Known("other".into())] {
        let answer = settle(&engine, &capture.clone().by(caller)).await;
        assert_refused(&answer, &reason::UNAUTHENTICATED_AUTHORIZER_REQUEST);
    }
    settled(&engine, &capture.by(shop())).await;
    settled(&engine, &without(&delegated.void()).by(shop())).await;
    assert_eq!(delegated.balances(&setting).await, balances(0, 10));
    // Without an authorizer, only the operator itself acts.
    let unbound = Hold::of(&Setting::buyer(), 100).unbound();
    settled(&engine, &unbound.authorize().by(shop())).await;
    let answer = settle(&engine, &unbound.void().by(shop())).await;
    assert_refused(&answer, &reason::LIFECYCLE_NOT_RELAYED);
    assert_eq!(unbound.balances(&setting).await, whole);
}

/// An act names the hold by its terms, and they must be those that the requirements state: the
/// operator's list of recipients is asked about these.
#[tokio::test(flavor = "multi_thread")]
async fn an_act_for_other_terms_than_its_requirements_is_refused() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let hold = Hold::of(&Setting::buyer(), 100);
    settled(&engine, &hold.authorize()).await;
    let odd = json!(Address::repeat_byte(9));
    let act = hold.capture(10, balances(100, 0));
    let changed = |field: &str, value: Value| {
        set(
            &act,
            &format!("/paymentPayload/payload/paymentInfo/{field}"),
            value,
        )
    };
    for (request, reason) in [
        (set_required(&act, "payTo", odd.clone()), reason::EXTRA),
        (changed("receiver", odd.clone()), reason::EXTRA),
        (changed("maxAmount", json!("99")), reason::EXTRA),
        (changed("authorizationExpiry", json!(1)), reason::EXTRA),
        (changed("operator", odd.clone()), reason::OPERATOR_MISMATCH),
        (
            changed("salt", json!(B256::repeat_byte(1))),
            reason::SALT_BINDING_MISMATCH,
        ),
        // Other terms of which the requirements say nothing: another hold, which does not exist.
        (changed("payer", odd), reason::AUTHORIZER_SIGNATURE),
    ] {
        assert_refused(&settle(&engine, &request).await, &reason);
    }
}

/// After the deadline the hold is the payer's. Before, it cannot take it back.
#[tokio::test(flavor = "multi_thread")]
async fn after_its_deadline_a_hold_is_the_payers() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let now = SystemClock.now().secs();
    let hold = Hold::of(&Setting::buyer(), 100).with_deadlines(now + 900, now + 1800);
    settled(&engine, &hold.authorize()).await;
    let _: Value = setting.local.rpc("evm_increaseTime", (901,)).await.unwrap();
    setting.local.mine().await.unwrap();
    let late = hold.capture(10, balances(100, 0));
    // The clocks of chain and machine differ, so the verdict is none of the scheme's.
    assert!(
        engine
            .settle(&late)
            .await
            .map_or(true, |answer| !answer.success)
    );
    hold.reclaim(&setting).await;
    assert_eq!(hold.balances(&setting).await, balances(0, 0));
    assert_eq!(setting.received().await, Amount::ZERO);
}
