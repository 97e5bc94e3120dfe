//! The buyer's side: signs an authorization for payment requirements.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alloy::consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy::eips::eip2718::Encodable2718 as _;
use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::primitives::{Address, B256, Bytes, TxKind, U64, U128, U256};
use alloy::providers::Provider;
use alloy::rpc::types::TransactionRequest;
use alloy::serde::WithOtherFields;
use alloy::signers::Signer;
use alloy::sol_types::SolCall;
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::kit::KnownTokens;
use quittance_core::wire::PaymentRequirements;
use quittance_core::{
    Amount, Asset, AuthorizationState, Fault, Network, Payer, PayerError, Quote, QuoteError,
    SignedPayment, Timestamp,
};
use quittance_nodes::unavailable;
use serde_json::{Value, json};
use tracing::warn;
use url::Url;

use super::Signed;
use super::approval::{self, APPROVAL_GAS_SPONSORING};
use super::permit2::{ExactPermit, ProxyPermit as _};
use super::sponsoring;
use super::terms::{Extra, NAME, Payload};
use crate::abi;
use crate::chain::results::Head;
use crate::chain::rpc::{self, Rpc};
use crate::chain::transport::fault;
use crate::chain::{AuthorizationSearch, used};
use crate::eip2612::{self, TokenApproval};
use crate::eip3009::{Authorization, AuthorizationUse};
use crate::hex::address;
use crate::known;
use crate::permit2::{EXACT_PERMIT2_PROXY, PERMIT2, PermitUse, WitnessPermit, domain_separator};
use crate::token::{Token, TransferMethod};

/// The longest validity that is signed, in seconds, whatever the seller asks for. An authorization
/// is worth money as long as it is valid.
pub(crate) const VALIDITY_MAX_SECS: u64 = 3600;

/// How far the newest block must be past an authorization's end before the authorization counts as
/// expired without use, in seconds. Until then, a reorganisation could replace blocks before the
/// end. The time is five blocks of Ethereum, where no reorganisation since proof of stake was
/// deeper than two. On layer 2 networks it is at least thirty blocks.
const SETTLED_SECS: u64 = 60;

/// The highest tip for a unit of gas of an approval, in wei: a tenth of a gwei, which is enough on
/// most chains.
const APPROVAL_TIP_MAX: u128 = 100_000_000;

/// The time limit for a node's reply.
const RPC_TIMEOUT: Duration = Duration::from_secs(8);

/// Pays `exact` requirements on any EVM chain with one key.
///
/// It pays by the asset transfer method that the requirements name. For `permit2`, the account must
/// have approved the Permit2 contract at the token; otherwise the seller refuses the payment with
/// `permit2_allowance_required`. With a node, and if the seller offers `eip2612GasSponsoring`, it
/// signs the missing approval itself: of the payment's amount, at a token that
/// [supports it](Token::supports_eip2612). For other tokens, and if the seller offers
/// `erc20ApprovalGasSponsoring`, it signs a transaction that approves Permit2 for all amounts. The
/// facilitator sends that one, and gives the account the coin for its gas.
///
/// It knows the tokens that ship with the library, and those added by
/// [`with_token`](Self::with_token). It signs what these tables say about a token, and quotes no
/// requirements that differ from them.
///
/// With a node of the network ([`with_rpc`](Self::with_rpc)) a buyer can find the outcome of a
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

    /// The same payer, with nodes of a network that are asked for the outcome of payments there.
    ///
    /// They are asked if a payment has expired and the seller did not report its outcome. Their
    /// replies decide whether a second payment is signed. They are also asked whether the account
    /// has approved Permit2, if the seller offers to submit a signed approval.
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

    /// The address of the key.
    pub(crate) fn signer_address(&self) -> Address {
        self.signer.address()
    }

    /// What is signed for these requirements of `exact`, and by which method, if this payer can
    /// pay them.
    fn transfer(
        &self,
        requirements: &PaymentRequirements,
    ) -> Result<(Transfer<'_>, TransferMethod), QuoteError> {
        self.transfer_by(NAME, requirements, |token| {
            transfer_method(requirements, token)
        })
    }

    /// What is signed for these requirements of a scheme, with what `check` finds in their `extra`.
    pub(crate) fn transfer_by<T>(
        &self,
        scheme: &str,
        requirements: &PaymentRequirements,
        check: impl FnOnce(&Token) -> Result<T, QuoteError>,
    ) -> Result<(Transfer<'_>, T), QuoteError> {
        transfer_of(&self.tokens, scheme, requirements, check)
    }

    /// A payload with an EIP-3009 authorization that is valid until `expires`.
    async fn sign_authorization(
        &self,
        transfer: &Transfer<'_>,
        expires: Timestamp,
    ) -> Result<Value, PayerError> {
        let authorization = Authorization {
            from: self.signer.address(),
            to: transfer.pay_to,
            value: transfer.amount.units(),
            // Valid at once, even if the chain's clock is behind.
            valid_after: U256::ZERO,
            valid_before: U256::from(expires.secs()),
            nonce: B256::from(rand::random::<[u8; 32]>()),
        };
        let separator = transfer.token.domain_separator(transfer.chain_id);
        Ok(json!({
            "signature": self.sign(authorization.digest(&separator)).await?,
            "authorization": {
                "from": authorization.from.to_checksum(None),
                "to": authorization.to.to_checksum(None),
                "value": transfer.amount,
                "validAfter": authorization.valid_after.to_string(),
                "validBefore": authorization.valid_before.to_string(),
                "nonce": authorization.nonce,
            }
        }))
    }

    /// A permit for the x402 proxy that is valid until `expires`, and its payload.
    async fn sign_permit(
        &self,
        transfer: &Transfer<'_>,
        expires: Timestamp,
    ) -> Result<(WitnessPermit, Value), PayerError> {
        let permit = self.new_permit(transfer, EXACT_PERMIT2_PROXY, expires);
        let authorization = ExactPermit {
            permit,
            to: transfer.pay_to,
            // Valid at once, even if the chain's clock is behind.
            valid_after: U256::ZERO,
        };
        let digest = authorization.digest(&domain_separator(transfer.chain_id));
        let payload = authorization.payload(&self.sign(digest).await?);
        Ok((authorization.permit, payload))
    }

    /// The approval of Permit2 for this permit, as an extension of the payment. `None` if none was
    /// `offered` that the token accepts, or if the account does not need one.
    ///
    /// Without a node the payer cannot know that, and signs nothing. A seller that needs the
    /// approval then refuses the payment.
    pub(crate) async fn sign_approval(
        &self,
        transfer: &Transfer<'_>,
        permit: &WitnessPermit,
        offered: Option<&Object>,
    ) -> Result<Option<Object>, PayerError> {
        let by_permit = transfer.token.supports_eip2612
            && sponsoring::is_offered(offered, sponsoring::GAS_SPONSORING);
        let by_transaction = sponsoring::is_offered(offered, APPROVAL_GAS_SPONSORING);
        let network = transfer.network.id();
        let rpc = self.rpcs.get(network);
        let Some(rpc) = rpc.filter(|_| by_permit || by_transaction) else {
            return Ok(None);
        };
        let missing = async || -> Result<Option<MissingApproval>, Fault> {
            Ok(match is_missing(rpc, permit).await? {
                false => None,
                true if by_permit => {
                    Some(MissingApproval::Permit(signed_approval(rpc, permit).await?))
                }
                true => Some(MissingApproval::Transaction(
                    approval_transaction(rpc, permit, transfer.chain_id).await?,
                )),
            })
        };
        let missing = missing().await.unwrap_or_else(|fault| {
            warn!(%fault, network, "the allowance of Permit2 could not be read");
            None
        });
        let extension = match missing {
            None => return Ok(None),
            Some(MissingApproval::Permit(approval)) => {
                let separator = transfer.token.domain_separator(transfer.chain_id);
                let signature = self.sign(approval.digest(&separator)).await?;
                sponsoring::signed(permit.token, &approval, &signature)
            }
            Some(MissingApproval::Transaction(unsigned)) => {
                let signature = self.signer.sign_hash(&unsigned.signature_hash()).await;
                let signature = signature.map_err(PayerError::signing)?;
                let signed = TxEnvelope::from(unsigned.into_signed(signature));
                approval::signed(permit, &signed.encoded_2718().into())
            }
        };
        let extension = Object::of(&extension).map_err(PayerError::Payload)?;
        Ok(Some(extension))
    }

    /// A new permit of this amount for a proxy, until `expires`.
    pub(crate) fn new_permit(
        &self,
        transfer: &Transfer<'_>,
        proxy: Address,
        expires: Timestamp,
    ) -> WitnessPermit {
        let permitted = (transfer.token.address, transfer.amount.units());
        let nonce = U256::from_be_bytes(rand::random::<[u8; 32]>());
        // A block at the deadline itself may still use the permit.
        let deadline = U256::from(expires.secs().saturating_sub(1));
        WitnessPermit::new(self.signer.address(), permitted, proxy, nonce, deadline)
    }

    pub(crate) async fn sign(&self, digest: B256) -> Result<Bytes, PayerError> {
        let signature = self.signer.sign_hash(&digest).await;
        let signature = signature.map_err(PayerError::signing)?;
        Ok(Bytes::copy_from_slice(&signature.as_bytes()))
    }

    /// The nodes of a network, if the payer has any.
    pub(crate) fn rpc(&self, network: &str) -> Option<&Rpc> {
        self.rpcs.get(network)
    }

    /// The state of an authorization, by the nodes of its network.
    pub(crate) async fn state_of(&self, network: &str, used: Use) -> AuthorizationState {
        let Some(rpc) = self.rpcs.get(network) else {
            return AuthorizationState::Unknown;
        };
        let state = used.state(rpc).await;
        state.unwrap_or_else(|fault| {
            warn!(%fault, network, "the state of an authorization could not be read");
            AuthorizationState::Unknown
        })
    }
}

/// An approval that an account has to sign for its permit.
enum MissingApproval {
    Permit(TokenApproval),
    Transaction(TxEip1559),
}

/// A word that the permit's token returns.
async fn ask_token(rpc: &Rpc, permit: &WitnessPermit, data: Bytes) -> Result<U256, Fault> {
    let call = rpc::call(Some(permit.token), data);
    let word: B256 = rpc.ask("eth_call", (call, BlockId::latest())).await?;
    Ok(U256::from_be_bytes(word.0))
}

/// Whether the owner has approved less than this permit needs.
async fn is_missing(rpc: &Rpc, permit: &WitnessPermit) -> Result<bool, Fault> {
    let allowance = ask_token(rpc, permit, permit.allowance_call()).await?;
    Ok(allowance < permit.amount)
}

/// The approval that the owner has to sign for this permit. It is for no more than the permit, and
/// for no longer.
async fn signed_approval(rpc: &Rpc, permit: &WitnessPermit) -> Result<TokenApproval, Fault> {
    let nonce = ask_token(rpc, permit, eip2612::nonce_call(permit.owner)).await?;
    let (owner, value, deadline) = (permit.owner, permit.amount, permit.deadline);
    Ok(TokenApproval::new(owner, PERMIT2, value, nonce, deadline))
}

/// The transaction by which the owner approves Permit2. As every client, it approves all: Permit2
/// moves only what a permit allows, and the owner needs no second transaction.
async fn approval_transaction(
    rpc: &Rpc,
    permit: &WitnessPermit,
    chain_id: u64,
) -> Result<TxEip1559, Fault> {
    let owner = permit.owner;
    let input = abi::Erc20::approveCall {
        spender: PERMIT2,
        amount: U256::MAX,
    };
    let input: Bytes = input.abi_encode().into();
    let call = TransactionRequest {
        from: Some(owner),
        ..rpc::call(Some(permit.token), input.clone())
    };
    let gas: U64 = rpc
        .ask("eth_estimateGas", (call, BlockId::latest()))
        .await?;
    let nonce: U64 = rpc
        .ask("eth_getTransactionCount", (owner, BlockId::latest()))
        .await?;
    let price: U128 = rpc.ask("eth_gasPrice", ()).await?;
    // The base fee can double within six full blocks.
    let max_fee_per_gas = price.to::<u128>().saturating_mul(2);
    Ok(TxEip1559 {
        chain_id,
        nonce: nonce.to(),
        // Some tokens need more gas by the time it is included.
        gas_limit: gas.to::<u64>().saturating_mul(5) / 4,
        max_fee_per_gas,
        max_priority_fee_per_gas: max_fee_per_gas.min(APPROVAL_TIP_MAX),
        to: TxKind::Call(permit.token),
        value: U256::ZERO,
        access_list: Default::default(),
        input,
    })
}

/// A signed authorization, as the chain shows its use.
pub(crate) struct Use {
    contract: Address,
    question: Bytes,
    /// The permit, whose state is a bit of the answer. Without one the answer is a truth value.
    permit: Option<WitnessPermit>,
    /// The first block time at which it cannot be used, in seconds since 1970.
    valid_before: U256,
    search: AuthorizationSearch,
}

impl Use {
    fn of(asset: Address, signed: &Signed) -> Self {
        match signed {
            Signed::Eip3009(authorization) => Self::of_authorization(asset, authorization),
            Signed::Permit2(ExactPermit { permit, to, .. }) => {
                Self::of_permit(permit, PermitUse::new(permit, *to))
            }
        }
    }

    /// The use of an authorization of this token, to transfer or to receive.
    pub(crate) fn of_authorization(asset: Address, authorization: &Authorization) -> Self {
        let Authorization { from, nonce, .. } = authorization;
        let search = AuthorizationUse::new(asset, *from, *nonce);
        Self {
            contract: asset,
            question: authorization.state_call(),
            permit: None,
            valid_before: authorization.valid_before,
            search: AuthorizationSearch::Eip3009(search),
        }
    }

    /// The use of a permit by this transfer.
    pub(crate) fn of_permit(permit: &WitnessPermit, transfer: PermitUse) -> Self {
        Self {
            contract: PERMIT2,
            question: permit.nonce_call(),
            permit: Some(permit.clone()),
            valid_before: permit.valid_before(),
            search: AuthorizationSearch::Permit2(transfer),
        }
    }

    /// The state of the authorization by the chain.
    ///
    /// # Errors
    /// If no node answers.
    pub(crate) async fn state(&self, rpc: &Rpc) -> Result<AuthorizationState, Fault> {
        let provider = rpc.provider();
        let newest = (BlockNumberOrTag::Latest, false);
        let newest: Head = rpc.ask("eth_getBlockByNumber", newest).await?;
        let call = rpc::call(Some(self.contract), self.question.clone());
        // The state of the same block as the time.
        let state = provider.call(WithOtherFields::new(call));
        let block = BlockId::number(newest.number.to());
        let state = state.block(block).await.map_err(fault)?;
        let used = self
            .is_used(&state)
            .ok_or_else(|| unavailable("the contract did not report the authorization's state"))?;
        let end = self.valid_before.saturating_add(U256::from(SETTLED_SECS));
        Ok(if used {
            AuthorizationState::Used(self.transaction(rpc).await)
        } else if U256::from(newest.timestamp) >= end {
            AuthorizationState::Expired
        } else {
            AuthorizationState::Usable
        })
    }

    /// Whether the contract says that the authorization was used; `None` if it does not say.
    fn is_used(&self, state: &[u8]) -> Option<bool> {
        match &self.permit {
            None => abi::Eip3009::authorizationStateCall::abi_decode_returns_validate(state).ok(),
            Some(permit) => {
                let word = B256::from(<[u8; 32]>::try_from(state).ok()?);
                Some(permit.is_used(word))
            }
        }
    }

    /// The transaction that used the authorization, if the nodes find it.
    async fn transaction(&self, rpc: &Rpc) -> Option<String> {
        let found = used::find(rpc, &self.search).await.ok().flatten();
        found.map(|found| found.id.to_string())
    }
}

impl fmt::Debug for ExactPayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExactPayer({})", self.address)
    }
}

/// What is signed, from the requirements and from the payer's own tokens.
pub(crate) struct Transfer<'a> {
    pub(crate) network: Network,
    pub(crate) chain_id: u64,
    pub(crate) token: &'a Token,
    pub(crate) pay_to: Address,
    pub(crate) amount: Amount,
}

impl Transfer<'_> {
    pub(crate) fn quote(self) -> Quote {
        Quote {
            network: self.network.id().to_owned(),
            pay_to: self.pay_to.to_checksum(None),
            asset: Asset {
                address: self.token.address.to_checksum(None),
                symbol: self.token.symbol.clone(),
                decimals: self.token.decimals,
            },
            amount: self.amount,
            locks: Amount::ZERO,
        }
    }
}

/// What is signed for these requirements of a scheme, with what `check` finds in their `extra`.
/// `tokens` are those that the payer knows.
pub(crate) fn transfer_of<'a, T>(
    tokens: &'a KnownTokens<Token>,
    scheme: &str,
    requirements: &PaymentRequirements,
    check: impl FnOnce(&Token) -> Result<T, QuoteError>,
) -> Result<(Transfer<'a>, T), QuoteError> {
    if requirements.scheme != scheme {
        return Err(QuoteError::NotSupported);
    }
    let network = known::network(&requirements.network).ok_or(QuoteError::NotSupported)?;
    let chain_id = known::chain_id(&network).ok_or(QuoteError::NotSupported)?;
    let address = |name: &str, text: &str| {
        address(name, text).map_err(|error| QuoteError::unpayable(error.to_string()))
    };
    let asset = address("asset", &requirements.asset)?;
    let token = tokens.find(network.id(), &asset);
    let token = token.ok_or_else(|| {
        QuoteError::unpayable(format!(
            "the payer does not know the asset {asset} on {}: add it with with_token",
            network.id()
        ))
    })?;
    let found = check(token)?;
    let amount = requirements.amount.parse();
    let transfer = Transfer {
        chain_id,
        token,
        pay_to: address("payTo", &requirements.pay_to)?,
        amount: amount.map_err(|error| QuoteError::unpayable(format!("amount: {error}")))?,
        network,
    };
    Ok((transfer, found))
}

/// When a payment for these requirements expires.
pub(crate) fn expiry(requirements: &PaymentRequirements, now: Timestamp) -> Timestamp {
    now.plus_secs(requirements.max_timeout_seconds.min(VALIDITY_MAX_SECS))
}

/// The method that the requirements ask for.
///
/// For EIP-3009 they must mean the token's own EIP-712 domain. Batching wallets ask for `exact`
/// payments of USDC that are signed for the domain of their own contract. Signed for the token
/// instead, such a payment could be taken without paying for anything. A permit is signed for the
/// domain of Permit2, which is the same for every token.
pub(crate) fn transfer_method(
    requirements: &PaymentRequirements,
    token: &Token,
) -> Result<TransferMethod, QuoteError> {
    let extra = requirements.extra.as_ref();
    let extra = extra.ok_or_else(|| {
        QuoteError::unpayable("extra is missing: it must have the token's name and version")
    })?;
    let extra: Extra = extra
        .read("extra")
        .map_err(|error| QuoteError::unpayable(error.to_string()))?;
    let method = extra.asset_transfer_method.as_deref();
    let method = TransferMethod::from_name(method.unwrap_or(TransferMethod::Eip3009.name()))
        .ok_or_else(|| {
            let method = method.unwrap_or_default();
            QuoteError::unpayable(format!("the transfer method {method} is not supported"))
        })?;
    match (method, token.method) {
        (TransferMethod::Permit2, _) => {
            check_contract(extra.verifying_contract, PERMIT2).map(|()| method)
        }
        (TransferMethod::Eip3009, TransferMethod::Eip3009) => {
            check_domain(extra, token).map(|()| method)
        }
        (TransferMethod::Eip3009, TransferMethod::Permit2) => {
            let what = format!("{} does not support EIP-3009", token.symbol);
            Err(QuoteError::unpayable(what))
        }
    }
}

/// Checks that `extra` names the token's own EIP-712 domain.
fn check_domain(extra: Extra, token: &Token) -> Result<(), QuoteError> {
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
    check_contract(extra.verifying_contract, token.address)
}

/// Checks that the requirements, if they name a contract whose domain is signed, name this one.
pub(crate) fn check_contract(named: Option<Value>, signed: Address) -> Result<(), QuoteError> {
    let other = named.filter(|contract| {
        let contract = contract.as_str().and_then(|text| address("", text).ok());
        contract != Some(signed)
    });
    match other {
        Some(other) => Err(QuoteError::unpayable(format!(
            "extra.verifyingContract is {other}: the signature would be for another contract than {signed}"
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
        let (transfer, _) = self.transfer(requirements)?;
        Ok(transfer.quote())
    }

    async fn pay(
        &self,
        requirements: &PaymentRequirements,
        offered: Option<&Object>,
        now: Timestamp,
    ) -> Result<SignedPayment, PayerError> {
        let (transfer, method) = self.transfer(requirements)?;
        let expires = expiry(requirements, now);
        let (payload, extensions) = match method {
            TransferMethod::Eip3009 => (self.sign_authorization(&transfer, expires).await?, None),
            TransferMethod::Permit2 => {
                let (permit, payload) = self.sign_permit(&transfer, expires).await?;
                let approval = self.sign_approval(&transfer, &permit, offered).await?;
                (payload, approval)
            }
        };
        let payload = Object::of(&payload).map_err(PayerError::Payload)?;
        Ok(SignedPayment {
            extensions,
            ..SignedPayment::new(payload, expires)
        })
    }

    async fn authorization_state(
        &self,
        network: &str,
        asset: &str,
        payload: &Object,
        _expires: Timestamp,
    ) -> AuthorizationState {
        let payload = payload.read::<Payload>("payload").ok();
        let signed = payload.and_then(|payload| payload.into_signed().ok());
        let (Ok(asset), Some((signed, _))) = (address("asset", asset), signed) else {
            return AuthorizationState::Unknown;
        };
        self.state_of(network, Use::of(asset, &signed)).await
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
            let paid = payer.pay(&requirements, None, now).await.unwrap();
            assert_eq!(paid.expires, now.plus_secs(valid));
            let before = format!("\"validBefore\":\"{}\"", paid.expires.secs());
            let payload = paid.payload.text();
            assert!(payload.contains(&before), "{payload}");
        }
    }
}
