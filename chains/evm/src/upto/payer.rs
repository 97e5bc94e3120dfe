//! The buyer's side: signs a permit for the most that the seller may charge.

use std::fmt;

use alloy::primitives::{Address, U256};
use alloy::signers::Signer;
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::wire::PaymentRequirements;
use quittance_core::{
    AuthorizationState, Network, Payer, PayerError, Quote, QuoteError, SignedPayment, Timestamp,
};
use url::Url;

use super::permit::{Payload, UptoPermit};
use super::{Extra, NAME};
use crate::exact::ExactPayer;
use crate::exact::payer::{Transfer, Use, check_contract, expiry};
use crate::permit2::{PERMIT2, UPTO_PERMIT2_PROXY, domain_separator};
use crate::token::{Token, TransferMethod};

/// Pays `upto` requirements on any EVM chain with one key.
///
/// What it quotes and signs is the most that the seller may charge. The account must have approved
/// the Permit2 contract at the token; otherwise the seller refuses the payment with
/// `permit2_allowance_required`. As [`ExactPayer`], it can sign the missing approval itself.
///
/// It knows the tokens that ship with the library, and those added by
/// [`with_token`](Self::with_token). With a node of the network ([`with_rpc`](Self::with_rpc)) a
/// buyer can find the outcome of a payment whose response was lost.
#[derive(Clone)]
pub struct UptoPayer(ExactPayer);

impl UptoPayer {
    /// A payer with this key, which may be in memory or behind a key service.
    pub fn new(signer: impl Signer + Send + Sync + 'static) -> Self {
        Self(ExactPayer::new(signer))
    }

    /// The same payer, with another token of the network with this CAIP-2 identifier.
    #[must_use]
    pub fn with_token(self, network: &str, token: Token) -> Self {
        Self(self.0.with_token(network, token))
    }

    /// The same payer, with nodes of a network that are asked for the outcome of payments there;
    /// see [`ExactPayer::with_rpc`].
    ///
    /// # Errors
    /// As [`ExactPayer::with_rpc`].
    pub fn with_rpc(self, network: &Network, urls: &[Url]) -> Result<Self, PayerError> {
        self.0.with_rpc(network, urls).map(Self)
    }

    /// What is signed for these requirements, and the facilitator that may settle it.
    fn transfer(
        &self,
        requirements: &PaymentRequirements,
    ) -> Result<(Transfer<'_>, Address), QuoteError> {
        let facilitator = |_: &Token| check_extra(requirements);
        self.0.transfer_by(NAME, requirements, facilitator)
    }
}

/// The facilitator that the requirements name, if they ask for a permit of Permit2.
fn check_extra(requirements: &PaymentRequirements) -> Result<Address, QuoteError> {
    let missing = || QuoteError::unpayable("extra.facilitatorAddress is missing");
    let unreadable = |error: quittance_core::Malformed| QuoteError::unpayable(error.to_string());
    let fields = requirements.extra.as_ref().ok_or_else(missing)?;
    let extra: Extra = fields.read("extra").map_err(unreadable)?;
    let method = extra.asset_transfer_method.as_deref();
    if let Some(other) = method.filter(|method| *method != TransferMethod::Permit2.name()) {
        let what = format!("the transfer method {other} is not supported by upto");
        return Err(QuoteError::unpayable(what));
    }
    check_contract(extra.verifying_contract, PERMIT2)?;
    let facilitator = extra.facilitator_address.ok_or_else(missing)?;
    Ok(facilitator.0.into())
}

impl fmt::Debug for UptoPayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UptoPayer({})", self.0.address())
    }
}

#[async_trait]
impl Payer for UptoPayer {
    fn address(&self) -> &str {
        self.0.address()
    }

    fn quote(&self, requirements: &PaymentRequirements) -> Result<Quote, QuoteError> {
        let (transfer, _) = self.transfer(requirements)?;
        Ok(transfer.quote())
    }

    async fn pay(
        &self,
        requirements: &PaymentRequirements,
        offered: Option<&Object>,
        now: Timestamp,
    ) -> Result<SignedPayment, PayerError> {
        let (transfer, facilitator) = self.transfer(requirements)?;
        let expires = expiry(requirements, now);
        let permit = UptoPermit {
            permit: self.0.new_permit(&transfer, UPTO_PERMIT2_PROXY, expires),
            to: transfer.pay_to,
            facilitator,
            // Valid at once, even if the chain's clock is behind.
            valid_after: U256::ZERO,
        };
        let digest = permit.digest(&domain_separator(transfer.chain_id));
        let payload = permit.payload(&self.0.sign(digest).await?);
        let payload = Object::of(&payload).map_err(PayerError::Payload)?;
        let approval = self.0.sign_approval(&transfer, &permit.permit, offered);
        let extensions = approval.await?;
        Ok(SignedPayment {
            extensions,
            ..SignedPayment::new(payload, expires)
        })
    }

    async fn authorization_state(
        &self,
        network: &str,
        _asset: &str,
        payload: &Object,
        _expires: Timestamp,
    ) -> AuthorizationState {
        let Some(signed) = Payload::permit(payload) else {
            return AuthorizationState::Unknown;
        };
        let used = Use::of_permit(&signed.permit, signed.transfer());
        self.0.state_of(network, used).await
    }
}
