//! A paid API, sold for USDC on two chains. It needs a facilitator at port 4020: `quittance serve` with the configuration that
//! `quittance-devnet all` prints, or the example `facilitator`. Then `cargo run --example seller`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::routing::get;
use axum::{Extension, Router};
use quittance_http::RemoteFacilitator;
use quittance_seller::{PaidBy, PaymentLayer};
use quittance_solana::Blockhashes;
use tracing::{Level, error};

async fn forecast(Extension(paid): Extension<PaidBy>) -> String {
    format!("sunny, {}", paid.payer.unwrap_or_default())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // What goes wrong with payments is logged: without a log a seller wonders why it sells nothing.
    tracing_subscriber::fmt().with_max_level(Level::INFO).init();
    let facilitator = Arc::new(RemoteFacilitator::new("http://127.0.0.1:4020")?);
    let on_base = quittance_evm::ExactOffer::usdc(
        "base-sepolia",
        "0.01",
        "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    )?;
    // On Solana a payment is made with a recent blockhash. A seller that tells one spares its buyers a node.
    let blockhashes = Blockhashes::of(&["http://127.0.0.1:8899".parse()?])?;
    let on_solana = quittance_solana::ExactOffer::usdc(
        "solana-devnet",
        "0.01",
        "9hSR6S7WPtxmTojgo6GG3k4yDPecgJY292j7xrsUGWBu",
    )?
    .with_blockhashes(&blockhashes);
    let price = PaymentLayer::new(facilitator)
        .accept(on_base)
        .accept(on_solana)
        .description("Tomorrow's weather")
        .cors(quittance_seller::cors());
    // A facilitator may be down for a moment, so this is no reason not to start.
    if let Err(problem) = price.check().await {
        error!(%problem, "nothing can be sold now");
    }

    let app = Router::new().route("/forecast", get(forecast).layer(price));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:4021").await?;
    println!("http://{}/forecast", listener.local_addr()?);
    // The layer tells clients apart by their addresses.
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app).await?;
    Ok(())
}
