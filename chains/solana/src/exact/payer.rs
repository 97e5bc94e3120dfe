//! The buyer's side: payment requirements become a signed transaction.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use quittance_core::json::Object;
use quittance_core::kit::KnownTokens;
use quittance_core::wire::PaymentRequirements;
use quittance_core::{
    Amount, Asset, AuthorizationState, Network, Payer, PayerError, Quote, QuoteError,
    SignedPayment, Timestamp,
};
use serde_json::json;
use solana_compute_budget_interface::ComputeBudgetInstruction;
use solana_hash::Hash;
use solana_message::{VersionedMessage, v0};
use solana_pubkey::Pubkey;
use solana_signature::Signature;
use solana_signer::Signer as _;
use solana_transaction::versioned::VersionedTransaction;
use spl_memo_interface::instruction::build_memo;
use spl_token_2022_interface::instruction::transfer_checked;
use tracing::warn;
use url::Url;

use super::state::{self, EXPIRES_SECS};
use super::terms::{Extra, NAME};
use crate::chain::rpc::Rpc;
use crate::chain::{Signer, SolanaConfigError, blockhash};
use crate::instruction::{MEMO, MEMO_MAX};
use crate::known::{self, NAMESPACE};
use crate::token::Token;

/// The requested compute units: a transfer, a memo and the compute budget itself take less than
/// 20,000 with either token program.
const COMPUTE_UNITS: u32 = 40_000;

/// The highest price for a compute unit, in micro-lamports: at most 400 lamports for a payment.
const COMPUTE_UNIT_PRICE_MAX: u64 = 10_000;

/// The time limit for a node's reply.
const RPC_TIMEOUT: Duration = Duration::from_secs(8);

/// Pays `exact` requirements on Solana with one key.
///
/// The payer has its own table of tokens, which begins with those that ship with the library. The
/// seller's description of a token never changes what is signed. Add tokens with
/// [`with_token`](Self::with_token), and a node for each cluster with [`with_rpc`](Self::with_rpc).
///
/// Without a node the payer can pay only sellers that offer a blockhash, and trusts it. An expired
/// one costs a failed payment. With one of another cluster the payment can be included there, where
/// it has value only if the same mint exists there.
#[derive(Clone)]
pub struct ExactPayer {
    signer: Signer,
    address: String,
    tokens: KnownTokens<Token>,
    rpcs: BTreeMap<String, Arc<Rpc>>,
}

impl ExactPayer {
    /// A payer with this key.
    pub fn new(signer: impl solana_signer::Signer + Send + Sync + 'static) -> Self {
        Self {
            address: signer.pubkey().to_string(),
            signer: Arc::new(signer),
            tokens: KnownTokens::new(known::tokens),
            rpcs: BTreeMap::new(),
        }
    }

    /// The same payer, with a token of the network with this CAIP-2 identifier.
    #[must_use]
    pub fn with_token(mut self, network: &str, token: Token) -> Self {
        self.tokens.add(network, token);
        self
    }

    /// The same payer, with nodes of a cluster. It asks them for blockhashes, and for the state of
    /// expired payments that the seller does not report. Their genesis hash must begin with the
    /// network's reference; otherwise they are not asked.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn with_rpc(self, network: &Network, urls: &[Url]) -> Result<Self, PayerError> {
        self.with_rpc_and_genesis(network, network.reference(), urls)
    }

    /// As [`with_rpc`](Self::with_rpc), for a cluster whose genesis hash begins with this prefix
    /// and not with the network's reference, as [`SolanaConfig::genesis`](crate::SolanaConfig).
    ///
    /// # Errors
    /// When the prefix is empty, or no HTTP client can be made.
    pub fn with_rpc_and_genesis(
        mut self,
        network: &Network,
        genesis: &str,
        urls: &[Url],
    ) -> Result<Self, PayerError> {
        // A node of another cluster knows none of this one's payments, so each would have expired.
        if genesis.is_empty() {
            return Err(PayerError::chain(SolanaConfigError::NoGenesis));
        }
        let rpc = Rpc::new(genesis, urls, RPC_TIMEOUT).map_err(PayerError::chain)?;
        self.rpcs.insert(network.id().to_owned(), Arc::new(rpc));
        Ok(self)
    }

    /// The order for these requirements, if this payer can pay them.
    fn order(&self, requirements: &PaymentRequirements) -> Result<Order, QuoteError> {
        if requirements.scheme != NAME {
            return Err(QuoteError::NotSupported);
        }
        let network = known::network(&requirements.network).ok_or(QuoteError::NotSupported)?;
        if network.namespace() != NAMESPACE {
            return Err(QuoteError::NotSupported);
        }
        let mint = address("asset", &requirements.asset)?;
        let token = self.tokens.find(network.id(), &mint).cloned();
        let token = token.ok_or_else(|| {
            QuoteError::unpayable(format!(
                "the payer has no token with the mint {mint} on this network; add it to the payer"
            ))
        })?;
        let extra = requirements.extra.as_ref();
        let extra = extra.ok_or_else(|| QuoteError::unpayable("extra.feePayer is missing"))?;
        let extra: Extra = extra
            .read("extra")
            .map_err(|error| QuoteError::unpayable(error.to_string()))?;
        let order = Order {
            pay_to: address("payTo", &requirements.pay_to)?,
            amount: amount(&requirements.amount)?,
            fee_payer: self.fee_payer(&extra)?,
            memo: extra.memo.clone(),
            blockhash: self.offered_blockhash(&network, &extra)?,
            token,
            network,
        };
        check_order(&order, &extra)?;
        Ok(order)
    }

    fn fee_payer(&self, extra: &Extra) -> Result<Pubkey, QuoteError> {
        let missing = || QuoteError::unpayable("extra.feePayer is missing");
        let fee_payer = extra.fee_payer.as_deref().ok_or_else(missing)?;
        let fee_payer = address("extra.feePayer", fee_payer)?;
        if fee_payer == self.signer.pubkey() {
            return Err(QuoteError::unpayable("extra.feePayer is the payer itself"));
        }
        Ok(fee_payer)
    }

    /// The seller's blockhash. A payer with a node of the cluster needs none.
    fn offered_blockhash(
        &self,
        network: &Network,
        extra: &Extra,
    ) -> Result<Option<Hash>, QuoteError> {
        let offered = extra
            .recent_blockhash
            .as_deref()
            .map(str::parse)
            .transpose();
        match offered {
            Err(_) | Ok(None) if self.rpcs.contains_key(network.id()) => Ok(None),
            Ok(Some(offered)) => Ok(Some(offered)),
            Ok(None) => Err(QuoteError::unpayable(format!(
                "the payer has no node of {network}, and the seller offers no blockhash: add a node"
            ))),
            Err(_) => Err(QuoteError::unpayable(
                "extra.recentBlockhash is not 32 bytes in base58",
            )),
        }
    }

    /// A valid blockhash: from the payer's own node, else the seller's.
    ///
    /// The own node comes first because a seller cannot deceive it. With an expired blockhash of a
    /// seller, a payment is rejected until it has expired, and a round trip is short compared with
    /// a settlement. Both blockhashes exist already, so the payment expires no later than with the
    /// newest.
    async fn blockhash(&self, order: &Order) -> Result<Hash, PayerError> {
        let Some(rpc) = self.rpcs.get(order.network.id()) else {
            let missing = || PayerError::chain("the payer has no node to ask for a blockhash");
            return order.blockhash.ok_or_else(missing);
        };
        match (blockhash::latest(rpc).await, order.blockhash) {
            (Ok(latest), _) => Ok(latest.blockhash),
            (Err(_), Some(offered)) => Ok(offered),
            (Err(fault), None) => Err(PayerError::chain(fault)),
        }
    }
}

impl fmt::Debug for ExactPayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExactPayer({})", self.address)
    }
}

/// What the payer signs, from the requirements and from its own table of tokens.
struct Order {
    network: Network,
    token: Token,
    pay_to: Pubkey,
    amount: u64,
    fee_payer: Pubkey,
    memo: Option<String>,
    blockhash: Option<Hash>,
}

fn address(field: &str, text: &str) -> Result<Pubkey, QuoteError> {
    let wrong = |_| QuoteError::unpayable(format!("{field} is not a Solana address"));
    text.parse().map_err(wrong)
}

/// A token account holds at most a u64.
fn amount(text: &str) -> Result<u64, QuoteError> {
    let amount: Result<Amount, _> = text.parse();
    let amount = amount.map_err(|error| QuoteError::unpayable(format!("amount: {error}")))?;
    u64::try_from(amount.units())
        .map_err(|_| QuoteError::unpayable("amount: more than a token account can hold"))
}

/// Checks that must fail before a payment is chosen, when other payment options are still open.
fn check_order(order: &Order, extra: &Extra) -> Result<(), QuoteError> {
    let program = order.token.program.id().to_string();
    if extra
        .token_program
        .as_ref()
        .is_some_and(|said| *said != program)
    {
        let what = "extra.tokenProgram is not the program of the token";
        return Err(QuoteError::unpayable(what));
    }
    let memo = extra.memo.as_ref().map_or(0, String::len);
    if memo > MEMO_MAX {
        let what = format!("extra.memo has {memo} bytes, more than {MEMO_MAX}");
        return Err(QuoteError::unpayable(what));
    }
    Ok(())
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
            pay_to: order.pay_to.to_string(),
            asset: Asset {
                address: order.token.mint.to_string(),
                symbol: order.token.symbol,
                decimals: order.token.decimals,
            },
            amount: order.amount.into(),
            locks: Amount::ZERO,
        })
    }

    async fn pay(
        &self,
        requirements: &PaymentRequirements,
        _offered: Option<&Object>,
        now: Timestamp,
    ) -> Result<SignedPayment, PayerError> {
        let order = self.order(requirements)?;
        let blockhash = self.blockhash(&order).await?;
        let message = message(&self.signer.pubkey(), &order, blockhash)?;
        let signature = self
            .signer
            .try_sign_message(&message.serialize())
            .map_err(PayerError::signing)?;
        let transaction = VersionedTransaction {
            // The facilitator adds the fee payer's signature.
            signatures: vec![Signature::default(), signature],
            message,
        };
        let bytes = wincode::serialize(&transaction).map_err(PayerError::signing)?;
        let payload = json!({ "transaction": BASE64.encode(bytes) });
        let payload = Object::of(&payload).map_err(PayerError::Payload)?;
        Ok(SignedPayment::new(payload, now.plus_secs(EXPIRES_SECS)))
    }

    async fn authorization_state(
        &self,
        network: &str,
        _asset: &str,
        payload: &Object,
        expires: Timestamp,
    ) -> AuthorizationState {
        let Some(rpc) = self.rpcs.get(network) else {
            return AuthorizationState::Unknown;
        };
        let state = state::fetch(rpc, &self.signer.pubkey(), payload, expires).await;
        state.unwrap_or_else(|fault| {
            warn!(%fault, network, "the state of a payment is unknown");
            AuthorizationState::Unknown
        })
    }
}

/// The message: limit, price, transfer, memo. The random memo makes two equal payments in one block
/// different transactions; with the seller's memo, the random price does.
fn message(payer: &Pubkey, order: &Order, blockhash: Hash) -> Result<VersionedMessage, PayerError> {
    let token = &order.token;
    let memo = order
        .memo
        .clone()
        .unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
    let price = rand::random_range(1..=COMPUTE_UNIT_PRICE_MAX);
    let transfer = transfer_checked(
        &token.program.id(),
        &token.account_of(payer),
        &token.mint,
        &token.account_of(&order.pay_to),
        payer,
        &[],
        order.amount,
        token.decimals,
    );
    let instructions = [
        ComputeBudgetInstruction::set_compute_unit_limit(COMPUTE_UNITS),
        ComputeBudgetInstruction::set_compute_unit_price(price),
        transfer.map_err(PayerError::signing)?,
        build_memo(&MEMO, memo.as_bytes(), &[]),
    ];
    let message = v0::Message::try_compile(&order.fee_payer, &instructions, &[], blockhash);
    Ok(VersionedMessage::V0(message.map_err(PayerError::signing)?))
}
