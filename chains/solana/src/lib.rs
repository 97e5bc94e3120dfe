//! x402 schemes on Solana, and the chain they settle on.
//!
//! [`Solana`] is the [`Chain`](quittance_core::Chain): nodes, fee payers, blockhashes. [`Exact`] is the scheme `exact` for
//! SPL Token and Token-2022; [`ExactOffer`] and [`ExactPayer`] are its two ends, [`Blockhashes`] what an offer can tell buyers without a node. Clusters and tokens are data: [`known`] has
//! those that ship with the library, and a configuration can add any other.
//!
//! ```
//! use quittance_solana::known;
//!
//! let mainnet = known::network("solana").expect("ships with the library");
//! assert_eq!(mainnet.id(), "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp");
//! let usdc = known::token(mainnet.id(), "USDC").expect("ships with the library");
//! assert_eq!((usdc.mint.to_string().as_str(), usdc.decimals), ("EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v", 6));
//! ```

mod blockhash;
mod chain;
mod evidence;
mod exact;
pub mod instruction;
pub mod known;
mod lookup;
mod mint;
mod read;
mod rpc;
mod second;
mod status;
mod submission;
mod transaction;

pub use blockhash::Blockhashes;
pub use chain::{Commitment, ConfigError, PartiallySigned, Signer, Solana, SolanaConfig};
pub use evidence::{Balance, EncodedInstruction, Evidence, InnerInstruction, ParsedInstruction};
pub use exact::{Exact, ExactOffer, ExactPayer, SmartWallets, reason};
pub use known::{Token, TokenProgram};
pub use mint::Extension;
pub use read::{Account, Answer, Query};
pub use solana_keypair::Keypair;
pub use solana_pubkey::Pubkey;
pub use transaction::{Instruction, PaymentTransaction, PaymentTransactionError};
