//! The identities of sales, and the payments whose answer was lost.
//!
//! A sale's identity is computed from what a repeated request carries: the request, and its payment
//! with the signature. So a payment that is presented again continues its sale, also in another
//! process with the same secret. Another request with the same payment is another sale.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use hmac::{Hmac, Mac};
use lru::LruCache;
use quittance_core::{PaymentId, SaleId};
use sha2::Sha256;

/// How many lost answers are remembered, in about 2 MB: the sales of some minutes in which a
/// facilitator loses every answer.
const SALES_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("it is not zero");

/// Identifies a request with its payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SaleKey(pub(crate) [u8; 32]);

/// A secret of the seller. A facilitator reports a success again to each caller with the identity
/// of its sale, and everything else in the identity may be public.
#[derive(Clone)]
pub(crate) struct SaleSecret([u8; 32]);

impl SaleSecret {
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// A secret of this process.
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }

    /// The identity of a sale: half of an HMAC-SHA-256, which cannot be guessed.
    pub(crate) fn id(&self, key: &SaleKey) -> SaleId {
        let mac = Hmac::<Sha256>::new_from_slice(&self.0);
        let mut mac = mac.expect("HMAC takes a key of any length");
        mac.update(&key.0);
        let hash: [u8; 32] = mac.finalize().into_bytes().into();
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        SaleId::from_bytes(id)
    }
}

/// The latest payments that this process asked to settle without getting an answer.
///
/// The lost answer may have reported their success. So a success that was reported before is not
/// necessarily that of an earlier sale.
pub(crate) struct UnansweredPayments(Mutex<LruCache<PaymentId, ()>>);

impl Default for UnansweredPayments {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(SALES_MAX)))
    }
}

impl UnansweredPayments {
    /// Adds a payment whose answer was lost.
    pub(crate) fn insert(&self, payment: PaymentId) {
        self.change(|unanswered| unanswered.put(payment, ()));
    }

    /// Whether an answer for this payment was lost.
    pub(crate) fn contains(&self, payment: &PaymentId) -> bool {
        self.change(|unanswered| unanswered.contains(payment))
    }

    /// Removes a payment whose success is known.
    pub(crate) fn remove(&self, payment: &PaymentId) {
        self.change(|unanswered| unanswered.pop(payment));
    }

    fn change<T>(&self, change: impl FnOnce(&mut LruCache<PaymentId, ()>) -> T) -> T {
        // Each change is one call of the cache, so a panic of another task leaves it consistent.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sale_has_one_identity_under_one_secret(secrets: [[u8; 32]; 2], keys: [[u8; 32]; 2]) {
            let id = |secret: usize, key: usize| {
                SaleSecret::new(secrets[secret]).id(&SaleKey(keys[key]))
            };
            prop_assert_eq!(id(0, 0), id(0, 0));
            prop_assert_eq!(id(0, 0) == id(0, 1), keys[0] == keys[1]);
            prop_assert_eq!(id(0, 0) == id(1, 0), secrets[0] == secrets[1]);
        }
    }

    #[test]
    fn another_process_has_another_secret() {
        let key = SaleKey([7; 32]);
        assert_ne!(SaleSecret::random().id(&key), SaleSecret::random().id(&key));
    }
}
