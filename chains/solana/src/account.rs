//! Accounts, as the chain stores them.

use solana_pubkey::Pubkey;

/// The most bytes of an account that are read: those of the longest lookup table. A mint with
/// extensions has some hundred. Data of this length may be truncated. The payer names the lookup
/// tables, and could name an account of ten megabytes.
pub(crate) const DATA_MAX: usize = 8_248;

/// The present state of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The program that owns it.
    pub owner: Pubkey,
    /// Its data. Of a very long account, the chain reads only the beginning.
    pub data: Vec<u8>,
}
