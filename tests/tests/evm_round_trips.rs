//! What a verified payment asks of the node once the caches are warm: one request if no code of its
//! payer runs, whatever its scheme. Code of the payer is simulated in two blocks, one after the
//! other.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;

use alloy::signers::local::PrivateKeySigner;
use quittance_core::{Facilitator, PaymentRequest};
use quittance_engine::Engine;
use quittance_evm::auth_capture::AuthCapture;
use quittance_evm::batch::BatchSettlement;
use quittance_evm::{Evm, Exact, ExactConfig, Upto};
use quittance_tests::channels::Channel;
use quittance_tests::delegation::{self, buyers};
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::holds::Hold;
use quittance_tests::permit2::{Approval, Permit, Permits};

/// A facilitator of every scheme.
async fn engine(setting: &Setting, settings: ExactConfig) -> Engine {
    let evm = Evm::new(setting.config()).unwrap();
    let exact = Exact::new(&evm).with_config(settings).unwrap();
    let schemes = vec![
        Arc::new(exact) as _,
        Arc::new(Upto::new(&evm)) as _,
        Arc::new(BatchSettlement::new(&evm)) as _,
        Arc::new(AuthCapture::new(&evm)) as _,
    ];
    let builder = setting.builder().await.chain(evm, schemes);
    builder.start().await.unwrap()
}

async fn start() -> (Setting, Engine) {
    let setting = Setting::start().await;
    let engine = engine(&setting, ExactConfig::default()).await;
    (setting, engine)
}

/// Each of these payments after the first, which warms the caches, takes this many requests to the
/// node.
async fn assert_each_takes(
    expected: usize,
    setting: &Setting,
    engine: &Engine,
    payments: [PaymentRequest; 3],
) {
    for (number, payment) in payments.iter().enumerate() {
        let before = setting.node.round_trips();
        let verdict = engine.verify(payment).await.unwrap();
        assert!(verdict.is_valid, "{verdict:?}");
        let requests = &setting.node.requests()[before..];
        assert!(number == 0 || requests.len() == expected, "{requests:?}");
    }
}

/// A payment by a permit and an approval of Permit2 that the payer has signed.
fn with_approval(permits: &Permits, key: &PrivateKeySigner) -> PaymentRequest {
    let permit = Permit::new(permits.proxy, permits.facilitator);
    let (owner, signature) = (key.address(), permit.signature(key));
    let request = permit.request(owner, &signature, &permits.requirements);
    Approval::new(owner, &permit).beside(&request, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn payment_by_eip3009_is_verified_by_one_request() {
    let (setting, engine) = start().await;
    let payments = [
        Setting::request().await,
        Setting::request().await,
        Setting::request().await,
    ];
    assert_each_takes(1, &setting, &engine, payments).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_by_permit2_are_verified_by_one_request() {
    let (setting, engine) = start().await;
    let buyer = Setting::buyer();
    for permits in [Permits::exact(), Permits::upto()] {
        let payments = [(); 3].map(|()| with_approval(&permits, &buyer.signer));
        assert_each_takes(1, &setting, &engine, payments).await;
    }
    let approved = setting
        .local
        .approve_permit2(quittance_devnet::USDC, buyer.address);
    approved.await.unwrap();
    for permits in [Permits::exact(), Permits::upto()] {
        let payments = [(); 3].map(|()| permits.permit_by(&buyer, |_| ()));
        assert_each_takes(1, &setting, &engine, payments).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn payment_by_delegation_is_verified_by_two_requests() {
    let (setting, delegations) = delegation::start().await;
    let engine = engine(&setting, delegations.settings()).await;
    let requirements = delegations.requirements(setting.config());
    let [buyer, _] = buyers();
    let payer = delegations.payer(&buyer);
    let pay = || quittance_tests::pay(&payer, &requirements);
    let payments = [pay().await, pay().await, pay().await];
    assert_each_takes(2, &setting, &engine, payments).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn payment_to_hold_is_verified_by_one_request() {
    let (setting, engine) = start().await;
    let payments = [(); 3].map(|()| Hold::new().authorize());
    assert_each_takes(1, &setting, &engine, payments).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deposit_and_voucher_are_verified_by_one_request() {
    const DEPOSIT: u128 = 10 * PRICE as u128;
    let (setting, engine) = start().await;
    let channels = [Channel::new(), Channel::new(), Channel::new()];
    let deposits = channels.each_ref().map(|channel| channel.deposit(DEPOSIT));
    assert_each_takes(1, &setting, &engine, deposits.clone()).await;
    Channel::deposit_elsewhere(&setting, &deposits[0]).await;
    let voucher = |total: u64| {
        let requirements = channels[0].requirements();
        channels[0].voucher_request(u128::from(total * PRICE), &requirements)
    };
    assert_each_takes(1, &setting, &engine, [voucher(1), voucher(2), voucher(3)]).await;
}
