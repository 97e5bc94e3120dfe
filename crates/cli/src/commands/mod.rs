//! What the program can be told to do.

mod bench;
mod check;
mod completions;
mod demo;
mod devnet;
mod pay;
mod payments;
mod serve;

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use quittance_cli::config::{ConfigError, Log, LogFormat};

/// Verifies and settles x402 payments.
#[derive(Debug, Parser)]
#[command(
    name = "quittance",
    version,
    about = "Verifies and settles x402 payments"
)]
pub(crate) struct Command {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run the facilitator.
    Serve(serve::Serve),
    /// Say everything that is wrong with a configuration, and with each of its networks.
    Check(check::Check),
    /// Pay for a URL, within a limit, and print what it serves.
    Pay(Box<pay::Pay>),
    /// List the payments that `pay` keeps because they are not known to be over, or forget some.
    Payments(payments::Payments),
    /// Print a completion script for a shell.
    Completions(completions::Completions),
    /// Start a local chain with its contracts and funded accounts.
    Devnet(devnet::Devnet),
    /// Measure what verifying costs on this machine.
    Bench(bench::Bench),
    /// Show a whole payment: chain, facilitator, a paid API, and a buyer that pays for it.
    Demo(demo::Demo),
}

/// What a task ends with.
type Ended = Result<ExitCode, Box<dyn Error>>;

impl Command {
    pub(crate) async fn run(self) -> Ended {
        match self.task {
            Task::Serve(serve) => serve.run().await,
            Task::Check(check) => check.run().await,
            Task::Pay(pay) => pay.run().await,
            Task::Payments(payments) => payments.run().await,
            Task::Completions(completions) => completions.run(),
            Task::Devnet(devnet) => devnet.run().await,
            Task::Bench(bench) => bench.run().await,
            Task::Demo(demo) => demo.run().await,
        }
    }
}

/// Logs to standard error, so that standard output is the task's own.
fn log(log: &Log) -> Result<(), ConfigError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(log.filter()?)
        .with_ansi(wants_colours())
        .with_writer(std::io::stderr);
    match log.format {
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .init(),
        LogFormat::Text => builder.init(),
    }
    Ok(())
}

/// Colours are for terminals, and for those who have not asked to be spared (<https://no-color.org>).
fn wants_colours() -> bool {
    let spared = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !spared
}
