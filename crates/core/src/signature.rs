//! Signatures as data: what must hold, without saying how it is checked.

use std::sync::Arc;

/// A statement "this key signed this", to be checked together with many others by a batch verifier.
///
/// Making a claim costs nothing and proves nothing. The verdict on one claim never depends on another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SignatureClaim {
    /// An ECDSA signature over secp256k1 whose public key hashes to an address, as Ethereum has it.
    Secp256k1 {
        /// The 32-byte message digest that was signed.
        digest: [u8; 32],
        /// `r`, `s` (32 bytes each, big endian) and `v`.
        signature: [u8; 65],
        /// The last 20 bytes of the Keccak-256 hash of the signer's public key.
        address: [u8; 20],
    },
    /// An Ed25519 signature, as Solana has it.
    Ed25519 {
        /// The signed message.
        message: Arc<[u8]>,
        /// The signature.
        signature: [u8; 64],
        /// The signer's public key.
        key: [u8; 32],
    },
}
