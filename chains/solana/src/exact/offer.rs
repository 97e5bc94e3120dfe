//! The seller's side: a price becomes payment requirements.

use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::kit::FixedPrice;
use quittance_core::wire::{PaymentRequirements, SupportedKind};
use quittance_core::{Amount, Malformed, Network, Offer, OfferError, PaymentId};
use serde_json::json;
use solana_pubkey::Pubkey;

use super::terms::{Extra, NAME, read_transaction};
use crate::chain::Blockhashes;
use crate::instruction::MEMO_MAX;
use crate::known::{self, NAMESPACE};
use crate::token::Token;
use crate::transaction::payment_id;

/// An offer for a fixed amount of a token on a Solana cluster.
///
/// ```
/// use quittance_core::Offer;
/// use quittance_solana::ExactOffer;
///
/// let offer = ExactOffer::usdc("solana", "0.01", "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4")?;
/// assert_eq!(offer.amount().to_string(), "10000");
/// # Ok::<(), quittance_core::OfferError>(())
/// ```
#[derive(Debug, Clone)]
pub struct ExactOffer {
    price: FixedPrice,
    token: Token,
    memo: Option<String>,
    blockhashes: Option<Blockhashes>,
}

impl ExactOffer {
    /// An offer of `price` in a token, such as `"0.01"`, to be paid to an address. The recipient
    /// needs an associated token account: none is created for it.
    ///
    /// # Errors
    /// When the price is zero, finer than the token's atomic unit, or more than an account can
    /// hold; the network is not a Solana cluster; or `pay_to` is not an address.
    pub fn new(
        network: Network,
        token: Token,
        price: &str,
        pay_to: &str,
    ) -> Result<Self, OfferError> {
        if network.namespace() != NAMESPACE {
            return Err(not_solana(network.id()));
        }
        let address = |_| Malformed::new("payTo", "not an address of 32 bytes in base58");
        let pay_to: Pubkey = pay_to
            .parse()
            .map_err(|error| OfferError::PayTo(address(error)))?;
        let asset = token.mint.to_string();
        let price = FixedPrice::new(network, &token, asset, price, pay_to.to_string())?;
        let max = Amount::from_units(u64::MAX);
        if price.amount() > max {
            return Err(OfferError::PriceTooHigh {
                amount: price.amount(),
                max,
            });
        }
        Ok(Self {
            price,
            token,
            memo: None,
            blockhashes: None,
        })
    }

    /// An offer in USDC on a cluster that ships with the library, by CAIP-2 identifier or version 1
    /// name.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when the cluster or its USDC is not known.
    pub fn usdc(network: &str, price: &str, pay_to: &str) -> Result<Self, OfferError> {
        let known = known::network(network).ok_or_else(|| not_solana(network))?;
        let unknown = || OfferError::UnknownAsset {
            asset: "USDC".to_owned(),
            network: network.to_owned(),
        };
        let token = known::token(known.id(), "USDC").ok_or_else(unknown)?;
        Self::new(known, token.clone(), price, pay_to)
    }

    /// The same offer, with this many seconds for the whole payment.
    #[must_use]
    pub fn with_timeout_secs(self, timeout_secs: u64) -> Self {
        Self {
            price: self.price.with_timeout_secs(timeout_secs),
            ..self
        }
    }

    /// The same offer, with a memo that the payment must carry, such as an invoice number.
    ///
    /// # Errors
    /// When the memo is empty or longer than a memo can be.
    pub fn with_memo(self, memo: &str) -> Result<Self, OfferError> {
        if memo.is_empty() || memo.len() > MEMO_MAX {
            return Err(OfferError::Memo {
                length: memo.len(),
                max: MEMO_MAX,
            });
        }
        Ok(Self {
            memo: Some(memo.to_owned()),
            ..self
        })
    }

    /// The same offer, with a recent blockhash for buyers, so that they need no node.
    #[must_use]
    pub fn with_blockhashes(self, blockhashes: &Blockhashes) -> Self {
        Self {
            blockhashes: Some(blockhashes.clone()),
            ..self
        }
    }

    /// The price in the token's atomic units.
    pub fn amount(&self) -> Amount {
        self.price.amount()
    }
}

fn not_solana(network: &str) -> OfferError {
    OfferError::Network {
        network: network.to_owned(),
        family: "Solana",
    }
}

#[async_trait]
impl Offer for ExactOffer {
    fn scheme(&self) -> &str {
        NAME
    }

    fn network(&self) -> &Network {
        self.price.network()
    }

    fn requirements(&self, supported: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        let missing =
            || OfferError::Supported(Malformed::new("extra.feePayer", "the field is missing"));
        let said: Extra = supported
            .extra
            .as_ref()
            .ok_or_else(missing)?
            .read("extra")
            .map_err(OfferError::Supported)?;
        let fee_payer = said.fee_payer.ok_or_else(missing)?;
        let mut extra = json!({
            "feePayer": fee_payer,
            "tokenProgram": self.token.program.id().to_string(),
        });
        if let Some(memo) = &self.memo {
            extra["memo"] = json!(memo);
        }
        let extra = Object::of(&extra).map_err(OfferError::Extra)?;
        Ok(self.price.requirements(NAME, Some(extra)))
    }

    fn authorization(&self, payload: &Object) -> Option<PaymentId> {
        let transaction = read_transaction(payload).ok()?;
        Some(payment_id(self.price.network(), transaction.message()))
    }

    async fn hints(&self) -> Option<Object> {
        let latest = self.blockhashes.as_ref()?.newest().await?;
        let hints = json!({
            "recentBlockhash": latest.blockhash.to_string(),
            "lastValidBlockHeight": latest.last_valid_block_height.to_string(),
        });
        Object::of(&hints).ok()
    }
}
