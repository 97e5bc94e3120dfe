//! x402 schemes on EIP-155 chains, and the chain they settle on.
//!
//! [`Evm`] is the [`Chain`](quittance_core::Chain): nodes, signers, nonces, fees. [`Exact`] is the scheme `exact` by
//! EIP-3009 `transferWithAuthorization`, for accounts with a key and for deployed contract wallets; [`ExactOffer`] and
//! [`ExactPayer`] are its two ends. Networks and assets are data: [`known`] has those that ship with the library, and a
//! configuration can add any other.
//!
//! ```
//! use quittance_evm::known;
//!
//! let base = known::network("eip155:8453").expect("ships with the library");
//! assert_eq!(base.alias(), Some("base"));
//! let usdc = known::token("eip155:8453", "USDC").expect("ships with the library");
//! assert_eq!((usdc.name.as_str(), usdc.decimals), ("USD Coin", 6));
//! ```

mod abi;
mod batch;
mod blocks;
mod chain;
mod clock;
mod eip712;
mod exact;
mod fees;
mod hex;
pub mod known;
mod probe;
mod rpc;
mod second;
mod signature;
mod status;
mod submission;
mod transaction;
mod used;

pub use chain::{Call, ConfigError, Evidence, Evm, EvmConfig, GasLimit, Log, Signer};
pub use exact::{Exact, ExactOffer, ExactPayer, reason};
pub use known::{Token, TransferMethod};
pub use probe::{Answer, Condition, Outcome, Probe, Step};
pub use used::AuthorizationUse;
