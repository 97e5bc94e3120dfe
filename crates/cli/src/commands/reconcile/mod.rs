//! `quittance reconcile`: the journal against the chains.

mod compare;
mod output;
mod rows;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use quittance_books::Bound;

use self::compare::compare;
use self::output::Output;
use super::{CommandResult, when};
use crate::config::{Config, ConfigError};
use crate::families::Families;
use crate::startup::Startup;

/// The examples below the options in `--help`.
const EXAMPLE: &str = "\
Reads the journal and the chains, and writes nothing. The facilitator can be running.

A time is a date (2026-11-01, UTC) or RFC 3339 (2026-11-01T12:00:00Z). A number is a block.

Examples:
  quittance reconcile --from 2026-11-01
  quittance reconcile --network base --from 0 --to 23000000 --json > differences.jsonl

Exit codes: 0 the books match, 1 there are differences, 2 something could not be read, and no difference was found.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Reconcile {
    /// The configuration file.
    #[arg(long, default_value = "quittance.toml")]
    config: PathBuf,
    /// The first block, or the time of the first block.
    #[arg(long, value_name = "TIME|BLOCK", value_parser = bound)]
    from: Bound,
    /// The last block, the time of the last block, or `newest`. By default the newest block that
    /// the chain calls final.
    #[arg(long, value_name = "TIME|BLOCK", value_parser = bound)]
    to: Option<Bound>,
    /// Only this network, by its identifier or its alias. By default all configured ones.
    #[arg(long)]
    network: Option<String>,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
    /// List the gas of each payment, too.
    #[arg(long)]
    payments: bool,
}

pub(crate) fn bound(text: &str) -> Result<Bound, String> {
    if text == "newest" {
        return Ok(Bound::Newest);
    }
    let block = text.parse().ok().map(Bound::Block);
    let bound = block.or_else(|| when::time(text).map(Bound::Time));
    bound.ok_or_else(|| "neither a block, nor a date, nor a time in RFC 3339".to_owned())
}

impl Reconcile {
    /// Prints every difference. The exit code is 1 if there is one, and 2 if there is none but not
    /// everything could be read: what nodes do not say is not a verdict.
    pub(super) async fn run(self, families: &Families) -> CommandResult {
        let config = Config::read(&self.config, families)?;
        let chains = Startup::read(&config, families)?.into_chains();
        let name = self.network.as_deref();
        let is_asked = |network: &quittance_core::Network| {
            name.is_none_or(|name| network.id() == name || network.alias() == Some(name))
        };
        let asked: Vec<_> = chains.iter().filter(|it| is_asked(it.network())).collect();
        if asked.is_empty() {
            let problem = "no such network is configured";
            return Err(ConfigError::value("--network", problem).into());
        }
        let journal = config.journal.open_read_only().await?;
        let mut output = Output::new(families, self.json, self.payments);
        let to = self.to.unwrap_or(Bound::Final);
        for chain in asked {
            let network = chain.network();
            match chain.ledger() {
                Some(ledger) => {
                    match compare(&*journal, ledger, self.from, to, &mut output).await {
                        Ok(compared) => output.compared(network, &compared),
                        Err(problem) => output.unknown(network, &problem),
                    }
                }
                None => output.unknown(network, "the records of this chain cannot be compared"),
            }
        }
        Ok(match (output.differences(), output.unknowns()) {
            (0, 0) => ExitCode::SUCCESS,
            (0, _) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_a_block_a_date_or_a_time() {
        assert_eq!(bound("17"), Ok(Bound::Block(17)));
        assert_eq!(bound("newest"), Ok(Bound::Newest));
        assert!(matches!(bound("2026-11-01"), Ok(Bound::Time(_))));
        assert!(bound("-1").is_err() && bound("latest").is_err());
    }
}
