//! The scheme `upto`: a payment of at most the required amount, by Permit2.
//!
//! The payer signs a permit for the most that the seller may charge. The permit names the recipient
//! and the facilitator, and only that facilitator's account can settle it. The seller charges after
//! its handler: all of it, less, or nothing. A charge of nothing needs no transaction.

mod offer;
mod payer;
mod permit;
pub mod reason;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, B256};
use quittance_core::json::Object;
use quittance_core::{
    LaneId, Network, Payment, PaymentRequest, Refusal, Rejection, Scheme, StateAccess, StateId,
    Timestamp,
};
use serde::Deserialize;
use serde_json::{Value, json};

pub use self::offer::UptoOffer;
pub use self::payer::UptoPayer;
use self::permit::{Metered, Payload};
use crate::chain::signers::Signers;
use crate::chain::{ApprovalGas, Evm, Probe, ProbeResult, Step};
use crate::exact::approval::{SponsoredApproval, SponsoredPayment};
use crate::exact::deployment::AccountDeployment;
use crate::exact::payment::{ExactPayment, Limits, is_deployed};
use crate::exact::permit2::{Permit2Transfer, check_scope};
use crate::exact::sponsoring::{self, SignedApproval};
use crate::exact::{check_parties, unsupported_asset};
use crate::hex::{Hex, address};
use crate::permit2::{PERMIT2, UPTO_PERMIT2_PROXY, WitnessPermit, domain_separator};
use crate::reason::{PERMIT2_SIGNATURE, UNSUPPORTED_PAYLOAD_TYPE};
use crate::signature::PayerSignature;
use crate::token::{Token, TransferMethod};

/// The scheme's name.
const NAME: &str = "upto";

/// The contracts without which no payment settles.
const CONTRACTS: [Address; 2] = [PERMIT2, UPTO_PERMIT2_PROXY];

/// The requirements' `extra`.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Extra {
    #[serde(default)]
    asset_transfer_method: Option<String>,
    /// The account that settles the payment.
    #[serde(default)]
    facilitator_address: Option<Hex<20>>,
    /// The contract whose EIP-712 domain is meant, if the seller names one.
    #[serde(default)]
    verifying_contract: Option<Value>,
}

/// The scheme `upto` on one EVM chain.
#[derive(Debug, Clone)]
pub struct Upto {
    network: Network,
    chain_id: u64,
    tokens: Vec<Token>,
    /// The separator of Permit2's EIP-712 domain, hashed once and not for each payment.
    permit2_separator: B256,
    /// The accounts that payers can name as the facilitator.
    signers: Arc<Signers>,
    /// What the operator gives payers for their approvals.
    approval_gas: Option<ApprovalGas>,
    limits: Limits,
    /// See [`Upto::with_hold`].
    hold: Duration,
}

impl Upto {
    /// The scheme on this chain, for all of its tokens.
    pub fn new(evm: &Evm) -> Self {
        let config = evm.config();
        Self {
            network: config.network.clone(),
            chain_id: evm.chain_id(),
            tokens: config.tokens.clone(),
            permit2_separator: domain_separator(evm.chain_id()),
            signers: evm.signers(),
            approval_gas: config.approval_gas,
            limits: Limits::new(config),
            hold: Duration::ZERO,
        }
    }

    /// The same scheme, by which a verified authorization is held for its request: until it is
    /// settled, or for this long, another request with it is refused. Zero, the default, verifies
    /// it for every request.
    ///
    /// Only one of these requests is ever charged. So without a hold, sellers that deliver before
    /// they charge can deliver several times for one charge. With a hold, a buyer whose seller does
    /// not charge has to wait or to sign again.
    #[must_use]
    pub fn with_hold(self, hold: Duration) -> Self {
        Self { hold, ..self }
    }

    /// The record of an authorization, which has no content: only its hold is used.
    fn access(&self, permit: &WitnessPermit) -> Option<StateAccess> {
        if self.hold.is_zero() {
            return None;
        }
        let id = permit.payment_id(self.chain_id);
        let state = StateId::from_parts(&[b"upto", id.as_bytes()]);
        Some(StateAccess::new(state, reason::AUTHORIZATION_HELD).held_for(self.hold))
    }

    /// The lane of the account that can settle the permit, which must be one of ours: the proxy
    /// accepts no other.
    fn lane_of(&self, named: Address) -> Result<&LaneId, Rejection> {
        self.signers.lane_of(named).ok_or_else(|| {
            let detail = format!(
                "permit2Authorization.witness.facilitator is {named}, which is no account of this facilitator: sign the facilitatorAddress in extra"
            );
            Rejection::new(reason::FACILITATOR_MISMATCH, detail)
        })
    }
}

/// Checks that the requirements ask for Permit2, which is the only method of the scheme.
fn check_method(required: Option<&str>) -> Result<(), Rejection> {
    let permit2 = TransferMethod::Permit2.name();
    match required.filter(|method| *method != permit2) {
        None => Ok(()),
        Some(other) => {
            let detail =
                format!("extra.assetTransferMethod is {other:?}, but upto needs {permit2}");
            Err(Rejection::new(UNSUPPORTED_PAYLOAD_TYPE, detail))
        }
    }
}

impl Scheme<Evm> for Upto {
    fn name(&self) -> &str {
        NAME
    }

    /// The account that payers have to name: one with money for fees, each in turn.
    fn extra(&self) -> Option<Object> {
        let (_, facilitator) = self.signers.next_funded();
        let extra = json!({ "facilitatorAddress": facilitator.to_checksum(None) });
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
            "the scheme upto needs the contract {missing}, which is not on this network"
        ))
    }

    fn assets(&self) -> Vec<String> {
        let tokens = self.tokens.iter();
        tokens
            .map(|token| token.address.to_checksum(None))
            .collect()
    }

    fn extensions(&self) -> &[&str] {
        sponsoring::extensions(&self.tokens, self.approval_gas.is_some())
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<Evm>>, Refusal> {
        request.check_scheme(NAME, reason::SCHEME)?;
        let payload: Payload = request.payload.read("paymentPayload.payload")?;
        let permit = payload.permit2.ok_or_else(|| {
            let detail = "the payload has no permit2Authorization";
            Rejection::new(UNSUPPORTED_PAYLOAD_TYPE, detail)
        })?;
        let signature = PayerSignature::read(payload.signature)?;
        let extra: Extra = request.extra()?;
        request.check_network(&self.network, reason::NETWORK_MISMATCH)?;
        let asset = address("paymentRequirements.asset", &request.requirements.asset)?;
        let pay_to = address("paymentRequirements.payTo", &request.requirements.pay_to)?;
        let accepted = request.accepted.requirements.as_ref();
        if let Some(accepted) = accepted {
            // The amount is not compared: a settle request has the charge, and not the maximum.
            accepted.check(address, &asset, &pay_to, accepted.amount)?;
        }
        check_method(extra.asset_transfer_method.as_deref())?;
        let token = self.tokens.iter().find(|token| token.address == asset);
        let token = token.ok_or_else(|| unsupported_asset(&self.network, self.tokens.iter()))?;
        let is_signer = |account| self.signers.lane_of(account).is_some();
        check_parties(is_signer, permit.permit.owner, asset, pay_to)?;
        signature.check_possible(PERMIT2_SIGNATURE)?;
        check_scope(&permit.permit, UPTO_PERMIT2_PROXY, asset)?;
        let lane = self.lane_of(permit.facilitator)?.clone();
        let access = self.access(&permit.permit);
        let signed_approval = SignedApproval::read(request)?;
        let gas = self.approval_gas.filter(|_| signed_approval.is_none());
        let sponsored = SponsoredApproval::read(gas, request, self.chain_id, &permit.permit)?;
        let authorization = Metered {
            permit,
            lane,
            accepted: accepted.map(|accepted| accepted.amount),
        };
        let method = Permit2Transfer {
            chain_id: self.chain_id,
            domain_separator: self.permit2_separator,
            logs_authorization_first: token.logs_authorization_first,
            authorization,
            approval: signed_approval,
        };
        // An account cannot be deployed in the payment: another contract would be the sender.
        let deployment = AccountDeployment::new(&signature, &BTreeSet::new());
        let signed = (signature, deployment);
        let amount = request.requirements.amount;
        let payment = ExactPayment::new(method, self.limits, signed, pay_to, amount, now);
        Ok(match sponsored {
            None => Box::new(payment.with_access(access)),
            Some(approval) => {
                let scheme = (NAME, self.chain_id);
                Box::new(SponsoredPayment::new(payment, approval, scheme, self.hold))
            }
        })
    }
}
