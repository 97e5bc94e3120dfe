//! The payments whose requests are being served.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use quittance_core::PaymentId;

/// The authorizations whose requests are being served. No facilitator knows of them between
/// verification and settlement, so one payment could otherwise start any number of handlers.
///
/// There is at most one entry for each request in progress.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reservations(Arc<Mutex<HashSet<PaymentId>>>);

/// The exclusive right to serve one authorization. Dropping it releases the authorization.
#[derive(Debug)]
pub(crate) struct ReservedAuthorization {
    reservations: Reservations,
    authorization: PaymentId,
}

impl Reservations {
    /// Reserves an authorization; `None` if another request has reserved it.
    pub(crate) fn reserve(&self, authorization: PaymentId) -> Option<ReservedAuthorization> {
        self.change(|reserved| reserved.insert(authorization))
            .then(|| ReservedAuthorization {
                reservations: self.clone(),
                authorization,
            })
    }

    fn change<T>(&self, change: impl FnOnce(&mut HashSet<PaymentId>) -> T) -> T {
        // Each change is one call, so a panic of another task leaves the set consistent.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for ReservedAuthorization {
    fn drop(&mut self) {
        self.reservations
            .change(|reserved| reserved.remove(&self.authorization));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservation_is_exclusive_until_it_is_dropped() {
        let reservations = Reservations::default();
        let [one, two] = [1, 2].map(|byte| PaymentId::from_bytes([byte; 32]));
        let first = reservations.reserve(one);
        assert!(first.is_some() && reservations.reserve(one).is_none());
        assert!(reservations.reserve(two).is_some());
        drop(first);
        assert!(reservations.reserve(one).is_some());
        assert!(reservations.0.lock().unwrap().is_empty());
    }
}
