//! The seller's side: a price that is held first.

use std::fmt;
use std::sync::Arc;

use alloy::primitives::{Address, keccak256};
use alloy::signers::Signer;
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::kit;
use quittance_core::wire::{PaymentRequirements, SupportedKind};
use quittance_core::{
    Amount, Clock, Flow, Malformed, Network, Offer, OfferError, PaymentId, PaymentRequest, Phase,
    SystemClock,
};
use serde::Deserialize;
use serde_json::json;

use super::authorizer::SignedAct;
use super::deployment::V1_1;
use super::fee::SubmittedFee;
use super::hold::{Hold, HoldStore, extra_of, sign};
use super::payload::{PayersPart, Signed};
use super::setup::Extra;
use super::terms::units;
use super::{NAME, add_fee};
use crate::hex::Hex;
use crate::known;
use crate::price::TokenPrice;
use crate::token::Token;

/// How long a hold can be captured by default, in seconds: a week, as with cards.
const CAPTURED_WITHIN_SECS: u64 = 7 * 24 * 3600;

/// How long after that captures can be refunded by default, in seconds.
const REFUNDED_WITHIN_SECS: u64 = 30 * 24 * 3600;

/// How much later than now the deadline of a copy may be, in seconds: clocks of two processes of
/// one seller differ.
const CLOCKS_DIFFER_SECS: u64 = 60;

/// When a seller captures.
#[derive(Clone)]
enum Captures {
    /// After its handler: what it charges. The rest is returned.
    AfterHandler,
    /// Later, by its own program.
    Later(Arc<dyn HoldStore>),
    /// Nothing is held: what the handler charges is paid at once.
    AtOnce,
}

/// A price in a token on an EVM chain, paid by the scheme `auth-capture`: the whole price is held
/// before the handler runs.
///
/// By default the handler's charge is captured after it, and the rest is returned. If the handler
/// fails, all of it is. [`deferred`](Self::deferred) captures nothing then: the seller's own
/// program captures, voids and refunds later, by the requests of a [`Hold`].
///
/// A seller signs its acts by a key of its own ([`with_authorizer`](Self::with_authorizer)), or
/// leaves it to a facilitator that knows it by an API key.
///
/// ```
/// use quittance_core::{Amount, Offer};
/// use quittance_evm::AuthCaptureOffer;
///
/// let seller = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
/// let offer = AuthCaptureOffer::usdc("eip155:8453", "20", seller)?;
/// assert_eq!(offer.amount(), Amount::from(20_000_000u64));
/// # Ok::<(), quittance_core::OfferError>(())
/// ```
#[derive(Clone)]
pub struct AuthCaptureOffer {
    price: TokenPrice,
    captures: Captures,
    authorizer: Option<Arc<dyn Signer + Send + Sync>>,
    captured_within_secs: u64,
    refunded_within_secs: u64,
    fee_max_bps: u16,
    clock: Arc<dyn Clock>,
}

impl AuthCaptureOffer {
    /// An offer of `price` in a token, such as `"20"`, paid to the address `pay_to`.
    ///
    /// # Errors
    /// If the price is zero or has more decimal places than the token, the network is not an EVM
    /// chain, or `pay_to` is not an address.
    pub fn new(
        network: Network,
        token: Token,
        price: &str,
        pay_to: &str,
    ) -> Result<Self, OfferError> {
        TokenPrice::new(network, token, price, pay_to).map(Self::of)
    }

    /// An offer in the USDC of a network, given by its CAIP-2 identifier or x402 version 1 name.
    ///
    /// # Errors
    /// As [`new`](Self::new), and if the library does not ship with the network's USDC.
    pub fn usdc(network: &str, price: &str, pay_to: &str) -> Result<Self, OfferError> {
        TokenPrice::usdc(network, price, pay_to).map(Self::of)
    }

    fn of(price: TokenPrice) -> Self {
        Self {
            price,
            captures: Captures::AfterHandler,
            authorizer: None,
            captured_within_secs: CAPTURED_WITHIN_SECS,
            refunded_within_secs: REFUNDED_WITHIN_SECS,
            fee_max_bps: 0,
            clock: Arc::new(SystemClock),
        }
    }

    /// The same offer, whose acts this key signs.
    #[must_use]
    pub fn with_authorizer(self, key: impl Signer + Send + Sync + 'static) -> Self {
        let authorizer: Option<Arc<dyn Signer + Send + Sync>> = Some(Arc::new(key));
        Self { authorizer, ..self }
    }

    /// The same offer, whose payments stay held after the handler. `store` gets each of them before
    /// the response leaves.
    #[must_use]
    pub fn deferred(self, store: impl HoldStore) -> Self {
        let captures = Captures::Later(Arc::new(store));
        Self { captures, ..self }
    }

    /// The same offer, whose payments are never held: the handler's charge is paid at once, after
    /// the handler. It cannot be nothing.
    #[must_use]
    pub fn at_once(self) -> Self {
        let captures = Captures::AtOnce;
        Self { captures, ..self }
    }

    /// The same offer, with these times: in which a payment can be captured, and after that
    /// refunded, both in seconds.
    #[must_use]
    pub fn with_deadlines_secs(self, captured_within: u64, refunded_within: u64) -> Self {
        Self {
            captured_within_secs: captured_within,
            refunded_within_secs: refunded_within,
            ..self
        }
    }

    /// The same offer, by a facilitator that takes a fee of at most this much, in hundredths of a
    /// percent. By default none is paid.
    #[must_use]
    pub fn with_fee_max_bps(self, fee_max_bps: u16) -> Self {
        Self {
            fee_max_bps,
            ..self
        }
    }

    /// The same offer, with this time for a payment, in seconds.
    #[must_use]
    pub fn with_timeout_secs(self, timeout_secs: u64) -> Self {
        let price = self.price.with_timeout_secs(timeout_secs);
        Self { price, ..self }
    }

    /// The same offer, with this clock for its deadlines.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// The price in the token's atomic units.
    pub fn amount(&self) -> Amount {
        self.price.amount()
    }

    /// The facilitator's fee, if the seller pays as much.
    fn fee(&self, supported: &SupportedExtra) -> Result<(u16, u16, Address), OfferError> {
        let (least, most) = (supported.min_fee_bps, supported.max_fee_bps);
        let receiver = supported.fee_recipient.map(|it| Address::from(it.0));
        let (Some(least), Some(most), Some(receiver)) = (least, most, receiver) else {
            return Ok((0, 0, Address::ZERO));
        };
        if most <= self.fee_max_bps {
            return Ok((least, most, receiver));
        }
        let what = format_args!("{most} is more than the seller pays: see with_fee_max_bps");
        Err(supported_error("maxFeeBps", what))
    }

    /// The payload that charges this much of the client's payment.
    async fn charge_payload(
        &self,
        payload: &Object,
        terms: &PaymentRequirements,
        charged: Amount,
    ) -> Result<Object, OfferError> {
        let hold = Hold::of(payload, terms).map_err(OfferError::Request)?;
        let act = PayersPart::read("payload", payload).map_err(OfferError::Request)?;
        let (extra, chain_id) = extra_of(terms).map_err(OfferError::Request)?;
        let deployment = extra.deployment;
        let amount = units("amount", charged).map_err(OfferError::Request)?;
        let fee = SubmittedFee::least(&deployment, hold.terms(), amount);
        let mut completed = serde_json::Value::Object(payload.tree());
        completed["amount"] = json!(charged.to_string());
        add_fee(&mut completed, &fee);
        completed["authorizerSignature"] = match &self.authorizer {
            None => json!("0x"),
            Some(key) => {
                let collector = match act.signed {
                    Signed::Eip3009(_) => deployment.eip3009_collector,
                    Signed::Permit2(_) => deployment.permit2_collector,
                };
                let charge = SignedAct::Charge {
                    amount,
                    collector,
                    data_hash: keccak256(&act.signature),
                    fee,
                };
                let id = hold.terms().id(chain_id, deployment.escrow);
                let digest = charge.digest(chain_id, hold.terms().operator, id);
                json!(sign(&**key, &digest).await?)
            }
        };
        Object::of(&completed).map_err(OfferError::Request)
    }

    /// The request after the handler.
    async fn finish(
        &self,
        payment: &PaymentRequest,
        terms: &PaymentRequirements,
        charged: Amount,
    ) -> Result<Option<PaymentRequest>, OfferError> {
        let request = |hold: PaymentRequest| {
            let amount = hold.requirements.amount;
            payment
                .completed(hold.payload, amount)
                .map_err(OfferError::Request)
        };
        let hold = || Hold::of(&payment.payload, terms).map_err(OfferError::Request);
        match &self.captures {
            // The contract has no charge of nothing.
            Captures::AtOnce if charged.is_zero() => Err(OfferError::ZeroPrice),
            Captures::AtOnce => {
                let payload = self.charge_payload(&payment.payload, terms, charged);
                let charge = payment.completed(payload.await?, charged);
                charge.map(Some).map_err(OfferError::Request)
            }
            Captures::Later(store) => {
                let kept = store.keep(hold()?).await;
                let failed = |fault| OfferError::Request(Malformed::new("hold", fault));
                kept.map(|()| None).map_err(failed)
            }
            Captures::AfterHandler if charged.is_zero() => {
                let void = hold()?.void(self.authorizer.as_deref()).await?;
                request(void).map(Some)
            }
            Captures::AfterHandler => {
                let hold = hold()?;
                let capture = hold.capture(self.authorizer.as_deref(), charged, true);
                request(capture.await?).map(Some)
            }
        }
    }
}

impl fmt::Debug for AuthCaptureOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthCaptureOffer")
            .field("price", &self.price)
            .finish_non_exhaustive()
    }
}

/// What the facilitator's `/supported` says for sellers.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct SupportedExtra {
    #[serde(default)]
    capture_authorizer: Option<Hex<20>>,
    #[serde(default)]
    receiver_authorizer: Option<Hex<20>>,
    #[serde(default)]
    fee_recipient: Option<Hex<20>>,
    #[serde(default)]
    min_fee_bps: Option<u16>,
    #[serde(default)]
    max_fee_bps: Option<u16>,
}

fn supported_error(field: &str, what: impl fmt::Display) -> OfferError {
    OfferError::Supported(Malformed::new(format!("extra.{field}"), what))
}

/// The deadlines in the `extra` of requirements.
fn deadlines(requirements: &PaymentRequirements) -> Option<(u64, u64)> {
    let extra: Extra = requirements.extra.as_ref()?.read("extra").ok()?;
    extra.capture_deadline.zip(extra.refund_deadline)
}

#[async_trait]
impl Offer for AuthCaptureOffer {
    fn scheme(&self) -> &str {
        NAME
    }

    fn network(&self) -> &Network {
        self.price.price.network()
    }

    fn flow(&self) -> Flow {
        match self.captures {
            Captures::AtOnce => Flow::Authorization,
            Captures::AfterHandler | Captures::Later(_) => Flow::Escrow,
        }
    }

    fn requirements(&self, supported: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        let supported = supported.extra.as_ref().map(|extra| extra.read("extra"));
        let supported: SupportedExtra = supported
            .transpose()
            .map_err(OfferError::Supported)?
            .unwrap_or_default();
        let operator = supported.capture_authorizer.ok_or_else(|| {
            supported_error(
                "captureAuthorizer",
                "missing: the facilitator is no operator",
            )
        })?;
        let own = self.authorizer.as_ref().map(|key| key.address());
        let theirs = supported.receiver_authorizer.map(|it| Address::from(it.0));
        let authorizer = own.or(theirs).ok_or_else(|| {
            let what =
                "missing: the facilitator signs for no seller. Name a key by with_authorizer";
            supported_error("receiverAuthorizer", what)
        })?;
        let (min_fee_bps, max_fee_bps, fee_recipient) = self.fee(&supported)?;
        let token = &self.price.token;
        let capture = self.clock.now().plus_secs(self.captured_within_secs).secs();
        let mut extra = json!({
            "name": token.name,
            "version": token.version,
            "authCaptureEscrow": V1_1.escrow.to_checksum(None),
            "captureAuthorizer": Address::from(operator.0).to_checksum(None),
            "receiverAuthorizer": authorizer.to_checksum(None),
            "captureDeadline": capture,
            "refundDeadline": capture.saturating_add(self.refunded_within_secs),
            "feeRecipient": fee_recipient.to_checksum(None),
            "minFeeBps": min_fee_bps,
            "maxFeeBps": max_fee_bps,
            "assetTransferMethod": token.method.name(),
            Flow::FIELD: self.flow().name(),
        });
        match self.captures {
            Captures::AfterHandler => extra["captureMode"] = json!("sync"),
            Captures::Later(_) => extra["captureMode"] = json!("deferred"),
            Captures::AtOnce => {}
        }
        let extra = Object::of(&extra).map_err(OfferError::Extra)?;
        Ok(self.price.price.requirements(NAME, Some(extra)))
    }

    /// The deadlines of a copy, if they were stated recently: at least half of the time for
    /// captures is left, and all of the time for refunds.
    fn stated_before(
        &self,
        own: &PaymentRequirements,
        copy: &PaymentRequirements,
    ) -> Option<PaymentRequirements> {
        let (capture, refund) = deadlines(copy)?;
        let now = self.clock.now().secs();
        let latest = now
            .saturating_add(self.captured_within_secs)
            .saturating_add(CLOCKS_DIFFER_SECS);
        let earliest = now.saturating_add(self.captured_within_secs / 2);
        let is_refundable = refund == capture.saturating_add(self.refunded_within_secs);
        if !(earliest..=latest).contains(&capture) || !is_refundable {
            return None;
        }
        let mut extra = own.extra.as_ref()?.tree();
        extra.insert("captureDeadline".to_owned(), json!(capture));
        extra.insert("refundDeadline".to_owned(), json!(refund));
        Some(PaymentRequirements {
            extra: Some(Object::of(&extra).ok()?),
            ..own.clone()
        })
    }

    fn authorization(&self, payload: &Object) -> Option<PaymentId> {
        let chain_id = known::chain_id(self.network())?;
        let act = PayersPart::read("payload", payload).ok()?;
        Some(act.signed.payment_id(chain_id, self.price.token.address))
    }

    async fn request(
        &self,
        phase: Phase<'_>,
        payment: &PaymentRequest,
        terms: &PaymentRequirements,
    ) -> Result<Option<PaymentRequest>, OfferError> {
        let is_held = self.flow().settles_first();
        match phase {
            Phase::Verify => Ok((!is_held).then(|| payment.clone())),
            Phase::BeforeHandler => Ok(is_held.then(|| payment.clone())),
            Phase::AfterHandler { charged, .. } => self.finish(payment, terms, charged).await,
            Phase::Cancel { .. } if is_held => {
                let hold = Hold::of(&payment.payload, terms).map_err(OfferError::Request)?;
                let void = hold.void(self.authorizer.as_deref()).await?;
                let void = payment.completed(void.payload, Amount::ZERO);
                void.map(Some).map_err(OfferError::Request)
            }
            Phase::Cancel { .. } => Ok(None),
        }
    }

    fn charge(&self, words: &str, price: Amount) -> Option<Result<Amount, OfferError>> {
        match self.captures {
            Captures::Later(_) => None,
            Captures::AfterHandler | Captures::AtOnce => {
                Some(kit::charged(words, price, self.price.token.decimals))
            }
        }
    }
}
