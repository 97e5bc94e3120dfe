//! `quittance journal`: copies of the journal, retention, and what the chains can give back.

mod export;
mod import;
mod line;
mod line_text;
mod prune;
mod rebuild;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use quittance_core::Timestamp;

use super::{CommandResult, when};
use crate::families::Families;

/// Copy, shorten or rebuild the journal.
#[derive(Debug, Args)]
pub(super) struct JournalCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the journal to standard output, as JSON Lines.
    Export(export::Export),
    /// Read what `export` wrote into this journal.
    Import(import::Import),
    /// Remove the personal data of old settlements. What guards against replays stays.
    Prune(prune::Prune),
    /// Take back from the chains what they know of a lost journal.
    Rebuild(rebuild::Rebuild),
}

/// The configuration with the journal.
#[derive(Debug, Args)]
struct Configured {
    /// The configuration file.
    #[arg(long, default_value = "quittance.toml")]
    config: PathBuf,
}

impl JournalCommand {
    pub(super) async fn run(self, families: &Families) -> CommandResult {
        match self.command {
            Command::Export(export) => export.run(families).await,
            Command::Import(import) => import.run(families).await,
            Command::Prune(prune) => prune.run(families).await,
            Command::Rebuild(rebuild) => rebuild.run(families).await,
        }
    }
}

/// A time on the command line.
fn time(text: &str) -> Result<Timestamp, String> {
    let time = when::time(text);
    time.ok_or_else(|| "neither a date nor a time in RFC 3339".to_owned())
}
