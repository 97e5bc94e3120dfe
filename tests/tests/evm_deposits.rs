//! Deposits by Permit2, with and without an approval that the payer signs beside the permit (the
//! extension `eip2612GasSponsoring`).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;

use alloy::primitives::{Address, U256};
use futures_util::future::join_all;
use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, SettleResponse};
use quittance_core::{Facilitator, FacilitatorError, FaultKind, PaymentRequest, Reason};
use quittance_devnet::{Account, Evm as Local, USDC};
use quittance_engine::Engine;
use quittance_evm::batch::{BatchSettlement, reason};
use quittance_evm::{Evm, reason as exact_reason};
use quittance_tests::channels::{Channel, deposited};
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::permit2::{Approval, Permit, allow, allowance};
use serde_json::json;

const DEPOSIT: u64 = 3 * PRICE;

async fn engine(setting: &Setting) -> Engine {
    let evm = Evm::new(setting.config()).unwrap();
    let scheme = Arc::new(BatchSettlement::new(&evm));
    let builder = setting.builder().await.chain(evm, vec![scheme]);
    builder.start().await.unwrap()
}

/// Two accounts with money, which have approved nothing.
async fn payers(setting: &Setting) -> [Account; 2] {
    let payers = [7, 8].map(|at: usize| Local::accounts()[at].clone());
    for payer in &payers {
        let minted = setting
            .local
            .mint(USDC, payer.address, U256::from(5 * DEPOSIT));
        minted.await.unwrap();
    }
    payers
}

fn by_permit2(channel: &Channel) -> PaymentRequirements {
    let mut requirements = channel.requirements();
    let mut extra = requirements.extra.unwrap().tree();
    extra.insert("assetTransferMethod".to_owned(), json!("permit2"));
    requirements.extra = Some(Object::of(&extra).unwrap());
    requirements
}

/// A deposit into a new channel, without an approval.
fn plain(payer: &Account) -> PaymentRequest {
    let channel = Channel::of(payer);
    let deposit = channel.deposit_by_permit2(DEPOSIT.into());
    channel.deposit_request(&deposit, PRICE.into(), &by_permit2(&channel))
}

/// A deposit into a new channel, with an approval of which a part is changed before it is signed.
fn approved(payer: &Account, change: impl FnOnce(&mut Approval)) -> PaymentRequest {
    let mut permit = Permit::new(Address::ZERO, None);
    permit.amount = U256::from(DEPOSIT);
    let mut approval = Approval::new(payer.address, &permit);
    change(&mut approval);
    approval.beside(&plain(payer), &payer.signer)
}

async fn assert_invalid(engine: &Engine, request: &PaymentRequest, reason: &Reason) {
    let verdict = engine.verify(request).await.unwrap();
    let code = verdict.invalid_reason.as_deref();
    assert_eq!(code, Some(reason.code()), "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn payer_deposits_by_permit2_without_a_transaction_of_its_own() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let [payer, _] = payers(&setting).await;
    assert_invalid(&engine, &plain(&payer), &reason::PERMIT2_ALLOWANCE_REQUIRED).await;
    let request = approved(&payer, |_| ());
    assert!(engine.verify(&request).await.unwrap().is_valid);
    let settled = engine.settle(&request).await.unwrap();
    assert!(settled.success, "{settled:?}");
    assert_eq!(deposited(&setting).await, U256::from(DEPOSIT));
    assert_eq!(setting.sent(payer.address).await, 0);
    assert_eq!(allowance(&setting, payer.address).await, U256::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn spoiled_approval_is_refused_by_its_reason() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let [payer, _] = payers(&setting).await;
    let stranger = Address::repeat_byte(7);
    type Change = fn(&mut Approval, Address);
    let cases: [(Change, Reason); 6] = [
        (
            |approval, other| approval.owner = other,
            exact_reason::EIP2612_FROM_MISMATCH,
        ),
        (
            |approval, other| approval.token = other,
            exact_reason::EIP2612_ASSET_MISMATCH,
        ),
        (
            |approval, other| approval.spender = other,
            exact_reason::EIP2612_SPENDER_NOT_PERMIT2,
        ),
        (
            |approval, _| approval.value += U256::ONE,
            reason::EIP2612_AMOUNT_MISMATCH,
        ),
        (
            |approval, _| approval.deadline = U256::ONE,
            exact_reason::EIP2612_DEADLINE_EXPIRED,
        ),
        (
            |approval, _| approval.nonce += U256::ONE,
            reason::DEPOSIT_SIMULATION_FAILED,
        ),
    ];
    for (change, reason) in cases {
        let request = approved(&payer, |approval| change(approval, stranger));
        assert_invalid(&engine, &request, &reason).await;
    }
    assert_eq!(deposited(&setting).await, U256::ZERO);
}

/// An approval replaces the allowance. Submitted beside a larger one, it would take it from the
/// payer's other payments.
#[tokio::test(flavor = "multi_thread")]
async fn approval_of_a_deposit_is_not_submitted_beside_an_allowance() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let [payer, _] = payers(&setting).await;
    allow(&setting, payer.address, 5 * DEPOSIT).await;
    let settled = engine.settle(&approved(&payer, |_| ())).await.unwrap();
    assert!(settled.success, "{settled:?}");
    let left = allowance(&setting, payer.address).await;
    assert_eq!(left, U256::from(4 * DEPOSIT));
}

/// Each deposit passes its own simulation. Together they need more than the payer has allowed, so
/// all but one would revert at the operator's cost.
#[tokio::test(flavor = "multi_thread")]
async fn deposits_beyond_the_allowance_cost_no_gas() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let [by_allowance, by_approval] = payers(&setting).await;
    allow(&setting, by_allowance.address, 2 * DEPOSIT - 1).await;
    let requests = [
        plain(&by_allowance),
        plain(&by_allowance),
        approved(&by_approval, |_| ()),
        approved(&by_approval, |_| ()),
    ];
    let signer = Setting::signers()[0].address;
    let before = setting.sent(signer).await;
    let settled = join_all(requests.iter().map(|request| engine.settle(request))).await;
    let mut successes = 0;
    for answer in settled {
        match answer {
            Ok(answer) => successes += u64::from(answer.success),
            Err(FacilitatorError::Fault(fault)) => assert_eq!(fault.kind, FaultKind::Busy),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(successes, 2);
    assert_eq!(deposited(&setting).await, U256::from(2 * DEPOSIT));
    let sent = setting.sent(signer).await - before;
    assert!(sent <= 2, "{sent} transactions");
}

/// A deposit is larger than the price of its request. A payer with money for one deposit submitted
/// two, and only the prices were compared with its balance.
#[tokio::test(flavor = "multi_thread")]
async fn deposits_beyond_the_balance_cost_no_gas() {
    let setting = Setting::start().await;
    let engine = engine(&setting).await;
    let payer = setting.payer_with(2 * DEPOSIT - 1).await;
    let requests = [(); 2].map(|()| Channel::of(&payer).deposit(DEPOSIT.into()));
    let signer = Setting::signers()[0].address;
    let before = setting.sent(signer).await;
    let settled = join_all(requests.iter().map(|request| engine.settle(request))).await;
    let succeeded = |answer: &Result<SettleResponse, FacilitatorError>| {
        matches!(answer, Ok(SettleResponse { success: true, .. }))
    };
    assert_eq!(settled.iter().filter(|answer| succeeded(answer)).count(), 1);
    assert_eq!(setting.sent(signer).await - before, 1);
}
