//! Ed25519, by the strict rules of Solana's runtime.
//!
//! Solana's runtime says what `ed25519_dalek::VerifyingKey::verify_strict` says, so that function is what answers here,
//! for each signature by itself. Batches are *not* checked by one randomised equation, as is usual: that equation must
//! multiply by the cofactor, 8, or a pair of signatures with points of small order in their R could cancel, and a
//! cofactored equation holds for signatures that the strict, uncofactored one refuses. To tell those apart, each R would
//! have to be proved to have no part of small order, which costs as much as checking the signature. So what a batch has
//! here is many cores, and keys that are decompressed once.

use std::hash::RandomState;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use ed25519_dalek::{Signature, VerifyingKey};
use lru::LruCache;

/// How many keys are remembered in decompressed form: about 300 bytes each, so about 1.2 MiB.
const KEYS: NonZeroUsize = NonZeroUsize::new(1 << 12).unwrap();

/// Whether `key` signed `message`.
pub(crate) fn holds(message: &[u8], signature: &[u8; 64], key: &[u8; 32]) -> bool {
    VerifyingKey::from_bytes(key).is_ok_and(|key| is_signed_by(message, signature, &key))
}

fn is_signed_by(message: &[u8], signature: &[u8; 64], key: &VerifyingKey) -> bool {
    key.verify_strict(message, &Signature::from_bytes(signature))
        .is_ok()
}

/// Keys that have signed well before.
pub(crate) struct Keys(Mutex<LruCache<[u8; 32], VerifyingKey, RandomState>>);

impl Keys {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(LruCache::with_hasher(KEYS, RandomState::new())))
    }

    /// As [`holds`], but without decompressing a key that has signed before.
    pub(crate) fn holds(&self, message: &[u8], signature: &[u8; 64], key: &[u8; 32]) -> bool {
        let known = self.lock().get(key).copied();
        let Some(decompressed) = known.or_else(|| VerifyingKey::from_bytes(key).ok()) else {
            return false;
        };
        let holds = is_signed_by(message, signature, &decompressed);
        // Bad signatures cost nothing to make up, so they must not push others out.
        if holds && known.is_none() {
            self.lock().put(*key, decompressed);
        }
        holds
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<[u8; 32], VerifyingKey, RandomState>> {
        // A cache is a cache whatever happened while it was locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
