//! The seller's side: a price as payment requirements.

use alloy::primitives::Address;
use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, Rest, SupportedKind};
use quittance_core::{Amount, Network, Offer, OfferError, PaymentId};
use serde_json::json;

use super::terms::{NAME, Payload};
use crate::hex::address;
use crate::known;
use crate::token::{Token, TransferMethod};

/// A price in a token on an EVM chain, paid by the scheme `exact`.
///
/// ```
/// use quittance_core::Offer;
/// use quittance_evm::ExactOffer;
///
/// let offer = ExactOffer::usdc("eip155:8453", "0.01", "0x70997970C51812dc3A010C7d01b50e0d17dc79C8")?;
/// assert_eq!(offer.amount().to_string(), "10000");
/// # Ok::<(), quittance_core::OfferError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExactOffer {
    network: Network,
    token: Token,
    amount: Amount,
    pay_to: Address,
    timeout_secs: u64,
}

/// The default time for a payment, in seconds. The specification's examples have a minute, which is
/// enough for programs. The reference implementation allows five minutes, for people with a wallet
/// in a browser.
const TIMEOUT_SECS: u64 = 60;

impl ExactOffer {
    /// An offer of `price` in a token, such as `"0.01"`, paid to the address `pay_to`.
    ///
    /// # Errors
    /// If the price is zero or has more decimal places than the token, the token does not support
    /// EIP-3009, the network is not an EVM chain, or `pay_to` is not an address.
    pub fn new(
        network: Network,
        token: Token,
        price: &str,
        pay_to: &str,
    ) -> Result<Self, OfferError> {
        if known::chain_id(&network).is_none() {
            return Err(OfferError::Asset(format!("{network} is not an EVM chain")));
        }
        if token.method != TransferMethod::Eip3009 {
            return Err(OfferError::Asset(format!(
                "{} does not support EIP-3009",
                token.symbol
            )));
        }
        let amount = Amount::from_decimal(price, token.decimals).map_err(|error| {
            OfferError::Price(format!("{price:?} of {}: {error}", token.symbol))
        })?;
        if amount.is_zero() {
            return Err(OfferError::Price(
                "the price must be greater than zero".to_owned(),
            ));
        }
        let pay_to = address("payTo", pay_to).map_err(|error| OfferError::PayTo(error.problem))?;
        Ok(Self {
            network,
            token,
            amount,
            pay_to,
            timeout_secs: TIMEOUT_SECS,
        })
    }

    /// An offer in the USDC of a network, given by its CAIP-2 identifier or x402 version 1 name.
    ///
    /// # Errors
    /// As [`new`](Self::new), and if the library does not ship with the network's USDC.
    pub fn usdc(network: &str, price: &str, pay_to: &str) -> Result<Self, OfferError> {
        let known = known::network(network)
            .ok_or_else(|| OfferError::Asset(format!("{network} is not an EVM chain")))?;
        let token = known::token(known.id(), "USDC")
            .ok_or_else(|| OfferError::Asset(format!("no USDC is known on {network}")))?;
        Self::new(known, token.clone(), price, pay_to)
    }

    /// The same offer, with this time for a payment, in seconds.
    #[must_use]
    pub fn with_timeout_secs(self, timeout_secs: u64) -> Self {
        Self {
            timeout_secs,
            ..self
        }
    }

    /// The price in the token's atomic units.
    pub fn amount(&self) -> Amount {
        self.amount
    }
}

impl Offer for ExactOffer {
    fn scheme(&self) -> &str {
        NAME
    }

    fn network(&self) -> &Network {
        &self.network
    }

    fn requirements(&self, _: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        let extra = Object::of(&json!({ "name": self.token.name, "version": self.token.version }))
            .map_err(|error| OfferError::Asset(error.to_string()))?;
        Ok(PaymentRequirements {
            scheme: NAME.to_owned(),
            network: self.network.id().to_owned(),
            amount: self.amount.to_string(),
            asset: self.token.address.to_checksum(None),
            pay_to: self.pay_to.to_checksum(None),
            max_timeout_seconds: self.timeout_secs,
            extra: Some(extra),
            rest: Rest::default(),
        })
    }

    fn authorization(&self, payload: &Object) -> Option<PaymentId> {
        let payload: Payload = payload.read("payload").ok()?;
        let chain_id = known::chain_id(&self.network)?;
        let id = payload
            .authorization?
            .payment_id(chain_id, self.token.address);
        Some(id)
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
                    Err(OfferError::Price(_))
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
            Err(OfferError::Asset(_))
        ));
        assert!(matches!(
            ExactOffer::usdc("eip155:31337", "1", SELLER),
            Err(OfferError::Asset(_))
        ));
        let permit2 = known::token("eip155:4326", "MegaUSD").unwrap().clone();
        let network = known::network("eip155:4326").unwrap();
        assert!(matches!(
            ExactOffer::new(network, permit2, "1", SELLER),
            Err(OfferError::Asset(_))
        ));
    }
}
