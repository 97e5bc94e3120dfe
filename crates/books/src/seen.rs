//! What a chain's records show.

use quittance_core::{Amount, LaneId, Timestamp, TransactionId};
use serde::{Deserialize, Serialize};

use crate::text;

/// A transaction, as the chain's records show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// A block has it.
    Included(Sent),
    /// No block has it. That is certain for the blocks up to the last one of the comparison.
    Absent {
        /// The transaction.
        #[serde(
            serialize_with = "text::serialize",
            deserialize_with = "text::transaction"
        )]
        transaction: TransactionId,
    },
    /// The nodes did not say.
    Unknown {
        /// The transaction.
        #[serde(
            serialize_with = "text::serialize",
            deserialize_with = "text::transaction"
        )]
        transaction: TransactionId,
        /// Why not.
        why: String,
    },
}

impl Seen {
    /// The transaction.
    pub fn transaction(&self) -> &TransactionId {
        match self {
            Self::Included(sent) => &sent.transaction,
            Self::Absent { transaction } | Self::Unknown { transaction, .. } => transaction,
        }
    }
}

/// An included transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Sent {
    /// The transaction.
    #[serde(
        serialize_with = "text::serialize",
        deserialize_with = "text::transaction"
    )]
    pub transaction: TransactionId,
    /// The account that sent it and paid its fee.
    #[serde(serialize_with = "text::serialize", deserialize_with = "text::lane")]
    pub lane: LaneId,
    /// Its sequence number (EVM: the nonce). `None` on chains without sequence numbers.
    pub sequence: Option<u64>,
    /// The number of its block (Solana: the slot).
    pub block: u64,
    /// The block's time, in seconds since 1970.
    time: u64,
    /// Whether it was executed without an error. One that failed has moved nothing.
    pub succeeded: bool,
    /// What its sender paid for it, in atomic units of the chain's own coin.
    pub fee: Amount,
    /// What it moved, in the order of the chain's records.
    pub transfers: Vec<Transfer>,
}

impl Sent {
    /// A transaction in this block, which succeeded, moved nothing and cost nothing.
    pub fn new(transaction: TransactionId, lane: LaneId, block: u64, time: Timestamp) -> Self {
        Self {
            transaction,
            lane,
            sequence: None,
            block,
            time: time.secs(),
            succeeded: true,
            fee: Amount::ZERO,
            transfers: Vec::new(),
        }
    }

    /// The block's time.
    pub fn time(&self) -> Timestamp {
        Timestamp::from_secs(self.time)
    }
}

/// An amount that moved from one account to another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Transfer {
    /// The asset; `None` for the chain's own coin.
    pub asset: Option<String>,
    /// The account that paid, as the chain spells it. Empty if it is not known, such as for an
    /// amount that was minted.
    pub from: String,
    /// The account that received. Empty if it is not known, such as for an amount that was burned.
    pub to: String,
    /// The amount, in atomic units.
    pub amount: Amount,
}

impl Transfer {
    /// A transfer of an asset.
    pub fn new(asset: &str, from: &str, to: &str, amount: Amount) -> Self {
        Self {
            asset: Some(asset.to_owned()),
            from: from.to_owned(),
            to: to.to_owned(),
            amount,
        }
    }

    /// A transfer of the chain's own coin.
    pub fn native(from: &str, to: &str, amount: Amount) -> Self {
        Self {
            asset: None,
            from: from.to_owned(),
            to: to.to_owned(),
            amount,
        }
    }
}
