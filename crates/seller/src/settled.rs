//! Settled payments. A client that presents one again gets its transaction instead of a second
//! response.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;

use quittance_core::PaymentId;

/// How many payments are remembered: one sale in two seconds for a day, in about 10 MB.
const PAYMENTS_MAX: NonZeroUsize = NonZeroUsize::new(50_000).expect("it is not zero");

/// The latest settled authorizations with their transactions.
pub(crate) struct SettledTransactions(Mutex<LruCache<PaymentId, Box<str>>>);

impl Default for SettledTransactions {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(PAYMENTS_MAX)))
    }
}

impl SettledTransactions {
    /// Stores the transaction that settled an authorization.
    pub(crate) fn insert(&self, authorization: PaymentId, transaction: &str) {
        self.change(|settled| settled.put(authorization, transaction.into()));
    }

    /// The transaction that settled an authorization, if it is remembered.
    pub(crate) fn transaction(&self, authorization: &PaymentId) -> Option<String> {
        self.change(|settled| settled.get(authorization).map(|it| it.to_string()))
    }

    fn change<T>(&self, change: impl FnOnce(&mut LruCache<PaymentId, Box<str>>) -> T) -> T {
        // Each change is one call of the cache, so a panic of another task leaves it consistent.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
