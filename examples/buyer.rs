//! A buyer with a key on each chain, that spends at most five cents a time and a dollar in all, on
//! both together. On the local chains, export `QUITTANCE_PAYER_KEY` and
//! `QUITTANCE_SOLANA_PAYER_KEY` as `quittance-devnet` prints them. One of them is enough. Then run
//! `cargo run --example buyer` while the example `seller` runs.

use std::env::var;

use alloy::signers::local::PrivateKeySigner;
use quittance_buyer::{Buyer, Limits};
use quittance_solana::Keypair;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let limits = Limits::default().per_payment("0.05").in_total("1");
    let mut buyer = Buyer::builder().limits(limits);
    if let Ok(key) = var("QUITTANCE_PAYER_KEY") {
        let key: PrivateKeySigner = key.parse()?;
        // With a node (`with_rpc`), the payer can find the outcome of a payment whose response was
        // lost.
        buyer = buyer.payer(quittance_evm::ExactPayer::new(key));
    }
    if let Ok(key) = var("QUITTANCE_SOLANA_PAYER_KEY") {
        let key = Keypair::try_from_base58_string(&key)?;
        // Without a node it pays sellers that tell a blockhash; `with_rpc` names one for the
        // others.
        buyer = buyer.payer(quittance_solana::ExactPayer::new(key));
    }
    let buyer = buyer.build()?;

    // Of the ways to pay that the seller names, the first that it can go.
    let bought = buyer.get("http://127.0.0.1:4021/forecast").await?;
    if let Some(cost) = &bought.cost {
        println!(
            "paid {} {} in {:?}",
            cost.amount.to_decimal(cost.asset.decimals),
            cost.asset.symbol,
            cost.receipt.as_ref().map(|receipt| &receipt.transaction)
        );
    }
    println!("{}", bought.response.text().await?);
    Ok(())
}
