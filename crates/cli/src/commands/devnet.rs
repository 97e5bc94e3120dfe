//! `quittance devnet`.

use std::fmt::{Display, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use quittance_devnet::{
    Evm, EvmOptions, Mining, SOLANA_TOKEN_2022, SOLANA_USDC, Solana, SolanaOptions, Tools, USDC,
};

use super::Ended;

/// What `--help` shows below the options.
const EXAMPLE: &str = "\
Examples:
  quittance devnet
  quittance devnet --block-secs 2 --port 9545 --solana-port 9899

It prints funded accounts, a configuration for `quittance serve`, and what `quittance pay` needs.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Devnet {
    /// The port of the EVM node.
    #[arg(long, default_value_t = 8545)]
    port: u16,
    /// The EVM chain id.
    #[arg(long, default_value_t = 84532)]
    chain_id: u64,
    /// Make a block every so many seconds: payments are pending for a while, as on a real chain.
    /// Without it, the EVM node makes one for each transaction and one every two seconds, and the
    /// Solana node one every 0.4 seconds.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    block_secs: Option<u64>,
    /// The port of the Solana node.
    #[arg(long, default_value_t = 8899)]
    solana_port: u16,
}

impl Devnet {
    /// Runs until it is told to stop.
    pub(super) async fn run(self) -> Ended {
        let block_time = self.block_secs.map(Duration::from_secs);
        let evm = EvmOptions {
            chain_id: self.chain_id,
            port: self.port,
            mining: block_time.map_or(EvmOptions::default().mining, Mining::Every),
        };
        let mut solana = SolanaOptions {
            port: self.solana_port,
            ..SolanaOptions::default()
        };
        solana.slot_time = block_time.or(solana.slot_time);
        let tools = Tools::find()?;
        let stop = super::serve::told_to_stop()?;
        let (evm, solana) = tokio::try_join!(
            async {
                let started = Evm::start(&tools, &evm).await;
                started.map_err(|error| named("the EVM node", "--port", evm.port, error))
            },
            async {
                let started = Solana::start(&tools, &solana).await;
                started
                    .map_err(|error| named("the Solana node", "--solana-port", solana.port, error))
            }
        )?;
        print!("{}", describe(&evm, &solana)?);
        stop.await;
        Ok(ExitCode::SUCCESS)
    }
}

/// Which of the nodes did not start, and the option for its port.
fn named(node: &str, option: &str, port: u16, error: impl Display) -> String {
    format!("{node} on port {port} ({option}): {error}")
}

/// What runs, and how to use it.
fn describe(evm: &Evm, solana: &Solana) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let (id, url) = (evm.chain_id(), evm.url());
    writeln!(text, "A local EVM chain, eip155:{id}, at {url}")?;
    writeln!(text, "USDC at {USDC}\n")?;
    let have =
        "Accounts, each with 10,000 coins for gas and a million USDC. Everybody knows these keys:";
    writeln!(text, "{have}")?;
    for account in Evm::accounts() {
        writeln!(text, "  {}  {}", account.address, account.key)?;
    }
    let url = solana.url();
    writeln!(text, "\nA local Solana cluster, solana-devnet, at {url}")?;
    writeln!(text, "USDC (SPL Token) at {SOLANA_USDC}")?;
    writeln!(text, "TEST (Token-2022) at {SOLANA_TOKEN_2022}\n")?;
    let have = "Accounts, each with 100 SOL for fees and a million of each token. Everybody knows these keys:";
    writeln!(text, "{have}")?;
    for account in Solana::accounts() {
        writeln!(text, "  {}  {}", account.address, account.key)?;
    }
    text.push_str(&facilitator(evm, solana));
    Ok(text)
}

/// A configuration for both, and what to run.
fn facilitator(evm: &Evm, solana: &Solana) -> String {
    format!(
        r#"
A facilitator for both: write this to quittance.toml

  access.anyone = true

  [[evm]]
  network = "eip155:{id}"
  rpc = ["{evm_url}"]
  signers = [{{ env = "SIGNER" }}]
  min_amounts = {{ USDC = "0.001" }}

  [[solana]]
  network = "solana-devnet"
  rpc = ["{solana_url}"]
  fee_payers = [{{ env = "FEE_PAYER" }}]
  tokens = [{{ mint = "{SOLANA_TOKEN_2022}", symbol = "TEST", decimals = 6, program = "token-2022" }}]
  min_amounts = {{ USDC = "0.001", TEST = "0.001" }}

and run

  export SIGNER={signer}
  export FEE_PAYER={fee_payer}
  {program} serve

To pay for something, with either:

  export QUITTANCE_PAYER_KEY={evm_payer}
  export QUITTANCE_SOLANA_PAYER_KEY={solana_payer}
  export QUITTANCE_SOLANA_RPC={solana_url}
  export QUITTANCE_EVM_RPC=eip155:{id}={evm_url}
  {program} pay URL

Ctrl-C stops both chains.
"#,
        id = evm.chain_id(),
        evm_url = evm.url(),
        solana_url = solana.url(),
        signer = Evm::accounts()[0].key,
        fee_payer = Solana::accounts()[0].key,
        evm_payer = Evm::accounts()[2].key,
        solana_payer = Solana::accounts()[2].key,
        // As it was called here, it can be called there.
        program = std::env::args().next().as_deref().unwrap_or("quittance"),
    )
}
