//! `quittance completions`.

use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use super::{CommandResult, command_line};
use crate::families::Families;

/// The examples below the options in `--help`.
const EXAMPLES: &str = "\
Examples:
  quittance completions bash > ~/.local/share/bash-completion/completions/quittance
  quittance completions zsh > ~/.zfunc/_quittance
  quittance completions fish > ~/.config/fish/completions/quittance.fish";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, families: &Families) -> CommandResult {
        let mut command = command_line(families);
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "quittance", &mut script);
        std::io::Write::write_all(&mut std::io::stdout(), &script)?;
        Ok(ExitCode::SUCCESS)
    }
}
