//! Signatures in, verdicts out: of one, or of many at once.
//!
//! The rules are those of the chains, so that nothing is accepted here that a chain would refuse:
//!
//! * secp256k1, as Ethereum's tokens check it: `v` is 0, 1, 27 or 28; `r` and `s` are neither zero nor as large as the
//!   group's order; `s` is in the lower half (EIP-2); the recovered key hashes to the expected address, which is not
//!   zero.
//! * Ed25519, as Solana's runtime checks it: strict, with small-order points and non-canonical encodings refused.
//!
//! [`holds`] checks one claim and remembers nothing. A [`Verifier`] checks many, on threads of its own, and gets faster with
//! payers that it sees often:
//!
//! * Of a payer that is new, the key is recovered from the signature by libsecp256k1. After some good signatures a table of multiples of
//!   that key is kept.
//! * With a table, a signature's equation is a sum of a few dozen table points, and the additions of many signatures
//!   share their divisions. Each signature is still checked by its own equation: there is no randomness, no batch that can
//!   fail, and so nothing that could be told wrongly of its neighbours, nor an order in which bad ones would have to be sought.
//!
//! Nothing here touches a secret, so nothing takes constant time.
//!
//! ```
//! use quittance_core::SignatureClaim;
//! use quittance_verify::{Config, Verifier};
//!
//! let claim = SignatureClaim::Secp256k1 { digest: [1; 32], signature: [0; 65], address: [2; 20] };
//! assert!(!quittance_verify::holds(&claim));
//!
//! let verifier = Verifier::new(Config::default())?;
//! assert_eq!(verifier.verify(&[claim.clone(), claim]), [false, false]);
//! # Ok::<(), quittance_verify::StartError>(())
//! ```

use quittance_core::SignatureClaim;

mod ed25519;
mod field;
mod inverse;
mod keys;
mod known;
mod lanes;
mod point;
mod scalar;
mod secp256k1;
mod signature;
mod sums;
mod tables;
mod verifier;

pub use verifier::{Arithmetic, Config, StartError, Verifier, WORKERS_MAX};

/// Whether a claim holds. Depends on the claim and nothing else.
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
    }
}
