//! `quittance check`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use quittance_core::Scope;
use quittance_facilitator::assemble;
use quittance_facilitator::config::Config;

use super::Ended;

#[derive(Debug, Args)]
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
        let mut all_well = checked.problems.is_empty();
        for problem in checked.problems {
            println!("{problem} (it would not start)");
        }
        for (network, health) in checked.networks {
            if health.problems.is_empty() {
                println!("{network}: all is well");
            }
            for problem in health.problems {
                let consequence = match &problem.scope {
                    Scope::Network => "nothing is settled there",
                    Scope::Asset(_) => "it is not settled",
                    Scope::Lane(_) => "the signer is not used",
                    Scope::Nothing => "settling goes on",
                };
                println!("{network}: {} ({consequence})", problem.what);
                all_well = false;
            }
        }
        Ok(if all_well {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
