//! The seller's side: a price as payment requirements.

use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, SupportedKind};
use quittance_core::{Amount, Network, Offer, OfferError, PaymentId};
use serde_json::json;

use super::sponsoring;
use super::terms::{NAME, Payload};
use crate::known;
use crate::price::TokenPrice;
use crate::token::{Token, TransferMethod};

/// A price in a token on an EVM chain, paid by the scheme `exact`.
///
/// ```
/// use quittance_core::Offer;
/// use quittance_evm::ExactOffer;
///
/// let seller = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
/// let offer = ExactOffer::usdc("eip155:8453", "0.01", seller)?;
/// assert_eq!(offer.amount().to_string(), "10000");
/// # Ok::<(), quittance_core::OfferError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExactOffer(TokenPrice);

impl ExactOffer {
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

impl Offer for ExactOffer {
    fn scheme(&self) -> &str {
        NAME
    }

    fn network(&self) -> &Network {
        self.0.price.network()
    }

    fn requirements(&self, _: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        let Token { name, version, .. } = &self.0.token;
        let extra = match self.0.token.method {
            TransferMethod::Eip3009 => json!({ "name": name, "version": version }),
            method @ TransferMethod::Permit2 => {
                json!({ "name": name, "version": version, "assetTransferMethod": method.name() })
            }
        };
        let extra = Object::of(&extra).map_err(OfferError::Extra)?;
        Ok(self.0.price.requirements(NAME, Some(extra)))
    }

    fn authorization(&self, payload: &Object) -> Option<PaymentId> {
        let payload: Payload = payload.read("payload").ok()?;
        let chain_id = known::chain_id(self.0.price.network())?;
        let (signed, _) = payload.into_signed().ok()?;
        Some(signed.payment_id(chain_id, self.0.token.address))
    }

    fn extensions(&self, supported: &[String]) -> Option<Object> {
        match self.0.token.method {
            TransferMethod::Eip3009 => None,
            TransferMethod::Permit2 => sponsoring::offered(&self.0.token, supported),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SELLER: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

    #[test]
    fn price_is_never_rounded_and_never_zero() {
        assert_eq!(
            ExactOffer::usdc("base", "1.25", SELLER).unwrap().amount(),
            Amount::from(1_250_000)
        );
        for price in ["0", "0.0000001", "0.0000000", "-1", "$1", "1e-3", ""] {
            assert!(
                matches!(
                    ExactOffer::usdc("base", price, SELLER),
                    Err(OfferError::Price { .. } | OfferError::ZeroPrice)
                ),
                "{price}"
            );
        }
    }

    #[test]
    fn offer_that_cannot_be_paid_is_refused() {
        assert!(matches!(
            ExactOffer::usdc("base", "1", "merchant"),
            Err(OfferError::PayTo(_))
        ));
        assert!(matches!(
            ExactOffer::usdc("solana:mainnet", "1", SELLER),
            Err(OfferError::Network { .. })
        ));
        assert!(matches!(
            ExactOffer::usdc("eip155:31337", "1", SELLER),
            Err(OfferError::UnknownAsset { .. })
        ));
    }
}
