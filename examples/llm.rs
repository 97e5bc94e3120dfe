//! An API like that of a language model, which is paid token by token with one deposit: each tick
//! of the stream is a voucher of a channel. The seller keeps the vouchers, and claims the last one.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::stream;
use quittance_buyer::{Buyer, Limits, StreamCost};
use quittance_devnet::{Evm as LocalChain, USDC};
use quittance_engine::{Engine, SqliteJournal};
use quittance_evm::batch::{BatchSettlement, ChannelOffer, ChannelPayer, Channels, UpkeepTask};
use quittance_evm::{Evm, EvmConfig, known};
use quittance_seller::{Meter, PaymentLayer, StreamLimits};
use quittance_verify::VerifierQueue;
use tokio::net::TcpListener;

/// The network that the local chain stands for.
const NETWORK: &str = "base-sepolia";

/// The price of a token of text, in USDC.
const PRICE: &str = "0.0001";

/// What a buyer deposits at once, in USDC: a hundred tokens of text.
const DEPOSIT: &str = "0.01";

/// What the model says, again and again.
const WORDS: [&str; 8] = [
    "a", "voucher", "is", "a", "promise", "that", "costs", "nothing",
];

/// How long the model thinks about a token.
const THOUGHT: Duration = Duration::from_millis(100);

/// The API with its facilitator, on a local chain.
pub struct Llm {
    /// Its address.
    pub url: String,
    channels: Channels,
    /// Claims what is charged, as long as the API runs.
    _upkeep: UpkeepTask,
}

/// Says a word for each paid tick, without an end: the buyer stops when it has enough.
async fn speak(Extension(meter): Extension<Meter>) -> Body {
    Body::from_stream(stream::unfold(meter, |meter| async move {
        let tick = meter.next().await?;
        tokio::time::sleep(THOUGHT).await;
        let at = usize::try_from(tick.number - 1).ok()? % WORDS.len();
        Some((Ok::<_, std::io::Error>(WORDS[at]), meter))
    }))
}

/// A facilitator on the local chain.
async fn facilitator(chain: &LocalChain, folder: &Path) -> Result<Engine, Box<dyn Error>> {
    let network = known::network(NETWORK).ok_or("a known network")?;
    let signer = Arc::new(LocalChain::accounts()[0].signer.clone());
    let mut config = EvmConfig::new(network, vec![chain.url().parse()?], vec![signer]);
    // The local chain makes blocks only for transactions.
    config.head_age_max = None;
    let evm = Evm::new(config)?;
    let scheme = Arc::new(BatchSettlement::new(&evm));
    let journal = SqliteJournal::open(folder.join("journal.db")).await?;
    Ok(Engine::builder(journal)
        .chain(evm, vec![scheme])
        .start()
        .await?)
}

impl Llm {
    /// Opens the API. It keeps its books in the folder, and the seller is the chain's second
    /// development account.
    ///
    /// # Errors
    /// If the chain does not answer or the books cannot be written.
    pub async fn open(chain: &LocalChain, folder: &Path) -> Result<Self, Box<dyn Error>> {
        let seller = LocalChain::accounts().swap_remove(1);
        let store = Arc::new(SqliteJournal::open(folder.join("channels.db")).await?);
        let verifier = Arc::new(VerifierQueue::start()?);
        let behind = Arc::new(facilitator(chain, folder).await?);
        let channels = Channels::new(NETWORK, behind, store, verifier, seller.signer)?;

        let offer = ChannelOffer::usdc(NETWORK, PRICE, &seller.address.to_string())?
            .with_authorizer(channels.authorizer())
            .with_min_deposit(DEPOSIT)?;
        let layer = PaymentLayer::new(Arc::new(channels.clone())).accept(offer);
        let layer = layer.streaming(StreamLimits::default());
        let app = Router::new().route("/speak", get(speak).layer(layer));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/speak", listener.local_addr()?);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self {
            url,
            _upkeep: channels.spawn_upkeep(),
            channels,
        })
    }

    /// Claims the last voucher of each channel, and has the seller paid. Returns the seller's new
    /// balance in atomic units of USDC.
    ///
    /// # Errors
    /// If a claim or the payment fails.
    pub async fn claim(&self, chain: &LocalChain) -> Result<u128, Box<dyn Error>> {
        let report = self.channels.claim_all().await?;
        if report.failed > 0 || report.paid == 0 {
            return Err(format!("the claim failed: {report:?}").into());
        }
        let seller = LocalChain::accounts()[1].address;
        Ok(chain.balance(USDC, seller).await?.try_into()?)
    }
}

/// Buys so many tokens of text as the chain's third development account, and prints each with the
/// cost so far.
///
/// # Errors
/// If the API is not paid, or ends early.
pub async fn listen(url: &str, tokens: u64) -> Result<StreamCost, Box<dyn Error>> {
    let payer = ChannelPayer::new(LocalChain::accounts().swap_remove(2).signer);
    let limits = Limits::default().per_stream("0.01").locked("0.02");
    let buyer = Buyer::builder().payer(payer).limits(limits).build()?;
    let mut stream = buyer.stream(url).await?;
    for _ in 0..tokens {
        let Some(token) = stream.chunk().await? else {
            return Err(format!("the stream ended early: {:?}", stream.problem()).into());
        };
        let charged = stream.cost().charged.to_decimal(6);
        println!("{:<10} {charged} USDC", String::from_utf8_lossy(&token));
    }
    Ok(stream.stop().await)
}
