//! Solana payments per second without a chain: the scheme alone, and the whole verification from
//! the bytes of a request to its verdict.
//!
//! `cargo bench -p quittance-benches --bench solana`, or a part of it: `... -- offline`. All
//! payments are different transactions, by a hundred payers.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that cannot go on stops"
)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::FutureExt;
use quittance_core::json::Object;
use quittance_core::wire::{PaymentPayload, PaymentRequirements, Rest, SupportedKind};
use quittance_core::{Check, Observed, Offer, Payer, PaymentRequest, Scheme, Timestamp};
use quittance_engine::{Offline, OfflineVerifier};
use quittance_solana::{
    Account, Answer, Evidence, Exact, ExactOffer, ExactPayer, Keypair, Pubkey, Signer, Solana,
    SolanaConfig, TokenProgram, known,
};
use serde_json::json;
use solana_signer::Signer as _;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const NETWORK: &str = "solana-devnet";
const PAYMENTS: usize = 1024;
const PAYERS: usize = 100;

/// A key that is the same in every run.
fn key(seed: usize) -> Keypair {
    let mut bytes = [1; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    Keypair::new_from_array(bytes)
}

fn seller() -> Pubkey {
    key(1_000_001).pubkey()
}

/// A cluster whose node is never asked.
fn solana() -> Solana {
    let network = known::network(NETWORK).unwrap();
    let url = "http://127.0.0.1:1".parse().unwrap();
    let fee_payer = Arc::new(key(1_000_000)) as Signer;
    Solana::new(SolanaConfig::new(network, vec![url], vec![fee_payer])).unwrap()
}

/// A seller's requirements with a blockhash, so that no buyer needs a node.
fn requirements(exact: &Exact) -> PaymentRequirements {
    let offer = ExactOffer::usdc(NETWORK, "0.01", &seller().to_string()).unwrap();
    let kind = SupportedKind {
        x402_version: 2,
        scheme: "exact".to_owned(),
        network: offer.network().id().to_owned(),
        extra: exact.extra(),
        rest: Rest::default(),
    };
    let mut requirements = offer.requirements(&kind).unwrap();
    let mut extra = serde_json::to_value(requirements.extra.unwrap()).unwrap();
    extra["recentBlockhash"] = json!(key(7).pubkey().to_string());
    requirements.extra = Some(Object::of(&extra).unwrap());
    requirements
}

/// Different payments, by [`PAYERS`] payers in turn.
fn requests(requirements: &PaymentRequirements) -> Vec<PaymentRequest> {
    let payers: Vec<ExactPayer> = (0..PAYERS).map(|at| ExactPayer::new(key(at))).collect();
    let request = |payer: &ExactPayer| {
        let signed = payer.pay(requirements, None, NOW).now_or_never().unwrap();
        let payload = PaymentPayload {
            x402_version: 2,
            resource: None,
            accepted: requirements.clone(),
            payload: signed.unwrap().payload,
            extensions: None,
            rest: Rest::default(),
        };
        PaymentRequest::new(payload, requirements.clone()).unwrap()
    };
    payers.iter().cycle().take(PAYMENTS).map(request).collect()
}

/// A token account of SPL Token.
fn token_account(owner: &Pubkey) -> Account {
    let mut data = vec![0; 165];
    data[32..64].copy_from_slice(owner.as_ref());
    // Its state: initialized.
    data[108] = 1;
    Account {
        owner: TokenProgram::SplToken.id(),
        data,
    }
}

/// The cluster's answer for a correct payment.
fn answer(payer: &Pubkey) -> Answer {
    let mut mint = vec![0; 82];
    (mint[44], mint[45]) = (6, 1);
    let mint = Account {
        owner: TokenProgram::SplToken.id(),
        data: mint,
    };
    Answer {
        accounts: vec![
            Some(mint),
            Some(token_account(&seller())),
            Some(token_account(payer)),
        ],
        simulated: Some(Evidence::default()),
    }
}

/// The whole scheme: decoding, both checks and the action.
fn judge(exact: &Exact, request: &PaymentRequest, answer: &Answer) {
    let payment = exact.decode(request, NOW).unwrap();
    let mut observed = Observed::new(&[true], &[], NOW);
    assert!(matches!(payment.check(&observed), Ok(Check::Ask(_))));
    observed.answers = std::slice::from_ref(answer);
    assert!(matches!(payment.check(&observed), Ok(Check::Valid)));
    black_box(payment.plan(payment.info().amount, &observed).unwrap());
}

fn scheme(c: &mut Criterion) {
    let exact = Exact::new(&solana());
    let requests = requests(&requirements(&exact));
    let answers: Vec<Answer> = (0..PAYMENTS)
        .map(|at| answer(&key(at % PAYERS).pubkey()))
        .collect();
    let all = || requests.iter().zip(&answers).cycle();
    let mut group = c.benchmark_group("scheme");
    group.throughput(Throughput::Elements(1));
    group.bench_function("decode", |b| {
        let mut all = all();
        b.iter(|| black_box(exact.decode(all.next().unwrap().0, NOW).unwrap()))
    });
    group.bench_function("decode, check and settle", |b| {
        let mut all = all();
        b.iter(|| {
            let (request, answer) = all.next().unwrap();
            judge(&exact, request, answer);
        })
    });
    group.finish();
}

fn offline(c: &mut Criterion) {
    let solana = solana();
    let network = solana.config().network.clone();
    let exact = Arc::new(Exact::new(&solana));
    let bodies: Vec<String> = requests(&requirements(&exact))
        .iter()
        .map(|request| request.text().to_owned())
        .collect();
    let mut group = c.benchmark_group("offline");
    group.throughput(Throughput::Elements(PAYMENTS as u64));
    for (name, threads) in [("one thread", 1), ("every core", 0)] {
        let verifier = OfflineVerifier::new(threads)
            .unwrap()
            .scheme(network.clone(), exact.clone());
        let verdicts = verifier.verify_bodies(&bodies, NOW);
        assert!(verdicts.iter().all(|verdict| *verdict == Offline::Holds));
        group.bench_function(name, |b| {
            b.iter(|| black_box(verifier.verify_bodies(&bodies, NOW)))
        });
    }
    group.finish();
}

criterion_group!(benches, scheme, offline);
criterion_main!(benches);
