//! The buyer's side: requirements become a signed authorization.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U64, U256};
use alloy::signers::Signer;
use alloy::sol_types::SolCall;
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::wire::PaymentRequirements;
use quittance_core::{
    Amount, Asset, AuthorizationState, Fault, Network, Payer, PayerError, Quote, QuoteError,
    Timestamp,
};
use quittance_nodes::{Nodes, unavailable};
use serde::Deserialize;
use serde_json::json;
use tracing::warn;
use url::Url;

use super::authorization::{Authorization, AuthorizationJson};
use super::{Extra, NAME};
use crate::abi::Eip3009;
use crate::eip712::domain_separator;
use crate::hex::address;
use crate::known::{self, TransferMethod};
use crate::rpc;
use crate::used::{self, AuthorizationUse};

/// The longest validity that is signed, whatever a seller asks for: an authorization is worth money for as long as it
/// is valid.
const VALIDITY_MAX_SECS: u64 = 3600;

/// How far the newest block's time must be past an authorization's end before the authorization counts as unused for good, in
/// seconds: an older block could come back in a reorganisation and take it. This is five blocks on Ethereum, where no
/// reorganisation was deeper than two since proof of stake, and thirty or more on the layer 2 networks.
const SETTLED_SECS: u64 = 60;

/// How long a node may take to answer.
const RPC_TIMEOUT: Duration = Duration::from_secs(8);

/// Pays `exact` requirements on any EVM chain with one key.
///
/// Chains that ship with the library, and tokens on them, are known from the library's own tables. What is signed is what
/// these say of a token; terms that say otherwise are not quoted. Add tokens of your own with [`with_token`](Self::with_token).
///
/// With a node of a network ([`with_rpc`](Self::with_rpc)) a buyer can learn what became of a payment whose answer was lost.
/// Without one, a payment that a seller has seen and did not serve is in doubt for ever.
#[derive(Clone)]
pub struct ExactPayer {
    signer: Arc<dyn Signer + Send + Sync>,
    address: String,
    tokens: Vec<(String, known::Token)>,
    nodes: BTreeMap<String, Arc<Nodes>>,
}

impl ExactPayer {
    /// A payer with this key, in memory or behind a key service.
    pub fn new(signer: impl Signer + Send + Sync + 'static) -> Self {
        let address = signer.address().to_checksum(None);
        Self {
            signer: Arc::new(signer),
            address,
            tokens: Vec::new(),
            nodes: BTreeMap::new(),
        }
    }

    /// The same payer, which also knows this token of the network with this CAIP-2 identifier.
    #[must_use]
    pub fn with_token(mut self, network: &str, token: known::Token) -> Self {
        self.tokens.push((network.to_owned(), token));
        self
    }

    /// The same payer, which asks these nodes of a network what became of its payments there. They are asked only when a
    /// payment has run out and its seller does not say. Their word decides whether a second payment is signed.
    ///
    /// # Errors
    /// When this is no EVM network, or no HTTP client can be made.
    pub fn with_rpc(mut self, network: &Network, urls: &[Url]) -> Result<Self, PayerError> {
        let chain_id = known::chain_id(network)
            .ok_or_else(|| PayerError::Chain(format!("{network} is no EVM network")))?;
        let nodes = rpc::connect(chain_id, urls, RPC_TIMEOUT)
            .map_err(|error| PayerError::Chain(error.to_string()))?;
        self.nodes.insert(network.id().to_owned(), Arc::new(nodes));
        Ok(self)
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

    /// What these requirements ask for, if this payer can pay it.
    fn order(&self, requirements: &PaymentRequirements) -> Result<Order<'_>, QuoteError> {
        if requirements.scheme != NAME {
            return Err(QuoteError::NotSupported);
        }
        let network = known::network(&requirements.network).ok_or(QuoteError::NotSupported)?;
        let chain_id = known::chain_id(&network).ok_or(QuoteError::NotSupported)?;
        let address = |name: &str, text: &str| {
            address(name, text).map_err(|error| QuoteError::unpayable(error.to_string()))
        };
        let asset = address("asset", &requirements.asset)?;
        let token = self.token(network.id(), asset);
        let token = token.ok_or_else(|| {
            QuoteError::unpayable(format!("the payer's own list has no asset {asset} there"))
        })?;
        check_domain(requirements, token)?;
        let amount = requirements.amount.parse();
        Ok(Order {
            chain_id,
            token,
            pay_to: address("payTo", &requirements.pay_to)?,
            amount: amount.map_err(|error| QuoteError::unpayable(format!("amount: {error}")))?,
            network,
        })
    }

    /// What the nodes of a network say of an authorization.
    async fn ask_state(
        &self,
        nodes: &Nodes,
        asset: Address,
        authorization: &Authorization,
    ) -> Result<AuthorizationState, Fault> {
        let newest = json!(["latest", false]);
        let head: Head = nodes.ask("eth_getBlockByNumber", newest).await?;
        let question = Eip3009::authorizationStateCall {
            authorizer: authorization.from,
            nonce: authorization.nonce,
        };
        let call = json!({ "to": asset, "data": Bytes::from(question.abi_encode()) });
        // Of the very block whose time was looked at.
        let answer: Bytes = nodes.ask("eth_call", json!([call, head.number])).await?;
        let used = Eip3009::authorizationStateCall::abi_decode_returns_validate(&answer);
        let used = used.map_err(|_| unavailable("the token does not say what was used"))?;
        let end = authorization
            .valid_before
            .saturating_add(U256::from(SETTLED_SECS));
        Ok(if used {
            AuthorizationState::Used(transaction(nodes, asset, authorization).await)
        } else if U256::from(head.timestamp) >= end {
            AuthorizationState::Expired
        } else {
            AuthorizationState::Usable
        })
    }
}

/// The transaction that used an authorization, where the nodes find it.
async fn transaction(
    nodes: &Nodes,
    token: Address,
    authorization: &Authorization,
) -> Option<String> {
    let used = AuthorizationUse {
        token,
        authorizer: authorization.from,
        nonce: authorization.nonce,
    };
    let found = used::find(nodes, &used).await.ok().flatten();
    found.map(|found| found.id.to_string())
}

impl fmt::Debug for ExactPayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExactPayer({})", self.address)
    }
}

/// `eth_getBlockByNumber`, as much of it as is needed.
#[derive(Deserialize)]
struct Head {
    number: U64,
    timestamp: U64,
}

/// What is needed to sign, read from requirements and from the payer's own list.
struct Order<'a> {
    network: Network,
    chain_id: u64,
    token: &'a known::Token,
    pay_to: Address,
    amount: Amount,
}

/// Whether the requirements mean the EIP-712 domain in which this token takes authorizations.
///
/// Batching wallets ask for `exact` payments of USDC that are signed for their own contract's domain. Signed for the token
/// instead, such a payment is worth money to who has it and pays for nothing.
fn check_domain(
    requirements: &PaymentRequirements,
    token: &known::Token,
) -> Result<(), QuoteError> {
    let extra = requirements.extra.as_ref();
    let extra = extra
        .ok_or_else(|| QuoteError::unpayable("extra is missing: the token's name and version"))?;
    let extra: Extra = extra
        .read("extra")
        .map_err(|error| QuoteError::unpayable(error.to_string()))?;
    let method = extra.asset_transfer_method.as_deref().unwrap_or("eip3009");
    if method != "eip3009" {
        let what = format!("the transfer method {method} is not supported, only eip3009");
        return Err(QuoteError::unpayable(what));
    }
    if token.method != TransferMethod::Eip3009 {
        let what = format!("{} does not take EIP-3009 authorizations", token.symbol);
        return Err(QuoteError::unpayable(what));
    }
    let said = [
        ("name", extra.name, &token.name),
        ("version", extra.version, &token.version),
    ];
    for (field, said, signs) in said {
        let said =
            said.ok_or_else(|| QuoteError::unpayable(format!("extra.{field} is missing")))?;
        if said != *signs {
            let what = format!(
                "extra.{field} is {said:?}, and {} signs as {signs:?}",
                token.symbol
            );
            return Err(QuoteError::unpayable(what));
        }
    }
    let other = extra.verifying_contract.filter(|contract| {
        let contract = contract.as_str().and_then(|text| address("", text).ok());
        contract != Some(token.address)
    });
    match other {
        Some(other) => Err(QuoteError::unpayable(format!(
            "extra.verifyingContract is {other}: it would be signed for another contract than the token"
        ))),
        None => Ok(()),
    }
}

#[async_trait]
impl Payer for ExactPayer {
    fn address(&self) -> &str {
        &self.address
    }

    fn quote(&self, requirements: &PaymentRequirements) -> Result<Quote, QuoteError> {
        let order = self.order(requirements)?;
        Ok(Quote {
            network: order.network.id().to_owned(),
            pay_to: order.pay_to.to_checksum(None),
            asset: Asset {
                address: order.token.address.to_checksum(None),
                symbol: order.token.symbol.clone(),
                decimals: order.token.decimals,
            },
            amount: order.amount,
        })
    }

    async fn pay(
        &self,
        requirements: &PaymentRequirements,
        now: Timestamp,
    ) -> Result<(Object, Timestamp), PayerError> {
        let order = self.order(requirements).map_err(|why| {
            PayerError::Requirements(match why {
                QuoteError::NotSupported => "not `exact` on an EVM chain".to_owned(),
                QuoteError::Unpayable(what) => what,
            })
        })?;
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
        let token = order.token;
        let separator =
            domain_separator(&token.name, &token.version, order.chain_id, token.address);
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

    async fn authorization_state(
        &self,
        network: &str,
        asset: &str,
        payload: &Object,
        _expires: Timestamp,
    ) -> AuthorizationState {
        #[derive(Deserialize)]
        struct Payload {
            authorization: AuthorizationJson,
        }
        let asked = (
            self.nodes.get(network),
            address("asset", asset),
            payload.read::<Payload>("payload"),
        );
        let (Some(nodes), Ok(asset), Ok(payload)) = asked else {
            return AuthorizationState::Unknown;
        };
        let authorization = payload.authorization.into();
        self.ask_state(nodes, asset, &authorization)
            .await
            .unwrap_or_else(|fault| {
                warn!(%fault, network, "what became of a payment could not be learnt");
                AuthorizationState::Unknown
            })
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
