//! The example that sells text token by token through a channel. The judge reads the chain.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use alloy::primitives::U256;
use quittance_buyer::{Buyer, Limits};
use quittance_core::Amount;
use quittance_devnet::{BATCH_SETTLEMENT, USDC};
use quittance_evm::batch::ChannelPayer;
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

/// A route of streams sells no refund, and answers a payer that asks for one.
#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_streams_deposit_is_paid_back() {
    let setting = Setting::start().await;
    let chain = &setting.local;
    let folder = tempfile::tempdir().unwrap();
    let payer = Setting::buyer();
    let has = async |account| chain.balance(USDC, account).await.unwrap();
    let before = has(payer.address).await;
    let llm = Llm::open(chain, folder.path()).await.unwrap();
    let limits = Limits::default().per_stream("0.01").locked("0.02");
    let buyer = Buyer::builder().payer(ChannelPayer::new(payer.signer));
    let buyer = buyer.limits(limits).build().unwrap();
    let mut stream = buyer.stream(&llm.url).await.unwrap();
    for _ in 0..5 {
        stream.chunk().await.unwrap().unwrap();
    }
    let charged = stream.stop().await.charged;
    assert!(charged >= Amount::from(5 * PRICE));
    let receipt = loop {
        // Until the seller sees that the stream is over, its channel is not free.
        if let Ok(Some(receipt)) = buyer.reclaim(&llm.url).await {
            break receipt;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    let rest = Amount::from(DEPOSIT).checked_sub(charged);
    assert_eq!(receipt.amount, rest);
    assert_eq!(has(payer.address).await, before - charged.units());
    assert_eq!(has(BATCH_SETTLEMENT).await, charged.units());
}
