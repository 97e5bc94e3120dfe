//! Signatures of known payers, harmed in any way, get from a verifier the verdict that recovery gives.
//!
//! `cargo fuzz run differential`, in `crates/verify`.
#![no_main]

use std::sync::LazyLock;

use k256::ecdsa::SigningKey;
use libfuzzer_sys::fuzz_target;
use quittance_core::SignatureClaim;
use quittance_verify::{Config, Verifier, holds};
use sha3::{Digest, Keccak256};

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let verifier = Verifier::new(Config::default()).expect("threads");
    for payer in 0..4 {
        let claims: Vec<_> = (0..64).map(|index| signed(payer, [index; 32])).collect();
        assert!(verifier.verify(&claims).into_iter().all(|holds| holds));
    }
    verifier
});

fn signed(payer: u8, digest: [u8; 32]) -> SignatureClaim {
    let key = SigningKey::from_slice(&[payer + 1; 32]).expect("a secret in range");
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

/// 97 bytes that are laid over a digest and a signature, and which payer's.
fn claim(bytes: &[u8]) -> SignatureClaim {
    let (payer, over) = bytes.split_first().unwrap_or((&0, &[]));
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
