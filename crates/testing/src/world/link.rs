//! The connection between an engine and its node, for simulations that disturb it.

use async_trait::async_trait;
use quittance_core::Transaction;

/// What the engine asks of its node.
#[derive(Debug, Clone, Copy)]
pub enum NodeCall<'a> {
    /// A question that changes nothing.
    Ask,
    /// What became of transactions.
    Status,
    /// A transaction to take.
    Submit(&'a Transaction),
}

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Passage {
    /// The call arrives once, and so does its answer.
    Clear,
    /// The connection is not made. The node certainly has not got the call.
    Down,
    /// The call does not arrive, and the caller cannot know it.
    Lost,
    /// The call arrives, and its answer does not.
    AnswerLost,
    /// The call arrives twice.
    Twice,
    /// The node refuses the transaction.
    Refused,
    /// The node is behind: it knows of no transaction that was included.
    Stale,
    /// A planted bug: the transaction is taken, and the answer says that it was refused.
    RefusedAndTaken,
    /// A planted bug: what waits is said to be in a block.
    Foretold,
}

/// A connection that delays and disturbs calls.
#[async_trait]
pub trait Link: Send + Sync + 'static {
    /// Waits as long as the call is on its way, and decides what happens to it.
    async fn pass(&self, call: NodeCall<'_>) -> Passage;

    /// Waits as long as the answer is on its way.
    async fn answered(&self);
}
