//! Interoperability with other implementations: their clients buy from our seller, and their
//! servers sell to our buyer. Our facilitator serves both, on a real chain of each family.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod evm;
mod others;
mod solana;

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use quittance_core::Offer;
use quittance_engine::Engine;
use quittance_http::RemoteFacilitator;
use quittance_seller::PaymentLayer;
use quittance_service::{Keys, ServiceOptions, router};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

async fn listen(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

fn interop() -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("interop")
}

/// A script for Node in a folder of `tests/interop`, which has its own packages.
fn node_in(folder: &str, script: &str) -> Command {
    let folder = interop().join(folder);
    assert!(
        folder.join("node_modules").is_dir(),
        "run `npm ci` in {}",
        folder.display()
    );
    let mut command = Command::new("node");
    command.arg(script).current_dir(folder).kill_on_drop(true);
    command
}

/// A program of the Python packages.
fn python_tool(name: &str) -> Command {
    let folder = interop().join("python");
    let program = folder.join("venv/bin").join(name);
    assert!(program.exists(), "run `make test`: {}", program.display());
    let mut command = Command::new(program);
    command.current_dir(folder).kill_on_drop(true);
    command
}

/// A Python script of `tests/interop/python`.
fn python(script: &str) -> Command {
    let mut command = python_tool("python");
    command.arg(script);
    command
}

/// The facilitator's key, which the official server shows.
const KEY: &str = "open sesame";

/// The URLs of our facilitator and our seller.
struct Town {
    facilitator: String,
    shop: String,
}

impl Town {
    async fn new<O: Offer>(engine: Engine, offer: impl Fn() -> O) -> Self {
        let options = ServiceOptions::new(Keys::new(&[KEY.into()]));
        let facilitator = listen(router(engine, options)).await;
        let remote = RemoteFacilitator::new(&facilitator).unwrap();
        let remote = Arc::new(remote.with_key(KEY.into()));
        let price = || {
            PaymentLayer::new(remote.clone())
                .accept(offer())
                .description("Goods")
                .mime_type("text/plain")
        };
        let app = Router::new()
            .route("/goods", get(|| async { "goods" }).layer(price()))
            .route(
                "/broken",
                get(|| async { StatusCode::IM_A_TEAPOT }).layer(price()),
            )
            .route("/metered/{charge}", get(metered).layer(price()));
        let shop = listen(app).await;
        Self { facilitator, shop }
    }
}

/// Charges what the path says.
async fn metered(Path(charge): Path<String>) -> impl IntoResponse {
    let overrides = json!({ "amount": charge }).to_string();
    ([("settlement-overrides", overrides)], "goods")
}

/// The result of the official client for each URL, in this environment.
async fn official_client(environment: &[(&str, &str)], urls: &[String]) -> Vec<Value> {
    let mut command = node_in("", "client.mjs");
    command.args(urls).envs(environment.iter().copied());
    lines_of(command).await
}

/// The lines of JSON that a program prints.
async fn lines_of(mut command: Command) -> Vec<Value> {
    let output = command.output().await.unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The official server with these arguments, and its address.
async fn official_server(arguments: &[&str]) -> (Child, String) {
    let mut command = node_in("", "server.mjs");
    command.args(arguments).env("FACILITATOR_KEY", KEY);
    serving(command).await
}

/// A server that prints its port, and its address.
async fn serving(mut command: Command) -> (Child, String) {
    let mut server = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let port = lines.next_line().await.unwrap().expect("a port");
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (server, format!("http://127.0.0.1:{port}"))
}
