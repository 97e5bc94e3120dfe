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
    Malformed, Network, Payment, PaymentRequest, Refusal, Rejection, Scheme, StateAccess, StateId,
    Timestamp,
};
use serde::Deserialize;
use serde_json::json;

pub use self::offer::UptoOffer;
pub use self::payer::UptoPayer;
use self::permit::{Metered, Payload};
use crate::chain::Evm;
use crate::chain::signers::Signers;
use crate::exact::deployment::AccountDeployment;
use crate::exact::payment::{ExactPayment, Limits};
use crate::exact::permit2::{Permit2Transfer, check_scope};
use crate::exact::{check_parties, unsupported_asset};
use crate::hex::{Hex, address};
use crate::permit2::{WitnessPermit, domain_separator};
use crate::reason::{PERMIT2_SIGNATURE, UNSUPPORTED_PAYLOAD_TYPE};
use crate::signature::PayerSignature;
use crate::token::{Token, TransferMethod};

/// The scheme's name.
const NAME: &str = "upto";

/// The requirements' `extra`.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Extra {
    #[serde(default)]
    asset_transfer_method: Option<String>,
    /// The account that settles the payment.
    #[serde(default)]
    facilitator_address: Option<Hex<20>>,
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
    signers: Vec<Address>,
    rotation: Arc<Signers>,
    limits: Limits,
    /// See [`Upto::with_hold`].
    hold: Duration,
}

impl Upto {
    /// The scheme on this chain, for all of its tokens.
    pub fn new(evm: &Evm) -> Self {
        let config = evm.config();
        let signers = config.signers.iter().map(|signer| signer.address());
        Self {
            network: config.network.clone(),
            chain_id: evm.chain_id(),
            tokens: config.tokens.clone(),
            permit2_separator: domain_separator(evm.chain_id()),
            signers: signers.collect(),
            rotation: evm.signers(),
            limits: Limits {
                gas_max: config.gas_per_payment_max,
                contract_wallets: config.contract_wallets,
            },
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
        let id = permit.payment_id(self.chain_id);
        let state = StateId::from_parts(&[b"upto", id.as_bytes()]);
        let access = StateAccess::new(state, reason::AUTHORIZATION_HELD).held_for(self.hold);
        (!self.hold.is_zero()).then_some(access)
    }

    /// Checks that one of our accounts can settle the permit: the proxy accepts no other.
    fn check_facilitator(&self, named: Address) -> Result<(), Rejection> {
        if self.signers.contains(&named) {
            return Ok(());
        }
        let detail = format!(
            "permit2Authorization.witness.facilitator is {named}, which is no account of this facilitator: sign the facilitatorAddress in extra"
        );
        Err(Rejection::new(reason::FACILITATOR_MISMATCH, detail))
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
        let (_, facilitator) = self.rotation.next_funded();
        let extra = json!({ "facilitatorAddress": facilitator.to_checksum(None) });
        Object::of(&extra).ok()
    }

    fn assets(&self) -> Vec<String> {
        let tokens = self.tokens.iter();
        tokens
            .map(|token| token.address.to_checksum(None))
            .collect()
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
        let field = "paymentPayload.payload.signature";
        let signature = payload.signature;
        let signature = signature.ok_or_else(|| Malformed::new(field, "missing"))?;
        let signature = PayerSignature::decode(field, signature.0)?;
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
        check_parties(&self.signers, permit.permit.owner, asset, pay_to)?;
        if signature.is_never_valid() {
            let detail =
                "the signature is neither 65 bytes of ECDSA nor bytes that a contract could accept";
            return Err(Rejection::new(PERMIT2_SIGNATURE, detail).into());
        }
        let facilitator = permit.facilitator;
        let access = self.access(&permit.permit);
        let authorization = Metered {
            permit,
            accepted: accepted.map(|accepted| accepted.amount),
        };
        check_scope(&authorization, asset)?;
        self.check_facilitator(facilitator)?;
        let method = Permit2Transfer {
            chain_id: self.chain_id,
            domain_separator: self.permit2_separator,
            logs_authorization_first: token.logs_authorization_first,
            authorization,
        };
        // An account cannot be deployed in the payment: another contract would be the sender.
        let deployment = AccountDeployment::new(&signature, &BTreeSet::new());
        let signed = (signature, deployment);
        let amount = request.requirements.amount;
        let payment = ExactPayment::new(method, self.limits, signed, pay_to, amount, now);
        Ok(Box::new(payment.with_access(access)))
    }
}
