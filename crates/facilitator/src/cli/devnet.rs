//! `quittance devnet`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use quittance_devnet::{Evm, EvmOptions, Mining, Tools, USDC};

use super::Ended;

#[derive(Debug, Args)]
pub(super) struct Devnet {
    /// The port of the EVM node.
    #[arg(long, default_value_t = 8545)]
    port: u16,
    /// The EVM chain id.
    #[arg(long, default_value_t = 84532)]
    chain_id: u64,
    /// Make a block every so many seconds, instead of one for each transaction: payments are pending for a while, as on
    /// a real chain.
    #[arg(long)]
    block_secs: Option<u64>,
}

impl Devnet {
    /// Runs until it is told to stop.
    pub(super) async fn run(self) -> Ended {
        let mining = self.block_secs.map_or(Mining::Instant, |secs| {
            Mining::Every(Duration::from_secs(secs))
        });
        let options = EvmOptions {
            chain_id: self.chain_id,
            port: self.port,
            mining,
        };
        let evm = Evm::start(&Tools::find()?, &options).await?;
        print!("{}", describe(&evm));
        super::serve::told_to_stop().await;
        Ok(ExitCode::SUCCESS)
    }
}

fn describe(evm: &Evm) -> String {
    use std::fmt::Write;
    let mut text = format!(
        "A local EVM chain, eip155:{}, at {}\nUSDC at {USDC}\n\n",
        evm.chain_id(),
        evm.url()
    );
    let _ = writeln!(
        text,
        "Accounts, each with 10,000 coins for gas and a million USDC. Everybody knows these keys:"
    );
    for account in Evm::accounts() {
        let _ = writeln!(text, "  {}  {}", account.address, account.key);
    }
    let _ = write!(
        text,
        r#"
A facilitator for it: write this to quittance.toml

  access.anyone = true

  [[evm]]
  network = "eip155:{}"
  rpc = ["{}"]
  signers = [{{ env = "SIGNER" }}]
  max_head_age_secs = 0

and run

  SIGNER={} {} serve

Ctrl-C stops the chain.
"#,
        evm.chain_id(),
        evm.url(),
        Evm::accounts()[0].key,
        // As it was called here, it can be called there.
        std::env::args().next().as_deref().unwrap_or("quittance"),
    );
    text
}
