#![doc = include_str!("../README.md")]
//!
//! # This crate
//!
//! It gives the crates of Quittance one name. A feature adds one module; [`core`] is always there.
//!
//! | feature | module | for |
//! |---|---|---|
//! | `evm` | `evm` | payments on EVM chains: offer, payer, scheme and chain |
//! | `solana` | `solana` | payments on Solana: offer, payer, scheme and chain |
//! | `buyer` | `buyer` | an HTTP client that pays within limits |
//! | `seller` | `seller`, `http` | a tower layer that puts a price on a route, and remote facilitators |
//! | `engine` | `engine` | verifying and settling payments in your own program |
//! | `postgres` | `engine` | `PostgresJournal`, for several processes with one database |
//! | `channels` | `journal`, `verify` | the store and the verifier of a seller that keeps the vouchers of its channels |
//! | `service` | `engine`, `service` | a facilitator as an HTTP service |
#![cfg_attr(docsrs, feature(doc_cfg))]

pub use quittance_core as core;

#[cfg(feature = "buyer")]
pub use quittance_buyer as buyer;
#[cfg(feature = "engine")]
pub use quittance_engine as engine;
#[cfg(feature = "evm")]
pub use quittance_evm as evm;
#[cfg(feature = "seller")]
pub use quittance_http as http;
#[cfg(feature = "channels")]
pub use quittance_journal as journal;
#[cfg(feature = "seller")]
pub use quittance_seller as seller;
#[cfg(feature = "service")]
pub use quittance_service as service;
#[cfg(feature = "solana")]
pub use quittance_solana as solana;
#[cfg(feature = "channels")]
pub use quittance_verify as verify;
