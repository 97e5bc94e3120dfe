//! Entries: what a journal holds, one by one, for a copy of it.
//!
//! A copy is read by [`Journal::transactions`](crate::Journal::transactions),
//! [`Journal::page`](crate::Journal::page) and [`Journal::states`](crate::Journal::states), and
//! written by [`Journal::restore`](crate::Journal::restore).

use quittance_core::{PaymentId, SchemeState, Timestamp, Transaction, TransactionId};

use crate::page::Cursor;
use crate::settlement::{Settlement, SignedFor};

/// A transaction as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedTransaction {
    /// The network's CAIP-2 identifier.
    pub network: String,
    /// The transaction. Its bytes are empty after they were [pruned](crate::Journal::prune).
    pub transaction: Transaction,
    /// When it was signed.
    pub signed_at: Timestamp,
    /// Whether a node refused it, and its sequence number is free.
    pub is_withdrawn: bool,
}

/// One page of the recorded transactions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TransactionPage {
    /// The transactions, in the order in which they were first recorded.
    pub transactions: Vec<RecordedTransaction>,
    /// How many transactions were left out because this program cannot read their entries.
    pub unreadable: usize,
    /// The position of the last transaction; pass it to continue, also when more were recorded
    /// since. `None` if the page is empty.
    pub last: Option<Cursor>,
}

/// A state record as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredState {
    /// The record. Its revision is 0, and its content empty, while it is only taken.
    pub record: SchemeState,
    /// The open settlement that has the record for itself.
    pub exclusive: Option<PaymentId>,
}

/// A transaction that was signed for a settlement, by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRef {
    /// The transaction.
    pub transaction: TransactionId,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The step: 0 for the action that settles.
    pub step: u8,
}

impl From<&SignedFor> for SignedRef {
    fn from(signed: &SignedFor) -> Self {
        Self {
            transaction: signed.transaction.id.clone(),
            attempt: signed.attempt,
            step: signed.step,
        }
    }
}

/// An entry of a journal, for [`Journal::restore`](crate::Journal::restore).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A recorded transaction. It comes before the settlements that it was signed for.
    Transaction(RecordedTransaction),
    /// A settlement.
    Settlement {
        /// The settlement. Its own lists of transactions are ignored.
        settlement: Box<Settlement>,
        /// The transactions that were signed for it, oldest first.
        signed: Vec<SignedRef>,
    },
    /// A state record. It comes after the settlement that has it for itself.
    State(StoredState),
}

/// What became of an entry that was restored.
///
/// Callers match every answer: a new one must not be handled by a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Restored {
    /// The journal did not have it.
    Added,
    /// The journal had an earlier state of it.
    Raised,
    /// The journal had it, or a later state of it. Nothing has changed.
    Kept,
}
