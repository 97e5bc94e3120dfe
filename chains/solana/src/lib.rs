//! x402 payments on Solana: the chain, the scheme `exact`, and a toolbox for other schemes.
//!
//! [`Solana`] is the [`Chain`](quittance_core::Chain): its nodes, fee payers and blockhashes.
//! [`Exact`] is the scheme `exact` for SPL Token and Token-2022. [`ExactOffer`] is its seller's
//! side and [`ExactPayer`] its buyer's side; [`Blockhashes`] gives buyers a recent blockhash with
//! the offer. [`known`] has the clusters and tokens that ship with the library; a configuration can
//! add any other.
//!
//! The other modules are the toolbox for schemes. [`transaction`], [`instruction`] and [`lookup`]
//! parse the transactions that payers sign. [`token`] and [`mint`] describe the assets.
//! [`fee_payers`] and [`fee`] are for the transaction fee. A scheme asks the chain by a [`Query`],
//! settles by a [`PartiallySigned`] transaction and recognizes its effect in the [`Evidence`].
//!
//! ```
//! use quittance_solana::known;
//!
//! let mainnet = known::network("solana").expect("ships with the library");
//! assert_eq!(mainnet.id(), "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp");
//! let usdc = known::token(mainnet.id(), "USDC").expect("ships with the library");
//! assert_eq!(usdc.mint.to_string(), "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v");
//! assert_eq!(usdc.decimals, 6);
//! ```

mod account;
mod action;
mod chain;
pub mod evidence;
mod exact;
pub mod fee;
pub mod fee_payers;
pub mod instruction;
pub mod known;
pub mod lookup;
pub mod mint;
pub mod token;
pub mod transaction;

pub use account::Account;
pub use action::PartiallySigned;
pub use chain::{
    Answer, Blockhashes, Commitment, Query, Signer, Solana, SolanaConfig, SolanaConfigError,
    SolanaLedger,
};
pub use evidence::Evidence;
pub use exact::{
    Exact, ExactConfig, ExactConfigError, ExactOffer, ExactPayer, SmartWallets, reason,
};
pub use instruction::Instruction;
pub use solana_keypair::Keypair;
pub use solana_pubkey::Pubkey;
pub use token::{Extension, Token, TokenProgram};
pub use transaction::PaymentTransaction;
