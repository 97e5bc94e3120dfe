//! The `quittance` program as a library: its configuration, and how an engine is made from it.
//!
//! This is the only crate that names chains.

pub mod assemble;
pub mod bench;
pub mod config;
