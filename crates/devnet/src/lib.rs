//! Real local chains for development, tests and demonstrations: a node started as a child process, the real token
//! contracts, accounts with money.
//!
//! What the chains are made of comes from npm, by lock file: `npm ci` in this crate's `node` folder installs the anvil
//! node, Circle's token contract and Solana's virtual machine. Nothing here is for production: the keys are printed in every tutorial.

mod evm;
mod node;
mod solana;
mod tools;

pub use evm::{Account, Evm, EvmOptions, Mining, TokenOptions, USDC};
pub use solana::{
    SOLANA_GENESIS, SOLANA_TOKEN_2022, SOLANA_USDC, Solana, SolanaAccount, SolanaOptions,
};
pub use tools::Tools;

/// Why a local chain is not there.
#[derive(Debug, thiserror::Error)]
pub enum DevnetError {
    /// What the chain is made of is not installed.
    #[error("{what} is not installed: run `npm ci` in {folder}")]
    NotInstalled {
        /// What is missing.
        what: String,
        /// Where to install it.
        folder: String,
    },
    /// The node did not start, or stopped.
    #[error("the node: {0}")]
    Node(String),
    /// The node did not do what it was asked.
    #[error("{method}: {problem}")]
    Rpc {
        /// What it was asked.
        method: String,
        /// What it said.
        problem: String,
    },
}
