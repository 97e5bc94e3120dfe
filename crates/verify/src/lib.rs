//! Verifies signatures of payments, one or many at once.
//!
//! The rules are those of the chains: a signature that a chain refuses is not accepted here.
//!
//! * secp256k1, as Ethereum's tokens check it: `v` is 0, 1, 27 or 28; `r` and `s` are neither zero
//!   nor at least the group's order; `s` is in the lower half (EIP-2); the recovered key has the
//!   expected address, which is not zero.
//! * Ed25519, as Solana's runtime checks it: strict, so small-order points and non-canonical
//!   encodings are refused.
//!
//! [`holds`] checks one claim and stores nothing. A [`Verifier`] checks many, on its own threads,
//! and is faster for payers that it sees often:
//!
//! * For a new payer, libsecp256k1 recovers the key from the signature. After some good signatures,
//!   the verifier makes a table of multiples of that key.
//! * With a table, a signature's equation is a sum of a few dozen table points, and the additions
//!   of many signatures share their divisions. Each signature still has its own equation. There is
//!   no randomness, and no batch that fails as a whole. So a bad signature cannot change the
//!   verdict on another, and no search for bad ones is needed.
//!
//! A [`VerifierQueue`] is a verifier for async code, which must not block.
//!
//! No value here is secret, so no code needs constant time.
//!
//! ```
//! use quittance_core::SignatureClaim;
//! use quittance_verify::{VerifierConfig, Verifier};
//!
//! let claim = SignatureClaim::Secp256k1 { digest: [1; 32], signature: [0; 65], address: [2; 20] };
//! assert!(!quittance_verify::holds(&claim));
//!
//! let verifier = Verifier::new(VerifierConfig::default())?;
//! assert_eq!(verifier.verify(&[claim.clone(), claim]), [false, false]);
//! # Ok::<(), quittance_verify::VerifierError>(())
//! ```

use quittance_core::SignatureClaim;

mod ed25519;
mod field;
mod inverse;
mod keys;
mod known;
mod lanes;
mod point;
mod queue;
mod scalar;
mod secp256k1;
mod signature;
mod sums;
mod tables;
mod verifier;

pub use queue::VerifierQueue;
pub use verifier::{Arithmetic, Verifier, VerifierConfig, VerifierError, WORKERS_MAX};

/// Whether a claim is valid. Depends only on the claim. Claims of other rules
/// ([`SignatureClaim::Other`]) are never valid here: the caller must check them by their rule.
pub fn holds(claim: &SignatureClaim) -> bool {
    match claim {
        SignatureClaim::Secp256k1 {
            digest,
            signature,
            address,
        } => secp256k1::recover(digest, signature)
            .is_some_and(|signer| signer == *address && signer != [0; 20]),
        SignatureClaim::Ed25519 {
            message,
            signature,
            key,
        } => ed25519::holds(message, signature, key),
        SignatureClaim::Other { .. } => false,
    }
}
