//! A chain puts actions onto itself. It owns signers, numbering, fees and nodes; it knows no scheme.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Fault, Network, Timestamp};

/// One signer on one chain, by its address: the place where actions wait, are grouped, numbered, paid for and
/// followed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(Arc<str>);

impl LaneId {
    /// The lane of the signer with this address.
    pub fn new(address: &str) -> Self {
        Self(address.into())
    }

    /// The signer's address, as the chain spells it.
    pub fn address(&self) -> &str {
        &self.0
    }
}

/// A transaction's id: what a block explorer finds it by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(Arc<str>);

impl TransactionId {
    /// The id with this text.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The id as the chain spells it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A signed transaction. Its id is known; whether it was sent is not this type's business.
#[derive(Clone, PartialEq, Eq)]
pub struct Transaction {
    /// What it will be found by.
    pub id: TransactionId,
    /// Who signed it.
    pub lane: LaneId,
    /// Its number in the lane. Of all transactions with one number at most one is ever included.
    pub sequence: u64,
    /// The bytes that are sent, the same every time.
    pub bytes: Arc<[u8]>,
}

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LaneId({self})")
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransactionId({self})")
    }
}

impl fmt::Debug for Transaction {
    /// Leaves the bytes out: signed bytes are worth money until they are included.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Transaction({} at {} of {})",
            self.id, self.sequence, self.lane
        )
    }
}

/// What became of handing bytes to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submission {
    /// A node took it, or has had it before.
    Accepted,
    /// Certain: no node has it, and this submission did not change that. The fault says why.
    Refused(Fault),
    /// Its place in the lane is taken: by this very transaction, included a moment ago, or by another one, included or
    /// waiting at a node. To be treated as sent; which of them it is, the chain's status tells. Where another one only
    /// waits, this one may still be included in its stead; told as refused, the same place would be tried again and again.
    SequenceUsed,
    /// It may be out there. To be treated as sent: watched, and the same bytes sent again.
    Unknown(Fault),
}

/// Where the transactions for one place in a lane stand: the first one signed and its replacements.
#[derive(Debug, Clone)]
pub enum Status<Evidence> {
    /// None of them is in a block, and one still can be.
    Pending,
    /// One of them is in a block of the canonical chain.
    Included {
        /// Which one.
        id: TransactionId,
        /// How many blocks deep: 1 in the newest block.
        confirmations: u64,
        /// What the chain says it did.
        evidence: Evidence,
    },
    /// Certain, at the depth the chain asks for: none of them is in a block and none ever will be. Their number may be taken
    /// by another transaction, or still be free because they have expired: then the engine uses it up with
    /// [`Chain::noop`].
    Dropped,
}

/// An included transaction, and what it did.
#[derive(Debug, Clone)]
pub struct Found<Evidence> {
    /// Which one.
    pub id: TransactionId,
    /// How many blocks deep: 1 in the newest block; 0 where what it did is not known yet.
    pub confirmations: u64,
    /// What the chain says it did.
    pub evidence: Evidence,
}

/// When the block of a settled payment counts as final, and the payment needs no more watching. Both must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finality {
    /// How many blocks deep the transaction must be.
    pub confirmations: u64,
    /// How long ago the payment must have been settled.
    pub age: Duration,
}

/// One place in a lane whose outcome is awaited.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The lane.
    pub lane: LaneId,
    /// The number in the lane.
    pub sequence: u64,
    /// Every transaction ever signed for this place, the newest last.
    pub transactions: Vec<Transaction>,
}

/// What stands between a chain and settling payments now. Empty means all is well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// What is wrong, each with what it keeps from working.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What cannot be used because of it.
    pub scope: Scope,
    /// For operators: what was found, and where it can be seen what to do about it.
    pub what: String,
}

/// What a problem keeps from working.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The whole network.
    Network,
    /// One asset.
    Asset(String),
    /// One signer.
    Lane(LaneId),
    /// Nothing: somebody should look at it all the same.
    Advisory,
}

impl Health {
    /// Whether the network as a whole can be used.
    pub fn network_works(&self) -> bool {
        !self
            .problems
            .iter()
            .any(|problem| problem.scope == Scope::Network)
    }

    /// Whether this asset can be used, spelled as the chain spells it.
    pub fn asset_works(&self, asset: &str) -> bool {
        self.network_works()
            && !self
                .problems
                .iter()
                .any(|problem| problem.scope == Scope::Asset(asset.to_owned()))
    }

    /// Whether this signer can be used.
    pub fn lane_works(&self, lane: &LaneId) -> bool {
        self.network_works()
            && !self
                .problems
                .iter()
                .any(|problem| matches!(&problem.scope, Scope::Lane(broken) if broken == lane))
    }
}

/// A chain: signers, numbering, fees and nodes behind one interface.
///
/// The associated types are what schemes of this chain speak: what can be asked of it, what it answers, what it can be
/// told to do, and what it says has happened. The engine carries them and never looks inside.
///
/// Every method may be called at any time, from many tasks at once, and any number of times.
#[async_trait]
pub trait Chain: Send + Sync + 'static {
    /// A question about the chain's state.
    type Read: Clone + Send + Sync + 'static;
    /// The answer to one question.
    type Answer: Send + Sync + 'static;
    /// Something that must happen on the chain; signed by nobody yet.
    type Action: Send + Sync + 'static;
    /// What the chain says a transaction did.
    type Evidence: Send + Sync + 'static;
    /// What finds the transaction that used an authorization. [`Infallible`](std::convert::Infallible) on chains where
    /// the authorization is the transaction.
    type Search: Send + Sync + 'static;

    /// Which chain this is.
    fn network(&self) -> &Network;

    /// Its signers, in order of preference. Never empty, never changes.
    fn lanes(&self) -> &[LaneId];

    /// How many blocks deep a transaction must be before its payment counts as settled: at least 1.
    fn confirmations_required(&self) -> u64;

    /// When a settled payment is final.
    fn finality(&self) -> Finality;

    /// How many transactions of one signer may be out at once: at least 1, and no more than nodes keep of one signer. Where
    /// they stand in no line, as many may be on their way to the nodes side by side.
    fn in_flight_max(&self) -> usize;

    /// How long a transaction that is sent now may take to be included, on an ordinary day. An authorization that runs out
    /// sooner is not sent. Zero where a transaction that comes too late costs nothing.
    fn inclusion_time(&self) -> Duration {
        Duration::ZERO
    }

    /// Asks many questions in as few round trips as can be; the answers stand in the order of the questions.
    ///
    /// Changes nothing on the chain. Each answer is independent of the other questions: one that fails, or that was
    /// made to consume everything it can, is an `Err` at its own place.
    ///
    /// # Errors
    /// A [`Fault`] per question that could not be answered. That the chain's state speaks against a payment is not an
    /// error: it is an answer.
    async fn read(&self, reads: &[Self::Read]) -> Vec<Result<Self::Answer, Fault>>;

    /// Whether `next` may travel in one transaction with `group` without any of them being able to change the outcome
    /// of another. Pure.
    ///
    /// It also bounds the group: by count, gas, bytes and fee, so that [`prepare`](Self::prepare) can sign what was let
    /// together. The engine's own bound is a few hundred. A group that `prepare` refuses nevertheless is tried once more,
    /// each action alone.
    fn can_batch(&self, batch: &[&Self::Action], next: &Self::Action) -> bool;

    /// The lowest number that the chain would still accept from this signer: every lower one is taken, and nothing above
    /// is included before it. `None` where transactions stand in no line.
    ///
    /// # Errors
    /// When no node answers.
    async fn next_sequence(&self, lane: &LaneId) -> Result<Option<u64>, Fault>;

    /// Signs one transaction that performs all `actions`. Nothing is sent, and no number is used up: whoever prepares
    /// again may use the same `place`.
    ///
    /// # Errors
    /// When fees cannot be learnt or are over the operator's limit, or the signer does not sign.
    async fn prepare(
        &self,
        lane: &LaneId,
        sequence: u64,
        actions: &[&Self::Action],
    ) -> Result<Transaction, Fault>;

    /// Hands a transaction to the nodes: the same bytes, any number of times.
    async fn submit(&self, transaction: &Transaction) -> Submission;

    /// Where many places stand, in as few round trips as can be; in the order they were asked about.
    ///
    /// # Errors
    /// For each place, when it cannot be learnt. Never [`Status::Dropped`] on a guess.
    async fn status(&self, watched: &[Watched]) -> Vec<Result<Status<Self::Evidence>, Fault>>;

    /// Finds the included transaction that used an authorization, from any sender. `None` where the nodes know of none, as
    /// far back as they are asked.
    ///
    /// # Errors
    /// When no node can search.
    async fn find(&self, search: &Self::Search) -> Result<Option<Found<Self::Evidence>>, Fault>;

    /// Signs the same actions at the same place for a higher fee, high enough for nodes to take it in exchange.
    /// `None` where that is not possible: the operator's fee limit is reached, or the chain has no such thing.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    async fn replace(&self, transaction: &Transaction) -> Result<Option<Transaction>, Fault>;

    /// Signs a transaction that does nothing but use up a place, so that those behind it can be included; in exchange for
    /// `over`, where one is out there for this place already. `None` where that is not possible, or never needed.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    async fn noop(
        &self,
        lane: &LaneId,
        sequence: u64,
        over: Option<&Transaction>,
    ) -> Result<Option<Transaction>, Fault>;

    /// Looks at everything that settling depends on: nodes, chain id, signers' balances, assets.
    ///
    /// `now` is this machine's time. The chain compares it with the times of the newest blocks.
    async fn health(&self, now: Timestamp) -> Health;

    /// Why this machine's clock cannot be trusted, as far as the last look at
    /// [`health`](Self::health) showed. Pure. Verdicts that depend on the time are then faults.
    /// `None` where it can, or where the chain's blocks do not tell the time.
    fn clock_fault(&self) -> Option<Fault> {
        None
    }
}
