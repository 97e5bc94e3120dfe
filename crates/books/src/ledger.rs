//! What the comparison needs from a chain.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::ops::{Range, RangeInclusive};

use async_trait::async_trait;
use quittance_core::{Amount, Fault, LaneId, Network, PaymentId, Timestamp, TransactionId};

use crate::seen::Sent;

/// One end of the blocks that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bound {
    /// The block with this number.
    Block(u64),
    /// The first block of this time or later; as the last block, the last one before it.
    Time(Timestamp),
    /// The newest block.
    Newest,
    /// The newest block that the chain calls final.
    Final,
}

/// The blocks that are compared, and their times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocks {
    /// The numbers of the blocks.
    pub numbers: RangeInclusive<u64>,
    /// The time of the first block.
    pub from: Timestamp,
    /// The time of the last block.
    pub to: Timestamp,
}

/// An authorization that a transaction has used, for a journal that was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedAuthorization {
    /// The identity of the payment, as the chain's schemes compute it.
    pub id: PaymentId,
    /// The scheme that most probably settled it.
    pub scheme: &'static str,
    /// The payer, as the chain spells it.
    pub payer: String,
    /// The account that received the money.
    pub pay_to: String,
    /// The asset.
    pub asset: String,
    /// The amount that moved, in atomic units.
    pub amount: Amount,
}

/// Reads a chain's records, for a comparison with the books.
///
/// **An implementation must** read the records of transactions and blocks alone: it uses nothing
/// that decides about payments. A node that fails is a [`Fault`], and never an absent transaction.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// The network.
    fn network(&self) -> &Network;

    /// Our signers.
    fn lanes(&self) -> &[LaneId];

    /// The assets in which payments are settled, as the chain spells them.
    fn assets(&self) -> Vec<String>;

    /// Whether a contract holds the money of this scheme's payments for a while.
    fn holds(&self, scheme: &str) -> bool;

    /// The blocks between two bounds, both included.
    ///
    /// # Errors
    /// When no node answers, or when there is no such block.
    async fn blocks(&self, from: Bound, to: Bound) -> Result<Blocks, Fault>;

    /// Looks transactions up by their ids. `None` for one that no block has.
    ///
    /// # Errors
    /// For each transaction that no node could look up.
    async fn look_up(&self, ids: &[TransactionId]) -> Vec<Result<Option<Sent>, Fault>>;

    /// Finds every transaction that a signer sent in these blocks and that is not `known`, and
    /// hands it to `found`. It may hand over known ones, too.
    ///
    /// # Errors
    /// When the nodes do not show all transactions of the signer.
    async fn others(
        &self,
        lane: &LaneId,
        blocks: &RangeInclusive<u64>,
        known: &KnownTransactions,
        found: &mut (dyn FnMut(Sent) + Send),
    ) -> Result<(), Fault>;

    /// The authorizations that an included transaction has used, as far as its records show them.
    ///
    /// # Errors
    /// When no node has the transaction.
    async fn used(&self, transaction: &TransactionId) -> Result<Vec<UsedAuthorization>, Fault>;
}

/// The transactions of one signer that a look-up has found, in a few bytes each.
#[derive(Debug, Default)]
pub struct KnownTransactions {
    /// Each sequence number with its block. (A transaction has a hundred bytes of text.)
    numbered: BTreeMap<u64, u64>,
    /// 128 bits of each id, by hashes whose keys are random.
    unnumbered: HashSet<u128>,
    hashers: [RandomState; 2],
}

impl KnownTransactions {
    /// Adds a transaction.
    pub fn add(&mut self, sent: &Sent) {
        match sent.sequence {
            Some(sequence) => {
                self.numbered.insert(sequence, sent.block);
            }
            None => {
                self.unnumbered.insert(self.hash(&sent.transaction));
            }
        }
    }

    /// Whether the transaction with this id was added, on chains without sequence numbers.
    pub fn has(&self, id: &TransactionId) -> bool {
        self.unnumbered.contains(&self.hash(id))
    }

    /// Those of these sequence numbers that were added, each with its block, in order.
    pub fn numbered(&self, sequences: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
        let some = self.numbered.range(sequences);
        some.map(|(sequence, block)| (*sequence, *block))
    }

    fn hash(&self, id: &TransactionId) -> u128 {
        let [high, low] = &self.hashers;
        let half = |hasher: &RandomState| u128::from(hasher.hash_one(id.as_str()));
        half(high) << 64 | half(low)
    }
}
