//! What an application may want to act upon when it happens, besides the answers to its own calls.

use quittance_core::{PaymentId, TransactionId};

/// Something that happened to a payment after its success was reported.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The chain no longer has the transaction of the payment, as after a reorganisation. The payment is being sent again.
    Undone {
        /// The network's CAIP-2 identifier.
        network: String,
        /// Which payment.
        settlement: PaymentId,
        /// The transaction that the chain had.
        transaction: TransactionId,
    },
    /// A payment that was undone has settled again.
    Restored {
        /// The network's CAIP-2 identifier.
        network: String,
        /// Which payment.
        settlement: PaymentId,
        /// The transaction that the chain has now.
        transaction: TransactionId,
    },
    /// A payment that was undone cannot be settled again: the seller has delivered and is not paid.
    Lost {
        /// The network's CAIP-2 identifier.
        network: String,
        /// Which payment. [`Engine::settlement`](crate::Engine::settlement) says why, and who owes whom how much.
        settlement: PaymentId,
    },
}

/// How many events a subscriber may be behind before the oldest are dropped. They come by the block, if at all; a
/// reorganisation may undo some hundreds of payments at once.
pub(crate) const EVENTS_MAX: usize = 1024;
