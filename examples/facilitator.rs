//! A facilitator for two chains. Start both chains with `quittance-devnet all`. In another shell,
//! export the `SIGNER` and the `FEE_PAYER` that it prints, and run `cargo run --example
//! facilitator`.

use std::env::var;
use std::sync::Arc;

use alloy::signers::local::PrivateKeySigner;
use quittance_engine::{Engine, SqliteJournal};
use quittance_evm::{Evm, EvmConfig};
use quittance_service::{Keys, ServerOptions, ServiceOptions, router, serve};
use quittance_solana::{Keypair, Solana, SolanaConfig};

fn evm() -> Result<Evm, Box<dyn std::error::Error>> {
    let network = quittance_evm::known::network("base-sepolia").ok_or("not a known network")?;
    let node = "http://127.0.0.1:8545".parse()?;
    let signer: PrivateKeySigner = var("SIGNER")?.parse()?;
    let mut config = EvmConfig::new(network, vec![node], vec![Arc::new(signer)]);
    config.head_age_max = None; // A local chain makes a block only when there is something to put in it.
    Ok(Evm::new(config)?)
}

fn solana() -> Result<Solana, Box<dyn std::error::Error>> {
    let network = quittance_solana::known::network("solana-devnet").ok_or("not a known cluster")?;
    let node = "http://127.0.0.1:8899".parse()?;
    let fee_payer = Keypair::try_from_base58_string(&var("FEE_PAYER")?)?;
    let config = SolanaConfig::new(network, vec![node], vec![Arc::new(fee_payer)]);
    Ok(Solana::new(config)?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (evm, solana) = (evm()?, solana()?);
    let exact_on_evm = Arc::new(quittance_evm::Exact::new(&evm));
    let exact_on_solana = Arc::new(quittance_solana::Exact::new(&solana));

    let journal = SqliteJournal::open("quittance.db").await?;
    let engine = Engine::builder(journal)
        .chain(evm, vec![exact_on_evm])
        .chain(solana, vec![exact_on_solana])
        .start()
        .await?;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:4020").await?;
    println!("http://{}", listener.local_addr()?);
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    serve(
        router(engine, ServiceOptions::new(Keys::anyone())),
        listener,
        ServerOptions::default(),
        stop,
    )
    .await;
    Ok(())
}
