//! Signatures per second: single and batched, of known and new payers, good and bad, compared with
//! libsecp256k1 and k256.
//!
//! Run `cargo bench -p quittance-verify --bench verify`, or a part of it: `... -- known`. Each
//! group measures its baseline in the same run. Compare medians.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that cannot go on stops"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use ed25519_dalek::Signer;
use k256::Scalar;
use k256::ecdsa::{RecoveryId, Signature, SigningKey, VerifyingKey};
use k256::elliptic_curve::bigint::U256;
use k256::elliptic_curve::ops::Reduce;
use k256::elliptic_curve::scalar::IsHigh;
use quittance_core::SignatureClaim;
use quittance_verify::{Arithmetic, Verifier, VerifierConfig};
use sha3::{Digest, Keccak256};

fn hash(words: &[u64]) -> [u8; 32] {
    words
        .iter()
        .fold(Keccak256::new(), |hash, word| {
            hash.chain_update(word.to_be_bytes())
        })
        .finalize()
        .into()
}

fn address(key: &VerifyingKey) -> [u8; 20] {
    *Keccak256::digest(&key.to_encoded_point(false).as_bytes()[1..])
        .last_chunk()
        .unwrap()
}

/// `count` good claims, by payers in turn. Claims of different `series` differ.
fn secp256k1(series: u64, count: usize, payers: usize) -> Vec<SignatureClaim> {
    let keys: Vec<_> = (0..payers as u64)
        .map(|payer| SigningKey::from_slice(&hash(&[payer])).unwrap())
        .collect();
    let keys = keys.iter().cycle().take(count).enumerate();
    keys.map(|(index, key)| signed(key, hash(&[series, index as u64])))
        .collect()
}

fn signed(key: &SigningKey, digest: [u8; 32]) -> SignatureClaim {
    let (numbers, parity) = key.sign_prehash_recoverable(&digest).unwrap();
    let mut signature = [27 + parity.to_byte(); 65];
    signature[..64].copy_from_slice(&numbers.to_bytes());
    SignatureClaim::Secp256k1 {
        digest,
        signature,
        address: address(key.verifying_key()),
    }
}

fn secret_one() -> SigningKey {
    SigningKey::from_bytes(&Scalar::ONE.to_bytes()).unwrap()
}

/// A bad signature of the payer whose secret is 1. Its sum has the same table point twice: u₁ is
/// just above 2⁵⁶, u₂ is 2⁵⁶, and both tables are the generator's.
fn colliding(index: u64) -> SignatureClaim {
    let power = Scalar::from(1u64 << 56);
    let digest = hash(&[index]);
    let z = <Scalar as Reduce<U256>>::reduce_bytes(&digest.into());
    let s = (0..)
        .map(|above: u64| z * (power + Scalar::from(above)).invert().unwrap())
        .find(|s| !bool::from(s.is_high()))
        .unwrap();
    let numbers = Signature::from_scalars((power * s).to_bytes(), s.to_bytes()).unwrap();
    let mut signature = [27; 65];
    signature[..64].copy_from_slice(&numbers.to_bytes());
    SignatureClaim::Secp256k1 {
        digest,
        signature,
        address: address(secret_one().verifying_key()),
    }
}

fn ed25519(count: usize, payers: usize) -> Vec<SignatureClaim> {
    let keys: Vec<_> = (0..payers as u64)
        .map(|payer| ed25519_dalek::SigningKey::from_bytes(&hash(&[payer])))
        .collect();
    let claim = |(index, key): (usize, &ed25519_dalek::SigningKey)| {
        // As long as the message of a payment in a version 0 transaction.
        let message: Arc<[u8]> = hash(&[index as u64])
            .into_iter()
            .cycle()
            .take(367)
            .collect();
        let signature = key.sign(&message).to_bytes();
        SignatureClaim::Ed25519 {
            message,
            signature,
            key: key.verifying_key().to_bytes(),
        }
    };
    keys.iter()
        .cycle()
        .take(count)
        .enumerate()
        .map(claim)
        .collect()
}

/// Changes the digest of every `every`th claim, so that the signature is well-formed and still
/// wrong.
fn spoil(mut claims: Vec<SignatureClaim>, every: usize) -> Vec<SignatureClaim> {
    for claim in claims.iter_mut().step_by(every) {
        if let SignatureClaim::Secp256k1 { digest, .. } = claim {
            digest[0] ^= 1;
        }
    }
    claims
}

fn verifier(workers: usize, known: &[SignatureClaim]) -> Verifier {
    let mut config = VerifierConfig::default();
    config.workers = workers;
    knowing(config, known)
}

fn verifier_with(arithmetic: Arithmetic, known: &[SignatureClaim]) -> Verifier {
    let mut config = VerifierConfig::default();
    (config.workers, config.arithmetic) = (1, arithmetic);
    knowing(config, known)
}

fn knowing(mut config: VerifierConfig, known: &[SignatureClaim]) -> Verifier {
    config.table_bytes = 512 << 20;
    let verifier = Verifier::new(config).unwrap();
    // More recoveries than a table needs.
    for _ in 0..48 {
        assert!(verifier.verify(known).iter().all(|holds| *holds));
    }
    verifier
}

/// The default check of alloy: k256's recovery, then the address.
fn by_k256(claim: &SignatureClaim) -> bool {
    let SignatureClaim::Secp256k1 {
        digest,
        signature,
        address: expected,
    } = claim
    else {
        return false;
    };
    let numbers = Signature::from_slice(&signature[..64]).unwrap();
    let parity = RecoveryId::from_byte(signature[64] - 27).unwrap();
    VerifyingKey::recover_from_prehash(digest, &numbers, parity)
        .is_ok_and(|key| address(&key) == *expected)
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> Group<'a> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group
}

fn measure(
    group: &mut Group<'_>,
    id: BenchmarkId,
    claims: &[SignatureClaim],
    verify: impl Fn(&[SignatureClaim]) -> usize,
) {
    group.throughput(Throughput::Elements(claims.len() as u64));
    group.bench_with_input(id, claims, |bencher, claims| {
        bencher.iter(|| verify(black_box(claims)))
    });
}

fn good(verdicts: impl IntoIterator<Item = bool>) -> usize {
    verdicts.into_iter().filter(|holds| *holds).count()
}

/// One signature at a time, with other libraries and with this crate.
fn one(criterion: &mut Criterion) {
    let mut group = group(criterion, "one");
    let claims = secp256k1(0, 64, 1);
    let known = verifier(1, &claims);
    measure(
        &mut group,
        BenchmarkId::from_parameter("libsecp256k1"),
        &claims,
        |claims| good(claims.iter().map(quittance_verify::holds)),
    );
    measure(
        &mut group,
        BenchmarkId::from_parameter("k256"),
        &claims,
        |claims| good(claims.iter().map(by_k256)),
    );
    measure(
        &mut group,
        BenchmarkId::from_parameter("known"),
        &claims,
        |claims| {
            claims
                .iter()
                .map(|claim| good(known.verify(&[claim])))
                .sum()
        },
    );
}

/// Batches of known payers on one core.
fn known(criterion: &mut Criterion) {
    let mut group = group(criterion, "known");
    let baseline = secp256k1(0, 256, 100);
    measure(
        &mut group,
        BenchmarkId::from_parameter("libsecp256k1"),
        &baseline,
        |claims| good(claims.iter().map(quittance_verify::holds)),
    );
    for arithmetic in Arithmetic::available() {
        for payers in [1, 100, 1024] {
            let verifier = verifier_with(arithmetic, &secp256k1(0, payers, payers));
            for size in [64, 256, 1024, 4096]
                .into_iter()
                .filter(|size| *size >= payers.min(100))
            {
                let claims = secp256k1(1, size, payers);
                let id = BenchmarkId::new(format!("{arithmetic}, {payers} payers"), size);
                measure(&mut group, id, &claims, |claims| {
                    good(verifier.verify(claims))
                });
            }
        }
    }
}

/// Batches so small that some of the eight lanes stay empty.
fn few(criterion: &mut Criterion) {
    let mut group = group(criterion, "few");
    for arithmetic in Arithmetic::available() {
        let claims = secp256k1(0, 8, 8);
        let verifier = verifier_with(arithmetic, &claims);
        for size in [1, 2, 3, 4, 8] {
            let id = BenchmarkId::new(arithmetic.to_string(), size);
            measure(&mut group, id, &claims[..size], |claims| {
                good(verifier.verify(claims))
            });
        }
    }
}

/// A thousand claims of known payers on one core, some of them bad.
fn hostile(criterion: &mut Criterion) {
    let mut group = group(criterion, "hostile");
    let claims = secp256k1(1, 1024, 100);
    let mut known = secp256k1(0, 100, 100);
    known.push(signed(&secret_one(), hash(&[])));
    let verifier = verifier(1, &known);
    for every in [64, 2] {
        let claims = (claims.iter().enumerate()).map(|(index, claim)| match index % every {
            0 => colliding(index as u64),
            _ => claim.clone(),
        });
        let id = BenchmarkId::new("known", format!("1 made to collide in {every}"));
        measure(&mut group, id, &claims.collect::<Vec<_>>(), |claims| {
            good(verifier.verify(claims))
        });
    }
    for every in [1024, 100, 20, 2, 1] {
        let claims = spoil(claims.clone(), every);
        let id = BenchmarkId::new("known", format!("1 bad in {every}"));
        measure(&mut group, id, &claims, |claims| {
            good(verifier.verify(claims))
        });
    }
    for every in [100, 1] {
        let claims = spoil(claims.clone(), every);
        let id = BenchmarkId::new("libsecp256k1", format!("1 bad in {every}"));
        measure(&mut group, id, &claims, |claims| {
            good(claims.iter().map(quittance_verify::holds))
        });
    }
    // A payer whose signatures are all bad never becomes known.
    let stranger = self::verifier(1, &[]);
    let claims = spoil(claims, 1);
    measure(
        &mut group,
        BenchmarkId::new("unknown", "all bad"),
        &claims,
        |claims| good(stranger.verify(claims)),
    );
}

/// New payers, and the worst case: payers that sign until they have a table and never again.
fn unknown(criterion: &mut Criterion) {
    let mut group = group(criterion, "unknown");
    let claims = secp256k1(0, 1024, 1024);
    let mut config = VerifierConfig::default();
    (config.workers, config.table_bytes) = (1, 0);
    let forgetful = Verifier::new(config).unwrap();
    measure(
        &mut group,
        BenchmarkId::from_parameter("all come and go"),
        &claims,
        |claims| good(forgetful.verify(claims)),
    );
    measure(
        &mut group,
        BenchmarkId::from_parameter("libsecp256k1"),
        &claims,
        |claims| good(claims.iter().map(quittance_verify::holds)),
    );
}

/// One core and all.
fn cores(criterion: &mut Criterion) {
    let mut group = group(criterion, "cores");
    let claims = secp256k1(1, 1024, 100);
    let all = std::thread::available_parallelism().unwrap().get();
    for workers in [1, all] {
        let verifier = verifier(workers, &secp256k1(0, 100, 100));
        measure(
            &mut group,
            BenchmarkId::new("known", workers),
            &claims,
            |claims| good(verifier.verify(claims)),
        );
    }
}

/// Ed25519, strict: single signatures, and a batch on all cores.
fn solana(criterion: &mut Criterion) {
    let mut group = group(criterion, "ed25519");
    let claims = ed25519(256, 100);
    measure(
        &mut group,
        BenchmarkId::from_parameter("verify_strict"),
        &claims,
        |claims| good(claims.iter().map(quittance_verify::holds)),
    );
    for workers in [1, std::thread::available_parallelism().unwrap().get()] {
        let verifier = verifier(workers, &claims);
        measure(
            &mut group,
            BenchmarkId::new("verifier", workers),
            &claims,
            |claims| good(verifier.verify(claims)),
        );
    }
}

criterion_group!(benches, one, few, known, hostile, unknown, cores, solana);
criterion_main!(benches);
