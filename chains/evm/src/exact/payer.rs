//! The buyer's side: signs an authorization for payment requirements.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::Provider;
use alloy::serde::WithOtherFields;
use alloy::signers::Signer;
use alloy::sol_types::SolCall;
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::kit::KnownTokens;
use quittance_core::wire::PaymentRequirements;
use quittance_core::{
    Amount, Asset, AuthorizationState, Fault, Network, Payer, PayerError, Quote, QuoteError,
    Timestamp,
};
use quittance_nodes::unavailable;
use serde::Deserialize;
use serde_json::json;
use tracing::warn;
use url::Url;

use super::terms::{EIP3009, Extra, NAME};
use crate::abi::Eip3009;
use crate::chain::results::Head;
use crate::chain::rpc::{self, Rpc};
use crate::chain::transport::fault;
use crate::chain::used;
use crate::eip3009::{Authorization, AuthorizationUse};
use crate::hex::address;
use crate::known;
use crate::token::{Token, TransferMethod};

/// The longest validity that is signed, in seconds, whatever the seller asks for. An authorization
/// is worth money as long as it is valid.
const VALIDITY_MAX_SECS: u64 = 3600;

/// How far the newest block must be past an authorization's end before the authorization counts as
/// expired without use, in seconds. Until then, a reorganisation could replace blocks before the
/// end. The time is five blocks of Ethereum, where no reorganisation was deeper than two since
/// proof of stake, and at least thirty on layer 2 networks.
const SETTLED_SECS: u64 = 60;

/// The time limit for a node's reply.
const RPC_TIMEOUT: Duration = Duration::from_secs(8);

/// Pays `exact` requirements on any EVM chain with one key.
///
/// It knows the tokens that ship with the library, and those added by
/// [`with_token`](Self::with_token). It signs what these tables say about a token, and quotes no
/// requirements that differ from them.
///
/// With a node of the network ([`with_rpc`](Self::with_rpc)) a buyer can find out what became of a
/// payment whose response was lost. Without one, such a payment stays unresolved.
#[derive(Clone)]
pub struct ExactPayer {
    signer: Arc<dyn Signer + Send + Sync>,
    address: String,
    tokens: KnownTokens<Token>,
    rpcs: BTreeMap<String, Rpc>,
}

impl ExactPayer {
    /// A payer with this key, which may be in memory or behind a key service.
    pub fn new(signer: impl Signer + Send + Sync + 'static) -> Self {
        let address = signer.address().to_checksum(None);
        Self {
            signer: Arc::new(signer),
            address,
            tokens: KnownTokens::new(known::tokens),
            rpcs: BTreeMap::new(),
        }
    }

    /// The same payer, with another token of the network with this CAIP-2 identifier.
    #[must_use]
    pub fn with_token(mut self, network: &str, token: Token) -> Self {
        self.tokens.add(network, token);
        self
    }

    /// The same payer, with nodes of a network that are asked what became of payments there.
    ///
    /// They are asked only if a payment has expired and the seller did not report its outcome.
    /// Their replies decide whether a second payment is signed.
    ///
    /// # Errors
    /// If the network is not an EVM network, or if no HTTP client can be made.
    pub fn with_rpc(mut self, network: &Network, urls: &[Url]) -> Result<Self, PayerError> {
        let chain_id = known::chain_id(network)
            .ok_or_else(|| PayerError::chain(format!("{network} is not an EVM network")))?;
        let rpc = Rpc::new(chain_id, urls, RPC_TIMEOUT).map_err(PayerError::chain)?;
        self.rpcs.insert(network.id().to_owned(), rpc);
        Ok(self)
    }

    /// What is signed for these requirements, if this payer can pay them.
    fn transfer(&self, requirements: &PaymentRequirements) -> Result<Transfer<'_>, QuoteError> {
        if requirements.scheme != NAME {
            return Err(QuoteError::NotSupported);
        }
        let network = known::network(&requirements.network).ok_or(QuoteError::NotSupported)?;
        let chain_id = known::chain_id(&network).ok_or(QuoteError::NotSupported)?;
        let address = |name: &str, text: &str| {
            address(name, text).map_err(|error| QuoteError::unpayable(error.to_string()))
        };
        let asset = address("asset", &requirements.asset)?;
        let token = self.tokens.find(network.id(), &asset);
        let token = token.ok_or_else(|| {
            QuoteError::unpayable(format!(
                "the payer does not know the asset {asset} on {}: add it with with_token",
                network.id()
            ))
        })?;
        check_domain(requirements, token)?;
        let amount = requirements.amount.parse();
        Ok(Transfer {
            chain_id,
            token,
            pay_to: address("payTo", &requirements.pay_to)?,
            amount: amount.map_err(|error| QuoteError::unpayable(format!("amount: {error}")))?,
            network,
        })
    }

    /// The state of an authorization, by the nodes of its network.
    async fn ask_state(
        &self,
        rpc: &Rpc,
        asset: Address,
        authorization: &Authorization,
    ) -> Result<AuthorizationState, Fault> {
        let provider = rpc.provider();
        let newest = (BlockNumberOrTag::Latest, false);
        let newest: Head = rpc.ask("eth_getBlockByNumber", newest).await?;
        let call = rpc::call(Some(asset), authorization.state_call());
        // The state of the same block as the time.
        let state = provider.call(WithOtherFields::new(call));
        let block = BlockId::number(newest.number.to());
        let state = state.block(block).await.map_err(fault)?;
        let used = Eip3009::authorizationStateCall::abi_decode_returns_validate(&state);
        let used =
            used.map_err(|_| unavailable("the token did not report the authorization's state"))?;
        let end = authorization
            .valid_before
            .saturating_add(U256::from(SETTLED_SECS));
        Ok(if used {
            AuthorizationState::Used(transaction(rpc, asset, authorization).await)
        } else if U256::from(newest.timestamp) >= end {
            AuthorizationState::Expired
        } else {
            AuthorizationState::Usable
        })
    }
}

/// The transaction that used an authorization, if the nodes find it.
async fn transaction(rpc: &Rpc, token: Address, authorization: &Authorization) -> Option<String> {
    let used = AuthorizationUse {
        token,
        authorizer: authorization.from,
        nonce: authorization.nonce,
    };
    let found = used::find(rpc, &used).await.ok().flatten();
    found.map(|found| found.id.to_string())
}

impl fmt::Debug for ExactPayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExactPayer({})", self.address)
    }
}

/// What is signed, from the requirements and from the payer's own tokens.
struct Transfer<'a> {
    network: Network,
    chain_id: u64,
    token: &'a Token,
    pay_to: Address,
    amount: Amount,
}

/// Checks that the requirements mean the token's own EIP-712 domain.
///
/// Batching wallets ask for `exact` payments of USDC that are signed for the domain of their own
/// contract. Signed for the token instead, such a payment could be taken without paying for
/// anything.
fn check_domain(requirements: &PaymentRequirements, token: &Token) -> Result<(), QuoteError> {
    let extra = requirements.extra.as_ref();
    let extra = extra.ok_or_else(|| {
        QuoteError::unpayable("extra is missing: it must have the token's name and version")
    })?;
    let extra: Extra = extra
        .read("extra")
        .map_err(|error| QuoteError::unpayable(error.to_string()))?;
    let method = extra.asset_transfer_method.as_deref().unwrap_or(EIP3009);
    if method != EIP3009 {
        let what = format!("the transfer method {method} is not supported, only eip3009");
        return Err(QuoteError::unpayable(what));
    }
    if token.method != TransferMethod::Eip3009 {
        let what = format!("{} does not support EIP-3009", token.symbol);
        return Err(QuoteError::unpayable(what));
    }
    let fields = [
        ("name", extra.name, &token.name),
        ("version", extra.version, &token.version),
    ];
    for (field, found, expected) in fields {
        let missing = || QuoteError::unpayable(format!("extra.{field} is missing"));
        let found = found.ok_or_else(missing)?;
        if found != *expected {
            let symbol = &token.symbol;
            let what = format!("extra.{field} is {found:?}; that of {symbol} is {expected:?}");
            return Err(QuoteError::unpayable(what));
        }
    }
    let other = extra.verifying_contract.filter(|contract| {
        let contract = contract.as_str().and_then(|text| address("", text).ok());
        contract != Some(token.address)
    });
    match other {
        Some(other) => Err(QuoteError::unpayable(format!(
            "extra.verifyingContract is {other}: the signature would be for another contract than the token"
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
        let transfer = self.transfer(requirements)?;
        Ok(Quote {
            network: transfer.network.id().to_owned(),
            pay_to: transfer.pay_to.to_checksum(None),
            asset: Asset {
                address: transfer.token.address.to_checksum(None),
                symbol: transfer.token.symbol.clone(),
                decimals: transfer.token.decimals,
            },
            amount: transfer.amount,
        })
    }

    async fn pay(
        &self,
        requirements: &PaymentRequirements,
        now: Timestamp,
    ) -> Result<(Object, Timestamp), PayerError> {
        let transfer = self.transfer(requirements)?;
        let expires = now.plus_secs(requirements.max_timeout_seconds.min(VALIDITY_MAX_SECS));
        let authorization = Authorization {
            from: self.signer.address(),
            to: transfer.pay_to,
            value: transfer.amount.units(),
            // Valid at once, even if the chain's clock is behind.
            valid_after: U256::ZERO,
            valid_before: U256::from(expires.secs()),
            nonce: B256::from(rand::random::<[u8; 32]>()),
        };
        let token = transfer.token;
        let separator = token.domain_separator(transfer.chain_id);
        let signature = self
            .signer
            .sign_hash(&authorization.digest(&separator))
            .await
            .map_err(PayerError::signing)?;
        let payload = json!({
            "signature": Bytes::copy_from_slice(&signature.as_bytes()),
            "authorization": {
                "from": authorization.from.to_checksum(None),
                "to": authorization.to.to_checksum(None),
                "value": transfer.amount,
                "validAfter": authorization.valid_after.to_string(),
                "validBefore": authorization.valid_before.to_string(),
                "nonce": authorization.nonce,
            }
        });
        let payload = Object::of(&payload).map_err(PayerError::Payload)?;
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
            authorization: Authorization,
        }
        let known = (
            self.rpcs.get(network),
            address("asset", asset),
            payload.read::<Payload>("payload"),
        );
        let (Some(rpc), Ok(asset), Ok(payload)) = known else {
            return AuthorizationState::Unknown;
        };
        let state = self.ask_state(rpc, asset, &payload.authorization).await;
        state.unwrap_or_else(|fault| {
            warn!(%fault, network, "the state of an authorization could not be read");
            AuthorizationState::Unknown
        })
    }
}

#[cfg(test)]
mod tests {
    use alloy::signers::local::PrivateKeySigner;
    use quittance_core::json::Json;

    use super::*;

    #[tokio::test]
    async fn authorization_is_valid_for_at_most_an_hour() {
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
