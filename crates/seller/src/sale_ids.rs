//! The identities of sales whose outcome is not known.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use quittance_core::{PaymentId, SaleId};

/// How many are remembered, in about 2 MB: the sales of some minutes in which a facilitator loses
/// every answer.
const SALES_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("it is not zero");

/// The identities of the latest sales without a success, by their payment.
///
/// A payment that is presented again continues its sale. If the facilitator's answer was lost, it
/// reports the success again.
pub(crate) struct SaleIds(Mutex<LruCache<PaymentId, SaleId>>);

impl Default for SaleIds {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(SALES_MAX)))
    }
}

impl SaleIds {
    /// The identity of the sale for this payment: that of the last sale, or a new random one.
    pub(crate) fn of(&self, payment: PaymentId) -> SaleId {
        let new = || SaleId::from_bytes(rand::random());
        self.change(|ids| ids.get_or_insert(payment, new).clone())
    }

    /// Forgets a sale whose payment has settled: no other one continues it.
    pub(crate) fn forget(&self, payment: &PaymentId) {
        self.change(|ids| ids.pop(payment));
    }

    fn change<T>(&self, change: impl FnOnce(&mut LruCache<PaymentId, SaleId>) -> T) -> T {
        // Each change is one call of the cache, so a panic of another task leaves it consistent.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
