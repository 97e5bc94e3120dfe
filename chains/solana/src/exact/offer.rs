//! The seller's side: a price becomes requirements.

use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, Rest, SupportedKind};
use quittance_core::{Amount, Network, Offer, OfferError, PaymentId};
use serde_json::json;
use solana_pubkey::Pubkey;

use super::{Extra, NAME, payment_id, wire};
use crate::blockhash::Blockhashes;
use crate::instruction::MEMO_MAX;
use crate::known::{self, NAMESPACE, Token};

/// How long a payment may take unless the seller says otherwise: as long as a blockhash lives.
const TIMEOUT_SECS: u64 = 60;

/// An offer to be paid exactly so much of a token on a Solana cluster.
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
    network: Network,
    token: Token,
    amount: Amount,
    pay_to: Pubkey,
    timeout_secs: u64,
    memo: Option<String>,
    blockhashes: Option<Blockhashes>,
}

impl ExactOffer {
    /// An offer of `price` in a token, such as `"0.01"`, to be paid to an address. The recipient needs an associated token
    /// account: none is made for it.
    ///
    /// # Errors
    /// When the price is zero or finer than the token's smallest unit or more than there can be, the network is not a
    /// Solana cluster, or `pay_to` is not an address.
    pub fn new(
        network: Network,
        token: Token,
        price: &str,
        pay_to: &str,
    ) -> Result<Self, OfferError> {
        if network.namespace() != NAMESPACE {
            return Err(OfferError::Asset(format!(
                "{network} is not a Solana cluster"
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
        if amount > Amount::from(u64::MAX) {
            return Err(OfferError::Price(
                "more than a token account can hold".to_owned(),
            ));
        }
        let pay_to = pay_to
            .parse()
            .map_err(|_| OfferError::PayTo("not an address of 32 bytes in base58".to_owned()))?;
        Ok(Self {
            network,
            token,
            amount,
            pay_to,
            timeout_secs: TIMEOUT_SECS,
            memo: None,
            blockhashes: None,
        })
    }

    /// An offer in the USDC of a cluster that ships with the library, by CAIP-2 identifier or version 1 name.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when the cluster or its USDC is not known.
    pub fn usdc(network: &str, price: &str, pay_to: &str) -> Result<Self, OfferError> {
        let known = known::network(network)
            .ok_or_else(|| OfferError::Asset(format!("{network} is not a Solana cluster")))?;
        let token = known::token(known.id(), "USDC")
            .ok_or_else(|| OfferError::Asset(format!("no USDC is known on {network}")))?;
        Self::new(known, token, price, pay_to)
    }

    /// The same offer, with this many seconds for the whole payment.
    #[must_use]
    pub fn with_timeout_secs(self, timeout_secs: u64) -> Self {
        Self {
            timeout_secs,
            ..self
        }
    }

    /// The same offer, with a text that the payment must carry, such as an invoice number.
    ///
    /// # Errors
    /// When the text is longer than a memo can be.
    pub fn with_memo(self, memo: &str) -> Result<Self, OfferError> {
        if memo.is_empty() || memo.len() > MEMO_MAX {
            let what = format!("a memo has 1 to {MEMO_MAX} bytes");
            return Err(OfferError::Asset(what));
        }
        Ok(Self {
            memo: Some(memo.to_owned()),
            ..self
        })
    }

    /// The same offer, which tells buyers a recent blockhash: they need no node to pay.
    #[must_use]
    pub fn with_blockhashes(self, blockhashes: &Blockhashes) -> Self {
        Self {
            blockhashes: Some(blockhashes.clone()),
            ..self
        }
    }

    /// The price in the token's atomic units.
    pub fn amount(&self) -> Amount {
        self.amount
    }
}

#[async_trait]
impl Offer for ExactOffer {
    fn scheme(&self) -> &str {
        NAME
    }

    fn network(&self) -> &Network {
        &self.network
    }

    fn requirements(&self, supported: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        let missing = |what: &str| OfferError::Supported(what.to_owned());
        let said: Extra = supported
            .extra
            .as_ref()
            .ok_or_else(|| missing("says no feePayer"))?
            .read("extra")
            .map_err(|error| OfferError::Supported(error.to_string()))?;
        let fee_payer = said.fee_payer.ok_or_else(|| missing("says no feePayer"))?;
        let mut extra = json!({
            "feePayer": fee_payer,
            "tokenProgram": self.token.program.id().to_string(),
        });
        if let Some(memo) = &self.memo {
            extra["memo"] = json!(memo);
        }
        let extra = Object::of(&extra).map_err(|error| OfferError::Asset(error.to_string()))?;
        Ok(PaymentRequirements {
            scheme: NAME.to_owned(),
            network: self.network.id().to_owned(),
            amount: self.amount.to_string(),
            asset: self.token.mint.to_string(),
            pay_to: self.pay_to.to_string(),
            max_timeout_seconds: self.timeout_secs,
            extra: Some(extra),
            rest: Rest::default(),
        })
    }

    fn authorization(&self, payload: &Object) -> Option<PaymentId> {
        let wire = wire(payload).ok()?;
        Some(payment_id(&self.network, &wire))
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
