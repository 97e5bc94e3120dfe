//! A chain signs and sends actions. It owns signers, sequence numbers, fees and nodes, and knows no
//! scheme.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Fault, Network, Timestamp};

/// One signer on one chain, by its address. The settlements that a signer of the facilitator sends
/// wait in its lane, where they are batched, numbered, sent and followed.
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

/// A transaction's id, as block explorers show it.
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

/// A signed transaction. Its id is known; it may or may not have been sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The transaction's id.
    pub id: TransactionId,
    /// The signer.
    pub lane: LaneId,
    /// Its sequence number in the lane. The chain includes at most one transaction of each number.
    pub sequence: u64,
    /// The signed bytes. Every submission sends the same bytes.
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
    /// Omits the bytes: signed bytes can move money until they are included.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Transaction({} at {} of {})",
            self.id, self.sequence, self.lane
        )
    }
}

/// The result of handing bytes to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submission {
    /// A node accepted it, or had it already.
    Accepted,
    /// No node has the transaction, and this submission did not change that. This is certain. The
    /// fault has the reason.
    Refused(Fault),
    /// The sequence number is used. Either this transaction was included a moment ago, or another
    /// one is included or waits at a node. Treat the transaction as sent; [`Chain::status`] shows
    /// which one the chain has.
    ///
    /// While another transaction only waits, this one may still replace it. If the chain reported
    /// [`Refused`](Self::Refused) here, the engine would try the same number again and again.
    SequenceUsed,
    /// A node may have the transaction. Treat it as sent: watch it, and send the same bytes again.
    Unknown(Fault),
}

/// The state of the transactions for one sequence number of a lane: the first one signed, and its
/// replacements.
#[derive(Debug, Clone)]
pub enum Status<Evidence> {
    /// No block has any of them, and a later block still can.
    Pending,
    /// A block of the canonical chain has one of them, and what it does is not known yet: on chains
    /// that execute transactions in later blocks. The engine waits, and sends and replaces nothing.
    Executing {
        /// The transaction in the block.
        id: TransactionId,
    },
    /// A block of the canonical chain has one of them, and it was executed.
    Included {
        /// The included transaction.
        id: TransactionId,
        /// Its number of confirmations: 1 in the newest block.
        confirmations: u64,
        /// What it did, by the chain's records.
        evidence: Evidence,
    },
    /// None of them is in a block, and none ever will be. This is certain, with the confirmations
    /// that the chain requires. Another transaction may have used the number. It may also still be
    /// free, because the transactions expired: then the engine uses it up with [`Chain::noop`].
    Dropped,
}

/// An included transaction, and what it did.
#[derive(Debug, Clone)]
pub struct Found<Evidence> {
    /// The transaction's id.
    pub id: TransactionId,
    /// Its number of confirmations: 1 in the newest block; 0 while its effect is unknown.
    pub confirmations: u64,
    /// What it did, by the chain's records.
    pub evidence: Evidence,
}

/// When a settled payment is final and is no longer watched. Both conditions must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finality {
    /// How many confirmations the transaction needs.
    pub confirmations: u64,
    /// The time that must have passed since the payment settled.
    pub age: Duration,
}

/// One sequence number of a lane whose outcome the engine waits for.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The lane.
    pub lane: LaneId,
    /// The sequence number.
    pub sequence: u64,
    /// Every transaction signed for this number, oldest first.
    pub transactions: Vec<Transaction>,
}

/// The problems that keep a chain from settling payments now. Empty if there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// The problems.
    pub problems: Vec<Problem>,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What cannot be used because of the problem.
    pub scope: Scope,
    /// For operators: what was found, and how to fix it or where to look.
    pub what: String,
}

/// What a problem makes unusable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The whole network.
    Network,
    /// One asset.
    Asset(String),
    /// One scheme.
    Scheme(String),
    /// One signer.
    Lane(LaneId),
    /// Nothing yet, but an operator should check it.
    Advisory,
}

impl Health {
    /// Whether the network as a whole is usable.
    pub fn network_works(&self) -> bool {
        !self
            .problems
            .iter()
            .any(|problem| problem.scope == Scope::Network)
    }

    /// Whether this asset is usable. `asset` has the chain's own spelling.
    pub fn asset_works(&self, asset: &str) -> bool {
        self.network_works()
            && !self
                .problems
                .iter()
                .any(|problem| problem.scope == Scope::Asset(asset.to_owned()))
    }

    /// Whether transactions can be sent: at least one of these signers is usable, or the chain has
    /// no signers and sends what others have signed.
    pub fn can_send(&self, lanes: &[LaneId]) -> bool {
        self.network_works() && (lanes.is_empty() || lanes.iter().any(|lane| self.lane_works(lane)))
    }

    /// Whether this scheme is usable, by its name.
    pub fn scheme_works(&self, scheme: &str) -> bool {
        self.network_works()
            && !self
                .problems
                .iter()
                .any(|problem| problem.scope == Scope::Scheme(scheme.to_owned()))
    }

    /// Whether this signer is usable.
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
/// The associated types are for the schemes of this chain: a question, its answer, an action, and
/// the record of what a transaction did. The engine passes them on and never looks inside.
///
/// Every method may be called at any time, from many tasks at once, and any number of times.
///
/// **The engine** promises more than that for signing and sending:
///
/// * On chains with sequence numbers, it calls [`prepare`](Self::prepare) for one lane from one
///   task at a time, with the next free number.
/// * It calls [`submit`](Self::submit) only after the journal has the transaction on disk. So a
///   chain never has a transaction that the journal does not know.
/// * It has at most [`in_flight_max`](Self::in_flight_max) transactions of a lane outstanding.
/// * It calls [`read`](Self::read) and [`status`](Self::status) with up to 256 questions, from a
///   few tasks at once, and [`health`](Self::health) from one task.
///
/// **An implementation must** tell "not sent" from "no answer": [`Submission::Refused`] only if no
/// node can have the transaction. It must not drop a question, and must answer in the order of the
/// questions. A node's failure is a [`Fault`], never a state of the chain.
///
/// What the engine does with one payment, by hand:
///
/// ```
/// use quittance_core::{Chain, Status, Submission, Watched};
/// use quittance_testing::world::{Environment, World};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let setting = Environment::new();
/// let chain = setting.world.chain();
/// let lane = chain.lanes()[0].clone();
/// let transfer = World::transfer_of(&setting.request().await);
///
/// let sequence = chain.next_sequence(&lane).await?.ok_or("it numbers its transactions")?;
/// let transaction = chain.prepare(&lane, sequence, &[&transfer]).await?;
/// // Here the engine writes the transaction to the journal.
/// assert!(matches!(chain.submit(&transaction).await, Submission::Accepted));
///
/// let transactions = vec![transaction];
/// let watched = [Watched { lane, sequence, transactions }];
/// let status = chain.status(&watched).await.remove(0)?;
/// assert!(matches!(status, Status::Included { .. }));
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Chain: Send + Sync + 'static {
    /// A question about the chain's state.
    type Read: Clone + Send + Sync + 'static;
    /// The answer to one question.
    type Answer: Send + Sync + 'static;
    /// An effect to be put on the chain, not signed yet.
    type Action: Send + Sync + 'static;
    /// What a transaction did, by the chain's records.
    type Evidence: Send + Sync + 'static;
    /// A query for the transaction that used an authorization.
    /// [`Infallible`](std::convert::Infallible) on chains whose authorization is the transaction
    /// itself.
    type Search: Send + Sync + 'static;

    /// The network.
    fn network(&self) -> &Network;

    /// The signers, in order of preference. Never changes. Empty if payers sign and send whole
    /// transactions by themselves ([`signed`](Self::signed)).
    fn lanes(&self) -> &[LaneId];

    /// The transaction that an action already is, because its payer or another party has signed it
    /// as a whole. `None` if one of the [`lanes`](Self::lanes) signs the action. Pure.
    ///
    /// The transaction's lane is its signer, and its sequence is the signer's own number for it. On
    /// chains without sequence numbers, the sequence is any number that the bytes determine. The
    /// lane must not be one of [`lanes`](Self::lanes): the engine rejects such a payment.
    ///
    /// The engine journals, submits and watches the transaction as it is. It never batches or
    /// replaces it, and uses up no number of its signer. It does not wait for other transactions of
    /// the signer either. A transaction that is dropped, or included without effect, is not sent
    /// again, and its payment is checked again. When the payment has expired and the transaction is
    /// still pending, the engine gives it up.
    fn signed(&self, _action: &Self::Action) -> Option<Transaction> {
        None
    }

    /// How many confirmations a payment's transaction needs before the payment counts as settled.
    /// At least 1.
    fn confirmations_required(&self) -> u64;

    /// When a settled payment is final.
    fn finality(&self) -> Finality;

    /// How many transactions of one signer may be outstanding at once. At least 1, and not more
    /// than nodes keep for one signer. On chains without sequence numbers, this is also the number
    /// of concurrent submissions.
    fn in_flight_max(&self) -> usize;

    /// How long a transaction that is sent now usually takes to be included. The engine does not
    /// send an authorization that expires sooner. Zero if a late transaction costs nothing.
    fn inclusion_time(&self) -> Duration {
        Duration::ZERO
    }

    /// Asks many questions in as few round trips as possible. The answers have the order of the
    /// questions.
    ///
    /// Changes nothing on the chain. Each answer is independent of the other questions. A question
    /// that fails, or that uses all resources of a call, becomes an `Err` at its own index.
    ///
    /// # Errors
    /// A [`Fault`] for each question that could not be answered. A state of the chain that
    /// contradicts a payment is an answer, not an error.
    async fn read(&self, reads: &[Self::Read]) -> Vec<Result<Self::Answer, Fault>>;

    /// Whether `next` can share a transaction with `batch`, so that no action can change the
    /// outcome of another. Pure.
    ///
    /// It also limits the batch by count, gas, bytes and fee, so that [`prepare`](Self::prepare)
    /// can sign every batch that it allows. The engine limits a batch to 256 actions. If `prepare`
    /// refuses a batch, the engine tries each of its actions once alone.
    fn can_batch(&self, batch: &[&Self::Action], next: &Self::Action) -> bool;

    /// The signer's next sequence number (EVM: the confirmed nonce). The chain has used every lower
    /// number, and includes no higher one first. `None` on chains without sequence numbers.
    ///
    /// # Errors
    /// When no node answers.
    async fn next_sequence(&self, lane: &LaneId) -> Result<Option<u64>, Fault>;

    /// Signs one transaction with all `actions`. Sends nothing and uses up no number: a later call
    /// may use the same `sequence`.
    ///
    /// # Errors
    /// When fees cannot be read or exceed the operator's limit, or when signing fails.
    async fn prepare(
        &self,
        lane: &LaneId,
        sequence: u64,
        actions: &[&Self::Action],
    ) -> Result<Transaction, Fault>;

    /// Sends a transaction to the nodes. May be called any number of times with the same
    /// transaction.
    async fn submit(&self, transaction: &Transaction) -> Submission;

    /// The status of many sequence numbers, in as few round trips as possible. The results have the
    /// order of `watched`.
    ///
    /// # Errors
    /// For each number whose status cannot be read. Never [`Status::Dropped`] by a guess.
    async fn status(&self, watched: &[Watched]) -> Vec<Result<Status<Self::Evidence>, Fault>>;

    /// Finds the included transaction that used an authorization, from any sender. `None` if the
    /// nodes know no such transaction as far back as they are asked.
    ///
    /// # Errors
    /// When no node can search.
    async fn find(&self, search: &Self::Search) -> Result<Option<Found<Self::Evidence>>, Fault>;

    /// Signs the same actions for the same sequence number with a higher fee, high enough for nodes
    /// to accept it as a replacement. `None` if the operator's fee limit is reached, or if the
    /// chain has no replacements.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    async fn replace(&self, transaction: &Transaction) -> Result<Option<Transaction>, Fault>;

    /// Signs a transaction that only uses up a sequence number, so that the chain can include the
    /// ones after it. It replaces `over`, the transaction that was sent for this number, if there
    /// is one. `None` if this is not possible or never needed.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    async fn noop(
        &self,
        lane: &LaneId,
        sequence: u64,
        over: Option<&Transaction>,
    ) -> Result<Option<Transaction>, Fault>;

    /// Checks everything that settling depends on: nodes, chain id, signers' balances, assets.
    ///
    /// `now` is this machine's time. The chain compares it with the times of the newest blocks.
    async fn health(&self, now: Timestamp) -> Health;

    /// Why this machine's clock cannot be trusted, by the last [`health`](Self::health). `None` if
    /// it can be trusted, or if the chain's blocks have no time. Pure.
    ///
    /// While there is a reason, verdicts that depend on the time become faults.
    fn clock_fault(&self) -> Option<Fault> {
        None
    }
}
