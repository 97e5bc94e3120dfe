//! A payment by an authorization to transfer tokens: of the scheme `exact` by any asset transfer
//! method, and of the scheme `upto`.
//!
//! The method defines the signed message and the call that moves the token. Everything else is the
//! same: whose signature it is, in which order the checks are, and when the payer's contract is
//! asked.

use std::sync::OnceLock;

use alloy::primitives::{Address, B256, Bytes, Log, U256};
use alloy::sol_types::SolCall;
use quittance_core::{
    Amount, Check, Effect, LaneId, Observed, Payment, PaymentInfo, Plan, Reason, Rejection,
    SignatureClaim, StateAccess, Timestamp,
};

use super::deployment::AccountDeployment;
use super::reason;
use super::window::Window;
use crate::abi::Erc20;
use crate::account;
use crate::call::Call;
use crate::chain::{
    AuthorizationSearch, Condition, Evm, EvmConfig, INCLUSION_MIN_SECS, Probe, Step, StepOutcome,
    inclusion_secs,
};
use crate::evidence::Evidence;
use crate::signature::{EcdsaSignature, PayerSignature};

/// The gas limit of a view of a contract. Circle's proxy needs less than 10,000.
const VIEW_GAS: u32 = 100_000;

/// What the operator allows a payment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The most gas that a payment may use.
    pub(crate) gas_max: u32,
    /// Whether accounts with code may pay.
    pub(crate) contract_wallets: bool,
}

impl Limits {
    /// The limits of this configuration.
    pub(crate) fn new(config: &EvmConfig) -> Self {
        Self {
            gas_max: config.gas_per_payment_max,
            contract_wallets: config.contract_wallets,
        }
    }
}

/// The reason codes in which the asset transfer methods differ.
#[derive(Debug)]
pub(crate) struct Reasons {
    pub(crate) signature: Reason,
    pub(crate) recipient_mismatch: Reason,
    pub(crate) value_mismatch: Reason,
    pub(crate) insufficient_balance: Reason,
    pub(crate) simulation_failed: Reason,
    pub(crate) transaction_failed: Reason,
    pub(crate) wallet_not_allowed: Reason,
}

/// A call to a contract: the contract, and the call data.
pub(crate) type ContractCall = (Address, Bytes);

/// An authorization by one asset transfer method.
pub(crate) trait Method: Send + Sync {
    /// The number of [`state_steps`](Self::state_steps).
    const STATE_STEPS: usize;

    /// The codes of its rejections.
    fn reasons(&self) -> &'static Reasons;

    /// The identity, the parties, the amount and the expiry.
    fn info(&self) -> PaymentInfo;

    /// The token.
    fn token(&self) -> Address;

    /// The account whose tokens move.
    fn payer(&self) -> Address;

    /// The account that gets them.
    fn pay_to(&self) -> Address;

    /// The authorized amount in atomic units.
    fn value(&self) -> U256;

    /// The only account that can make the transfer, with its lane; `None` if any can.
    fn sender(&self) -> Option<(Address, &LaneId)> {
        None
    }

    /// Checks the required amount. At /settle it is the amount that is settled.
    fn check_amount(&self, amount: Amount, _settling: bool) -> Result<(), Rejection> {
        check_equal(self.value(), amount, self.reasons())
    }

    /// The digest that the payer signs.
    fn digest(&self) -> B256;

    /// What the payer signs, for the detail of a rejection.
    fn signed_message(&self) -> String;

    /// When it is valid.
    fn window(&self) -> Window;

    /// The steps that read the state of the chain on which only this method depends.
    fn state_steps(&self) -> Vec<Step>;

    /// The call that transfers `amount` for a payer with a key.
    fn transfer_with_key(&self, amount: U256, signature: &EcdsaSignature) -> ContractCall;

    /// The call that transfers `amount` for a payer that is a contract.
    fn transfer_with_contract(&self, amount: U256, signature: &PayerSignature) -> ContractCall;

    /// The same call, which first submits the approval that the payer signed beside the payment.
    /// `key` is the signature of a payer with a key. `None` if the payer signed no approval.
    fn transfer_with_approval(
        &self,
        _amount: U256,
        _key: Option<&EcdsaSignature>,
        _signature: &PayerSignature,
    ) -> Option<ContractCall> {
        None
    }

    /// Whether a transfer of `amount` needs this approval, by the outcomes of
    /// [`state_steps`](Self::state_steps).
    fn needs_approval(&self, _amount: U256, _outcomes: &[StepOutcome]) -> bool {
        false
    }

    /// Checks the approval that the payer signed beside the payment, if there is one.
    fn check_approval(&self) -> Result<(), Rejection> {
        Ok(())
    }

    /// Checks the outcomes of [`state_steps`](Self::state_steps) that the reference implementation
    /// checks before the balance.
    fn check_usable(&self, outcomes: &[StepOutcome]) -> Result<(), Rejection>;

    /// Checks the outcomes that the reference implementation checks after the balance, for a
    /// transfer of `amount`.
    fn check_funded(&self, _amount: U256, _outcomes: &[StepOutcome]) -> Result<(), Rejection> {
        Ok(())
    }

    /// Why the transfer of `amount` reverts with this data; `None` if the method knows no more than
    /// the data says.
    fn reverted(
        &self,
        _amount: U256,
        _outcomes: &[StepOutcome],
        _data: &[u8],
    ) -> Option<Rejection> {
        None
    }

    /// Identifies the transfer in the logs of a transaction; see [`Call::effect_key`].
    fn effect_key(&self) -> B256;

    /// What the logs of the token say about this payment, of which `amount` was to be settled.
    fn effect(&self, amount: Amount, logs: &[&Log]) -> Effect;

    /// The query for the transaction that used the authorization, if `rejection` says that it was
    /// used.
    fn used_by(&self, rejection: &Rejection) -> Option<AuthorizationSearch>;

    /// How much all open payments of the payer by this method may move together, if this one moves
    /// `amount`: at most its balance.
    fn spendable(&self, _amount: U256, balance: U256, _outcomes: &[StepOutcome]) -> U256 {
        balance
    }
}

/// Checks that exactly the authorized amount is required.
pub(crate) fn check_equal(
    authorized: U256,
    required: Amount,
    reasons: &Reasons,
) -> Result<(), Rejection> {
    if authorized == required.units() {
        return Ok(());
    }
    let detail = format!(
        "the authorization is for {authorized} atomic units, but the required amount is {required}"
    );
    Err(Rejection::new(reasons.value_mismatch.clone(), detail))
}

/// A payment by an authorization of the method `M`.
pub(crate) struct ExactPayment<M> {
    /// Made on first use: the checksums of its three addresses cost as many hashes as the digest,
    /// and the verdict alone does not need them.
    info: OnceLock<PaymentInfo>,
    method: M,
    /// The record that a verified payment has for itself, if the operator wants that.
    access: Option<StateAccess>,
    /// The required amount.
    amount: Amount,
    limits: Limits,
    signature: PayerSignature,
    deployment: AccountDeployment,
    digest: B256,
    claims: Vec<SignatureClaim>,
    /// The first failed check of the authorization. It is reported only if the signature is valid:
    /// an unsigned payload says nothing about the payer.
    objection: Option<Rejection>,
}

/// The steps of a probe, by index. The method's own steps come next, then the call of the payer's
/// contract, then those of its deployment, and at the end the transfer with a signed approval.
mod step {
    pub(crate) const ASSET_CODE: usize = 0;
    pub(crate) const PAYER_CODE: usize = 1;
    pub(crate) const BALANCE: usize = 2;
    pub(crate) const TRANSFER: usize = 3;
    pub(crate) const STATE: usize = 4;
}

impl<M: Method> ExactPayment<M> {
    /// The index of the call of the payer's contract.
    const SIGNATURE: usize = step::STATE + M::STATE_STEPS;

    /// The payment, and what is already known to be wrong with it.
    pub(crate) fn new(
        method: M,
        limits: Limits,
        (signature, deployment): (PayerSignature, AccountDeployment),
        pay_to: Address,
        amount: Amount,
        now: Timestamp,
    ) -> Self {
        let digest = method.digest();
        let payer = method.payer();
        let claim = |ecdsa: EcdsaSignature| ecdsa.claim(digest, payer);
        Self {
            info: OnceLock::new(),
            access: None,
            amount,
            limits,
            digest,
            claims: signature.ecdsa().map(claim).into_iter().collect(),
            objection: objection(&method, pay_to, now),
            method,
            signature,
            deployment,
        }
    }

    /// The same payment, which uses this record.
    pub(crate) fn with_access(self, access: Option<StateAccess>) -> Self {
        Self { access, ..self }
    }

    /// What the payment moves, in atomic units: the amount that is settled, or all that is
    /// authorized.
    fn moved(&self, settling: bool) -> U256 {
        match settling {
            true => self.amount.units(),
            false => self.method.value(),
        }
    }

    /// The probe for a payer whose key signed.
    fn probe_key(&self, settling: bool) -> Probe {
        let signature = self.signature.ecdsa().unwrap_or(EcdsaSignature([0; 65]));
        let transfer = self
            .method
            .transfer_with_key(self.moved(settling), &signature);
        let when = Condition::NoCode(self.method.payer());
        let mut steps = self.steps(settling, transfer, when);
        steps.extend(self.approved_transfer(settling, Some(&signature), when));
        Probe::new(steps)
    }

    /// The probe for a payer that may be a contract.
    fn probe_contract(&self, settling: bool) -> Probe {
        let payer = self.method.payer();
        let moved = self.moved(settling);
        let transfer = self.method.transfer_with_contract(moved, &self.signature);
        let gas = self.limits.gas_max;
        let signed = (self.digest, &self.signature);
        let deployment = self.deployment.steps(payer, signed, transfer.clone(), gas);
        let when = Condition::HasCode(payer);
        let mut steps = self.steps(settling, transfer, when);
        steps.push(account::ask_signature(
            payer,
            self.digest,
            &self.signature,
            gas,
        ));
        steps.extend(deployment);
        steps.extend(self.approved_transfer(settling, None, when));
        Probe::new_transaction(steps)
    }

    /// The step that simulates the transfer with the approval that the payer signed, if it signed
    /// one. `key` is the signature of a payer with a key.
    fn approved_transfer(
        &self,
        settling: bool,
        key: Option<&EcdsaSignature>,
        when: Condition,
    ) -> Option<Step> {
        let amount = self.moved(settling);
        let call = self
            .method
            .transfer_with_approval(amount, key, &self.signature)?;
        Some(self.transfer_step(settling, call, when))
    }

    fn transfer_step(&self, settling: bool, (to, data): ContractCall, when: Condition) -> Step {
        let gas = self.limits.gas_max;
        match self.method.sender() {
            // A payment of nothing makes no transfer. Another step is in its place.
            _ if self.moved(settling).is_zero() => Step::CodeSize(to),
            Some((from, _)) => Step::CallAs {
                from,
                to,
                data,
                gas,
            },
            None => Step::Call {
                to,
                data,
                gas,
                when,
            },
        }
    }

    fn steps(&self, settling: bool, transfer: ContractCall, when: Condition) -> Vec<Step> {
        let (token, payer) = (self.method.token(), self.method.payer());
        let balance = Erc20::balanceOfCall { account: payer }.abi_encode();
        let transfer = self.transfer_step(settling, transfer, when);
        let mut steps = Vec::with_capacity(step::STATE + M::STATE_STEPS + 1);
        steps.push(Step::CodeSize(token));
        steps.push(Step::CodeSize(payer));
        steps.push(view(token, balance.into()));
        steps.push(transfer);
        steps.extend(self.method.state_steps());
        steps
    }

    /// The first failed check of the authorization.
    fn check_authorization(&self, settling: bool) -> Result<(), Rejection> {
        self.objection.clone().map_or(Ok(()), Err)?;
        self.method.check_amount(self.amount, settling)?;
        self.method.check_approval()
    }

    /// Checks that the operator allows accounts with code; `reason` is that of the rejection.
    fn check_wallets_allowed(&self, reason: Reason) -> Result<(), Rejection> {
        if self.limits.contract_wallets {
            return Ok(());
        }
        let detail = "this facilitator accepts payments by key only, not from contract wallets or delegated accounts";
        Err(Rejection::new(reason, detail))
    }

    /// Checks that a payer that did not sign by key is a contract that accepts the signature, or
    /// will be one.
    fn check_wallet(&self, outcomes: &[StepOutcome]) -> Result<(), Rejection> {
        let reason = self.method.reasons().signature.clone();
        if !account::has_code(outcomes.get(step::PAYER_CODE)) {
            let expected = || self.expected_signature();
            let deployed = Self::deployment_outcomes(outcomes);
            return self.deployment.check(deployed, reason, expected);
        }
        if account::accepts_signature(outcomes.get(Self::SIGNATURE)) {
            return Ok(());
        }
        let detail = "the payer's contract does not accept the signature";
        Err(Rejection::new(reason, detail))
    }

    fn deployment_outcomes(outcomes: &[StepOutcome]) -> &[StepOutcome] {
        outcomes.get(Self::SIGNATURE + 1..).unwrap_or_default()
    }

    /// Whether the transfer needs a transaction that also deploys the payer's account.
    fn deploys(&self, outcomes: &[StepOutcome]) -> bool {
        self.signature.deployment.is_some() && !account::has_code(outcomes.get(step::PAYER_CODE))
    }

    /// Whether the transfer submits the approval that the payer signed.
    fn approves(&self, outcomes: &[StepOutcome], settling: bool) -> bool {
        let needs = |state| self.method.needs_approval(self.moved(settling), state);
        !self.deploys(outcomes) && needs(Self::state(outcomes))
    }

    /// The outcome of the transfer in the simulation.
    fn transfer_outcome<'a>(
        &self,
        outcomes: &'a [StepOutcome],
        settling: bool,
    ) -> Option<&'a StepOutcome> {
        if self.approves(outcomes, settling) {
            return outcomes.last();
        }
        if !self.deploys(outcomes) {
            return outcomes.get(step::TRANSFER);
        }
        let deployed = Self::deployment_outcomes(outcomes);
        self.deployment.transfer_outcome(deployed)
    }

    /// The outcomes of the method's own steps.
    fn state(outcomes: &[StepOutcome]) -> &[StepOutcome] {
        outcomes.get(step::STATE..).unwrap_or_default()
    }

    fn expected_signature(&self) -> String {
        format!(
            "not signed by the payer {}: expected is its signature over {}",
            self.method.payer(),
            self.method.signed_message()
        )
    }

    /// Checks that the token exists and that the payer can pay with this authorization.
    fn check_state(&self, outcomes: &[StepOutcome], settling: bool) -> Result<(), Rejection> {
        if !is_deployed(outcomes.get(step::ASSET_CODE)) {
            let detail = "there is no contract at the asset's address";
            return Err(Rejection::new(reason::ASSET_NOT_DEPLOYED, detail));
        }
        let state = Self::state(outcomes);
        self.method.check_usable(state)?;
        let balance = outcomes.get(step::BALANCE).and_then(StepOutcome::word);
        let balance = balance.map(|balance| U256::from_be_bytes(balance.0));
        let moved = self.moved(settling);
        if let Some(balance) = balance.filter(|balance| *balance < moved) {
            let detail =
                format!("the payer has {balance} atomic units, and the payment is of {moved}");
            let reason = self.method.reasons().insufficient_balance.clone();
            return Err(Rejection::new(reason, detail));
        }
        self.method.check_funded(moved, state)
    }

    /// Checks that the token made the transfer in the simulation. A payment of nothing makes none.
    fn check_transfer(&self, outcomes: &[StepOutcome], settling: bool) -> Result<(), Rejection> {
        if self.moved(settling).is_zero() {
            return Ok(());
        }
        let detail = match self.transfer_outcome(outcomes, settling) {
            Some(StepOutcome::Returned { .. }) => return Ok(()),
            Some(StepOutcome::Reverted { data }) => {
                let (moved, state) = (self.moved(settling), Self::state(outcomes));
                if let Some(rejection) = self.method.reverted(moved, state, data) {
                    return Err(rejection);
                }
                revert_reason(data)
            }
            _ => "the simulation of the transfer has no result".to_owned(),
        };
        let reason = self.method.reasons().simulation_failed.clone();
        Err(Rejection::new(reason, detail))
    }
}

impl<M: Method> Payment<Evm> for ExactPayment<M> {
    fn info(&self) -> &PaymentInfo {
        self.info.get_or_init(|| self.method.info())
    }

    /// The amount is at most what was authorized, as [`Method::check_amount`] checks.
    fn moves(&self, amount: Amount) -> Amount {
        amount
    }

    fn signatures(&self) -> &[SignatureClaim] {
        &self.claims
    }

    fn check(&self, observed: &Observed<'_, Evm>) -> Result<Check<Evm>, Rejection> {
        let settling = observed.settling;
        let signed_by_key = observed.signatures == [true];
        let has_code = |outcomes: &[StepOutcome]| account::has_code(outcomes.get(step::PAYER_CODE));
        let result = match (observed.answers, signed_by_key) {
            ([], true) => {
                // The payer's key signed the authorization, so the objection needs no answer of the
                // chain.
                self.check_authorization(settling)?;
                return Ok(Check::Ask(self.probe_key(settling)));
            }
            ([], false) => {
                self.check_wallets_allowed(self.method.reasons().signature.clone())?;
                return Ok(Check::Ask(self.probe_contract(settling)));
            }
            // If the payer has code, its isValidSignature decides, even if the key's signature is
            // valid. The token does the same.
            ([first], true) if has_code(&first.outcomes) => {
                let reason = self.method.reasons().wallet_not_allowed.clone();
                self.check_wallets_allowed(reason)?;
                return Ok(Check::Ask(self.probe_contract(settling)));
            }
            ([.., last], _) => last,
        };
        for outcomes in result.simulations() {
            if !signed_by_key || has_code(outcomes) {
                self.check_wallet(outcomes)?;
            }
        }
        self.check_authorization(settling)?;
        let (now, chain_time) = (observed.now, result.chain_time);
        let window = self.method.window();
        window.check(now, chain_time, inclusion_secs(result.block_secs))?;
        for outcomes in result.simulations() {
            self.check_state(outcomes, settling)?;
        }
        if let Some(time) = window.opens_in(now, chain_time) {
            return Ok(Check::NotYet(time));
        }
        for outcomes in result.simulations() {
            self.check_transfer(outcomes, settling)?;
        }
        Ok(Check::Valid)
    }

    fn sender(&self, observed: &Observed<'_, Evm>) -> Option<LaneId> {
        if let Some((_, lane)) = self.method.sender() {
            return Some(lane.clone());
        }
        // A contract wallet was simulated as a transaction of this lane, and could detect another
        // sender.
        observed.answers.last()?.sender.clone()
    }

    fn balance(&self, observed: &Observed<'_, Evm>) -> Option<Amount> {
        let outcomes = &observed.answers.last()?.outcomes;
        let balance = outcomes.get(step::BALANCE)?.word()?;
        let (moved, balance) = (
            self.moved(observed.settling),
            U256::from_be_bytes(balance.0),
        );
        let spendable = self.method.spendable(moved, balance, Self::state(outcomes));
        Some(Amount::new(spendable))
    }

    fn depends_on_time(&self, rejection: &Rejection) -> bool {
        self.method.window().decides(rejection)
    }

    fn plan(&self, amount: Amount, observed: &Observed<'_, Evm>) -> Result<Plan<Call>, Rejection> {
        self.method.check_amount(amount, true)?;
        if amount.is_zero() {
            return Ok(Plan::OffChain);
        }
        let simulation_failed = || self.method.reasons().simulation_failed.clone();
        let result = observed.answers.last().ok_or_else(simulation_failed)?;
        let transfer_gas = |outcomes: &[StepOutcome]| self.transfer_outcome(outcomes, true)?.gas();
        let gas = result.simulations().filter_map(transfer_gas).max();
        let gas = gas.ok_or_else(simulation_failed)?;
        let has_code = account::has_code(result.outcomes.get(step::PAYER_CODE));
        let by_key = self.signature.ecdsa().filter(|_| !has_code);
        let approves = self.approves(&result.outcomes, true);
        let (method, signature) = (&self.method, &self.signature);
        let transfer = match &by_key {
            key if approves => method
                .transfer_with_approval(amount.units(), key.as_ref(), signature)
                .ok_or_else(simulation_failed)?,
            Some(key) => method.transfer_with_key(amount.units(), key),
            None => method.transfer_with_contract(amount.units(), signature),
        };
        let (to, data) = match self.deploys(&result.outcomes) {
            true => self
                .deployment
                .call(transfer)
                .ok_or_else(simulation_failed)?,
            false => transfer,
        };
        // The code of a contract wallet runs in the transfer and could use the gas of other
        // payments. A batch is another sender. An approval changes the allowance, on which other
        // payments depend.
        let batchable = by_key.is_some() && self.method.sender().is_none() && !approves;
        let call = Call::new(to, data, gas.into(), self.method.effect_key());
        Ok(Plan::Submit(call.with_batchable(batchable)))
    }

    fn state_access(&self) -> Option<&StateAccess> {
        self.access.as_ref()
    }

    fn used_by(&self, rejection: &Rejection) -> Option<AuthorizationSearch> {
        self.method.used_by(rejection)
    }

    fn effect(&self, amount: Amount, evidence: &Evidence) -> Effect {
        if !evidence.succeeded {
            let detail = "the transaction was included and reverted";
            let reason = self.method.reasons().transaction_failed.clone();
            return Effect::None(Rejection::new(reason, detail));
        }
        let logs: Vec<&Log> = evidence.logs_of(self.method.token()).collect();
        self.method.effect(amount, &logs)
    }
}

/// The step that calls a view of a contract.
pub(crate) fn view(to: Address, data: Bytes) -> Step {
    Step::Call {
        to,
        data,
        gas: VIEW_GAS,
        when: Condition::Always,
    }
}

/// Whether an account has code, by the outcome of [`Step::CodeSize`]. Any other outcome counts as
/// no code.
pub(crate) fn is_deployed(outcome: Option<&StepOutcome>) -> bool {
    outcome
        .and_then(StepOutcome::code_size)
        .is_some_and(|size| size > 0)
}

/// The effect when the logs must hold exactly one transfer like this payment's.
pub(crate) fn effect_by_transfers(transfers: usize, value: U256) -> Effect {
    match transfers {
        1 => Effect::Transferred(Amount::new(value)),
        0 => Effect::None(mismatch("the token logged no such transfer")),
        _ => Effect::Mismatch(mismatch("the token logged the transfer more than once")),
    }
}

pub(crate) fn mismatch(detail: &str) -> Rejection {
    Rejection::new(reason::TRANSFER_EVENT_MISMATCH, detail)
}

/// The first failed check of the authorization, in the specification's order. The check of the
/// amount comes after it.
fn objection(method: &impl Method, pay_to: Address, now: Timestamp) -> Option<Rejection> {
    let reasons = method.reasons();
    if method.pay_to() != pay_to {
        let detail = format!(
            "the authorization pays {}, but payTo is {pay_to}",
            method.pay_to()
        );
        return Some(Rejection::new(reasons.recipient_mismatch.clone(), detail));
    }
    let window = method.window().check(now, now, INCLUSION_MIN_SECS);
    window.err()
}

/// Why a call reverted: the text of `Error(string)`, if there is one.
pub(crate) fn revert_reason(data: &[u8]) -> String {
    revert_text(data).unwrap_or_else(|| "the transfer would revert".to_owned())
}

/// The text of `Error(string)`, if a call reverted with one.
pub(crate) fn revert_text(data: &[u8]) -> Option<String> {
    let text = alloy::sol_types::decode_revert_reason(data)?;
    Some(text.chars().filter(|letter| !letter.is_control()).collect())
}
