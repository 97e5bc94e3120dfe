//! A price in a token on an EVM chain, as the offers of every scheme have it.

use quittance_core::kit::FixedPrice;
use quittance_core::{Amount, Network, OfferError};

use crate::hex::address;
use crate::known;
use crate::token::Token;

/// A price in a token, paid to one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenPrice {
    pub(crate) price: FixedPrice,
    pub(crate) token: Token,
}

impl TokenPrice {
    /// A price such as `"0.01"`, paid to the address `pay_to`.
    ///
    /// # Errors
    /// If the price is zero or has more decimal places than the token, the network is not an EVM
    /// chain, or `pay_to` is not an address.
    pub(crate) fn new(
        network: Network,
        token: Token,
        price: &str,
        pay_to: &str,
    ) -> Result<Self, OfferError> {
        if known::chain_id(&network).is_none() {
            return Err(not_evm(network.id()));
        }
        let pay_to = address("payTo", pay_to).map_err(OfferError::PayTo)?;
        let asset = token.address.to_checksum(None);
        let price = FixedPrice::new(network, &token, asset, price, pay_to.to_checksum(None))?;
        Ok(Self { price, token })
    }

    /// A price in the USDC of a network, given by its CAIP-2 identifier or x402 version 1 name.
    ///
    /// # Errors
    /// As [`new`](Self::new), and if the library does not ship with the network's USDC.
    pub(crate) fn usdc(network: &str, price: &str, pay_to: &str) -> Result<Self, OfferError> {
        let known = known::network(network).ok_or_else(|| not_evm(network))?;
        let unknown = || OfferError::UnknownAsset {
            asset: "USDC".to_owned(),
            network: network.to_owned(),
        };
        let token = known::token(known.id(), "USDC").ok_or_else(unknown)?;
        Self::new(known, token.clone(), price, pay_to)
    }

    /// The same price, with this time for a payment, in seconds.
    pub(crate) fn with_timeout_secs(self, timeout_secs: u64) -> Self {
        Self {
            price: self.price.with_timeout_secs(timeout_secs),
            ..self
        }
    }

    /// The price in the token's atomic units.
    pub(crate) fn amount(&self) -> Amount {
        self.price.amount()
    }
}

fn not_evm(network: &str) -> OfferError {
    OfferError::Network {
        network: network.to_owned(),
        family: "EVM",
    }
}
