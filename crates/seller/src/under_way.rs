//! The payments that are being served just now.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use quittance_http::canonical::AuthorizationHash as Hash;

/// The payments that are being served just now. Between verifying and settling nobody else knows that a payment is spoken
/// for: whoever presented one twenty times at once had twenty handlers run for it. Holds no more than there are requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnderWay(Arc<Mutex<HashSet<Hash>>>);

/// A payment's place among those that are being served, until this is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    under_way: UnderWay,
    payment: Hash,
}

impl UnderWay {
    /// Takes the payment's place; `None` where somebody has it.
    pub(crate) fn reserve(&self, payment: Hash) -> Option<Reserved> {
        self.change(|payments| payments.insert(payment))
            .then(|| Reserved {
                under_way: self.clone(),
                payment,
            })
    }

    fn change<T>(&self, change: impl FnOnce(&mut HashSet<Hash>) -> T) -> T {
        // Each change is one call; whoever panicked with the lock left the set whole.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.under_way
            .change(|payments| payments.remove(&self.payment));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payment_has_one_place_and_leaves_it() {
        let under_way = UnderWay::default();
        let first = under_way.reserve([1; 32]);
        assert!(first.is_some() && under_way.reserve([1; 32]).is_none());
        assert!(under_way.reserve([2; 32]).is_some());
        drop(first);
        assert!(under_way.reserve([1; 32]).is_some());
        assert!(under_way.0.lock().unwrap().is_empty());
    }
}
