//! The buyer's side: asks the buyer's wallet for a delegation to a facilitator.

use std::fmt;
use std::sync::Arc;

use alloy::primitives::{Address, Bytes};
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::kit::KnownTokens;
use quittance_core::wire::PaymentRequirements;
use quittance_core::{
    Amount, Network, Payer, PayerError, Quote, QuoteError, SignedPayment, Timestamp,
};
use serde_json::json;

use super::{METHOD, REDEEMERS};
use crate::exact::payer::{Transfer, VALIDITY_MAX_SECS, transfer_of};
use crate::exact::terms::{Extra, NAME};
use crate::known;
use crate::token::Token;

/// What a delegation for a payment must allow, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DelegationTerms {
    /// The network of the payment.
    pub network: Network,
    /// The token.
    pub asset: Address,
    /// The recipient.
    pub pay_to: Address,
    /// The amount in atomic units. The delegation must allow it once.
    pub amount: Amount,
    /// The accounts of the facilitator. The delegation must name one of them as its delegate, or
    /// allow all of them and no others.
    pub redeemers: Vec<Address>,
    /// When the delegation should expire, by the buyer's clock.
    pub expires: Timestamp,
}

/// A delegation that a wallet has granted.
#[derive(Clone, PartialEq, Eq)]
pub struct GrantedDelegation {
    /// The contract that redeems it.
    pub manager: Address,
    /// The permission context, in the manager's format.
    pub context: Bytes,
}

impl fmt::Debug for GrantedDelegation {
    /// Omits the permission context, which can move money.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantedDelegation")
            .field("manager", &self.manager)
            .finish_non_exhaustive()
    }
}

/// A wallet that delegates payments from an account with code (ERC-7710).
///
/// ERC-7710 and x402 leave open how a delegation is made: by a smart account's own library, or by
/// permissions of ERC-7715 from which the buyer redelegates.
///
/// **The payer** calls [`delegate`](Self::delegate) once for each payment.
///
/// **An implementation must** give each payment a delegation of its own, with another salt, that
/// allows the terms and nothing else. A seller that has the delegation can present it again with
/// other terms, and its caveats are all that stops that at another facilitator.
#[async_trait]
pub trait DelegationWallet: Send + Sync + 'static {
    /// The account whose money moves.
    fn delegator(&self) -> Address;

    /// Grants a delegation with these terms.
    ///
    /// # Errors
    /// [`PayerError::signing`] if the wallet refuses.
    async fn delegate(&self, terms: &DelegationTerms) -> Result<GrantedDelegation, PayerError>;
}

/// Pays `exact` requirements on any EVM chain by delegations of a wallet (ERC-7710).
///
/// It pays only requirements that ask for the asset transfer method `erc7710` and name the accounts
/// that redeem delegations. It knows the tokens that ship with the library, and those added by
/// [`with_token`](Self::with_token).
///
/// The chain does not show whether a delegation was used. So a payment without an answer never
/// counts as expired: a buyer does not pay for the purchase again until its caller allows it.
#[derive(Clone)]
pub struct DelegationPayer {
    wallet: Arc<dyn DelegationWallet>,
    address: String,
    tokens: KnownTokens<Token>,
}

impl DelegationPayer {
    /// A payer with this wallet.
    pub fn new(wallet: impl DelegationWallet) -> Self {
        let address = wallet.delegator().to_checksum(None);
        Self {
            wallet: Arc::new(wallet),
            address,
            tokens: KnownTokens::new(known::tokens),
        }
    }

    /// The same payer, with another token of the network with this CAIP-2 identifier.
    #[must_use]
    pub fn with_token(mut self, network: &str, token: Token) -> Self {
        self.tokens.add(network, token);
        self
    }

    /// What these requirements ask for, and the accounts that redeem the delegation.
    fn transfer(
        &self,
        requirements: &PaymentRequirements,
    ) -> Result<(Transfer<'_>, Vec<Address>), QuoteError> {
        transfer_of(&self.tokens, NAME, requirements, |_| {
            redeemers(requirements)
        })
    }
}

/// The accounts that redeem the delegation, if the requirements ask for one.
fn redeemers(requirements: &PaymentRequirements) -> Result<Vec<Address>, QuoteError> {
    let extra = match &requirements.extra {
        Some(extra) => extra.read("extra"),
        None => Ok(Extra::default()),
    };
    let extra = extra.map_err(|error| QuoteError::unpayable(error.to_string()))?;
    if extra.asset_transfer_method.as_deref() != Some(METHOD) {
        let what = format!("this payer pays only by the asset transfer method {METHOD}");
        return Err(QuoteError::unpayable(what));
    }
    let redeemers = extra.redeemers();
    if redeemers.is_empty() {
        let what =
            format!("extra.{REDEEMERS} is missing: a delegation to every account is not safe");
        return Err(QuoteError::unpayable(what));
    }
    Ok(redeemers)
}

impl fmt::Debug for DelegationPayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DelegationPayer({})", self.address)
    }
}

#[async_trait]
impl Payer for DelegationPayer {
    fn address(&self) -> &str {
        &self.address
    }

    fn quote(&self, requirements: &PaymentRequirements) -> Result<Quote, QuoteError> {
        let (transfer, _) = self.transfer(requirements)?;
        Ok(transfer.quote())
    }

    async fn pay(
        &self,
        requirements: &PaymentRequirements,
        _offered: Option<&Object>,
        now: Timestamp,
    ) -> Result<SignedPayment, PayerError> {
        let (transfer, redeemers) = self.transfer(requirements)?;
        let valid = requirements.max_timeout_seconds.min(VALIDITY_MAX_SECS);
        let terms = DelegationTerms {
            network: transfer.network.clone(),
            asset: transfer.token.address,
            pay_to: transfer.pay_to,
            amount: transfer.amount,
            redeemers,
            expires: now.plus_secs(valid),
        };
        let granted = self.wallet.delegate(&terms).await?;
        let payload = json!({
            "delegationManager": granted.manager.to_checksum(None),
            "permissionContext": granted.context,
            "delegator": self.address,
        });
        let payload = Object::of(&payload).map_err(PayerError::Payload)?;
        Ok(SignedPayment::lasting(payload))
    }
}
