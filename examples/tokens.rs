//! An API like that of a language model, paid token by token through a channel, with its
//! facilitator, its buyer and a local chain, in one process: `cargo run --example tokens`. The
//! local chain needs Node.js, and once `npm ci` in `crates/devnet/node`.

use std::error::Error;

use quittance_devnet::{Evm as LocalChain, EvmOptions, Tools, USDC};
use quittance_examples::{Llm, listen};

/// How many tokens of text the buyer wants.
const TOKENS: u64 = 24;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let chain = LocalChain::start(&Tools::find()?, &EvmOptions::default()).await?;
    let seller = LocalChain::accounts()[1].address;
    let before: u128 = chain.balance(USDC, seller).await?.try_into()?;
    let folder = tempfile::tempdir()?;
    let llm = Llm::open(&chain, folder.path()).await?;

    let cost = listen(&llm.url, TOKENS).await?;
    let charged = cost.charged.to_decimal(6);
    println!(
        "the buyer stopped: {charged} USDC for {} ticks, with one deposit",
        cost.ticks
    );

    let received = llm.claim(&chain).await?.saturating_sub(before);
    println!("the seller claimed the last voucher, and got {received} atomic units");
    Ok(())
}
