//! Solana: nodes, fee payers and blockhashes.
//!
//! The payer makes and signs the transaction of a payment. This program adds the fee payer's
//! signature and submits the transaction until it is included or its blockhash has expired. So
//! transactions have no sequence numbers, are never batched, and cannot be replaced or cancelled: a
//! transaction is included once, or it expires within two minutes.

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

/// A key that signs transactions, in memory or in a service.
pub type Signer = Arc<dyn solana_signer::Signer + Send + Sync>;

/// The commitment that a transaction needs before its payment counts as settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commitment {
    /// A supermajority of the stake has voted for its block. No confirmed block was ever undone on
    /// mainnet.
    Confirmed,
    /// More than 31 confirmed blocks follow its block.
    Finalized,
}

/// The confirmations of a finalized transaction: its own block and the 31 that a vote is locked out
/// for.
pub(crate) const FINALIZED_CONFIRMATIONS: u64 = 32;

/// The most transactions of one fee payer in flight at once. Nodes have no limit of their own. One
/// request returns the status of this many signatures; with one or two seconds until a transaction
/// is confirmed, that allows more than a hundred payments a second.
const IN_FLIGHT_MAX: usize = status::SIGNATURES_PER_CALL;

/// How to reach a cluster, and what it may cost.
#[derive(Clone)]
pub struct SolanaConfig {
    /// The cluster: a network of the namespace `solana`.
    pub network: Network,
    /// The prefix of the nodes' genesis hash. By default it is the network's reference; on public
    /// clusters that is the first 32 characters.
    pub genesis: String,
    /// Its nodes, in order of preference.
    pub rpc_urls: Vec<Url>,
    /// The time limit for a node's reply. It is below the time that a caller waits, so that a
    /// second node can be asked.
    pub rpc_timeout: Duration,
    /// The keys that pay fees. Each is a lane of its own, and the offers name them in turn.
    pub fee_payers: Vec<Signer>,
    /// The tokens that may be settled. No other token is.
    pub tokens: Vec<Token>,
    /// The commitment at which a payment counts as settled.
    pub commitment: Commitment,
    /// The amount in atomic units, by mint, above which two nodes must agree on a payment before it
    /// counts as settled. For other mints one node is enough.
    pub two_nodes_above: BTreeMap<Pubkey, u64>,
    /// The smart wallets that may pay; `None` for none. Without it every payment is a transfer that
    /// its payer signs.
    pub smart_wallets: Option<SmartWallets>,
    /// Whether assertions of Lighthouse may mention a fee payer, as some wallets write them. The
    /// runtime passes that program a writable account that signs. Allow it only if you trust the
    /// program's upgrade authority.
    pub allow_lighthouse_on_fee_payer: bool,
    /// The most compute units that a payment may request.
    pub compute_units_max: u32,
    /// The highest price for a compute unit, in micro-lamports.
    pub compute_unit_price_max: u64,
    /// The most that a payment may cost a fee payer, in lamports: its signatures and its priority
    /// fee. The two limits above do not bound the fee enough: together they allow a hundred times
    /// as much.
    pub fee_max: u64,
    /// The age of the newest block above which a node counts as stuck.
    pub head_age_max: Duration,
    /// The balance below which a fee payer counts as unfunded, in lamports.
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
            // A transfer takes less than 10,000, with a memo and guards less than 100,000. This is
            // the specification's limit for smart wallets.
            compute_units_max: 400_000,
            // The specification's limit.
            compute_unit_price_max: 5_000_000,
            // Two signatures (10,000) and the highest priority fee that the specification allows
            // smart wallets: 400,000 units at 50,000 micro-lamports (20,000). The reference client
            // pays less than 1 as priority fee, ours at most 400. A wallet that sets its own price
            // for a transfer of 100,000 units may use up to 200,000 micro-lamports.
            fee_max: 30_000,
            head_age_max: Duration::from_secs(60),
            // Rent exemption (890,880), and a hundred payments with two signatures and the priority
            // fee that wallets pay.
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

/// A fault in a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The network is not in the namespace `solana`.
    #[error("{0} is not a Solana cluster")]
    Network(Network),
    /// There is no node.
    #[error("there is no RPC URL")]
    NoRpc,
    /// Two nodes must agree on large payments, and there is only one.
    #[error(
        "two nodes must agree on large payments, but only one RPC URL is configured: add another"
    )]
    OneNode,
    /// There is no fee payer.
    #[error("there is no fee payer")]
    NoFeePayer,
    /// A fee payer is listed twice.
    #[error("the fee payer {0} is listed twice")]
    FeePayerTwice(Pubkey),
    /// The limit for fees is below what the signatures cost.
    #[error(
        "a payment may cost at most {0} lamports, but its signatures alone cost {SIGNATURES_FEE}: raise the limit"
    )]
    FeeMax(u64),
    /// A program in the list of smart wallets can never be one.
    #[error("{0} is a system program and cannot be allowed as a smart wallet")]
    NotAWallet(Pubkey),
    /// The prefix of the genesis hash is empty, so any cluster would match.
    #[error("the prefix of the genesis hash is empty: any cluster would match")]
    NoGenesis,
    /// The HTTP client could not be built.
    #[error("HTTP: {0}")]
    Http(#[from] reqwest::Error),
}

/// The cost of a payment's two signatures, in lamports (Solana's documentation, "Fees": 5,000
/// each).
pub(crate) const SIGNATURES_FEE: u64 = 2 * 5_000;

/// The fee of a payment in lamports, for the compute units it requests and their price in
/// micro-lamports. The runtime charges for requested units, not for used ones.
pub(crate) fn fee(units: u32, price: u64) -> u64 {
    const MILLIONTHS: u128 = 1_000_000;
    let priority = (u128::from(units) * u128::from(price)).div_ceil(MILLIONTHS);
    u64::try_from(priority)
        .unwrap_or(u64::MAX)
        .saturating_add(SIGNATURES_FEE)
}

impl SolanaConfig {
    /// The highest possible fee of a payment, in lamports.
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
    /// The addresses that it loads from lookup tables, in the runtime's order.
    pub loaded: Vec<Pubkey>,
}

/// The fee payers that offers name in turn. Unfunded ones are skipped.
#[derive(Debug)]
pub(crate) struct FeePayerRotation {
    pub(crate) fee_payers: FeePayers,
    /// One bit for each unfunded fee payer. Those after the 64th are never skipped.
    unfunded: std::sync::atomic::AtomicU64,
    next: AtomicUsize,
}

impl FeePayerRotation {
    /// The next funded fee payer; if none is funded, the next of all.
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
    /// The cluster of this configuration. It asks no node yet: a node that is down now may be up
    /// later, and [`health`](Chain::health) reports it.
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
        // A node that is listed twice would only agree with itself.
        let nodes: BTreeSet<&Url> = config.rpc_urls.iter().collect();
        if !config.two_nodes_above.is_empty() && nodes.len() < 2 {
            return Err(ConfigError::OneNode);
        }
        if let Some(not_a_wallet) = config
            .smart_wallets
            .as_ref()
            .and_then(SmartWallets::not_a_wallet)
        {
            return Err(ConfigError::NotAWallet(not_a_wallet));
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
                    format_args!("no fee payer is configured with the address {lane}"),
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
    /// A payment is one transaction with one id, so its status says everything and there is nothing
    /// to search for.
    type Search = Infallible;

    fn network(&self) -> &Network {
        &self.config.network
    }

    fn lanes(&self) -> &[LaneId] {
        &self.lanes
    }

    /// 1 for `confirmed`, 32 for `finalized`: nodes report nothing between the two.
    fn confirmations_required(&self) -> u64 {
        match self.config.commitment {
            Commitment::Confirmed => 1,
            Commitment::Finalized => FINALIZED_CONFIRMATIONS,
        }
    }

    /// A finalized block cannot be undone, however recent it is.
    fn finality(&self) -> Finality {
        Finality {
            confirmations: FINALIZED_CONFIRMATIONS,
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
        // There are no sequence numbers. The request tells the lane before it signs whether a node
        // answers.
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
            let what = "a Solana transaction settles exactly one payment";
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
        if let Err(fault) = self.check_state(&mut problems).await {
            problems.push(problem(Scope::Network, fault.detail));
        }
        Health { problems }
    }
}

impl Solana {
    /// The status, confirmed by a second node if the amount requires it.
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

    /// Checks balances in one round trip, and mints in another.
    async fn check_state(&self, problems: &mut Vec<Problem>) -> Result<(), Fault> {
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
                    "the fee payer {lane} has {} lamports and needs at least {}: send SOL to it",
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
        let found = found.unwrap_or_else(|| Err(unavailable("the node left out a reply")))?;
        let tokens = self.config.tokens.iter().zip(&found.accounts);
        problems
            .extend(tokens.filter_map(|(token, account)| token_problem(token, account.as_ref())));
        Ok(())
    }
}

/// Checks that the mint exists, matches the configuration and cannot break payments.
fn token_problem(token: &Token, account: Option<&Account>) -> Option<Problem> {
    let what = match account {
        None => "the mint does not exist; check the address and the cluster".to_owned(),
        Some(account) => match mint::judge(account, token.program, &token.allowed) {
            Ok(found) if found.decimals == token.decimals => return None,
            Ok(found) => format!(
                "has {} decimal places, not the configured {}",
                found.decimals, token.decimals
            ),
            Err(problem) => format!("payments are rejected: {problem}"),
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
