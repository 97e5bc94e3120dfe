//! The seller's side: a price that is paid by a delegation.

use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, SupportedKind};
use quittance_core::{Amount, Malformed, Network, Offer, OfferError, PaymentId};
use serde_json::json;

use super::{METHOD, REDEEMERS};
use crate::exact::terms::{Extra, NAME, Payload};
use crate::known;
use crate::price::TokenPrice;
use crate::token::Token;

/// A price in a token on an EVM chain, paid by the scheme `exact` from an account that has
/// delegated (ERC-7710). Offer it beside an [`ExactOffer`](crate::ExactOffer), for buyers with such
/// accounts.
///
/// The facilitator must accept delegations: its `/supported` response names the accounts that
/// redeem them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelegationOffer(TokenPrice);

impl DelegationOffer {
    /// An offer of `price` in a token, such as `"0.01"`, paid to the address `pay_to`.
    ///
    /// # Errors
    /// If the price is zero or has more decimal places than the token, the network is not an EVM
    /// chain, or `pay_to` is not an address.
    pub fn new(
        network: Network,
        token: Token,
        price: &str,
        pay_to: &str,
    ) -> Result<Self, OfferError> {
        TokenPrice::new(network, token, price, pay_to).map(Self)
    }

    /// An offer in the USDC of a network, given by its CAIP-2 identifier or x402 version 1 name.
    ///
    /// # Errors
    /// As [`new`](Self::new), and if the library does not ship with the network's USDC.
    pub fn usdc(network: &str, price: &str, pay_to: &str) -> Result<Self, OfferError> {
        TokenPrice::usdc(network, price, pay_to).map(Self)
    }

    /// The same offer, with this time for a payment, in seconds.
    #[must_use]
    pub fn with_timeout_secs(self, timeout_secs: u64) -> Self {
        Self(self.0.with_timeout_secs(timeout_secs))
    }

    /// The price in the token's atomic units.
    pub fn amount(&self) -> Amount {
        self.0.amount()
    }
}

impl Offer for DelegationOffer {
    fn scheme(&self) -> &str {
        NAME
    }

    fn network(&self) -> &Network {
        self.0.price.network()
    }

    fn requirements(&self, supported: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        let missing = || {
            let what = "missing: the facilitator does not accept delegations (ERC-7710)";
            OfferError::Supported(Malformed::new(format!("extra.{REDEEMERS}"), what))
        };
        let extra = supported.extra.as_ref().ok_or_else(missing)?;
        let extra: Extra = extra.read("extra").map_err(OfferError::Supported)?;
        let redeemers = extra.redeemers();
        if redeemers.is_empty() {
            return Err(missing());
        }
        let redeemers = redeemers.iter().map(|redeemer| redeemer.to_checksum(None));
        let extra = json!({
            "assetTransferMethod": METHOD,
            "name": self.0.token.name,
            "version": self.0.token.version,
            REDEEMERS: redeemers.collect::<Vec<_>>(),
        });
        let extra = Object::of(&extra).map_err(OfferError::Extra)?;
        Ok(self.0.price.requirements(NAME, Some(extra)))
    }

    fn authorization(&self, payload: &Object) -> Option<PaymentId> {
        let chain_id = known::chain_id(self.0.price.network())?;
        let mut payload: Payload = payload.read("payload").ok()?;
        let delegation = payload.take_delegation().ok()??;
        let context = delegation.context().ok()?;
        Some(context.payment_id(chain_id, delegation.manager))
    }
}
