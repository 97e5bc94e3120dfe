//! Real local chains for development, tests and demonstrations: a node as a child process, the real
//! token contracts, and funded accounts.
//!
//! The nodes and the contracts come from npm with a lock file: `npm ci` in this crate's `node`
//! folder installs the anvil node, Circle's token contract, Solana's virtual machine and a
//! PostgreSQL server. Nothing here is for production: the keys are public.

mod evm;
mod node;
#[cfg(unix)]
mod postgres;
mod solana;
mod tools;

pub use evm::{
    AUTH_CAPTURE_ESCROW, Account, BATCH_SETTLEMENT, DEPOSIT_COLLECTORS, EXACT_PERMIT2_PROXY, Evm,
    EvmOptions, HOLD_COLLECTORS, Mining, PERMIT2, SMART_WALLET_FACTORY, TokenOptions,
    UPTO_PERMIT2_PROXY, USDC,
};
#[cfg(unix)]
pub use postgres::{Fsync, Postgres};
pub use solana::{
    SOLANA_GENESIS, SOLANA_TOKEN_2022, SOLANA_USDC, Solana, SolanaAccount, SolanaOptions,
};
pub use tools::Tools;

/// Why a local chain is not available.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevnetError {
    /// A node or a contract is not installed.
    #[error("{what} is not installed: run `npm ci` in {folder}")]
    NotInstalled {
        /// What is missing.
        what: String,
        /// The folder to install it in.
        folder: String,
    },
    /// The node did not start, or stopped.
    #[error("the node: {0}")]
    Node(String),
    /// A request to the node failed.
    #[error("{method}: {problem}")]
    Rpc {
        /// The method of the request.
        method: String,
        /// The error.
        problem: String,
    },
}
