//! ECDSA over secp256k1 with recovery, by libsecp256k1: for payers without a table.

use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, PublicKey};
use sha3::{Digest, Keccak256};

use crate::point::Point;
use crate::signature::Signature;

/// The address whose key signed. `None` if there is no such key, or if no token would accept the
/// signature.
pub(crate) fn recover(digest: &[u8; 32], signature: &[u8; 65]) -> Option<[u8; 20]> {
    let parsed = Signature::from_bytes(signature)?;
    Some(address(&recover_key(digest, signature, &parsed)?))
}

/// The key that signed, if its address is the expected one.
pub(crate) fn signer(
    digest: &[u8; 32],
    signature: &[u8; 65],
    parsed: &Signature,
    expected: &[u8; 20],
) -> Option<Point> {
    let key = recover_key(digest, signature, parsed)?;
    if address(&key) != *expected {
        return None;
    }
    let bytes = key.serialize_uncompressed();
    Point::from_be_bytes(bytes[1..33].try_into().ok()?, bytes[33..].try_into().ok()?)
}

fn recover_key(digest: &[u8; 32], signature: &[u8; 65], parsed: &Signature) -> Option<PublicKey> {
    let parity = if parsed.odd {
        RecoveryId::One
    } else {
        RecoveryId::Zero
    };
    let signature =
        RecoverableSignature::from_compact(signature.first_chunk::<64>()?, parity).ok()?;
    signature.recover_ecdsa(Message::from_digest(*digest)).ok()
}

fn address(key: &PublicKey) -> [u8; 20] {
    let hash: [u8; 32] = Keccak256::digest(&key.serialize_uncompressed()[1..]).into();
    let [_, _, _, _, _, _, _, _, _, _, _, _, address @ ..] = hash;
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use k256::ecdsa::{RecoveryId as OtherRecoveryId, Signature, SigningKey, VerifyingKey};
    use proptest::prelude::*;

    const HALF_ORDER: [u8; 32] = [
        0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0x5d, 0x57, 0x6e, 0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b,
        0x20, 0xa0,
    ];

    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xfe, 0xba, 0xae, 0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36,
        0x41, 0x41,
    ];

    fn address(key: &VerifyingKey) -> [u8; 20] {
        let point = key.to_encoded_point(false);
        let hash: [u8; 32] = Keccak256::digest(&point.as_bytes()[1..]).into();
        *hash.last_chunk().unwrap()
    }

    /// The same rules in another implementation.
    fn recover_otherwise(digest: &[u8; 32], signature: &[u8; 65]) -> Option<[u8; 20]> {
        let parity = OtherRecoveryId::from_byte(match signature[64] {
            v @ (0 | 1) => v,
            v @ (27 | 28) => v - 27,
            _ => return None,
        })?;
        let signature = Signature::from_slice(&signature[..64]).ok()?;
        if signature.normalize_s().is_some() {
            return None;
        }
        VerifyingKey::recover_from_prehash(digest, &signature, parity)
            .ok()
            .map(|key| address(&key))
    }

    fn sign(secret: [u8; 32], digest: &[u8; 32]) -> Option<([u8; 65], [u8; 20])> {
        let key = SigningKey::from_slice(&secret).ok()?;
        let (signature, parity) = key.sign_prehash_recoverable(digest).unwrap();
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&signature.to_bytes());
        bytes[64] = parity.to_byte();
        Some((bytes, address(key.verifying_key())))
    }

    /// The signature with the other `s`.
    fn twin(signature: [u8; 65]) -> [u8; 65] {
        let (mut twin, mut borrow) = (signature, 0i16);
        for at in (0..32).rev() {
            let difference = i16::from(ORDER[at]) - i16::from(signature[32 + at]) - borrow;
            borrow = i16::from(difference < 0);
            twin[32 + at] = difference.rem_euclid(256) as u8;
        }
        twin[64] ^= 1;
        twin
    }

    proptest! {
        #[test]
        fn a_signature_recovers_its_signer_in_either_spelling_of_v(secret: [u8; 32], digest: [u8; 32]) {
            prop_assume!(secret != [0; 32]);
            let Some((mut signature, signer)) = sign(secret, &digest) else { return Ok(()) };
            prop_assert_eq!(recover(&digest, &signature), Some(signer));
            signature[64] += 27;
            prop_assert_eq!(recover(&digest, &signature), Some(signer));
            prop_assert_eq!(recover(&digest, &twin(signature)), None);
        }

        #[test]
        fn any_bytes_get_the_verdict_of_another_implementation(
            secret: [u8; 32], digest: [u8; 32], at in 0usize..65, byte: u8, edge in 0usize..6, half: bool,
        ) {
            let Some((mut signature, _)) = sign(secret, &digest) else { return Ok(()) };
            signature[at] = byte;
            prop_assert_eq!(recover(&digest, &signature), recover_otherwise(&digest, &signature));
            let mut above = ORDER;
            above[31] += 1;
            let mut above_half = HALF_ORDER;
            above_half[31] += 1;
            let word = [[0; 32], ORDER, above, HALF_ORDER, above_half, [0xff; 32]][edge];
            signature[32 * usize::from(half)..][..32].copy_from_slice(&word);
            prop_assert_eq!(recover(&digest, &signature), recover_otherwise(&digest, &signature));
        }

        #[test]
        fn every_other_v_is_refused(secret: [u8; 32], digest: [u8; 32], v: u8) {
            let Some((mut signature, _)) = sign(secret, &digest) else { return Ok(()) };
            prop_assume!(![0, 1, 27, 28].contains(&v));
            signature[64] = v;
            prop_assert_eq!(recover(&digest, &signature), None);
        }
    }
}
