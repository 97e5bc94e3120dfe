//! `quittance journal export`.

use std::collections::HashSet;
use std::error::Error;
use std::io::{BufWriter, Write, stdout};
use std::process::ExitCode;

use clap::Args;
use quittance_core::{Timestamp, TransactionId};
use quittance_engine::{Cursor, Filter, Journal, PAGE_MAX, Settlement};

use super::line::{Head, Line, VERSION};
use super::{Configured, time};
use crate::commands::CommandResult;
use crate::config::Config;
use crate::families::Families;

/// The examples below the options in `--help`.
const EXAMPLE: &str = "\
The journal is only read, so the facilitator can be running. Each line then has the state of the moment at which it was
read. Stop the facilitator for a copy of one moment.

Examples:
  quittance journal export > journal.jsonl
  quittance journal export --from 2026-11-01 --to 2026-12-01 > november.jsonl";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Export {
    #[command(flatten)]
    configured: Configured,
    /// Only settlements in which something happened at this time or later.
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Timestamp>,
    /// Only settlements that were claimed before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<Timestamp>,
}

impl Export {
    pub(super) async fn run(self, families: &Families) -> CommandResult {
        let config = Config::read(&self.configured.config, families)?;
        let journal = config.journal.open_read_only().await?;
        let mut output = BufWriter::new(stdout().lock());
        let unreadable = export(&*journal, &mut output, self.from, self.to).await?;
        output.flush()?;
        if unreadable == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("{unreadable} entries cannot be read and are not in the export");
        Ok(ExitCode::FAILURE)
    }
}

/// Writes the lines of a journal, and returns how many entries were left out because they cannot be
/// read.
///
/// A transaction comes before every settlement that it was signed for, an original payment before
/// its refunds, and a settlement before the state record that it has for itself.
pub(super) async fn export(
    journal: &dyn Journal,
    output: &mut dyn Write,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
) -> Result<usize, Box<dyn Error>> {
    write(output, &Line::Journal(Head { version: VERSION }))?;
    let is_all = from.is_none() && to.is_none();
    let (from, to) = (from.unwrap_or_default(), to.unwrap_or(Timestamp::NEVER));
    let is_asked = |it: &Settlement| last_event(it) >= from && it.claimed_at < to || is_all;
    let mut transactions = Transactions {
        journal,
        after: None,
        asked: match is_all {
            true => None,
            false => Some(ids(journal, is_asked).await?),
        },
        unreadable: 0,
    };
    let (filter, mut after, mut unreadable) = (Filter::new().limit(PAGE_MAX), None, 0);
    loop {
        let page = journal.page(&filter, after).await?;
        unreadable += page.unreadable;
        // What a settlement of this page names was recorded before the page was read.
        transactions.write(output).await?;
        for settlement in page.settlements.iter().filter(|it| is_asked(it)) {
            write(output, &Line::from(settlement))?;
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let mut after = None;
    loop {
        let states = journal.states(after.as_ref(), PAGE_MAX).await?;
        match states.last() {
            Some(last) => after = Some(last.record.id),
            None => return Ok(unreadable + transactions.unreadable),
        }
        for state in states {
            write(output, &Line::from(state))?;
        }
    }
}

/// The last time at which something happened in a settlement.
fn last_event(settlement: &Settlement) -> Timestamp {
    let later = [
        settlement.concluded_at,
        settlement.success_reported_at,
        settlement.final_at,
    ];
    let later = later.into_iter().flatten().max();
    later.map_or(settlement.claimed_at, |later| {
        later.max(settlement.claimed_at)
    })
}

/// The transactions of some settlements.
async fn ids(
    journal: &dyn Journal,
    is_asked: impl Fn(&Settlement) -> bool,
) -> Result<HashSet<TransactionId>, Box<dyn Error>> {
    let (filter, mut after) = (Filter::new().limit(PAGE_MAX), None);
    let mut ids = HashSet::new();
    loop {
        let page = journal.page(&filter, after).await?;
        for settlement in page.settlements.iter().filter(|it| is_asked(it)) {
            ids.extend(settlement.all_transactions().map(|it| it.id.clone()));
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(ids),
        }
    }
}

/// The transactions that were not written yet.
struct Transactions<'a> {
    journal: &'a dyn Journal,
    after: Option<Cursor>,
    /// Only these; all if `None`.
    asked: Option<HashSet<TransactionId>>,
    unreadable: usize,
}

impl Transactions<'_> {
    /// Writes all that are recorded by now.
    async fn write(&mut self, output: &mut dyn Write) -> Result<(), Box<dyn Error>> {
        loop {
            let page = self.journal.transactions(self.after, PAGE_MAX).await?;
            self.unreadable += page.unreadable;
            let Some(last) = page.last else {
                return Ok(());
            };
            self.after = Some(last);
            for recorded in page.transactions {
                let asked = self.asked.as_ref();
                if asked.is_none_or(|asked| asked.contains(&recorded.transaction.id)) {
                    write(output, &Line::from(recorded))?;
                }
            }
        }
    }
}

fn write(output: &mut dyn Write, line: &Line) -> Result<(), Box<dyn Error>> {
    serde_json::to_writer(&mut *output, line)?;
    output.write_all(b"\n")?;
    Ok(())
}
