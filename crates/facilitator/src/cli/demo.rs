//! `quittance demo`: a whole payment, with everything real but the money.

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use alloy::primitives::{Address, U256};
use axum::routing::get;
use axum::{Json, Router};
use clap::Args;
use quittance_core::{Amount, Facilitator};
use quittance_devnet::{Evm, EvmOptions, Tools, USDC};
use quittance_engine::{Engine, SqliteJournal};
use quittance_evm::{EvmConfig, Exact, ExactOffer, ExactPayer, known};
use quittance_facilitator::{Keys, ServerOptions, ServiceOptions, router, serve};
use quittance_http::{BuyError, Buyer, Limits, PaymentLayer, RemoteFacilitator};
use serde_json::json;
use tokio::net::TcpListener;

use super::Ended;

#[derive(Debug, Args)]
pub(super) struct Demo {}

/// What the paid API costs.
const PRICE: &str = "0.01";

/// Decimal places of USDC.
const DECIMALS: u8 = 6;

impl Demo {
    pub(super) async fn run(self) -> Ended {
        println!("1. A local chain");
        let evm = Evm::start(&Tools::find()?, &EvmOptions::default()).await?;
        let [facilitator, seller, buyer] = [0, 1, 2].map(|at| Evm::accounts()[at].clone());
        println!(
            "   eip155:84532 at {}, with the real USDC contract at {USDC}",
            evm.url()
        );

        println!("2. A facilitator, which pays for gas");
        let folder = tempfile::tempdir()?;
        let engine = engine(&evm, &facilitator.signer, folder.path()).await?;
        let facilitator_url =
            listen(router(engine.clone(), ServiceOptions::new(Keys::anyone()))).await?;
        let settles = engine.supported().await?.kinds.len();
        println!(
            "   {facilitator_url}, signing as {}, settles {settles} kinds of payments",
            facilitator.address
        );

        println!("3. An API that costs {PRICE} USDC a call");
        let offer = ExactOffer::usdc("base-sepolia", PRICE, &seller.address.to_string())?;
        let remote = Arc::new(RemoteFacilitator::new(&facilitator_url)?);
        let price = PaymentLayer::new(remote)
            .accept(offer)
            .description("Tomorrow's weather");
        let forecast = get(|| async { Json(json!({ "tomorrow": "sunny" })) });
        let api_url = listen(Router::new().route("/forecast", forecast.layer(price))).await?;
        println!("   {api_url}/forecast, paid to {}", seller.address);

        let before = Balances::read(&evm, seller.address, buyer.address).await?;
        println!(
            "4. A buyer, {}, with {} USDC",
            buyer.address,
            before.buyer.to_decimal(DECIMALS)
        );
        let payer = || ExactPayer::new(buyer.signer.clone());
        let url = format!("{api_url}/forecast");
        let careful = Buyer::builder()
            .payer(payer())
            .limits(Limits::default().per_payment("0.005"))
            .build()?;
        match careful.get(&url).await {
            Err(BuyError::NotAcceptable(why)) => println!(
                "   with a limit of 0.005 it does not pay: {}",
                why.join("; ")
            ),
            other => return Err(format!("a buyer over its limit: {other:?}").into()),
        }
        let bought = Buyer::builder()
            .payer(payer())
            .limits(Limits::default().per_payment("0.02"))
            .build()?
            .get(&url)
            .await?;
        let cost = bought.cost.ok_or("the API asked for no payment")?;
        let receipt = cost.receipt.ok_or("the API gave no receipt")?;
        println!(
            "   with a limit of 0.02 it pays {} USDC and gets {}",
            cost.amount.to_decimal(DECIMALS),
            bought.response.text().await?
        );
        println!("   transaction {}", receipt.transaction);

        let after = Balances::read(&evm, seller.address, buyer.address).await?;
        println!("5. The books");
        println!(
            "   {:<8} {:>16} {:>16} {:>10}",
            "USDC", "before", "after", "change"
        );
        before.print("buyer", &after, |balances| balances.buyer);
        before.print("seller", &after, |balances| balances.seller);
        engine.shut_down(std::time::Duration::from_secs(5)).await;
        let price = Amount::from_decimal(PRICE, DECIMALS)?;
        let paid = before.buyer.checked_sub(after.buyer) == Some(price)
            && after.seller.checked_sub(before.seller) == Some(price);
        if !paid || !receipt.success {
            return Err("the books do not balance".into());
        }
        println!(
            "   The buyer paid {PRICE}, the seller received {PRICE}, and the facilitator paid the gas."
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// An engine on the local chain.
async fn engine(
    evm: &Evm,
    signer: &alloy::signers::local::PrivateKeySigner,
    folder: &std::path::Path,
) -> Result<Engine, Box<dyn Error>> {
    let network = known::network("base-sepolia").ok_or("base-sepolia is known")?;
    let mut config = EvmConfig::new(
        network,
        vec![evm.url().parse()?],
        vec![Arc::new(signer.clone())],
    );
    // The local chain makes a block only when there is something to put in it.
    config.head_age_max = None;
    let chain = quittance_evm::Evm::new(config)?;
    let exact = Arc::new(Exact::new(&chain));
    let journal = SqliteJournal::open(folder.join("journal.db")).await?;
    Ok(Engine::builder(journal)
        .chain(chain, vec![exact])
        .start()
        .await?)
}

/// Serves on a free port of this machine, as long as the program runs.
async fn listen(router: Router) -> Result<String, Box<dyn Error>> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(serve(
        router,
        listener,
        ServerOptions::default(),
        std::future::pending(),
    ));
    Ok(url)
}

struct Balances {
    buyer: Amount,
    seller: Amount,
}

impl Balances {
    async fn read(evm: &Evm, seller: Address, buyer: Address) -> Result<Self, Box<dyn Error>> {
        let amount = |units: U256| Amount::new(units);
        Ok(Self {
            buyer: amount(evm.balance(USDC, buyer).await?),
            seller: amount(evm.balance(USDC, seller).await?),
        })
    }

    fn print(&self, who: &str, after: &Self, of: impl Fn(&Self) -> Amount) {
        let (before, after) = (of(self), of(after));
        let change = match (after.checked_sub(before), before.checked_sub(after)) {
            (Some(more), _) => format!("+{}", more.to_decimal(DECIMALS)),
            (None, less) => format!("-{}", less.unwrap_or_default().to_decimal(DECIMALS)),
        };
        println!(
            "   {who:<8} {:>16} {:>16} {change:>10}",
            before.to_decimal(DECIMALS),
            after.to_decimal(DECIMALS)
        );
    }
}
