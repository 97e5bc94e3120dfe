//! Address lookup tables: accounts that hold addresses, which transactions take from them by index.
//!
//! What stands in a table stands there for good: entries are only ever added, and a table that was closed cannot be made
//! again at its address, which is derived from a slot that must be recent. So addresses that were read once, from a block
//! that a supermajority has voted for, are those that a transaction will find, if it finds any.

use solana_pubkey::Pubkey;

use crate::read::Account;
use crate::transaction::PaymentTransaction;

/// The program that keeps tables.
const PROGRAM: Pubkey = Pubkey::from_str_const("AddressLookupTab1e1111111111111111111111111");

/// What a table begins with (`ProgramState::LookupTable`), and where its addresses begin (`LOOKUP_TABLE_META_SIZE`).
const KIND: [u8; 4] = [1, 0, 0, 0];
const ADDRESSES_AT: usize = 56;

/// The addresses that a transaction takes from its tables, in the runtime's order: of all tables first those that it may write
/// to, then the others. `None` where a table is not there, or too short.
pub(crate) fn resolve(
    transaction: &PaymentTransaction,
    tables: &[Option<Account>],
) -> Option<Vec<Pubkey>> {
    let tables: Vec<&[[u8; 32]]> = tables
        .iter()
        .map(|table| addresses(table.as_ref()?))
        .collect::<Option<_>>()?;
    let lookups = transaction.lookups();
    if lookups.len() != tables.len() {
        return None;
    }
    let with_tables = || lookups.iter().zip(&tables);
    let writable = with_tables().map(|(lookup, table)| (&lookup.writable_indexes, table));
    let readonly = with_tables().map(|(lookup, table)| (&lookup.readonly_indexes, table));
    let taken = writable.chain(readonly).flat_map(|(indexes, table)| {
        let address = |index: &u8| table.get(usize::from(*index)).copied().map(Pubkey::from);
        indexes.iter().map(address)
    });
    taken.collect()
}

fn addresses(table: &Account) -> Option<&[[u8; 32]]> {
    let is_table = table.owner == PROGRAM && table.data.starts_with(&KIND);
    let (addresses, rest) = table.data.get(ADDRESSES_AT..)?.as_chunks();
    (is_table && rest.is_empty()).then_some(addresses)
}
