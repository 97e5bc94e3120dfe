//! The two ends of the scheme `per-second`: a seller's offer and a buyer's payer.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use alloy::primitives::{B256, U256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, SupportedKind};
use quittance_core::{
    Amount, Asset, Malformed, Network, Next, Offer, OfferError, Payer, PayerError, PaymentId,
    PaymentOutcome, Quote, QuoteError, Rejection, SignedPayment, Timestamp,
};
use quittance_evm::eip3009::Authorization;
use quittance_evm::{ExactOffer, Token, hex, known};
use serde_json::json;

use crate::per_second::{NAME, NOT_NEXT, Payload, identify};

/// How long a tick is valid, in seconds.
const VALID_SECS: u64 = 3600;

/// The price of a tick in USDC.
pub struct PerSecondOffer {
    exact: ExactOffer,
    token: &'static Token,
    chain_id: u64,
}

impl PerSecondOffer {
    /// An offer of ticks at this price, such as `"0.001"`.
    ///
    /// # Errors
    /// As [`ExactOffer::usdc`].
    pub fn usdc(network: &str, price: &str, pay_to: &str) -> Result<Self, OfferError> {
        let exact = ExactOffer::usdc(network, price, pay_to)?;
        let token = known::token(exact.network().id(), "USDC");
        let found = token.zip(known::chain_id(exact.network()));
        let (token, chain_id) = found.ok_or_else(|| OfferError::UnknownAsset {
            asset: "USDC".to_owned(),
            network: network.to_owned(),
        })?;
        Ok(Self {
            exact,
            token,
            chain_id,
        })
    }
}

impl Offer for PerSecondOffer {
    fn scheme(&self) -> &str {
        NAME
    }

    fn network(&self) -> &Network {
        self.exact.network()
    }

    fn requirements(&self, supported: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        let exact = self.exact.requirements(supported)?;
        Ok(PaymentRequirements {
            scheme: NAME.to_owned(),
            ..exact
        })
    }

    fn authorization(&self, payload: &Object) -> Option<PaymentId> {
        let (_, tick) = identify(self.chain_id, self.token.address, payload)?;
        Some(tick)
    }

    /// The stream: its ticks come one after another.
    fn serial(&self, payload: &Object) -> Option<String> {
        let (stream, _) = identify(self.chain_id, self.token.address, payload)?;
        Some(stream.to_string())
    }

    /// The total so far, by which the buyer signs the next tick.
    fn correct(&self, rejection: &Rejection) -> Option<Object> {
        let is_not_next = rejection.reason == NOT_NEXT;
        rejection.extra.as_deref().filter(|_| is_not_next).cloned()
    }
}

/// A payer with a key, and the books of its streams: one at a time to each recipient.
pub struct PerSecondPayer {
    signer: PrivateKeySigner,
    address: String,
    new_after_secs: u64,
    streams: Mutex<HashMap<(String, String), Stream>>,
}

/// A stream, as its payer knows it.
struct Stream {
    nonce: B256,
    /// What is paid, as far as the payer knows, and what it has signed at most.
    paid: U256,
    signed: U256,
    last: Timestamp,
}

/// What the requirements ask for.
struct Terms {
    network: Network,
    token: &'static Token,
    pay_to: alloy::primitives::Address,
    price: Amount,
}

fn terms(requirements: &PaymentRequirements) -> Result<Terms, QuoteError> {
    let network = known::network(&requirements.network).filter(|_| requirements.scheme == NAME);
    let network = network.ok_or(QuoteError::NotSupported)?;
    let unpayable = |error: Malformed| QuoteError::unpayable(error.to_string());
    let token = known::token(network.id(), &requirements.asset);
    let price = requirements.amount.parse();
    Ok(Terms {
        token: token.ok_or_else(|| QuoteError::unpayable("asset: not a known token"))?,
        pay_to: hex::address("payTo", &requirements.pay_to).map_err(unpayable)?,
        price: price.map_err(|_| QuoteError::unpayable("amount: not a number"))?,
        network,
    })
}

impl PerSecondPayer {
    /// The payer with this key. After this many seconds without a tick, the next one begins a new
    /// stream. The facilitator must settle a quiet stream later than that.
    pub fn new(signer: PrivateKeySigner, new_after_secs: u64) -> Self {
        Self {
            address: signer.address().to_checksum(None),
            signer,
            new_after_secs,
            streams: Mutex::default(),
        }
    }

    /// Signs the next tick.
    fn sign(&self, terms: &Terms, now: Timestamp) -> Result<Object, PayerError> {
        let Terms { token, pay_to, .. } = terms;
        let chain_id = known::chain_id(&terms.network).ok_or(QuoteError::NotSupported)?;
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (terms.network.id().to_owned(), pay_to.to_string());
        let fresh = || Stream {
            nonce: PrivateKeySigner::random().to_bytes(),
            paid: U256::ZERO,
            signed: U256::ZERO,
            last: now,
        };
        let stream = streams.entry(key).or_insert_with(fresh);
        if now.secs().saturating_sub(stream.last.secs()) > self.new_after_secs {
            *stream = fresh();
        }
        let tick = Authorization {
            from: self.signer.address(),
            to: *pay_to,
            value: stream.paid.saturating_add(terms.price.units()),
            valid_after: U256::ZERO,
            valid_before: U256::from(now.plus_secs(VALID_SECS).secs()),
            nonce: stream.nonce,
        };
        (stream.signed, stream.last) = (stream.signed.max(tick.value), now);
        let digest = tick.digest(&token.domain_separator(chain_id));
        let signature = self
            .signer
            .sign_hash_sync(&digest)
            .map_err(PayerError::signing)?;
        Object::of(&json!({
            "signature": signature.to_string(),
            "authorization": {
                "from": tick.from, "to": tick.to, "value": tick.value.to_string(),
                "validAfter": "0", "validBefore": tick.valid_before.to_string(),
                "nonce": tick.nonce,
            },
        }))
        .map_err(PayerError::Payload)
    }

    /// Takes note of a tick. Two ticks of a stream have one nonce, so they can never both be
    /// charged.
    fn note(&self, terms: &Terms, value: U256, outcome: PaymentOutcome<'_>) -> Next {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (terms.network.id().to_owned(), terms.pay_to.to_string());
        let Some(stream) = streams.get_mut(&key) else {
            return Next::Keep;
        };
        match outcome {
            PaymentOutcome::Refused { terms, .. } => match total(terms) {
                Some(total) if total <= stream.signed => {
                    stream.paid = total;
                    if total == value {
                        Next::Used
                    } else {
                        Next::Replace
                    }
                }
                _ => Next::Keep,
            },
            _ => {
                stream.paid = stream.paid.max(value);
                Next::Keep
            }
        }
    }
}

/// The total so far, by a seller's correction.
fn total(terms: &[PaymentRequirements]) -> Option<U256> {
    let extra = terms
        .iter()
        .find_map(|terms| terms.extra.as_ref()?.tree().remove("total"));
    extra?.as_str()?.parse().ok()
}

#[async_trait]
impl Payer for PerSecondPayer {
    fn address(&self) -> &str {
        &self.address
    }

    fn quote(&self, requirements: &PaymentRequirements) -> Result<Quote, QuoteError> {
        let terms = terms(requirements)?;
        Ok(Quote {
            network: terms.network.id().to_owned(),
            pay_to: terms.pay_to.to_checksum(None),
            asset: Asset {
                address: terms.token.address.to_checksum(None),
                symbol: terms.token.symbol.clone(),
                decimals: terms.token.decimals,
            },
            amount: terms.price,
            locks: Amount::ZERO,
        })
    }

    async fn pay(
        &self,
        requirements: &PaymentRequirements,
        _: Option<&Object>,
        now: Timestamp,
    ) -> Result<SignedPayment, PayerError> {
        let payload = self.sign(&terms(requirements)?, now)?;
        Ok(SignedPayment::new(payload, now.plus_secs(VALID_SECS)))
    }

    async fn observe(
        &self,
        requirements: &PaymentRequirements,
        payload: &Object,
        outcome: PaymentOutcome<'_>,
    ) -> Next {
        let tick: Option<Payload> = payload.read("payload").ok();
        match (terms(requirements), tick) {
            (Ok(terms), Some(tick)) => self.note(&terms, tick.authorization.value, outcome),
            _ => Next::Keep,
        }
    }
}
