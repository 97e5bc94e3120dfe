//! The sum of each payer's open payments in an asset.
//!
//! A simulation checks a payment against the balance on the chain, as if it were the payer's only
//! one. A payer with money for one payment could submit a hundred at once, and each would pass.
//! Ninety-nine would fail on the chain, at the operator's cost. So before a payment is claimed, it
//! must fit into the observed balance together with all open payments of its payer.
//!
//! The sums are in memory. A start adds the journal's open settlements before anything is claimed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quittance_core::{Amount, Fault, FaultKind};

/// How many open payments one payer may have in one asset: a tenth of the limit for a network. At a
/// hundred payments a second this is ten seconds of work for one payer.
const OPEN_MAX: usize = 1000;

/// Payer and asset, as the chain spells them.
type Key = (Arc<str>, Arc<str>);

/// The open payments of all payers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<HashMap<Key, Open>>>);

#[derive(Debug, Default, Clone, Copy)]
struct Open {
    count: usize,
    sum: Amount,
}

/// The part of a payer's balance that one payment needs. Ends when released or dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    ledger: Ledger,
    key: Key,
    amount: Amount,
    released: AtomicBool,
}

impl Ledger {
    /// Whether a payment of `amount` fits into the payer's observed `balance`, together with its
    /// open payments.
    ///
    /// # Errors
    /// [`FaultKind::Busy`], which is not a verdict. Some of the open payments may have left the
    /// balance already, or may never leave it. Once they have ended, the chain decides.
    pub(crate) fn check(
        &self,
        payer: &str,
        asset: &str,
        amount: Amount,
        balance: Option<Amount>,
    ) -> Result<(), Fault> {
        let key = (payer.into(), asset.into());
        let open = self.open().get(&key).copied().unwrap_or_default();
        open.with(amount, balance).map(drop)
    }

    /// As [`check`](Self::check), and reserves the amount.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub(crate) fn reserve(
        &self,
        payer: &str,
        asset: &str,
        amount: Amount,
        balance: Option<Amount>,
    ) -> Result<Reservation, Fault> {
        let key: Key = (payer.into(), asset.into());
        let mut open = self.open();
        let before = open.get(&key).copied().unwrap_or_default();
        open.insert(key.clone(), before.with(amount, balance)?);
        drop(open);
        Ok(self.reservation(key, amount))
    }

    /// Adds a payment that is already open.
    pub(crate) fn add(&self, payer: &str, asset: &str, amount: Amount) -> Reservation {
        let key: Key = (payer.into(), asset.into());
        self.open().entry(key.clone()).or_default().add(amount);
        self.reservation(key, amount)
    }

    fn reservation(&self, key: Key, amount: Amount) -> Reservation {
        Reservation {
            ledger: self.clone(),
            key,
            amount,
            released: AtomicBool::new(false),
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Key, Open>> {
        // A thread that panicked with the lock left the map complete: each change replaces one
        // value.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn add(&mut self, amount: Amount) {
        self.count += 1;
        self.sum = Amount::new(self.sum.units().saturating_add(amount.units()));
    }

    /// The sum with one more payment, if that fits.
    fn with(mut self, amount: Amount, balance: Option<Amount>) -> Result<Self, Fault> {
        self.add(amount);
        let alone = self.count == 1;
        if !alone && balance.is_some_and(|balance| self.sum > balance) {
            let what = "the payer's open payments and this one exceed the payer's balance: retry when they have ended";
            return Err(Fault::new(FaultKind::Busy, what).not_attempted());
        }
        if self.count > OPEN_MAX {
            let what = "the payer has too many open payments: retry when some have ended";
            return Err(Fault::new(FaultKind::Busy, what).not_attempted());
        }
        Ok(self)
    }
}

impl Reservation {
    /// Ends it, because the payment's outcome is known.
    pub(crate) fn release(&self) {
        if self.released.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut open = self.ledger.open();
        let Some(of_payer) = open.get_mut(&self.key) else {
            return;
        };
        of_payer.count -= 1;
        let left = of_payer.sum.units().saturating_sub(self.amount.units());
        of_payer.sum = Amount::new(left);
        if of_payer.count == 0 {
            open.remove(&self.key);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn amount(units: u64) -> Amount {
        Amount::from(units)
    }

    #[test]
    fn open_payments_cannot_exceed_the_balance() {
        let ledger = Ledger::default();
        let reserve =
            |payer, asset, units| ledger.reserve(payer, asset, amount(units), Some(amount(100)));
        let first = reserve("payer", "coin", 60).unwrap();
        let fault = reserve("payer", "coin", 60).unwrap_err();
        assert!(
            fault.kind == FaultKind::Busy && fault.not_attempted && fault.retry_after.is_some()
        );
        assert!(
            ledger
                .check("payer", "coin", amount(41), Some(amount(100)))
                .is_err()
        );
        let second = reserve("payer", "coin", 40).unwrap();
        let other_asset = reserve("payer", "other coin", 60).unwrap();
        let other_payer = reserve("other payer", "coin", 60).unwrap();
        first.release();
        first.release();
        drop(first);
        let third = reserve("payer", "coin", 60).unwrap();
        drop((second, third, other_asset, other_payer));
        assert!(ledger.open().is_empty(), "no sum is left");
    }

    /// The chain decides whether one payment is covered.
    #[test]
    fn a_single_payment_is_never_refused() {
        let ledger = Ledger::default();
        let balance = Some(Amount::ZERO);
        assert!(ledger.reserve("payer", "coin", amount(5), balance).is_ok());
    }

    proptest! {
        /// The open payments never exceed the balance that they were admitted for.
        #[test]
        fn open_payments_fit_into_the_balance(
            steps in prop::collection::vec((any::<bool>(), 0_u64..50, any::<prop::sample::Index>()), 0..100),
            balance in 50_u64..300,
        ) {
            let ledger = Ledger::default();
            let mut held: Vec<(u64, Reservation)> = Vec::new();
            for (comes, units, which) in steps {
                if comes {
                    let sum: u64 = held.iter().map(|(units, _)| units).sum();
                    let reserved = ledger.reserve("payer", "coin", amount(units), Some(amount(balance)));
                    prop_assert_eq!(reserved.is_ok(), held.is_empty() || sum + units <= balance);
                    held.extend(reserved.map(|reservation| (units, reservation)));
                } else if !held.is_empty() {
                    held.swap_remove(which.index(held.len()));
                }
            }
            drop(held);
            prop_assert!(ledger.open().is_empty());
        }
    }
}
