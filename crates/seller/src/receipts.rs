//! The payments that were sold for, so that none buys a second answer, and a client that presents one
//! again learns where its money went.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;

use quittance_http::canonical::AuthorizationHash as Hash;

/// How many are remembered: those of a day at one sale in two seconds, in some ten megabytes.
const RECEIPTS_MAX: NonZeroUsize = NonZeroUsize::new(50_000).expect("it is not zero");

/// The newest settled payments with their transactions.
pub(crate) struct Receipts(Mutex<LruCache<Hash, Box<str>>>);

impl Default for Receipts {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(RECEIPTS_MAX)))
    }
}

impl Receipts {
    /// Remembers in which transaction an authorization has settled.
    pub(crate) fn remember(&self, authorization: Hash, transaction: &str) {
        self.change(|receipts| receipts.put(authorization, transaction.into()));
    }

    /// The transaction in which an authorization has settled, if it is remembered.
    pub(crate) fn transaction(&self, authorization: &Hash) -> Option<String> {
        self.change(|receipts| receipts.get(authorization).map(|it| it.to_string()))
    }

    fn change<T>(&self, change: impl FnOnce(&mut LruCache<Hash, Box<str>>) -> T) -> T {
        // The cache does not panic between two changes.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
