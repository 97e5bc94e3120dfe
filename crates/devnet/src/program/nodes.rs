//! `quittance-devnet all`, `evm`, `solana` and `postgres`.

use std::fmt::{Display, Write};
use std::time::Duration;

use clap::Args;
use quittance_devnet::{
    DevnetError, Evm, EvmOptions, Fsync, Mining, Postgres, SOLANA_TOKEN_2022, SOLANA_USDC, Solana,
    SolanaOptions, Tools, USDC,
};
use tokio::signal::unix::{SignalKind, signal};

use super::CommandResult;

/// The examples below the options in `--help`.
const ALL_EXAMPLES: &str = "\
Examples:
  quittance-devnet all
  quittance-devnet all --block-secs 2 --port 9545 --solana-port 9899

The program prints funded accounts, a configuration for `quittance serve`, and the variables for `quittance pay`.";

/// The examples below the options in `--help`.
const EVM_EXAMPLES: &str = "\
Examples:
  quittance-devnet evm
  quittance-devnet evm --block-secs 2 --port 9545";

/// The examples below the options in `--help`.
const SOLANA_EXAMPLES: &str = "\
Examples:
  quittance-devnet solana
  quittance-devnet solana --block-secs 2 --solana-port 9899";

/// Both nodes.
#[derive(Debug, Args)]
#[command(after_help = ALL_EXAMPLES)]
pub(super) struct All {
    #[command(flatten)]
    evm: EvmArgs,
    #[command(flatten)]
    solana: SolanaArgs,
    #[command(flatten)]
    blocks: BlockArgs,
}

/// The EVM node alone.
#[derive(Debug, Args)]
#[command(after_help = EVM_EXAMPLES)]
pub(super) struct EvmNode {
    #[command(flatten)]
    evm: EvmArgs,
    #[command(flatten)]
    blocks: BlockArgs,
}

/// The Solana node alone.
#[derive(Debug, Args)]
#[command(after_help = SOLANA_EXAMPLES)]
pub(super) struct SolanaNode {
    #[command(flatten)]
    solana: SolanaArgs,
    #[command(flatten)]
    blocks: BlockArgs,
}

/// A PostgreSQL server.
#[derive(Debug, Args)]
pub(super) struct PostgresServer {}

#[derive(Debug, Args)]
struct EvmArgs {
    /// The port of the EVM node; 0 takes a free one.
    #[arg(long, default_value_t = 8545)]
    port: u16,
    /// The EVM chain id.
    #[arg(long, default_value_t = 84532)]
    chain_id: u64,
}

#[derive(Debug, Args)]
struct SolanaArgs {
    /// The port of the Solana node; 0 takes a free one.
    #[arg(long, default_value_t = 8899)]
    solana_port: u16,
}

#[derive(Debug, Args)]
struct BlockArgs {
    /// The seconds between blocks. Payments are then pending for a while, as on a real chain. By
    /// default the EVM node makes a block for each transaction and one every two seconds, and the
    /// Solana node one every 0.4 seconds.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    block_secs: Option<u64>,
}

impl All {
    /// Runs until it is stopped.
    pub(super) async fn run(self) -> CommandResult {
        let tools = Tools::find()?;
        let stop = shutdown_signal()?;
        let (evm, solana) = tokio::try_join!(
            start_evm(&tools, &self.evm, &self.blocks),
            start_solana(&tools, &self.solana, &self.blocks),
        )?;
        print!("{}", describe(Some(&evm), Some(&solana))?);
        stop.await;
        Ok(())
    }
}

impl EvmNode {
    /// Runs until it is stopped.
    pub(super) async fn run(self) -> CommandResult {
        let tools = Tools::find()?;
        let stop = shutdown_signal()?;
        let evm = start_evm(&tools, &self.evm, &self.blocks).await?;
        print!("{}", describe(Some(&evm), None)?);
        stop.await;
        Ok(())
    }
}

impl PostgresServer {
    /// Runs until it is stopped.
    pub(super) async fn run(self) -> CommandResult {
        let stop = shutdown_signal()?;
        let server = Postgres::start(Fsync::On).await?;
        println!("# An empty database, which ends with this program. In quittance.toml:");
        println!("journal = {:?}", server.url("postgres"));
        stop.await;
        Ok(())
    }
}

impl SolanaNode {
    /// Runs until it is stopped.
    pub(super) async fn run(self) -> CommandResult {
        let tools = Tools::find()?;
        let stop = shutdown_signal()?;
        let solana = start_solana(&tools, &self.solana, &self.blocks).await?;
        print!("{}", describe(None, Some(&solana))?);
        stop.await;
        Ok(())
    }
}

async fn start_evm(tools: &Tools, args: &EvmArgs, blocks: &BlockArgs) -> Result<Evm, StartError> {
    let block_time = blocks.block_secs.map(Duration::from_secs);
    let options = EvmOptions {
        chain_id: args.chain_id,
        port: args.port,
        mining: block_time.map_or(EvmOptions::default().mining, Mining::Every),
    };
    let started = Evm::start(tools, &options).await;
    started.map_err(|source| StartError {
        node: "the EVM node",
        option: "--port",
        port: args.port,
        source,
    })
}

async fn start_solana(
    tools: &Tools,
    args: &SolanaArgs,
    blocks: &BlockArgs,
) -> Result<Solana, StartError> {
    let mut options = SolanaOptions {
        port: args.solana_port,
        ..SolanaOptions::default()
    };
    options.slot_time = blocks
        .block_secs
        .map(Duration::from_secs)
        .or(options.slot_time);
    let started = Solana::start(tools, &options).await;
    started.map_err(|source| StartError {
        node: "the Solana node",
        option: "--solana-port",
        port: args.solana_port,
        source,
    })
}

/// A node did not start.
#[derive(Debug, thiserror::Error)]
#[error("{node} did not start on port {port} ({option}): {source}")]
struct StartError {
    node: &'static str,
    option: &'static str,
    port: u16,
    source: DevnetError,
}

/// Completes on SIGINT (Ctrl-C) or SIGTERM. The signals are caught from this call on.
fn shutdown_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// The running nodes, their accounts, and how to use them.
fn describe(evm: Option<&Evm>, solana: Option<&Solana>) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    if let Some(evm) = evm {
        let (id, url) = (evm.chain_id(), evm.url());
        writeln!(text, "A local EVM chain, eip155:{id}, at {url}")?;
        writeln!(text, "USDC at {USDC}\n")?;
        let accounts = Evm::accounts();
        let accounts = accounts.iter().map(|it| (&it.address, &it.key));
        writeln!(
            text,
            "Accounts, each with 10,000 coins for gas and a million USDC. The keys are public:"
        )?;
        list(&mut text, accounts)?;
    }
    if let Some(solana) = solana {
        let url = solana.url();
        writeln!(text, "A local Solana cluster, solana-devnet, at {url}")?;
        writeln!(text, "USDC (SPL Token) at {SOLANA_USDC}")?;
        writeln!(text, "TEST (Token-2022) at {SOLANA_TOKEN_2022}\n")?;
        let accounts = Solana::accounts();
        let accounts = accounts.iter().map(|it| (&it.address, &it.key));
        writeln!(
            text,
            "Accounts, each with 100 SOL for fees and a million of each token. The keys are public:"
        )?;
        list(&mut text, accounts)?;
    }
    text.push_str(&usage(evm, solana)?);
    Ok(text)
}

fn list<'a>(
    text: &mut String,
    accounts: impl Iterator<Item = (impl Display, &'a String)>,
) -> std::fmt::Result {
    for (address, key) in accounts {
        writeln!(text, "  {address}  {key}")?;
    }
    writeln!(text)
}

/// A configuration for a facilitator on these nodes, and the variables for it and for a buyer.
fn usage(evm: Option<&Evm>, solana: Option<&Solana>) -> Result<String, std::fmt::Error> {
    let (mut config, mut signers, mut payers) = (String::new(), String::new(), String::new());
    if let Some(evm) = evm {
        let (id, url, accounts) = (evm.chain_id(), evm.url(), Evm::accounts());
        write!(
            config,
            r#"
  [[evm]]
  network = "eip155:{id}"
  rpc = ["{url}"]
  signers = [{{ env = "SIGNER" }}]
  min_amounts = {{ USDC = "0.001" }}
"#
        )?;
        writeln!(signers, "  export SIGNER={}", accounts[0].key)?;
        writeln!(payers, "  export QUITTANCE_PAYER_KEY={}", accounts[2].key)?;
        writeln!(payers, "  export QUITTANCE_EVM_RPC=eip155:{id}={url}")?;
    }
    if let Some(solana) = solana {
        let (url, accounts) = (solana.url(), Solana::accounts());
        write!(
            config,
            r#"
  [[solana]]
  network = "solana-devnet"
  rpc = ["{url}"]
  fee_payers = [{{ env = "FEE_PAYER" }}]
  tokens = [{{ mint = "{SOLANA_TOKEN_2022}", symbol = "TEST", decimals = 6, program = "token-2022" }}]
  min_amounts = {{ USDC = "0.001", TEST = "0.001" }}
"#
        )?;
        writeln!(signers, "  export FEE_PAYER={}", accounts[0].key)?;
        writeln!(
            payers,
            "  export QUITTANCE_SOLANA_PAYER_KEY={}",
            accounts[2].key
        )?;
        writeln!(payers, "  export QUITTANCE_SOLANA_RPC={url}")?;
    }
    Ok(format!(
        "A facilitator: write this to quittance.toml

  access.anyone = true
{config}
and run

{signers}  quittance serve

To pay for a URL:

{payers}  quittance pay URL

Ctrl-C stops the nodes.
"
    ))
}
