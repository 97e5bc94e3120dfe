//! Solana: nodes, fee payers, blockhashes.
//!
//! A payment is a transaction that its payer has made and signed; all that is left to do is to sign it as the fee payer and to
//! send it until it is included, or its blockhash has died. So nothing is numbered, nothing is grouped, and nothing can be
//! replaced or filled: a transaction out there is included, once, or it dies within two minutes.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::future::join_all;
use quittance_core::{
    Chain, Fault, FaultKind, Finality, Found, Health, LaneId, Network, Problem, Scope, Status,
    Submission, Timestamp, Transaction, TransactionId, Watched,
};
use quittance_nodes::{Nodes, decode_reply, unavailable};
use serde_json::{Value, json};
use solana_pubkey::Pubkey;
use solana_signer::Signer as _;
use url::Url;

use crate::evidence::Evidence;
use crate::exact::SmartWallets;
use crate::known::{self, Token};
use crate::mint;
use crate::read::{self, Account, Answer, InContext, Query};
use crate::rpc::{self, Heads};
use crate::second;
use crate::status::{self, LastValidHeights};
use crate::transaction::{FeePayers, PaymentTransaction};

/// A key that signs transactions, wherever it lives.
pub type Signer = Arc<dyn solana_signer::Signer + Send + Sync>;

/// How sure the cluster must be of a transaction before its payment counts as settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commitment {
    /// A supermajority of the stake has voted for its block. No confirmed block was ever undone on mainnet.
    Confirmed,
    /// More than 31 confirmed blocks stand on it.
    Finalized,
}

/// The depth of a transaction that is finalized: its own block and the 31 that a vote is locked out for.
pub(crate) const FINALIZED_DEPTH: u64 = 32;

/// How many transactions of one fee payer may be out at once. Nodes keep no line of them and would take any number; but as
/// many as this a node is asked about in one call, and a second or two until they are confirmed makes that a hundred and more
/// payments a second.
const IN_FLIGHT_MAX: usize = status::SIGNATURES_PER_CALL;

/// How a cluster is reached and what it may cost.
#[derive(Clone)]
pub struct SolanaConfig {
    /// Which cluster: a network of the namespace `solana`.
    pub network: Network,
    /// What the nodes' genesis hash must begin with. By default the network's reference, which on public clusters is its
    /// first 32 letters.
    pub genesis: String,
    /// Its nodes, in order of preference.
    pub rpc_urls: Vec<Url>,
    /// How long a node may take to answer. Under the time a caller waits, so that a second node can be asked.
    pub rpc_timeout: Duration,
    /// Who pays fees. Each is a lane of its own, and buyers are told of them in turn.
    pub fee_payers: Vec<Signer>,
    /// The tokens that may be settled, and no others.
    pub tokens: Vec<Token>,
    /// How sure the cluster must be.
    pub commitment: Commitment,
    /// For each mint, above which amount a payment counts as settled only once two nodes say so, in
    /// atomic units. For mints that are not in it one node's word is enough.
    pub two_nodes_above: BTreeMap<Pubkey, u64>,
    /// The wallets that may pay although they are programs. Without it none: a payment is a transfer that its payer signs.
    pub smart_wallets: Option<SmartWallets>,
    /// Whether Lighthouse's assertions may be about a fee payer, as some wallets write them. The runtime hands that program an
    /// account that signs and can be written to: say yes only as long as you trust whoever can change it.
    pub allow_lighthouse_on_fee_payer: bool,
    /// The most compute units that a payment may ask for.
    pub compute_units_max: u32,
    /// The most that is paid for a compute unit, in millionths of a lamport.
    pub compute_unit_price_max: u64,
    /// The most that a payment may cost a fee payer, in lamports: its signatures, and what it asks for as priority fee. It
    /// holds beside the two limits above, which are harmless each and together ask for a hundred times as much.
    pub fee_max: u64,
    /// How old the newest block may be before a node counts as stuck.
    pub head_age_max: Duration,
    /// How much a fee payer must have to count as funded, in lamports.
    pub balance_min: u64,
}

impl SolanaConfig {
    /// The defaults for a network, with the tokens that ship with the library.
    pub fn new(network: Network, rpc_urls: Vec<Url>, fee_payers: Vec<Signer>) -> Self {
        Self {
            tokens: known::tokens(network.id()),
            genesis: network.reference().to_owned(),
            network,
            rpc_urls,
            rpc_timeout: Duration::from_secs(8),
            fee_payers,
            commitment: Commitment::Confirmed,
            two_nodes_above: BTreeMap::new(),
            smart_wallets: None,
            allow_lighthouse_on_fee_payer: false,
            // A transfer takes under 10,000, with a memo and guards under 100,000. The specification's limit for wallets that
            // are programs.
            compute_units_max: 400_000,
            // The specification's limit.
            compute_unit_price_max: 5_000_000,
            // Two signatures (10,000), and the highest priority fee that the specification lets a smart wallet ask for: 400,000
            // units at 50,000 millionths (20,000). The reference client asks for less than 1, ours for 400 at most; a
            // wallet that sets its own price for a transfer of 100,000 units may go up to 200,000 millionths.
            fee_max: 30_000,
            head_age_max: Duration::from_secs(60),
            // Rent exemption (890,880), and a hundred payments with two signatures and the priority fee that wallets pay.
            balance_min: 10_000_000,
        }
    }
}

impl fmt::Debug for SolanaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<String> = self
            .rpc_urls
            .iter()
            .map(quittance_nodes::redacted)
            .collect();
        let payers: Vec<Pubkey> = self.fee_payers.iter().map(|payer| payer.pubkey()).collect();
        f.debug_struct("SolanaConfig")
            .field("network", &self.network)
            .field("rpc_urls", &urls)
            .field("fee_payers", &payers)
            .finish_non_exhaustive()
    }
}

/// Why a configuration is not one.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The network is of another family.
    #[error("{0} is not a Solana cluster")]
    Network(Network),
    /// There is nobody to ask.
    #[error("no RPC URL")]
    NoRpc,
    /// Two nodes are to agree, and there is one.
    #[error("two nodes must agree on large payments, and there is only one RPC URL")]
    OneNode,
    /// There is nobody to pay fees.
    #[error("no fee payer")]
    NoFeePayer,
    /// The same fee payer twice.
    #[error("the fee payer {0} is given twice")]
    FeePayerTwice(Pubkey),
    /// No payment could cost so little.
    #[error(
        "the most that a payment may cost is {0} lamports, and its signatures alone cost {SIGNATURES_FEE}"
    )]
    FeeMax(u64),
    /// What is listed as a smart wallet is something else.
    #[error("{0} is no wallet, and cannot be allowed as one")]
    NoWallet(Pubkey),
    /// Any cluster would do.
    #[error("the genesis hash is empty")]
    NoGenesis,
    /// The HTTP client could not be built.
    #[error("HTTP: {0}")]
    Http(#[from] reqwest::Error),
}

/// What the two signatures of a payment cost, in lamports (Solana's documentation, "Fees": 5,000 each).
pub(crate) const SIGNATURES_FEE: u64 = 2 * 5_000;

/// What a payment costs its fee payer, in lamports, when it asks for so many compute units at so many millionths of a
/// lamport: what is asked for is paid, not what is used.
pub(crate) fn fee(units: u32, price: u64) -> u64 {
    const MILLIONTHS: u128 = 1_000_000;
    let priority = (u128::from(units) * u128::from(price)).div_ceil(MILLIONTHS);
    u64::try_from(priority)
        .unwrap_or(u64::MAX)
        .saturating_add(SIGNATURES_FEE)
}

impl SolanaConfig {
    /// What a payment can cost a fee payer at most, in lamports.
    pub fn fee_highest(&self) -> u64 {
        self.fee_max
            .min(fee(self.compute_units_max, self.compute_unit_price_max))
    }
}

/// A transaction that lacks only the fee payer's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartiallySigned {
    /// The transaction.
    pub transaction: PaymentTransaction,
    /// The addresses it takes from lookup tables, in the runtime's order.
    pub loaded: Vec<Pubkey>,
}

/// Whose turn it is to be told to buyers: the fee payers that can pay.
#[derive(Debug)]
pub(crate) struct FeePayerRotation {
    pub(crate) fee_payers: FeePayers,
    /// One bit for each fee payer that was found without money. More than 64 are never left out.
    unfunded: std::sync::atomic::AtomicU64,
    next: AtomicUsize,
}

impl FeePayerRotation {
    /// The next fee payer that can pay; any, where none can.
    pub(crate) fn next(&self) -> Option<&Pubkey> {
        let (start, unfunded) = (
            self.next.fetch_add(1, Ordering::Relaxed),
            self.unfunded.load(Ordering::Relaxed),
        );
        let fee_payers = &self.fee_payers.keys;
        let count = fee_payers.len();
        let in_turn = (0..count).map(|step| start.wrapping_add(step) % count);
        let is_unfunded = |at: &usize| *at < 64 && unfunded >> at & 1 == 1;
        let mut funded = in_turn.clone().filter(|at| !is_unfunded(at));
        fee_payers.get(funded.next().or(in_turn.clone().next())?)
    }

    fn set_unfunded(&self, at: usize, is_unfunded: bool) {
        let bit = 1_u64.checked_shl(at as u32).unwrap_or(0);
        if is_unfunded {
            self.unfunded.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.unfunded.fetch_and(!bit, Ordering::Relaxed);
        }
    }
}

/// A Solana cluster.
#[derive(Debug)]
pub struct Solana {
    config: SolanaConfig,
    lanes: Vec<LaneId>,
    rotation: Arc<FeePayerRotation>,
    rpc: Nodes,
    heads: Heads,
    last_valid_heights: LastValidHeights,
}

impl Solana {
    /// The cluster of this configuration. Asks nobody anything yet: a node that is down now may be up later, and
    /// [`health`](Chain::health) says how things are.
    ///
    /// # Errors
    /// When the configuration contradicts itself.
    pub fn new(config: SolanaConfig) -> Result<Self, ConfigError> {
        if config.network.namespace() != known::NAMESPACE {
            return Err(ConfigError::Network(config.network.clone()));
        }
        if config.genesis.is_empty() {
            return Err(ConfigError::NoGenesis);
        }
        if config.rpc_urls.is_empty() {
            return Err(ConfigError::NoRpc);
        }
        if config.fee_max < SIGNATURES_FEE {
            return Err(ConfigError::FeeMax(config.fee_max));
        }
        // One node that is listed twice would agree with itself.
        let nodes: BTreeSet<&Url> = config.rpc_urls.iter().collect();
        if !config.two_nodes_above.is_empty() && nodes.len() < 2 {
            return Err(ConfigError::OneNode);
        }
        if let Some(no_wallet) = config
            .smart_wallets
            .as_ref()
            .and_then(SmartWallets::no_wallet)
        {
            return Err(ConfigError::NoWallet(no_wallet));
        }
        let fee_payers: Vec<Pubkey> = config
            .fee_payers
            .iter()
            .map(|payer| payer.pubkey())
            .collect();
        if fee_payers.is_empty() {
            return Err(ConfigError::NoFeePayer);
        }
        let twice = fee_payers
            .iter()
            .enumerate()
            .find(|(at, key)| fee_payers.iter().take(*at).any(|earlier| earlier == *key));
        if let Some((_, twice)) = twice {
            return Err(ConfigError::FeePayerTwice(*twice));
        }
        Ok(Self {
            lanes: fee_payers
                .iter()
                .map(|key| LaneId::new(&key.to_string()))
                .collect(),
            rotation: Arc::new(FeePayerRotation {
                fee_payers: FeePayers {
                    keys: fee_payers,
                    allow_lighthouse: config.allow_lighthouse_on_fee_payer,
                },
                unfunded: 0.into(),
                next: AtomicUsize::new(0),
            }),
            rpc: rpc::connect(&config.genesis, &config.rpc_urls, config.rpc_timeout)?,
            heads: Heads::default(),
            last_valid_heights: LastValidHeights::default(),
            config,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &SolanaConfig {
        &self.config
    }

    pub(crate) fn rotation(&self) -> &Arc<FeePayerRotation> {
        &self.rotation
    }

    fn fee_payer(&self, lane: &LaneId) -> Result<&Signer, Fault> {
        let at = self.lanes.iter().position(|known| known == lane);
        at.and_then(|at| self.config.fee_payers.get(at))
            .ok_or_else(|| {
                Fault::new(
                    FaultKind::Misconfigured,
                    format_args!("there is no key for {lane}"),
                )
            })
    }
}

#[async_trait]
impl Chain for Solana {
    type Read = Query;
    type Answer = Answer;
    type Action = PartiallySigned;
    type Evidence = Evidence;
    /// Whoever sends it, a payment is one transaction, with one id: its status says all.
    type Search = Infallible;

    fn network(&self) -> &Network {
        &self.config.network
    }

    fn lanes(&self) -> &[LaneId] {
        &self.lanes
    }

    /// 1 for `confirmed`, 32 for `finalized`: between the two a node does not say more.
    fn confirmations_required(&self) -> u64 {
        match self.config.commitment {
            Commitment::Confirmed => 1,
            Commitment::Finalized => FINALIZED_DEPTH,
        }
    }

    /// What the cluster calls finalized cannot be undone, however short a time ago it was.
    fn finality(&self) -> Finality {
        Finality {
            confirmations: FINALIZED_DEPTH,
            age: Duration::ZERO,
        }
    }

    fn in_flight_max(&self) -> usize {
        IN_FLIGHT_MAX
    }

    async fn read(&self, reads: &[Query]) -> Vec<Result<Answer, Fault>> {
        read::ask(&self.rpc, reads).await
    }

    fn can_batch(&self, _: &[&PartiallySigned], _: &PartiallySigned) -> bool {
        false
    }

    async fn next_sequence(&self, _: &LaneId) -> Result<Option<u64>, Fault> {
        // Whoever is about to send learns now that nobody is there.
        let _: u64 = self.rpc.ask("getBlockHeight", json!([])).await?;
        Ok(None)
    }

    async fn prepare(
        &self,
        lane: &LaneId,
        sequence: u64,
        actions: &[&PartiallySigned],
    ) -> Result<Transaction, Fault> {
        let [
            PartiallySigned {
                transaction,
                loaded,
            },
        ] = actions
        else {
            let what = "a transaction of a payer's carries that payment and no other";
            return Err(Fault::new(FaultKind::Internal, what));
        };
        let signer = self.fee_payer(lane)?;
        let (id, bytes) = transaction.sign(signer.as_ref(), &self.rotation.fee_payers, loaded)?;
        Ok(Transaction {
            id: TransactionId::new(&id.to_string()),
            lane: lane.clone(),
            sequence,
            bytes: bytes.into(),
        })
    }

    async fn submit(&self, transaction: &Transaction) -> Submission {
        rpc::send(&self.rpc, &BASE64.encode(&transaction.bytes)).await
    }

    async fn status(&self, watched: &[Watched]) -> Vec<Result<Status<Evidence>, Fault>> {
        let found = status::fetch(
            &self.rpc,
            &self.last_valid_heights,
            self.confirmations_required(),
            watched,
        )
        .await;
        join_all(found.into_iter().map(|found| self.confirmed(found))).await
    }

    async fn find(&self, search: &Infallible) -> Result<Option<Found<Evidence>>, Fault> {
        match *search {}
    }

    async fn replace(&self, _: &Transaction) -> Result<Option<Transaction>, Fault> {
        Ok(None)
    }

    async fn noop(
        &self,
        _: &LaneId,
        _: u64,
        _: Option<&Transaction>,
    ) -> Result<Option<Transaction>, Fault> {
        Ok(None)
    }

    async fn health(&self, _: Timestamp) -> Health {
        let nodes = self.heads.check(&self.rpc, self.config.head_age_max).await;
        let mut problems = nodes.problems;
        if nodes.working == 0 {
            return Health { problems };
        }
        if let Err(fault) = self.look_at_state(&mut problems).await {
            problems.push(problem(Scope::Network, fault.detail));
        }
        Health { problems }
    }
}

impl Solana {
    /// A status, once as many nodes have said it as the amount asks for.
    async fn confirmed(
        &self,
        found: Result<Status<Evidence>, Fault>,
    ) -> Result<Status<Evidence>, Fault> {
        let found = found?;
        if let Status::Included {
            id,
            confirmations,
            evidence,
        } = &found
            && *confirmations >= self.confirmations_required()
            && second::is_needed(&self.config.two_nodes_above, evidence)
        {
            second::confirm(&self.rpc, id, evidence).await?;
        }
        Ok(found)
    }

    /// Balances and mints, in one round trip.
    async fn look_at_state(&self, problems: &mut Vec<Problem>) -> Result<(), Fault> {
        let options = json!({ "commitment": "confirmed" });
        let balances = self.lanes.iter().map(|lane| {
            quittance_nodes::Request::new("getBalance", json!([lane.address(), options]))
        });
        let mut answers = self
            .rpc
            .ask_many(&balances.collect::<Vec<_>>())
            .await?
            .into_iter();
        for (at, lane) in self.lanes.iter().enumerate() {
            let balance: InContext<u64> = decode_reply(answers.next().unwrap_or(Ok(Value::Null)))?;
            let is_unfunded = balance.value < self.config.balance_min;
            self.rotation.set_unfunded(at, is_unfunded);
            if is_unfunded {
                let what = format!(
                    "the fee payer {lane} has {} lamports and needs at least {}: send it some SOL",
                    balance.value, self.config.balance_min
                );
                problems.push(problem(Scope::Lane(lane.clone()), what));
            }
        }
        let mints = Query {
            accounts: self.config.tokens.iter().map(|token| token.mint).collect(),
            simulate: None,
            with_inner_instructions: false,
        };
        let found = read::ask(&self.rpc, &[mints]).await.pop();
        let found = found.unwrap_or_else(|| Err(unavailable("an answer is missing")))?;
        let tokens = self.config.tokens.iter().zip(&found.accounts);
        problems
            .extend(tokens.filter_map(|(token, account)| token_problem(token, account.as_ref())));
        Ok(())
    }
}

/// Whether the mint is there, is what is configured, and cannot break payments.
fn token_problem(token: &Token, account: Option<&Account>) -> Option<Problem> {
    let what = match account {
        None => "there is no mint; is the address right for this cluster?".to_owned(),
        Some(account) => match mint::judge(account, token.program, &token.allowed) {
            Ok(found) if found.decimals == token.decimals => return None,
            Ok(found) => format!(
                "has {} decimal places, not the configured {}",
                found.decimals, token.decimals
            ),
            Err(problem) => format!("is refused: {problem}"),
        },
    };
    let what = format!("the token {} at {}: {what}", token.symbol, token.mint);
    Some(problem(Scope::Asset(token.mint.to_string()), what))
}

fn problem(scope: Scope, what: impl fmt::Display) -> Problem {
    Problem {
        scope,
        what: what.to_string(),
    }
}
