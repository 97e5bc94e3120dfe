//! The durable record of settlements. Each step is written before the engine acts on it.
//!
//! A settlement takes three writes, each durable before the next step:
//!
//! 1. the **claim**, before anything is signed: of all requests that claim one authorization, one
//!    wins;
//! 2. the **record** of the signed transaction, before it is sent: after a crash, the engine knows
//!    which transaction to look for;
//! 3. the **conclusion**, before the outcome is answered.
//!
//! A fourth write, the **success report**, comes before the answer `success: true`. It succeeds at
//! most once for an authorization.
//!
//! The engine watches a settled payment until its block is final. If the chain takes the payment
//! back before that, the engine **reopens** the settlement. It then settles again, or is **lost**.
//!
//! Each of these writes adds a [`SettlementEvent`] to a feed, which readers follow from any
//! position.
//!
//! Several processes can use one journal, if it allows that. Each is a **replica**. A settlement
//! has one owner at a time, and what only one replica may do has a **lease** with a fencing token.
//!
//! This crate has the trait [`Journal`], its types, [`SqliteJournal`] for one machine, and with the
//! feature `postgres` [`PostgresJournal`] for any number of them. It names no chain and contains no
//! settlement logic.

mod columns;
mod condition;
mod entry;
mod error;
mod event;
mod group;
mod journal;
mod merge;
mod page;
#[cfg(feature = "postgres")]
mod postgres;
mod replica;
mod settlement;
mod sqlite;

pub use entry::{Entry, RecordedTransaction, Restored, SignedRef, StoredState, TransactionPage};
pub use error::{Cause, FileChange, FileProblem, JournalError};
pub use event::{
    EVENTS_MAX, EventCursor, EventFilter, EventKind, EventSignal, Events, InvalidEventCursor,
    NewEvents, SettlementEvent, UnknownEvent,
};
pub use journal::Journal;
pub use merge::Contradiction;
pub use page::{Cursor, Filter, InvalidCursor, PAGE_MAX, Page};
#[cfg(feature = "postgres")]
pub use postgres::PostgresJournal;
pub use replica::{FencingToken, HandedOver, Lease, LeaseName, Members, ReplicaId};
pub use settlement::{
    Claim, Claimed, Ended, FAILURES_MAX, Outcome, Place, REPORTED_AGAIN_FOR, RETRY_PAUSE,
    RETRY_PAUSE_MAX, RefundProblem, Reported, Settlement, SettlementStep, SignedFor, State,
    StateKind, UnknownState,
};
pub use sqlite::SqliteJournal;
