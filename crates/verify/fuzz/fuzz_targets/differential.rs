//! A verifier gives changed signatures of known payers the same verdict as recovery.
//!
//! Run `cargo fuzz run differential` in `crates/verify`.
#![no_main]

use std::sync::LazyLock;

use k256::Scalar;
use k256::ecdsa::SigningKey;
use k256::elliptic_curve::Field;
use k256::elliptic_curve::bigint::U256;
use k256::elliptic_curve::ops::Reduce;
use k256::elliptic_curve::scalar::IsHigh;
use libfuzzer_sys::fuzz_target;
use quittance_core::SignatureClaim;
use quittance_verify::{VerifierConfig, Verifier, holds};
use sha3::{Digest, Keccak256};

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let verifier = Verifier::new(VerifierConfig::default()).expect("threads");
    for payer in 0..4 {
        let claims: Vec<_> = (0..64).map(|index| signed(payer, [index; 32])).collect();
        assert!(verifier.verify(&claims).into_iter().all(|holds| holds));
    }
    verifier
});

/// Secrets, two of which make table points equal or opposite: 1 and n − 1, whose tables are the
/// generator's own.
fn key(payer: u8) -> SigningKey {
    let mut secret = match payer {
        1 => (-Scalar::ONE).to_bytes(),
        _ => Scalar::ONE.to_bytes(),
    };
    if payer > 1 {
        secret.fill(payer);
    }
    SigningKey::from_bytes(&secret).expect("a secret in range")
}

fn signed(payer: u8, digest: [u8; 32]) -> SignatureClaim {
    let key = key(payer);
    let (numbers, parity) = key
        .sign_prehash_recoverable(&digest)
        .expect("a digest can be signed");
    let mut signature = [parity.to_byte(); 65];
    signature[..64].copy_from_slice(&numbers.to_bytes());
    let point = key.verifying_key().to_encoded_point(false);
    let address = *Keccak256::digest(&point.as_bytes()[1..])
        .last_chunk()
        .expect("32 bytes");
    SignatureClaim::Secp256k1 {
        digest,
        signature,
        address,
    }
}

/// A bad signature with chosen u₁ and u₂, both powers of two, so that the sum adds equal table
/// points: s = z/u₁, r = u₂·s.
fn colliding(payer: u8, [u1, u2]: [u8; 2]) -> SignatureClaim {
    let power = |bit: u8| (0..bit).fold(Scalar::ONE, |power, _| power.double());
    let SignatureClaim::Secp256k1 {
        digest, address, ..
    } = signed(payer, [payer; 32])
    else {
        unreachable!("it was made so")
    };
    let z = <Scalar as Reduce<U256>>::reduce_bytes(&digest.into());
    let s = z * power(u1).invert().expect("a power is not zero");
    let s = if bool::from(s.is_high()) { -s } else { s };
    let r = power(u2) * s;
    let mut signature = [u1 & 1; 65];
    signature[..32].copy_from_slice(&r.to_bytes());
    signature[32..64].copy_from_slice(&s.to_bytes());
    SignatureClaim::Secp256k1 {
        digest,
        signature,
        address,
    }
}

/// 97 bytes that change a digest and a signature, and the payer's index.
fn claim(bytes: &[u8]) -> SignatureClaim {
    let (payer, over) = bytes.split_first().unwrap_or((&0, &[]));
    if let ([u1, u2, ..], true) = (over, *payer >= 128) {
        return colliding(payer % 4, [*u1, *u2]);
    }
    let SignatureClaim::Secp256k1 {
        mut digest,
        mut signature,
        address,
    } = signed(payer % 4, [*payer; 32])
    else {
        unreachable!("it was made so")
    };
    let target = digest.iter_mut().chain(&mut signature);
    target.zip(over).for_each(|(target, byte)| *target ^= byte);
    SignatureClaim::Secp256k1 {
        digest,
        signature,
        address,
    }
}

fuzz_target!(|data: &[u8]| {
    let claims: Vec<SignatureClaim> = data.chunks(98).take(64).map(claim).collect();
    let expected: Vec<bool> = claims.iter().map(holds).collect();
    assert_eq!(VERIFIER.verify(&claims), expected);
});
