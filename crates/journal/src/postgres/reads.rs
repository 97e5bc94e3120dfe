//! The reads.

use std::ops::Range;

use quittance_core::{LaneId, PaymentId, SchemeState, StateId, Transaction, TransactionId};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Postgres, QueryBuilder, Row};
use tracing::error;

use super::errors::concerns_one_entry;
use super::rows::{
    integer, number, optional_payment_id, payment_id, recorded, scheme_state, settlement,
    signed_for, transaction,
};
use crate::entry::{StoredState, TransactionPage};
use crate::page::{Cursor, Filter, PAGE_MAX, Page};
use crate::replica::{HandedOver, ReplicaId};
use crate::settlement::{Settlement, SettlementStep};

/// A read transaction that sees one moment.
pub(super) const MOMENT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// One settlement with its transactions.
pub(super) async fn fetch(
    connection: &mut PgConnection,
    id: &PaymentId,
) -> Result<Option<Settlement>, sqlx::Error> {
    match fetch_alone(connection, id).await? {
        Some(settlement) => with_transactions(connection, settlement).await.map(Some),
        None => Ok(None),
    }
}

/// One settlement, without its transactions.
pub(super) async fn fetch_alone(
    connection: &mut PgConnection,
    id: &PaymentId,
) -> Result<Option<Settlement>, sqlx::Error> {
    let row = sqlx::query("SELECT * FROM settlements WHERE id = $1")
        .bind(id.as_bytes().as_slice())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(settlement).transpose()
}

/// As [`fetch`], in one read transaction: the settlement and its transactions are of one moment.
pub(super) async fn fetch_at_one_moment(
    connection: &mut PgConnection,
    id: &PaymentId,
) -> Result<Option<Settlement>, sqlx::Error> {
    let mut transaction = connection.begin_with(MOMENT).await?;
    let settlement = fetch(&mut transaction, id).await?;
    transaction.commit().await?;
    Ok(settlement)
}

async fn with_transactions(
    connection: &mut PgConnection,
    mut settlement: Settlement,
) -> Result<Settlement, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT s.attempt, s.step, t.id, t.lane, t.sequence, t.bytes, t.withdrawn
         FROM settlement_transactions s JOIN transactions t ON t.id = s.transaction_id
         WHERE s.settlement = $1 ORDER BY s.attempt, t.number",
    )
    .bind(settlement.claim.id.as_bytes().as_slice())
    .fetch_all(connection)
    .await?;
    for row in &rows {
        let list = match row.try_get("withdrawn")? {
            false => &mut settlement.transactions,
            true => &mut settlement.withdrawn,
        };
        list.push(signed_for(row)?);
    }
    Ok(settlement)
}

/// One page of the settlements that match a filter, of one moment.
pub(super) async fn page(
    connection: &mut PgConnection,
    filter: &Filter,
    after: Option<Cursor>,
) -> Result<Page, sqlx::Error> {
    let mut moment = connection.begin_with(MOMENT).await?;
    let limit = filter.limit.clamp(1, PAGE_MAX) as usize;
    // One row more than the page has says whether there is a next page.
    let rows = listing(filter, after, limit)
        .build()
        .fetch_all(&mut *moment)
        .await?;
    let mut page = Page::default();
    if rows.len() > limit {
        let last: i64 = rows[limit - 1].try_get("number")?;
        page.next = Cursor::after(number(last)?);
    }
    for row in rows.iter().take(limit) {
        let readable = match settlement(row) {
            Ok(settlement) => with_transactions(&mut moment, settlement).await,
            Err(error) => Err(error),
        };
        match readable {
            Ok(settlement) => page.settlements.push(settlement),
            Err(error) if concerns_one_entry(&error) => page.unreadable += 1,
            Err(error) => return Err(error),
        }
    }
    moment.commit().await?;
    Ok(page)
}

/// The query for one page, with a condition only for what the filter has: SQLite chooses an index
/// before it knows the values.
fn listing(filter: &Filter, after: Option<Cursor>, limit: usize) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new("SELECT * FROM settlements WHERE number > ");
    query.push_bind(after.map_or(0, |cursor| integer(cursor.number())));
    if let Some(network) = &filter.network {
        query.push(" AND network = ").push_bind(network);
    }
    if let Some(state) = filter.state {
        query.push(" AND state = ").push_bind(state.as_str());
    }
    if let Some(original) = &filter.refund_of {
        let original = original.as_bytes().as_slice();
        query.push(" AND refund_of = ").push_bind(original);
    }
    if let Some(id) = &filter.state_record {
        let id = id.as_bytes().as_slice();
        query.push(" AND state_id = ").push_bind(id);
    }
    // One row more than the page has says whether there is a next page.
    query.push(" ORDER BY number LIMIT ");
    query.push_bind(integer(limit as u64 + 1));
    query
}

/// A state record that was written.
pub(super) async fn state(
    connection: &mut PgConnection,
    id: &StateId,
) -> Result<Option<SchemeState>, sqlx::Error> {
    // A record of revision 0 only marks that a settlement has it exclusively.
    let row = sqlx::query("SELECT * FROM scheme_states WHERE id = $1 AND revision > 0")
        .bind(id.as_bytes().as_slice())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(scheme_state).transpose()
}

/// One page of the recorded transactions.
pub(super) async fn transactions(
    connection: &mut PgConnection,
    after: Option<Cursor>,
    limit: u32,
) -> Result<TransactionPage, sqlx::Error> {
    let rows = sqlx::query("SELECT * FROM transactions WHERE number > $1 ORDER BY number LIMIT $2")
        .bind(after.map_or(0, |cursor| integer(cursor.number())))
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
    let mut page = TransactionPage::default();
    if let Some(last) = rows.last() {
        page.last = Cursor::after(number(last.try_get("number")?)?);
    }
    for row in &rows {
        match recorded(row) {
            Ok(transaction) => page.transactions.push(transaction),
            Err(error) if concerns_one_entry(&error) => page.unreadable += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(page)
}

/// At most `limit` records of all schemes, in the order of their ids, behind `after`.
pub(super) async fn all_states(
    connection: &mut PgConnection,
    after: Option<&StateId>,
    limit: u32,
) -> Result<Vec<StoredState>, sqlx::Error> {
    let after = after.map_or(&[][..], |id| id.as_bytes().as_slice());
    let rows = sqlx::query("SELECT * FROM scheme_states WHERE id > $1 ORDER BY id LIMIT $2")
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
    let stored = |row| {
        Ok(StoredState {
            record: scheme_state(row)?,
            exclusive: optional_payment_id(row, "exclusive")?,
        })
    };
    rows.iter().map(stored).collect()
}

/// The settlements that a transaction was recorded for.
pub(super) async fn settlements_of(
    connection: &mut PgConnection,
    transaction: &TransactionId,
) -> Result<Vec<SettlementStep>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT settlement, step FROM settlement_transactions WHERE transaction_id = $1",
    )
    .bind(transaction.as_str())
    .fetch_all(connection)
    .await?;
    let step = |row| {
        Ok(SettlementStep {
            settlement: payment_id(row, "settlement")?,
            step: number(row.try_get("step")?)?,
        })
    };
    rows.iter().map(step).collect()
}

/// The open settlements of a network that no other member works on, oldest first.
pub(super) async fn open(
    connection: &mut PgConnection,
    network: &str,
    replica: &ReplicaId,
) -> Result<Vec<PaymentId>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT id FROM settlements s WHERE network = $1 AND state = 'open' AND NOT EXISTS (
             SELECT 1 FROM members m WHERE m.replica = s.owner AND m.replica <> $2
                 AND m.until > clock_timestamp())
         ORDER BY claimed_at, id",
    )
    .bind(network)
    .bind(replica.as_bytes().as_slice())
    .fetch_all(connection)
    .await?;
    Ok(readable_ids(&rows, network))
}

/// The open settlements of a network without an owner, oldest first.
pub(super) async fn handed_over(
    connection: &mut PgConnection,
    network: &str,
    limit: u32,
) -> Result<Vec<HandedOver>, sqlx::Error> {
    let rows = sqlx::query(HANDED_OVER)
        .bind(network)
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let lane: Option<&str> = row.try_get("wanted_lane")?;
        let lane = lane.map(LaneId::new);
        let ids = readable_ids(std::slice::from_ref(row), network);
        found.extend(ids.into_iter().map(|id| HandedOver {
            id,
            lane: lane.clone(),
        }));
    }
    Ok(found)
}

/// The query of [`handed_over`].
const HANDED_OVER: &str = "SELECT id, wanted_lane FROM settlements
     WHERE network = $1 AND state = 'open' AND owner IS NULL ORDER BY claimed_at, id LIMIT $2";

/// The settlements of a network that have settled and are not final, oldest first.
pub(super) async fn not_final(
    connection: &mut PgConnection,
    network: &str,
) -> Result<Vec<PaymentId>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT id FROM settlements
         WHERE network = $1 AND state = 'settled' AND final_at IS NULL ORDER BY concluded_at, id",
    )
    .bind(network)
    .fetch_all(connection)
    .await?;
    Ok(readable_ids(&rows, network))
}

/// The identities in these rows. One that cannot be read must not hide the others.
fn readable_ids(rows: &[PgRow], network: &str) -> Vec<PaymentId> {
    let readable = |row: &PgRow| match payment_id(row, "id") {
        Ok(id) => Some(id),
        Err(error) => {
            error!(%error, network, "skipped a settlement whose identity cannot be read");
            None
        }
    };
    rows.iter().filter_map(readable).collect()
}

/// The transactions recorded for these sequence numbers of a lane.
pub(super) async fn transactions_at(
    connection: &mut PgConnection,
    network: &str,
    lane: &LaneId,
    sequences: Range<u64>,
) -> Result<Vec<Transaction>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT id, lane, sequence, bytes FROM transactions
         WHERE network = $1 AND lane = $2 AND sequence >= $3 AND sequence < $4 AND NOT withdrawn
             AND length(bytes) > 0
         ORDER BY sequence, number",
    )
    .bind(network)
    .bind(lane.address())
    .bind(integer(sequences.start))
    .bind(integer(sequences.end))
    .fetch_all(connection)
    .await?;
    rows.iter().map(transaction).collect()
}

/// One more than the highest recorded sequence number of a lane.
pub(super) async fn next_sequence(
    connection: &mut PgConnection,
    network: &str,
    lane: &LaneId,
) -> Result<u64, sqlx::Error> {
    let highest: Option<i64> = sqlx::query_scalar(
        "SELECT max(sequence) FROM transactions WHERE network = $1 AND lane = $2 AND NOT withdrawn",
    )
    .bind(network)
    .bind(lane.address())
    .fetch_one(connection)
    .await?;
    let highest: Option<u64> = highest.map(number).transpose()?;
    Ok(highest.map_or(0, |highest| highest + 1))
}
