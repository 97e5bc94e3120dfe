//! A payment by the asset transfer method `eip3009`.

use std::sync::OnceLock;
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, Log, U256};
use alloy::sol_types::SolCall;
use quittance_core::{
    Amount, Check, Effect, LaneId, Observed, Payment, PaymentInfo, Reason, Rejection,
    SignatureClaim, Timestamp,
};

use super::reason;
use crate::abi::Erc20;
use crate::account;
use crate::call::Call;
use crate::chain::{Condition, Evm, INCLUSION_MIN_SECS, Probe, Step, StepOutcome, inclusion_secs};
use crate::eip3009::{Authorization, AuthorizationUse};
use crate::evidence::Evidence;
use crate::signature::{EcdsaSignature, PayerSignature};
use crate::token::Token;

/// The longest remaining lifetime of an authorization, in seconds. A payment takes minutes. An
/// authorization that is valid for years would have to be remembered for years.
pub(super) const LIFETIME_MAX_SECS: u64 = 7 * 24 * 3600;

/// How much later than both clocks `validAfter` may be, in seconds. Clocks of wallets are wrong by
/// as much, so the engine waits for such a payment.
const NOT_YET_MAX_SECS: u64 = 15;

/// The gas limit of a view of the token. Circle's proxy needs less than 10,000.
const VIEW_GAS: u32 = 100_000;

/// What the operator allows a payment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The most gas that a payment may use.
    pub(super) gas_max: u32,
    /// Whether accounts with code may pay.
    pub(super) contract_wallets: bool,
}

/// A payment by an EIP-3009 authorization.
pub(super) struct Eip3009Payment {
    /// Made on first use: the checksums of its three addresses cost as many hashes as the digest,
    /// and the verdict alone does not need them.
    info: OnceLock<PaymentInfo>,
    chain_id: u64,
    token: Address,
    /// See [`Token::logs_authorization_first`].
    logs_authorization_first: bool,
    limits: Limits,
    authorization: Authorization,
    signature: PayerSignature,
    digest: B256,
    claims: Vec<SignatureClaim>,
    /// The first failed check of the authorization. It is reported only if the signature is valid:
    /// an unsigned payload says nothing about the payer.
    objection: Option<Rejection>,
}

/// The steps of a probe, by index.
mod step {
    pub(super) const ASSET_CODE: usize = 0;
    pub(super) const PAYER_CODE: usize = 1;
    pub(super) const AUTHORIZATION_STATE: usize = 2;
    pub(super) const BALANCE: usize = 3;
    pub(super) const TRANSFER: usize = 4;
    pub(super) const WALLET: usize = 5;
}

impl Eip3009Payment {
    pub(super) fn new(
        chain_id: u64,
        token: &Token,
        domain_separator: &B256,
        limits: Limits,
        authorization: Authorization,
        signature: PayerSignature,
        objection: Option<Rejection>,
    ) -> Self {
        let digest = authorization.digest(domain_separator);
        let claim = |ecdsa: EcdsaSignature| ecdsa.claim(digest, authorization.from);
        Self {
            info: OnceLock::new(),
            chain_id,
            token: token.address,
            logs_authorization_first: token.logs_authorization_first,
            limits,
            digest,
            claims: signature.ecdsa().map(claim).into_iter().collect(),
            authorization,
            signature,
            objection,
        }
    }

    /// The probe for a payer whose key signed.
    fn probe_key(&self) -> Probe {
        let payer = self.authorization.from;
        let signature = self.signature.ecdsa().unwrap_or(EcdsaSignature([0; 65]));
        let transfer = self.authorization.transfer_with_key(&signature);
        Probe::new(self.steps(transfer, Condition::NoCode(payer)))
    }

    /// The probe for a payer that may be a contract.
    fn probe_contract(&self) -> Probe {
        let payer = self.authorization.from;
        let transfer = self.authorization.transfer_with_contract(&self.signature);
        let mut steps = self.steps(transfer, Condition::HasCode(payer));
        let gas = self.limits.gas_max;
        steps.push(account::ask_signature(
            payer,
            self.digest,
            &self.signature,
            gas,
        ));
        Probe::new_transaction(steps)
    }

    fn steps(&self, transfer: Bytes, when: Condition) -> Vec<Step> {
        let payer = self.authorization.from;
        let call = |data: Bytes, gas, when| Step::Call {
            to: self.token,
            data,
            gas,
            when,
        };
        let view = |data| call(data, VIEW_GAS, Condition::Always);
        let balance = Erc20::balanceOfCall { account: payer }.abi_encode();
        vec![
            Step::CodeSize(self.token),
            Step::CodeSize(payer),
            view(self.authorization.state_call()),
            view(balance.into()),
            call(transfer, self.limits.gas_max, when),
        ]
    }

    /// Checks that the operator allows accounts with code; `reason` is that of the rejection.
    fn check_wallets_allowed(&self, reason: Reason) -> Result<(), Rejection> {
        if self.limits.contract_wallets {
            return Ok(());
        }
        let detail = "this facilitator accepts payments by key only, not from contract wallets or delegated accounts";
        Err(Rejection::new(reason, detail))
    }

    /// Checks that a payer that did not sign by key is a contract that accepts the signature.
    fn check_wallet(&self, outcomes: &[StepOutcome]) -> Result<(), Rejection> {
        if account::has_code(outcomes.get(step::PAYER_CODE)) {
            if account::accepts_signature(outcomes.get(step::WALLET)) {
                return Ok(());
            }
            let detail = "the payer's contract does not accept the signature";
            return Err(Rejection::new(reason::SIGNATURE, detail));
        }
        Err(match self.signature.factory {
            Some(_) => Rejection::new(
                reason::FACTORY_NOT_ALLOWED,
                "the payer's account is not deployed, and this facilitator does not deploy accounts (ERC-6492)",
            ),
            None => Rejection::new(reason::SIGNATURE, self.expected_signature()),
        })
    }

    fn expected_signature(&self) -> String {
        format!(
            "not signed by the payer {}: expected is its signature over TransferWithAuthorization in the EIP-712 domain with \
             the required name and version, chain id {} and contract {}",
            self.authorization.from, self.chain_id, self.token,
        )
    }

    /// Checks that the token exists and that the payer can pay with this authorization.
    fn check_state(&self, outcomes: &[StepOutcome]) -> Result<(), Rejection> {
        let token_code = outcomes.get(step::ASSET_CODE);
        if token_code
            .and_then(StepOutcome::code_size)
            .is_none_or(|size| size == 0)
        {
            let detail = "there is no contract at the asset's address";
            return Err(Rejection::new(reason::ASSET_NOT_DEPLOYED, detail));
        }
        let state = outcomes.get(step::AUTHORIZATION_STATE);
        let used = state.and_then(StepOutcome::word).ok_or_else(|| {
            let detail = "the token has no authorizationState, so it does not support EIP-3009";
            Rejection::new(reason::EIP3009_NOT_SUPPORTED, detail)
        })?;
        if !used.is_zero() {
            let detail = "the authorization's nonce was used or cancelled";
            return Err(Rejection::new(reason::NONCE_ALREADY_USED, detail));
        }
        let balance = outcomes.get(step::BALANCE).and_then(StepOutcome::word);
        let balance = balance.map(|balance| U256::from_be_bytes(balance.0));
        let value = self.authorization.value;
        if let Some(balance) = balance.filter(|balance| *balance < value) {
            let detail =
                format!("the payer has {balance} atomic units, and the payment is of {value}");
            return Err(Rejection::new(reason::INSUFFICIENT_BALANCE, detail));
        }
        Ok(())
    }

    /// The effect, by the logs of a token that logs the use of an authorization right before its
    /// transfer. The nonce shows which transfer belongs to this payment, even if others are equal.
    fn effect_by_nonce(&self, logs: &[&Log]) -> Effect {
        let mut uses = (0..logs.len()).filter(|at| self.authorization.is_used_by(logs[*at]));
        let is_transfer = |log: &&Log| self.authorization.is_transfer(log);
        match (uses.next(), uses.next()) {
            (None, _) => Effect::None(mismatch("the token did not use the authorization")),
            (Some(at), None) if logs.get(at + 1).is_some_and(is_transfer) => {
                Effect::Transferred(Amount::new(self.authorization.value))
            }
            (Some(_), None) => Effect::Mismatch(mismatch(
                "the token used the authorization and logged no such transfer right after it",
            )),
            (Some(_), Some(_)) => {
                Effect::Mismatch(mismatch("the token used the authorization more than once"))
            }
        }
    }

    /// The effect, by the logs of any other token: there must be exactly one transfer like that of
    /// this payment.
    fn effect_by_transfer(&self, logs: &[&Log]) -> Effect {
        let used = logs.iter().any(|log| self.authorization.is_used_by(log));
        let transfers = logs
            .iter()
            .filter(|log| self.authorization.is_transfer(log));
        match transfers.count() {
            1 => Effect::Transferred(Amount::new(self.authorization.value)),
            0 if used => Effect::Mismatch(mismatch(
                "the token used the authorization and logged no such transfer",
            )),
            0 => Effect::None(mismatch("the token logged no such transfer")),
            _ => Effect::Mismatch(mismatch("the token logged the transfer more than once")),
        }
    }
}

impl Payment<Evm> for Eip3009Payment {
    fn info(&self) -> &PaymentInfo {
        let info = || self.authorization.payment_info(self.chain_id, self.token);
        self.info.get_or_init(info)
    }

    fn signatures(&self) -> &[SignatureClaim] {
        &self.claims
    }

    fn check(&self, observed: &Observed<'_, Evm>) -> Result<Check<Evm>, Rejection> {
        let signed_by_key = observed.signatures == [true];
        let has_code = |outcomes: &[StepOutcome]| account::has_code(outcomes.get(step::PAYER_CODE));
        let result = match (observed.answers, signed_by_key) {
            ([], true) => {
                // The payer's key signed the authorization, so the objection needs no answer of the
                // chain.
                self.objection.clone().map_or(Ok(()), Err)?;
                return Ok(Check::Ask(self.probe_key()));
            }
            ([], false) => {
                self.check_wallets_allowed(reason::SIGNATURE)?;
                return Ok(Check::Ask(self.probe_contract()));
            }
            // If the payer has code, its isValidSignature decides, even if the key's signature is
            // valid. The token does the same.
            ([first], true) if has_code(&first.outcomes) => {
                self.check_wallets_allowed(reason::CONTRACT_WALLET_NOT_ALLOWED)?;
                return Ok(Check::Ask(self.probe_contract()));
            }
            ([.., last], _) => last,
        };
        for outcomes in result.simulations() {
            if !signed_by_key || has_code(outcomes) {
                self.check_wallet(outcomes)?;
            }
        }
        self.objection.clone().map_or(Ok(()), Err)?;
        let (now, chain_time) = (observed.now, result.chain_time);
        let remaining_min = inclusion_secs(result.block_secs);
        check_window(&self.authorization, now, chain_time, remaining_min)?;
        for outcomes in result.simulations() {
            self.check_state(outcomes)?;
        }
        if let Some(time) = opens_in(&self.authorization, now, chain_time) {
            return Ok(Check::NotYet(time));
        }
        for outcomes in result.simulations() {
            check_transfer(outcomes)?;
        }
        Ok(Check::Valid)
    }

    fn sender(&self, observed: &Observed<'_, Evm>) -> Option<LaneId> {
        // A contract wallet was simulated as a transaction of this lane, and could detect another
        // sender.
        observed.answers.last()?.sender.clone()
    }

    fn balance(&self, observed: &Observed<'_, Evm>) -> Option<Amount> {
        let outcomes = &observed.answers.last()?.outcomes;
        let balance = outcomes.get(step::BALANCE)?.word()?;
        Some(Amount::new(U256::from_be_bytes(balance.0)))
    }

    fn depends_on_time(&self, rejection: &Rejection) -> bool {
        [reason::VALID_AFTER, reason::VALID_BEFORE].contains(&rejection.reason)
    }

    fn action(&self, amount: Amount, observed: &Observed<'_, Evm>) -> Result<Call, Rejection> {
        if amount.units() != self.authorization.value {
            let detail = "exact settles exactly the authorized amount";
            return Err(Rejection::new(reason::VALUE_MISMATCH, detail));
        }
        let result = observed.answers.last().ok_or(reason::SIMULATION_FAILED)?;
        let transfer_gas =
            |outcomes: &[StepOutcome]| outcomes.get(step::TRANSFER).and_then(StepOutcome::gas);
        let gas = result.simulations().filter_map(transfer_gas).max();
        let gas = gas.ok_or(reason::SIMULATION_FAILED)?;
        let has_code = account::has_code(result.outcomes.get(step::PAYER_CODE));
        let by_key = self.signature.ecdsa().filter(|_| !has_code);
        Ok(Call {
            to: self.token,
            data: match &by_key {
                Some(signature) => self.authorization.transfer_with_key(signature),
                None => self.authorization.transfer_with_contract(&self.signature),
            },
            gas: gas.into(),
            // The code of a contract wallet runs in the transfer and could use the gas of other
            // payments.
            batchable: by_key.is_some(),
            effect_key: match self.logs_authorization_first {
                true => self.authorization.use_key(self.token),
                false => self.authorization.transfer_key(self.token),
            },
        })
    }

    fn used_by(&self, rejection: &Rejection) -> Option<AuthorizationUse> {
        (rejection.reason == reason::NONCE_ALREADY_USED).then_some(AuthorizationUse {
            token: self.token,
            authorizer: self.authorization.from,
            nonce: self.authorization.nonce,
        })
    }

    fn effect(&self, _: Amount, evidence: &Evidence) -> Effect {
        if !evidence.succeeded {
            let detail = "the transaction was included and reverted";
            return Effect::None(Rejection::new(reason::TRANSACTION_FAILED, detail));
        }
        let logs: Vec<&Log> = evidence.logs_of(self.token).collect();
        match self.logs_authorization_first {
            true => self.effect_by_nonce(&logs),
            false => self.effect_by_transfer(&logs),
        }
    }
}

/// The first failed check of the authorization, in the specification's order.
pub(super) fn objection(
    authorization: &Authorization,
    pay_to: Address,
    amount: Amount,
    now: Timestamp,
) -> Option<Rejection> {
    if authorization.to != pay_to {
        let detail = format!(
            "the authorization pays {}, required is {pay_to}",
            authorization.to
        );
        return Some(Rejection::new(reason::RECIPIENT_MISMATCH, detail));
    }
    if let Err(rejection) = check_window(authorization, now, now, INCLUSION_MIN_SECS) {
        return Some(rejection);
    }
    if authorization.value != amount.units() {
        let detail = format!(
            "the authorization is for {}, required is {amount}",
            authorization.value
        );
        return Some(Rejection::new(reason::VALUE_MISMATCH, detail));
    }
    None
}

/// Checks that the authorization is valid now or soon, and for `remaining_min` seconds more, by the
/// stricter of our clock and the chain's.
fn check_window(
    authorization: &Authorization,
    now: Timestamp,
    chain: Timestamp,
    remaining_min: u64,
) -> Result<(), Rejection> {
    let Authorization {
        valid_after,
        valid_before,
        ..
    } = authorization;
    let later = now.max(chain);
    let seconds = |moment: Timestamp| U256::from(moment.secs());
    if *valid_before < seconds(later.plus_secs(remaining_min)) {
        let detail = format!(
            "valid before {valid_before}, and it is {later}; at least {remaining_min} seconds must be left"
        );
        return Err(Rejection::new(reason::VALID_BEFORE, detail));
    }
    if *valid_before > seconds(later.plus_secs(LIFETIME_MAX_SECS)) {
        let detail = format!("valid for longer than {LIFETIME_MAX_SECS} seconds");
        return Err(Rejection::new(reason::VALID_BEFORE, detail));
    }
    // The engine waits for an authorization that becomes valid sooner.
    if *valid_after > seconds(later.plus_secs(NOT_YET_MAX_SECS)) {
        let detail = format!("valid after {valid_after}, and it is {later}");
        return Err(Rejection::new(reason::VALID_AFTER, detail));
    }
    Ok(())
}

/// The time until the authorization becomes valid, zero for the next block; `None` if it is valid.
/// The token requires a block later than `validAfter`, and many wallets sign their present time.
fn opens_in(authorization: &Authorization, now: Timestamp, chain: Timestamp) -> Option<Duration> {
    let valid_after = u64::try_from(authorization.valid_after).unwrap_or(u64::MAX);
    let opens = Timestamp::from_secs(valid_after).plus_secs(1);
    (opens > chain).then(|| Duration::from_secs(opens.secs_since(now)))
}

/// Checks that the token made the transfer in the simulation.
fn check_transfer(outcomes: &[StepOutcome]) -> Result<(), Rejection> {
    let detail = match outcomes.get(step::TRANSFER) {
        Some(StepOutcome::Returned { .. }) => return Ok(()),
        Some(StepOutcome::Reverted { data }) => revert_reason(data),
        _ => "the simulation of the transfer has no result".to_owned(),
    };
    Err(Rejection::new(reason::SIMULATION_FAILED, detail))
}

/// Why a call reverted: the text of `Error(string)`, if there is one.
fn revert_reason(data: &[u8]) -> String {
    alloy::sol_types::decode_revert_reason(data)
        .map(|reason| {
            reason
                .chars()
                .filter(|letter| !letter.is_control())
                .collect()
        })
        .unwrap_or_else(|| "the transfer would revert".to_owned())
}

fn mismatch(detail: &str) -> Rejection {
    Rejection::new(reason::TRANSFER_EVENT_MISMATCH, detail)
}
