//! What all payments of the scheme share, and what a request requires.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy::primitives::{Address, B256};
use quittance_core::json::text_or_integer;
use quittance_core::{
    Flow, LaneId, Network, PaymentRequest, Reason, Refusal, Rejection, RequestCaller, Timestamp,
};
use serde::Deserialize;

use super::deployment::EscrowDeployment;
use super::fee::WHOLE_BPS;
use super::reason;
use super::record::{ACT_BEFORE_MIN_SECS, DeadlineRules};
use super::terms::{HoldTerms, bound_salt, time, units};
use crate::chain::Evm;
use crate::chain::signers::Signers;
use crate::exact::payment::Limits;
use crate::exact::{check_parties, unsupported_asset};
use crate::hex::{Hex, address};
use crate::permit2;
use crate::token::{Token, TransferMethod};

/// How far in the future a refund may still be possible, in seconds: a year and a month. So long
/// the operator has to keep the signer of a hold.
pub const REFUNDABLE_MAX_SECS: u64 = 396 * 24 * 3600;

/// How much time must be left before a deadline, in seconds: the specification's margin.
pub(super) const MARGIN_SECS: u64 = 6;

/// What the operator allows the facilitator to do for sellers, and does by itself.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct AuthCaptureConfig {
    /// The account that sellers can name as the authorizer of their holds: one of the chain's
    /// signers. It must stay one as long as a hold names it. Only callers with a key can use it.
    pub authorizer: Option<Address>,
    /// The receivers whose refunds the operator pays from its own tokens, each with the authorizer
    /// of its holds. Holds with another authorizer are not refunded: any payer can make one for the
    /// receiver, and sign its acts. Each signer must have approved the refund collector; the
    /// approval limits what can be lost.
    pub refunds_for: BTreeMap<Address, Address>,
    /// What happens before a hold can no longer be captured.
    pub deadlines: DeadlineRules,
}

/// Why an [`AuthCaptureConfig`] makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthCaptureConfigError {
    /// Only an account of the operator can be the authorizer.
    #[error("the authorizer {0} is not one of the signers")]
    NotASigner(Address),
    /// What happens at deadlines would come too late if one attempt fails.
    #[error(
        "holds are captured or voided {0} seconds before their end: at least {ACT_BEFORE_MIN_SECS} are needed"
    )]
    ActsTooLate(u64),
}

/// What all payments of the scheme on a chain share.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) network: Network,
    pub(super) chain_id: u64,
    tokens: Vec<Token>,
    /// The separator of Permit2's EIP-712 domain.
    pub(super) permit2_separator: B256,
    pub(super) signers: Arc<Signers>,
    pub(super) limits: Limits,
    pub(super) config: AuthCaptureConfig,
}

impl Setup {
    pub(super) fn new(evm: &Evm) -> Self {
        let (config, chain_id) = (evm.config(), evm.chain_id());
        Self {
            network: config.network.clone(),
            chain_id,
            tokens: config.tokens.clone(),
            permit2_separator: permit2::domain_separator(chain_id),
            signers: evm.signers(),
            limits: Limits::new(config),
            config: AuthCaptureConfig::default(),
        }
    }

    pub(super) fn with_config(
        self,
        config: AuthCaptureConfig,
    ) -> Result<Self, AuthCaptureConfigError> {
        match config.authorizer {
            Some(authorizer) if self.signers.lane_of(authorizer).is_none() => {
                Err(AuthCaptureConfigError::NotASigner(authorizer))
            }
            _ if config.deadlines.acts_too_late() => {
                let secs = config.deadlines.act_before.as_secs();
                Err(AuthCaptureConfigError::ActsTooLate(secs))
            }
            _ => Ok(Self { config, ..self }),
        }
    }

    pub(super) fn assets(&self) -> Vec<String> {
        let tokens = self.tokens.iter();
        tokens
            .map(|token| token.address.to_checksum(None))
            .collect()
    }

    /// The token with this address.
    pub(super) fn token(&self, address: Address) -> Option<&Token> {
        self.tokens.iter().find(|token| token.address == address)
    }
}

/// The requirements' `extra`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Extra {
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default, deserialize_with = "text_or_integer")]
    pub(super) version: Option<String>,
    #[serde(default)]
    auth_capture_escrow: Option<String>,
    #[serde(default)]
    pub(super) capture_authorizer: Option<Hex<20>>,
    #[serde(default)]
    receiver_authorizer: Option<Hex<20>>,
    #[serde(default)]
    policy: Option<Hex<20>>,
    #[serde(default)]
    pub(super) capture_deadline: Option<u64>,
    #[serde(default)]
    pub(super) refund_deadline: Option<u64>,
    #[serde(default)]
    fee_recipient: Option<Hex<20>>,
    #[serde(default)]
    min_fee_bps: Option<u16>,
    #[serde(default)]
    max_fee_bps: Option<u16>,
    #[serde(default)]
    auto_capture: Option<bool>,
    #[serde(default)]
    operator_type: Option<String>,
    #[serde(default)]
    asset_transfer_method: Option<String>,
}

/// What the `extra` of requirements says about a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HoldExtra {
    pub(super) deployment: EscrowDeployment,
    pub(super) operator: Address,
    /// Who signs for the receiver. `None` if there is no authorizer.
    pub(super) authorizer: Option<Address>,
    pub(super) capture_deadline: u64,
    pub(super) refund_deadline: u64,
    pub(super) fee_recipient: Address,
    pub(super) min_fee_bps: u16,
    pub(super) max_fee_bps: u16,
    pub(super) method: TransferMethod,
}

fn wrong(detail: impl std::fmt::Display) -> Rejection {
    Rejection::new(reason::EXTRA, detail)
}

fn missing(field: &str) -> Rejection {
    wrong(format_args!("extra.{field} is missing"))
}

/// The address, if there is one and it is not zero.
fn non_zero(address: Option<Hex<20>>) -> Option<Address> {
    let address = address.map(|address| Address::from(address.0));
    address.filter(|address| !address.is_zero())
}

impl Extra {
    /// What it says about a hold.
    ///
    /// # Errors
    /// If a field is missing, or has an impossible value.
    pub(super) fn hold(&self) -> Result<HoldExtra, Rejection> {
        let named = self.auth_capture_escrow.as_deref();
        let escrow = named.filter(|text| !text.is_empty());
        let escrow = escrow.map(|text| address("extra.authCaptureEscrow", text));
        let escrow = escrow.transpose().map_err(wrong)?;
        let deployment = EscrowDeployment::of(escrow);
        let deployment = deployment
            .ok_or_else(|| wrong("extra.authCaptureEscrow is no known contract of holds"))?;
        let time = |field: &str, secs: Option<u64>| {
            time(field, secs.ok_or_else(|| missing(field))?).map_err(wrong)
        };
        let operator = non_zero(self.capture_authorizer);
        let hold = HoldExtra {
            deployment,
            operator: operator.ok_or_else(|| missing("captureAuthorizer"))?,
            authorizer: non_zero(self.receiver_authorizer),
            capture_deadline: time("captureDeadline", self.capture_deadline)?,
            refund_deadline: time("refundDeadline", self.refund_deadline)?,
            fee_recipient: self
                .fee_recipient
                .map(|address| address.0.into())
                .ok_or_else(|| missing("feeRecipient"))?,
            min_fee_bps: self.min_fee_bps.ok_or_else(|| missing("minFeeBps"))?,
            max_fee_bps: self.max_fee_bps.ok_or_else(|| missing("maxFeeBps"))?,
            method: self.method()?,
        };
        self.check(&hold)?;
        Ok(hold)
    }

    fn method(&self) -> Result<TransferMethod, Rejection> {
        let named = self.asset_transfer_method.as_deref();
        let method = named.map_or(Some(TransferMethod::Eip3009), TransferMethod::from_name);
        method.ok_or_else(|| {
            let detail = format!("extra.assetTransferMethod is {named:?}, which is not known");
            Rejection::new(reason::UNSUPPORTED_ASSET_TRANSFER_METHOD, detail)
        })
    }

    fn check(&self, hold: &HoldExtra) -> Result<(), Rejection> {
        let is_named = |field: &Option<String>| field.as_ref().is_some_and(|it| !it.is_empty());
        if !is_named(&self.name) || !is_named(&self.version) {
            return Err(wrong("extra has no name and version of the token"));
        }
        let (least, most) = (hold.min_fee_bps, hold.max_fee_bps);
        if least > most || most > WHOLE_BPS {
            let detail = format_args!(
                "minFeeBps is {least} and maxFeeBps is {most}: they must be in this order, and at most {WHOLE_BPS}"
            );
            return Err(wrong(detail));
        }
        if hold.fee_recipient.is_zero() && most > 0 {
            return Err(wrong("a fee needs a feeRecipient"));
        }
        if self.auto_capture == Some(true) {
            let detail = "extra.autoCapture is not supported: state a paymentFlow";
            return Err(Rejection::new(reason::UNSUPPORTED_PAYMENT_FLOW, detail));
        }
        match self.operator_type.as_deref() {
            None | Some("delegated") => {}
            Some(other) => {
                let detail = format!("extra.operatorType is {other:?}, and must be delegated");
                return Err(Rejection::new(reason::UNSUPPORTED_OPERATOR_TYPE, detail));
            }
        }
        if non_zero(self.policy).is_some() {
            let detail = "a delegated operator has no policy";
            return Err(Rejection::new(reason::POLICY, detail));
        }
        Ok(())
    }
}

/// What a request requires, and who asks.
#[derive(Debug, Clone)]
pub(super) struct Required {
    pub(super) token: Token,
    pub(super) pay_to: Address,
    /// The required amount. At /settle it may be what is charged.
    pub(super) amount: u128,
    /// The amount that the payer accepted: the most that can be held.
    pub(super) max: u128,
    pub(super) max_timeout_secs: u64,
    pub(super) hold: HoldExtra,
    pub(super) lane: LaneId,
    /// Whether the payment is charged at once, and not held.
    pub(super) is_charged: bool,
    pub(super) caller: RequestCaller,
}

impl Required {
    /// Reads what a request requires.
    ///
    /// # Errors
    /// If a field cannot be read, if the payer accepted other requirements, or if the facilitator
    /// is not the operator.
    pub(super) fn read(setup: &Setup, request: &PaymentRequest) -> Result<Self, Refusal> {
        let required = &request.requirements;
        let asset = address("paymentRequirements.asset", &required.asset)?;
        let pay_to = address("paymentRequirements.payTo", &required.pay_to)?;
        let accepted = request.accepted.requirements.as_ref();
        if let Some(accepted) = accepted {
            // The amount is not compared: a settle request may have the charge, not the price.
            accepted.check(address, &asset, &pay_to, accepted.amount)?;
        }
        let max = accepted.map_or(required.amount, |accepted| accepted.amount);
        let token = setup.token(asset);
        let token = token.ok_or_else(|| unsupported_asset(&setup.network, setup.tokens.iter()))?;
        let is_charged = match Flow::stated(required.extra.as_ref()) {
            Ok(None | Some(Flow::Escrow)) => false,
            Ok(Some(Flow::Authorization)) => true,
            other => {
                let detail = format!("extra.paymentFlow is {other:?}: escrow or authorization");
                return Err(Rejection::new(reason::UNSUPPORTED_PAYMENT_FLOW, detail).into());
            }
        };
        let extra: Extra = request.extra()?;
        let hold = extra.hold()?;
        let operator = hold.operator;
        let lane = setup.signers.lane_of(operator).ok_or_else(|| {
            let detail =
                format!("extra.captureAuthorizer is {operator}, no signer of this facilitator");
            Rejection::new(reason::OPERATOR_NOT_ADMITTED, detail)
        })?;
        Ok(Self {
            token: token.clone(),
            pay_to,
            amount: units("paymentRequirements.amount", required.amount)?,
            max: units("paymentPayload.accepted.amount", max)?,
            max_timeout_secs: required.max_timeout_secs,
            hold,
            lane: lane.clone(),
            is_charged,
            caller: request.caller().clone(),
        })
    }

    /// The terms of a payment by this payer.
    pub(super) fn terms(&self, payer: Address, expiry: u64, salt: B256) -> HoldTerms {
        self.hold.terms(
            payer,
            (self.pay_to, self.token.address),
            self.max,
            expiry,
            salt,
        )
    }

    /// Checks that the parties can be paid. The engine checks that the payer does not pay itself.
    pub(super) fn check_parties(&self, setup: &Setup, payer: Address) -> Result<(), Rejection> {
        let is_signer = |account| setup.signers.lane_of(account).is_some();
        check_parties(is_signer, payer, self.token.address, self.pay_to)
    }

    /// Checks that the salt binds the payment to the receiver's authorizer, if there is one.
    pub(super) fn check_salt(&self, salt: B256, nonce: Option<B256>) -> Result<(), Rejection> {
        let expected = match (self.hold.authorizer, nonce) {
            (None, None) => return Ok(()),
            (None, Some(_)) => {
                let detail = "payload.saltNonce needs an extra.receiverAuthorizer";
                return Err(Rejection::new(reason::PAYLOAD_FORMAT, detail));
            }
            (Some(_), None) => {
                let detail = "payload.saltNonce is missing: extra names a receiverAuthorizer";
                return Err(Rejection::new(reason::PAYLOAD_FORMAT, detail));
            }
            (Some(authorizer), Some(nonce)) => bound_salt(authorizer, nonce),
        };
        if salt == expected {
            return Ok(());
        }
        let detail = "the salt is not that of receiverAuthorizer and saltNonce";
        Err(Rejection::new(reason::SALT_BINDING_MISMATCH, detail))
    }

    /// Whether the hold's authorizer is the facilitator, which acts for the caller that made the
    /// hold.
    pub(super) fn is_delegated(&self, setup: &Setup) -> bool {
        self.hold.authorizer.is_some() && self.hold.authorizer == setup.config.authorizer
    }

    /// Checks that an act without the authorizer's signature comes from a caller that may leave it
    /// to the facilitator: the facilitator is the authorizer, or acts by itself.
    pub(super) fn check_delegated(&self, setup: &Setup) -> Result<(), Rejection> {
        let is_delegated = self.is_delegated(setup) && self.caller != RequestCaller::Anyone;
        if is_delegated || self.caller == RequestCaller::Engine {
            return Ok(());
        }
        Err(unauthenticated())
    }

    /// Checks that the operator has agreed to pay refunds of this hold.
    ///
    /// The authorizer must be the receiver's own, which the payer cannot choose. A fee must stay
    /// with the operator: a refund pays back the fee, too, and its recipient can be the payer.
    pub(super) fn check_refunds(&self, setup: &Setup) -> Result<(), Rejection> {
        let agreed = setup.config.refunds_for.get(&self.pay_to);
        let has_foreign_fee =
            self.hold.max_fee_bps > 0 && self.hold.fee_recipient != self.hold.operator;
        let detail = match agreed {
            None => "this facilitator pays no refunds for payTo",
            Some(agreed) if self.hold.authorizer != Some(*agreed) => {
                "this facilitator pays refunds for payTo with another receiverAuthorizer only"
            }
            Some(_) if has_foreign_fee => {
                "this facilitator pays no refunds of holds whose fee goes to another account"
            }
            Some(_) => return Ok(()),
        };
        Err(Rejection::new(reason::REFUND_FUNDING_UNAVAILABLE, detail))
    }

    /// Checks the deadlines, of which each must be after the one before.
    pub(super) fn check_deadlines(&self, expiry: u64, now: Timestamp) -> Result<(), Rejection> {
        let HoldExtra {
            capture_deadline: capture,
            refund_deadline: refund,
            ..
        } = self.hold;
        let ordering = |detail: String| Err(Rejection::new(reason::DEADLINE_ORDERING, detail));
        if capture > refund {
            return ordering(format!(
                "captureDeadline is {capture}, and refundDeadline is {refund}, which is before it"
            ));
        }
        if expiry > capture {
            return ordering(format!(
                "the authorization is valid before {expiry}, and captureDeadline is {capture}, which is before it"
            ));
        }
        let now = now.secs();
        if capture <= now.saturating_add(MARGIN_SECS) {
            let detail = format!("captureDeadline is {capture}, and the time is {now}");
            return Err(Rejection::new(reason::CAPTURE_DEADLINE_EXPIRED, detail));
        }
        if capture < now.saturating_add(self.max_timeout_secs) {
            return ordering(format!(
                "captureDeadline is {capture}, before the end of maxTimeoutSeconds"
            ));
        }
        if refund > now.saturating_add(REFUNDABLE_MAX_SECS) {
            return Err(wrong(format_args!(
                "refundDeadline is {refund}: this facilitator keeps holds for at most {REFUNDABLE_MAX_SECS} seconds"
            )));
        }
        Ok(())
    }
}

impl HoldExtra {
    /// The terms of a payment by this payer, to this receiver in this token.
    pub(super) fn terms(
        &self,
        payer: Address,
        (receiver, token): (Address, Address),
        max_amount: u128,
        expiry: u64,
        salt: B256,
    ) -> HoldTerms {
        HoldTerms {
            operator: self.operator,
            payer,
            receiver,
            token,
            max_amount,
            pre_approval_expiry: expiry,
            authorization_expiry: self.capture_deadline,
            refund_expiry: self.refund_deadline,
            min_fee_bps: self.min_fee_bps,
            max_fee_bps: self.max_fee_bps,
            fee_receiver: self.fee_recipient,
            salt,
        }
    }
}

/// The verdict on a caller without a right to the act.
pub(super) fn unauthenticated() -> Rejection {
    let detail = "the act needs the signature of the receiver's authorizer, or the key of the caller that made the hold";
    let reason: Reason = reason::UNAUTHENTICATED_AUTHORIZER_REQUEST;
    Rejection::new(reason, detail)
}
