//! `quittance journal import`.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use futures_util::future::join_all;
use quittance_engine::{Entry, Journal, JournalError, Restored};

use super::Configured;
use super::line::{Line, VERSION};
use crate::commands::CommandResult;
use crate::config::Config;
use crate::families::Families;

/// How many entries share one commit: as many as the journal commits together.
const TOGETHER: usize = 256;

/// The examples below the options in `--help`.
const EXAMPLE: &str = "\
Stop the facilitator first. An import can be repeated. Nothing in the journal becomes lower: of two states of a settlement,
the later one stays. An entry that contradicts the journal is refused and printed.

Examples:
  quittance journal import journal.jsonl
  zcat journal.jsonl.gz | quittance journal import --config new.toml

Exit codes: 0 everything is in the journal, 1 some entries were refused or the file cannot be read.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Import {
    #[command(flatten)]
    configured: Configured,
    /// The file that `export` wrote. By default standard input.
    file: Option<PathBuf>,
}

impl Import {
    pub(super) async fn run(self, families: &Families) -> CommandResult {
        let config = Config::read(&self.configured.config, families)?;
        let input: Box<dyn BufRead> = match &self.file {
            Some(path) => {
                let file = File::open(path);
                let file = file.map_err(|error| format!("{}: {error}", path.display()))?;
                Box::new(BufReader::new(file))
            }
            None => Box::new(stdin().lock()),
        };
        let journal = config.journal.open().await?;
        let imported = import(&*journal, input).await?;
        for (line, problem) in &imported.refused {
            println!("line {line}: {problem}");
        }
        eprintln!(
            "{} entries added, {} brought to a later state, {} known, {} refused",
            imported.added,
            imported.raised,
            imported.kept,
            imported.refused.len()
        );
        Ok(match imported.refused.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

/// What became of the entries of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Imported {
    pub(super) added: u64,
    pub(super) raised: u64,
    pub(super) kept: u64,
    /// The lines that the journal refused, and why.
    pub(super) refused: Vec<(usize, String)>,
}

/// Restores the lines of a file.
///
/// # Errors
/// When a line cannot be read, or the journal cannot be written. The lines before it are restored.
pub(super) async fn import(
    journal: &dyn Journal,
    input: impl BufRead,
) -> Result<Imported, Box<dyn Error>> {
    let mut imported = Imported::default();
    let mut waiting = Vec::with_capacity(TOGETHER);
    for (line, text) in (1..).zip(input.lines()) {
        let text = text?;
        let read = read(line, &text).map_err(|error| format!("line {line}: {error}"));
        match read {
            Ok(None) => {}
            Ok(Some(entry)) => waiting.push((line, entry)),
            Err(error) => {
                imported.restore(journal, &mut waiting).await?;
                return Err(error.into());
            }
        }
        if waiting.len() == TOGETHER {
            imported.restore(journal, &mut waiting).await?;
        }
    }
    imported.restore(journal, &mut waiting).await?;
    Ok(imported)
}

/// The entry of a line; `None` for the first one.
fn read(line: usize, text: &str) -> Result<Option<Entry>, Box<dyn Error>> {
    match (line, serde_json::from_str(text)?) {
        (1, Line::Journal(head)) if head.version == VERSION => Ok(None),
        (1, Line::Journal(head)) => Err(format!(
            "the export has version {}, and this program reads version {VERSION}",
            head.version
        )
        .into()),
        (1, _) => Err("not an export of a journal: the first line has no version".into()),
        (_, line) => Ok(Some(line.try_into()?)),
    }
}

impl Imported {
    /// Restores the entries that wait, in as few commits as possible. One that was refused may have
    /// been restored before an entry that it needs, so it is tried once more, in order.
    async fn restore(
        &mut self,
        journal: &dyn Journal,
        waiting: &mut Vec<(usize, Entry)>,
    ) -> Result<(), JournalError> {
        let all = waiting.iter().map(|(_, entry)| journal.restore(entry));
        let answers = join_all(all).await;
        let mut again = Vec::new();
        for ((line, entry), answer) in waiting.drain(..).zip(answers) {
            match answer {
                Ok(restored) => self.count(restored),
                Err(JournalError::Refused { .. }) => again.push((line, entry)),
                Err(error) => return Err(error),
            }
        }
        for (line, entry) in again {
            match journal.restore(&entry).await {
                Ok(restored) => self.count(restored),
                Err(JournalError::Refused { cause }) => {
                    self.refused.push((line, cause.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn count(&mut self, restored: Restored) {
        match restored {
            Restored::Added => self.added += 1,
            Restored::Raised => self.raised += 1,
            Restored::Kept => self.kept += 1,
        }
    }
}
