//! The transfer that the requirements expect.

use quittance_core::Amount;
use solana_pubkey::Pubkey;

use crate::token::Token;

/// The transfer that the requirements expect.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) token: Token,
    pub(super) pay_to: Pubkey,
    /// The recipient's token account. It is stored because its derivation takes microseconds.
    pub(super) destination: Pubkey,
    pub(super) amount: Amount,
}
