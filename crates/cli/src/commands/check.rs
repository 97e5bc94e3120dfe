//! `quittance check`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use quittance_core::{Problem, Scope};

use super::CommandResult;
use crate::config::Config;
use crate::families::Families;
use crate::startup::{self, CheckReport, NetworkReport};

/// The examples below the options in `--help`.
pub(super) const EXAMPLE: &str = "\
Examples:
  quittance check
  quittance check --config /etc/quittance.toml && systemctl restart quittance

Exit codes: 0 there is no problem (there may be warnings), 1 there is a problem.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Check {
    /// The configuration file.
    #[arg(long, default_value = "quittance.toml")]
    config: PathBuf,
}

impl Check {
    /// Prints every problem. The exit code is 1 when there is one.
    pub(super) async fn run(self, families: &Families) -> CommandResult {
        let config = Config::read(&self.config, families)?;
        let checked = startup::check(&config, families).await;
        print!("{}", report(&checked));
        let networks = &checked.networks;
        let is_well = networks.iter().all(|it| it.health.problems.is_empty());
        Ok(
            match checked.problems.is_empty() && checked.journal.is_empty() && is_well {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            },
        )
    }
}

/// The findings, one a line, with their consequences.
fn report(checked: &CheckReport) -> String {
    let mut lines: Vec<String> = checked.problems.iter().map(ToString::to_string).collect();
    let of_journal = checked.journal.iter();
    lines.extend(of_journal.map(|problem| format!("journal: {problem}")));
    for network in &checked.networks {
        lines.extend(network_lines(network));
    }
    let warnings = checked.warnings.iter();
    lines.extend(warnings.map(|warning| format!("warning: {warning}")));
    if !checked.problems.is_empty() {
        lines.push("The facilitator would not start with this configuration.".to_owned());
    }
    lines.join("\n") + "\n"
}

/// The problems of a network, each with its consequence, and whether payments can be settled.
fn network_lines(checked: &NetworkReport) -> Vec<String> {
    let network = &checked.network;
    let problems = &checked.health.problems;
    if problems.is_empty() {
        return vec![format!("{network}: all is well")];
    }
    let found = |problem: &Problem| {
        let consequence = match problem.scope {
            Scope::Asset(_) if checked.can_settle => " (payments in this token are refused)",
            Scope::Scheme(_) if checked.can_settle => " (this scheme is not offered)",
            Scope::Lane(_) if checked.can_settle => " (this signer is not used)",
            _ => "",
        };
        format!("{network}: {}{consequence}", problem.what)
    };
    let mut lines: Vec<String> = problems.iter().map(found).collect();
    let is_advisory = |problem: &Problem| problem.scope == Scope::Advisory;
    lines.push(match checked.can_settle {
        false => format!("{network}: no payment can be settled"),
        true if problems.iter().all(is_advisory) => {
            format!("{network}: payments can be settled; the problems above need attention")
        }
        true => format!("{network}: payments can be settled, except for the problems above"),
    });
    lines
}

#[cfg(test)]
mod tests {
    use quittance_core::{Health, LaneId, Network};

    use super::*;

    fn lines(settles: bool, scopes: &[Scope]) -> String {
        let problem = |scope: &Scope| Problem {
            scope: scope.clone(),
            what: "it is broken".to_owned(),
        };
        let checked = NetworkReport {
            network: Network::new("test:1").unwrap(),
            health: Health {
                problems: scopes.iter().map(problem).collect(),
            },
            can_settle: settles,
        };
        network_lines(&checked).join("\n")
    }

    /// One line said that settling goes on, and the next one that no payment is settled.
    #[test]
    fn the_consequence_is_printed_once_and_is_consistent() {
        assert_eq!(lines(true, &[]), "test:1: all is well");
        let down = lines(false, &[Scope::Advisory, Scope::Network]);
        let expected =
            "test:1: it is broken\ntest:1: it is broken\ntest:1: no payment can be settled";
        assert_eq!(down, expected);
        let one_node = lines(true, &[Scope::Advisory]);
        assert!(one_node.ends_with("payments can be settled; the problems above need attention"));
        let lane = Scope::Lane(LaneId::new("key"));
        let partly = lines(true, &[Scope::Asset("X".to_owned()), lane.clone()]);
        assert!(
            partly.contains("payments in this token are refused"),
            "{partly}"
        );
        assert!(partly.contains("this signer is not used"), "{partly}");
        assert!(
            partly.ends_with("except for the problems above"),
            "{partly}"
        );
        // The only signer cannot pay: that nothing settles is said, and nothing else.
        let dry = lines(false, &[lane]);
        assert_eq!(
            dry,
            "test:1: it is broken\ntest:1: no payment can be settled"
        );
    }
}
