//! The configuration of an EVM chain.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alloy::network::TxSigner;
use alloy::primitives::{Address, Signature, U256};
use quittance_core::Network;
use url::Url;

use crate::known;
use crate::token::Token;

/// A key that signs transactions: in memory, in a key store, or behind a key service.
pub type Signer = Arc<dyn TxSigner<Signature> + Send + Sync>;

/// The nodes, signers, tokens and limits of an EVM chain.
#[derive(Clone)]
#[non_exhaustive]
pub struct EvmConfig {
    /// The chain: a network of the namespace `eip155`.
    pub network: Network,
    /// Its nodes, in order of preference.
    pub rpc_urls: Vec<Url>,
    /// The time limit for a node's reply. It must be shorter than the time that a caller waits, so
    /// that a second node can be asked.
    pub rpc_timeout: Duration,
    /// The keys that sign and pay for transactions. Each is a lane.
    pub signers: Vec<Signer>,
    /// The tokens that may be settled.
    pub tokens: Vec<Token>,
    /// How many confirmations a payment needs to count as settled.
    pub confirmations_required: u64,
    /// How many confirmations end the watching of a settled payment.
    pub final_confirmations: u64,
    /// The shortest time for which a settled payment is watched.
    pub final_after: Duration,
    /// The highest price of a unit of gas, tip included, in wei.
    pub gas_price_max: u128,
    /// The highest tip for a unit of gas, in wei. Nodes suggest the tip, and it is paid in full.
    pub tip_max: u128,
    /// The most gas that one payment may use.
    pub gas_per_payment_max: u32,
    /// How the gas limit of a transaction is found.
    pub gas_limit: GasLimit,
    /// How many payments may share a transaction.
    pub max_batch: usize,
    /// Whether accounts with code may pay: contract wallets (ERC-1271) and delegated accounts
    /// (EIP-7702). Their code runs in the payment, for gas that the operator pays.
    pub contract_wallets: bool,
    /// The amount of each token above which two nodes must confirm a payment, in atomic units. For
    /// other tokens one node is enough.
    pub two_nodes_above: BTreeMap<Address, U256>,
    /// How much gas the operator gives payers for their approvals of Permit2. `None` if none, and
    /// no such approval is sent.
    pub approval_gas: Option<ApprovalGas>,
    /// The age of the newest block from which a node counts as stuck. `None` for chains that make
    /// blocks only when there are transactions.
    pub head_age_max: Option<Duration>,
    /// The balance that a signer needs to count as funded, in wei. `None` for the present price of
    /// twenty payments.
    pub balance_min: Option<U256>,
}

/// The bounds of what an operator gives payers for the gas of their approvals of Permit2
/// (`erc20ApprovalGasSponsoring`). A payer can keep it and pay nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApprovalGas {
    /// The most for one approval, in wei.
    pub per_approval_max: U256,
    /// The most for one payer within a day, in wei, for each scheme.
    pub per_day_max: U256,
}

impl ApprovalGas {
    /// At most `per_approval_max` wei for one approval, and `per_day_max` for one payer and day.
    pub const fn new(per_approval_max: U256, per_day_max: U256) -> Self {
        Self {
            per_approval_max,
            per_day_max,
        }
    }
}

/// How the gas limit of a transaction is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GasLimit {
    /// From the gas that the payments used in the simulation. It saves a round trip, and payments
    /// can share transactions.
    Measured,
    /// By `eth_estimateGas`. For chains that charge gas for more than execution, such as Arbitrum.
    Estimated,
}

/// Wei in a gwei.
const GWEI: u128 = 1_000_000_000;

/// The most confirmations that may be required: ordinary nodes keep the state of 128 blocks.
const CONFIRMATIONS_MAX: u64 = 100;

impl EvmConfig {
    /// The defaults for a network, with the tokens that ship with the library.
    pub fn new(network: Network, rpc_urls: Vec<Url>, signers: Vec<Signer>) -> Self {
        /// Chains that charge gas for the data that they post on their parent chain.
        const ESTIMATED: [&str; 2] = ["eip155:42161", "eip155:421614"];
        let gas_limit = if ESTIMATED.contains(&network.id()) {
            GasLimit::Estimated
        } else {
            GasLimit::Measured
        };
        let fees = known::fee_limits(network.id());
        Self {
            tokens: known::tokens(network.id()).to_vec(),
            network,
            rpc_urls,
            rpc_timeout: Duration::from_secs(8),
            signers,
            confirmations_required: 1,
            // Two epochs of Ethereum, after which a block is usually finalized.
            final_confirmations: 64,
            // Ethereum's time to finality, and that of what faster rollups have posted there.
            final_after: Duration::from_secs(15 * 60),
            gas_price_max: u128::from(fees.max_gas_price_gwei) * GWEI,
            tip_max: u128::from(fees.max_tip_gwei) * GWEI,
            // USDC takes under 100,000. A wallet that checks a passkey in Solidity takes some
            // 400,000.
            gas_per_payment_max: 600_000,
            gas_limit,
            // 32 transfers take 1.5 million gas, a twentieth of the smallest block limit in use.
            max_batch: 32,
            // Smart accounts and delegated accounts are a large part of payers. The gas that they
            // can waste is bounded. Each payment is simulated for the block in which it is
            // expected. The engine stops serving a payer whose transactions keep failing.
            contract_wallets: true,
            two_nodes_above: BTreeMap::new(),
            approval_gas: None,
            head_age_max: Some(Duration::from_secs(180)),
            balance_min: None,
        }
    }

    /// Checks everything that needs no node, and returns the chain id.
    pub(super) fn check(&self) -> Result<u64, EvmConfigError> {
        let chain_id = known::chain_id(&self.network)
            .ok_or_else(|| EvmConfigError::Network(self.network.clone()))?;
        if self.rpc_urls.is_empty() {
            return Err(EvmConfigError::NoRpc);
        }
        // A node that is listed twice would confirm its own statement.
        let nodes: BTreeSet<&Url> = self.rpc_urls.iter().collect();
        if !self.two_nodes_above.is_empty() && nodes.len() < 2 {
            return Err(EvmConfigError::OneNode);
        }
        if self.confirmations_required > CONFIRMATIONS_MAX {
            let required = self.confirmations_required;
            return Err(EvmConfigError::Confirmations { required });
        }
        Ok(chain_id)
    }
}

impl fmt::Debug for EvmConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<String> = self
            .rpc_urls
            .iter()
            .map(quittance_nodes::redacted)
            .collect();
        let signers: Vec<Address> = self.signers.iter().map(|signer| signer.address()).collect();
        f.debug_struct("EvmConfig")
            .field("network", &self.network)
            .field("rpc_urls", &urls)
            .field("signers", &signers)
            .finish_non_exhaustive()
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvmConfigError {
    /// The network belongs to another chain family.
    #[error("{0} is not an EIP-155 network: use an identifier such as eip155:8453")]
    Network(Network),
    /// There is no node.
    #[error("no RPC URL is configured: add one")]
    NoRpc,
    /// Two nodes must confirm large payments, and there is one.
    #[error(
        "two nodes must confirm large payments, but only one RPC URL is configured: add another"
    )]
    OneNode,
    /// There is no signer.
    #[error("no signer is configured: add one")]
    NoSigner,
    /// Two lanes of the same signer would use every nonce twice.
    #[error("the signer {0} is configured twice: remove one")]
    SignerTwice(Address),
    /// Nodes do not keep state for so many blocks.
    #[error("{required} confirmations are configured: configure at most {CONFIRMATIONS_MAX}")]
    Confirmations {
        /// The configured number.
        required: u64,
    },
    /// This machine cannot make an HTTP client.
    #[error("the HTTP client cannot be made: {0}")]
    Http(#[from] reqwest::Error),
}
