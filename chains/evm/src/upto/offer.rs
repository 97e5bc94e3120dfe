//! The seller's side: the most that a request may cost, as payment requirements.

use quittance_core::json::Object;
use quittance_core::kit::{self, FixedPrice};
use quittance_core::wire::{PaymentRequirements, SupportedKind};
use quittance_core::{Amount, Malformed, Network, Offer, OfferError, PaymentId};
use serde_json::json;

use super::permit::Payload;
use super::{Extra, NAME};
use crate::hex::address;
use crate::known;
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
pub struct UptoOffer {
    price: FixedPrice,
    token: Token,
}

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
        if known::chain_id(&network).is_none() {
            return Err(OfferError::Network {
                network: network.id().to_owned(),
                family: "EVM",
            });
        }
        let pay_to = address("payTo", pay_to).map_err(OfferError::PayTo)?;
        let asset = token.address.to_checksum(None);
        let price = FixedPrice::new(network, &token, asset, price, pay_to.to_checksum(None))?;
        Ok(Self { price, token })
    }

    /// An offer in the USDC of a network, given by its CAIP-2 identifier or x402 version 1 name.
    ///
    /// # Errors
    /// As [`new`](Self::new), and if the library does not ship with the network's USDC.
    pub fn usdc(network: &str, price: &str, pay_to: &str) -> Result<Self, OfferError> {
        let unknown = || OfferError::UnknownAsset {
            asset: "USDC".to_owned(),
            network: network.to_owned(),
        };
        let known = known::network(network).ok_or_else(|| OfferError::Network {
            network: network.to_owned(),
            family: "EVM",
        })?;
        let token = known::token(known.id(), "USDC").ok_or_else(unknown)?;
        Self::new(known, token.clone(), price, pay_to)
    }

    /// The same offer, with this time for a payment, in seconds. The handler runs in it, and the
    /// charge must be included before it ends.
    #[must_use]
    pub fn with_timeout_secs(self, timeout_secs: u64) -> Self {
        Self {
            price: self.price.with_timeout_secs(timeout_secs),
            ..self
        }
    }

    /// The most that a request may cost, in the token's atomic units.
    pub fn amount(&self) -> Amount {
        self.price.amount()
    }
}

impl Offer for UptoOffer {
    fn scheme(&self) -> &str {
        NAME
    }

    fn network(&self) -> &Network {
        self.price.network()
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
            "name": self.token.name,
            "version": self.token.version,
            "assetTransferMethod": TransferMethod::Permit2.name(),
            field: facilitator.to_checksum(None),
        });
        let extra = Object::of(&extra).map_err(OfferError::Extra)?;
        Ok(self.price.requirements(NAME, Some(extra)))
    }

    fn authorization(&self, payload: &Object) -> Option<PaymentId> {
        let chain_id = known::chain_id(self.price.network())?;
        let permit = Payload::permit(payload)?;
        Some(permit.permit.payment_id(chain_id))
    }

    fn charge(&self, words: &str, price: Amount) -> Option<Result<Amount, OfferError>> {
        Some(kit::charged(words, price, self.token.decimals))
    }
}
