//! The settings of a cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quittance_core::Network;
use solana_pubkey::Pubkey;
use url::Url;

use crate::known;
use crate::token::Token;

/// A key that signs transactions, in memory or in a service.
pub type Signer = Arc<dyn solana_signer::Signer + Send + Sync>;

/// The commitment that a transaction needs before its payment counts as settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Commitment {
    /// A supermajority of the stake has voted for its block. No confirmed block was ever undone on
    /// mainnet.
    Confirmed,
    /// More than 31 confirmed blocks follow its block.
    Finalized,
}

/// How to reach a cluster.
#[derive(Clone)]
#[non_exhaustive]
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
    /// The age of the newest block above which a node counts as stuck.
    pub head_age_max: Duration,
    /// The balance below which a fee payer counts as unfunded, in lamports.
    pub balance_min: u64,
}

impl SolanaConfig {
    /// The defaults for a network, with the tokens that ship with the library.
    pub fn new(network: Network, rpc_urls: Vec<Url>, fee_payers: Vec<Signer>) -> Self {
        Self {
            tokens: known::tokens(network.id()).to_vec(),
            genesis: network.reference().to_owned(),
            network,
            rpc_urls,
            rpc_timeout: Duration::from_secs(8),
            fee_payers,
            commitment: Commitment::Confirmed,
            two_nodes_above: BTreeMap::new(),
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
#[non_exhaustive]
pub enum SolanaConfigError {
    /// The network is not in the namespace `solana`.
    #[error("{0} is not a Solana cluster: use an identifier of the namespace solana")]
    Network(Network),
    /// There is no node.
    #[error("no RPC URL is configured: add one")]
    NoRpc,
    /// Two nodes must agree on large payments, and there is only one.
    #[error(
        "two nodes must agree on large payments, but only one RPC URL is configured: add another"
    )]
    OneNode,
    /// There is no fee payer.
    #[error("no fee payer is configured: add one")]
    NoFeePayer,
    /// A fee payer is listed twice.
    #[error("the fee payer {0} is configured twice: remove one")]
    FeePayerTwice(Pubkey),
    /// The prefix of the genesis hash is empty, so any cluster would match.
    #[error("the prefix of the genesis hash is empty: any cluster would match")]
    NoGenesis,
    /// The HTTP client could not be built.
    #[error("HTTP: {0}")]
    Http(#[from] reqwest::Error),
}
