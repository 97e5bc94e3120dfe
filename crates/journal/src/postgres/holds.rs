//! State records that verified payments hold. They are no part of the record of settlements, so
//! each is one statement of its own.

use std::time::Duration;

use quittance_core::{PaymentId, StateId};
use sqlx::postgres::PgConnection;

use super::leases::interval;

/// [`Journal::hold_state`](crate::Journal::hold_state).
pub(super) async fn hold(
    connection: &mut PgConnection,
    state: &StateId,
    payment: &PaymentId,
    duration: Duration,
) -> Result<bool, sqlx::Error> {
    let held = sqlx::query(
        "INSERT INTO state_holds (state, payment, until) VALUES ($1, $2, clock_timestamp() + $3)
         ON CONFLICT (state) DO UPDATE SET payment = excluded.payment, until = excluded.until
         WHERE state_holds.until <= clock_timestamp()",
    )
    .bind(state.as_bytes().as_slice())
    .bind(payment.as_bytes().as_slice())
    .bind(interval(duration)?)
    .execute(connection)
    .await?;
    Ok(held.rows_affected() == 1)
}

/// [`Journal::release_state`](crate::Journal::release_state).
pub(super) async fn release(
    connection: &mut PgConnection,
    state: &StateId,
    payment: &PaymentId,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM state_holds WHERE state = $1 AND payment = $2")
        .bind(state.as_bytes().as_slice())
        .bind(payment.as_bytes().as_slice())
        .execute(connection)
        .await?;
    Ok(())
}
