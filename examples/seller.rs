//! A paid API. It wants a facilitator at port 4020: `quittance serve`, or the example beside this one.

use std::sync::Arc;

use axum::routing::get;
use axum::{Extension, Router};
use quittance_evm::ExactOffer;
use quittance_http::{PaidBy, PaymentLayer, RemoteFacilitator};

async fn forecast(Extension(paid): Extension<PaidBy>) -> String {
    format!("sunny, {}", paid.payer.unwrap_or_default())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let facilitator = Arc::new(RemoteFacilitator::new("http://127.0.0.1:4020")?);
    let offer = ExactOffer::usdc(
        "base-sepolia",
        "0.01",
        "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    )?;
    let price = PaymentLayer::new(facilitator)
        .accept(offer)
        .description("Tomorrow's weather");

    let app = Router::new().route("/forecast", get(forecast).layer(price));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:4021").await?;
    println!("http://{}/forecast", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
