//! The facilitator service: HTTP around an engine, its configuration, and the `quittance` program.
//!
//! What it is: [`router`] and [`serve`] put any [`Engine`](quittance_engine::Engine) behind the specification's HTTP
//! interface; [`Config`](config::Config) and [`assemble`] make an engine, and the limits around it, of a file. This is the only
//! crate that names chains.
//!
//! ```no_run
//! use quittance_facilitator::{ServerOptions, ServiceOptions, assemble::Plan, config::Config, router, serve};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::read("quittance.toml".as_ref())?;
//! let plan = Plan::read(&config)?;
//! let options = ServiceOptions::of(&config, plan.keys.clone());
//! let engine = plan.start(&config).await?;
//! let listener = tokio::net::TcpListener::bind(config.listen).await?;
//! serve(router(engine, options), listener, ServerOptions::of(&config), std::future::pending()).await;
//! # Ok(())
//! # }
//! ```

mod access;
mod answers;
pub mod assemble;
pub mod bench;
pub mod config;
mod connections;
mod delivery;
mod path;
mod peer;
mod rate;
mod server;
mod service;
mod shares;
mod unread;

pub use access::Keys;
pub use rate::Rate;
pub use server::{ServerOptions, serve};
pub use service::{ServiceOptions, keep_metrics, openapi, record_metrics, router};
