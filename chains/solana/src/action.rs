//! What a scheme hands to the chain to settle a payment.

use solana_pubkey::Pubkey;

use crate::transaction::PaymentTransaction;

/// A transaction that lacks only the fee payer's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartiallySigned {
    /// The transaction.
    pub transaction: PaymentTransaction,
    /// The addresses that it loads from lookup tables, in the runtime's order.
    pub loaded: Vec<Pubkey>,
    /// Whether assertions of Lighthouse may mention a fee payer. The chain does not sign a
    /// transaction with any other instruction that does.
    pub allow_lighthouse_on_fee_payer: bool,
}

impl PartiallySigned {
    /// A transaction with the addresses that it loads from lookup tables. No instruction may
    /// mention a fee payer.
    pub fn new(transaction: PaymentTransaction, loaded: Vec<Pubkey>) -> Self {
        Self {
            transaction,
            loaded,
            allow_lighthouse_on_fee_payer: false,
        }
    }
}
