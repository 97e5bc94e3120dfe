//! Between rows and types: how settlements and transactions are stored, and read back.

use std::str::FromStr;
use std::time::Duration;

use quittance_core::{
    Fault, FaultKind, LaneId, PaymentId, Reason, SchemeReceipt, SchemeState, StateId, Timestamp,
    Transaction, TransactionId,
};
use rusqlite::Row;

use super::errors::{SqlError, invalid};
pub(super) use crate::columns::{OutcomeColumns, integer, seconds};
use crate::entry::RecordedTransaction;
use crate::replica::ReplicaId;
use crate::settlement::{Claim, Outcome, Place, Settlement, SignedFor, State, StateKind};

/// A transaction from its row.
pub(super) fn transaction(row: &Row<'_>) -> Result<Transaction, SqlError> {
    Ok(Transaction {
        id: TransactionId::new(text(row, "id")?),
        lane: LaneId::new(text(row, "lane")?),
        sequence: number(row.get("sequence")?)?,
        bytes: bytes(row, "bytes")?.into(),
    })
}

/// A transaction with all that was recorded about it.
pub(super) fn recorded(row: &Row<'_>) -> Result<RecordedTransaction, SqlError> {
    Ok(RecordedTransaction {
        network: row.get("network")?,
        transaction: transaction(row)?,
        signed_at: time(row.get("signed_at")?)?,
        is_withdrawn: row.get("withdrawn")?,
    })
}

/// A transaction of a settlement, from the row of both.
pub(super) fn signed_for(row: &Row<'_>) -> Result<SignedFor, SqlError> {
    Ok(SignedFor {
        attempt: row.get("attempt")?,
        step: row.get("step")?,
        transaction: transaction(row)?,
    })
}

/// A state record from its row.
pub(super) fn scheme_state(row: &Row<'_>) -> Result<SchemeState, SqlError> {
    Ok(SchemeState {
        id: state_id(bytes(row, "id")?)?,
        network: row.get("network")?,
        scheme: row.get("scheme")?,
        revision: number(row.get("revision")?)?,
        state: row.get("state")?,
        due: optional_time(row, "due")?,
    })
}

/// A settlement from its row, without its transactions.
pub(super) fn settlement(row: &Row<'_>) -> Result<Settlement, SqlError> {
    Ok(Settlement {
        claim: Claim {
            id: payment_id(row, "id")?,
            network: row.get("network")?,
            scheme: row.get("scheme")?,
            payer: row.get("payer")?,
            pay_to: row.get("pay_to")?,
            asset: row.get("asset")?,
            amount: parsed(row, "amount")?,
            expires: time(row.get("expires")?)?,
            request: row.get("request")?,
            decoded_at: time(row.get("decoded_at")?)?,
            caller: row.get("caller")?,
            access: access(row)?,
            refund_of: optional_payment_id(row, "refund_of")?,
            retries_without_limit: row.get("retries_without_limit")?,
            is_unfinished: false,
        },
        attempt: row.get("attempt")?,
        failures: row.get("failures")?,
        state: state(row)?,
        transactions: Vec::new(),
        withdrawn: Vec::new(),
        claimed_at: time(row.get("claimed_at")?)?,
        concluded_at: optional_time(row, "concluded_at")?,
        success_reported_at: optional_time(row, "success_reported_at")?,
        reported_to: row.get("reported_to")?,
        final_at: optional_time(row, "final_at")?,
        owner: optional_replica(row, "owner")?,
    })
}

/// A settlement's access to a state record, if it has one.
fn access(row: &Row<'_>) -> Result<Option<Place>, SqlError> {
    let Some(id) = optional_bytes(row, "state_id")? else {
        return Ok(None);
    };
    Ok(Some(Place {
        state: state_id(id)?,
        revision: number(row.get("state_revision")?)?,
        exclusive: row.get("state_exclusive")?,
    }))
}

/// What a settlement's answer says in the scheme's own way.
fn receipt(row: &Row<'_>) -> Result<SchemeReceipt, SqlError> {
    match row.get::<_, Option<String>>("receipt")? {
        None => Ok(SchemeReceipt::default()),
        Some(text) => SchemeReceipt::from_text(&text)
            .map_err(|error| invalid(&format!("an unreadable receipt: {error}"))),
    }
}

fn state(row: &Row<'_>) -> Result<State, SqlError> {
    let kind: StateKind = parsed(row, "state")?;
    let transaction: Option<String> = row.get("transaction_id")?;
    let transaction = transaction.as_deref().map(TransactionId::new);
    let detail: Option<String> = row.get("detail")?;
    let detail = detail.unwrap_or_default();
    let reason = || row.get::<_, String>("reason").map(Reason::from_code);
    Ok(match kind {
        StateKind::Open => State::Open,
        StateKind::Settled => State::Concluded(Outcome::Settled {
            transaction,
            amount: parsed(row, "settled_amount")?,
            receipt: receipt(row)?,
        }),
        StateKind::Failed => State::Concluded(Outcome::Failed {
            reason: reason()?,
            detail,
            transaction,
        }),
        StateKind::Lost => State::Concluded(Outcome::Lost {
            reason: reason()?,
            detail,
            transaction,
        }),
        StateKind::Released => State::Concluded(Outcome::Released {
            fault: fault(row, &detail)?,
        }),
    })
}

/// The fault of a released attempt, with its advice on when to retry.
fn fault(row: &Row<'_>, detail: &str) -> Result<Fault, SqlError> {
    let code = text(row, "fault")?;
    let kind = FaultKind::ALL.into_iter().find(|kind| kind.code() == code);
    let kind = kind.ok_or_else(|| invalid(&format!("the unknown fault {code:?}")))?;
    let retry_after: Option<i64> = row.get("retry_after")?;
    let retry_after = retry_after.map(number).transpose()?;
    Ok(Fault {
        retry_after: retry_after.map(Duration::from_secs),
        ..Fault::new(kind, detail)
    })
}

/// A payment's identity: 32 bytes.
pub(super) fn payment_id(row: &Row<'_>, column: &str) -> Result<PaymentId, SqlError> {
    identity(bytes(row, column)?).map(PaymentId::from_bytes)
}

/// As [`payment_id`], for a column that may be empty.
pub(super) fn optional_payment_id(
    row: &Row<'_>,
    column: &str,
) -> Result<Option<PaymentId>, SqlError> {
    let bytes = optional_bytes(row, column)?.map(identity).transpose()?;
    Ok(bytes.map(PaymentId::from_bytes))
}

/// A replica, from a column that may be empty.
pub(super) fn optional_replica(row: &Row<'_>, column: &str) -> Result<Option<ReplicaId>, SqlError> {
    let Some(bytes) = optional_bytes(row, column)? else {
        return Ok(None);
    };
    let bytes = bytes.try_into();
    let bytes = bytes.map_err(|_| invalid("a replica that is not 16 bytes"))?;
    Ok(Some(ReplicaId::from_bytes(bytes)))
}

fn state_id(bytes: &[u8]) -> Result<StateId, SqlError> {
    identity(bytes).map(StateId::from_bytes)
}

fn identity(bytes: &[u8]) -> Result<[u8; 32], SqlError> {
    let identity = bytes.try_into();
    identity.map_err(|_| invalid("an identity that is not 32 bytes"))
}

fn optional_time(row: &Row<'_>, column: &str) -> Result<Option<Timestamp>, SqlError> {
    let seconds: Option<i64> = row.get(column)?;
    seconds.map(time).transpose()
}

pub(super) fn parsed<T: FromStr>(row: &Row<'_>, column: &str) -> Result<T, SqlError> {
    let text = text(row, column)?;
    text.parse()
        .map_err(|_| invalid(&format!("the invalid text {text:?} in the column {column}")))
}

pub(super) fn time(seconds: i64) -> Result<Timestamp, SqlError> {
    number(seconds).map(Timestamp::from_secs)
}

/// A number that was stored as SQLite's integer.
pub(super) fn number<T: TryFrom<i64>>(value: i64) -> Result<T, SqlError> {
    T::try_from(value).map_err(|_| invalid("a number out of range"))
}

/// A text, without a copy of it.
pub(super) fn text<'r>(row: &'r Row<'_>, column: &str) -> Result<&'r str, SqlError> {
    let text = row.get_ref(column)?.as_str();
    text.map_err(|_| invalid(&format!("no text in the column {column}")))
}

/// As [`text`], for a column that may be empty.
pub(super) fn optional_text<'r>(
    row: &'r Row<'_>,
    column: &str,
) -> Result<Option<&'r str>, SqlError> {
    let text = row.get_ref(column)?.as_str_or_null();
    text.map_err(|_| invalid(&format!("no text in the column {column}")))
}

/// Bytes, without a copy of them.
pub(super) fn bytes<'r>(row: &'r Row<'_>, column: &str) -> Result<&'r [u8], SqlError> {
    let bytes = row.get_ref(column)?.as_blob();
    bytes.map_err(|_| invalid(&format!("no bytes in the column {column}")))
}

/// As [`bytes`], for a column that may be empty.
pub(super) fn optional_bytes<'r>(
    row: &'r Row<'_>,
    column: &str,
) -> Result<Option<&'r [u8]>, SqlError> {
    let bytes = row.get_ref(column)?.as_blob_or_null();
    bytes.map_err(|_| invalid(&format!("no bytes in the column {column}")))
}
