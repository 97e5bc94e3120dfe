//! Lists of what schemes keep between payments, such as `quittance holds`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use quittance_core::{Amount, Clock, SchemeState, StateSummary, SystemClock, Timestamp, printable};
use quittance_engine::SqliteJournal;

use super::CommandResult;
use crate::config::Config;
use crate::families::{ConfiguredChain, Families};
use crate::startup::Startup;

/// How many records are read at once: a second's work at most, and a few megabytes.
const PAGE: u32 = 1000;

/// The examples below the options of `holds` in `--help`.
const EXAMPLE: &str = "\
Each line has the hold's record, what is held, the receiver, the payer, the time until the deadline and what the facilitator
does next by itself. The journal is only read, so the facilitator can be running.

Examples:
  quittance holds
  quittance holds --config /etc/quittance.toml --all";

/// The scheme whose records are holds.
const HOLDS: &str = "auth-capture";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Holds {
    /// The configuration file.
    #[arg(long, default_value = "quittance.toml")]
    config: PathBuf,
    /// List those as well of which nothing is held any more.
    #[arg(long)]
    all: bool,
}

impl Holds {
    /// Prints the list to standard output, one hold a line.
    pub(super) async fn run(self, families: &Families) -> CommandResult {
        let config = Config::read(&self.config, families)?;
        let list = List::read(&config, families)?;
        match list.print(HOLDS, self.all).await? {
            0 => eprintln!("nothing is held"),
            count => eprintln!("{count} in all"),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The records of a configuration's journal, and the chains that can read them.
struct List<'a> {
    journal: PathBuf,
    chains: Vec<Box<dyn ConfiguredChain>>,
    families: &'a Families,
}

impl<'a> List<'a> {
    fn read(config: &Config, families: &'a Families) -> Result<Self, Box<dyn std::error::Error>> {
        let startup = Startup::read(config, families)?;
        Ok(Self {
            journal: config.journal.clone(),
            chains: startup.into_chains(),
            families,
        })
    }

    /// Prints the records of a scheme: those of which something is open, or all. Returns how many
    /// they are.
    async fn print(&self, scheme: &str, all: bool) -> Result<usize, Box<dyn std::error::Error>> {
        let (mut count, mut after) = (0, None);
        let now = SystemClock.now();
        loop {
            let page = SqliteJournal::list_states(&self.journal, scheme, after.as_ref(), PAGE);
            let page = page.await?;
            for state in &page {
                let summary = self.summary(state, now);
                let is_open = summary.as_ref().is_none_or(|it| !it.open.is_zero());
                if is_open || all {
                    println!("{}", self.line(state, summary.as_ref(), now));
                    count += 1;
                }
            }
            match page.last() {
                Some(last) => after = Some(last.id),
                None => return Ok(count),
            }
        }
    }

    fn summary(&self, state: &SchemeState, now: Timestamp) -> Option<StateSummary> {
        let mut chains = self.chains.iter();
        let chain = chains.find(|chain| chain.network().id() == state.network)?;
        chain.summary(state, now)
    }

    /// One record as a line, with tabs between the fields.
    fn line(&self, state: &SchemeState, summary: Option<&StateSummary>, now: Timestamp) -> String {
        let (id, network) = (state.id, printable(&state.network));
        let Some(summary) = summary else {
            return format!(
                "{id}\ton {network}\tcannot be read: the network is not configured, or the record is of another version"
            );
        };
        let StateSummary {
            payer,
            pay_to,
            open,
            until,
            next,
            ..
        } = summary;
        let amount = self.amount(state, summary, *open);
        let until = match until.map(|until| until.secs_since(now)) {
            None => "without a deadline".to_owned(),
            Some(0) => "its deadline has passed".to_owned(),
            Some(left) => format!("for {left} more seconds"),
        };
        format!(
            "{id}\t{amount}\tto {} on {network}\tfrom {}\t{until}\t{next}",
            printable(pay_to),
            printable(payer)
        )
    }

    fn amount(&self, state: &SchemeState, summary: &StateSummary, open: Amount) -> String {
        let mut families = self.families.iter();
        let token = families.find_map(|family| family.token(&state.network, &summary.asset));
        match token {
            Some(token) => format!("{} {}", open.to_decimal(token.decimals), token.symbol),
            None => format!("{open} atomic units of {}", printable(&summary.asset)),
        }
    }
}
