//! A world with an engine and a journal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quittance_core::{Amount, PaymentRequest};
use quittance_engine::{Engine, EngineBuilder, SqliteJournal, Timing};
use tempfile::TempDir;

use super::{SimulatedExact, USD, World};

/// The waiting times of the engine in tests: short, so that a test of a whole settlement takes less
/// than a second.
pub const TIMING: Timing = Timing::new()
    .with_look_every(Duration::from_millis(10))
    .with_resubmit_after(Duration::from_millis(60))
    .with_replace_after(Duration::from_millis(200))
    .with_dropped_after(Duration::from_millis(50))
    .with_sweep_every(Duration::from_millis(100));

/// A world with a journal, in which engines are started one after the other.
pub struct Environment {
    /// The chain with its node and its clock.
    pub world: World,
    folder: TempDir,
}

impl Default for Environment {
    fn default() -> Self {
        Self::new()
    }
}

impl Environment {
    /// A world that makes a block for each transaction, and an empty journal.
    ///
    /// # Panics
    /// When no temporary folder can be made.
    pub fn new() -> Self {
        let world = World::new();
        world.includes_at_once(true);
        Self {
            world,
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// The journal's file.
    pub fn journal_path(&self) -> PathBuf {
        self.folder.path().join("journal.db")
    }

    /// The journal. A new engine resumes the settlements of the engine before.
    pub async fn journal(&self) -> SqliteJournal {
        crate::open_journal(&self.journal_path()).await
    }

    /// An engine that settles `exact` on the world's chain.
    pub async fn engine(&self) -> Engine {
        self.engine_with(|builder| builder).await
    }

    /// An engine with other options.
    ///
    /// # Panics
    /// When the engine does not start.
    pub async fn engine_with(&self, change: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Engine {
        let chain = self.world.chain();
        let exact = Arc::new(SimulatedExact::new(&chain));
        let builder = self.builder().await.chain(chain, vec![exact]);
        change(builder).start().await.expect("an engine")
    }

    /// A builder with the journal, the world's clock and short waiting times, and without a chain.
    pub async fn builder(&self) -> EngineBuilder {
        Engine::builder(self.journal().await)
            .clock(self.world.clock())
            .settle_wait(Duration::from_secs(2))
            .timing(TIMING)
    }

    /// A new payment by payer 0.
    pub async fn request(&self) -> PaymentRequest {
        self.world.request(&self.world.payer(0)).await
    }

    /// What the seller has received, in atomic units.
    pub fn received(&self) -> Amount {
        self.world.balance(&self.world.seller(), USD)
    }
}
