//! Accounts, as the chain stores them.

use solana_pubkey::Pubkey;

/// The present state of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The program that owns it.
    pub owner: Pubkey,
    /// Its data.
    pub data: Vec<u8>,
}
