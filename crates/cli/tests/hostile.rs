//! `hostile-facilitator` counts how many times a purchase is paid when a facilitator misbehaves at
//! the worst moment. Here `quittance pay` buys from a Quittance seller, which uses that
//! facilitator.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::routing::get;
use quittance_core::wire::{SettleResponse, SupportedResponse, VerifyResponse};
use quittance_core::{Facilitator, FacilitatorError, Fault, FaultKind, PaymentRequest};
use quittance_devnet::Evm;
use quittance_evm::ExactOffer;
use quittance_http::RemoteFacilitator;
use quittance_seller::PaymentLayer;
use serde_json::Value;
use tokio::process::Command;

/// The hostile facilitator hangs a little longer than this.
const PATIENCE: Duration = Duration::from_secs(1);

/// A facilitator with a time limit.
struct Impatient(RemoteFacilitator);

fn gave_up<T>(_: tokio::time::error::Elapsed) -> Result<T, FacilitatorError> {
    Err(Fault::new(FaultKind::FacilitatorUnreachable, "no answer in time").into())
}

#[async_trait]
impl Facilitator for Impatient {
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        self.0.verify(request).await
    }

    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        let settled = tokio::time::timeout(PATIENCE, self.0.settle(request)).await;
        settled.unwrap_or_else(gave_up)
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        self.0.supported().await
    }
}

#[tokio::test]
async fn no_facilitator_makes_a_purchase_be_paid_twice() {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/python/venv");
    let program = venv.join("bin/hostile-facilitator");
    assert!(program.exists(), "run `make test`: {}", program.display());
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let output = Command::new(program)
        .args(["test", "--client-timeout", "1", "--json"])
        .arg(&report)
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "one_purchase"])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{wrong}");
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let modes = report["results"].as_array().unwrap();
    assert_eq!(modes.len(), 10, "{report:#}");
    for mode in modes {
        // The buyer never asks the facilitator itself, so the modes of that name only test its
        // timeout.
        assert_eq!(mode["distinct"], 1, "{mode:#}");
    }
}

/// The program under test: one purchase, from a seller that uses the facilitator in
/// `FACILITATOR_URL`.
#[tokio::test]
#[ignore = "the battery runs it"]
async fn one_purchase() {
    let url = std::env::var("FACILITATOR_URL").unwrap();
    let facilitator = Arc::new(Impatient(RemoteFacilitator::new(&url).unwrap()));
    let seller = Evm::accounts()[1].address.to_string();
    let offer = ExactOffer::usdc("base-sepolia", "0.01", &seller).unwrap();
    let price = PaymentLayer::new(facilitator).accept(offer);
    let app = Router::new().route("/goods", get(|| async { "goods" }).layer(price));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let goods = format!("http://{}/goods", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });

    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_quittance"))
        .args(["pay", &goods, "--max", "0.05", "--state"])
        .arg(folder.path().join("purchases.json"))
        .env("QUITTANCE_PAYER_KEY", &Evm::accounts()[2].key)
        .output()
        .await
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    println!("{}", String::from_utf8_lossy(&output.stderr));
}
