//! Ed25519, by the strict rules of Solana's runtime.
//!
//! Solana's runtime accepts exactly the signatures that
//! `ed25519_dalek::VerifyingKey::verify_strict` accepts. So this module calls that function for
//! each signature.
//!
//! It does *not* check a batch by one randomised equation, as is usual. That equation must be
//! multiplied by the cofactor, 8; otherwise two signatures with points of small order in their R
//! could cancel each other. But the cofactored equation accepts signatures that the strict,
//! uncofactored one refuses. To exclude those, each R must be proved to have no component of small
//! order, which costs as much as checking the signature. So a batch gains only from several cores
//! and from keys that are decompressed once.

use std::hash::RandomState;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use ed25519_dalek::{Signature, VerifyingKey};
use lru::LruCache;

/// How many keys are stored in decompressed form. Each takes about 300 bytes, so all take about 1.2
/// MiB.
const KEYS: NonZeroUsize = NonZeroUsize::new(1 << 12).unwrap();

/// Whether `key` signed `message`.
pub(crate) fn holds(message: &[u8], signature: &[u8; 64], key: &[u8; 32]) -> bool {
    VerifyingKey::from_bytes(key).is_ok_and(|key| is_signed_by(message, signature, &key))
}

fn is_signed_by(message: &[u8], signature: &[u8; 64], key: &VerifyingKey) -> bool {
    key.verify_strict(message, &Signature::from_bytes(signature))
        .is_ok()
}

/// Decompressed keys that have signed correctly before.
pub(crate) struct Keys(Mutex<LruCache<[u8; 32], VerifyingKey, RandomState>>);

impl Keys {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(LruCache::with_hasher(KEYS, RandomState::new())))
    }

    /// As [`holds`], but does not decompress a key that has signed before.
    pub(crate) fn holds(&self, message: &[u8], signature: &[u8; 64], key: &[u8; 32]) -> bool {
        let known = self.lock().get(key).copied();
        let Some(decompressed) = known.or_else(|| VerifyingKey::from_bytes(key).ok()) else {
            return false;
        };
        let holds = is_signed_by(message, signature, &decompressed);
        // Anyone can send bad signatures at no cost, so their keys must not replace others.
        if holds && known.is_none() {
            self.lock().put(*key, decompressed);
        }
        holds
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<[u8; 32], VerifyingKey, RandomState>> {
        // A panic while the lock was held leaves a valid cache.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
