//! What payers have under way: the sum of each payer's open payments in an asset.
//!
//! A payment is tried against the balance that the chain shows, as if it were the only one. A payer with money for one
//! payment could have a hundred tried at once, all of them good; ninety-nine would fail on the chain, at the operator's
//! cost. So before a payment is claimed, it and all that its payer has under way must fit into the balance that was seen.
//!
//! It is kept in memory: after a start, the journal's open settlements stand in it before anything else is claimed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quittance_core::{Amount, Fault, FaultKind};

/// How many payments one payer may have under way in one asset: a tenth of all that may be under way on a network. At a
/// hundred payments a second this is ten seconds of work for one payer.
const OPEN_MAX: usize = 1000;

/// Payer and asset, as the chain spells them.
type Key = (Arc<str>, Arc<str>);

/// What payers have under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<HashMap<Key, Open>>>);

#[derive(Debug, Default, Clone, Copy)]
struct Open {
    count: usize,
    sum: Amount,
}

/// The part of a payer's balance that one payment needs, until it is released or dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    ledger: Ledger,
    key: Key,
    amount: Amount,
    released: AtomicBool,
}

impl Ledger {
    /// Whether a payment of `amount` fits into the `balance` that the payer was seen to have, beside what it has under way.
    ///
    /// # Errors
    /// `busy`, and no verdict: of what is under way some may have left the balance already, or may never leave it. Asked
    /// again once it has ended, the chain itself says whether the money is there.
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

    /// Adds a payment that is under way already.
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
        // A panic with the lock left the map whole: each change replaces one value.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn add(&mut self, amount: Amount) {
        self.count += 1;
        self.sum = Amount::new(self.sum.units().saturating_add(amount.units()));
    }

    /// What is under way with one more payment, where that fits.
    fn with(mut self, amount: Amount, balance: Option<Amount>) -> Result<Self, Fault> {
        self.add(amount);
        let alone = self.count == 1;
        if !alone && balance.is_some_and(|balance| self.sum > balance) {
            let what = "the payer's payments under way and this one come to more than the payer has: ask again when they have ended";
            return Err(Fault::new(FaultKind::Busy, what).not_attempted());
        }
        if self.count > OPEN_MAX {
            let what = "the payer has too many payments under way";
            return Err(Fault::new(FaultKind::Busy, what).not_attempted());
        }
        Ok(self)
    }
}

impl Reservation {
    /// Ends it: the payment's outcome is known.
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
    fn a_payer_cannot_have_more_under_way_than_it_has() {
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
        assert!(ledger.open().is_empty(), "nothing is remembered");
    }

    /// Whether one payment is covered is for the chain to say.
    #[test]
    fn a_single_payment_is_never_turned_away_here() {
        let ledger = Ledger::default();
        let balance = Some(Amount::ZERO);
        assert!(ledger.reserve("payer", "coin", amount(5), balance).is_ok());
    }

    proptest! {
        /// However payments come and go, what is under way fits into every balance it was admitted for.
        #[test]
        fn what_is_under_way_fits_into_the_balance(
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
