//! Signatures as data: what must be valid, not how to check it. Other rules can be added.

use std::sync::Arc;

use async_trait::async_trait;

use crate::Fault;

/// The claim that a key signed a message, for a batch verifier.
///
/// Creating a claim checks nothing. The verdict on a claim never depends on other claims.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SignatureClaim {
    /// An ECDSA signature over secp256k1 by the key of an address, as on Ethereum.
    Secp256k1 {
        /// The 32-byte message digest that was signed.
        digest: [u8; 32],
        /// `r`, `s` (32 bytes each, big endian) and `v`.
        signature: [u8; 65],
        /// The last 20 bytes of the Keccak-256 hash of the signer's public key.
        address: [u8; 20],
    },
    /// An Ed25519 signature, as on Solana.
    Ed25519 {
        /// The signed message.
        message: Arc<[u8]>,
        /// The signature.
        signature: [u8; 64],
        /// The signer's public key.
        key: [u8; 32],
    },
    /// A signature of another curve, or by other rules, such as P-256 or a list of signers with a
    /// threshold. The engine checks it with the [`SignatureRule`] of this name that it was built
    /// with. Without one, the payment gets a fault and no verdict.
    Other {
        /// The name of the rule.
        rule: Arc<str>,
        /// The message, the signature and the key, in the rule's own encoding.
        claim: Arc<[u8]>,
    },
}

impl SignatureClaim {
    /// The name of the rule, if the claim needs one.
    pub fn rule(&self) -> Option<&str> {
        match self {
            Self::Other { rule, .. } => Some(rule),
            Self::Secp256k1 { .. } | Self::Ed25519 { .. } => None,
        }
    }
}

/// Checks the claims of one rule that the engine does not know ([`SignatureClaim::Other`]).
///
/// The engine calls it on threads that may block, and from several of them at once.
pub trait SignatureRule: Send + Sync + 'static {
    /// The rule's name, such as `p256`. The claims of schemes name it.
    fn name(&self) -> &str;

    /// Whether each claim is valid, in the order of the claims. A verdict depends only on its
    /// claim. Bytes that are not a claim of this rule are not valid.
    ///
    /// If it panics, or returns another number of verdicts, the payments of these claims get a
    /// fault.
    fn verify(&self, claims: &[&[u8]]) -> Vec<bool>;
}

/// Verifies the signatures of payments, for callers that must not block.
#[async_trait]
pub trait SignatureVerifier: Send + Sync + 'static {
    /// Whether each claim is valid, in the order of the claims. A verdict depends only on its
    /// claim.
    ///
    /// # Errors
    /// When there are no verdicts, because too much is waiting or the verifier failed.
    async fn verify(&self, claims: &[SignatureClaim]) -> Result<Vec<bool>, Fault>;
}
