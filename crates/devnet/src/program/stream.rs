//! A story that is paid word by word through a channel, and claimed at its end.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::stream;
use quittance_buyer::{Buyer, Limits};
use quittance_core::wire::{SettleResponse, SupportedResponse, VerifyResponse};
use quittance_core::{Amount, Facilitator, FacilitatorError, PaymentRequest};
use quittance_engine::SqliteJournal;
use quittance_evm::batch::{ChannelOffer, ChannelPayer, Channels};
use quittance_http::RemoteFacilitator;
use quittance_seller::{Meter, PaymentLayer, StreamLimits};
use quittance_verify::VerifierQueue;

use super::demo::{BUYER, Chains, DECIMALS, EVM, SELLER, evm_account, listen};

/// The price of a word, in USDC.
pub(super) const WORD_PRICE: &str = "0.0001";

/// What the buyer deposits, in USDC: the price of a hundred words.
const DEPOSIT: &str = "0.01";

/// The words of the story.
const WORDS: [&str; 8] = ["Once", "upon", "a", "time", "a", "word", "was", "paid"];

/// The time that a word takes.
const PAUSE: Duration = Duration::from_millis(150);

/// Prints the transactions of the acts that a facilitator settles.
struct Reported(RemoteFacilitator);

#[async_trait]
impl Facilitator for Reported {
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        self.0.verify(request).await
    }

    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        let settled = self.0.settle(request).await?;
        let act = request.payload.tree()["type"].clone();
        if settled.success {
            println!(
                "   {} by transaction {}",
                act.as_str().unwrap_or("act"),
                settled.transaction
            );
        }
        Ok(settled)
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        self.0.supported().await
    }
}

/// Sells a story word by word, claims the last voucher, and checks that the seller got its cost.
pub(super) async fn buy_story(
    facilitator: &str,
    chains: &Chains,
    folder: &Path,
) -> Result<(), Box<dyn Error>> {
    let channels = channels(facilitator, folder).await?;
    let url = shop(&channels).await?;
    let before = chains.evm_books().await?.seller;
    let charged = read(&url).await?;
    channels.claim_all().await?;
    let after = chains.evm_books().await?.seller;
    if after.checked_sub(before) != Some(charged) {
        return Err("the seller did not get what the stream cost".into());
    }
    let [received, balance] = [charged, after].map(|amount| amount.to_decimal(DECIMALS));
    println!("   the seller received {received} USDC, and has {balance}");
    Ok(())
}

/// The seller's channels. Their key needs no gas.
async fn channels(facilitator: &str, folder: &Path) -> Result<Channels, Box<dyn Error>> {
    let behind = Arc::new(Reported(RemoteFacilitator::new(facilitator)?));
    let store = Arc::new(SqliteJournal::open(folder.join("channels.db")).await?);
    let verifier = Arc::new(VerifierQueue::start()?);
    let key = evm_account(SELLER).signer;
    Ok(Channels::new(EVM, behind, store, verifier, key)?)
}

/// An API that tells the story, and its URL.
async fn shop(channels: &Channels) -> Result<String, Box<dyn Error>> {
    let seller = evm_account(SELLER).address.to_string();
    let offer = ChannelOffer::usdc(EVM, WORD_PRICE, &seller)?
        .with_authorizer(channels.authorizer())
        .with_min_deposit(DEPOSIT)?;
    let layer = PaymentLayer::new(Arc::new(channels.clone())).accept(offer);
    let layer = layer.streaming(StreamLimits::default());
    let url = listen(Router::new().route("/story", get(tell).layer(layer))).await?;
    Ok(format!("{url}/story"))
}

/// Says each word once it is paid.
async fn tell(Extension(meter): Extension<Meter>) -> Body {
    let words = WORDS.into_iter();
    Body::from_stream(stream::unfold(
        (meter, words),
        |(meter, mut words)| async move {
            let word = words.next()?;
            meter.next().await?;
            tokio::time::sleep(PAUSE).await;
            Some((Ok::<_, std::io::Error>(word), (meter, words)))
        },
    ))
}

/// Reads the story, and prints each word with the cost so far. Returns the cost.
async fn read(url: &str) -> Result<Amount, Box<dyn Error>> {
    let payer = ChannelPayer::new(evm_account(BUYER).signer);
    let limits = Limits::default().per_stream("0.005").locked(DEPOSIT);
    let buyer = Buyer::builder().payer(payer).limits(limits).build()?;
    let mut stream = buyer.stream(url).await?;
    for _ in WORDS {
        let Some(word) = stream.chunk().await? else {
            return Err(format!("the story ended early: {:?}", stream.problem()).into());
        };
        let cost = stream.cost().charged.to_decimal(DECIMALS);
        println!("   {:<8} {cost} USDC", String::from_utf8_lossy(&word));
    }
    Ok(stream.stop().await.charged)
}
