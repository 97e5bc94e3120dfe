//! An API that is paid by the second, with its facilitator, its buyer and a local chain, in one
//! process: `cargo run --example stream`. The local chain needs Node.js, and once `npm ci` in
//! `crates/devnet/node`.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::stream;
use quittance_buyer::{Buyer, Limits};
use quittance_devnet::{Evm as LocalChain, EvmOptions, Tools, USDC};
use quittance_engine::{Engine, SqliteJournal, Timing};
use quittance_evm::{Evm, EvmConfig, known};
use quittance_examples::{PerSecond, PerSecondOffer, PerSecondPayer};
use quittance_seller::{Meter, PaymentLayer, StreamLimits};
use tokio::net::TcpListener;

/// The network that the local chain stands for.
const NETWORK: &str = "base-sepolia";

/// The price of a second, in USDC.
const PRICE: &str = "0.001";

/// After how many seconds without a tick a stream is settled.
const QUIET_SECS: u64 = 4;

/// Counts seconds, each of them paid before it begins.
async fn clock(Extension(meter): Extension<Meter>) -> Body {
    Body::from_stream(stream::unfold(meter, |meter| async move {
        let tick = meter.next().await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((
            Ok::<_, std::io::Error>(format!("second {}", tick.number)),
            meter,
        ))
    }))
}

/// A facilitator on the local chain.
async fn facilitator(chain: &LocalChain, journal: SqliteJournal) -> Result<Engine, Box<dyn Error>> {
    let network = known::network(NETWORK).ok_or("a known network")?;
    let signer = Arc::new(LocalChain::accounts()[0].signer.clone());
    let mut config = EvmConfig::new(network, vec![chain.url().parse()?], vec![signer]);
    // The local chain makes blocks only for transactions.
    config.head_age_max = None;
    let evm = Evm::new(config)?;
    let scheme = Arc::new(PerSecond::new(&evm, QUIET_SECS));
    let timing = Timing::new().with_sweep_every(Duration::from_secs(1));
    let engine = Engine::builder(journal).chain(evm, vec![scheme]);
    Ok(engine.timing(timing).start().await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let chain = LocalChain::start(&Tools::find()?, &EvmOptions::default()).await?;
    let [_, seller, client, ..] = &LocalChain::accounts()[..] else {
        return Err("a local chain has accounts".into());
    };
    let before = chain.balance(USDC, seller.address).await?;
    let folder = tempfile::tempdir()?;
    let journal = SqliteJournal::open(folder.path().join("journal.db")).await?;
    let engine = facilitator(&chain, journal).await?;

    let offer = PerSecondOffer::usdc(NETWORK, PRICE, &seller.address.to_string())?;
    let layer = PaymentLayer::new(Arc::new(engine)).accept(offer);
    let layer = layer.streaming(StreamLimits::default());
    let app = Router::new().route("/clock", get(clock).layer(layer));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });

    let payer = PerSecondPayer::new(client.signer.clone(), QUIET_SECS - 1);
    let limits = Limits::default().per_stream("0.006");
    let buyer = Buyer::builder().payer(payer).limits(limits).build()?;
    let mut stream = buyer.stream(&format!("{url}/clock")).await?;
    while let Some(chunk) = stream.chunk().await? {
        let cost = stream.cost();
        let (charged, ticks) = (cost.charged.to_decimal(6), cost.ticks);
        println!(
            "{}: {charged} USDC for {ticks} ticks",
            String::from_utf8_lossy(&chunk)
        );
    }
    if let Some(problem) = stream.problem() {
        println!("the buyer stopped: {problem}");
    }

    println!("the facilitator settles the stream when it has been quiet for {QUIET_SECS} seconds");
    while chain.balance(USDC, seller.address).await? == before {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let received = chain.balance(USDC, seller.address).await? - before;
    println!("the seller got {received} atomic units in one transaction");
    Ok(())
}
