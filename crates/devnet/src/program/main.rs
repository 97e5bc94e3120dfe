//! The `quittance-devnet` program: local chains, a database, and a demonstration of a payment.

mod demo;
mod nodes;
mod stream;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "quittance-devnet",
    version,
    about = "Local chains for x402 payments, and a demonstration"
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a local EVM chain and a local Solana cluster.
    All(nodes::All),
    /// Start a local EVM chain with USDC and funded accounts.
    Evm(nodes::EvmNode),
    /// Start a local Solana cluster with token programs and funded accounts.
    Solana(nodes::SolanaNode),
    /// Start a PostgreSQL server for the journal of facilitators.
    Postgres(nodes::PostgresServer),
    /// Show a whole payment: chains, a facilitator, a paid API, and buyers.
    Demo(demo::Demo),
}

/// The result of a command.
type CommandResult = Result<(), Box<dyn Error>>;

#[tokio::main]
async fn main() -> ExitCode {
    let CommandLine { command } = CommandLine::parse();
    let result = match command {
        Command::All(all) => all.run().await,
        Command::Evm(evm) => evm.run().await,
        Command::Solana(solana) => solana.run().await,
        Command::Postgres(server) => server.run().await,
        Command::Demo(demo) => demo.run().await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quittance-devnet: {error}");
            ExitCode::FAILURE
        }
    }
}
