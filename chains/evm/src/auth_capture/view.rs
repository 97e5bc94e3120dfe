//! The steps of probes about holds, and what their outcomes say.

use alloy::primitives::{Address, B256, Bytes};
use quittance_core::{Observed, Reason, Rejection, SignatureClaim};

use super::deployment::{ChainState, decode_state, revert};
use super::reason;
use crate::account::{accepts_signature, ask_signature};
use crate::chain::{Evm, Step, StepOutcome};
use crate::signature::PayerSignature;

/// The consent of a receiver's authorizer, which may be a key or a contract. Without a signature
/// there is nothing to check: the act needs none, or the facilitator is the authorizer.
pub(super) struct Consent {
    authorizer: Address,
    digest: B256,
    signature: Option<PayerSignature>,
    /// Which of the payment's claims it is. `None` if no key can have signed.
    key: Option<usize>,
}

impl Consent {
    /// The consent by this signature. Adds its claim to those of the payment.
    pub(super) fn new(
        signature: Option<&Bytes>,
        authorizer: Address,
        digest: B256,
        claims: &mut Vec<SignatureClaim>,
    ) -> Self {
        let signature = signature.map(|bytes| PayerSignature {
            bytes: bytes.clone(),
            deployment: None,
        });
        let key = signature.as_ref().and_then(PayerSignature::ecdsa);
        let key = key.map(|key| {
            claims.push(key.claim(digest, authorizer));
            claims.len() - 1
        });
        Self {
            authorizer,
            digest,
            signature,
            key,
        }
    }

    /// The step that asks the authorizer's contract, if it is one.
    pub(super) fn question(&self, gas: u32) -> Step {
        match &self.signature {
            Some(signature) => ask_signature(self.authorizer, self.digest, signature, gas),
            None => Step::CodeSize(self.authorizer),
        }
    }

    /// Checks that the authorizer has signed, by its key or by the outcome of the
    /// [`question`](Self::question).
    pub(super) fn check(
        &self,
        signatures: &[bool],
        outcome: Option<&StepOutcome>,
        reason: Reason,
    ) -> Result<(), Rejection> {
        let by_key = self.key.is_some_and(|at| signatures.get(at) == Some(&true));
        if self.signature.is_none() || by_key || accepts_signature(outcome) {
            return Ok(());
        }
        let authorizer = self.authorizer;
        let detail = format!("the receiver's authorizer {authorizer} has not signed this");
        Err(Rejection::new(reason, detail))
    }
}

/// The state of a hold, by the outcome of its step.
///
/// # Errors
/// If the network has no contract of holds.
pub(super) fn chain_state(outcome: Option<&StepOutcome>) -> Result<ChainState, Rejection> {
    let data = match outcome {
        Some(StepOutcome::Returned { data, .. }) => Some(data.as_ref()),
        _ => None,
    };
    data.and_then(decode_state).ok_or_else(|| {
        let detail = "there is no contract of holds on this network";
        Rejection::new(reason::VERIFICATION_FAILED, detail)
    })
}

/// Checks that a simulated call did not revert.
pub(super) fn simulated(outcome: Option<&StepOutcome>) -> Result<(), Rejection> {
    match outcome {
        Some(StepOutcome::Returned { .. }) => Ok(()),
        Some(StepOutcome::Reverted { data }) => Err(revert(data)),
        _ => {
            let detail = "the simulation has no result";
            Err(Rejection::new(reason::SIMULATION_FAILED, detail))
        }
    }
}

/// The outcome of this step of the last probe.
pub(super) fn asked<'a>(observed: &Observed<'a, Evm>, at: usize) -> Option<&'a StepOutcome> {
    observed.answers.last()?.outcomes.get(at)
}
