//! What is remembered of payers: tables of the keys of those who pay often.
//!
//! A payer is named by an address, the hash of a key, so a key can be learnt only from a signature: recovery gives a
//! key, and if it hashes to the address, it is the payer's. Only then does [`Keys`] hear of it. A bad signature that names a
//! payer teaches nothing and forgets nothing.
//!
//! A table is made when a payer has been recovered [`RECOVERIES_BEFORE_TABLE`] times, and the count starts again. So whoever
//! makes up payers to have tables made, signing well by each, adds a bounded share to the cost of the recoveries that it
//! also causes. Both memories are bounded and forget what was not used for longest. So whoever does that for many payers
//! in a row can push others' tables out; they cost recovery again, and no more, until they have new ones.

use std::hash::RandomState;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::point::Point;
use crate::tables::Table;

/// How many bits of a scalar one look-up in a payer's table takes in.
pub(crate) const WIDTH: u32 = 7;

/// How often a payer is recovered before a table is made. A table takes as long as about six recoveries
/// (docs/benchmarks.md), so tables add at most a fifth to what payers cost who are never seen again.
pub(crate) const RECOVERIES_BEFORE_TABLE: u32 = 32;

/// How many payers without a table are counted: some 80 bytes each, so about 5 MiB.
const COUNTED: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();

type Address = [u8; 20];

/// The bounded memory of payers.
pub(crate) struct Keys {
    tables_max: usize,
    tables: Mutex<LruCache<Address, Arc<Table>, RandomState>>,
    recoveries: Mutex<LruCache<Address, u32, RandomState>>,
}

impl Keys {
    /// A memory whose tables take at most so many bytes, but one table in any case.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            tables_max: (bytes / Table::bytes(WIDTH)).max(1),
            // A bounded cache would take the memory for all its entries now, however many were allowed.
            tables: Mutex::new(LruCache::unbounded_with_hasher(RandomState::new())),
            recoveries: Mutex::new(LruCache::with_hasher(COUNTED, RandomState::new())),
        }
    }

    /// The tables of these payers, where there are any.
    pub(crate) fn tables<'a>(
        &self,
        addresses: impl Iterator<Item = Option<&'a Address>>,
    ) -> Vec<Option<Arc<Table>>> {
        let mut tables = self.locked();
        addresses
            .map(|address| tables.get(address?).cloned())
            .collect()
    }

    /// Takes note that a good signature was recovered to this key, which hashes to this address.
    pub(crate) fn recovered(&self, address: &Address, key: &Point) {
        // Others may have made it since this signature was found to need recovery.
        if self.locked().contains(address) || !self.is_due(address) {
            return;
        }
        let table = Arc::new(Table::new(key, WIDTH));
        let mut tables = self.locked();
        tables.put(*address, table);
        if tables.len() > self.tables_max {
            tables.pop_lru();
        }
    }

    fn locked(&self) -> MutexGuard<'_, LruCache<Address, Arc<Table>, RandomState>> {
        // Nothing panics while holding the lock; were it so, a cache would still be a cache.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a recovery, and says whether it is the one to make a table at.
    fn is_due(&self, address: &Address) -> bool {
        let mut recoveries = self
            .recoveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = recoveries.get_or_insert_mut(*address, || 0);
        *count += 1;
        let due = *count >= RECOVERIES_BEFORE_TABLE;
        if due {
            recoveries.pop(address);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(keys: &Keys, address: Address) -> bool {
        keys.tables([Some(&address)].into_iter())[0].is_some()
    }

    #[test]
    fn a_payer_is_known_after_enough_recoveries_and_not_before() {
        let keys = Keys::new(2 * Table::bytes(WIDTH));
        for count in 0..RECOVERIES_BEFORE_TABLE {
            assert!(!known(&keys, [1; 20]), "after {count} recoveries");
            keys.recovered(&[1; 20], &Point::GENERATOR);
        }
        assert!(known(&keys, [1; 20]));
        assert!(!known(&keys, [2; 20]));
    }

    #[test]
    fn tables_take_no_more_than_they_may_and_the_least_used_goes_first() {
        let keys = Keys::new(2 * Table::bytes(WIDTH) + 1);
        for payer in [1, 2, 3] {
            for _ in 0..RECOVERIES_BEFORE_TABLE {
                keys.recovered(&[payer; 20], &Point::GENERATOR);
            }
            known(&keys, [1; 20]);
        }
        assert_eq!(
            [1, 2, 3].map(|payer| known(&keys, [payer; 20])),
            [true, false, true]
        );
    }
}
