//! The asset transfer method `erc7710`: a delegation manager makes the transfer from the payer's
//! account, as the payer's delegations allow.
//!
//! Nothing in the payload says when or how often it may be used, and the chain shows no use of it.
//! So the facilitator's journal refuses a second payment, and keeps the first one for ever. Only
//! the simulation shows that a payment is authorized. The simulation of a manager that may be
//! anything shows nothing, so the operator lists the managers.

mod offer;
mod payer;

use std::collections::BTreeSet;

use alloy::primitives::{Address, Bytes, Log, U256};
use alloy::sol_types::{SolCall, SolEvent};
use quittance_core::json::Object;
use quittance_core::kit::Parties;
use quittance_core::{
    Amount, Check, Effect, LaneId, Malformed, Observed, Payment, PaymentInfo, PaymentRequest, Plan,
    Reason, Refusal, Rejection, SignatureClaim, Timestamp,
};
use serde_json::json;

pub use self::offer::DelegationOffer;
pub use self::payer::{DelegationPayer, DelegationTerms, DelegationWallet, GrantedDelegation};
use super::payment::{effect_by_transfers, is_deployed, mismatch, revert_reason, view};
use super::terms::Extra;
use super::{Exact, check_parties, reason, unsupported_asset};
use crate::abi::Erc20;
use crate::account;
use crate::call::Call;
use crate::chain::{Evm, INCLUSION_MIN_SECS, Probe, Step, StepOutcome, inclusion_secs};
use crate::erc7710::{CONTEXT_MAX, PermissionContext, transfer_execution};
use crate::evidence::Evidence;
use crate::hex::{Hex, HexBytes, address};

/// The method as `extra.assetTransferMethod` names it.
const METHOD: &str = "erc7710";

/// The field of `extra` with the accounts that redeem delegations.
const REDEEMERS: &str = "facilitatorAddresses";

/// The longest time for which the facilitator tries to settle a payment, in seconds, whatever the
/// seller asks for. No client waits longer.
const PATIENCE_MAX_SECS: u64 = 3600;

/// The payload of a payment by delegation.
pub(super) struct DelegationPayload {
    pub(super) manager: Address,
    pub(super) delegator: Address,
    pub(super) context: Vec<u8>,
}

impl DelegationPayload {
    /// The payload by its fields; `None` if it has none of them.
    ///
    /// # Errors
    /// If it has only some of them.
    pub(super) fn of_fields(
        manager: Option<Hex<20>>,
        context: Option<HexBytes<CONTEXT_MAX>>,
        delegator: Option<Hex<20>>,
    ) -> Result<Option<Self>, Malformed> {
        let missing = |field: &str| {
            let field = format!("paymentPayload.payload.{field}");
            Malformed::new(field, "missing: a payment by ERC-7710 needs it")
        };
        if manager.is_none() && context.is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            manager: manager
                .ok_or_else(|| missing("delegationManager"))?
                .0
                .into(),
            delegator: delegator.ok_or_else(|| missing("delegator"))?.0.into(),
            context: context.ok_or_else(|| missing("permissionContext"))?.0,
        }))
    }

    /// The delegations of the payload.
    pub(super) fn context(&self) -> Result<PermissionContext, Rejection> {
        PermissionContext::decode(&self.context).map_err(|error| {
            let detail = format!("permissionContext is not usable: {error}");
            Rejection::new(reason::DELEGATION_CONTEXT, detail)
        })
    }
}

impl Exact {
    /// The accounts that payers can delegate to, for `/supported`; `None` if the operator accepts
    /// no delegations.
    pub(super) fn delegates(&self) -> Option<Object> {
        let is_off = self.config.delegation_managers.is_empty() || !self.limits.contract_wallets;
        let signers = self.signers.iter().map(|signer| signer.to_checksum(None));
        let extra = json!({ REDEEMERS: signers.collect::<Vec<_>>() });
        (!is_off).then(|| Object::of(&extra).ok()).flatten()
    }

    /// The payment by this delegation.
    pub(super) fn decode_delegation(
        &self,
        payload: &DelegationPayload,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<DelegatedPayment, Refusal> {
        let extra: Extra = request.extra()?;
        request.check_network(&self.network, reason::NETWORK_MISMATCH)?;
        let Parties { asset, pay_to } = request.parties(address)?;
        check_method(extra.asset_transfer_method.as_deref())?;
        if self.token(asset).is_none() {
            let tokens = self.tokens.iter().map(|known| &known.token);
            return Err(unsupported_asset(&self.network, tokens).into());
        }
        self.check_manager(payload.manager)?;
        let context = payload.context()?;
        self.check_delegator(payload.delegator, &context)?;
        let is_signer = |account| self.signers.contains(&account);
        check_parties(is_signer, payload.delegator, asset, pay_to)?;
        let redeemer = self.redeemer(&context)?;
        let amount = request.requirements.amount;
        let execution = transfer_execution(asset, pay_to, amount.units());
        let patience = request.requirements.max_timeout_secs;
        Ok(DelegatedPayment {
            info: PaymentInfo {
                id: context.payment_id(self.chain_id, payload.manager),
                payer: payload.delegator.to_checksum(None),
                pay_to: pay_to.to_checksum(None),
                asset: asset.to_checksum(None),
                amount,
                // No field says when a delegation expires, and a payment that was settled must be
                // refused ever after. So the journal must never be free to forget it.
                expires: Timestamp::NEVER,
            },
            manager: payload.manager,
            delegator: payload.delegator,
            token: asset,
            pay_to,
            amount: amount.units(),
            redeemer,
            lane: LaneId::new(&redeemer.to_checksum(None)),
            redeem: context.redeem(execution),
            gas_max: self.limits.gas_max,
            deadline: now.plus_secs(patience.min(PATIENCE_MAX_SECS)),
        })
    }

    /// Checks that the operator accepts delegations of this manager.
    fn check_manager(&self, manager: Address) -> Result<(), Rejection> {
        let managers = &self.config.delegation_managers;
        if managers.is_empty() {
            let detail = "this facilitator accepts no payments by delegation (ERC-7710)";
            return Err(Rejection::new(reason::UNSUPPORTED_PAYLOAD_TYPE, detail));
        }
        if !managers.contains(&manager) {
            let detail = format!(
                "this facilitator does not call the delegation manager {manager}; it calls {}",
                listed(managers)
            );
            return Err(Rejection::new(
                reason::DELEGATION_MANAGER_NOT_ALLOWED,
                detail,
            ));
        }
        if !self.limits.contract_wallets {
            let detail = "this facilitator accepts payments by key only, and a delegation runs the code of the payer's account";
            return Err(Rejection::new(reason::CONTRACT_WALLET_NOT_ALLOWED, detail));
        }
        Ok(())
    }

    /// Checks that the delegations are from the account that the payload names, which is not the
    /// facilitator's.
    fn check_delegator(
        &self,
        named: Address,
        context: &PermissionContext,
    ) -> Result<(), Rejection> {
        let found = context.delegator();
        let detail = if found != named {
            format!("the root delegation is from {found}, but delegator is {named}")
        } else if self.signers.contains(&named) {
            "the delegator is the facilitator itself".to_owned()
        } else {
            return Ok(());
        };
        Err(Rejection::new(reason::DELEGATOR_MISMATCH, detail))
    }

    /// The signer that redeems these delegations: the one that they name. An open delegation goes
    /// to the signer that its hash selects, so that the simulation and each attempt have the same.
    fn redeemer(&self, context: &PermissionContext) -> Result<Address, Rejection> {
        let at = usize::from(context.leaf_hash()[31]) % self.signers.len().max(1);
        let signer = match context.redeemer() {
            None => self.signers.get(at),
            Some(named) => self.signers.iter().find(|signer| **signer == named),
        };
        signer.copied().ok_or_else(|| {
            let named = context.redeemer().unwrap_or_default();
            let detail = format!(
                "the delegation is to {named}, which is no account of this facilitator: delegate to one of {REDEEMERS} in extra"
            );
            Rejection::new(reason::REDEEMER_MISMATCH, detail)
        })
    }
}

/// Checks that the requirements ask for a delegation.
fn check_method(required: Option<&str>) -> Result<(), Rejection> {
    if required == Some(METHOD) {
        return Ok(());
    }
    let detail = format!(
        "the payload is a delegation, so extra.assetTransferMethod must be {METHOD:?} and not {required:?}"
    );
    Err(Rejection::new(reason::UNSUPPORTED_PAYLOAD_TYPE, detail))
}

fn listed(managers: &BTreeSet<Address>) -> String {
    let managers = managers.iter().map(Address::to_string);
    managers.collect::<Vec<_>>().join(", ")
}

/// A payment by a delegation.
pub(super) struct DelegatedPayment {
    info: PaymentInfo,
    manager: Address,
    delegator: Address,
    token: Address,
    pay_to: Address,
    /// In atomic units.
    amount: U256,
    /// The signer that redeems the delegation, and its lane.
    redeemer: Address,
    lane: LaneId,
    /// The data of the call of the manager.
    redeem: Bytes,
    gas_max: u32,
    /// When the facilitator stops trying, by its own clock.
    deadline: Timestamp,
}

/// The steps of the probe, by index.
mod step {
    pub(super) const ASSET_CODE: usize = 0;
    pub(super) const MANAGER_CODE: usize = 1;
    pub(super) const DELEGATOR_CODE: usize = 2;
    pub(super) const BALANCE: usize = 3;
    pub(super) const REDEEM: usize = 4;
}

impl DelegatedPayment {
    /// The probe, as a transaction of the redeemer: code that the payer chose runs in it.
    fn probe(&self) -> Probe {
        let account = self.delegator;
        let balance = Erc20::balanceOfCall { account }.abi_encode();
        Probe::new_transaction(vec![
            Step::CodeSize(self.token),
            Step::CodeSize(self.manager),
            Step::CodeSize(self.delegator),
            view(self.token, balance.into()),
            Step::CallAs {
                from: self.redeemer,
                to: self.manager,
                data: self.redeem.clone(),
                gas: self.gas_max,
            },
        ])
    }

    /// Checks that the facilitator still tries, and that a transaction sent now can be included
    /// before it stops.
    fn check_patience(&self, now: Timestamp, needed_secs: u64) -> Result<(), Rejection> {
        if now.plus_secs(needed_secs) < self.deadline {
            return Ok(());
        }
        let detail = format!(
            "it would be included after maxTimeoutSeconds: the time is {now}, and that ends at {}",
            self.deadline
        );
        Err(Rejection::new(Reason::SETTLEMENT_EXPIRED, detail))
    }

    /// Checks that the accounts exist and that the delegator can pay.
    fn check_state(&self, outcomes: &[StepOutcome]) -> Result<(), Rejection> {
        if !is_deployed(outcomes.get(step::ASSET_CODE)) {
            let detail = "there is no contract at the asset's address";
            return Err(Rejection::new(reason::ASSET_NOT_DEPLOYED, detail));
        }
        if !is_deployed(outcomes.get(step::MANAGER_CODE)) {
            let detail = format!("there is no contract at {} on this network", self.manager);
            let reason = reason::DELEGATION_MANAGER_NOT_DEPLOYED;
            return Err(Rejection::new(reason, detail));
        }
        if !account::has_code(outcomes.get(step::DELEGATOR_CODE)) {
            let detail = format!(
                "the account {} has no code, so no manager can make a transfer from it",
                self.delegator
            );
            return Err(Rejection::new(reason::ACCOUNT_NOT_DELEGATED, detail));
        }
        match self
            .balance_of(outcomes)
            .filter(|balance| *balance < self.amount)
        {
            Some(balance) => {
                let needed = self.amount;
                let detail = format!(
                    "the delegator has {balance} atomic units, and the payment is of {needed}"
                );
                Err(Rejection::new(reason::INSUFFICIENT_BALANCE, detail))
            }
            None => Ok(()),
        }
    }

    fn balance_of(&self, outcomes: &[StepOutcome]) -> Option<U256> {
        let word = outcomes.get(step::BALANCE).and_then(StepOutcome::word)?;
        Some(U256::from_be_bytes(word.0))
    }

    /// Checks that the manager made the call in the simulation.
    fn check_redeemed(&self, outcomes: &[StepOutcome]) -> Result<(), Rejection> {
        let detail = match outcomes.get(step::REDEEM) {
            Some(StepOutcome::Returned { .. }) => return Ok(()),
            Some(StepOutcome::Reverted { data }) => revert_reason(data),
            _ => "the simulation of the transfer has no result".to_owned(),
        };
        Err(Rejection::new(reason::SIMULATION_FAILED, detail))
    }
}

impl Payment<Evm> for DelegatedPayment {
    fn info(&self) -> &PaymentInfo {
        &self.info
    }

    /// None: only the manager can check what the delegators signed.
    fn signatures(&self) -> &[SignatureClaim] {
        &[]
    }

    fn check(&self, observed: &Observed<'_, Evm>) -> Result<Check<Evm>, Rejection> {
        self.check_patience(observed.now, INCLUSION_MIN_SECS)?;
        let Some(result) = observed.answers.last() else {
            return Ok(Check::Ask(self.probe()));
        };
        self.check_patience(observed.now, inclusion_secs(result.block_secs))?;
        for outcomes in result.simulations() {
            self.check_state(outcomes)?;
        }
        for outcomes in result.simulations() {
            self.check_redeemed(outcomes)?;
        }
        Ok(Check::Valid)
    }

    fn depends_on_time(&self, rejection: &Rejection) -> bool {
        rejection.reason == Reason::SETTLEMENT_EXPIRED
    }

    fn sender(&self, _observed: &Observed<'_, Evm>) -> Option<LaneId> {
        Some(self.lane.clone())
    }

    fn balance(&self, observed: &Observed<'_, Evm>) -> Option<Amount> {
        let outcomes = &observed.answers.last()?.outcomes;
        self.balance_of(outcomes).map(Amount::new)
    }

    /// Alone in its transaction: the payer's code runs in it, and a batch is another redeemer.
    fn plan(&self, amount: Amount, observed: &Observed<'_, Evm>) -> Result<Plan<Call>, Rejection> {
        if amount.units() != self.amount {
            let detail = format!("the payment is of {}, not of {amount}", self.amount);
            return Err(Rejection::new(reason::VALUE_MISMATCH, detail));
        }
        let result = observed.answers.last();
        let gas = result.and_then(|result| {
            let gas = |outcomes: &[StepOutcome]| outcomes.get(step::REDEEM)?.gas();
            result.simulations().filter_map(gas).max()
        });
        let gas = gas.ok_or(reason::SIMULATION_FAILED)?;
        let key = self.info.id.as_bytes().into();
        let call = Call::new(self.manager, self.redeem.clone(), gas.into(), key);
        Ok(Plan::Submit(call))
    }

    /// A manager that returns proves nothing: the token's log does. If the token logs other
    /// transfers of these accounts, another attempt could pay twice.
    fn effect(&self, _amount: Amount, evidence: &Evidence) -> Effect {
        if !evidence.succeeded {
            let detail = "the transaction was included and reverted";
            return Effect::None(Rejection::new(reason::TRANSACTION_FAILED, detail));
        }
        let transfer = |log: &Log| Erc20::Transfer::decode_log_data(&log.data).ok();
        let transfers = evidence.logs_of(self.token).filter_map(transfer);
        let is_related = |transfer: &Erc20::Transfer| {
            transfer.from == self.delegator || transfer.to == self.pay_to
        };
        let related: Vec<_> = transfers.filter(is_related).collect();
        let expected = (self.delegator, self.pay_to, self.amount);
        let equal = related.iter();
        let equal = equal.filter(|found| (found.from, found.to, found.value) == expected);
        match equal.count() {
            0 if !related.is_empty() => Effect::Mismatch(mismatch(
                "the token logged another transfer of these accounts instead of the payment's",
            )),
            count => effect_by_transfers(count, self.amount),
        }
    }
}

#[cfg(test)]
mod tests;
