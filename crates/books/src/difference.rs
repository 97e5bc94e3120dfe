//! A difference between the books and the chain.

use std::fmt;

use quittance_core::{Amount, PaymentId, Timestamp, TransactionId};

use crate::booked::Row;
use crate::seen::{Sent, Transfer};

/// What is different.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Money moved, and the journal has no settlement that says so.
    MovedNotBooked,
    /// The journal says that money moved, and the chain does not show it.
    BookedNotMoved,
    /// Money moved between the booked parties, in another amount.
    AmountDiffers,
    /// A second transaction moved the money of a settlement.
    MovedTwice,
    /// One of our signers paid from its own account, and the journal does not have the transaction.
    ForeignTransfer,
    /// One of our signers sent a transaction that the journal does not have. It moved nothing of
    /// value, but it cost gas.
    ForeignTransaction,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::MovedNotBooked,
        Self::BookedNotMoved,
        Self::AmountDiffers,
        Self::MovedTwice,
        Self::ForeignTransfer,
        Self::ForeignTransaction,
    ];

    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MovedNotBooked => "moved_not_booked",
            Self::BookedNotMoved => "booked_not_moved",
            Self::AmountDiffers => "amount_differs",
            Self::MovedTwice => "moved_twice",
            Self::ForeignTransfer => "foreign_transfer",
            Self::ForeignTransaction => "foreign_transaction",
        }
    }

    /// What an operator does about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::MovedNotBooked => {
                "restore the row: import a copy of the journal, or rebuild it from the chain"
            }
            Self::BookedNotMoved => {
                "the recipient is not paid: compare with a second node, then pay what is owed"
            }
            Self::AmountDiffers => {
                "the row or the token is wrong: compare the row with a copy of the journal"
            }
            Self::MovedTwice => "the payer paid twice: pay the second amount back",
            Self::ForeignTransfer => {
                "someone else has the signer's key, or used it: find out who, and replace the key"
            }
            Self::ForeignTransaction => {
                "another program uses the signer: stop it, or restore the journal's row"
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Difference {
    /// What is different.
    pub kind: Kind,
    /// The transaction.
    pub transaction: TransactionId,
    /// The block of the transaction; `None` if no block has it.
    pub block: Option<u64>,
    /// The time of the block, else the time at which the journal wrote the row.
    pub time: Timestamp,
    /// The settlement, if the journal has one.
    pub settlement: Option<PaymentId>,
    /// The asset; `None` for the chain's own coin.
    pub asset: Option<String>,
    /// The account that paid, or should have.
    pub from: String,
    /// The account that received, or should have.
    pub to: String,
    /// The amount by the journal, in atomic units.
    pub booked: Option<Amount>,
    /// The amount by the chain, in atomic units.
    pub moved: Option<Amount>,
    /// What exactly was found.
    pub detail: &'static str,
}

impl Difference {
    /// A row that the chain contradicts. `sent` is its transaction, if a block has it.
    pub(crate) fn of_row(
        kind: Kind,
        transaction: &TransactionId,
        sent: Option<&Sent>,
        row: &Row,
        detail: &'static str,
    ) -> Self {
        Self {
            kind,
            transaction: transaction.clone(),
            block: sent.map(|sent| sent.block),
            time: sent.map_or_else(|| row.written_at(), Sent::time),
            settlement: Some(row.settlement),
            asset: Some(row.asset.clone()),
            from: row.payer.clone(),
            to: row.pay_to.clone(),
            booked: Some(row.amount),
            moved: None,
            detail,
        }
    }

    /// A transfer that the journal contradicts.
    pub(crate) fn of_transfer(
        kind: Kind,
        sent: &Sent,
        transfer: &Transfer,
        row: Option<&Row>,
        detail: &'static str,
    ) -> Self {
        Self {
            kind,
            transaction: sent.transaction.clone(),
            block: Some(sent.block),
            time: sent.time(),
            settlement: row.map(|row| row.settlement),
            asset: transfer.asset.clone(),
            from: transfer.from.clone(),
            to: transfer.to.clone(),
            booked: row.map(|row| row.amount),
            moved: Some(transfer.amount),
            detail,
        }
    }

    /// A transaction that the journal does not have.
    pub(crate) fn of_transaction(sent: &Sent, detail: &'static str) -> Self {
        Self {
            kind: Kind::ForeignTransaction,
            transaction: sent.transaction.clone(),
            block: Some(sent.block),
            time: sent.time(),
            settlement: None,
            asset: None,
            from: sent.lane.address().to_owned(),
            to: String::new(),
            booked: None,
            moved: None,
            detail,
        }
    }
}
