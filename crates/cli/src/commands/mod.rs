//! The commands of the program.

mod acts;
mod bench;
mod check;
mod completions;
mod journal;
mod pay;
mod payments;
mod reconcile;
mod refund;
mod refunds;
mod serve;
mod states;
mod when;

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{ConfigError, Log, LogFormat};
use crate::families::Families;

pub(crate) use pay::data_folder;
pub(crate) use refund::VARIABLES as REFUND_VARIABLES;

/// The command line.
#[derive(Parser)]
#[command(
    name = "quittance",
    version,
    about = "Verifies and settles x402 payments"
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the facilitator.
    Serve(serve::Serve),
    /// List every problem of a configuration and of its networks.
    Check(check::Check),
    /// Pay for a URL, within a limit, and print the response.
    Pay(Box<pay::Pay>),
    /// List the payments that `pay` keeps because their end is not known, or forget some.
    Payments(payments::Payments),
    /// Pay a settled payment back to its payer, as a whole or in part.
    Refund(Box<refund::Refund>),
    /// Capture a payment that is held, as a whole or in part.
    Capture(acts::Capture),
    /// Return a payment that is held to its payer.
    Void(acts::Void),
    /// Refund a captured payment from the facilitator's own tokens.
    RefundHold(acts::RefundHold),
    /// List the payments that a facilitator holds, until when, and what it does next.
    Holds(states::Holds),
    /// List the channels that a facilitator or a seller keeps the vouchers of.
    Channels(states::Channels),
    Journal(journal::JournalCommand),
    /// Compare the journal with the chains, and list every difference.
    Reconcile(reconcile::Reconcile),
    /// Print a completion script for a shell.
    Completions(completions::Completions),
    /// Measure the cost of a verification on this machine.
    Bench(bench::Bench),
}

/// The result of a command: an exit code, or an error to print.
type CommandResult = Result<ExitCode, Box<dyn Error>>;

/// A command with its options.
pub(crate) struct Invocation {
    command: Command,
    /// The options of the subcommand, for the families.
    matches: ArgMatches,
}

impl Invocation {
    /// Parses the arguments of this process. Ends the process with a message when they are wrong.
    pub(crate) fn parse(families: &Families) -> Self {
        let mut matches = command_line(families).get_matches();
        let parsed = CommandLine::from_arg_matches(&matches);
        let CommandLine { command } = parsed.unwrap_or_else(|error| error.exit());
        let (_, matches) = matches
            .remove_subcommand()
            .expect("clap requires a subcommand");
        Self { command, matches }
    }

    pub(crate) async fn run(self, families: &Families) -> CommandResult {
        match self.command {
            Command::Serve(serve) => serve.run(families).await,
            Command::Check(check) => check.run(families).await,
            Command::Pay(pay) => pay.run(families, &self.matches).await,
            Command::Payments(payments) => payments.run(families, &self.matches).await,
            Command::Refund(refund) => refund.run(families, &self.matches).await,
            Command::Capture(capture) => capture.run(families).await,
            Command::Void(void) => void.run(families).await,
            Command::RefundHold(refund) => refund.run(families).await,
            Command::Holds(holds) => holds.run(families).await,
            Command::Channels(channels) => channels.run(families).await,
            Command::Journal(journal) => journal.run(families).await,
            Command::Reconcile(reconcile) => reconcile.run(families).await,
            Command::Completions(completions) => completions.run(families),
            Command::Bench(bench) => bench.run(families).await,
        }
    }
}

/// The command line, with the payers' options of every family.
fn command_line(families: &Families) -> clap::Command {
    let with_payers = |command: clap::Command| {
        let families = families.iter();
        families.fold(command, |command, family| family.add_payer_args(command))
    };
    CommandLine::command()
        .mut_subcommand("pay", with_payers)
        .mut_subcommand("refund", with_payers)
        .mut_subcommand("payments", |payments| {
            payments.mut_subcommand("locked", with_payers)
        })
}

/// Logs to standard error, because standard output belongs to the command.
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

/// Colours are for terminals, unless NO_COLOR is set (<https://no-color.org>).
fn wants_colours() -> bool {
    let has_no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !has_no_color
}
