//! The buyer's side: requirements become a signed authorization.

use std::fmt;
use std::sync::Arc;

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::signers::Signer;
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::wire::PaymentRequirements;
use quittance_core::{Amount, Asset, Payer, PayerError, Quote, Timestamp};
use serde_json::json;

use super::authorization::Authorization;
use super::{Extra, NAME};
use crate::eip712::domain_separator;
use crate::hex::address;
use crate::known;

/// The longest validity that is signed, whatever a seller asks for: an authorization is worth money for as long as it
/// is valid.
const VALIDITY_MAX_SECS: u64 = 3600;

/// Pays `exact` requirements on any EVM chain with one key.
///
/// Chains that ship with the library, and tokens on them, are known from the library's own tables; what a seller says
/// of a token decides nothing but what is signed. Add tokens of your own with [`with_token`](Self::with_token).
#[derive(Clone)]
pub struct ExactPayer {
    signer: Arc<dyn Signer + Send + Sync>,
    address: String,
    tokens: Vec<(String, known::Token)>,
}

impl ExactPayer {
    /// A payer with this key, in memory or behind a key service.
    pub fn new(signer: impl Signer + Send + Sync + 'static) -> Self {
        let address = signer.address().to_checksum(None);
        Self {
            signer: Arc::new(signer),
            address,
            tokens: Vec::new(),
        }
    }

    /// The same payer, which also knows this token of the network with this CAIP-2 identifier.
    #[must_use]
    pub fn with_token(mut self, network: &str, token: known::Token) -> Self {
        self.tokens.push((network.to_owned(), token));
        self
    }

    fn token(&self, network: &str, asset: Address) -> Option<&known::Token> {
        let own = self
            .tokens
            .iter()
            .filter(|(known, _)| known == network)
            .map(|(_, token)| token);
        own.chain(known::tokens(network))
            .find(|token| token.address == asset)
    }
}

impl fmt::Debug for ExactPayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExactPayer({})", self.address)
    }
}

/// What is needed to sign, read from requirements.
struct Order {
    chain_id: u64,
    asset: Address,
    pay_to: Address,
    amount: Amount,
    name: String,
    version: String,
}

impl Order {
    /// `None` for requirements that are not for this payer.
    fn read(requirements: &PaymentRequirements) -> Option<Self> {
        if requirements.scheme != NAME {
            return None;
        }
        let chain_id = known::chain_id(&known::network(&requirements.network)?)?;
        let extra: Extra = requirements.extra.as_ref()?.read("extra").ok()?;
        if extra
            .asset_transfer_method
            .is_some_and(|method| method != "eip3009")
        {
            return None;
        }
        Some(Self {
            chain_id,
            asset: address("asset", &requirements.asset).ok()?,
            pay_to: address("payTo", &requirements.pay_to).ok()?,
            amount: requirements.amount.parse().ok()?,
            name: extra.name?,
            version: extra.version?,
        })
    }
}

#[async_trait]
impl Payer for ExactPayer {
    fn address(&self) -> &str {
        &self.address
    }

    fn quote(&self, requirements: &PaymentRequirements) -> Option<Quote> {
        let order = Order::read(requirements)?;
        let network = known::network(&requirements.network)?;
        let asset = self.token(network.id(), order.asset).map(|token| Asset {
            address: token.address.to_checksum(None),
            symbol: token.symbol.clone(),
            decimals: token.decimals,
        });
        Some(Quote {
            network: network.id().to_owned(),
            pay_to: order.pay_to.to_checksum(None),
            asset,
            amount: order.amount,
        })
    }

    async fn pay(
        &self,
        requirements: &PaymentRequirements,
        now: Timestamp,
    ) -> Result<(Object, Timestamp), PayerError> {
        let unreadable = || {
            PayerError::Requirements("not `exact` by EIP-3009, or something is missing".to_owned())
        };
        let order = Order::read(requirements).ok_or_else(unreadable)?;
        let expires = now.plus_secs(requirements.max_timeout_seconds.min(VALIDITY_MAX_SECS));
        let authorization = Authorization {
            from: self.signer.address(),
            to: order.pay_to,
            value: order.amount.units(),
            // Valid at once, however far behind the chain's clock is.
            valid_after: U256::ZERO,
            valid_before: U256::from(expires.secs()),
            nonce: B256::from(rand::random::<[u8; 32]>()),
        };
        let separator = domain_separator(&order.name, &order.version, order.chain_id, order.asset);
        let signature = self
            .signer
            .sign_hash(&authorization.digest(&separator))
            .await
            .map_err(|error| PayerError::Signing(error.to_string()))?;
        let payload = json!({
            "signature": Bytes::copy_from_slice(&signature.as_bytes()),
            "authorization": {
                "from": authorization.from.to_checksum(None),
                "to": authorization.to.to_checksum(None),
                "value": order.amount,
                "validAfter": authorization.valid_after.to_string(),
                "validBefore": authorization.valid_before.to_string(),
                "nonce": authorization.nonce,
            }
        });
        let payload =
            Object::of(&payload).map_err(|error| PayerError::Requirements(error.to_string()))?;
        Ok((payload, expires))
    }
}

#[cfg(test)]
mod tests {
    use alloy::signers::local::PrivateKeySigner;
    use quittance_core::json::Json;

    use super::*;

    /// A seller that asks for a hundred years gets an hour, and one that asks for less gets that.
    #[tokio::test]
    async fn an_authorization_is_valid_no_longer_than_an_hour() {
        let payer = ExactPayer::new(PrivateKeySigner::random());
        let now = Timestamp::from_secs(1_000_000);
        for (asked, valid) in [
            (60, 60),
            (VALIDITY_MAX_SECS, VALIDITY_MAX_SECS),
            (VALIDITY_MAX_SECS + 1, VALIDITY_MAX_SECS),
            (u64::MAX, VALIDITY_MAX_SECS),
        ] {
            let requirements = json!({
                "scheme": "exact", "network": "eip155:84532", "amount": "1", "maxTimeoutSeconds": asked,
                "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
                "payTo": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
                "extra": { "name": "USDC", "version": "2" },
            });
            let requirements = Json::of(&requirements).unwrap().read("terms").unwrap();
            let (payload, expires) = payer.pay(&requirements, now).await.unwrap();
            assert_eq!(expires, now.plus_secs(valid));
            let before = format!("\"validBefore\":\"{}\"", expires.secs());
            assert!(payload.text().contains(&before), "{}", payload.text());
        }
    }
}
