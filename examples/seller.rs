//! A paid API, sold for USDC on two chains. It needs a facilitator at port 4020: `quittance serve`
//! with the configuration that `quittance-devnet all` prints, or the example `facilitator`. Then
//! run `cargo run --example seller`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::routing::get;
use axum::{Extension, Router};
use quittance_http::RemoteFacilitator;
use quittance_seller::{PaymentLayer, VerifiedPayment};
use quittance_solana::Blockhashes;
use tracing::{Level, error};

async fn forecast(Extension(paid): Extension<VerifiedPayment>) -> String {
    format!("sunny, {}", paid.payer.unwrap_or_default())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Problems with payments are logged.
    tracing_subscriber::fmt().with_max_level(Level::INFO).init();
    let facilitator = Arc::new(RemoteFacilitator::new("http://127.0.0.1:4020")?);
    let on_base = quittance_evm::ExactOffer::usdc(
        "base-sepolia",
        "0.01",
        "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    )?;
    // A payment on Solana needs a recent blockhash. With one in the offer, buyers need no node.
    let blockhashes = Blockhashes::new(&["http://127.0.0.1:8899".parse()?])?;
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
    // The facilitator may be down for a moment, so the server starts anyway.
    if let Err(problem) = price.check().await {
        error!(%problem, "nothing can be sold now");
    }

    let app = Router::new().route("/forecast", get(forecast).layer(price));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:4021").await?;
    println!("http://{}/forecast", listener.local_addr()?);
    // The layer limits clients by their addresses.
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app).await?;
    Ok(())
}
