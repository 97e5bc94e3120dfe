//! The two ends of `auth-capture`: an offer whose payments are held, captured, voided and refunded,
//! and a payer that signs for no hold that it does not want.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::{Arc, Mutex};

use alloy::primitives::{Address, U256};
use alloy::signers::local::PrivateKeySigner;
use async_trait::async_trait;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use quittance_buyer::{Buyer, Purchase};
use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, Rest, SettleResponse, SupportedKind};
use quittance_core::{
    Amount, AuthorizationState, Clock, Facilitator, Fault, ManualClock, Network, Offer, Payer,
    PaymentRequest, RequestCaller, Scheme, SystemClock, Timestamp,
};
use quittance_devnet::{AUTH_CAPTURE_ESCROW, USDC};
use quittance_engine::Engine;
use quittance_evm::auth_capture::{AuthCaptureConfig, Hold, HoldStore, V1_0, reason};
use quittance_evm::{
    AuthCapture, AuthCaptureOffer, AuthCapturePayer, Evm, EvmConfig, Token, TransferMethod, known,
};
use quittance_seller::PaymentLayer;
use quittance_tests::conformance::ends::EndsFixture;
use quittance_tests::engine::settled_at_last as settled;
use quittance_tests::evm::Setting;
use quittance_tests::holds::{balances, fund_refunds, held, sellers_authorizer};
use quittance_tests::permit2::approved;
use serde_json::{Value, json};
use tokio::net::TcpListener;

fn network() -> Network {
    known::network("base-sepolia").unwrap()
}

/// The two ends with a token by EIP-3009 or by Permit2, whose payments are held or charged.
struct Ends<const PERMIT2: bool, const AT_ONCE: bool> {
    token: Token,
    authorizer: PrivateKeySigner,
    clock: Arc<ManualClock>,
}

type HeldByEip3009 = Ends<false, false>;
type HeldByPermit2 = Ends<true, false>;
type ChargedByEip3009 = Ends<false, true>;

/// The time for a payment, which is not the default.
const TIMEOUT_SECS: u64 = 90;

/// A facilitator with one signer, whose node is never asked.
fn config(token: &Token) -> EvmConfig {
    let url = "http://127.0.0.1:1".parse().unwrap();
    let signer = Setting::signers()[0].signer.clone();
    let mut config = EvmConfig::new(network(), vec![url], vec![Arc::new(signer)]);
    config.tokens = vec![token.clone()];
    config
}

#[async_trait]
impl<const PERMIT2: bool, const AT_ONCE: bool> EndsFixture for Ends<PERMIT2, AT_ONCE> {
    type Chain = Evm;

    async fn new() -> Self {
        let method = match PERMIT2 {
            true => TransferMethod::Permit2,
            false => TransferMethod::Eip3009,
        };
        let token = Token::new(Address::repeat_byte(0xab), "Coin", "1", "COIN", 6);
        Self {
            token: token.with_method(method),
            authorizer: PrivateKeySigner::random(),
            clock: Arc::new(ManualClock::new(SystemClock.now())),
        }
    }

    fn offer(&self) -> Arc<dyn Offer> {
        let seller = Setting::seller().address.to_string();
        let offer = AuthCaptureOffer::new(network(), self.token.clone(), "0.01", &seller).unwrap();
        let offer = offer
            .with_timeout_secs(TIMEOUT_SECS)
            .with_authorizer(self.authorizer.clone())
            .with_clock(self.clock.clone());
        Arc::new(match AT_ONCE {
            true => offer.at_once(),
            false => offer,
        })
    }

    fn payer(&self) -> Arc<dyn Payer> {
        let payer = AuthCapturePayer::new(Setting::buyer().signer);
        Arc::new(payer.with_token(network().id(), self.token.clone()))
    }

    fn supported(&self) -> SupportedKind {
        let scheme = self.scheme();
        SupportedKind {
            x402_version: 2,
            scheme: scheme.name().to_owned(),
            network: network().id().to_owned(),
            extra: scheme.extra(),
            rest: Rest::default(),
        }
    }

    fn scheme(&self) -> Arc<dyn Scheme<Evm>> {
        let evm = Evm::new(config(&self.token)).unwrap();
        Arc::new(AuthCapture::new(&evm))
    }

    fn respelled(&self, requirements: &PaymentRequirements) -> PaymentRequirements {
        PaymentRequirements {
            network: "base-sepolia".to_owned(),
            asset: requirements.asset.to_lowercase(),
            pay_to: requirements.pay_to.to_lowercase(),
            ..requirements.clone()
        }
    }

    fn in_unknown_asset(&self, requirements: &PaymentRequirements) -> PaymentRequirements {
        PaymentRequirements {
            asset: Address::repeat_byte(0xcd).to_checksum(None),
            ..requirements.clone()
        }
    }
}

mod held_by_eip3009 {
    use super::HeldByEip3009;
    quittance_tests::offer_and_payer_conformance!(HeldByEip3009);
}

mod held_by_permit2 {
    use super::HeldByPermit2;
    quittance_tests::offer_and_payer_conformance!(HeldByPermit2);
}

mod charged_by_eip3009 {
    use super::ChargedByEip3009;
    quittance_tests::offer_and_payer_conformance!(ChargedByEip3009);
}

/// The requirements of an offer with other fields in `extra`.
fn changed(good: &PaymentRequirements, fields: &[(&str, Value)]) -> PaymentRequirements {
    let mut extra = good.extra.clone().unwrap().tree();
    for (field, value) in fields {
        extra.insert((*field).to_owned(), value.clone());
    }
    PaymentRequirements {
        extra: Some(Object::of(&extra).unwrap()),
        ..good.clone()
    }
}

/// Until its deadline the buyer cannot take a hold back.
#[tokio::test]
async fn a_payer_signs_for_no_hold_that_it_does_not_want() {
    let fixture = HeldByEip3009::new().await;
    let good = fixture.offer().requirements(&fixture.supported()).unwrap();
    let payer = AuthCapturePayer::new(Setting::buyer().signer);
    let payer = payer.with_token(network().id(), fixture.token.clone());
    let now = SystemClock.now().secs();
    let until = |capture: u64| {
        let refund = json!(capture + 3600);
        changed(
            &good,
            &[
                ("captureDeadline", json!(capture)),
                ("refundDeadline", refund),
            ],
        )
    };
    let month = 31 * 24 * 3600;
    for (what, spoiled) in [
        ("a longer hold", until(now + month + 10)),
        ("a hold for ever", until((1 << 48) - 10_000)),
        ("a hold that is over", until(now - 1)),
        ("a hold that ends before the payment", until(now + 30)),
        (
            "refunds before captures",
            changed(&good, &[("refundDeadline", json!(now + 60))]),
        ),
        (
            "an unknown contract",
            changed(&good, &[("authCaptureEscrow", json!(USDC))]),
        ),
        (
            "no operator",
            changed(&good, &[("captureAuthorizer", Value::Null)]),
        ),
        (
            "a contract as the operator",
            changed(&good, &[("operatorType", json!("custom"))]),
        ),
        (
            "a fee over everything",
            changed(
                &good,
                &[("maxFeeBps", json!(10_001)), ("feeRecipient", json!(USDC))],
            ),
        ),
        (
            "another token's name",
            changed(&good, &[("name", json!("Dollar"))]),
        ),
        (
            "an amount that no hold has",
            PaymentRequirements {
                amount: (U256::from(1) << 121_usize).to_string(),
                ..good.clone()
            },
        ),
    ] {
        assert!(payer.quote(&spoiled).is_err(), "{what}");
        let signed = payer.pay(&spoiled, None, SystemClock.now()).await;
        assert!(signed.is_err(), "{what}");
    }
    let long = until(now + month + 10);
    let patient = payer.clone().with_longest_hold_secs(2 * month);
    assert!(patient.quote(&long).is_ok());
    assert!(payer.quote(&until(now + month - 10)).is_ok());
    // The other contract is signed for with its own addresses.
    let older = changed(&good, &[("authCaptureEscrow", json!(V1_0.escrow))]);
    let signed = payer.pay(&older, None, SystemClock.now()).await.unwrap();
    let to = signed.payload.tree()["authorization"]["to"].clone();
    assert_eq!(to, json!(V1_0.eip3009_collector.to_checksum(None)));
}

/// A 402 response is answered a moment later, so its deadline is not the present one.
#[tokio::test]
async fn an_offer_accepts_the_deadlines_that_it_has_stated() {
    let fixture = HeldByEip3009::new().await;
    let offer = fixture.offer();
    let stated = offer.requirements(&fixture.supported()).unwrap();
    let week = 7 * 24 * 3600;
    for (later, is_accepted) in [(0, true), (60, true), (week / 2 - 61, true), (60, false)] {
        fixture.clock.advance(later);
        let own = offer.requirements(&fixture.supported()).unwrap();
        let found = offer.stated_before(&own, &stated);
        assert_eq!(found.as_ref() == Some(&stated), is_accepted, "{later}");
    }
    // No buyer makes the deadlines, and no other field follows its copy.
    let own = offer.requirements(&fixture.supported()).unwrap();
    let extra = own.extra.clone().unwrap().tree();
    let (capture, refund) = (
        extra["captureDeadline"].as_u64().unwrap(),
        extra["refundDeadline"].as_u64().unwrap(),
    );
    for copy in [
        changed(
            &own,
            &[
                ("captureDeadline", json!(capture + 61)),
                ("refundDeadline", json!(refund + 61)),
            ],
        ),
        changed(&own, &[("refundDeadline", json!(refund - 1))]),
        changed(&own, &[("captureDeadline", json!("soon"))]),
    ] {
        assert_eq!(offer.stated_before(&own, &copy), None);
    }
    let copy = changed(
        &own,
        &[("feeRecipient", json!(USDC)), ("maxFeeBps", json!(100))],
    );
    assert_eq!(offer.stated_before(&own, &copy), Some(own));
}

#[tokio::test]
async fn an_offer_pays_no_fee_that_its_seller_did_not_agree_to() {
    let fixture = HeldByEip3009::new().await;
    let seller = Setting::seller().address.to_string();
    let offer = AuthCaptureOffer::usdc("base-sepolia", "1", &seller).unwrap();
    let offer = offer.with_authorizer(fixture.authorizer.clone());
    let fees = json!({
        "captureAuthorizer": Setting::signers()[0].address,
        "feeRecipient": USDC, "minFeeBps": 50, "maxFeeBps": 50,
    });
    let supported = SupportedKind {
        extra: Object::of(&fees).ok(),
        ..fixture.supported()
    };
    assert!(offer.requirements(&supported).is_err());
    let agreed = offer.clone().with_fee_max_bps(50);
    let extra = agreed
        .requirements(&supported)
        .unwrap()
        .extra
        .unwrap()
        .tree();
    assert_eq!(
        (&extra["minFeeBps"], &extra["maxFeeBps"]),
        (&json!(50), &json!(50))
    );
    // Without a key, and without a facilitator that signs, nothing could be captured.
    let keyless = AuthCaptureOffer::usdc("base-sepolia", "1", &seller).unwrap();
    assert!(keyless.requirements(&fixture.supported()).is_err());
}

/// A seller's store of holds.
#[derive(Default)]
struct Drawer(Mutex<Vec<Hold>>);

#[async_trait]
impl HoldStore for Drawer {
    async fn keep(&self, hold: Hold) -> Result<(), Fault> {
        self.0.lock().unwrap().push(hold);
        Ok(())
    }
}

/// A facilitator that is the authorizer for callers with a key, and pays the seller's refunds.
async fn engine(setting: &Setting) -> Engine {
    let evm = Evm::new(setting.config()).unwrap();
    let mut settings = AuthCaptureConfig::default();
    settings.authorizer = Some(Setting::signers()[0].address);
    settings.refunds_for = [(Setting::seller().address, sellers_authorizer().address())].into();
    let scheme = AuthCapture::new(&evm).with_config(settings).unwrap();
    let builder = setting.builder().await.chain(evm, vec![Arc::new(scheme)]);
    builder.start().await.unwrap()
}

async fn listen(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

fn offer() -> AuthCaptureOffer {
    let seller = Setting::seller().address.to_string();
    AuthCaptureOffer::usdc("base-sepolia", "0.01", &seller).unwrap()
}

/// A shop with this offer. `/goods` costs the price, `/part` charges a part of it, `/nothing`
/// charges nothing, and `/broken` fails.
async fn shop(engine: &Engine, offer: &AuthCaptureOffer) -> String {
    let facilitator: Arc<dyn Facilitator> = Arc::new(engine.clone());
    let price = || PaymentLayer::new(Arc::clone(&facilitator)).accept(offer.clone());
    let charging =
        |words: &'static str| move || async move { ([("settlement-overrides", words)], "part") };
    let app = Router::new()
        .route("/goods", get(|| async { "goods" }).layer(price()))
        .route(
            "/part",
            get(charging(r#"{"amount":"2500"}"#)).layer(price()),
        )
        .route(
            "/nothing",
            get(charging(r#"{"amount":"0"}"#)).layer(price()),
        )
        .route(
            "/broken",
            get(|| async { StatusCode::INTERNAL_SERVER_ERROR }).layer(price()),
        );
    listen(app).await
}

async fn buy(url: &str) -> Purchase {
    let payer = AuthCapturePayer::new(Setting::buyer().signer);
    let buyer = Buyer::builder().payer(payer).build().unwrap();
    buyer.get(url).await.unwrap()
}

async fn spent(setting: &Setting) -> U256 {
    let buyer = Setting::buyer().address;
    let left = setting.local.balance(USDC, buyer).await.unwrap();
    U256::from(1_000_000_000_000_u64) - left
}

/// What the handler charges is captured, and the rest returned: always all of it, one way or the
/// other.
#[tokio::test(flavor = "multi_thread")]
async fn a_sale_captures_what_its_handler_charges() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let shop = shop(
        &engine,
        &offer().with_authorizer(PrivateKeySigner::random()),
    )
    .await;
    for (path, charged, status) in [
        ("goods", 10_000, 200),
        ("part", 2_500, 200),
        ("nothing", 0, 200),
        ("broken", 0, 500),
    ] {
        let before = spent(&setting).await;
        let bought = buy(&format!("{shop}/{path}")).await;
        assert_eq!(bought.response.status(), status, "{path}");
        let paid = spent(&setting).await - before;
        assert_eq!(paid, U256::from(charged), "{path}");
        assert_eq!(held(&setting).await, U256::ZERO, "{path}");
    }
    assert_eq!(setting.received().await, Amount::from(12_500));
}

/// A payment by Permit2, and a payment that is charged and never held.
#[tokio::test(flavor = "multi_thread")]
async fn a_sale_is_held_by_a_permit_or_charged_at_once() {
    let setting = approved().await;
    let engine = engine(&setting).await;
    let usdc = known::token("eip155:84532", "USDC").unwrap().clone();
    let seller = Setting::seller().address.to_string();
    let by_permit = usdc.with_method(TransferMethod::Permit2);
    let by_permit = AuthCaptureOffer::new(network(), by_permit, "0.01", &seller).unwrap();
    let key = PrivateKeySigner::random;
    let mut received = 0;
    for offer in [
        by_permit.with_authorizer(key()),
        offer().with_authorizer(key()).at_once(),
    ] {
        let shop = shop(&engine, &offer).await;
        for (path, charged) in [("goods", 10_000), ("part", 2_500), ("broken", 0)] {
            buy(&format!("{shop}/{path}")).await;
            received += charged;
            assert_eq!(setting.received().await, Amount::from(received), "{path}");
            assert_eq!(held(&setting).await, U256::ZERO, "{path}");
        }
    }
}

/// The seller's own program captures, refunds and voids later, with what it has stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_seller_captures_refunds_and_voids_later() {
    let setting = Setting::start().await;
    fund_refunds(&setting).await;
    let engine = engine(&setting).await;
    let (key, drawer) = (sellers_authorizer(), Arc::new(Drawer::default()));
    let offer = offer()
        .with_authorizer(key.clone())
        .deferred(Arc::clone(&drawer));
    let shop = shop(&engine, &offer).await;
    let bought = buy(&format!("{shop}/goods")).await;
    assert_eq!(bought.response.status(), StatusCode::OK);
    assert_eq!(held(&setting).await, U256::from(10_000));
    // A handler that fails returns the money at once.
    assert_eq!(buy(&format!("{shop}/broken")).await.response.status(), 500);
    assert_eq!(held(&setting).await, U256::from(10_000));

    let stored = drawer.0.lock().unwrap().pop().unwrap();
    // As a database has it.
    let stored = serde_json::to_string(&stored).unwrap();
    let hold: Hold = serde_json::from_str(&stored).unwrap();
    assert_eq!(hold.balances(), balances(10_000, 0));
    let authorizer = Some(&key as _);
    let capture = hold.capture(authorizer, Amount::from(4_000), false).await;
    let answer = settled(&engine, &capture.unwrap()).await;
    let forgetful = hold.clone();
    let hold = hold.after(&answer);
    assert_eq!(hold.balances(), balances(6_000, 4_000));

    // A program that did not see the answer cannot capture by what it knows.
    let stale = forgetful
        .capture(authorizer, Amount::from(1_000), false)
        .await;
    let refused = engine.settle(&stale.unwrap()).await.unwrap();
    assert!(!refused.success);
    assert_eq!(forgetful.clone().corrected(None), forgetful);

    let refund = hold.refund(authorizer, Amount::from(1_000)).await.unwrap();
    let hold = hold.after(&settled(&engine, &refund).await);
    assert_eq!(hold.balances(), balances(6_000, 3_000));
    let hold = hold
        .clone()
        .after(&settled(&engine, &hold.void(authorizer).await.unwrap()).await);
    assert_eq!(hold.balances(), balances(0, 3_000));
    assert_eq!(spent(&setting).await, U256::from(3_000));
    // More than there is cannot be asked for.
    assert!(
        hold.capture(authorizer, Amount::from(1), false)
            .await
            .is_err()
    );
    assert!(hold.refund(authorizer, Amount::from(3_001)).await.is_err());
}

/// A seller whose program has older balances gets the present ones, and signs again.
#[tokio::test(flavor = "multi_thread")]
async fn a_seller_with_old_balances_is_corrected() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let (key, drawer) = (PrivateKeySigner::random(), Arc::new(Drawer::default()));
    let offer = offer()
        .with_authorizer(key.clone())
        .deferred(Arc::clone(&drawer));
    buy(&format!("{}/goods", shop(&engine, &offer).await)).await;
    let hold = drawer.0.lock().unwrap().pop().unwrap();
    let authorizer = Some(&key as _);
    for (captured, left) in [(1_000, 9_000), (2_000, 7_000)] {
        // It always has the first balances.
        let inquiry = hold.inquiry(authorizer).await.unwrap();
        let verdict = engine.verify(&inquiry).await.unwrap();
        let reason = verdict.invalid_reason.as_deref();
        assert_eq!(reason, Some(reason::UNEXPECTED_PAYMENT_STATE.code()));
        let current = hold.clone().corrected(verdict.extra.as_ref());
        let capture = current
            .capture(authorizer, Amount::from(captured), false)
            .await;
        let answer = settled(&engine, &capture.unwrap()).await;
        assert_eq!(hold.clone().after(&answer).balances().capturable, left);
    }
}

/// A seller without a key leaves its signatures to a facilitator that knows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_seller_without_a_key_captures_by_its_facilitator() {
    struct Known(Engine);

    #[async_trait]
    impl Facilitator for Known {
        async fn verify(
            &self,
            request: &PaymentRequest,
        ) -> Result<quittance_core::wire::VerifyResponse, quittance_core::FacilitatorError>
        {
            let caller = RequestCaller::Known("shop".into());
            self.0.verify(&request.clone().by(caller)).await
        }

        async fn settle(
            &self,
            request: &PaymentRequest,
        ) -> Result<SettleResponse, quittance_core::FacilitatorError> {
            let caller = RequestCaller::Known("shop".into());
            self.0.settle(&request.clone().by(caller)).await
        }

        async fn supported(
            &self,
        ) -> Result<quittance_core::wire::SupportedResponse, quittance_core::FacilitatorError>
        {
            self.0.supported().await
        }
    }

    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    for (offer, charged) in [(offer(), 2_500), (offer().at_once(), 5_000)] {
        let price = PaymentLayer::new(Arc::new(Known(engine.clone()))).accept(offer);
        let part = || async { ([("settlement-overrides", r#"{"amount":"2500"}"#)], "part") };
        let shop = listen(Router::new().route("/part", get(part).layer(price))).await;
        let bought = buy(&format!("{shop}/part")).await;
        assert_eq!(bought.response.status(), StatusCode::OK);
        assert_eq!(setting.received().await, Amount::from(charged));
    }
    assert_eq!(held(&setting).await, U256::ZERO);
}

/// A buyer whose answer was lost asks the chain, by either method.
#[tokio::test(flavor = "multi_thread")]
async fn a_payer_with_a_node_learns_the_state_of_its_payment() {
    let setting = approved().await;
    let engine = engine(&setting).await;
    let url = setting.local.url().parse().unwrap();
    let payer = AuthCapturePayer::new(Setting::buyer().signer);
    let payer = payer.with_rpc(&network(), &[url]).unwrap();
    let supported = engine.supported().await.unwrap();
    let kinds = supported.kinds;
    let kind = kinds
        .iter()
        .find(|kind| kind.scheme == "auth-capture")
        .unwrap();
    let terms = offer().with_authorizer(PrivateKeySigner::random());
    let terms = terms.requirements(kind).unwrap();
    for method in ["eip3009", "permit2"] {
        let terms = changed(&terms, &[("assetTransferMethod", json!(method))]);
        let request = quittance_tests::pay(&payer, &terms).await;
        let state = async || {
            let asset = USDC.to_checksum(None);
            let end = Timestamp::from_secs(u64::MAX);
            payer
                .authorization_state(network().id(), &asset, &request.payload, end)
                .await
        };
        assert_eq!(state().await, AuthorizationState::Usable, "{method}");
        settled(&engine, &request).await;
        let used = state().await;
        assert!(
            matches!(used, AuthorizationState::Used(_)),
            "{method}: {used:?}"
        );
    }
    let in_escrow = setting
        .local
        .balance(USDC, AUTH_CAPTURE_ESCROW)
        .await
        .unwrap();
    assert_eq!(in_escrow, U256::from(20_000));
}
