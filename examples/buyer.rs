//! A buyer that spends at most five cents a time and a dollar in all. Set `PAYER` to a key that has USDC; on the local
//! chain, any key that `quittance devnet` prints.

use alloy::signers::local::PrivateKeySigner;
use quittance_evm::ExactPayer;
use quittance_http::{Buyer, Limits};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let key: PrivateKeySigner = std::env::var("PAYER")?.parse()?;
    let limits = Limits::default().per_payment("0.05").in_total("1");
    let buyer = Buyer::builder()
        .payer(ExactPayer::new(key))
        .limits(limits)
        .build()?;

    let bought = buyer.get("http://127.0.0.1:4021/forecast").await?;
    if let Some(cost) = &bought.cost {
        println!(
            "paid {} in {:?}",
            cost.amount,
            cost.receipt.as_ref().map(|receipt| &receipt.transaction)
        );
    }
    println!("{}", bought.response.text().await?);
    Ok(())
}
