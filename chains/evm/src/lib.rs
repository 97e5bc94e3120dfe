//! x402 payments on EIP-155 chains: the chain, the schemes `exact` and `upto`, and a toolbox for
//! other schemes.
//!
//! [`Evm`] is the [`Chain`](quittance_core::Chain): its nodes, signers, nonces and fees. [`Exact`]
//! is the scheme `exact` by EIP-3009 `transferWithAuthorization` and by Permit2, for accounts with
//! a key and for contract wallets. [`ExactOffer`] is its seller's side and [`ExactPayer`] its
//! buyer's side. For `exact` by delegation (ERC-7710) they are [`DelegationOffer`] and
//! [`DelegationPayer`]. [`Upto`] is the scheme `upto` by Permit2, by which a seller charges after
//! its handler; [`UptoOffer`] and [`UptoPayer`] are its two sides. [`AuthCapture`] is the scheme
//! `auth-capture`, by which a payment is held first; [`AuthCaptureOffer`] and [`AuthCapturePayer`]
//! are its two sides. [`known`] has the networks and
//! tokens that ship with the library; a configuration can add any other.
//!
//! The other modules are the toolbox for schemes. [`eip712`], [`eip3009`] and [`eip2612`] define
//! the messages that payers sign, and [`erc7710`] what they delegate. [`signature`] and [`account`]
//! are for checking the signer. [`abi`], [`hex`], [`multicall`] and [`token`] are for encoding. A
//! scheme asks the chain by a [`Probe`], settles by a [`Call`] and recognizes its effect in the
//! [`Evidence`].
//!
//! ```
//! use quittance_evm::known;
//!
//! let base = known::network("eip155:8453").expect("ships with the library");
//! assert_eq!(base.alias(), Some("base"));
//! let usdc = known::token("eip155:8453", "USDC").expect("ships with the library");
//! assert_eq!((usdc.name.as_str(), usdc.decimals), ("USD Coin", 6));
//! ```

pub mod abi;
pub mod account;
pub mod auth_capture;
pub mod batch;
mod call;
mod chain;
pub mod eip2612;
pub mod eip3009;
pub mod eip712;
pub mod erc7710;
mod evidence;
mod exact;
pub mod hex;
pub mod known;
pub mod multicall;
pub mod permit2;
mod price;
pub mod signature;
pub mod token;
mod upto;

pub use alloy;

pub use alloy::primitives::Log;
pub use alloy::signers::local::PrivateKeySigner;
pub use auth_capture::{AuthCapture, AuthCaptureOffer, AuthCapturePayer};
pub use call::Call;
pub use chain::{
    ApprovalGas, AuthorizationSearch, Condition, Evm, EvmConfig, EvmConfigError, EvmLedger,
    GasLimit, Probe, ProbeResult, Signer, Step, StepOutcome,
};
pub use eip3009::AuthorizationUse;
pub use evidence::Evidence;
pub use exact::{
    DelegationOffer, DelegationPayer, DelegationTerms, DelegationWallet, Exact, ExactConfig,
    ExactConfigError, ExactOffer, ExactPayer, GrantedDelegation, reason,
};
pub use token::{Token, TransferMethod};
pub use upto::{Upto, UptoOffer, UptoPayer, reason as upto_reason};
