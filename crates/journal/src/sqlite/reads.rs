//! The reads.

use std::ops::Range;

use quittance_core::{LaneId, PaymentId, SchemeState, StateId, Transaction, TransactionId};
use rusqlite::{Connection, Row, params};
use tracing::error;

use super::errors::SqlError;
use super::rows::{
    integer, number, optional_payment_id, optional_replica, optional_text, payment_id, recorded,
    scheme_state, settlement, signed_for, transaction,
};
use super::sql::{self, Query};
use crate::entry::{StoredState, TransactionPage};
use crate::page::{Cursor, Filter, PAGE_MAX, Page};
use crate::replica::{HandedOver, ReplicaId};
use crate::settlement::{Settlement, SettlementStep};

/// One settlement with its transactions.
pub(super) fn fetch(
    connection: &Connection,
    id: &PaymentId,
) -> Result<Option<Settlement>, SqlError> {
    match fetch_alone(connection, id)? {
        Some(settlement) => with_transactions(connection, settlement).map(Some),
        None => Ok(None),
    }
}

/// One settlement, without its transactions.
pub(super) fn fetch_alone(
    connection: &Connection,
    id: &PaymentId,
) -> Result<Option<Settlement>, SqlError> {
    let sql = "SELECT * FROM settlements WHERE id = ?1";
    sql::optional(connection, sql, params![id.as_bytes()], settlement)
}

/// As [`fetch`], in one read transaction: the settlement and its transactions are of one moment.
pub(super) fn fetch_at_one_moment(
    connection: &Connection,
    id: &PaymentId,
) -> Result<Option<Settlement>, SqlError> {
    let moment = connection.unchecked_transaction()?;
    let settlement = fetch(&moment, id)?;
    moment.commit()?;
    Ok(settlement)
}

fn with_transactions(
    connection: &Connection,
    mut settlement: Settlement,
) -> Result<Settlement, SqlError> {
    let signed = sql::all(
        connection,
        "SELECT s.attempt, s.step, t.id, t.lane, t.sequence, t.bytes, t.withdrawn
         FROM settlement_transactions s JOIN transactions t ON t.id = s.transaction_id
         WHERE s.settlement = ?1 ORDER BY s.attempt, t.number",
        params![settlement.claim.id.as_bytes()],
        |row| Ok((row.get("withdrawn")?, signed_for(row)?)),
    )?;
    for (is_withdrawn, signed) in signed {
        match is_withdrawn {
            false => settlement.transactions.push(signed),
            true => settlement.withdrawn.push(signed),
        }
    }
    Ok(settlement)
}

/// One page of the settlements that match a filter, of one moment.
pub(super) fn page(
    connection: &Connection,
    filter: &Filter,
    after: Option<Cursor>,
) -> Result<Page, SqlError> {
    let moment = connection.unchecked_transaction()?;
    let limit = filter.limit.clamp(1, PAGE_MAX) as usize;
    let mut found = listing(filter, after, limit).all(&moment, |row| {
        let number: u64 = number(row.get("number")?)?;
        Ok((number, settlement(row)))
    })?;
    let mut page = Page::default();
    if found.len() > limit {
        found.truncate(limit);
        page.next = found.last().and_then(|(last, _)| Cursor::after(*last));
    }
    for (_, settlement) in found {
        let readable = settlement.and_then(|settlement| with_transactions(&moment, settlement));
        match readable {
            Ok(settlement) => page.settlements.push(settlement),
            Err(error) if error.concerns_one_entry() => page.unreadable += 1,
            Err(error) => return Err(error),
        }
    }
    moment.commit()?;
    Ok(page)
}

/// The query for one page, with a condition only for what the filter has.
fn listing(filter: &Filter, after: Option<Cursor>, limit: usize) -> Query {
    let after = after.map_or(0, |cursor| integer(cursor.number()));
    let mut query = Query::new("SELECT * FROM settlements WHERE number > ", after);
    if let Some(network) = &filter.network {
        query = query.and(" AND network = ", network.clone());
    }
    if let Some(state) = filter.state {
        query = query.and(" AND state = ", state.as_str().to_owned());
    }
    if let Some(original) = &filter.refund_of {
        query = query.and(" AND refund_of = ", original.as_bytes().to_vec());
    }
    if let Some(id) = &filter.state_record {
        query = query.and(" AND state_id = ", id.as_bytes().to_vec());
    }
    // One row more than the page has says whether there is a next page.
    query.and(" ORDER BY number LIMIT ", integer(limit as u64 + 1))
}

/// A state record that was written.
pub(super) fn state(
    connection: &Connection,
    id: &StateId,
) -> Result<Option<SchemeState>, SqlError> {
    // A record of revision 0 only marks that a settlement has it exclusively.
    let sql = "SELECT * FROM scheme_states WHERE id = ?1 AND revision > 0";
    sql::optional(connection, sql, params![id.as_bytes()], scheme_state)
}

/// One page of the recorded transactions.
pub(super) fn transactions(
    connection: &Connection,
    after: Option<Cursor>,
    limit: u32,
) -> Result<TransactionPage, SqlError> {
    let after = after.map_or(0, |cursor| integer(cursor.number()));
    let found = sql::all(
        connection,
        "SELECT * FROM transactions WHERE number > ?1 ORDER BY number LIMIT ?2",
        params![after, limit],
        |row| {
            let number: u64 = number(row.get("number")?)?;
            Ok((number, recorded(row)))
        },
    )?;
    let mut page = TransactionPage {
        last: found.last().and_then(|(last, _)| Cursor::after(*last)),
        ..TransactionPage::default()
    };
    for (_, recorded) in found {
        match recorded {
            Ok(transaction) => page.transactions.push(transaction),
            Err(error) if error.concerns_one_entry() => page.unreadable += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(page)
}

/// At most `limit` records of all schemes, in the order of their ids, behind `after`.
pub(super) fn all_states(
    connection: &Connection,
    after: Option<&StateId>,
    limit: u32,
) -> Result<Vec<StoredState>, SqlError> {
    let after = after.map_or(&[][..], |id| id.as_bytes().as_slice());
    let stored = |row: &Row<'_>| {
        Ok(StoredState {
            record: scheme_state(row)?,
            exclusive: optional_payment_id(row, "exclusive")?,
        })
    };
    let sql = "SELECT * FROM scheme_states WHERE id > ?1 ORDER BY id LIMIT ?2";
    sql::all(connection, sql, params![after, limit], stored)
}

/// The settlements that a transaction was recorded for.
pub(super) fn settlements_of(
    connection: &Connection,
    transaction: &TransactionId,
) -> Result<Vec<SettlementStep>, SqlError> {
    let step = |row: &Row<'_>| {
        Ok(SettlementStep {
            settlement: payment_id(row, "settlement")?,
            step: row.get("step")?,
        })
    };
    let sql = "SELECT settlement, step FROM settlement_transactions WHERE transaction_id = ?1";
    sql::all(connection, sql, params![transaction.as_str()], step)
}

/// The open settlements of a network, oldest first, without those of certain owners.
pub(super) fn open(
    connection: &Connection,
    network: &str,
    is_left_out: impl Fn(ReplicaId) -> bool,
) -> Result<Vec<PaymentId>, SqlError> {
    let found = sql::all(
        connection,
        "SELECT id, owner FROM settlements WHERE network = ?1 AND state = 'open'
         ORDER BY claimed_at, id",
        params![network],
        |row| {
            // An owner that cannot be read is no member.
            let owner = optional_replica(row, "owner").ok().flatten();
            Ok(match owner.is_some_and(&is_left_out) {
                true => None,
                false => readable_id(row, network),
            })
        },
    )?;
    Ok(found.into_iter().flatten().collect())
}

/// The open settlements of a network without an owner, oldest first.
pub(super) fn handed_over(
    connection: &Connection,
    network: &str,
    limit: u32,
) -> Result<Vec<HandedOver>, SqlError> {
    let found = sql::all(connection, HANDED_OVER, params![network, limit], |row| {
        let lane = optional_text(row, "wanted_lane")?.map(LaneId::new);
        Ok(readable_id(row, network).map(|id| HandedOver { id, lane }))
    })?;
    Ok(found.into_iter().flatten().collect())
}

/// The query of [`handed_over`].
const HANDED_OVER: &str = "SELECT id, wanted_lane FROM settlements
     WHERE network = ?1 AND state = 'open' AND owner IS NULL ORDER BY claimed_at, id LIMIT ?2";

/// The settlements of a network that have settled and are not final, oldest first.
pub(super) fn not_final(
    connection: &Connection,
    network: &str,
) -> Result<Vec<PaymentId>, SqlError> {
    let found = sql::all(
        connection,
        "SELECT id FROM settlements
         WHERE network = ?1 AND state = 'settled' AND final_at IS NULL ORDER BY concluded_at, id",
        params![network],
        |row| Ok(readable_id(row, network)),
    )?;
    Ok(found.into_iter().flatten().collect())
}

/// The identity in this row. One that cannot be read must not hide the others.
fn readable_id(row: &Row<'_>, network: &str) -> Option<PaymentId> {
    match payment_id(row, "id") {
        Ok(id) => Some(id),
        Err(error) => {
            error!(%error, network, "skipped a settlement whose identity cannot be read");
            None
        }
    }
}

/// The transactions recorded for these sequence numbers of a lane.
pub(super) fn transactions_at(
    connection: &Connection,
    network: &str,
    lane: &LaneId,
    sequences: Range<u64>,
) -> Result<Vec<Transaction>, SqlError> {
    let (start, end) = (integer(sequences.start), integer(sequences.end));
    sql::all(
        connection,
        "SELECT id, lane, sequence, bytes FROM transactions
         WHERE network = ?1 AND lane = ?2 AND sequence >= ?3 AND sequence < ?4 AND NOT withdrawn
             AND length(bytes) > 0
         ORDER BY sequence, number",
        params![network, lane.address(), start, end],
        transaction,
    )
}

/// One more than the highest recorded sequence number of a lane.
pub(super) fn next_sequence(
    connection: &Connection,
    network: &str,
    lane: &LaneId,
) -> Result<u64, SqlError> {
    sql::one(
        connection,
        "SELECT max(sequence) FROM transactions WHERE network = ?1 AND lane = ?2 AND NOT withdrawn",
        params![network, lane.address()],
        |row| {
            let highest: Option<u64> = row.get::<_, Option<i64>>(0)?.map(number).transpose()?;
            Ok(highest.map_or(0, |highest| highest + 1))
        },
    )
}

#[cfg(test)]
mod tests {
    use quittance_core::{PaymentId, StateId};

    use super::super::format::SCHEMA;
    use super::*;

    fn empty() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        connection
    }

    /// How SQLite would find the rows of a query. The plan does not depend on the values.
    fn plan(connection: &Connection, sql: &str) -> String {
        let sql = format!("EXPLAIN QUERY PLAN {sql}");
        let mut statement = connection.prepare(&sql).unwrap();
        let mut rows = statement.raw_query();
        let mut details = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            details.push(row.get::<_, String>("detail").unwrap());
        }
        details.join("; ")
    }

    /// A journal has millions of rows. A payment has few refunds, and a state record few payments.
    #[test]
    fn refunds_and_uses_of_a_record_are_found_by_an_index() {
        let connection = empty();
        let refunds = Filter::new().refund_of(PaymentId::from_parts(&[b"a"]));
        let uses = Filter::new().state_record(StateId::from_parts(&[b"a"]));
        for (filter, index) in [
            (refunds, "settlements_refunds"),
            (uses, "settlements_state"),
        ] {
            for filter in [filter.clone(), filter.open_only().network("test:1")] {
                let plan = plan(&connection, listing(&filter, None, 50).sql());
                assert!(plan.contains(&format!("USING INDEX {index} ")), "{plan}");
                assert!(!plan.contains("TEMP B-TREE"), "{plan}");
            }
        }
    }

    /// It is asked for many times a second.
    #[test]
    fn settlements_that_were_handed_over_have_an_index() {
        let plan = plan(&empty(), HANDED_OVER);
        assert!(
            plan.starts_with("SEARCH settlements USING INDEX settlements_handed_over"),
            "{plan}"
        );
    }
}
