//! `quittance check`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use quittance_cli::assemble::{self, Checked, CheckedNetwork};
use quittance_cli::config::Config;
use quittance_core::{Problem, Scope};

use super::Ended;

/// What `--help` shows below the options.
pub(super) const EXAMPLE: &str = "\
Examples:
  quittance check
  quittance check --config /etc/quittance.toml && systemctl restart quittance

Exit codes: 0 all is well (warnings included), 1 something is wrong.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Check {
    /// The configuration file.
    #[arg(long, default_value = "quittance.toml")]
    config: PathBuf,
}

impl Check {
    /// Prints what is wrong; fails when anything is.
    pub(super) async fn run(self) -> Ended {
        let config = Config::read(&self.config)?;
        let checked = assemble::check(&config).await;
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

/// What was found, a line each, and below it what follows.
fn report(checked: &Checked) -> String {
    let mut lines: Vec<String> = checked.problems.iter().map(ToString::to_string).collect();
    let of_journal = checked.journal.iter();
    lines.extend(of_journal.map(|problem| format!("journal: {problem}")));
    for network in &checked.networks {
        lines.extend(of_network(network));
    }
    let warnings = checked.warnings.iter();
    lines.extend(warnings.map(|warning| format!("warning: {warning}")));
    if !checked.problems.is_empty() {
        lines.push("The facilitator would not start with this configuration.".to_owned());
    }
    lines.join("\n") + "\n"
}

/// The problems of a network, each with its consequence, and whether it settles payments.
fn of_network(checked: &CheckedNetwork) -> Vec<String> {
    let network = &checked.network;
    let problems = &checked.health.problems;
    if problems.is_empty() {
        return vec![format!("{network}: all is well")];
    }
    let found = |problem: &Problem| {
        let consequence = match problem.scope {
            Scope::Asset(_) if checked.settles => " (payments in this token are refused)",
            Scope::Lane(_) if checked.settles => " (this signer is not used)",
            _ => "",
        };
        format!("{network}: {}{consequence}", problem.what)
    };
    let mut lines: Vec<String> = problems.iter().map(found).collect();
    let is_advisory = |problem: &Problem| problem.scope == Scope::Advisory;
    lines.push(match checked.settles {
        false => format!("{network}: no payment can be settled"),
        true if problems.iter().all(is_advisory) => {
            format!("{network}: payments can be settled, but look at the above")
        }
        true => format!("{network}: payments can be settled, except as said above"),
    });
    lines
}

#[cfg(test)]
mod tests {
    use quittance_core::{Health, LaneId, Network};

    use super::*;

    fn told(settles: bool, scopes: &[Scope]) -> String {
        let problem = |scope: &Scope| Problem {
            scope: scope.clone(),
            what: "it is broken".to_owned(),
        };
        let checked = CheckedNetwork {
            network: Network::new("test:1").unwrap(),
            health: Health {
                problems: scopes.iter().map(problem).collect(),
            },
            settles,
        };
        of_network(&checked).join("\n")
    }

    /// One line said that settling goes on, and the next that nothing is settled.
    #[test]
    fn what_follows_is_said_once_and_never_contradicts_itself() {
        assert_eq!(told(true, &[]), "test:1: all is well");
        let down = told(false, &[Scope::Advisory, Scope::Network]);
        let expected =
            "test:1: it is broken\ntest:1: it is broken\ntest:1: no payment can be settled";
        assert_eq!(down, expected);
        let one_node = told(true, &[Scope::Advisory]);
        assert!(one_node.ends_with("payments can be settled, but look at the above"));
        let lane = Scope::Lane(LaneId::new("key"));
        let partly = told(true, &[Scope::Asset("X".to_owned()), lane.clone()]);
        assert!(
            partly.contains("payments in this token are refused"),
            "{partly}"
        );
        assert!(partly.contains("this signer is not used"), "{partly}");
        assert!(partly.ends_with("except as said above"), "{partly}");
        // The only signer cannot pay: that nothing settles is said, and nothing else.
        let dry = told(false, &[lane]);
        assert_eq!(
            dry,
            "test:1: it is broken\ntest:1: no payment can be settled"
        );
    }
}
