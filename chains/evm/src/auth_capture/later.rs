//! Acts with a payment that was collected: capture, void and refund.

use std::num::NonZeroU8;
use std::sync::Arc;

use alloy::primitives::{B256, Bytes, U256};
use alloy::sol_types::SolCall;
use quittance_core::json::Object;
use quittance_core::{
    Amount, Check, Effect, LaneId, Observed, Payment, PaymentId, PaymentInfo, Plan, Refusal,
    Rejection, RequestCaller, SignatureClaim, StateAccess, StateChange, Timestamp,
};
use serde_json::json;

use super::authorizer::SignedAct;
use super::deployment::{HoldBalances, HoldEvent, revert, state_call};
use super::effects::{change, effect_of, is_paid};
use super::payload::{LaterAct, LaterKind};
use super::reason;
use super::record::HoldRecord;
use super::setup::{MARGIN_SECS, Required, Setup, unauthenticated};
use super::terms::{HoldTerms, state_id};
use super::view::{Consent, asked, chain_state, simulated};
use crate::abi::Erc20;
use crate::call::Call;
use crate::chain::{Evm, Probe, Step, StepOutcome, inclusion_secs};
use crate::evidence::Evidence;
use crate::exact::payment::view;
use crate::token::TransferMethod;

/// How long the engine tries to settle an act of a seller, in seconds, if its deadline is not
/// sooner.
const ACT_PATIENCE_SECS: u64 = 3600;

/// The step of a request that captures a part and voids the rest.
const CAPTURE_STEP: NonZeroU8 = NonZeroU8::MIN;

/// A capture, a void or a refund.
pub(super) struct Later {
    info: PaymentInfo,
    setup: Arc<Setup>,
    required: Required,
    terms: HoldTerms,
    hold: B256,
    salt_nonce: Option<B256>,
    kind: LaterKind,
    is_signed: bool,
    consent: Consent,
    /// The consent to return the rest.
    void_consent: Consent,
    claims: Vec<SignatureClaim>,
    access: StateAccess,
}

/// The steps of a probe, by index. The last two are those of a refund.
mod step {
    pub(super) const HOLD: usize = 0;
    pub(super) const ESCROW: usize = 1;
    pub(super) const AUTHORIZER: usize = 2;
    pub(super) const VOID_AUTHORIZER: usize = 3;
    pub(super) const ALLOWANCE: usize = 4;
    pub(super) const BALANCE: usize = 5;
}

impl Later {
    pub(super) fn new(
        setup: Arc<Setup>,
        act: LaterAct,
        required: Required,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        let terms = act.terms;
        check_terms(&act, &setup, &required)?;
        check_kind(&act.kind, &terms, &required, &setup)?;
        let is_signed = act.is_signed();
        if !is_signed {
            required.check_delegated(&setup)?;
        }
        let deployment = required.hold.deployment;
        let hold = terms.id(setup.chain_id, deployment.escrow);
        let signed = |act: SignedAct| act.digest(setup.chain_id, terms.operator, hold);
        let (id, digest, amount, expiry) = match &act.kind {
            LaterKind::Capture {
                amount,
                fee,
                expected,
                ..
            } => {
                let (amount, fee, expected) = (*amount, *fee, *expected);
                let digest = signed(SignedAct::Capture {
                    amount,
                    fee,
                    expected,
                });
                let id = identity_of_balances(&hold, &expected);
                (id, digest, amount, terms.authorization_expiry)
            }
            LaterKind::Refund { amount, expected } => {
                let (amount, expected) = (*amount, *expected);
                let digest = signed(SignedAct::Refund {
                    amount,
                    collector: deployment.refund_collector,
                    expected,
                });
                let id = identity_of_balances(&hold, &expected);
                (id, digest, amount, terms.refund_expiry)
            }
            LaterKind::Void => {
                let id = PaymentId::from_parts(&[b"auth-capture void", hold.as_slice()]);
                // Only the chain knows what is returned; it is no more than this.
                (id, signed(SignedAct::Void), terms.max_amount, u64::MAX)
            }
        };
        let authorizer = required.hold.authorizer.unwrap_or_default();
        let mut claims = Vec::new();
        let consent = Consent::new(act.signature.as_ref(), authorizer, digest, &mut claims);
        let void = match &act.kind {
            LaterKind::Capture { void, .. } => void.as_ref().and_then(Option::as_ref),
            LaterKind::Void | LaterKind::Refund { .. } => None,
        };
        let void_digest = signed(SignedAct::Void);
        let void_consent = Consent::new(void, authorizer, void_digest, &mut claims);
        Ok(Self {
            info: PaymentInfo {
                id,
                payer: terms.payer.to_checksum(None),
                pay_to: terms.receiver.to_checksum(None),
                asset: terms.token.to_checksum(None),
                amount: Amount::new(U256::from(amount)),
                expires: now
                    .plus_secs(ACT_PATIENCE_SECS)
                    .min(Timestamp::from_secs(expiry)),
            },
            access: StateAccess::new(state_id(&hold), reason::HOLD_BUSY).exclusive(),
            setup,
            required,
            terms,
            hold,
            salt_nonce: act.salt_nonce,
            kind: act.kind,
            is_signed,
            consent,
            void_consent,
            claims,
        })
    }

    /// The data of the call that is simulated, and that settles the act or its first step.
    fn call(&self) -> Bytes {
        let deployment = &self.required.hold.deployment;
        match &self.kind {
            LaterKind::Capture { amount, fee, .. } => deployment.capture(&self.terms, *amount, fee),
            LaterKind::Void => deployment.void(&self.terms),
            LaterKind::Refund { amount, .. } => deployment.refund(&self.terms, *amount),
        }
    }

    /// The call that is next: after its capture, a request returns the rest.
    fn next_call(&self, observed: &Observed<'_, Evm>) -> Bytes {
        match self.has_captured(observed) {
            true => self.required.hold.deployment.void(&self.terms),
            false => self.call(),
        }
    }

    /// Whether this request returns what it does not capture.
    fn voids_the_rest(&self) -> bool {
        matches!(&self.kind, LaterKind::Capture { void: Some(_), .. })
    }

    /// Whether the capture of this request is on the chain, as its first step.
    fn has_captured(&self, observed: &Observed<'_, Evm>) -> bool {
        let mut steps = observed.completed.iter();
        self.voids_the_rest()
            && steps.any(|done| done.step == CAPTURE_STEP && self.is_captured_by(&done.evidence))
    }

    fn is_captured_by(&self, evidence: &Evidence) -> bool {
        let LaterKind::Capture { amount, fee, .. } = &self.kind else {
            return false;
        };
        let event = HoldEvent::Captured(U256::from(*amount), *fee);
        let events = self.required.hold.deployment.events(&self.hold, evidence);
        evidence.succeeded && events.contains(&event)
    }

    fn probe(&self, observed: &Observed<'_, Evm>) -> Probe {
        let gas = self.setup.limits.gas_max;
        let deployment = &self.required.hold.deployment;
        let mut steps = vec![
            view(deployment.escrow, state_call(self.hold)),
            Step::CallAs {
                from: self.terms.operator,
                to: deployment.escrow,
                data: self.next_call(observed),
                gas,
            },
            self.consent.question(gas),
            self.void_consent.question(gas),
        ];
        if let LaterKind::Refund { .. } = self.kind {
            let (owner, token) = (self.terms.operator, self.terms.token);
            let allowance = Erc20::allowanceCall {
                owner,
                spender: deployment.refund_collector,
            };
            let balance = Erc20::balanceOfCall { account: owner };
            steps.push(view(token, allowance.abi_encode().into()));
            steps.push(view(token, balance.abi_encode().into()));
        }
        Probe::new(steps)
    }

    /// Checks that the act can be included before its deadline.
    fn check_time(&self, now: Timestamp, remaining: u64) -> Result<(), Rejection> {
        let until = now.secs().saturating_add(remaining);
        let (deadline, name, reason) = match &self.kind {
            LaterKind::Capture { .. } => {
                let deadline = self.terms.authorization_expiry;
                (
                    deadline,
                    "captureDeadline",
                    reason::CAPTURE_DEADLINE_EXPIRED,
                )
            }
            LaterKind::Refund { .. } => {
                let deadline = self.terms.refund_expiry;
                (deadline, "refundDeadline", reason::REFUND_DEADLINE_EXPIRED)
            }
            LaterKind::Void => return Ok(()),
        };
        if until < deadline {
            return Ok(());
        }
        let detail = format!("{name} is {deadline}, and the time is {now}");
        Err(Rejection::new(reason, detail))
    }

    /// Checks that the caller may act without the authorizer's signature.
    fn check_caller(&self, observed: &Observed<'_, Evm>) -> Result<(), Rejection> {
        if self.is_signed || self.required.caller == RequestCaller::Engine {
            return Ok(());
        }
        let record = observed.state.map(HoldRecord::read).transpose();
        // A newer version may have written it: the caller has done nothing wrong.
        let record = record.map_err(|error| Rejection::new(reason::VERIFICATION_FAILED, error))?;
        let owner = record.and_then(|record| record.owner);
        match owner.is_some() && owner == self.required.caller.to_text() {
            true => Ok(()),
            false => Err(unauthenticated()),
        }
    }

    /// Checks the signatures and the state of the hold.
    fn check_outcomes(
        &self,
        outcomes: &[StepOutcome],
        observed: &Observed<'_, Evm>,
    ) -> Result<(), Rejection> {
        let outcome = |at: usize| outcomes.get(at);
        if self.has_captured(observed) {
            return self.can_void(outcomes, observed).map(|_| ());
        }
        let signatures = observed.signatures;
        let asked = outcome(step::AUTHORIZER);
        self.consent
            .check(signatures, asked, reason::AUTHORIZER_SIGNATURE)?;
        let asked = outcome(step::VOID_AUTHORIZER);
        self.void_consent
            .check(signatures, asked, reason::VOID_AUTHORIZER_SIGNATURE)?;
        let balances = chain_state(outcome(step::HOLD))?.balances;
        check_balances(&self.kind, &balances)?;
        if let LaterKind::Refund { amount, .. } = &self.kind {
            check_funding(*amount, outcome(step::ALLOWANCE), outcome(step::BALANCE))?;
        }
        simulated(outcome(step::ESCROW))
    }

    /// Whether the rest can be returned after the capture. It cannot if the payer has taken it, or
    /// if the token refuses the payer. The seller is paid then, and this is a success.
    ///
    /// # Errors
    /// If the chain does not tell it.
    fn can_void(
        &self,
        outcomes: &[StepOutcome],
        observed: &Observed<'_, Evm>,
    ) -> Result<bool, Rejection> {
        let balances = chain_state(outcomes.get(step::HOLD))?.balances;
        let asked = outcomes.get(step::VOID_AUTHORIZER);
        let reason = reason::VOID_AUTHORIZER_SIGNATURE;
        let consent = self.void_consent.check(observed.signatures, asked, reason);
        if balances.capturable == 0 || consent.is_err() {
            return Ok(false);
        }
        match outcomes.get(step::ESCROW) {
            Some(StepOutcome::Reverted { .. }) => Ok(false),
            other => simulated(other).map(|()| true),
        }
    }

    /// The balances after the act. It `has_ended_early` if it captured and could not void.
    fn balances_after(&self, before: &HoldBalances, has_ended_early: bool) -> HoldBalances {
        match &self.kind {
            LaterKind::Capture {
                amount,
                expected,
                void,
                ..
            } => HoldBalances {
                capturable: match void {
                    Some(_) if !has_ended_early => 0,
                    _ => expected.capturable.saturating_sub(*amount),
                },
                refundable: expected.refundable.saturating_add(*amount),
            },
            LaterKind::Void => HoldBalances {
                capturable: 0,
                refundable: before.refundable,
            },
            LaterKind::Refund { amount, expected } => HoldBalances {
                refundable: expected.refundable.saturating_sub(*amount),
                ..*expected
            },
        }
    }

    /// The record of a hold that this facilitator does not know: it has lost its journal, or
    /// another one has made the hold.
    fn unknown(&self, now: Timestamp) -> HoldRecord {
        HoldRecord {
            terms: self.terms,
            escrow: self.required.hold.deployment.escrow,
            salt_nonce: self.salt_nonce,
            authorizer: self.required.hold.authorizer,
            method: TransferMethod::Eip3009,
            is_charged: self.required.is_charged,
            owner: None,
            made_at: now,
            balances: HoldBalances::default(),
        }
    }
}

/// Captures and refunds are signed for the balances that they change. No balances come twice, so
/// these identify the act, whatever its amount is.
fn identity_of_balances(hold: &B256, expected: &HoldBalances) -> PaymentId {
    PaymentId::from_parts(&[
        b"auth-capture balances",
        hold.as_slice(),
        &expected.capturable.to_be_bytes(),
        &expected.refundable.to_be_bytes(),
    ])
}

/// Checks that the hold is that of the requirements, in the specification's order.
fn check_terms(act: &LaterAct, setup: &Setup, required: &Required) -> Result<(), Rejection> {
    let terms = &act.terms;
    if required.hold.authorizer.is_none() && required.caller != RequestCaller::Engine {
        let detail =
            "extra has no receiverAuthorizer: only the operator captures and voids such a hold";
        return Err(Rejection::new(reason::LIFECYCLE_NOT_RELAYED, detail));
    }
    let (operator, named) = (terms.operator, required.hold.operator);
    if operator != named {
        let detail = format!("the hold's operator is {operator}, and captureAuthorizer is {named}");
        return Err(Rejection::new(reason::OPERATOR_MISMATCH, detail));
    }
    required.check_salt(terms.salt, act.salt_nonce)?;
    if *terms != required.terms(terms.payer, terms.pre_approval_expiry, terms.salt) {
        let detail = "paymentInfo is not that of the requirements";
        return Err(Rejection::new(reason::EXTRA, detail));
    }
    required.check_parties(setup, terms.payer)
}

/// Checks what the request alone shows of the act.
fn check_kind(
    kind: &LaterKind,
    terms: &HoldTerms,
    required: &Required,
    setup: &Setup,
) -> Result<(), Rejection> {
    match kind {
        LaterKind::Capture { .. } | LaterKind::Void if required.is_charged => {
            let detail = "a payment that was charged at once holds nothing";
            Err(Rejection::new(reason::PAYLOAD_TYPE, detail))
        }
        LaterKind::Capture { amount: 0, .. } | LaterKind::Refund { amount: 0, .. } => {
            let detail = "payload.amount is zero";
            Err(Rejection::new(reason::AMOUNT_MISMATCH, detail))
        }
        LaterKind::Capture { amount, fee, .. } => fee.check(terms, *amount),
        LaterKind::Void => Ok(()),
        LaterKind::Refund { .. } => required.check_refunds(setup),
    }
}

/// Checks an act against the balances that the chain has.
fn check_balances(kind: &LaterKind, chain: &HoldBalances) -> Result<(), Rejection> {
    let reject = |reason, detail: String| Err(Rejection::new(reason, detail));
    let (expected, amount, most, over) = match kind {
        LaterKind::Void if chain.capturable == 0 => {
            return reject(reason::ZERO_AUTHORIZATION, "nothing is held".to_owned());
        }
        LaterKind::Void => return Ok(()),
        LaterKind::Capture {
            amount, expected, ..
        } => {
            let over = reason::INSUFFICIENT_AUTHORIZATION;
            (expected, *amount, chain.capturable, over)
        }
        LaterKind::Refund { amount, expected } => {
            let over = reason::REFUND_EXCEEDS_CAPTURE;
            (expected, *amount, chain.refundable, over)
        }
    };
    if expected != chain {
        let HoldBalances {
            capturable,
            refundable,
        } = chain;
        let detail = format!(
            "{capturable} can be captured and {refundable} refunded: the act was signed for other balances"
        );
        let rejection = Rejection::new(reason::UNEXPECTED_PAYMENT_STATE, detail);
        // By this the seller can sign again.
        let now = json!({
            "capturableAmount": capturable.to_string(),
            "refundableAmount": refundable.to_string(),
        });
        return Err(match Object::of(&now) {
            Ok(extra) => rejection.with_extra(extra),
            Err(_) => rejection,
        });
    }
    if amount > most {
        return reject(
            over,
            format!("the amount is {amount}, and at most {most} is left"),
        );
    }
    match kind {
        LaterKind::Capture { void: Some(_), .. } if amount == most => {
            let detail = "everything is captured: leave out voidAuthorizerSignature";
            reject(reason::VOID_REMAINDER_FULL_CAPTURE, detail.to_owned())
        }
        _ => Ok(()),
    }
}

/// Checks that the operator can pay a refund of this amount.
fn check_funding(
    amount: u128,
    allowance: Option<&StepOutcome>,
    balance: Option<&StepOutcome>,
) -> Result<(), Rejection> {
    let covers = |outcome: Option<&StepOutcome>| {
        let word = outcome.and_then(StepOutcome::word);
        word.is_some_and(|word| U256::from_be_bytes(word.0) >= U256::from(amount))
    };
    if covers(allowance) && covers(balance) {
        return Ok(());
    }
    let detail = "the operator lacks the tokens, or has not approved the refund collector";
    Err(Rejection::new(reason::REFUND_FUNDING_UNAVAILABLE, detail))
}

impl Payment<Evm> for Later {
    fn info(&self) -> &PaymentInfo {
        &self.info
    }

    /// The payer's money was taken when the payment was collected, and the policy was asked then: a
    /// small part must be captured, too.
    fn moves(&self, _: Amount) -> Amount {
        Amount::ZERO
    }

    fn signatures(&self) -> &[SignatureClaim] {
        &self.claims
    }

    fn check(&self, observed: &Observed<'_, Evm>) -> Result<Check<Evm>, Rejection> {
        // A void has no deadline, and after its capture a request must not fail.
        if !self.has_captured(observed) {
            self.check_caller(observed)?;
            self.check_time(observed.now, MARGIN_SECS)?;
        }
        let Some(last) = observed.answers.last() else {
            return Ok(Check::Ask(self.probe(observed)));
        };
        if !self.has_captured(observed) {
            let later = observed.now.max(last.chain_time);
            self.check_time(later, inclusion_secs(last.block_secs).max(MARGIN_SECS))?;
        }
        for outcomes in last.simulations() {
            self.check_outcomes(outcomes, observed)?;
        }
        Ok(Check::Valid)
    }

    fn depends_on_time(&self, rejection: &Rejection) -> bool {
        let deadlines = [
            reason::CAPTURE_DEADLINE_EXPIRED,
            reason::REFUND_DEADLINE_EXPIRED,
        ];
        deadlines.contains(&rejection.reason)
    }

    /// Near the deadline, the void comes after it.
    fn expires(&self, observed: &Observed<'_, Evm>) -> Option<Timestamp> {
        let later = self.info.expires.plus_secs(ACT_PATIENCE_SECS);
        self.has_captured(observed).then_some(later)
    }

    fn plan(&self, _: Amount, observed: &Observed<'_, Evm>) -> Result<Plan<Call>, Rejection> {
        let has_captured = self.has_captured(observed);
        let last = observed.answers.last();
        let outcomes = last.map_or(&[][..], |last| &last.outcomes);
        if has_captured && !self.can_void(outcomes, observed)? {
            return Ok(Plan::OffChain);
        }
        let gas = asked(observed, step::ESCROW).and_then(StepOutcome::gas);
        let gas = gas.ok_or_else(|| revert(&[]))?;
        let escrow = self.required.hold.deployment.escrow;
        let call = Call::new(escrow, self.next_call(observed), gas.into(), self.hold);
        Ok(match self.voids_the_rest() && !has_captured {
            true => Plan::Step {
                step: CAPTURE_STEP,
                action: call,
            },
            false => Plan::Submit(call),
        })
    }

    fn transferred_by_steps(&self, _: Amount) -> Amount {
        self.info.amount
    }

    fn sender(&self, _: &Observed<'_, Evm>) -> Option<LaneId> {
        Some(self.required.lane.clone())
    }

    fn releases_nothing(&self) -> bool {
        true
    }

    fn state_access(&self) -> Option<&StateAccess> {
        Some(&self.access)
    }

    fn state_after(
        &self,
        _: Amount,
        observed: &Observed<'_, Evm>,
        evidence: Option<&Evidence>,
    ) -> StateChange {
        let known = observed.state.map(HoldRecord::read);
        let is_unreadable = matches!(known, Some(Err(_)));
        let mut record = match known {
            Some(Ok(record)) => record,
            _ => self.unknown(observed.now),
        };
        // The chain's balances, so that a repetition changes nothing.
        let chain = asked(observed, step::HOLD);
        let chain = chain.and_then(|outcome| chain_state(Some(outcome)).ok());
        let before = chain.map_or(record.balances, |state| state.balances);
        // Without a last transaction, only the capture was sent.
        record.balances = self.balances_after(&before, evidence.is_none());
        let rules = &self.setup.config.deadlines;
        let mut change = change(&record, &self.hold, rules, observed.now, is_unreadable);
        change.receipt.amount = match &self.kind {
            LaterKind::Void => Some("0".to_owned()),
            LaterKind::Capture { amount, .. } | LaterKind::Refund { amount, .. } => {
                Some(amount.to_string())
            }
        };
        change
    }

    fn effect(&self, _: Amount, evidence: &Evidence) -> Effect {
        let deployment = &self.required.hold.deployment;
        let events = deployment.events(&self.hold, evidence);
        let paid = |receiver, amount| is_paid(evidence, self.terms.token, receiver, amount);
        match &self.kind {
            LaterKind::Capture {
                amount,
                void: None,
                fee,
                ..
            } => {
                let event = HoldEvent::Captured(U256::from(*amount), *fee);
                let net = amount.saturating_sub(fee.of(*amount));
                let is_paid = paid(self.terms.receiver, net);
                effect_of(evidence, &events, event, is_paid, *amount)
            }
            LaterKind::Refund { amount, .. } => {
                let event = HoldEvent::Refunded(U256::from(*amount));
                let is_paid = paid(self.terms.payer, *amount);
                effect_of(evidence, &events, event, is_paid, *amount)
            }
            // The contract says what it gave back. The payment transferred what was captured.
            LaterKind::Void | LaterKind::Capture { .. } => {
                let captured = match &self.kind {
                    LaterKind::Capture { amount, .. } => *amount,
                    _ => 0,
                };
                let voided = events.first().copied();
                let event = voided.filter(|event| matches!(event, HoldEvent::Voided(_)));
                let event = event.unwrap_or(HoldEvent::Voided(U256::ZERO));
                effect_of(evidence, &events, event, true, captured)
            }
        }
    }
}
