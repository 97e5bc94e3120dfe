//! A price in one token.

use super::TokenInfo;
use crate::json::Object;
use crate::wire::PaymentRequirements;
use crate::{Amount, Network, OfferError};

/// How long a payment may take by default, in seconds. The reference implementation allows five
/// minutes, for people with a wallet in a browser. The specification's examples allow a minute,
/// which is enough for programs.
pub const TIMEOUT_SECS: u64 = 60;

/// A fixed price in one token of one network, for one recipient: what an [`Offer`](crate::Offer)
/// needs besides its scheme.
///
/// Addresses have the chain's canonical spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedPrice {
    network: Network,
    asset: String,
    amount: Amount,
    pay_to: String,
    timeout_secs: u64,
}

impl FixedPrice {
    /// The price as a decimal number of the token, such as `"0.01"`. The caller has parsed `asset`
    /// and `pay_to`, and passes them in canonical spelling.
    ///
    /// # Errors
    /// [`OfferError::Price`] when the price is not a decimal number or is finer than the token's
    /// atomic unit, and [`OfferError::ZeroPrice`].
    pub fn new(
        network: Network,
        token: &impl TokenInfo,
        asset: String,
        price: &str,
        pay_to: String,
    ) -> Result<Self, OfferError> {
        let amount = Amount::from_decimal(price, token.decimals());
        let amount = amount.map_err(|source| OfferError::Price {
            price: price.to_owned(),
            symbol: token.symbol().to_owned(),
            source,
        })?;
        if amount.is_zero() {
            return Err(OfferError::ZeroPrice);
        }
        Ok(Self {
            network,
            asset,
            amount,
            pay_to,
            timeout_secs: TIMEOUT_SECS,
        })
    }

    /// The same price, with this time limit for the whole payment, in seconds.
    #[must_use]
    pub fn with_timeout_secs(self, timeout_secs: u64) -> Self {
        Self {
            timeout_secs,
            ..self
        }
    }

    /// The network on which the price is paid.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The price in the token's atomic units.
    pub fn amount(&self) -> Amount {
        self.amount
    }

    /// The requirements for this price under the scheme of this name.
    pub fn requirements(&self, scheme: &str, extra: Option<Object>) -> PaymentRequirements {
        PaymentRequirements {
            extra,
            ..PaymentRequirements::new(
                scheme,
                self.network.id(),
                &self.amount.to_string(),
                &self.asset,
                &self.pay_to,
                self.timeout_secs,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Coin;

    impl TokenInfo for Coin {
        type Address = ();
        fn address(&self) -> &() {
            &()
        }
        fn symbol(&self) -> &str {
            "COIN"
        }
        fn decimals(&self) -> u8 {
            2
        }
    }

    fn price(price: &str) -> Result<FixedPrice, OfferError> {
        let network = Network::new("test:1").unwrap();
        FixedPrice::new(network, &Coin, "coin".to_owned(), price, "shop".to_owned())
    }

    #[test]
    fn a_price_is_never_rounded_and_never_zero() {
        assert_eq!(price("1.25").unwrap().amount(), Amount::from_units(125));
        assert_eq!(price("0"), Err(OfferError::ZeroPrice));
        assert_eq!(price("0.00"), Err(OfferError::ZeroPrice));
        for wrong in ["0.001", "-1", "$1", "1e3", ""] {
            assert!(
                matches!(price(wrong), Err(OfferError::Price { .. })),
                "{wrong}"
            );
        }
    }

    #[test]
    fn requirements_name_the_price_in_full() {
        let price = price("1.25").unwrap().with_timeout_secs(9);
        let made = price.requirements("exact", None);
        assert_eq!(
            (made.scheme.as_str(), made.network.as_str()),
            ("exact", "test:1")
        );
        assert_eq!((made.amount.as_str(), made.asset.as_str()), ("125", "coin"));
        assert_eq!(
            (made.pay_to.as_str(), made.max_timeout_seconds),
            ("shop", 9)
        );
    }
}
