//! Writes entries that were read from a journal.

use async_trait::async_trait;
use quittance_core::Timestamp;
use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::errors::refused;
use super::reads::fetch_alone;
use super::rows::{OutcomeColumns, integer, number, recorded, seconds, without_nul};
use super::states::check_owner;
use super::store::Writer;
use crate::entry::{Entry, RecordedTransaction, Restored, SignedRef, StoredState};
use crate::group::Write;
use crate::settlement::{Settlement, State};

/// [`Journal::restore`](crate::Journal::restore).
pub(super) struct Restore(pub(super) Entry);

#[async_trait]
impl Write<Writer> for Restore {
    type Answer = Restored;

    async fn execute(&self, connection: &mut PgConnection) -> Result<Restored, sqlx::Error> {
        match &self.0 {
            Entry::Transaction(transaction) => restore_transaction(connection, transaction).await,
            Entry::Settlement { settlement, signed } => {
                restore_settlement(connection, settlement, signed).await
            }
            Entry::State(state) => restore_state(connection, state).await,
        }
    }
}

async fn restore_transaction(
    connection: &mut PgConnection,
    restored: &RecordedTransaction,
) -> Result<Restored, sqlx::Error> {
    let transaction = &restored.transaction;
    let row = sqlx::query("SELECT * FROM transactions WHERE id = $1")
        .bind(transaction.id.as_str())
        .fetch_optional(&mut *connection)
        .await?;
    let Some(known) = row.as_ref().map(recorded).transpose()? else {
        sqlx::query(
            "INSERT INTO transactions (id, network, lane, sequence, bytes, signed_at, withdrawn)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(transaction.id.as_str())
        .bind(&restored.network)
        .bind(transaction.lane.address())
        .bind(integer(transaction.sequence))
        .bind(&*transaction.bytes)
        .bind(seconds(restored.signed_at))
        .bind(restored.is_withdrawn)
        .execute(connection)
        .await?;
        return Ok(Restored::Added);
    };
    let pruned = |recorded: &RecordedTransaction| recorded.transaction.bytes.is_empty();
    let is_pruned = pruned(&known) || pruned(restored);
    let is_same = known.network == restored.network
        && known.transaction.lane == transaction.lane
        && (is_pruned || known.transaction.bytes == transaction.bytes);
    if !is_same {
        return Err(refused("the journal has another transaction with this id"));
    }
    if !known.is_withdrawn || restored.is_withdrawn {
        return Ok(Restored::Kept);
    }
    sqlx::query("UPDATE transactions SET withdrawn = false WHERE id = $1")
        .bind(transaction.id.as_str())
        .execute(connection)
        .await?;
    Ok(Restored::Raised)
}

async fn restore_settlement(
    connection: &mut PgConnection,
    restored: &Settlement,
    signed: &[SignedRef],
) -> Result<Restored, sqlx::Error> {
    let known = fetch_alone(connection, &restored.claim.id).await?;
    let mut answer = match &known {
        None => {
            write(connection, restored).await?;
            Restored::Added
        }
        Some(known) => match known.merged(restored) {
            Err(contradiction) => return Err(refused(&contradiction.to_string())),
            Ok(None) => Restored::Kept,
            Ok(Some(merged)) => {
                write(connection, &merged).await?;
                Restored::Raised
            }
        },
    };
    for SignedRef {
        transaction,
        attempt,
        step,
    } in signed
    {
        // The step of the newest record counts, so that of a known one stays.
        let added = sqlx::query(
            "INSERT INTO settlement_transactions (settlement, attempt, transaction_id, step)
             VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        )
        .bind(restored.claim.id.as_bytes().as_slice())
        .bind(i64::from(*attempt))
        .bind(transaction.as_str())
        .bind(i64::from(*step))
        .execute(&mut *connection)
        .await?;
        if added.rows_affected() > 0 && answer == Restored::Kept {
            answer = Restored::Raised;
        }
    }
    Ok(answer)
}

/// Writes every column of a settlement. A new one gets the next number.
async fn write(connection: &mut PgConnection, settlement: &Settlement) -> Result<(), sqlx::Error> {
    let (claim, place) = (&settlement.claim, settlement.claim.access.as_ref());
    let columns = match &settlement.state {
        State::Open => OutcomeColumns {
            state: settlement.state.kind().as_str(),
            ..OutcomeColumns::default()
        },
        State::Concluded(outcome) => OutcomeColumns::new(outcome),
    };
    let optional = |time: Option<Timestamp>| time.map(seconds);
    sqlx::query(
        "INSERT INTO settlements (id, network, scheme, payer, pay_to, asset, amount, expires,
             request, decoded_at, attempt, failures, state, reason, detail, transaction_id,
             settled_amount, claimed_at, concluded_at, success_reported_at, final_at, fault,
             retry_after, caller, state_id, state_revision, state_exclusive, refund_of,
             retries_without_limit, receipt, reported_to, number)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
             $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31,
             (SELECT coalesce(max(number), 0) + 1 FROM settlements))
         ON CONFLICT (id) DO UPDATE SET
             network = excluded.network, scheme = excluded.scheme, payer = excluded.payer,
             pay_to = excluded.pay_to, asset = excluded.asset, amount = excluded.amount,
             expires = excluded.expires, request = excluded.request,
             decoded_at = excluded.decoded_at, attempt = excluded.attempt,
             failures = excluded.failures, state = excluded.state, reason = excluded.reason,
             detail = excluded.detail, transaction_id = excluded.transaction_id,
             settled_amount = excluded.settled_amount, claimed_at = excluded.claimed_at,
             concluded_at = excluded.concluded_at,
             success_reported_at = excluded.success_reported_at, final_at = excluded.final_at,
             fault = excluded.fault, retry_after = excluded.retry_after, caller = excluded.caller,
             state_id = excluded.state_id, state_revision = excluded.state_revision,
             state_exclusive = excluded.state_exclusive, refund_of = excluded.refund_of,
             retries_without_limit = excluded.retries_without_limit, receipt = excluded.receipt,
             reported_to = excluded.reported_to,
             owner = CASE WHEN excluded.state = 'open' THEN settlements.owner END",
    )
    .bind(claim.id.as_bytes().as_slice())
    .bind(&claim.network)
    .bind(&claim.scheme)
    .bind(&claim.payer)
    .bind(&claim.pay_to)
    .bind(&claim.asset)
    .bind(claim.amount.to_string())
    .bind(seconds(claim.expires))
    .bind(&claim.request)
    .bind(seconds(claim.decoded_at))
    .bind(i64::from(settlement.attempt))
    .bind(i64::from(settlement.failures))
    .bind(columns.state)
    .bind(columns.reason)
    .bind(columns.detail.map(without_nul))
    .bind(columns.transaction)
    .bind(columns.amount)
    .bind(seconds(settlement.claimed_at))
    .bind(optional(settlement.concluded_at))
    .bind(optional(settlement.success_reported_at))
    .bind(optional(settlement.final_at))
    .bind(columns.fault)
    .bind(columns.retry_after)
    .bind(&claim.caller)
    .bind(place.map(|place| place.state.as_bytes().as_slice()))
    .bind(place.map(|place| integer(place.revision)))
    .bind(place.is_some_and(|place| place.exclusive))
    .bind(claim.refund_of.as_ref().map(|id| id.as_bytes().as_slice()))
    .bind(claim.retries_without_limit)
    .bind(columns.receipt)
    .bind(&settlement.reported_to)
    .execute(&mut *connection)
    .await?;
    match &settlement.state {
        State::Open => Ok(()),
        // A settlement that has ended has no record for itself any more.
        State::Concluded(_) => release(connection, settlement).await,
    }
}

/// Frees the record that a settlement had for itself before its end was restored.
async fn release(
    connection: &mut PgConnection,
    settlement: &Settlement,
) -> Result<(), sqlx::Error> {
    match settlement.claim.exclusive() {
        Some(place) => {
            let state = place.state.as_bytes().as_slice();
            super::states::free(connection, state, &settlement.claim.id).await
        }
        None => Ok(()),
    }
}

async fn restore_state(
    connection: &mut PgConnection,
    StoredState { record, exclusive }: &StoredState,
) -> Result<Restored, sqlx::Error> {
    let row =
        sqlx::query("SELECT network, scheme, revision, state FROM scheme_states WHERE id = $1")
            .bind(record.id.as_bytes().as_slice())
            .fetch_optional(&mut *connection)
            .await?;
    let known: Option<u64> = match &row {
        None => None,
        Some(row) => {
            let revision = number(row.try_get("revision")?)?;
            if revision > 0 && record.revision > 0 {
                let owner = (row.try_get("network")?, row.try_get("scheme")?);
                check_owner(owner, (&record.network, &record.scheme))?;
            }
            if revision == record.revision && row.try_get::<&[u8], _>("state")? != record.state {
                return Err(refused(
                    "the state record has another content at this revision",
                ));
            }
            Some(revision)
        }
    };
    if known.is_some_and(|revision| revision >= record.revision) {
        return Ok(Restored::Kept);
    }
    let written = sqlx::query(
        "INSERT INTO scheme_states (id, network, scheme, revision, state, due, exclusive)
         SELECT $1, $2, $3, $4, $5, $6,
             (SELECT id FROM settlements WHERE id = $7 AND state = 'open')
         WHERE $4 > 0 OR EXISTS (SELECT 1 FROM settlements WHERE id = $7 AND state = 'open')
         ON CONFLICT (id) DO UPDATE SET
             network = excluded.network, scheme = excluded.scheme, revision = excluded.revision,
             state = excluded.state, due = excluded.due,
             exclusive = coalesce(scheme_states.exclusive, excluded.exclusive)",
    )
    .bind(record.id.as_bytes().as_slice())
    .bind(&record.network)
    .bind(&record.scheme)
    .bind(integer(record.revision))
    .bind(&record.state)
    .bind(record.due.map(seconds))
    .bind(exclusive.as_ref().map(|id| id.as_bytes().as_slice()))
    .execute(connection)
    .await?;
    Ok(match (written.rows_affected(), known) {
        (0, _) => Restored::Kept,
        (_, None) => Restored::Added,
        (_, Some(_)) => Restored::Raised,
    })
}
