//! Payers whose account does not exist yet (ERC-6492).
//!
//! One transaction of Multicall3 deploys the account and makes the transfer, so nothing is deployed
//! without a payment. The factory may fail, because the account may have been deployed meanwhile.
//! The transfer may not. It shows that the new account accepts the signature.

use std::collections::BTreeSet;

use alloy::primitives::{Address, B256};
use alloy::sol_types::SolCall;
use quittance_core::{Reason, Rejection};

use super::payment::ContractCall;
use super::reason;
use crate::abi::Erc1271;
use crate::account;
use crate::chain::{Condition, Step, StepOutcome};
use crate::multicall::{InnerCall, MULTICALL3, aggregate};
use crate::signature::{Deployment, PayerSignature};

/// Whether the payment can deploy the payer's account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AccountDeployment {
    /// The signature names no factory.
    None,
    /// The operator does not allow this factory. It is never called.
    NotAllowed(Address),
    /// By this call.
    Allowed(Deployment),
}

/// The steps about an account that the payment deploys, by index.
mod step {
    pub(crate) const SIGNATURE: usize = 0;
    pub(crate) const TRANSFER: usize = 1;
}

impl AccountDeployment {
    /// The deployment that the signature asks for.
    pub(crate) fn new(signature: &PayerSignature, allowed: &BTreeSet<Address>) -> Self {
        match &signature.deployment {
            None => Self::None,
            Some(deployment) if allowed.contains(&deployment.factory) => {
                Self::Allowed(deployment.clone())
            }
            Some(deployment) => Self::NotAllowed(deployment.factory),
        }
    }

    /// The steps that deploy the account in a simulation, each by itself: one asks it for the
    /// signature, and one makes the transfer. None if the account cannot be deployed.
    pub(crate) fn steps(
        &self,
        payer: Address,
        (digest, signature): (B256, &PayerSignature),
        transfer: ContractCall,
        gas: u32,
    ) -> Vec<Step> {
        let Self::Allowed(deployment) = self else {
            return Vec::new();
        };
        let ask = Erc1271::isValidSignatureCall {
            hash: digest,
            signature: signature.bytes.clone(),
        };
        let ask = Step::CallAfter {
            first_to: MULTICALL3,
            first_data: aggregate([deploy(deployment)]),
            to: payer,
            data: ask.abi_encode().into(),
            gas,
        };
        let (to, data) = with_deployment(deployment, transfer);
        let when = Condition::NoCode(payer);
        let transfer = Step::Call {
            to,
            data,
            gas,
            when,
        };
        vec![ask, transfer]
    }

    /// Checks that the deployed account accepts the signature, by the outcomes of
    /// [`steps`](Self::steps). `signature` is the reason code of one that it does not accept, and
    /// `expected` says what the payer has to sign.
    pub(crate) fn check(
        &self,
        outcomes: &[StepOutcome],
        signature: Reason,
        expected: impl FnOnce() -> String,
    ) -> Result<(), Rejection> {
        let factory = match self {
            Self::None => return Err(Rejection::new(signature, expected())),
            Self::NotAllowed(factory) => {
                let detail = format!(
                    "the payer's account is not deployed, and this facilitator does not allow the factory {factory} (ERC-6492)"
                );
                return Err(Rejection::new(reason::FACTORY_NOT_ALLOWED, detail));
            }
            Self::Allowed(deployment) => deployment.factory,
        };
        match outcomes.get(step::SIGNATURE) {
            accepted if account::accepts_signature(accepted) => Ok(()),
            // A call of an account without code succeeds and returns nothing.
            Some(StepOutcome::Returned { data, .. }) if data.is_empty() => {
                let detail = format!(
                    "the factory {factory} does not deploy the payer's account with the data in the signature"
                );
                Err(Rejection::new(reason::DEPLOYMENT_FAILED, detail))
            }
            _ => {
                let detail =
                    "the payer's contract does not accept the signature once it is deployed";
                Err(Rejection::new(signature, detail))
            }
        }
    }

    /// The outcome of the transfer in the transaction that also deploys the account, by the
    /// outcomes of [`steps`](Self::steps).
    pub(crate) fn transfer_outcome<'a>(
        &self,
        outcomes: &'a [StepOutcome],
    ) -> Option<&'a StepOutcome> {
        outcomes.get(step::TRANSFER)
    }

    /// The call that deploys the account and makes the transfer; `None` if it cannot be deployed.
    pub(crate) fn call(&self, transfer: ContractCall) -> Option<ContractCall> {
        match self {
            Self::Allowed(deployment) => Some(with_deployment(deployment, transfer)),
            Self::None | Self::NotAllowed(_) => None,
        }
    }
}

fn deploy(deployment: &Deployment) -> InnerCall {
    InnerCall {
        to: deployment.factory,
        data: deployment.data.clone(),
        may_fail: true,
    }
}

fn with_deployment(deployment: &Deployment, (to, data): ContractCall) -> ContractCall {
    let may_fail = false;
    let transfer = InnerCall { to, data, may_fail };
    (MULTICALL3, aggregate([deploy(deployment), transfer]))
}
