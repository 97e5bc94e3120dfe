//! `quittance serve`.

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;

use clap::Args;
use quittance_cli::assemble::{self, Plan};
use quittance_cli::config::Config;
use quittance_service::{ServiceOptions, keep_metrics, record_metrics, router, serve};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

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
        let mut stop = pin!(told_to_stop()?);
        let metrics = record_metrics()?;
        let keys = plan.keys.clone();
        let listener = assemble::listen(&config).await?;
        let engine = tokio::select! {
            started = plan.start(&config) => started?,
            // What the journal has open is taken up at the next start.
            () = &mut stop => return Ok(ExitCode::SUCCESS),
        };
        info!(listen = %listener.local_addr()?, journal = %config.journal.display(), "serving");

        tokio::spawn(keep_metrics(metrics.clone()));
        let service = ServiceOptions {
            metrics: Some(metrics),
            ..config.service_options(keys)
        };
        let left = serve(
            router(engine.clone(), service),
            listener,
            config.server_options(),
            stop,
        )
        .await;
        engine.shut_down(left).await;
        Ok(ExitCode::SUCCESS)
    }
}

/// Ends on Ctrl-C, or when a supervisor sends SIGTERM. The signals are caught from this call on, not from when it is first
/// waited for: a supervisor may be quick.
///
/// # Errors
/// When the operating system does not let us catch them.
pub(super) fn told_to_stop() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        info!("stopping");
    })
}
