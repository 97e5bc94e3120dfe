//! A hold as a seller keeps it, and the seller's requests for it.

use std::sync::Arc;

use alloy::primitives::{B256, Bytes, U256};
use alloy::signers::Signer;
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::wire::{PaymentPayload, PaymentRequirements, SettleResponse};
use quittance_core::{
    Amount, Fault, Flow, Malformed, Network, OfferError, PaymentRequest, Refusal, Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::authorizer::SignedAct;
use super::deployment::{EscrowDeployment, HoldBalances};
use super::fee::SubmittedFee;
use super::payload::PayersPart;
use super::record::HoldRecord;
use super::setup::{Extra, HoldExtra};
use super::terms::{HoldTerms, units};
use super::{add_balances, add_capture, requirements_of};
use crate::hex::{Hex, address};
use crate::known;
use crate::token::{Token, TransferMethod};

/// Who signs for a receiver. `None` leaves it to the facilitator, with the key of this caller.
pub type Authorizer<'a> = Option<&'a (dyn Signer + Send + Sync)>;

/// A hold, as a seller keeps it to capture, void or refund it later. It is JSON for a database.
///
/// Requests are for one state of the hold. After each success, [`after`](Self::after) has the next
/// one. A seller that does not know the state asks by an [`inquiry`](Self::inquiry), and
/// [`corrected`](Self::corrected) takes the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// What the payer has accepted.
    requirements: PaymentRequirements,
    /// The terms.
    #[serde(rename = "paymentInfo")]
    terms: HoldTerms,
    #[serde(default)]
    salt_nonce: Option<B256>,
    #[serde(with = "crate::batch::units")]
    capturable: u128,
    #[serde(with = "crate::batch::units")]
    refundable: u128,
}

/// Stores the holds that a seller captures later. The seller's layer writes each hold before its
/// response leaves.
#[async_trait]
pub trait HoldStore: Send + Sync + 'static {
    /// Stores a hold. On return it survives a crash.
    ///
    /// # Errors
    /// When it cannot be stored. The sale then ends, and the hold is voided.
    async fn keep(&self, hold: Hold) -> Result<(), Fault>;
}

#[async_trait]
impl<T: HoldStore + ?Sized> HoldStore for Arc<T> {
    async fn keep(&self, hold: Hold) -> Result<(), Fault> {
        (**self).keep(hold).await
    }
}

/// The balances in an answer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BalancesJson {
    capturable_amount: Amount,
    refundable_amount: Amount,
}

/// What the receipt of an act says about its hold.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReceiptJson {
    payment_info: HoldTerms,
    #[serde(default)]
    salt_nonce: Option<Hex<32>>,
    auth_capture_escrow: Hex<20>,
    #[serde(default)]
    receiver_authorizer: Option<Hex<20>>,
    asset_transfer_method: String,
}

impl BalancesJson {
    fn read(extra: Option<&Object>) -> Option<HoldBalances> {
        let json: Self = extra?.read("extra").ok()?;
        Some(HoldBalances {
            capturable: units("capturableAmount", json.capturable_amount).ok()?,
            refundable: units("refundableAmount", json.refundable_amount).ok()?,
        })
    }
}

fn malformed(refusal: Refusal) -> OfferError {
    OfferError::Request(match refusal {
        Refusal::Malformed(malformed) => malformed,
        Refusal::Rejected(rejection) => Malformed::new("hold", rejection),
    })
}

impl Hold {
    /// The hold that this payment makes, once it has settled. `terms` are the requirements that the
    /// payer has accepted.
    ///
    /// # Errors
    /// If the payment is none of this scheme.
    pub fn of(payload: &Object, terms: &PaymentRequirements) -> Result<Self, Malformed> {
        let (extra, _) = extra_of(terms)?;
        let act = PayersPart::read("payload", payload)?;
        let receiver = address("payTo", &terms.pay_to)?;
        let token = address("asset", &terms.asset)?;
        let amount = terms.amount.parse::<Amount>();
        let amount = amount.map_err(|error| Malformed::new("amount", error))?;
        let max = units("amount", amount)?;
        let (payer, (expiry, _)) = (act.signed.payer(), act.signed.terms()?);
        let hold = extra.terms(payer, (receiver, token), max, expiry, act.salt);
        Ok(Self {
            requirements: terms.clone(),
            terms: hold,
            salt_nonce: act.salt_nonce,
            capturable: max,
            refundable: 0,
        })
    }

    /// The hold by the receipt of one of its acts, for a program that has kept nothing: by the
    /// `extra` of the facilitator's success. `token` is that of the hold.
    ///
    /// # Errors
    /// If the receipt says nothing about a hold in this token.
    pub fn of_receipt(
        network: &Network,
        token: &Token,
        receipt: &Object,
    ) -> Result<Self, Malformed> {
        let json: ReceiptJson = receipt.read("extra")?;
        let missing = |what: &str| Malformed::new("extra", what);
        let balances = BalancesJson::read(Some(receipt));
        let balances = balances.ok_or_else(|| missing("it has no balances of a hold"))?;
        let flow = Flow::stated(Some(receipt));
        let method = TransferMethod::from_name(&json.asset_transfer_method);
        let record = HoldRecord {
            terms: json.payment_info,
            escrow: json.auth_capture_escrow.0.into(),
            salt_nonce: json.salt_nonce.map(|nonce| nonce.0),
            authorizer: json.receiver_authorizer.map(|account| account.0.into()),
            method: method.ok_or_else(|| missing("assetTransferMethod is not known"))?,
            is_charged: flow == Ok(Some(Flow::Authorization)),
            owner: None,
            made_at: Timestamp::default(),
            balances,
        };
        let requirements = requirements_of(network, &record, token);
        Ok(Self {
            requirements: requirements.ok_or_else(|| missing("it cannot be written"))?,
            terms: record.terms,
            salt_nonce: record.salt_nonce,
            capturable: balances.capturable,
            refundable: balances.refundable,
        })
    }

    /// The terms.
    pub fn terms(&self) -> &HoldTerms {
        &self.terms
    }

    /// What can be captured, and what can be refunded, as far as the seller knows.
    pub fn balances(&self) -> HoldBalances {
        HoldBalances {
            capturable: self.capturable,
            refundable: self.refundable,
        }
    }

    /// The hold after an act, by the facilitator's success.
    #[must_use]
    pub fn after(self, success: &SettleResponse) -> Self {
        self.with(success.extra.as_ref())
    }

    /// The hold with the balances that the `extra` of a rejection has. The same hold, if it has
    /// none.
    #[must_use]
    pub fn corrected(self, extra: Option<&Object>) -> Self {
        self.with(extra)
    }

    fn with(mut self, extra: Option<&Object>) -> Self {
        if let Some(balances) = BalancesJson::read(extra) {
            (self.capturable, self.refundable) = (balances.capturable, balances.refundable);
        }
        self
    }

    /// The request to capture `amount`, in atomic units, with the smallest fee that is agreed. If
    /// `voids_rest`, the rest is returned to the payer.
    ///
    /// # Errors
    /// If the amount is more than is held, or the key does not sign.
    pub async fn capture(
        &self,
        authorizer: Authorizer<'_>,
        amount: Amount,
        voids_rest: bool,
    ) -> Result<PaymentRequest, OfferError> {
        let captured = at_most(amount, self.capturable)?;
        self.capture_of(authorizer, captured, voids_rest).await
    }

    async fn capture_of(
        &self,
        authorizer: Authorizer<'_>,
        captured: u128,
        voids_rest: bool,
    ) -> Result<PaymentRequest, OfferError> {
        let deployment = self.deployment()?;
        let (fee, expected) = (
            SubmittedFee::least(&deployment, &self.terms, captured),
            self.balances(),
        );
        let mut payload = self.payload("capture");
        add_capture(&mut payload, captured, &fee, &expected);
        let capture = SignedAct::Capture {
            amount: captured,
            fee,
            expected,
        };
        payload["authorizerSignature"] = self.signature(authorizer, capture).await?;
        if voids_rest && captured < self.capturable {
            payload["voidAuthorizerSignature"] =
                self.signature(authorizer, SignedAct::Void).await?;
        }
        self.request(&payload, Amount::new(U256::from(captured)))
    }

    /// A request for `/verify` that is always rejected, with the balances of the hold: for a
    /// capture that no hold allows.
    ///
    /// # Errors
    /// If the key does not sign.
    pub async fn inquiry(&self, authorizer: Authorizer<'_>) -> Result<PaymentRequest, OfferError> {
        let nothing = Self {
            capturable: 0,
            refundable: 0,
            ..self.clone()
        };
        nothing.capture_of(authorizer, 1, false).await
    }

    /// The request to return to the payer all that is held.
    ///
    /// # Errors
    /// If the key does not sign.
    pub async fn void(&self, authorizer: Authorizer<'_>) -> Result<PaymentRequest, OfferError> {
        let mut payload = self.payload("void");
        payload["authorizerSignature"] = self.signature(authorizer, SignedAct::Void).await?;
        self.request(&payload, Amount::ZERO)
    }

    /// The request to refund `amount` of what was captured, in atomic units.
    ///
    /// # Errors
    /// If the amount is more than was captured, or the key does not sign.
    pub async fn refund(
        &self,
        authorizer: Authorizer<'_>,
        amount: Amount,
    ) -> Result<PaymentRequest, OfferError> {
        let refunded = at_most(amount, self.refundable)?;
        let expected = self.balances();
        let refund = SignedAct::Refund {
            amount: refunded,
            collector: self.deployment()?.refund_collector,
            expected,
        };
        let mut payload = self.payload("refund");
        payload["amount"] = json!(refunded.to_string());
        add_balances(&mut payload, &expected);
        payload["authorizerSignature"] = self.signature(authorizer, refund).await?;
        self.request(&payload, amount)
    }

    fn deployment(&self) -> Result<EscrowDeployment, OfferError> {
        let (extra, _) = extra_of(&self.requirements).map_err(OfferError::Request)?;
        Ok(extra.deployment)
    }

    fn payload(&self, kind: &str) -> Value {
        json!({ "type": kind, "paymentInfo": self.terms, "saltNonce": self.salt_nonce })
    }

    /// The authorizer's signature, or empty bytes that leave it to the facilitator.
    async fn signature(
        &self,
        authorizer: Authorizer<'_>,
        act: SignedAct,
    ) -> Result<Value, OfferError> {
        let Some(key) = authorizer else {
            return Ok(json!("0x"));
        };
        let (extra, chain_id) = extra_of(&self.requirements).map_err(OfferError::Request)?;
        let hold = self.terms.id(chain_id, extra.deployment.escrow);
        let digest = act.digest(chain_id, self.terms.operator, hold);
        Ok(json!(sign(key, &digest).await?))
    }

    /// The request with this payload, which settles this amount.
    fn request(&self, payload: &Value, amount: Amount) -> Result<PaymentRequest, OfferError> {
        let payload = Object::of(payload).map_err(OfferError::Request)?;
        let payload = PaymentPayload::new(self.requirements.clone(), payload);
        let required = PaymentRequirements {
            amount: amount.to_string(),
            ..self.requirements.clone()
        };
        PaymentRequest::new(payload, required).map_err(malformed)
    }
}

/// Signs a digest.
///
/// # Errors
/// If the key does not sign.
pub(super) async fn sign(
    key: &(dyn Signer + Send + Sync),
    digest: &B256,
) -> Result<Bytes, OfferError> {
    let signature = key.sign_hash(digest).await;
    let failed = |error| OfferError::Request(Malformed::new("authorizerSignature", error));
    let signature = signature.map_err(failed)?;
    Ok(Bytes::copy_from_slice(&signature.as_bytes()))
}

/// The amount in the contract's numbers, if there is as much.
fn at_most(amount: Amount, most: u128) -> Result<u128, OfferError> {
    let units = units("amount", amount).map_err(OfferError::Request)?;
    match units <= most && units > 0 {
        true => Ok(units),
        false => {
            let what = format_args!("{units} is not between 1 and {most}");
            Err(OfferError::Request(Malformed::new("amount", what)))
        }
    }
}

/// What the `extra` of these requirements says about a hold, and the chain's id.
pub(super) fn extra_of(requirements: &PaymentRequirements) -> Result<(HoldExtra, u64), Malformed> {
    let missing = || Malformed::new("extra", "missing");
    let extra = requirements.extra.as_ref().ok_or_else(missing)?;
    let extra: Extra = extra.read("extra")?;
    let hold = extra.hold().map_err(|it| Malformed::new("extra", it))?;
    let network = known::network(&requirements.network);
    let chain_id = network.and_then(|network| known::chain_id(&network));
    let chain_id = chain_id.ok_or_else(|| Malformed::new("network", "not an EVM network"))?;
    Ok((hold, chain_id))
}
