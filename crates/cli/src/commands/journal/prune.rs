//! `quittance journal prune`.

use std::process::ExitCode;

use clap::Args;
use quittance_core::{Clock, SystemClock, Timestamp};
use quittance_engine::REPORTED_AGAIN_FOR;

use super::{Configured, time};
use crate::commands::{CommandResult, when};
use crate::config::{Config, ConfigError};
use crate::families::Families;

/// The least age of what is pruned, in seconds: for a day success is reported again to the same
/// caller, which needs its key. The other day is for clocks that differ.
const AGE_MIN: u64 = 2 * REPORTED_AGAIN_FOR;

/// How many settlements are pruned in one commit: a second's work at most.
const AT_ONCE: u32 = 500;

/// The examples below the options in `--help`.
const EXAMPLE: &str = "\
Stop the facilitator first. Payers, recipients, requests, receipts and callers' names are removed from settlements that have
ended for good. A pruned payment can no longer be refunded through the facilitator. It still can never be settled twice.

Example:
  quittance journal prune --before 2026-08-01";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Prune {
    #[command(flatten)]
    configured: Configured,
    /// Prune what ended before this time, which is at least two days ago.
    #[arg(long, value_name = "TIME", value_parser = time)]
    before: Timestamp,
}

impl Prune {
    pub(super) async fn run(self, families: &Families) -> CommandResult {
        let config = Config::read(&self.configured.config, families)?;
        if self.before.plus_secs(AGE_MIN) > SystemClock.now() {
            let problem = "must be at least two days ago: callers may still ask for these payments";
            return Err(ConfigError::value("--before", problem).into());
        }
        let journal = config.journal.open().await?;
        let mut count = 0;
        loop {
            match journal.prune(self.before, AT_ONCE).await? {
                0 => break,
                pruned => count += pruned,
            }
        }
        eprintln!(
            "{count} settlements from before {} were pruned; run {} to overwrite their old pages",
            when::text(self.before),
            config.journal.vacuum()
        );
        Ok(ExitCode::SUCCESS)
    }
}
