//! The properties of every verdict, for any caller and any batch.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::{Arc, LazyLock};

use curve25519_dalek::constants::EIGHT_TORSION;
use ed25519_dalek::{Signer, VerifyingKey};
use k256::ecdsa::{RecoveryId, Signature, SigningKey, VerifyingKey as EcdsaKey};
use proptest::prelude::*;
use quittance_core::SignatureClaim;
use quittance_verify::{Verifier, VerifierConfig, holds};
use sha3::{Digest, Keccak256};

const PAYERS: u8 = 6;

/// There are few payers, so that each signs often. Half of them are known from the start.
static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let verifier = Verifier::new(VerifierConfig::default()).unwrap();
    for payer in 0..PAYERS / 2 {
        let claims: Vec<_> = (0..64).map(|index| signed(payer, [index; 32])).collect();
        assert_eq!(verifier.verify(&claims), [true; 64]);
    }
    verifier
});

fn address(key: &EcdsaKey) -> [u8; 20] {
    *Keccak256::digest(&key.to_encoded_point(false).as_bytes()[1..])
        .last_chunk()
        .unwrap()
}

fn signed(payer: u8, digest: [u8; 32]) -> SignatureClaim {
    let key = SigningKey::from_slice(&[payer + 1; 32]).unwrap();
    let (numbers, parity) = key.sign_prehash_recoverable(&digest).unwrap();
    let mut signature = [27 + parity.to_byte(); 65];
    signature[..64].copy_from_slice(&numbers.to_bytes());
    SignatureClaim::Secp256k1 {
        digest,
        signature,
        address: address(key.verifying_key()),
    }
}

/// The same rules, by k256 and by dalek.
fn holds_otherwise(claim: &SignatureClaim) -> bool {
    match claim {
        SignatureClaim::Secp256k1 {
            digest,
            signature,
            address: expected,
        } => {
            let [numbers @ .., v] = signature;
            let parity = match v {
                0 | 27 => 0,
                1 | 28 => 1,
                _ => return false,
            };
            let Ok(numbers) = Signature::from_slice(numbers) else {
                return false;
            };
            let parity = RecoveryId::from_byte(parity).unwrap();
            numbers.normalize_s().is_none()
                && EcdsaKey::recover_from_prehash(digest, &numbers, parity)
                    .is_ok_and(|key| address(&key) == *expected)
        }
        SignatureClaim::Ed25519 {
            message,
            signature,
            key,
        } => VerifyingKey::from_bytes(key).is_ok_and(|key| {
            key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature))
                .is_ok()
        }),
        SignatureClaim::Other { .. } => false,
    }
}

/// n − s, and the other v: a valid signature except for EIP-2.
fn twin(signature: &mut [u8; 65]) {
    let numbers = Signature::from_slice(&signature[..64]).unwrap();
    let (r, s) = numbers.split_scalars();
    let twin = Signature::from_scalars(r.to_bytes(), (-*s).to_bytes()).unwrap();
    signature[..64].copy_from_slice(&twin.to_bytes());
    signature[64] ^= 7;
}

const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe,
    0xba, 0xae, 0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41,
];

/// One change to a claim, or none.
fn harm(claim: SignatureClaim, kind: u8, byte: u8) -> SignatureClaim {
    let SignatureClaim::Secp256k1 {
        mut digest,
        mut signature,
        mut address,
    } = claim
    else {
        return claim;
    };
    let mut above = ORDER;
    above[31] += byte % 3;
    match kind {
        0 => digest[usize::from(byte) % 32] ^= 1 << (byte % 8),
        1 => signature[usize::from(byte) % 64] ^= 1 << (byte % 8),
        2 => signature[64] = byte,
        3 => signature[64] ^= 7,
        4 => twin(&mut signature),
        5 => signature[..32].fill(0),
        6 => signature[32..64].fill(0),
        7 => signature[..32].copy_from_slice(&above),
        8 => signature[32..64].copy_from_slice(&above),
        9 => address = [0; 20],
        10 => address = [byte; 20],
        11 => digest = ORDER,
        // Other valid numbers. Half of them are not the x of a point.
        12 => signature[..32].copy_from_slice(&Keccak256::digest([byte])),
        13 => signature[64] -= 27,
        _ => {}
    }
    SignatureClaim::Secp256k1 {
        digest,
        signature,
        address,
    }
}

fn ed25519(secret: u8, message: u8, harm: usize) -> SignatureClaim {
    let key = ed25519_dalek::SigningKey::from_bytes(&[secret; 32]);
    let message: Arc<[u8]> = vec![message; 40].into();
    let mut signature = key.sign(&message).to_bytes();
    if let Some(bit) = signature.get_mut(harm / 8) {
        *bit ^= 1 << (harm % 8);
    }
    SignatureClaim::Ed25519 {
        message,
        signature,
        key: key.verifying_key().to_bytes(),
    }
}

fn claim() -> impl Strategy<Value = SignatureClaim> {
    let ecdsa = (0..PAYERS, any::<[u8; 32]>(), 0u8..28, any::<u8>());
    prop_oneof![
        4 => ecdsa.prop_map(|(payer, digest, kind, byte)| harm(signed(payer, digest), kind, byte)),
        1 => (0u8..3, any::<u8>(), 0usize..1024).prop_map(|(secret, message, harm)| ed25519(secret, message, harm)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn verdict_equals_that_of_another_implementation(
        claims in prop::collection::vec(claim(), 1..90), again in 0usize..90,
    ) {
        let mut claims = claims;
        // A repeated claim gets the same verdict.
        claims.push(claims[again % claims.len()].clone());
        let expected: Vec<bool> = claims.iter().map(holds_otherwise).collect();
        prop_assert_eq!(&VERIFIER.verify(&claims), &expected);
        prop_assert_eq!(claims.iter().map(holds).collect::<Vec<_>>(), expected);
    }
}

/// Two wrong signatures whose errors cancel. A batch that adds the equations with equal weights
/// would accept them.
#[test]
fn bad_signatures_whose_errors_cancel_are_both_refused() {
    let [one, other] = [signed(0, [1; 32]), signed(0, [2; 32])];
    let (
        SignatureClaim::Secp256k1 {
            signature: left, ..
        },
        SignatureClaim::Secp256k1 {
            signature: right, ..
        },
    ) = (&one, &other)
    else {
        unreachable!()
    };
    let swap = |claim: &SignatureClaim, signature: &[u8; 65]| match claim {
        SignatureClaim::Secp256k1 {
            digest, address, ..
        } => SignatureClaim::Secp256k1 {
            digest: *digest,
            signature: *signature,
            address: *address,
        },
        claim => claim.clone(),
    };
    let swapped = [swap(&one, right), swap(&other, left)];
    assert_eq!(VERIFIER.verify(&swapped), [false, false]);
    assert_eq!(VERIFIER.verify(&[one, other]), [true, true]);
}

/// Keys and points R of small order, in all their encodings, and an s that is not below the group's
/// order. A cofactored batch would accept these.
#[test]
fn ed25519_verdicts_on_small_orders_are_strict() {
    let message: Arc<[u8]> = vec![1; 40].into();
    let mut encodings: Vec<[u8; 32]> = EIGHT_TORSION
        .iter()
        .map(|point| point.compress().to_bytes())
        .collect();
    // y = p and y = p + 1 are other encodings of 0 and 1, and x = 0 has two sign bits.
    for (low, sign) in [(0xed, 0), (0xee, 0), (0xed, 0x80), (0xee, 0x80)] {
        let mut encoding = [0xff; 32];
        (encoding[0], encoding[31]) = (low, 0x7f | sign);
        encodings.push(encoding);
    }
    let honest = ed25519(1, 1, usize::MAX);
    let SignatureClaim::Ed25519 {
        signature: good,
        key: honest_key,
        ..
    } = &honest
    else {
        unreachable!()
    };
    let mut claims = vec![honest.clone()];
    for first in &encodings {
        for second in &encodings {
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(first);
            claims.push(SignatureClaim::Ed25519 {
                message: message.clone(),
                signature,
                key: *second,
            });
        }
        let mut signature = *good;
        signature[..32].copy_from_slice(first);
        claims.push(SignatureClaim::Ed25519 {
            message: message.clone(),
            signature,
            key: *honest_key,
        });
        claims.push(SignatureClaim::Ed25519 {
            message: message.clone(),
            signature: *good,
            key: *first,
        });
    }
    for harm in [|s: &mut [u8]| s[31] |= 0xe0, add_order] {
        let mut signature = *good;
        harm(&mut signature[32..]);
        claims.push(SignatureClaim::Ed25519 {
            message: message.clone(),
            signature,
            key: *honest_key,
        });
    }
    let verdicts = VERIFIER.verify(&claims);
    assert_eq!(
        verdicts,
        claims.iter().map(holds_otherwise).collect::<Vec<_>>()
    );
    assert_eq!(verdicts.iter().filter(|holds| **holds).count(), 1);
}

/// Adds the order of Ed25519's group, 2²⁵² + 27742317777372353535851937790883648493, to an s. The
/// result is another encoding of the same residue, with its highest three bits clear. Only a
/// comparison with the order detects it.
fn add_order(s: &mut [u8]) {
    let order = (27_742_317_777_372_353_535_851_937_790_883_648_493_u128).to_le_bytes();
    let mut carry = 0;
    for (at, byte) in s.iter_mut().enumerate() {
        let limb = order
            .get(at)
            .copied()
            .unwrap_or(if at == 31 { 0x10 } else { 0 });
        let sum = u16::from(*byte) + u16::from(limb) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert_eq!(s[31] & 0xe0, 0);
}

#[test]
fn an_empty_batch_has_no_verdicts() {
    assert!(VERIFIER.verify::<SignatureClaim>(&[]).is_empty());
}
