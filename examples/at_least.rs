//! A whole scheme in one file: `at-least`, by which a payer may pay more than the seller requires.
//!
//! The engine batches, journals, retries, recovers, and limits payments; the chain has fees and
//! nonces. This file has what is particular to the scheme, built from the toolbox of
//! `quittance-evm`. One line registers it:
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use quittance_engine::{Engine, Journal};
//! # use quittance_evm::{Evm, Exact};
//! # use quittance_examples::AtLeast;
//! # fn register(journal: impl Journal, evm: Evm) {
//! let schemes = vec![Arc::new(Exact::new(&evm)) as _, Arc::new(AtLeast::new(&evm)) as _];
//! let engine = Engine::builder(journal).chain(evm, schemes);
//! # }
//! ```
//!
//! The conformance suite in `tests/` runs it like any other scheme.

use quittance_core::kit::Parties;
use quittance_core::{
    Amount, Chain, Check, Effect, Network, Observed, Payment, PaymentInfo, PaymentRequest, Plan,
    Reason, Refusal, Rejection, Scheme, SignatureClaim, Timestamp,
};
use quittance_evm::alloy::primitives::{Address, U256};
use quittance_evm::eip3009::Authorization;
use quittance_evm::signature::EcdsaSignature;
use quittance_evm::{Call, Evidence, Evm, Log, Probe, Step, StepOutcome, Token, account, hex};
use serde::Deserialize;

/// Reasons are constants beside the checks that raise them.
const TOO_LITTLE: Reason = Reason::new("invalid_at_least_evm_too_little");
const SIGNATURE: Reason = Reason::new("invalid_at_least_evm_signature");
const RECIPIENT: Reason = Reason::new("invalid_at_least_evm_recipient");
const WINDOW: Reason = Reason::new("invalid_at_least_evm_window");
const WOULD_FAIL: Reason = Reason::new("invalid_at_least_evm_would_fail");
const NOT_MOVED: Reason = Reason::new("invalid_at_least_evm_not_moved");

/// How long a payment must still be valid, in seconds, to be signed into a transaction and
/// included.
const REMAINING_MIN_SECS: u64 = 6;

/// The most gas that a transfer may use. USDC needs less than 100,000.
const GAS_MAX: u32 = 300_000;

/// The scheme, with what it needs to know about the chain.
pub struct AtLeast {
    network: Network,
    chain_id: u64,
    tokens: Vec<Token>,
}

impl AtLeast {
    /// The scheme on this chain.
    pub fn new(evm: &Evm) -> Self {
        Self {
            network: evm.network().clone(),
            chain_id: evm.chain_id(),
            tokens: evm.config().tokens.clone(),
        }
    }

    /// The token and the recipient that the requirements name, and that the payer accepted.
    fn parties(&self, request: &PaymentRequest) -> Result<(&Token, Address), Refusal> {
        request.check_scheme(self.name(), Reason::INVALID_PAYMENT_REQUIREMENTS)?;
        request.check_network(&self.network, Reason::INVALID_PAYMENT_REQUIREMENTS)?;
        let Parties { asset, pay_to } = request.parties(hex::address)?;
        let token = self.tokens.iter().find(|token| token.address == asset);
        let unsupported = || Rejection::new(Reason::UNSUPPORTED_ASSET, "not a token of this chain");
        Ok((token.ok_or_else(unsupported)?, pay_to))
    }
}

/// The payload: the same as that of `exact`.
#[derive(Deserialize)]
struct Payload {
    signature: EcdsaSignature,
    authorization: Authorization,
}

/// A decoded payment.
struct AtLeastPayment {
    info: PaymentInfo,
    token: Address,
    authorization: Authorization,
    signature: EcdsaSignature,
    claim: [SignatureClaim; 1],
}

impl Scheme<Evm> for AtLeast {
    fn name(&self) -> &str {
        "at-least"
    }

    fn assets(&self) -> Vec<String> {
        let addresses = self.tokens.iter().map(|token| token.address);
        addresses.map(|address| address.to_checksum(None)).collect()
    }

    /// Checks everything that needs neither the chain nor a signature check.
    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<Evm>>, Refusal> {
        let (token, pay_to) = self.parties(request)?;
        let payload: Payload = request.payload.read("paymentPayload.payload")?;
        let (authorization, signature) = (payload.authorization, payload.signature);
        check_authorization(&authorization, pay_to, request.requirements.amount, now)?;
        let domain = token.domain_separator(self.chain_id);
        Ok(Box::new(AtLeastPayment {
            info: authorization.payment_info(self.chain_id, token.address),
            token: token.address,
            claim: [authorization.claim(&domain, &signature)],
            signature,
            authorization,
        }))
    }
}

/// Checks that the authorization pays the recipient at least the amount, and is valid now.
fn check_authorization(
    authorization: &Authorization,
    pay_to: Address,
    amount: Amount,
    now: Timestamp,
) -> Result<(), Rejection> {
    if authorization.to != pay_to {
        let detail = "the authorization does not pay payTo";
        return Err(Rejection::new(RECIPIENT, detail));
    }
    if authorization.value < amount.units() {
        let detail = format_args!("the authorization is for less than {amount}");
        return Err(Rejection::new(TOO_LITTLE, detail));
    }
    let soon = U256::from(now.plus_secs(REMAINING_MIN_SECS).secs());
    if authorization.valid_after > U256::from(now.secs()) || authorization.valid_before < soon {
        let detail = "the authorization is not valid yet, or not for long enough";
        return Err(Rejection::new(WINDOW, detail));
    }
    Ok(())
}

impl Payment<Evm> for AtLeastPayment {
    fn info(&self) -> &PaymentInfo {
        &self.info
    }

    /// The engine checks the signatures of many payments together.
    fn signatures(&self) -> &[SignatureClaim] {
        &self.claim
    }

    /// Asks the chain once: is the payer an account without code, and would the transfer succeed?
    fn check(&self, observed: &Observed<'_, Evm>) -> Result<Check<Evm>, Rejection> {
        if observed.signatures != [true] {
            return Err(Rejection::new(SIGNATURE, "not signed by the payer"));
        }
        let Some(result) = observed.answers.first() else {
            let transfer = self.authorization.transfer_with_key(&self.signature);
            return Ok(Check::Ask(Probe::new(vec![
                Step::CodeSize(self.authorization.from),
                Step::call(self.token, transfer, GAS_MAX),
            ])));
        };
        let [payer, StepOutcome::Returned { .. }] = result.outcomes.as_slice() else {
            return Err(Rejection::new(WOULD_FAIL, "the transfer would fail"));
        };
        match account::has_code(Some(payer)) {
            true => Err(Rejection::new(WOULD_FAIL, "the payer is a contract")),
            false => Ok(Check::Valid),
        }
    }

    /// The transfer, with the gas that the simulation used.
    fn plan(&self, _: Amount, observed: &Observed<'_, Evm>) -> Result<Plan<Call>, Rejection> {
        let result = observed.answers.first();
        let gas = result.and_then(|result| result.outcomes.get(1)?.gas());
        let gas = gas.ok_or(WOULD_FAIL)?.into();
        let transfer = self.authorization.transfer_with_key(&self.signature);
        let key = self.authorization.transfer_key(self.token);
        let call = Call::new(self.token, transfer, gas, key);
        Ok(Plan::Submit(call.with_batchable(true)))
    }

    /// The authorized amount must have moved exactly once. It is at least the required one.
    fn effect(&self, amount: Amount, evidence: &Evidence) -> Effect {
        let mut logs = evidence.logs_of(self.token);
        let is_transfer = |log: &&Log| self.authorization.is_transfer(log);
        match (logs.find(is_transfer), logs.find(is_transfer)) {
            (Some(_), None) => Effect::Transferred(amount),
            _ => Effect::None(Rejection::new(NOT_MOVED, "not logged exactly once")),
        }
    }
}
