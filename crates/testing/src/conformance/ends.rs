//! The properties of the two ends of a payment: a seller's offer and a buyer's payer.

use std::sync::Arc;

use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, SettleResponse, SupportedKind, VerifyResponse};
use quittance_core::{
    Amount, CancelReason, Chain, Clock, FirstSuccess, Flow, Observed, Offer, Payer, Payment,
    PaymentInfo, PaymentRequest, Phase, QuoteError, Scheme, SignedPayment, SystemClock, Timestamp,
};
use quittance_verify::holds;

use crate::{payload_of, request};

/// An offer and a payer that can pay it.
#[async_trait]
pub trait EndsFixture: Send + Sync + Sized {
    /// The chain of the scheme.
    type Chain: Chain;

    /// How many seconds later than the scheme the payer may expect the payment to expire. Zero
    /// where the authorization has a time; more where the chain counts blocks.
    const EXPIRY_SLACK_SECS: u64 = 0;

    /// Whether only the chain knows until when a payment is valid; see
    /// [`SchemeFixture::ONLY_CHAIN_KNOWS`](super::scheme::SchemeFixture::ONLY_CHAIN_KNOWS). Neither
    /// end can then show that it has expired.
    const ONLY_CHAIN_KNOWS: bool = false;

    /// A payer with money, and a seller.
    async fn new() -> Self;

    /// The clock that the chain's blocks agree with.
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SystemClock)
    }

    /// The seller's offer.
    fn offer(&self) -> Arc<dyn Offer>;

    /// The payer.
    fn payer(&self) -> Arc<dyn Payer>;

    /// What the facilitator says of the scheme and the network.
    fn supported(&self) -> SupportedKind;

    /// The scheme that decodes and checks the payments.
    fn scheme(&self) -> Arc<dyn Scheme<Self::Chain>>;

    /// The same requirements, with every name in another spelling that the scheme accepts.
    fn respelled(&self, requirements: &PaymentRequirements) -> PaymentRequirements;

    /// The requirements in an asset that the payer does not know, described as if it were a known
    /// one.
    fn in_unknown_asset(&self, requirements: &PaymentRequirements) -> PaymentRequirements;
}

super::suite!($ ends, offer_and_payer_conformance, EndsFixture:
    an_offer_repeats_its_requirements
    an_offer_is_quoted_as_it_was_made
    a_quote_uses_canonical_names
    an_unknown_asset_is_not_paid
    another_scheme_or_network_is_not_supported
    unreadable_requirements_are_not_paid
    what_is_quoted_is_what_is_paid
    a_scheme_accepts_what_its_payer_signs
    a_payment_expires_when_its_payer_says
    a_payment_is_valid_for_the_required_time_at_most
    a_payer_limits_the_lifetime
    two_payments_are_two_authorizations
    an_offer_knows_the_identity_of_its_payments
    a_payer_signs_no_unknown_extension
    an_offer_names_no_unsupported_extension
    an_offer_asks_once_before_the_handler
    an_offer_asks_for_what_is_charged_of_one_payment
    an_offer_charges_at_most_the_price
);

fn requirements<F: EndsFixture>(fixture: &F) -> PaymentRequirements {
    let requirements = fixture.offer().requirements(&fixture.supported());
    requirements.expect("requirements")
}

async fn pay<F: EndsFixture>(fixture: &F, requirements: &PaymentRequirements) -> PaymentRequest {
    crate::pay(&*fixture.payer(), requirements, fixture.clock().now()).await
}

fn decoded<F: EndsFixture>(fixture: &F, request: &PaymentRequest) -> Box<dyn Payment<F::Chain>> {
    let payment = fixture.scheme().decode(request, fixture.clock().now());
    payment.unwrap_or_else(|refusal| panic!("the scheme refuses the payment: {refusal:?}"))
}

fn info<F: EndsFixture>(fixture: &F, request: &PaymentRequest) -> PaymentInfo {
    decoded(fixture, request).info().clone()
}

/// A buyer returns the requirements with its payment, and the seller's layer compares them.
pub async fn an_offer_repeats_its_requirements<F: EndsFixture>() {
    let fixture = F::new().await;
    let (offer, supported) = (fixture.offer(), fixture.supported());
    let first = offer.requirements(&supported).expect("requirements");
    let second = offer.requirements(&supported).expect("requirements");
    assert_eq!(first, second);
}

/// The buyer compares the quote with its limits.
pub async fn an_offer_is_quoted_as_it_was_made<F: EndsFixture>() {
    let fixture = F::new().await;
    let (offer, requirements) = (fixture.offer(), requirements(&fixture));
    assert_eq!(requirements.scheme, offer.scheme());
    assert!(offer.network().is(&requirements.network));
    assert!(requirements.max_timeout_seconds > 0);
    let quote = fixture.payer().quote(&requirements).expect("a quote");
    assert_eq!(quote.network, offer.network().id());
    assert_eq!(quote.amount.to_string(), requirements.amount);
    assert!(!quote.amount.is_zero());
    assert_eq!(quote.asset.address, requirements.asset);
    assert_eq!(quote.pay_to, requirements.pay_to);
}

/// A seller that can spell one recipient in two ways must not get two limits.
pub async fn a_quote_uses_canonical_names<F: EndsFixture>() {
    let fixture = F::new().await;
    let requirements = requirements(&fixture);
    let respelled = fixture.respelled(&requirements);
    let payer = fixture.payer();
    assert_eq!(payer.quote(&respelled), payer.quote(&requirements));
}

/// A seller's description of an asset is not a reason to pay in it.
pub async fn an_unknown_asset_is_not_paid<F: EndsFixture>() {
    let fixture = F::new().await;
    let unknown = fixture.in_unknown_asset(&requirements(&fixture));
    let payer = fixture.payer();
    let quote = payer.quote(&unknown);
    assert!(quote.is_err(), "{quote:?}");
    let paid = payer.pay(&unknown, None, fixture.clock().now()).await;
    assert!(paid.is_err(), "{unknown:?} was paid");
}

/// The buyer then asks its next payer.
pub async fn another_scheme_or_network_is_not_supported<F: EndsFixture>() {
    let fixture = F::new().await;
    let (mut scheme, mut network) = (requirements(&fixture), requirements(&fixture));
    scheme.scheme = "barter".to_owned();
    network.network = "other:chain".to_owned();
    for requirements in [scheme, network] {
        let payer = fixture.payer();
        assert_eq!(payer.quote(&requirements), Err(QuoteError::NotSupported));
        let paid = payer.pay(&requirements, None, fixture.clock().now()).await;
        assert!(paid.is_err(), "{requirements:?} was paid");
    }
}

/// A quote chooses the payment option, and the buyer tries no other one after it.
pub async fn unreadable_requirements_are_not_paid<F: EndsFixture>() {
    let fixture = F::new().await;
    let good = requirements(&fixture);
    let mut all: Vec<PaymentRequirements> = Vec::new();
    for amount in ["", "-1", "1.5", "0x10", "one"] {
        all.push(PaymentRequirements {
            amount: amount.to_owned(),
            ..good.clone()
        });
    }
    for pay_to in ["", "merchant"] {
        all.push(PaymentRequirements {
            pay_to: pay_to.to_owned(),
            ..good.clone()
        });
    }
    let payer = fixture.payer();
    for requirements in all {
        let quote = payer.quote(&requirements);
        let is_refused = matches!(quote, Err(QuoteError::Unpayable(_)));
        assert!(is_refused, "{requirements:?}: {quote:?}");
        let paid = payer.pay(&requirements, None, fixture.clock().now()).await;
        assert!(paid.is_err(), "{requirements:?} was paid");
    }
}

/// The scheme decodes what the payer has quoted.
pub async fn what_is_quoted_is_what_is_paid<F: EndsFixture>() {
    let fixture = F::new().await;
    let requirements = requirements(&fixture);
    let quote = fixture.payer().quote(&requirements).expect("a quote");
    let info = info(&fixture, &pay(&fixture, &requirements).await);
    assert_eq!(info.payer, fixture.payer().address());
    assert_eq!(info.amount, quote.amount);
    assert_eq!(info.asset, quote.asset.address);
    assert_eq!(info.pay_to, quote.pay_to);
}

/// A facilitator settles nothing else. Some schemes take the amount and the recipient of the info
/// from the requirements, and only their checks compare them with what the payer signed.
///
/// The signatures are verified by themselves as well. A scheme that accepts contracts as payers
/// does not refuse a signature that is not the key's: it asks the chain.
pub async fn a_scheme_accepts_what_its_payer_signs<F: EndsFixture>() {
    let fixture = F::new().await;
    let requirements = requirements(&fixture);
    let payment = decoded(&fixture, &pay(&fixture, &requirements).await);
    let signatures: Vec<bool> = payment.signatures().iter().map(holds).collect();
    assert!(!signatures.contains(&false), "{signatures:?}");
    let checked = payment.check(&Observed::new(&signatures, &[], fixture.clock().now()));
    assert!(checked.is_ok(), "{checked:?}");
}

/// The buyer signs another payment only after this time, so it must not be too early.
pub async fn a_payment_expires_when_its_payer_says<F: EndsFixture>() {
    let fixture = F::new().await;
    let (requirements, now) = (requirements(&fixture), fixture.clock().now());
    let paid = fixture.payer().pay(&requirements, None, now).await;
    let SignedPayment {
        payload, expires, ..
    } = paid.expect("a payment");
    let info = info(
        &fixture,
        &request(payload_of(&requirements, payload), &requirements),
    );
    assert!(expires >= info.expires, "{expires} < {}", info.expires);
    let later = expires.secs_since(info.expires);
    assert!(later <= F::EXPIRY_SLACK_SECS, "{later} s too late");
}

/// A seller with a short timeout does not get an authorization that others can use for longer.
pub async fn a_payment_is_valid_for_the_required_time_at_most<F: EndsFixture>() {
    const TIMEOUT_SECS: u64 = 30;
    let fixture = F::new().await;
    let mut requirements = requirements(&fixture);
    requirements.max_timeout_seconds = TIMEOUT_SECS;
    let now = fixture.clock().now();
    let paid = fixture.payer().pay(&requirements, None, now).await;
    let payload = paid.expect("a payment").payload;
    let info = info(
        &fixture,
        &request(payload_of(&requirements, payload), &requirements),
    );
    if F::ONLY_CHAIN_KNOWS {
        assert_eq!(info.expires, Timestamp::NEVER, "{info:?}");
        return;
    }
    let valid = info.expires.secs_since(now);
    let valid_max = TIMEOUT_SECS + F::EXPIRY_SLACK_SECS;
    assert!(valid <= valid_max, "valid for {valid} s, not {valid_max}");
}

/// A seller that asks for a century does not get an authorization for a century.
pub async fn a_payer_limits_the_lifetime<F: EndsFixture>() {
    const DAY_SECS: u64 = 24 * 3600;
    let fixture = F::new().await;
    let mut requirements = requirements(&fixture);
    requirements.max_timeout_seconds = 100 * 365 * DAY_SECS;
    let now = fixture.clock().now();
    let Ok(paid) = fixture.payer().pay(&requirements, None, now).await else {
        return;
    };
    let info = info(
        &fixture,
        &request(payload_of(&requirements, paid.payload), &requirements),
    );
    let is_limited = info.expires.secs_since(now) <= DAY_SECS;
    assert!(is_limited || F::ONLY_CHAIN_KNOWS, "{info:?}");
}

/// A second payment with the identity of the first would not be a payment.
pub async fn two_payments_are_two_authorizations<F: EndsFixture>() {
    let fixture = F::new().await;
    let requirements = requirements(&fixture);
    let first = info(&fixture, &pay(&fixture, &requirements).await);
    let second = info(&fixture, &pay(&fixture, &requirements).await);
    assert_ne!(first.id, second.id);
}

/// The seller serves one authorization to one request at a time, and goes by this identity.
pub async fn an_offer_knows_the_identity_of_its_payments<F: EndsFixture>() {
    let fixture = F::new().await;
    let requirements = requirements(&fixture);
    let paid = pay(&fixture, &requirements).await;
    let id = info(&fixture, &paid).id;
    let offer = fixture.offer();
    assert_eq!(offer.authorization(&paid.payload), Some(id));
    let mut payload = paid.payload.tree();
    payload.insert("unknown".to_owned(), 1.into());
    let payload = Object::of(&payload).expect("an object");
    assert_eq!(offer.authorization(&payload), Some(id), "an unknown field");
    let empty = Object::of(&serde_json::json!({})).expect("an object");
    assert_eq!(offer.authorization(&empty), None, "an empty payload");
}

/// The buyer echoes what its payer does not know. A payer that wrote to an extension of another
/// meaning could sign away more than the payment.
pub async fn a_payer_signs_no_unknown_extension<F: EndsFixture>() {
    let fixture = F::new().await;
    let (requirements, now) = (requirements(&fixture), fixture.clock().now());
    let offered = serde_json::json!({ "unheard-of": { "info": { "sign": "everything" } } });
    let offered = Object::of(&offered).expect("an object");
    for offered in [None, Some(&offered)] {
        let paid = fixture.payer().pay(&requirements, offered, now).await;
        let signed = paid.expect("a payment").extensions;
        let names = signed.map(|signed| signed.tree().len()).unwrap_or_default();
        assert_eq!(names, 0, "of {offered:?}");
    }
}

/// A buyer signs for what the facilitator does. With a facilitator that supports no extension, only
/// those of the seller itself are left. Those of the scheme and of gas sponsoring are not.
pub async fn an_offer_names_no_unsupported_extension<F: EndsFixture>() {
    let fixture = F::new().await;
    let offered = fixture.offer().extensions(&[]);
    let names = offered.map(|offered| offered.tree()).unwrap_or_default();
    let scheme = fixture.scheme();
    let sponsoring = ["eip2612GasSponsoring", "erc20ApprovalGasSponsoring"];
    let mut of_facilitators = scheme.extensions().iter().chain(&sponsoring);
    let unsupported = of_facilitators.find(|name| names.contains_key(**name));
    assert_eq!(unsupported, None);
}

/// The seller's layer runs its handler after a success, so exactly one request must come before it.
pub async fn an_offer_asks_once_before_the_handler<F: EndsFixture>() {
    let fixture = F::new().await;
    let (offer, terms) = (fixture.offer(), requirements(&fixture));
    let payment = pay(&fixture, &terms).await;
    let verify = offer.request(Phase::Verify, &payment, &terms).await;
    let before = offer.request(Phase::BeforeHandler, &payment, &terms).await;
    let asked = (verify.expect("no error"), before.expect("no error"));
    let is_first = (asked.0.is_some(), asked.1.is_some());
    let settles_first = offer.flow().settles_first();
    assert_eq!(is_first, (!settles_first, settles_first));
    for request in [asked.0, asked.1].into_iter().flatten() {
        assert_eq!(request.origin(), payment.origin());
        assert_eq!(request.requirements.amount, payment.requirements.amount);
    }
}

/// All requests of a sale go to one facilitator, which finds them by their origin. None of them
/// asks for more than the charge.
pub async fn an_offer_asks_for_what_is_charged_of_one_payment<F: EndsFixture>() {
    let fixture = F::new().await;
    let (offer, terms) = (fixture.offer(), requirements(&fixture));
    let mut payment = pay(&fixture, &terms).await;
    payment.authorization = offer.authorization(&payment.payload);
    let price = payment.requirements.amount;
    let less = price.checked_sub(Amount::from(1)).expect("a price");
    let first = &match offer.flow().settles_first() {
        false => FirstSuccess::Verified(VerifyResponse::valid(None)),
        true => FirstSuccess::Settled(SettleResponse::settled(&terms.network, None, "1")),
    };
    for charged in [price, less] {
        let after = Phase::AfterHandler { charged, first };
        let request = offer.request(after, &payment, &terms).await;
        match request.expect("no error") {
            Some(request) => {
                assert_eq!(request.origin(), payment.origin());
                assert_eq!(request.requirements.amount, charged);
            }
            None => assert_ne!(offer.flow(), Flow::Authorization, "it is not paid"),
        }
    }
    let reason = CancelReason::HandlerFailed;
    let cancel = Phase::Cancel { reason, first };
    let request = offer.request(cancel, &payment, &terms).await;
    if let Some(request) = request.expect("no error") {
        assert_eq!(request.origin(), payment.origin());
        assert!(request.requirements.amount.is_zero(), "{request:?}");
    }
}

/// A charge over the price is an error of the handler, and so are words that are no charge.
pub async fn an_offer_charges_at_most_the_price<F: EndsFixture>() {
    let fixture = F::new().await;
    let (offer, terms) = (fixture.offer(), requirements(&fixture));
    let price: Amount = terms.amount.parse().expect("an amount");
    let more = price.checked_add(Amount::from(1)).expect("a price");
    for words in ["", "free", "-1", "100.01%", &more.to_string()] {
        let charged = offer.charge(words, price);
        assert!(!matches!(charged, Some(Ok(_))), "{words}: {charged:?}");
    }
    for (words, amount) in [("0", Amount::ZERO), ("100%", price)] {
        let charged = offer.charge(words, price);
        let is_right = charged.is_none_or(|charged| charged == Ok(amount));
        assert!(is_right, "{words}");
    }
}
