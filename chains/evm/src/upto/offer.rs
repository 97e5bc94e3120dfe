//! The seller's side: the most that a request may cost, as payment requirements.

use quittance_core::json::Object;
use quittance_core::kit;
use quittance_core::wire::{PaymentRequirements, SupportedKind};
use quittance_core::{Amount, Malformed, Network, Offer, OfferError, PaymentId};
use serde_json::json;

use super::permit::Payload;
use super::{Extra, NAME};
use crate::exact::sponsoring;
use crate::known;
use crate::price::TokenPrice;
use crate::token::{Token, TransferMethod};

/// The most that a request may cost, in a token on an EVM chain, paid by the scheme `upto`. The
/// handler says what it charges; without a word of it, the whole price.
///
/// ```
/// use quittance_core::{Amount, Offer};
/// use quittance_evm::UptoOffer;
///
/// let seller = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
/// let offer = UptoOffer::usdc("eip155:8453", "0.01", seller)?;
/// let charged = offer.charge("12.34%", offer.amount()).expect("less than the price");
/// assert_eq!(charged?, Amount::from(1_234u64));
/// # Ok::<(), quittance_core::OfferError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UptoOffer(TokenPrice);

impl UptoOffer {
    /// An offer of at most `price` in a token, such as `"0.01"`, paid to the address `pay_to`.
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

    /// The same offer, with this time for a payment, in seconds. The handler runs in it, and the
    /// charge must be included before it ends.
    #[must_use]
    pub fn with_timeout_secs(self, timeout_secs: u64) -> Self {
        Self(self.0.with_timeout_secs(timeout_secs))
    }

    /// The most that a request may cost, in the token's atomic units.
    pub fn amount(&self) -> Amount {
        self.0.amount()
    }
}

impl Offer for UptoOffer {
    fn scheme(&self) -> &str {
        NAME
    }

    fn network(&self) -> &Network {
        self.0.price.network()
    }

    fn requirements(&self, supported: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        let field = "facilitatorAddress";
        let missing = || {
            let what = "missing: the facilitator must name the account that settles";
            OfferError::Supported(Malformed::new(format!("extra.{field}"), what))
        };
        let extra = supported.extra.as_ref().ok_or_else(missing)?;
        let extra: Extra = extra.read("extra").map_err(OfferError::Supported)?;
        let facilitator = extra.facilitator_address.ok_or_else(missing)?;
        let facilitator = alloy::primitives::Address::from(facilitator.0);
        let extra = json!({
            "name": self.0.token.name,
            "version": self.0.token.version,
            "assetTransferMethod": TransferMethod::Permit2.name(),
            field: facilitator.to_checksum(None),
        });
        let extra = Object::of(&extra).map_err(OfferError::Extra)?;
        Ok(self.0.price.requirements(NAME, Some(extra)))
    }

    fn authorization(&self, payload: &Object) -> Option<PaymentId> {
        let chain_id = known::chain_id(self.0.price.network())?;
        let permit = Payload::permit(payload)?;
        Some(permit.permit.payment_id(chain_id))
    }

    fn extensions(&self, supported: &[String]) -> Option<Object> {
        sponsoring::offered(&self.0.token, supported)
    }

    fn charge(&self, words: &str, price: Amount) -> Option<Result<Amount, OfferError>> {
        Some(kit::charged(words, price, self.0.token.decimals))
    }
}
