//! Address lookup tables: accounts that hold addresses. Transactions refer to these by index.
//!
//! Entries of a table are only ever added. A closed table cannot be made again at its address,
//! which is derived from a recent slot. So addresses read once from a confirmed block are those
//! that the transaction will load, if it loads any.

use solana_address_lookup_table_interface::state::AddressLookupTable;
use solana_pubkey::Pubkey;

use crate::account::Account;
use crate::transaction::PaymentTransaction;

/// The program that owns lookup tables.
const PROGRAM: Pubkey = solana_sdk_ids::address_lookup_table::ID;

/// The addresses that a transaction loads from its tables, in the runtime's order: the writable
/// ones of all tables, then the others. `None` if a table is missing, malformed or too short.
pub fn resolve(
    transaction: &PaymentTransaction,
    tables: &[Option<Account>],
) -> Option<Vec<Pubkey>> {
    let tables: Vec<AddressLookupTable<'_>> = tables
        .iter()
        .map(|found| table(found.as_ref()?))
        .collect::<Option<_>>()?;
    let lookups = transaction.lookups();
    if lookups.len() != tables.len() {
        return None;
    }
    let with_tables = || lookups.iter().zip(&tables);
    let writable = with_tables().map(|(lookup, table)| (&lookup.writable_indexes, table));
    let readonly = with_tables().map(|(lookup, table)| (&lookup.readonly_indexes, table));
    let taken = writable.chain(readonly).flat_map(|(indexes, table)| {
        let address = |index: &u8| table.addresses.get(usize::from(*index)).copied();
        indexes.iter().map(address)
    });
    taken.collect()
}

fn table(account: &Account) -> Option<AddressLookupTable<'_>> {
    if account.owner != PROGRAM {
        return None;
    }
    AddressLookupTable::deserialize(&account.data).ok()
}
