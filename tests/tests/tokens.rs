//! The example that sells text token by token through a channel. The judge reads the chain.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use alloy::primitives::U256;
use quittance_core::Amount;
use quittance_devnet::{BATCH_SETTLEMENT, USDC};
use quittance_examples::{Llm, listen};
use quittance_tests::evm::Setting;

/// The example's price of a token of text and its deposit, in atomic units.
const PRICE: u64 = 100;
const DEPOSIT: u64 = 10_000;

/// The seller gets the price of each tick, the buyer lacks its deposit, and the channel has the
/// rest.
#[tokio::test(flavor = "multi_thread")]
async fn the_claim_of_a_stream_pays_each_tick_once() {
    let setting = Setting::start().await;
    let chain = &setting.local;
    let folder = tempfile::tempdir().unwrap();
    let accounts = [1, 2].map(|at: usize| quittance_devnet::Evm::accounts()[at].address);
    let [seller, buyer] = accounts;
    let has = async |account| chain.balance(USDC, account).await.unwrap();
    let before = (has(seller).await, has(buyer).await);

    let llm = Llm::open(chain, folder.path()).await.unwrap();
    let cost = listen(&llm.url, 12).await.unwrap();
    assert_eq!((cost.ticks, cost.charged), (12, Amount::from(12 * PRICE)));
    assert_eq!(has(seller).await, before.0, "a voucher moves nothing");

    let claimed = llm.claim(chain).await.unwrap();
    let paid = U256::from(12 * PRICE);
    assert_eq!(has(seller).await, before.0 + paid);
    assert_eq!(U256::from(claimed), before.0 + paid);
    assert_eq!(has(buyer).await, before.1 - U256::from(DEPOSIT));
    assert_eq!(has(BATCH_SETTLEMENT).await, U256::from(DEPOSIT) - paid);
}
