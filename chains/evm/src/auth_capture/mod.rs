//! The scheme `auth-capture`: payments that are held first, and captured, voided or refunded later.
//!
//! A payer authorizes a contract to take its tokens for a hold with these terms: operator,
//! receiver, token, amount, deadlines and bounds of the fee. The facilitator is the operator, and
//! the only account that can authorize, capture, void and refund. The receiver's authorizer signs
//! each act after the first one. After the deadline the payer can take back what is still held.
//!
//! Source: the specification `scheme_auth_capture_evm`, version 1.1, and the contract
//! `AuthCaptureEscrow` of `base/commerce-payments`.

mod authorizer;
mod collect;
mod deployment;
mod effects;
mod fee;
mod hold;
mod later;
mod offer;
mod payer;
mod payload;
pub mod reason;
mod record;
mod setup;
mod terms;
mod view;

use std::sync::Arc;

use alloy::primitives::{Address, U256};
use quittance_core::json::Object;
use quittance_core::wire::{PaymentPayload, PaymentRequirements, Rest};
use quittance_core::{
    Amount, Flow, Network, Payment, PaymentRequest, Refusal, Scheme, SchemeState, StateSummary,
    StateWarning, Timestamp, Upkeep,
};
use serde_json::{Value, json};

pub use self::authorizer::SignedAct;
pub use self::deployment::{EscrowDeployment, HoldBalances, V1_0, V1_1};
pub use self::fee::{Fee, SubmittedFee};
pub use self::hold::{Authorizer, Hold, HoldStore};
pub use self::offer::AuthCaptureOffer;
pub use self::payer::AuthCapturePayer;
pub use self::record::{ACT_BEFORE_MIN_SECS, DeadlineAct, DeadlineRules, HoldRecord, HoldTask};
pub use self::setup::{AuthCaptureConfig, AuthCaptureConfigError, REFUNDABLE_MAX_SECS};
pub use self::terms::{HoldTerms, bound_salt, state_id};

use self::collect::Collect;
use self::later::Later;
use self::payload::Act;
use self::setup::{Required, Setup};
use crate::chain::{Evm, Probe, ProbeResult, Step};
use crate::exact::payment::is_deployed;
use crate::token::Token;

/// The scheme's name.
pub(crate) const NAME: &str = "auth-capture";

/// The contracts without which nothing can be held. Refunds need another one.
const CONTRACTS: [Address; 2] = [V1_1.escrow, V1_1.eip3009_collector];

/// The scheme `auth-capture` on one EVM chain: the facilitator's side.
#[derive(Debug, Clone)]
pub struct AuthCapture(Arc<Setup>);

impl AuthCapture {
    /// The scheme on this chain, for all of its tokens. Every signer of the chain is an operator.
    /// Sellers sign each act, the operator pays no refunds, and nothing happens at deadlines.
    pub fn new(evm: &Evm) -> Self {
        Self(Arc::new(Setup::new(evm)))
    }

    /// The scheme with these settings.
    ///
    /// # Errors
    /// If the authorizer is no signer of the chain.
    pub fn with_config(self, config: AuthCaptureConfig) -> Result<Self, AuthCaptureConfigError> {
        let setup = Setup::clone(&self.0).with_config(config)?;
        Ok(Self(Arc::new(setup)))
    }

    /// The request of the facilitator itself for a hold. `None` if its token is not configured any
    /// more.
    fn own_request(&self, record: &HoldRecord, act: DeadlineAct) -> Option<PaymentRequest> {
        let deployment = record.deployment()?;
        let token = self.0.token(record.terms.token)?;
        let payload = own_payload(record, &deployment, act)?;
        let requirements = requirements_of(&self.0.network, record, token)?;
        let payload = PaymentPayload::new(requirements.clone(), Object::of(&payload).ok()?);
        PaymentRequest::new(payload, requirements).ok()
    }

    /// Captures or voids a hold. Warns if this is not possible, or should have happened by now: the
    /// record comes again in a minute, until the deadline.
    fn act(
        &self,
        state: &SchemeState,
        record: &HoldRecord,
        act: DeadlineAct,
        now: Timestamp,
    ) -> (Option<PaymentRequest>, Option<StateWarning>) {
        let request = self.own_request(record, act);
        let problem = match &request {
            None => "its token is not configured any more: configure it again",
            Some(_) if record.is_overdue(&self.0.config.deadlines, now) => {
                "earlier attempts have not settled: the log has their reasons"
            }
            Some(_) => return (request, None),
        };
        let (held, deadline) = (record.balances.capturable, record.deadline());
        let detail = format!(
            "{held} atomic units of {} are held for {} until {deadline}, and the facilitator could not capture or void the hold: {problem}, or let the seller capture it",
            record.terms.token, record.terms.receiver,
        );
        (request, Some(StateWarning::new(state, detail)))
    }
}

/// The payload that captures or voids all that is held, without a signature.
fn own_payload(
    record: &HoldRecord,
    deployment: &EscrowDeployment,
    act: DeadlineAct,
) -> Option<Value> {
    let held = record.balances.capturable;
    let mut payload = json!({ "paymentInfo": record.terms, "saltNonce": record.salt_nonce });
    match act {
        DeadlineAct::Wait => return None,
        DeadlineAct::Void => payload["type"] = json!("void"),
        DeadlineAct::Capture => {
            let fee = SubmittedFee::least(deployment, &record.terms, held);
            payload["type"] = json!("capture");
            add_capture(&mut payload, held, &fee, &record.balances);
        }
    }
    Some(payload)
}

/// Adds what a capture has beside the terms.
fn add_capture(payload: &mut Value, amount: u128, fee: &SubmittedFee, expected: &HoldBalances) {
    payload["amount"] = json!(amount.to_string());
    add_fee(payload, fee);
    add_balances(payload, expected);
}

/// Adds a fee in the unit of the contract.
fn add_fee(payload: &mut Value, fee: &SubmittedFee) {
    payload["feeReceiver"] = json!(fee.receiver.to_checksum(None));
    match fee.fee {
        Fee::Amount(fee) => payload["feeAmount"] = json!(fee.to_string()),
        Fee::Bps(bps) => payload["feeBps"] = json!(bps),
    }
}

/// Adds the balances for which an act is signed.
fn add_balances(payload: &mut Value, expected: &HoldBalances) {
    payload["expectedCapturableAmount"] = json!(expected.capturable.to_string());
    payload["expectedRefundableAmount"] = json!(expected.refundable.to_string());
}

/// The requirements for which a hold was made, as far as its acts need them.
fn requirements_of(
    network: &Network,
    record: &HoldRecord,
    token: &Token,
) -> Option<PaymentRequirements> {
    let terms = &record.terms;
    let extra = json!({
        "name": token.name,
        "version": token.version,
        "authCaptureEscrow": record.escrow.to_checksum(None),
        "captureAuthorizer": terms.operator.to_checksum(None),
        "receiverAuthorizer": record.authorizer.map(|it| it.to_checksum(None)),
        "captureDeadline": terms.authorization_expiry,
        "refundDeadline": terms.refund_expiry,
        "feeRecipient": terms.fee_receiver.to_checksum(None),
        "minFeeBps": terms.min_fee_bps,
        "maxFeeBps": terms.max_fee_bps,
        "assetTransferMethod": record.method.name(),
        Flow::FIELD: record.flow().name(),
    });
    Some(PaymentRequirements {
        scheme: NAME.to_owned(),
        network: network.id().to_owned(),
        amount: Amount::new(U256::from(terms.max_amount)).to_string(),
        asset: terms.token.to_checksum(None),
        pay_to: terms.receiver.to_checksum(None),
        max_timeout_seconds: 0,
        extra: Some(Object::of(&extra).ok()?),
        rest: Rest::default(),
    })
}

impl Scheme<Evm> for AuthCapture {
    fn name(&self) -> &str {
        NAME
    }

    /// The operator of new holds, each signer with money for fees in turn, and the account that
    /// sellers can name as the authorizer, if there is one.
    fn extra(&self) -> Option<Object> {
        let (_, operator) = self.0.signers.next_funded();
        let mut extra = json!({ "captureAuthorizer": operator.to_checksum(None) });
        if let Some(authorizer) = self.0.config.authorizer {
            extra["receiverAuthorizer"] = json!(authorizer.to_checksum(None));
        }
        Object::of(&extra).ok()
    }

    fn prerequisite(&self) -> Option<Probe> {
        let code = CONTRACTS.map(Step::CodeSize);
        Some(Probe::new(code.to_vec()))
    }

    fn missing(&self, answer: &ProbeResult) -> Option<String> {
        let mut outcomes = CONTRACTS.iter().zip(&answer.outcomes);
        let (missing, _) = outcomes.find(|(_, outcome)| !is_deployed(Some(outcome)))?;
        Some(format!(
            "the scheme auth-capture needs the contract {missing}, which is not on this network"
        ))
    }

    fn summary(&self, state: &SchemeState, now: Timestamp) -> Option<StateSummary> {
        let record = HoldRecord::read(state).ok()?;
        let [payer, receiver, token] = [
            record.terms.payer,
            record.terms.receiver,
            record.terms.token,
        ]
        .map(|account| account.to_checksum(None));
        let mut summary = StateSummary::new(payer, receiver, token);
        summary.open = Amount::new(U256::from(record.balances.capturable));
        summary.until = Some(record.deadline());
        summary.next = record.next(&self.0.config.deadlines, now);
        Some(summary)
    }

    fn assets(&self) -> Vec<String> {
        self.0.assets()
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<Evm>>, Refusal> {
        request.check_scheme(NAME, reason::SCHEME)?;
        request.check_network(&self.0.network, reason::NETWORK_MISMATCH)?;
        let required = Required::read(&self.0, request)?;
        let setup = Arc::clone(&self.0);
        Ok(
            match Act::read(&request.payload, &required.hold.deployment)? {
                Act::Collect(act) => Box::new(Collect::new(setup, *act, required)?),
                Act::Later(act) => Box::new(Later::new(setup, *act, required, now)?),
            },
        )
    }

    /// Warns of holds whose deadline is near, and captures or voids them if the operator wants it.
    fn upkeep(&self, due: &[SchemeState], now: Timestamp) -> Upkeep {
        let mut upkeep = Upkeep::default();
        let rules = &self.0.config.deadlines;
        for state in due {
            let Ok(record) = HoldRecord::read(state) else {
                // It stays as it is, for an operator, and must not be read every minute.
                upkeep.seen.push((state.clone(), None));
                continue;
            };
            match record.task(rules, now) {
                HoldTask::Rest(next) => upkeep.seen.push((state.clone(), next)),
                HoldTask::Warn(next) => {
                    let deadline = record.deadline();
                    let held = record.balances.capturable;
                    upkeep.warnings.push(StateWarning::new(state, format!(
                        "{held} atomic units of {} are held for {} until {deadline}, and then the payer can take them back: capture or void the hold",
                        record.terms.token, record.terms.receiver,
                    )));
                    upkeep.seen.push((state.clone(), Some(next)));
                }
                HoldTask::Act(act) => {
                    let (request, warning) = self.act(state, &record, act, now);
                    upkeep.requests.extend(request);
                    upkeep.warnings.extend(warning);
                }
            }
        }
        upkeep
    }
}
