//! Signatures as data: what must be valid, not how to check it.

use std::sync::Arc;

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
}
