//! The `quittance` program as a library: its configuration, its commands, and the families of
//! chains that it knows.
//!
//! This is the only crate that names chains. To build the program with another family of chains,
//! implement [`Family`](families::Family) and run it:
//!
//! ```no_run
//! use quittance_cli::families::Families;
//!
//! fn main() -> std::process::ExitCode {
//!     quittance_cli::run(&Families::shipped())
//! }
//! ```

pub mod bench;
mod commands;
pub mod config;
pub mod families;
pub mod startup;

use std::process::ExitCode;

use families::Families;

/// Runs the program with the arguments of this process. Returns when the command has ended.
pub fn run(families: &Families) -> ExitCode {
    let command = commands::Invocation::parse(families);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("quittance: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(command.run(families)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("quittance: {error}");
            ExitCode::FAILURE
        }
    }
}
