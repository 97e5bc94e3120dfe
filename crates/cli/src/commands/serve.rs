//! `quittance serve`.

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use quittance_core::SystemClock;
use quittance_service::{WebhookSender, keep_metrics, record_metrics, router, serve};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use super::{CommandResult, log};
use crate::config::Config;
use crate::families::Families;
use crate::startup::{self, Startup};

/// The examples below the options in `--help`.
const EXAMPLE: &str = "\
Examples:
  quittance serve
  QUITTANCE_LISTEN=0.0.0.0:4020 quittance serve --config /etc/quittance.toml

A minimal configuration, in quittance.toml, with the signer's key in the variable SIGNER:
  access.anyone = true
  [[evm]]
  network = \"base-sepolia\"
  rpc = [\"https://sepolia.base.org\"]
  signers = [{ env = \"SIGNER\" }]";

/// The seconds of a day.
const SECS_PER_DAY: u64 = 24 * 60 * 60;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Serve {
    /// The configuration file.
    #[arg(long, default_value = "quittance.toml")]
    config: PathBuf,
}

impl Serve {
    pub(super) async fn run(self, families: &Families) -> CommandResult {
        let config = Config::read(&self.config, families)?;
        let startup = Startup::read(&config, families)?;
        log(&config.log)?;
        let mut stop = pin!(shutdown_signal()?);
        let metrics = record_metrics()?;
        let (keys, webhooks) = (startup.keys.clone(), startup.webhooks.clone());
        let listener = startup::listen(&config).await?;
        let engine = tokio::select! {
            started = startup.start(&config) => started?,
            // The next start resumes the settlements that the journal has open.
            () = &mut stop => return Ok(ExitCode::SUCCESS),
        };
        info!(listen = %listener.local_addr()?, journal = %config.journal, "serving");

        tokio::spawn(keep_metrics(metrics.clone()));
        let mut background = tokio::task::JoinSet::new();
        let feed = engine.feed().clone();
        let keep = Duration::from_secs(config.events_keep_days * SECS_PER_DAY);
        background.spawn(async move { feed.remove_old(keep).await });
        for webhook in webhooks {
            let sender = WebhookSender::new(webhook, engine.feed().clone(), Arc::new(SystemClock))?;
            background.spawn(sender.run());
        }
        let mut service = config.service_options(keys);
        service.metrics = Some(metrics);
        let left = serve(
            router(engine.clone(), service),
            listener,
            config.server_options(),
            stop,
        )
        .await;
        // The next start sends what is not sent yet.
        background.shutdown().await;
        engine.shut_down(left).await;
        Ok(ExitCode::SUCCESS)
    }
}

/// Completes on SIGINT (Ctrl-C) or SIGTERM. The signals are caught from this call on, not from the
/// first poll: a supervisor may send one early.
///
/// # Errors
/// When the operating system does not allow catching the signals.
fn shutdown_signal() -> std::io::Result<impl Future<Output = ()>> {
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
