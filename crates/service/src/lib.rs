//! The facilitator as an HTTP service.
//!
//! [`router`] puts an [`Engine`](quittance_engine::Engine) behind the HTTP interface of the x402
//! specification (section 7). [`serve`] serves it with limits on connections. This crate knows no
//! chain: the engine that it is given does.
//!
//! ```no_run
//! use quittance_engine::Engine;
//! use quittance_service::{Keys, ServerOptions, ServiceOptions, router, serve};
//!
//! # async fn run(engine: Engine) -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:4020").await?;
//! let service = router(engine.clone(), ServiceOptions::new(Keys::anyone()));
//! let stop = async { drop(tokio::signal::ctrl_c().await) };
//! let left = serve(service, listener, ServerOptions::default(), stop).await;
//! engine.shut_down(left).await;
//! # Ok(())
//! # }
//! ```

mod client_address;
mod connections;
mod delivery;
mod error;
mod events;
mod gate;
mod health;
mod limits;
mod metrics;
mod openapi;
mod path;
mod payments;
mod rate;
mod router;
mod server;
mod settlements;
mod shares;
mod trace;
mod unread;
mod webhooks;

pub use axum::Router;
pub use gate::Keys;
pub use limits::{DRAIN, ServiceLimits, WAIT_MAX};
pub use metrics::{keep_metrics, record_metrics};
pub use metrics_exporter_prometheus::{BuildError, PrometheusHandle};
pub use openapi::openapi;
pub use rate::Rate;
pub use router::{ServiceOptions, router};
pub use secrecy::SecretString;
pub use server::{ServerOptions, serve};
pub use webhooks::{Webhook, WebhookProblem, WebhookSender};
