//! Between rows and types: how settlements and transactions are stored, and read back.

use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

use quittance_core::{
    Fault, FaultKind, LaneId, PaymentId, Reason, SchemeReceipt, SchemeState, StateId, Timestamp,
    Transaction, TransactionId,
};
use sqlx::Row;
use sqlx::postgres::PgRow;

pub(super) use crate::columns::{OutcomeColumns, integer, seconds};
use crate::entry::RecordedTransaction;
use crate::replica::ReplicaId;
use crate::settlement::{Claim, Outcome, Place, Settlement, SignedFor, State, StateKind};

/// A transaction from its row.
pub(super) fn transaction(row: &PgRow) -> Result<Transaction, sqlx::Error> {
    Ok(Transaction {
        id: TransactionId::new(row.try_get("id")?),
        lane: LaneId::new(row.try_get("lane")?),
        sequence: number(row.try_get("sequence")?)?,
        bytes: row.try_get::<&[u8], _>("bytes")?.into(),
    })
}

/// A transaction with all that was recorded about it.
pub(super) fn recorded(row: &PgRow) -> Result<RecordedTransaction, sqlx::Error> {
    Ok(RecordedTransaction {
        network: row.try_get("network")?,
        transaction: transaction(row)?,
        signed_at: time(row.try_get("signed_at")?)?,
        is_withdrawn: row.try_get("withdrawn")?,
    })
}

/// A transaction of a settlement, from the row of both.
pub(super) fn signed_for(row: &PgRow) -> Result<SignedFor, sqlx::Error> {
    Ok(SignedFor {
        attempt: number(row.try_get("attempt")?)?,
        step: number(row.try_get("step")?)?,
        transaction: transaction(row)?,
    })
}

/// A state record from its row.
pub(super) fn scheme_state(row: &PgRow) -> Result<SchemeState, sqlx::Error> {
    Ok(SchemeState {
        id: state_id(row.try_get("id")?)?,
        network: row.try_get("network")?,
        scheme: row.try_get("scheme")?,
        revision: number(row.try_get("revision")?)?,
        state: row.try_get("state")?,
        due: optional_time(row, "due")?,
    })
}

/// A settlement from its row, without its transactions.
pub(super) fn settlement(row: &PgRow) -> Result<Settlement, sqlx::Error> {
    Ok(Settlement {
        claim: Claim {
            id: payment_id(row, "id")?,
            network: row.try_get("network")?,
            scheme: row.try_get("scheme")?,
            payer: row.try_get("payer")?,
            pay_to: row.try_get("pay_to")?,
            asset: row.try_get("asset")?,
            amount: parsed(row, "amount")?,
            expires: time(row.try_get("expires")?)?,
            request: row.try_get("request")?,
            decoded_at: time(row.try_get("decoded_at")?)?,
            caller: row.try_get("caller")?,
            access: access(row)?,
            refund_of: optional_payment_id(row, "refund_of")?,
            retries_without_limit: row.try_get("retries_without_limit")?,
            is_unfinished: false,
        },
        attempt: number(row.try_get("attempt")?)?,
        failures: number(row.try_get("failures")?)?,
        state: state(row)?,
        transactions: Vec::new(),
        withdrawn: Vec::new(),
        claimed_at: time(row.try_get("claimed_at")?)?,
        concluded_at: optional_time(row, "concluded_at")?,
        success_reported_at: optional_time(row, "success_reported_at")?,
        reported_to: row.try_get("reported_to")?,
        final_at: optional_time(row, "final_at")?,
        owner: optional_replica(row, "owner")?,
    })
}

/// A settlement's access to a state record, if it has one.
fn access(row: &PgRow) -> Result<Option<Place>, sqlx::Error> {
    let Some(id) = row.try_get::<Option<&[u8]>, _>("state_id")? else {
        return Ok(None);
    };
    Ok(Some(Place {
        state: state_id(id)?,
        revision: number(row.try_get("state_revision")?)?,
        exclusive: row.try_get("state_exclusive")?,
    }))
}

/// What a settlement's answer says in the scheme's own way.
fn receipt(row: &PgRow) -> Result<SchemeReceipt, sqlx::Error> {
    match row.try_get::<Option<&str>, _>("receipt")? {
        None => Ok(SchemeReceipt::default()),
        Some(text) => SchemeReceipt::from_text(text)
            .map_err(|error| invalid(&format!("an unreadable receipt: {error}"))),
    }
}

fn state(row: &PgRow) -> Result<State, sqlx::Error> {
    let kind: StateKind = parsed(row, "state")?;
    let transaction: Option<String> = row.try_get("transaction_id")?;
    let transaction = transaction.as_deref().map(TransactionId::new);
    let detail: Option<String> = row.try_get("detail")?;
    let detail = detail.unwrap_or_default();
    let reason = || row.try_get::<String, _>("reason").map(Reason::from_code);
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
fn fault(row: &PgRow, detail: &str) -> Result<Fault, sqlx::Error> {
    let code: &str = row.try_get("fault")?;
    let kind = FaultKind::ALL.into_iter().find(|kind| kind.code() == code);
    let kind = kind.ok_or_else(|| invalid(&format!("the unknown fault {code:?}")))?;
    let retry_after: Option<i64> = row.try_get("retry_after")?;
    let retry_after = retry_after.map(number).transpose()?;
    Ok(Fault {
        retry_after: retry_after.map(Duration::from_secs),
        ..Fault::new(kind, detail)
    })
}

/// A payment's identity: 32 bytes.
pub(super) fn payment_id(row: &PgRow, column: &str) -> Result<PaymentId, sqlx::Error> {
    identity(row.try_get(column)?).map(PaymentId::from_bytes)
}

/// As [`payment_id`], for a column that may be empty.
pub(super) fn optional_payment_id(
    row: &PgRow,
    column: &str,
) -> Result<Option<PaymentId>, sqlx::Error> {
    let bytes: Option<&[u8]> = row.try_get(column)?;
    let bytes = bytes.map(identity).transpose()?;
    Ok(bytes.map(PaymentId::from_bytes))
}

/// A replica: 16 bytes.
pub(super) fn replica(row: &PgRow, column: &str) -> Result<ReplicaId, sqlx::Error> {
    let replica = optional_replica(row, column)?;
    replica.ok_or_else(|| invalid("no replica"))
}

/// A replica, from a column that may be empty.
pub(super) fn optional_replica(
    row: &PgRow,
    column: &str,
) -> Result<Option<ReplicaId>, sqlx::Error> {
    let Some(bytes) = row.try_get::<Option<&[u8]>, _>(column)? else {
        return Ok(None);
    };
    let bytes = bytes.try_into();
    let bytes = bytes.map_err(|_| invalid("a replica that is not 16 bytes"))?;
    Ok(Some(ReplicaId::from_bytes(bytes)))
}

fn state_id(bytes: &[u8]) -> Result<StateId, sqlx::Error> {
    identity(bytes).map(StateId::from_bytes)
}

fn identity(bytes: &[u8]) -> Result<[u8; 32], sqlx::Error> {
    let identity = bytes.try_into();
    identity.map_err(|_| invalid("an identity that is not 32 bytes"))
}

fn optional_time(row: &PgRow, column: &str) -> Result<Option<Timestamp>, sqlx::Error> {
    let seconds: Option<i64> = row.try_get(column)?;
    seconds.map(time).transpose()
}

pub(super) fn parsed<T: FromStr>(row: &PgRow, column: &str) -> Result<T, sqlx::Error> {
    let text: &str = row.try_get(column)?;
    text.parse()
        .map_err(|_| invalid(&format!("the invalid text {text:?} in the column {column}")))
}

pub(super) fn time(seconds: i64) -> Result<Timestamp, sqlx::Error> {
    number(seconds).map(Timestamp::from_secs)
}

/// A number that was stored as PostgreSQL's integer.
pub(super) fn number<T: TryFrom<i64>>(value: i64) -> Result<T, sqlx::Error> {
    T::try_from(value).map_err(|_| invalid("a number out of range"))
}

/// An error about one row: it has a value that no version of this program writes.
pub(super) fn invalid(what: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("the row has {what}").into())
}

/// A text for people, as PostgreSQL can store it: it has no text with the character zero.
pub(super) fn without_nul(text: &str) -> Cow<'_, str> {
    match text.contains('\0') {
        true => Cow::Owned(text.replace('\0', "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}
