//! `quittance-devnet demo`: whole payments on a local EVM chain and on a local Solana cluster.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::routing::get;
use axum::{Extension, Json, Router};
use clap::Args;
use quittance_buyer::{BuyError, Buyer, Limits};
use quittance_core::wire::{PaymentPayload, SupportedKind};
use quittance_core::{
    Amount, Clock, Facilitator, Offer, Payer, PaymentId, PaymentRequest, SystemClock,
};
use quittance_devnet::{
    Account, Evm, EvmOptions, SOLANA_USDC, Solana, SolanaAccount, SolanaOptions, Tools, USDC,
};
use quittance_engine::{Engine, SqliteJournal};
use quittance_evm::EvmConfig;
use quittance_http::RemoteFacilitator;
use quittance_seller::{Charge, PaymentLayer};
use quittance_service::{Keys, ServerOptions, ServiceOptions, router, serve};
use quittance_solana::{SolanaConfig, TokenProgram};
use serde_json::json;
use tokio::net::TcpListener;

use super::CommandResult;
use super::stream::{WORD_PRICE, buy_story};

/// The example below the options in `--help`.
const EXAMPLE: &str = "\
Example:
  quittance-devnet demo

The demonstration needs no network, no keys and no money: its chains are local, and stop when it ends.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Demo {}

/// The price of the paid API, in USDC.
const PRICE: &str = "0.01";

/// What the metered API charges, in USDC.
const CHARGE: &str = "0.0025";

/// Decimal places of USDC, on every chain.
pub(super) const DECIMALS: u8 = 6;

/// The network of the local EVM chain.
pub(super) const EVM: &str = "base-sepolia";

/// The network of the local Solana cluster.
const SOLANA: &str = "solana-devnet";

impl Demo {
    pub(super) async fn run(self) -> CommandResult {
        println!("1. Two local chains");
        let chains = Chains::start().await?;

        println!("2. A facilitator, which pays the fees");
        let folder = tempfile::tempdir()?;
        let engine = engine(&chains, folder.path()).await?;
        let facilitator =
            listen(router(engine.clone(), ServiceOptions::new(Keys::anyone()))).await?;
        println!("   {facilitator} settles");
        for kind in engine.supported().await?.kinds {
            if kind.x402_version == 2 {
                println!("   {} on {}", kind.scheme, kind.network);
            }
        }

        println!("3. An API that costs {PRICE} USDC a call, on either chain");
        let api = api(&facilitator).await?;
        println!("   {api}, paid to {}", evm_account(SELLER).address);
        println!("   or to {}", solana_account(SELLER).address);

        println!("4. A buyer with a limit of 0.005 USDC a payment");
        refuse(&api, chains.evm_payer(), chains.solana_payer()?).await?;

        println!("5. A buyer with a limit of 0.02, on the EVM chain");
        let before = chains.evm_books().await?;
        buy(&api, chains.evm_payer()).await?;
        before.balance(&chains.evm_books().await?)?;

        println!("6. A buyer with a limit of 0.02, on Solana");
        let before = chains.solana_books().await?;
        buy(&api, chains.solana_payer()?).await?;
        before.balance(&chains.solana_books().await?)?;

        println!("7. An API that charges what it produced, at most {PRICE} USDC");
        let settlement = buy_metered(&facilitator, &chains).await?;

        println!("8. The seller refunds that");
        refund(&facilitator, settlement).await?;

        println!(
            "9. A story that costs {WORD_PRICE} USDC a word, paid by vouchers and claimed at the end"
        );
        buy_story(&facilitator, &chains, folder.path()).await?;

        engine.shut_down(Duration::from_secs(5)).await;
        println!("Each seller received what its buyer paid, and the facilitator paid the fees.");
        Ok(())
    }
}

// The development account of each role.
const FACILITATOR: usize = 0;
pub(super) const SELLER: usize = 1;
pub(super) const BUYER: usize = 2;

pub(super) fn evm_account(at: usize) -> Account {
    Evm::accounts().swap_remove(at)
}

fn solana_account(at: usize) -> SolanaAccount {
    Solana::accounts().swap_remove(at)
}

/// Both local chains.
pub(super) struct Chains {
    evm: Evm,
    solana: Solana,
}

impl Chains {
    async fn start() -> Result<Self, Box<dyn Error>> {
        let tools = Tools::find()?;
        let (evm, solana) = (EvmOptions::default(), SolanaOptions::default());
        let (evm, solana) =
            tokio::try_join!(Evm::start(&tools, &evm), Solana::start(&tools, &solana))?;
        println!("   EVM at {}, with the USDC contract {USDC}", evm.url());
        println!(
            "   Solana at {}, with the USDC mint {SOLANA_USDC}",
            solana.url()
        );
        Ok(Self { evm, solana })
    }

    fn evm_payer(&self) -> quittance_evm::ExactPayer {
        quittance_evm::ExactPayer::new(evm_account(BUYER).signer)
    }

    fn solana_payer(&self) -> Result<quittance_solana::ExactPayer, Box<dyn Error>> {
        let network = quittance_solana::known::network(SOLANA).ok_or("solana-devnet is known")?;
        let payer = quittance_solana::ExactPayer::new(solana_account(BUYER).keypair);
        Ok(payer.with_rpc(&network, &[self.solana.url().parse()?])?)
    }

    pub(super) async fn evm_books(&self) -> Result<Books, Box<dyn Error>> {
        let of = async |at: usize| self.evm.balance(USDC, evm_account(at).address).await;
        Ok(Books {
            buyer: Amount::new(of(BUYER).await?),
            seller: Amount::new(of(SELLER).await?),
        })
    }

    async fn solana_books(&self) -> Result<Books, Box<dyn Error>> {
        let program = TokenProgram::SplToken.id();
        let of = async |at: usize| {
            let owner = solana_account(at).address;
            self.solana.balance(&owner, &SOLANA_USDC, &program).await
        };
        Ok(Books {
            buyer: Amount::from(of(BUYER).await?),
            seller: Amount::from(of(SELLER).await?),
        })
    }
}

/// An engine on both chains.
async fn engine(chains: &Chains, folder: &Path) -> Result<Engine, Box<dyn Error>> {
    let network = quittance_evm::known::network(EVM).ok_or("base-sepolia is known")?;
    let signer = Arc::new(evm_account(FACILITATOR).signer);
    let mut config = EvmConfig::new(network, vec![chains.evm.url().parse()?], vec![signer]);
    // The local chain makes a block only for transactions.
    config.head_age_max = None;
    let evm = quittance_evm::Evm::new(config)?;
    let evm_exact = Arc::new(quittance_evm::Exact::new(&evm));
    let evm_upto = Arc::new(quittance_evm::Upto::new(&evm));
    let evm_batch = Arc::new(quittance_evm::batch::BatchSettlement::new(&evm));

    let network = quittance_solana::known::network(SOLANA).ok_or("solana-devnet is known")?;
    let fee_payer = Arc::new(solana_account(FACILITATOR).keypair);
    let url = chains.solana.url().parse()?;
    let config = SolanaConfig::new(network, vec![url], vec![fee_payer]);
    let solana = quittance_solana::Solana::new(config)?;
    let solana_exact = Arc::new(quittance_solana::Exact::new(&solana));

    let journal = SqliteJournal::open(folder.join("journal.db")).await?;
    let builder = Engine::builder(journal)
        .chain(evm, vec![evm_exact, evm_upto, evm_batch])
        .chain(solana, vec![solana_exact]);
    Ok(builder.start().await?)
}

/// A paid API, and its URL.
async fn api(facilitator: &str) -> Result<String, Box<dyn Error>> {
    let to = evm_account(SELLER).address.to_string();
    let on_evm = quittance_evm::ExactOffer::usdc(EVM, PRICE, &to)?;
    let to = solana_account(SELLER).address.to_string();
    let on_solana = quittance_solana::ExactOffer::usdc(SOLANA, PRICE, &to)?;
    let price = PaymentLayer::new(Arc::new(RemoteFacilitator::new(facilitator)?))
        .accept(on_evm)
        .accept(on_solana)
        .description("Tomorrow's weather");
    let forecast = get(|| async { Json(json!({ "tomorrow": "sunny" })) });
    let url = listen(Router::new().route("/forecast", forecast.layer(price))).await?;
    Ok(format!("{url}/forecast"))
}

/// A buyer with a limit below the price does not pay.
async fn refuse(url: &str, one: impl Payer, other: impl Payer) -> Result<(), Box<dyn Error>> {
    let careful = Buyer::builder()
        .payer(one)
        .payer(other)
        .limits(Limits::default().per_payment("0.005"))
        .build()?;
    match careful.get(url).await {
        Err(BuyError::NotAcceptable(why)) => {
            for reason in why {
                println!("   does not pay {reason}");
            }
            Ok(())
        }
        other => Err(format!("a buyer over its limit: {other:?}").into()),
    }
}

/// A buyer with a limit above the price pays, and gets the forecast.
async fn buy(url: &str, payer: impl Payer) -> Result<(), Box<dyn Error>> {
    let who = payer.address().to_owned();
    let buyer = Buyer::builder()
        .payer(payer)
        .limits(Limits::default().per_payment("0.02"))
        .build()?;
    let bought = buyer.get(url).await?;
    let cost = bought.cost.ok_or("the API asked for no payment")?;
    let receipt = cost.receipt.ok_or("the API gave no receipt")?;
    if !receipt.success {
        return Err("the receipt says that the payment did not settle".into());
    }
    println!(
        "   {who} pays {} USDC and gets {}",
        cost.amount.to_decimal(DECIMALS),
        bought.response.text().await?
    );
    println!("   transaction {}", receipt.transaction);
    Ok(())
}

/// A buyer authorizes the price, and the handler charges less. Returns the settlement.
async fn buy_metered(facilitator: &str, chains: &Chains) -> Result<PaymentId, Box<dyn Error>> {
    let (seller, client) = (evm_account(SELLER), evm_account(BUYER));
    chains.evm.approve_permit2(USDC, client.address).await?;
    let offer = quittance_evm::UptoOffer::usdc(EVM, PRICE, &seller.address.to_string())?;
    let price = PaymentLayer::new(Arc::new(RemoteFacilitator::new(facilitator)?)).accept(offer);
    let charge = Charge::units(Amount::from_decimal(CHARGE, DECIMALS)?);
    let story = get(move || async move { (Extension(charge), "Once upon a time") });
    let url = listen(Router::new().route("/story", story.layer(price))).await?;

    let payer = quittance_evm::UptoPayer::new(client.signer);
    let buyer = Buyer::builder().payer(payer).build()?;
    let before = chains.evm_books().await?;
    let bought = buyer.get(&format!("{url}/story")).await?;
    let paid = before.buyer.checked_sub(chains.evm_books().await?.buyer);
    let paid = paid.ok_or("the buyer has more than before")?;
    let cost = bought.cost.ok_or("the API asked for no payment")?;
    let receipt = cost.receipt.ok_or("the API gave no receipt")?;
    println!(
        "   {} allows {PRICE} USDC, pays {}, and gets {:?}",
        client.address,
        paid.to_decimal(DECIMALS),
        bought.response.text().await?
    );
    let settlement = receipt.json["extra"]["settlement"].as_str();
    Ok(settlement
        .ok_or("the receipt names no settlement")?
        .parse()?)
}

/// The seller pays the metered charge back, as `quittance refund` does.
async fn refund(facilitator: &str, settlement: PaymentId) -> Result<(), Box<dyn Error>> {
    let facilitator = RemoteFacilitator::new(facilitator)?;
    let client = evm_account(BUYER).address.to_string();
    let offer = quittance_evm::ExactOffer::usdc(EVM, CHARGE, &client)?;
    let kinds = facilitator.supported().await?.kinds;
    let is_it = |kind: &&SupportedKind| {
        kind.scheme == offer.scheme() && kind.network == offer.network().id()
    };
    let kind = kinds.iter().find(is_it).ok_or("exact is supported")?;
    let requirements = offer.requirements(kind)?;
    let payer = quittance_evm::ExactPayer::new(evm_account(SELLER).signer);
    let signed = payer.pay(&requirements, None, SystemClock.now()).await?;
    let payment = PaymentPayload::new(requirements.clone(), signed.payload);
    let request = PaymentRequest::new(payment, requirements)?.as_refund_of(settlement);
    let settled = facilitator.settle(&request).await?;
    if !settled.success {
        return Err(format!("the refund failed: {:?}", settled.error_reason).into());
    }
    println!("   {} pays {CHARGE} USDC back", payer.address());
    println!("   transaction {}", settled.transaction);
    Ok(())
}

/// Serves on a free port until the program ends.
pub(super) async fn listen(router: Router) -> Result<String, Box<dyn Error>> {
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

/// The USDC balances of the buyer and the seller, in atomic units.
pub(super) struct Books {
    buyer: Amount,
    pub(super) seller: Amount,
}

impl Books {
    /// Prints the changes. Fails if they are not the price.
    fn balance(&self, after: &Self) -> Result<(), Box<dyn Error>> {
        println!(
            "   {:<8} {:>16} {:>16} {:>10}",
            "USDC", "before", "after", "change"
        );
        print_change("buyer", self.buyer, after.buyer);
        print_change("seller", self.seller, after.seller);
        let price = Some(Amount::from_decimal(PRICE, DECIMALS)?);
        let paid = self.buyer.checked_sub(after.buyer) == price
            && after.seller.checked_sub(self.seller) == price;
        if paid {
            Ok(())
        } else {
            Err("the books do not balance".into())
        }
    }
}

fn print_change(who: &str, before: Amount, after: Amount) {
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
