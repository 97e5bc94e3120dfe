//! What a journal says about a transaction.

use quittance_core::{Amount, PaymentId, Timestamp, TransactionId};
use serde::{Deserialize, Serialize};

use crate::text;

/// One line of the books: a transaction that the journal knows, or a settlement that the
/// transaction was signed for. A transaction has one line for itself and one for each settlement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Booked {
    /// The transaction.
    #[serde(
        serialize_with = "text::serialize",
        deserialize_with = "text::transaction"
    )]
    pub transaction: TransactionId,
    /// When the journal wrote it, in seconds since 1970.
    at: u64,
    /// The settlement. `None` for the line of the transaction itself.
    pub row: Option<Row>,
}

impl Booked {
    /// A transaction that was signed, for whatever settlements.
    pub fn signed(transaction: &str) -> Self {
        Self {
            transaction: TransactionId::new(transaction),
            at: 0,
            row: None,
        }
    }

    /// A settlement that a transaction was signed for.
    pub fn row(transaction: &str, row: Row) -> Self {
        Self {
            transaction: TransactionId::new(transaction),
            at: row.at,
            row: Some(row),
        }
    }

    /// Written at this time.
    #[must_use]
    pub fn at(mut self, at: Timestamp) -> Self {
        self.at = at.secs();
        self
    }

    /// When the journal wrote it.
    pub fn written_at(&self) -> Timestamp {
        Timestamp::from_secs(self.at)
    }
}

/// A settlement, as far as it concerns one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Row {
    /// The settlement's identity.
    #[serde(with = "text")]
    pub settlement: PaymentId,
    /// What the journal says that the transaction did for it.
    pub says: Says,
    /// The payer's address; empty if it was pruned. Then only asset and amount are compared.
    pub payer: String,
    /// The recipient's address; empty if it was pruned.
    pub pay_to: String,
    /// The asset.
    pub asset: String,
    /// The settled amount, else the claimed one, in atomic units.
    pub amount: Amount,
    /// The name of the caller's key.
    pub caller: Option<String>,
    /// When the journal wrote this, in seconds since 1970.
    at: u64,
    /// Whether the payment's money passes through a contract that holds it, such as that of
    /// channels. Its transfers then have other parties, and some of its acts move nothing.
    pub is_held: bool,
}

/// What the journal says that a transaction did for a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Says {
    /// It moved the money.
    Moved,
    /// Another transaction moved the money.
    MovedElsewhere,
    /// It did not move the money: the settlement failed, was released, or is lost.
    NotMoved,
    /// The settlement is open.
    Open,
    /// It is a step before the transfer, such as an approval.
    Step,
}

impl Row {
    /// A settlement whose money the transaction moved, by the journal.
    pub fn moved(
        settlement: PaymentId,
        payer: &str,
        pay_to: &str,
        asset: &str,
        amount: Amount,
    ) -> Self {
        Self {
            settlement,
            says: Says::Moved,
            payer: payer.to_owned(),
            pay_to: pay_to.to_owned(),
            asset: asset.to_owned(),
            amount,
            caller: None,
            at: 0,
            is_held: false,
        }
    }

    /// With what the journal says about the transaction.
    #[must_use]
    pub fn says(mut self, says: Says) -> Self {
        self.says = says;
        self
    }

    /// With the name of the caller's key.
    #[must_use]
    pub fn caller(mut self, caller: Option<String>) -> Self {
        self.caller = caller;
        self
    }

    /// Written at this time.
    #[must_use]
    pub fn at(mut self, at: Timestamp) -> Self {
        self.at = at.secs();
        self
    }

    /// As a payment whose money a contract holds meanwhile.
    #[must_use]
    pub fn held(mut self, is_held: bool) -> Self {
        self.is_held = is_held;
        self
    }

    /// When the journal wrote this.
    pub fn written_at(&self) -> Timestamp {
        Timestamp::from_secs(self.at)
    }
}
