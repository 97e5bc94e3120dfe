//! Writes entries that were read from a journal.

use async_trait::async_trait;
use quittance_core::Timestamp;
use rusqlite::{Connection, params};

use super::errors::{SqlError, refused};
use super::reads::fetch_alone;
use super::rows::{OutcomeColumns, bytes, integer, number, recorded, seconds, text};
use super::sql;
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

    async fn execute(&self, connection: &mut Connection) -> Result<Restored, SqlError> {
        match &self.0 {
            Entry::Transaction(transaction) => restore_transaction(connection, transaction),
            Entry::Settlement { settlement, signed } => {
                restore_settlement(connection, settlement, signed)
            }
            Entry::State(state) => restore_state(connection, state),
        }
    }
}

fn restore_transaction(
    connection: &Connection,
    restored: &RecordedTransaction,
) -> Result<Restored, SqlError> {
    let transaction = &restored.transaction;
    let sql = "SELECT * FROM transactions WHERE id = ?1";
    let known = sql::optional(connection, sql, params![transaction.id.as_str()], recorded)?;
    let Some(known) = known else {
        sql::execute(
            connection,
            "INSERT INTO transactions (id, network, lane, sequence, bytes, signed_at, withdrawn)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                transaction.id.as_str(),
                &restored.network,
                transaction.lane.address(),
                integer(transaction.sequence),
                &*transaction.bytes,
                seconds(restored.signed_at),
                restored.is_withdrawn
            ],
        )?;
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
    sql::execute(
        connection,
        "UPDATE transactions SET withdrawn = 0 WHERE id = ?1",
        params![transaction.id.as_str()],
    )?;
    Ok(Restored::Raised)
}

fn restore_settlement(
    connection: &Connection,
    restored: &Settlement,
    signed: &[SignedRef],
) -> Result<Restored, SqlError> {
    let known = fetch_alone(connection, &restored.claim.id)?;
    let mut answer = match &known {
        None => {
            write(connection, restored)?;
            Restored::Added
        }
        Some(known) => match known.merged(restored) {
            Err(contradiction) => return Err(refused(&contradiction.to_string())),
            Ok(None) => Restored::Kept,
            Ok(Some(merged)) => {
                write(connection, &merged)?;
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
        let added = sql::execute(
            connection,
            "INSERT INTO settlement_transactions (settlement, attempt, transaction_id, step)
             VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            params![
                restored.claim.id.as_bytes(),
                attempt,
                transaction.as_str(),
                step
            ],
        )?;
        if added > 0 && answer == Restored::Kept {
            answer = Restored::Raised;
        }
    }
    Ok(answer)
}

/// Writes every column of a settlement. A new one gets the next number.
fn write(connection: &Connection, settlement: &Settlement) -> Result<(), SqlError> {
    let (claim, place) = (&settlement.claim, settlement.claim.access.as_ref());
    let columns = match &settlement.state {
        State::Open => OutcomeColumns {
            state: settlement.state.kind().as_str(),
            ..OutcomeColumns::default()
        },
        State::Concluded(outcome) => OutcomeColumns::new(outcome),
    };
    let optional = |time: Option<Timestamp>| time.map(seconds);
    sql::execute(
        connection,
        "INSERT INTO settlements (id, network, scheme, payer, pay_to, asset, amount, expires,
             request, decoded_at, attempt, failures, state, reason, detail, transaction_id,
             settled_amount, claimed_at, concluded_at, success_reported_at, final_at, fault,
             retry_after, caller, state_id, state_revision, state_exclusive, refund_of,
             retries_without_limit, receipt, reported_to, number)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
             ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31,
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
             owner = CASE WHEN excluded.state = 'open' THEN owner END",
        params![
            claim.id.as_bytes(),
            &claim.network,
            &claim.scheme,
            &claim.payer,
            &claim.pay_to,
            &claim.asset,
            claim.amount.to_string(),
            seconds(claim.expires),
            &claim.request,
            seconds(claim.decoded_at),
            settlement.attempt,
            settlement.failures,
            columns.state,
            columns.reason,
            columns.detail,
            columns.transaction,
            columns.amount,
            seconds(settlement.claimed_at),
            optional(settlement.concluded_at),
            optional(settlement.success_reported_at),
            optional(settlement.final_at),
            columns.fault,
            columns.retry_after,
            &claim.caller,
            place.map(|place| place.state.as_bytes()),
            place.map(|place| integer(place.revision)),
            place.is_some_and(|place| place.exclusive),
            claim.refund_of.as_ref().map(|id| id.as_bytes()),
            claim.retries_without_limit,
            columns.receipt,
            &settlement.reported_to
        ],
    )?;
    match &settlement.state {
        State::Open => Ok(()),
        // A settlement that has ended has no record for itself any more.
        State::Concluded(_) => release(connection, settlement),
    }
}

/// Frees the record that a settlement had for itself before its end was restored.
fn release(connection: &Connection, settlement: &Settlement) -> Result<(), SqlError> {
    match settlement.claim.exclusive() {
        Some(place) => {
            let state = place.state.as_bytes().as_slice();
            super::states::free(connection, state, &settlement.claim.id)
        }
        None => Ok(()),
    }
}

fn restore_state(
    connection: &Connection,
    StoredState { record, exclusive }: &StoredState,
) -> Result<Restored, SqlError> {
    let known = sql::optional(
        connection,
        "SELECT network, scheme, revision, state FROM scheme_states WHERE id = ?1",
        params![record.id.as_bytes()],
        |row| {
            let revision: u64 = number(row.get("revision")?)?;
            if revision > 0 && record.revision > 0 {
                let owner = (text(row, "network")?, text(row, "scheme")?);
                check_owner(owner, (&record.network, &record.scheme))?;
            }
            if revision == record.revision && bytes(row, "state")? != record.state {
                return Err(refused(
                    "the state record has another content at this revision",
                ));
            }
            Ok(revision)
        },
    )?;
    if known.is_some_and(|revision| revision >= record.revision) {
        return Ok(Restored::Kept);
    }
    let written = sql::execute(
        connection,
        "INSERT INTO scheme_states (id, network, scheme, revision, state, due, exclusive)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6,
             (SELECT id FROM settlements WHERE id = ?7 AND state = 'open')
         WHERE ?4 > 0 OR EXISTS (SELECT 1 FROM settlements WHERE id = ?7 AND state = 'open')
         ON CONFLICT (id) DO UPDATE SET
             network = excluded.network, scheme = excluded.scheme, revision = excluded.revision,
             state = excluded.state, due = excluded.due,
             exclusive = coalesce(exclusive, excluded.exclusive)",
        params![
            record.id.as_bytes(),
            &record.network,
            &record.scheme,
            integer(record.revision),
            &record.state,
            record.due.map(seconds),
            exclusive.as_ref().map(|id| id.as_bytes())
        ],
    )?;
    Ok(match (written, known) {
        (0, _) => Restored::Kept,
        (_, None) => Restored::Added,
        (_, Some(_)) => Restored::Raised,
    })
}
