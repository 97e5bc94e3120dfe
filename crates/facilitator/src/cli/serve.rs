//! `quittance serve`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use quittance_facilitator::assemble::{self, Plan};
use quittance_facilitator::config::Config;
use quittance_facilitator::{
    ServerOptions, ServiceOptions, keep_metrics, record_metrics, router, serve,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::{Ended, log};

/// What `--help` shows below the options.
const EXAMPLE: &str = "\
Examples:
  quittance serve
  QUITTANCE_LISTEN=0.0.0.0:4020 quittance serve --config /etc/quittance.toml

A smallest configuration, in quittance.toml, with the signer's key in the variable SIGNER:
  access.anyone = true
  [[evm]]
  network = \"base-sepolia\"
  rpc = [\"https://sepolia.base.org\"]
  signers = [{ env = \"SIGNER\" }]";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Serve {
    /// The configuration file.
    #[arg(long, default_value = "quittance.toml")]
    config: PathBuf,
}

impl Serve {
    pub(super) async fn run(self) -> Ended {
        let config = Config::read(&self.config)?;
        let plan = Plan::read(&config)?;
        log(&config.log)?;
        let metrics = record_metrics()?;
        let keys = plan.keys.clone();
        let listener = assemble::listen(&config).await?;
        let engine = plan.start(&config).await?;
        info!(listen = %listener.local_addr()?, journal = %config.journal.display(), "serving");

        tokio::spawn(keep_metrics(metrics.clone()));
        let service = ServiceOptions {
            metrics: Some(metrics),
            ..ServiceOptions::of(&config, keys)
        };
        let left = serve(
            router(engine.clone(), service),
            listener,
            ServerOptions::of(&config),
            told_to_stop(),
        )
        .await;
        engine.shut_down(left).await;
        Ok(ExitCode::SUCCESS)
    }
}

/// Until somebody presses Ctrl-C or a supervisor says it is time.
pub(super) async fn told_to_stop() {
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            warn!(%error, "cannot be told to stop by a signal");
            return std::future::pending().await;
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    info!("stopping");
}
