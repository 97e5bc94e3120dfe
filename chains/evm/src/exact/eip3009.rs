//! The asset transfer method `eip3009`: the token itself makes a transfer that the payer signed.

use alloy::primitives::{Address, B256, Log, U256};
use quittance_core::{Amount, Effect, PaymentInfo, Rejection};

use super::payment::{ContractCall, Method, Reasons, effect_by_transfers, mismatch, view};
use super::reason;
use super::window::Window;
use crate::chain::{AuthorizationSearch, Step, StepOutcome};
use crate::eip3009::{Authorization, AuthorizationUse};
use crate::signature::{EcdsaSignature, PayerSignature};
use crate::token::Token;

static REASONS: Reasons = Reasons {
    signature: reason::SIGNATURE,
    recipient_mismatch: reason::RECIPIENT_MISMATCH,
    value_mismatch: reason::VALUE_MISMATCH,
    insufficient_balance: reason::INSUFFICIENT_BALANCE,
    simulation_failed: reason::SIMULATION_FAILED,
    transaction_failed: reason::TRANSACTION_FAILED,
    wallet_not_allowed: reason::CONTRACT_WALLET_NOT_ALLOWED,
};

/// An EIP-3009 authorization for one token.
pub(super) struct Eip3009 {
    chain_id: u64,
    token: Address,
    domain_separator: B256,
    /// See [`Token::logs_authorization_first`].
    logs_authorization_first: bool,
    authorization: Authorization,
}

impl Eip3009 {
    pub(super) fn new(
        chain_id: u64,
        token: &Token,
        domain_separator: B256,
        authorization: Authorization,
    ) -> Self {
        Self {
            chain_id,
            token: token.address,
            domain_separator,
            logs_authorization_first: token.logs_authorization_first,
            authorization,
        }
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
        let is_transfer = |log: &&&Log| self.authorization.is_transfer(log);
        match logs.iter().filter(is_transfer).count() {
            0 if used => Effect::Mismatch(mismatch(
                "the token used the authorization and logged no such transfer",
            )),
            transfers => effect_by_transfers(transfers, self.authorization.value),
        }
    }
}

impl Method for Eip3009 {
    const STATE_STEPS: usize = 1;

    fn reasons(&self) -> &'static Reasons {
        &REASONS
    }

    fn info(&self) -> PaymentInfo {
        self.authorization.payment_info(self.chain_id, self.token)
    }

    fn token(&self) -> Address {
        self.token
    }

    fn payer(&self) -> Address {
        self.authorization.from
    }

    fn pay_to(&self) -> Address {
        self.authorization.to
    }

    fn value(&self) -> U256 {
        self.authorization.value
    }

    fn digest(&self) -> B256 {
        self.authorization.digest(&self.domain_separator)
    }

    fn signed_message(&self) -> String {
        format!(
            "TransferWithAuthorization in the EIP-712 domain with the required name and version, chain id {} and contract {}",
            self.chain_id, self.token,
        )
    }

    fn window(&self) -> Window {
        Window {
            valid_after: self.authorization.valid_after,
            valid_before: self.authorization.valid_before,
            not_yet: reason::VALID_AFTER,
            expired: reason::VALID_BEFORE,
        }
    }

    fn state_steps(&self) -> Vec<Step> {
        vec![view(self.token, self.authorization.state_call())]
    }

    fn transfer_with_key(&self, _: U256, signature: &EcdsaSignature) -> ContractCall {
        (self.token, self.authorization.transfer_with_key(signature))
    }

    fn transfer_with_contract(&self, _: U256, signature: &PayerSignature) -> ContractCall {
        let data = self.authorization.transfer_with_contract(signature);
        (self.token, data)
    }

    fn check_usable(&self, outcomes: &[StepOutcome]) -> Result<(), Rejection> {
        let used = outcomes
            .first()
            .and_then(StepOutcome::word)
            .ok_or_else(|| {
                let detail = "the token has no authorizationState, so it does not support EIP-3009";
                Rejection::new(reason::EIP3009_NOT_SUPPORTED, detail)
            })?;
        if !used.is_zero() {
            let detail = "the authorization's nonce was used or cancelled";
            return Err(Rejection::new(reason::NONCE_ALREADY_USED, detail));
        }
        Ok(())
    }

    fn effect_key(&self) -> B256 {
        match self.logs_authorization_first {
            true => self.authorization.use_key(self.token),
            false => self.authorization.transfer_key(self.token),
        }
    }

    fn effect(&self, _: Amount, logs: &[&Log]) -> Effect {
        match self.logs_authorization_first {
            true => self.effect_by_nonce(logs),
            false => self.effect_by_transfer(logs),
        }
    }

    fn used_by(&self, rejection: &Rejection) -> Option<AuthorizationSearch> {
        let Authorization { from, nonce, .. } = self.authorization;
        let used = AuthorizationUse::new(self.token, from, nonce);
        let is_used = rejection.reason == reason::NONCE_ALREADY_USED;
        is_used.then_some(AuthorizationSearch::Eip3009(used))
    }
}
