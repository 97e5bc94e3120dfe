//! Address lookup tables: accounts that hold addresses. Transactions refer to these by index.
//!
//! Entries of a table are only ever added. A closed table cannot be made again at its address,
//! which is derived from a recent slot. So addresses read once from a confirmed block are those
//! that the transaction will load, if it loads any.

use solana_pubkey::Pubkey;

use crate::account::Account;
use crate::transaction::PaymentTransaction;

/// The program that owns lookup tables.
const PROGRAM: Pubkey = solana_sdk_ids::address_lookup_table::ID;

/// The first bytes of a table (`ProgramState::LookupTable`), and the offset of its addresses
/// (`LOOKUP_TABLE_META_SIZE`).
const KIND: [u8; 4] = [1, 0, 0, 0];
const ADDRESSES_AT: usize = 56;

/// The addresses that a transaction loads from its tables, in the runtime's order: the writable
/// ones of all tables, then the others. `None` if a table is missing or too short.
pub fn resolve(
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
