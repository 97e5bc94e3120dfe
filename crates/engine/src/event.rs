//! Events that an application may act on, besides the answers to its own calls.

use quittance_core::{PaymentId, TransactionId};

/// An event of a payment after its success was reported.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The chain no longer has the payment's transaction, for example after a reorganisation. The
    /// payment is being sent again.
    Undone {
        /// The network's CAIP-2 identifier.
        network: String,
        /// The payment.
        settlement: PaymentId,
        /// The transaction that the chain had before.
        transaction: TransactionId,
    },
    /// A payment that was undone has settled again.
    Restored {
        /// The network's CAIP-2 identifier.
        network: String,
        /// The payment.
        settlement: PaymentId,
        /// The transaction that the chain has now.
        transaction: TransactionId,
    },
    /// A payment that was undone cannot be settled again. The seller has delivered and was not
    /// paid.
    Lost {
        /// The network's CAIP-2 identifier.
        network: String,
        /// The payment. [`Engine::settlement`](crate::Engine::settlement) has the reason, the
        /// payer, the recipient and the amount.
        settlement: PaymentId,
    },
}

/// How many events a subscriber may be behind before it loses the oldest. One reorganisation may
/// undo some hundreds of payments.
pub(crate) const EVENTS_MAX: usize = 1024;
