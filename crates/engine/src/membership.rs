//! This process among the replicas of its journal: how long it may act, and what it holds.
//!
//! A process that is killed, paused or cut off loses its work to others when its membership is
//! over.

use std::sync::Arc;
use std::time::Duration;

use quittance_journal::{Journal, JournalError};
use tokio::time::sleep;
use tracing::warn;

/// How many times a membership is renewed in its duration. Two renewals may fail, and the third is
/// in time.
const RENEWALS: u32 = 3;

/// The membership of this process.
pub(crate) struct Membership {
    journal: Arc<dyn Journal>,
    duration: Duration,
}

impl Membership {
    /// A membership that was not renewed yet.
    pub(crate) fn new(journal: Arc<dyn Journal>, duration: Duration) -> Self {
        Self { journal, duration }
    }

    /// Renews the membership once.
    pub(crate) async fn renew(&self) -> Result<(), JournalError> {
        let members = self.journal.renew(self.duration).await?;
        metrics::gauge!("quittance_replicas").set(members.replicas.len() as f64);
        Ok(())
    }

    /// Renews the membership as long as this process runs.
    pub(crate) async fn run(&self) {
        let pause = self.duration / (RENEWALS + 1);
        loop {
            sleep(pause).await;
            if let Err(error) = self.renew().await {
                warn!(%error, "the membership of this replica could not be renewed");
            }
        }
    }

    /// Ends the membership. Nothing is written by this process after that.
    pub(crate) async fn leave(&self) {
        if let Err(error) = self.journal.leave().await {
            warn!(%error, "other replicas must wait until the membership of this one is over");
        }
    }
}
