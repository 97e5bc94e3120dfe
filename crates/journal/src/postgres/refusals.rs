//! What a claim must fulfil besides being free: for refunds, for exclusive state records, and for
//! claims that retry without limit.
//!
//! All conditions are checked before the claim is written. The writer executes one write at a time,
//! so nothing changes in between.

use quittance_core::{Amount, PaymentId, Timestamp};
use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::reads::{fetch, fetch_alone};
use super::rows::parsed;
use super::states;
use crate::settlement::{Claim, Claimed};

/// Why a claim is not won. `None` if it fulfils its conditions, or has none.
pub(super) async fn refuse(
    connection: &mut PgConnection,
    claim: &Claim,
    now: Timestamp,
) -> Result<Option<Claimed>, sqlx::Error> {
    if claim.is_unfinished {
        return Ok(None);
    }
    let (original, place) = (claim.refund_of.as_ref(), claim.exclusive());
    // Ordinary claims need no more than their one statement.
    if original.is_none() && place.is_none() && !claim.retries_without_limit {
        return Ok(None);
    }
    // An authorization that was claimed before has its own answer: its refund is in the sum
    // already, and its state record may be its own.
    if let Some(known) = fetch(connection, &claim.id).await? {
        match known.claimable_from(claim.retries_without_limit, now) {
            None => return Ok(Some(Claimed::Taken(Box::new(known)))),
            Some(until) if now < until => return Ok(Some(Claimed::TooSoon { until })),
            Some(_) => {}
        }
    }
    if let Some(original) = original
        && let Some(refused) = refuse_refund(connection, claim, original).await?
    {
        return Ok(Some(refused));
    }
    match place {
        None => Ok(None),
        Some(place) => states::refuse(connection, claim, place).await,
    }
}

/// Why a claim is not won as a refund of `original`.
async fn refuse_refund(
    connection: &mut PgConnection,
    claim: &Claim,
    original: &PaymentId,
) -> Result<Option<Claimed>, sqlx::Error> {
    let known = fetch_alone(connection, original).await?;
    let settled = match claim.refundable(known.as_ref()) {
        Ok(settled) => settled,
        Err(problem) => return Ok(Some(Claimed::NotRefundable(problem))),
    };
    let refunded = refunded(connection, original).await?;
    let left = settled.checked_sub(refunded).unwrap_or(Amount::ZERO);
    Ok((claim.amount > left).then_some(Claimed::RefundsExceed { left }))
}

/// The sum of all refunds of `original` that have settled or still may. A refund that settled for
/// less counts in full until it is final: if the chain takes it back, it may settle in full.
async fn refunded(
    connection: &mut PgConnection,
    original: &PaymentId,
) -> Result<Amount, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT amount, coalesce(settled_amount, amount) AS moved, final_at IS NOT NULL AS is_final
         FROM settlements WHERE refund_of = $1 AND state IN ('open', 'settled')",
    )
    .bind(original.as_bytes().as_slice())
    .fetch_all(connection)
    .await?;
    // Amounts have up to 78 digits, which SQLite cannot add.
    rows.iter().try_fold(Amount::ZERO, |sum, row| {
        let (claimed, moved): (Amount, Amount) = (parsed(row, "amount")?, parsed(row, "moved")?);
        let counted = match row.try_get("is_final")? {
            true => moved,
            false => moved.max(claimed),
        };
        Ok(sum.checked_add(counted).unwrap_or(Amount::MAX))
    })
}
