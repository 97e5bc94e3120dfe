//! Verifies and settles x402 payments.
//!
//! An [`Engine`] is a [`Facilitator`](quittance_core::Facilitator) for the chains and schemes that
//! it is built with. With its [`Journal`] it keeps two promises. No outcome is ever unknown. And
//! for each authorization, success is reported at most once.
//!
//! This crate contains no HTTP and names no chain.
//!
//! ```no_run
//! use std::sync::Arc;
//! use quittance_core::{Chain, Scheme};
//! use quittance_engine::{Engine, SqliteJournal};
//!
//! # use std::error::Error;
//! # async fn start<C: Chain>(chain: C, exact: Arc<dyn Scheme<C>>) -> Result<(), Box<dyn Error>> {
//! let journal = SqliteJournal::open("quittance.db").await?;
//! let engine = Engine::builder(journal).chain(chain, vec![exact]).start().await?;
//! # Ok(())
//! # }
//! ```

mod context;
mod engine;
mod event;
mod failures;
mod feed;
mod health;
mod in_flight;
mod job;
mod lane;
mod leases;
mod ledger;
mod membership;
mod offline;
mod outstanding;
mod policy;
mod rail;
mod reader;
mod rules;
mod schemes;
mod signatures;
mod timing;
mod watch;
mod writer;

pub use engine::{Engine, EngineBuilder, Replica, SETTLE_WAIT};
pub use event::Event;
pub use failures::FailureLimits;
pub use feed::Feed;
pub use health::scheme_problems;
pub use offline::{Offline, OfflineVerifier};
pub use policy::{AllowAll, Policy, Rules};
#[cfg(feature = "postgres")]
pub use quittance_journal::PostgresJournal;
pub use quittance_journal::{
    Cause, Claim, Claimed, Contradiction, Cursor, EVENTS_MAX, Ended, Entry, EventCursor,
    EventFilter, EventKind, EventSignal, Events, FAILURES_MAX, FencingToken, FileChange,
    FileProblem, Filter, HandedOver, InvalidCursor, InvalidEventCursor, Journal, JournalError,
    Lease, LeaseName, Members, NewEvents, Outcome, PAGE_MAX, Page, Place, REPORTED_AGAIN_FOR,
    RETRY_PAUSE, RETRY_PAUSE_MAX, RecordedTransaction, RefundProblem, ReplicaId, Reported,
    Restored, Settlement, SettlementEvent, SettlementStep, SignedFor, SignedRef, SqliteJournal,
    State, StateKind, StoredState, TransactionPage, UnknownEvent, UnknownState,
};
pub use timing::Timing;
