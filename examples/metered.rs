//! An API that charges for what it produced, with its facilitator, its buyer and a local chain, in
//! one process: `cargo run --example metered`. The local chain needs Node.js, and once `npm ci` in
//! `crates/devnet/node`.

use std::error::Error;
use std::sync::Arc;

use axum::extract::Path;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Router};
use quittance_buyer::Buyer;
use quittance_devnet::{Evm as LocalChain, EvmOptions, Tools, USDC};
use quittance_engine::{Engine, SqliteJournal};
use quittance_evm::{Evm, EvmConfig, Upto, UptoOffer, UptoPayer, known};
use quittance_seller::{Charge, PaymentLayer};
use tokio::net::TcpListener;

/// The network that the local chain stands for.
const NETWORK: &str = "base-sepolia";

/// The most that a story may cost, in USDC.
const PRICE_MAX: &str = "0.01";

/// The price of a word, in atomic units of USDC.
const WORD: u64 = 25;

/// [`PRICE_MAX`] in atomic units of USDC, which has six decimal places.
const PRICE_MAX_UNITS: u64 = 10_000;

/// Tells a story, and charges for its words. The buyer has authorized the highest price, so a story
/// is at most that long.
async fn story(Path(words): Path<u64>) -> impl IntoResponse {
    let words = words.min(PRICE_MAX_UNITS / WORD);
    let story = "once ".repeat(usize::try_from(words).unwrap_or(0));
    let charge = Charge::units((words * WORD).into());
    (Extension(charge), story)
}

/// A facilitator on the local chain.
async fn facilitator(chain: &LocalChain, journal: SqliteJournal) -> Result<Engine, Box<dyn Error>> {
    let network = known::network(NETWORK).ok_or("a known network")?;
    let signer = Arc::new(LocalChain::accounts()[0].signer.clone());
    let mut config = EvmConfig::new(network, vec![chain.url().parse()?], vec![signer]);
    // The local chain makes blocks only for transactions.
    config.head_age_max = None;
    let evm = Evm::new(config)?;
    let upto = Arc::new(Upto::new(&evm));
    let engine = Engine::builder(journal).chain(evm, vec![upto]);
    Ok(engine.start().await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let chain = LocalChain::start(&Tools::find()?, &EvmOptions::default()).await?;
    let [_, seller, client, ..] = &LocalChain::accounts()[..] else {
        return Err("a local chain has accounts".into());
    };
    chain.approve_permit2(USDC, client.address).await?;
    let folder = tempfile::tempdir()?;
    let journal = SqliteJournal::open(folder.path().join("journal.db")).await?;
    let engine = facilitator(&chain, journal).await?;

    let offer = UptoOffer::usdc(NETWORK, PRICE_MAX, &seller.address.to_string())?;
    let price = PaymentLayer::new(Arc::new(engine)).accept(offer);
    let app = Router::new().route("/story/{words}", get(story).layer(price));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });

    let payer = UptoPayer::new(client.signer.clone());
    let buyer = Buyer::builder().payer(payer).build()?;
    for words in [3, 40, 0, 1_000] {
        let before = chain.balance(USDC, client.address).await?;
        let bought = buyer.get(&format!("{url}/story/{words}")).await?;
        let length = bought.response.text().await?.split_whitespace().count();
        let paid = before - chain.balance(USDC, client.address).await?;
        println!("asked for {words} words, got {length}, paid {paid} atomic units of USDC");
    }
    Ok(())
}
