//! Claims of a rule that was added to the engine, of keys that only the chain knows.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue panics")]

use std::sync::Arc;
use std::time::Duration;

use quittance_core::{
    Amount, Facilitator, FacilitatorError, FaultKind, PaymentRequest, SignatureRule,
};
use quittance_engine::{Engine, Offline, OfflineVerifier};
use quittance_testing::until;
use quittance_testing::world::{
    Environment, PRICE, SimulatedExact, SimulatedPayer, SimulatedRule, World, reason,
};

/// The key that signs for payer 0, by the chain.
const KEY: u8 = 50;

/// A world in which the key of payer 0 is not its address.
fn setting() -> Environment {
    let setting = Environment::new();
    let payer = setting.world.payer(0).account();
    setting.world.set_key(payer, &World::payer_key(KEY));
    setting
}

fn exact(setting: &Environment) -> Arc<SimulatedExact> {
    let exact = SimulatedExact::new(&setting.world.chain());
    Arc::new(exact.asking_for_keys())
}

async fn engine(setting: &Environment, rule: Option<SimulatedRule>) -> Engine {
    let builder = setting.builder().await;
    let builder = builder.chain(setting.world.chain(), vec![exact(setting)]);
    let builder = match rule {
        Some(rule) => builder.signature_rule(rule),
        None => builder,
    };
    builder.start().await.unwrap()
}

/// A payment of payer 0 that this payer's key has signed.
async fn signed_by(setting: &Environment, signer: u8) -> PaymentRequest {
    let request = setting.request().await;
    let mut transfer = World::transfer_of(&request);
    let signer: SimulatedPayer = setting.world.payer(signer);
    transfer.signature = signer.sign(transfer.authorization.clone()).signature;
    let payload = quittance_core::json::Object::of(&transfer).unwrap();
    request
        .completed(payload, request.requirements.amount)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_that_the_chain_names_signs() {
    let setting = setting();
    let engine = engine(&setting, Some(SimulatedRule)).await;
    for signer in [0, 1] {
        let forged = signed_by(&setting, signer).await;
        let verdict = engine.verify(&forged).await.unwrap();
        let given = verdict.invalid_reason.as_deref();
        assert_eq!(given, Some(reason::SIGNATURE.code()));
        assert!(!engine.settle(&forged).await.unwrap().success);
    }
    let request = signed_by(&setting, KEY).await;
    assert!(engine.verify(&request).await.unwrap().is_valid);
    let answer = engine.settle(&request).await.unwrap();
    assert!(answer.success, "{answer:?}");
    assert_eq!(setting.received(), Amount::from(PRICE));
}

/// The claims are made again after a crash: they are in no journal.
#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_asked_for_again_after_a_crash() {
    let setting = setting();
    setting.world.includes_at_once(false);
    let request = signed_by(&setting, KEY).await;
    let first = engine(&setting, Some(SimulatedRule)).await;
    assert!(first.settle(&request).await.unwrap().is_pending());
    first.shut_down(Duration::ZERO).await;
    drop(first);
    // The first transaction is taken by no block, and its number by another one.
    setting.world.forget_waiting();
    setting
        .world
        .submit_rival(&quittance_core::Chain::lanes(&setting.world.chain())[0]);
    setting.world.includes_at_once(true);
    let second = engine(&setting, Some(SimulatedRule)).await;
    until("nothing is in progress", || async {
        second.in_progress() == 0
    })
    .await;
    let answer = second.settle(&request).await.unwrap();
    assert!(answer.success, "{answer:?}");
    assert_eq!(setting.received(), Amount::from(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_an_unknown_rule_is_a_fault() {
    let setting = setting();
    let engine = engine(&setting, None).await;
    for signer in [KEY, 0] {
        let request = signed_by(&setting, signer).await;
        for error in [
            engine.verify(&request).await.unwrap_err(),
            engine.settle(&request).await.unwrap_err(),
        ] {
            let FacilitatorError::Fault(fault) = error else {
                panic!("{error:?}");
            };
            assert_eq!(fault.kind, FaultKind::Misconfigured);
            assert!(fault.detail.contains(SimulatedRule.name()), "{fault}");
        }
    }
    assert_eq!(setting.world.included_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_added_twice_stops_the_start() {
    let setting = setting();
    let builder = setting
        .builder()
        .await
        .chain(setting.world.chain(), vec![exact(&setting)]);
    let builder = builder
        .signature_rule(SimulatedRule)
        .signature_rule(SimulatedRule);
    let fault = builder.start().await.err().unwrap();
    assert_eq!(fault.kind, FaultKind::Misconfigured);
}

/// Without a chain, the key is unknown: neither valid nor invalid.
#[tokio::test]
async fn without_a_chain_the_key_is_undecided() {
    let setting = setting();
    let verifier = OfflineVerifier::new(1).unwrap();
    let verifier = verifier.scheme(setting.world.network().clone(), exact(&setting));
    let requests = [signed_by(&setting, KEY).await, signed_by(&setting, 0).await];
    let verdicts = verifier.verify_many(&requests, setting.world.now());
    assert_eq!(verdicts, [Offline::Undecided, Offline::Undecided]);
}
