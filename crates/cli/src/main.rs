//! The `quittance` program.

use std::process::ExitCode;

use quittance_cli::families::Families;

fn main() -> ExitCode {
    quittance_cli::run(&Families::shipped())
}
