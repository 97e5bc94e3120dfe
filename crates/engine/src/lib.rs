//! Verifies and settles x402 payments.
//!
//! What it is: an [`Engine`] that is a [`Facilitator`](quittance_core::Facilitator) for every chain and scheme it is
//! given, with a [`Journal`] that makes two promises hold: no outcome is ever unknown, and of all who ask, at most one
//! is ever told that an authorization has settled.
//!
//! What it is not: it has no HTTP in it and names no chain.
//!
//! ```no_run
//! use std::sync::Arc;
//! use quittance_core::{Chain, Scheme};
//! use quittance_engine::{Engine, SqliteJournal};
//!
//! # async fn start<C: Chain>(chain: C, exact: Arc<dyn Scheme<C>>) -> Result<(), Box<dyn std::error::Error>> {
//! let journal = SqliteJournal::open("quittance.db").await?;
//! let engine = Engine::builder(journal).chain(chain, vec![exact]).start().await?;
//! # Ok(())
//! # }
//! ```

mod engine;
mod event;
mod failures;
mod job;
mod lane;
mod ledger;
mod offline;
mod policy;
mod rail;
mod reader;
mod signatures;
mod turns;
mod watch;
mod writer;

pub use engine::{Engine, EngineBuilder, SETTLE_WAIT};
pub use event::Event;
pub use failures::FailureLimits;
pub use offline::{Offline, Verifier};
pub use policy::{AllowAll, Policy, Rules};
pub use quittance_journal::{
    Cause, Claim, Claimed, Cursor, FAILURES_MAX, FileChange, FileProblem, Filter, InvalidCursor,
    Journal, JournalError, Outcome, PAGE_MAX, Page, Settlement, SqliteJournal, State, StateKind,
    UnknownState,
};
pub use watch::Timing;
