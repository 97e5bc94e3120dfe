//! Collecting a payment: to hold it, or to charge it at once.

use std::sync::Arc;

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::sol_types::SolCall;
use quittance_core::{
    Amount, Check, Effect, LaneId, Observed, Payment, PaymentInfo, Plan, Refusal, Rejection,
    SignatureClaim, StateAccess, StateChange, Timestamp,
};

use super::authorizer::SignedAct;
use super::deployment::{ChainState, HoldBalances, HoldEvent, revert, state_call};
use super::effects::{change, effect_of, is_paid};
use super::fee::SubmittedFee;
use super::payload::{CollectAct, Completion, Signed};
use super::reason;
use super::record::HoldRecord;
use super::setup::{MARGIN_SECS, Required, Setup};
use super::terms::{HoldTerms, state_id};
use super::view::{Consent, asked, chain_state, simulated};
use crate::abi::Erc20;
use crate::account::{accepts_signature, ask_signature, has_code};
use crate::call::Call;
use crate::chain::{
    AuthorizationSearch, Evm, INCLUSION_MIN_SECS, Probe, Step, StepOutcome, inclusion_secs,
};
use crate::eip3009::AuthorizationUse;
use crate::evidence::Evidence;
use crate::exact::payment::view;
use crate::exact::window::Window;
use crate::reason::PERMIT2_ALLOWANCE_REQUIRED;
use crate::signature::{PayerSignature, for_contract};

/// A payment that is held or charged.
pub(super) struct Collect {
    info: PaymentInfo,
    setup: Arc<Setup>,
    required: Required,
    terms: HoldTerms,
    hold: B256,
    signed: Signed,
    signature: PayerSignature,
    /// The signature as the payload has it, which an authorizer signs with a charge.
    raw_signature: Bytes,
    salt_nonce: Option<B256>,
    completion: Option<Completion>,
    /// The signature of the authorizer over the charge, if there is one.
    consent: Consent,
    claims: Vec<SignatureClaim>,
    /// Which claim is the payer's. `None` if no key can have signed.
    payer_key: Option<usize>,
    digest: B256,
    /// What is wrong with it that the request alone shows.
    objection: Option<Rejection>,
    access: StateAccess,
}

/// The steps of a probe, by index. Those that not every payment needs come last.
mod step {
    pub(super) const PAYER_CODE: usize = 0;
    pub(super) const BALANCE: usize = 1;
    pub(super) const HOLD: usize = 2;
    pub(super) const TOKEN: usize = 3;
    pub(super) const ESCROW: usize = 4;
    pub(super) const AUTHORIZER: usize = 5;
    pub(super) const SIGNATURE: usize = 6;
}

impl Collect {
    pub(super) fn new(
        setup: Arc<Setup>,
        act: CollectAct,
        required: Required,
    ) -> Result<Self, Refusal> {
        let CollectAct {
            part: act,
            completion,
        } = act;
        let payer = act.signed.payer();
        required.check_parties(&setup, payer)?;
        let (expiry, nonce) = act.signed.terms()?;
        let terms = required.terms(payer, expiry, act.salt);
        let escrow = required.hold.deployment.escrow;
        let hold = terms.id(setup.chain_id, escrow);
        let raw_signature = Bytes::from(act.signature.clone());
        let field = "paymentPayload.payload.signature";
        let signature = PayerSignature::decode(field, act.signature)?;
        signature.check_possible(reason::SIGNATURE)?;
        let objection = check_signed(&act.signed, &required)
            .and_then(|()| check_completion(completion.as_ref(), &terms, &required))
            .and_then(|()| required.check_salt(act.salt, act.salt_nonce))
            .and_then(|()| match nonce == terms.nonce(setup.chain_id, escrow) {
                true => Ok(()),
                false => {
                    let detail =
                        "the nonce is not that of these terms: sign what the requirements say";
                    Err(Rejection::new(reason::NONCE_MISMATCH, detail))
                }
            })
            .and_then(|()| match signature.deployment {
                None => Ok(()),
                Some(_) => {
                    let detail = "the payer's account must be deployed before it pays";
                    Err(Rejection::new(reason::FACTORY_NOT_ALLOWED, detail))
                }
            });
        let digest = match &act.signed {
            Signed::Eip3009(authorization) => {
                let separator = required.token.domain_separator(setup.chain_id);
                authorization.receive_digest(&separator)
            }
            Signed::Permit2(permit) => permit.plain_digest(&setup.permit2_separator),
        };
        let mut claims = Vec::new();
        let payer_key = signature.ecdsa().map(|key| {
            claims.push(key.claim(digest, payer));
            claims.len() - 1
        });
        let collector = collector(&act.signed, &required);
        let consent = Consent::new(
            completion.as_ref().and_then(|it| it.signature.as_ref()),
            required.hold.authorizer.unwrap_or_default(),
            completion.as_ref().map_or(B256::ZERO, |completion| {
                let charge = SignedAct::Charge {
                    amount: completion.amount,
                    collector,
                    data_hash: keccak256(&raw_signature),
                    fee: completion.fee,
                };
                charge.digest(setup.chain_id, required.hold.operator, hold)
            }),
            &mut claims,
        );
        let amount = completion.as_ref().map_or(required.max, |it| it.amount);
        let id = act
            .signed
            .payment_id(setup.chain_id, required.token.address);
        Ok(Self {
            info: PaymentInfo {
                id,
                payer: payer.to_checksum(None),
                pay_to: required.pay_to.to_checksum(None),
                asset: required.token.address.to_checksum(None),
                amount: Amount::new(U256::from(amount)),
                expires: Timestamp::from_secs(expiry),
            },
            access: StateAccess::new(state_id(&hold), reason::HOLD_BUSY).exclusive(),
            setup,
            required,
            terms,
            hold,
            signed: act.signed,
            signature,
            raw_signature,
            salt_nonce: act.salt_nonce,
            completion,
            consent,
            claims,
            payer_key,
            digest,
            objection: objection.err(),
        })
    }

    /// What is charged: by the seller, or as far as it is known before. `None` if it is held.
    fn charge(&self) -> Option<(u128, SubmittedFee)> {
        if !self.required.is_charged {
            return None;
        }
        let max = self.required.max;
        let least = || SubmittedFee::least(&self.required.hold.deployment, &self.terms, max);
        Some(match &self.completion {
            Some(completion) => (completion.amount, completion.fee),
            None => (max, least()),
        })
    }

    /// The data of the call.
    fn call(&self) -> Bytes {
        let deployment = &self.required.hold.deployment;
        let data = for_contract(&self.raw_signature);
        let collector = (collector(&self.signed, &self.required), data);
        match self.charge() {
            None => deployment.authorize(&self.terms, self.required.max, collector),
            Some((amount, fee)) => deployment.charge(&self.terms, amount, collector, &fee),
        }
    }

    fn probe(&self, is_contract: bool) -> Probe {
        let (payer, token) = (self.terms.payer, self.terms.token);
        let balance = Erc20::balanceOfCall { account: payer }.abi_encode();
        let gas = self.setup.limits.gas_max;
        let token_state = match &self.signed {
            Signed::Eip3009(authorization) => authorization.state_call(),
            Signed::Permit2(permit) => permit.allowance_call(),
        };
        let escrow = self.required.hold.deployment.escrow;
        let mut steps = vec![
            Step::CodeSize(payer),
            view(token, balance.into()),
            view(escrow, state_call(self.hold)),
            view(token, token_state),
            Step::CallAs {
                from: self.terms.operator,
                to: escrow,
                data: self.call(),
                gas,
            },
            self.consent.question(gas),
        ];
        if !is_contract {
            return Probe::new(steps);
        }
        steps.push(ask_signature(payer, self.digest, &self.signature, gas));
        Probe::new_transaction(steps)
    }

    fn window(&self) -> Window {
        Window {
            valid_after: U256::ZERO,
            valid_before: U256::from(self.terms.pre_approval_expiry),
            not_yet: reason::AUTHORIZATION_NOT_YET_VALID,
            expired: reason::AUTHORIZATION_EXPIRED,
        }
    }

    /// Checks what the moment decides.
    fn check_time(&self, now: Timestamp) -> Result<(), Rejection> {
        let window = self.window();
        window.check(now, now, INCLUSION_MIN_SECS)?;
        let expiry = self.terms.pre_approval_expiry;
        self.required.check_deadlines(expiry, now)
    }

    /// Checks the required amount, and whether the payload is complete.
    fn check_amount(&self, settling: bool) -> Result<(), Rejection> {
        let (amount, max) = (self.required.amount, self.required.max);
        let differs = || {
            let detail = format!("{amount} is required, and the payer accepted {max}");
            Err(Rejection::new(reason::AMOUNT_MISMATCH, detail))
        };
        match (&self.completion, settling) {
            (None, true) if self.required.is_charged => {
                let detail = "payload.amount is missing: a charge is settled once the seller has completed it";
                Err(Rejection::new(reason::PAYLOAD_FORMAT, detail))
            }
            (None, _) if amount != max => differs(),
            (Some(completion), _) if amount > max || completion.amount > amount => differs(),
            (Some(completion), _) if completion.signature.is_none() => {
                self.required.check_delegated(&self.setup)
            }
            _ => Ok(()),
        }
    }

    /// Checks the signatures, now that it is known whether the accounts have code.
    fn check_signatures(
        &self,
        outcomes: &[StepOutcome],
        observed: &Observed<'_, Evm>,
    ) -> Result<(), Rejection> {
        let is_signed = match has_code(outcomes.get(step::PAYER_CODE)) {
            // The token asks the contract, whatever a key has signed.
            true => accepts_signature(outcomes.get(step::SIGNATURE)),
            false => self.by_key(observed),
        };
        if !is_signed {
            let detail = "the payer's account does not accept the signature";
            return Err(Rejection::new(reason::SIGNATURE, detail));
        }
        let outcome = outcomes.get(step::AUTHORIZER);
        self.consent
            .check(observed.signatures, outcome, reason::AUTHORIZER_SIGNATURE)
    }

    fn by_key(&self, observed: &Observed<'_, Evm>) -> bool {
        self.payer_key
            .is_some_and(|at| observed.signatures.get(at) == Some(&true))
    }

    /// Checks what the chain says about the payer and the hold.
    fn check_state(&self, outcomes: &[StepOutcome]) -> Result<(), Rejection> {
        let state: ChainState = chain_state(outcomes.get(step::HOLD))?;
        if state.is_collected {
            let detail = "the payment was collected before";
            return Err(Rejection::new(reason::PAYMENT_ALREADY_COLLECTED, detail));
        }
        let word = |at: usize| outcomes.get(at).and_then(StepOutcome::word);
        let number = |at: usize| word(at).map(|word| U256::from_be_bytes(word.0));
        let max = U256::from(self.required.max);
        // The collector takes all that is authorized, and returns what is not charged.
        if let Some(balance) = number(step::BALANCE).filter(|balance| *balance < max) {
            let detail = format!("the payer has {balance} atomic units, and {max} are authorized");
            return Err(Rejection::new(reason::INSUFFICIENT_BALANCE, detail));
        }
        match (&self.signed, number(step::TOKEN)) {
            (Signed::Eip3009(_), Some(U256::ONE)) => {
                let detail = "the authorization was used or cancelled";
                Err(Rejection::new(reason::TOKEN_COLLECTION_FAILED, detail))
            }
            (Signed::Permit2(_), Some(allowance)) if allowance < max => {
                let detail = format!(
                    "Permit2 may move {allowance} atomic units of the payer's tokens, and {max} are authorized"
                );
                Err(Rejection::new(PERMIT2_ALLOWANCE_REQUIRED, detail))
            }
            _ => Ok(()),
        }
    }

    fn check_wallet(&self) -> Result<(), Rejection> {
        match self.setup.limits.contract_wallets {
            true => Ok(()),
            false => {
                let detail = "this facilitator accepts payments by key only, not from contract wallets or delegated accounts";
                Err(Rejection::new(reason::CONTRACT_WALLET_NOT_ALLOWED, detail))
            }
        }
    }

    /// The record of the hold that is made.
    fn record(&self, now: Timestamp) -> HoldRecord {
        let balances = match self.charge() {
            None => HoldBalances {
                capturable: self.required.max,
                refundable: 0,
            },
            Some((amount, _)) => HoldBalances {
                capturable: 0,
                refundable: amount,
            },
        };
        HoldRecord {
            terms: self.terms,
            escrow: self.required.hold.deployment.escrow,
            salt_nonce: self.salt_nonce,
            authorizer: self.required.hold.authorizer,
            method: self.signed.method(),
            is_charged: self.required.is_charged,
            owner: self.required.caller.to_text(),
            made_at: now,
            balances,
        }
    }
}

/// The contract that the payer lets take the tokens.
fn collector(signed: &Signed, required: &Required) -> Address {
    let deployment = &required.hold.deployment;
    match signed {
        Signed::Eip3009(_) => deployment.eip3009_collector,
        Signed::Permit2(_) => deployment.permit2_collector,
    }
}

/// Checks what the payer has signed against the requirements, in the specification's order.
fn check_signed(signed: &Signed, required: &Required) -> Result<(), Rejection> {
    let reject = |reason, detail: String| Err(Rejection::new(reason, detail));
    if signed.method() != required.hold.method {
        let detail = format!(
            "extra.assetTransferMethod is {}, and the payload has an authorization by {}",
            required.hold.method.name(),
            signed.method().name()
        );
        return reject(reason::PAYLOAD_METHOD_MISMATCH, detail);
    }
    let (to, amount) = match signed {
        Signed::Eip3009(authorization) => {
            if authorization.valid_after > U256::ZERO {
                let detail = "validAfter must be 0: the collector uses no other".to_owned();
                return reject(reason::AUTHORIZATION_NOT_YET_VALID, detail);
            }
            (authorization.to, authorization.value)
        }
        Signed::Permit2(permit) => (permit.spender, permit.amount),
    };
    let collector = collector(signed, required);
    if to != collector {
        let detail = format!("the authorization is for {to}, and must be for {collector}");
        return reject(reason::TOKEN_COLLECTOR_MISMATCH, detail);
    }
    if let Signed::Permit2(permit) = signed
        && permit.token != required.token.address
    {
        let (token, asset) = (permit.token, required.token.address);
        let detail = format!("the permit is for token {token}, but the asset is {asset}");
        return reject(reason::TOKEN_MISMATCH, detail);
    }
    let max = required.max;
    if amount != U256::from(max) {
        let detail = format!("{amount} is authorized, and the payer accepted {max}");
        return reject(reason::AMOUNT_MISMATCH, detail);
    }
    Ok(())
}

/// Checks what the seller has added to the payer's payload.
fn check_completion(
    completion: Option<&Completion>,
    terms: &HoldTerms,
    required: &Required,
) -> Result<(), Rejection> {
    if required.is_charged && required.hold.authorizer.is_none() {
        let detail = "a charge needs an extra.receiverAuthorizer";
        return Err(Rejection::new(reason::MISSING_RECEIVER_AUTHORIZER, detail));
    }
    let Some(completion) = completion else {
        return Ok(());
    };
    if !required.is_charged {
        let detail = "a payment that is held has no payload.amount and no fee";
        return Err(Rejection::new(reason::PAYLOAD_FORMAT, detail));
    }
    completion.fee.check(terms, completion.amount)
}

impl Payment<Evm> for Collect {
    fn info(&self) -> &PaymentInfo {
        &self.info
    }

    fn signatures(&self) -> &[SignatureClaim] {
        &self.claims
    }

    fn check(&self, observed: &Observed<'_, Evm>) -> Result<Check<Evm>, Rejection> {
        self.objection.clone().map_or(Ok(()), Err)?;
        self.check_amount(observed.settling)?;
        self.check_time(observed.now)?;
        let by_key = self.by_key(observed);
        let is_contract = |outcomes: &[StepOutcome]| has_code(outcomes.get(step::PAYER_CODE));
        let last = match (observed.answers, by_key) {
            ([], true) => return Ok(Check::Ask(self.probe(false))),
            ([], false) => {
                // The signature decides first: most often it is wrong, and no contract's.
                if !self.setup.limits.contract_wallets {
                    let detail = "the payer's key has not signed this";
                    return Err(Rejection::new(reason::SIGNATURE, detail));
                }
                return Ok(Check::Ask(self.probe(true)));
            }
            ([first], true) if is_contract(&first.outcomes) => {
                self.check_wallet()?;
                return Ok(Check::Ask(self.probe(true)));
            }
            ([.., last], _) => last,
        };
        for outcomes in last.simulations() {
            self.check_signatures(outcomes, observed)?;
        }
        let (now, chain_time) = (observed.now, last.chain_time);
        let remaining = inclusion_secs(last.block_secs).max(MARGIN_SECS);
        self.window().check(now, chain_time, remaining)?;
        for outcomes in last.simulations() {
            self.check_state(outcomes)?;
            simulated(outcomes.get(step::ESCROW))?;
        }
        Ok(Check::Valid)
    }

    fn depends_on_time(&self, rejection: &Rejection) -> bool {
        let deadlines = [reason::CAPTURE_DEADLINE_EXPIRED, reason::DEADLINE_ORDERING];
        self.window().decides(rejection) || deadlines.contains(&rejection.reason)
    }

    fn plan(&self, _: Amount, observed: &Observed<'_, Evm>) -> Result<Plan<Call>, Rejection> {
        let gas = asked(observed, step::ESCROW).and_then(StepOutcome::gas);
        let gas = gas.ok_or_else(|| revert(&[]))?;
        let escrow = self.required.hold.deployment.escrow;
        Ok(Plan::Submit(Call::new(
            escrow,
            self.call(),
            gas.into(),
            self.hold,
        )))
    }

    /// The collector takes all that is authorized, and returns what is not charged.
    fn reserves(&self, _: Amount) -> Amount {
        Amount::new(U256::from(self.required.max))
    }

    fn is_bound_to_caller(&self) -> bool {
        self.required.is_delegated(&self.setup)
    }

    fn sender(&self, _: &Observed<'_, Evm>) -> Option<LaneId> {
        Some(self.required.lane.clone())
    }

    /// Permits that exceed the allowance together would revert at the operator's cost, as
    /// authorizations that exceed the balance.
    fn balance(&self, observed: &Observed<'_, Evm>) -> Option<Amount> {
        let word = |at: usize| asked(observed, at).and_then(StepOutcome::word);
        let number = |at: usize| word(at).map(|word| U256::from_be_bytes(word.0));
        let balance = number(step::BALANCE)?;
        let allowed = match &self.signed {
            Signed::Eip3009(_) => None,
            Signed::Permit2(_) => number(step::TOKEN),
        };
        Some(Amount::new(
            allowed.map_or(balance, |allowed| balance.min(allowed)),
        ))
    }

    fn used_by(&self, rejection: &Rejection) -> Option<AuthorizationSearch> {
        let Signed::Eip3009(authorization) = &self.signed else {
            return None;
        };
        let used = [
            reason::PAYMENT_ALREADY_COLLECTED,
            reason::TOKEN_COLLECTION_FAILED,
        ];
        let (from, nonce) = (authorization.from, authorization.nonce);
        let used = used.contains(&rejection.reason);
        let search = AuthorizationUse::new(self.required.token.address, from, nonce);
        used.then_some(AuthorizationSearch::Eip3009(search))
    }

    fn state_access(&self) -> Option<&StateAccess> {
        Some(&self.access)
    }

    fn state_after(
        &self,
        _: Amount,
        observed: &Observed<'_, Evm>,
        _: Option<&Evidence>,
    ) -> StateChange {
        let rules = &self.setup.config.deadlines;
        let made = self.record(observed.now);
        // After a reorganisation, a later act may have changed the record already.
        let known = observed.state.map(HoldRecord::read);
        let record = match &known {
            Some(Ok(known)) => known,
            _ => &made,
        };
        change(record, &self.hold, rules, observed.now, known.is_some())
    }

    fn effect(&self, _: Amount, evidence: &Evidence) -> Effect {
        let (expected, amount, paid) = match self.charge() {
            None => {
                let max = U256::from(self.required.max);
                (HoldEvent::Authorized(max), self.required.max, 0)
            }
            Some((amount, fee)) => {
                let event = HoldEvent::Charged(U256::from(amount), fee);
                (event, amount, amount.saturating_sub(fee.of(amount)))
            }
        };
        let deployment = &self.required.hold.deployment;
        let events = deployment.events(&self.hold, evidence);
        let is_paid = is_paid(evidence, self.terms.token, self.terms.receiver, paid);
        effect_of(evidence, &events, expected, is_paid, amount)
    }
}
