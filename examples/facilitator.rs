//! A facilitator in twenty lines. Start a local chain with `quittance devnet`, then run this with `SIGNER` set to one of
//! the keys it prints.

use std::sync::Arc;

use alloy::signers::local::PrivateKeySigner;
use quittance_engine::{Engine, SqliteJournal};
use quittance_evm::{Evm, EvmConfig, Exact, known};
use quittance_facilitator::{Keys, ServerOptions, ServiceOptions, router, serve};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let signer: PrivateKeySigner = std::env::var("SIGNER")?.parse()?;
    let network = known::network("base-sepolia").ok_or("not a known network")?;
    let mut config = EvmConfig::new(
        network,
        vec!["http://127.0.0.1:8545".parse()?],
        vec![Arc::new(signer)],
    );
    config.head_age_max = None; // A local chain makes a block only when there is something to put in it.
    let evm = Evm::new(config)?;
    let exact = Arc::new(Exact::new(&evm));

    let journal = SqliteJournal::open("quittance.db").await?;
    let engine = Engine::builder(journal)
        .chain(evm, vec![exact])
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
