//! The keys of payers: tables for those that pay often.
//!
//! A payer is named by an address, which is the hash of a key. So the key can only come from a
//! signature: recovery gives a key, and if its hash is the address, it is the payer's key. Only
//! then is [`Keys`] called. A bad signature that names a payer changes nothing here.
//!
//! A payer gets a table when its key was recovered [`RECOVERIES_BEFORE_TABLE`] times; then the
//! count starts again. An attacker can create payers and sign correctly with each, to have tables
//! made. That adds a bounded share to the cost of its own recoveries. Both memories are bounded,
//! and the least recently used entries are removed first. So an attacker with many payers can
//! remove the tables of others. Those payers then cost a recovery again until they have new tables.

use std::hash::RandomState;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::point::Point;
use crate::tables::Table;

/// How many bits of a scalar one look-up in a payer's table covers.
pub(crate) const WIDTH: u32 = 7;

/// How often a key is recovered before its table is made. A table takes as long as about six
/// recoveries (docs/benchmarks.md). So tables add at most a fifth to the cost of payers that never
/// return.
pub(crate) const RECOVERIES_BEFORE_TABLE: u32 = 32;

/// How many payers without a table are counted. Each takes some 80 bytes, so all take about 5 MiB.
const COUNTED: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();

type Address = [u8; 20];

/// The bounded memory of payers' keys.
pub(crate) struct Keys {
    tables_max: usize,
    tables: Mutex<LruCache<Address, Arc<Table>, RandomState>>,
    recoveries: Mutex<LruCache<Address, u32, RandomState>>,
}

impl Keys {
    /// A memory whose tables take at most this many bytes, but always has space for one table.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            tables_max: (bytes / Table::bytes(WIDTH)).max(1),
            // A bounded cache would allocate all its entries now, whatever their number.
            tables: Mutex::new(LruCache::unbounded_with_hasher(RandomState::new())),
            recoveries: Mutex::new(LruCache::with_hasher(COUNTED, RandomState::new())),
        }
    }

    /// The tables of these payers, for those that have one.
    pub(crate) fn tables<'a>(
        &self,
        addresses: impl Iterator<Item = Option<&'a Address>>,
    ) -> Vec<Option<Arc<Table>>> {
        let mut tables = self.locked();
        addresses
            .map(|address| tables.get(address?).cloned())
            .collect()
    }

    /// Counts a good signature whose recovered key has this address.
    pub(crate) fn recovered(&self, address: &Address, key: &Point) {
        // Another thread may have made the table meanwhile.
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
        // No code panics with the lock held. If it did, the cache would still be valid.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a recovery. Returns whether the table is due.
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
    fn full_memory_forgets_the_least_recent_table() {
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
