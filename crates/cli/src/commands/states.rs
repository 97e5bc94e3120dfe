//! `quittance holds` and `quittance channels`: lists of what schemes keep between payments.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use quittance_core::{Amount, Clock, SchemeState, StateSummary, SystemClock, Timestamp, printable};
use serde_json::{Map, Value, json};

use super::CommandResult;
use crate::config::{Config, JournalPlace};
use crate::families::{ConfiguredChain, Families};
use crate::startup::Startup;

/// How many records are read at once: a second's work at most, and a few megabytes.
const PAGE: u32 = 1000;

/// The examples below the options of `holds` in `--help`.
const HOLDS_HELP: &str = "\
Each line has the hold's record, what is held, the receiver, the payer, the time until the deadline and what the facilitator
does next by itself. The journal is only read, so the facilitator can be running.

Examples:
  quittance holds
  quittance holds --config /etc/quittance.toml --all";

/// The examples below the options of `channels` in `--help`.
const CHANNELS_HELP: &str = "\
Each line has the channel's record, what it still has for its receiver, what was deposited, charged and claimed, the
receiver, the payer, the time until an announced withdrawal, and what upkeep does next. What was deposited and withdrawn is
as the chain was when it was asked last. The journal is only read, so the facilitator or the seller can be running.

Examples:
  quittance channels
  quittance channels --config /etc/quittance.toml --json
  quittance channels --store channels.db";

/// The scheme whose records are holds.
const HOLDS: &str = "auth-capture";

/// The scheme whose records are channels.
const CHANNELS: &str = "batch-settlement";

/// What is listed, and how.
#[derive(Debug, Args)]
struct Listing {
    /// List also those of which nothing is left.
    #[arg(long)]
    all: bool,
    /// Print an object of JSON for each. Amounts are in atomic units, and times in seconds since
    /// 1970.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = HOLDS_HELP)]
pub(super) struct Holds {
    /// The configuration file.
    #[arg(long, default_value = "quittance.toml")]
    config: PathBuf,
    #[command(flatten)]
    listing: Listing,
}

impl Holds {
    /// Prints the list to standard output, one hold a line.
    pub(super) async fn run(self, families: &Families) -> CommandResult {
        let list = List::configured(&self.config, families)?;
        match list.print(HOLDS, &self.listing).await? {
            0 => eprintln!("nothing is held"),
            count => eprintln!("{count} in all"),
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug, Args)]
#[command(after_help = CHANNELS_HELP)]
pub(super) struct Channels {
    /// The facilitator's configuration file. Its journal is read.
    #[arg(long, default_value = "quittance.toml")]
    config: PathBuf,
    /// The file in which a seller keeps the books of its channels. It is read instead.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    store: Option<PathBuf>,
    #[command(flatten)]
    listing: Listing,
}

impl Channels {
    /// Prints the list to standard output, one channel a line.
    pub(super) async fn run(self, families: &Families) -> CommandResult {
        let list = match self.store {
            Some(store) => List::of_store(store, families),
            None => List::configured(&self.config, families)?,
        };
        match list.print(CHANNELS, &self.listing).await? {
            0 => eprintln!("no channel is open"),
            count => eprintln!("{count} in all"),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The records of a journal, and the chains and families that can read them.
struct List<'a> {
    journal: JournalPlace,
    chains: Vec<Box<dyn ConfiguredChain>>,
    families: &'a Families,
}

impl<'a> List<'a> {
    /// The records of a configuration's journal.
    fn configured(path: &Path, families: &'a Families) -> Result<Self, Box<dyn Error>> {
        let config = Config::read(path, families)?;
        let startup = Startup::read(&config, families)?;
        Ok(Self {
            journal: config.journal.clone(),
            chains: startup.into_chains(),
            families,
        })
    }

    /// The records of a seller's store.
    fn of_store(store: PathBuf, families: &'a Families) -> Self {
        Self {
            journal: JournalPlace::File(store),
            chains: Vec::new(),
            families,
        }
    }

    /// Prints the records of a scheme: those of which something is open, or all. Returns how many
    /// they are.
    async fn print(&self, scheme: &str, listing: &Listing) -> Result<usize, Box<dyn Error>> {
        let (mut count, mut after) = (0, None);
        let now = SystemClock.now();
        let journal = self.journal.open_read_only().await?;
        loop {
            let page = journal.states(after.as_ref(), PAGE).await?;
            let records = page.iter().map(|stored| &stored.record);
            // A record without a revision only marks that a settlement has it for itself.
            let written = records.filter(|it| it.scheme == scheme && it.revision > 0);
            for state in written {
                let summary = self.summary(state, now);
                let is_open = summary.as_ref().is_none_or(|it| !it.open.is_zero());
                if !is_open && !listing.all {
                    continue;
                }
                match listing.json {
                    true => println!("{}", object(state, summary.as_ref())),
                    false => println!("{}", self.line(state, summary.as_ref(), now)),
                }
                count += 1;
            }
            match page.last() {
                Some(last) => after = Some(last.record.id),
                None => return Ok(count),
            }
        }
    }

    fn summary(&self, state: &SchemeState, now: Timestamp) -> Option<StateSummary> {
        let mut chains = self.chains.iter();
        let chain = chains.find(|chain| chain.network().id() == state.network);
        let configured = chain.and_then(|chain| chain.summary(state, now));
        let mut families = self.families.iter();
        configured.or_else(|| families.find_map(|family| family.summary(state, now)))
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
            until,
            next,
            ..
        } = summary;
        let amounts = self.amounts(state, summary);
        let until = match until.map(|until| until.secs_since(now)) {
            None => "without a deadline".to_owned(),
            Some(0) => "its deadline has passed".to_owned(),
            Some(left) => format!("for {left} more seconds"),
        };
        format!(
            "{id}\t{amounts}\tto {} on {network}\tfrom {}\t{until}\t{next}",
            printable(pay_to),
            printable(payer)
        )
    }

    /// What is open, and the other amounts in a field of their own.
    fn amounts(&self, state: &SchemeState, summary: &StateSummary) -> String {
        let mut families = self.families.iter();
        let token = families.find_map(|family| family.token(&state.network, &summary.asset));
        let number = |amount: Amount| match &token {
            Some(token) => amount.to_decimal(token.decimals),
            None => amount.to_string(),
        };
        let open = number(summary.open);
        let open = match &token {
            Some(token) => format!("{open} {}", token.symbol),
            None => format!("{open} atomic units of {}", printable(&summary.asset)),
        };
        let named = summary.amounts.iter();
        let named: Vec<String> = named
            .map(|(name, amount)| format!("{} {name}", number(*amount)))
            .collect();
        match named.is_empty() {
            true => open,
            false => format!("{open}\t{}", named.join(", ")),
        }
    }
}

/// One record as JSON. What cannot be read has the first three fields only.
fn object(state: &SchemeState, summary: Option<&StateSummary>) -> Value {
    let mut fields = json!({
        "id": state.id.to_string(), "network": state.network, "scheme": state.scheme,
    });
    if let Some(summary) = summary {
        let named = summary.amounts.iter();
        let named = named.map(|(name, amount)| ((*name).to_owned(), json!(amount)));
        fields["payer"] = json!(summary.payer);
        fields["payTo"] = json!(summary.pay_to);
        fields["asset"] = json!(summary.asset);
        fields["open"] = json!(summary.open);
        fields["amounts"] = Value::Object(named.collect::<Map<_, _>>());
        fields["until"] = json!(summary.until.map(Timestamp::secs));
        fields["due"] = json!(state.due.map(Timestamp::secs));
        fields["next"] = json!(summary.next);
    }
    fields
}
