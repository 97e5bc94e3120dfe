//! State records: their writes, and which settlement has one for itself.

use async_trait::async_trait;
use quittance_core::{PaymentId, SchemeState, Timestamp};
use sqlx::Row;
use sqlx::postgres::PgConnection;
use tracing::error;

use super::errors::refused;
use super::rows::{integer, number, optional_payment_id, scheme_state, seconds};
use super::store::Writer;
use crate::group::Write;
use crate::settlement::{Claim, Claimed, Place};

/// The settlement that takes a state record for itself.
pub(super) struct Holder<'a> {
    pub(super) settlement: &'a [u8],
    /// The network and the scheme of a record that does not exist yet.
    pub(super) network: &'a str,
    pub(super) scheme: &'a str,
}

/// Why the state record of an exclusive claim cannot be taken. `None` if it can.
pub(super) async fn refuse(
    connection: &mut PgConnection,
    claim: &Claim,
    place: &Place,
) -> Result<Option<Claimed>, sqlx::Error> {
    let row = sqlx::query("SELECT * FROM scheme_states WHERE id = $1")
        .bind(place.state.as_bytes().as_slice())
        .fetch_optional(connection)
        .await?;
    let (revision, holder) = match &row {
        None => (0, None),
        Some(row) => (
            number(row.try_get("revision")?)?,
            optional_payment_id(row, "exclusive")?,
        ),
    };
    if let Some(row) = row.filter(|_| revision > 0) {
        let owner = (row.try_get("network")?, row.try_get("scheme")?);
        check_owner(owner, (&claim.network, &claim.scheme))?;
    }
    Ok(match holder {
        Some(holder) => Some(Claimed::StateTaken(holder)),
        None => (revision != place.revision).then_some(Claimed::StateMoved),
    })
}

/// Takes a state record for a settlement, unless another one has it. A record that does not exist
/// gets a row with the revision 0.
pub(super) async fn take(
    connection: &mut PgConnection,
    state: &[u8],
    holder: &Holder<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO scheme_states (id, network, scheme, revision, state, exclusive)
         VALUES ($1, $2, $3, 0, '', $4)
         ON CONFLICT (id) DO UPDATE SET exclusive = excluded.exclusive
             WHERE scheme_states.exclusive IS NULL",
    )
    .bind(state)
    .bind(holder.network)
    .bind(holder.scheme)
    .bind(holder.settlement)
    .execute(connection)
    .await?;
    Ok(())
}

/// Frees the state record that a settlement has taken. A record that was never written disappears.
pub(super) async fn free(
    connection: &mut PgConnection,
    state: &[u8],
    settlement: &PaymentId,
) -> Result<(), sqlx::Error> {
    for sql in [
        "DELETE FROM scheme_states WHERE id = $1 AND exclusive = $2 AND revision = 0",
        "UPDATE scheme_states SET exclusive = NULL WHERE id = $1 AND exclusive = $2",
    ] {
        sqlx::query(sql)
            .bind(state)
            .bind(settlement.as_bytes().as_slice())
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Writes a state record if the stored one has the revision before, and either no settlement has it
/// exclusively or `even_if_taken`. Returns whether it was written.
pub(super) async fn write_next(
    connection: &mut PgConnection,
    state: &SchemeState,
    even_if_taken: bool,
) -> Result<bool, sqlx::Error> {
    let id = state.id.as_bytes().as_slice();
    let written = sqlx::query(
        "INSERT INTO scheme_states (id, network, scheme, revision, state, due)
         SELECT $1, $2, $3, $4, $5, $6
         WHERE $4 = 1 OR EXISTS (SELECT 1 FROM scheme_states WHERE id = $1)
         ON CONFLICT (id) DO UPDATE SET
             network = excluded.network, scheme = excluded.scheme, revision = excluded.revision,
             state = excluded.state, due = excluded.due
         WHERE scheme_states.revision = excluded.revision - 1
             AND (scheme_states.exclusive IS NULL OR $7)
             AND (scheme_states.revision = 0
                 OR (scheme_states.network, scheme_states.scheme)
                     = (excluded.network, excluded.scheme))",
    )
    .bind(id)
    .bind(&state.network)
    .bind(&state.scheme)
    .bind(integer(state.revision))
    .bind(&state.state)
    .bind(state.due.map(seconds))
    .bind(even_if_taken)
    .execute(&mut *connection)
    .await?;
    if written.rows_affected() == 1 {
        return Ok(true);
    }
    let owner: Option<(String, String)> =
        sqlx::query_as("SELECT network, scheme FROM scheme_states WHERE id = $1 AND revision > 0")
            .bind(id)
            .fetch_optional(connection)
            .await?;
    if let Some((network, scheme)) = &owner {
        check_owner((network, scheme), (&state.network, &state.scheme))?;
    }
    Ok(false)
}

/// Refuses a record of another scheme, or of another network. It has another meaning: judging again
/// would never help.
pub(super) fn check_owner(owner: (&str, &str), user: (&str, &str)) -> Result<(), sqlx::Error> {
    if owner == user {
        return Ok(());
    }
    let (network, scheme) = owner;
    let what = format!("the state record belongs to the scheme {scheme:?} on {network}");
    Err(refused(&what))
}

/// [`StateStore::write_state`](quittance_core::StateStore::write_state).
pub(super) struct WriteState(pub(super) SchemeState);

#[async_trait]
impl Write<Writer> for WriteState {
    type Answer = bool;

    async fn execute(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        write_next(connection, &self.0, false).await
    }
}

/// Whether a record of this scheme is due.
pub(super) async fn any_due(
    connection: &mut PgConnection,
    network: &str,
    scheme: &str,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM scheme_states
         WHERE network = $1 AND scheme = $2 AND due <= $3)",
    )
    .bind(network)
    .bind(scheme)
    .bind(seconds(now))
    .fetch_one(connection)
    .await
}

/// [`StateStore::due_states`](quittance_core::StateStore::due_states).
pub(super) struct TakeDue {
    pub(super) network: String,
    pub(super) scheme: String,
    pub(super) now: Timestamp,
    pub(super) again: Timestamp,
    pub(super) limit: u32,
}

#[async_trait]
impl Write<Writer> for TakeDue {
    type Answer = Vec<SchemeState>;

    async fn execute(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Vec<SchemeState>, sqlx::Error> {
        let rows = sqlx::query(
            "SELECT * FROM scheme_states WHERE network = $1 AND scheme = $2 AND due <= $3
             ORDER BY due, id LIMIT $4",
        )
        .bind(&self.network)
        .bind(&self.scheme)
        .bind(seconds(self.now))
        .bind(i64::from(self.limit))
        .fetch_all(&mut *connection)
        .await?;
        let mut due = Vec::with_capacity(rows.len());
        for row in &rows {
            // An unreadable record is put off too. Else it would be the first one every time.
            sqlx::query("UPDATE scheme_states SET due = $2 WHERE id = $1")
                .bind(row.try_get::<&[u8], _>("id")?)
                .bind(seconds(self.again))
                .execute(&mut *connection)
                .await?;
            match scheme_state(row) {
                Ok(state) => due.push(state),
                Err(error) => error!(%error, "skipped a state record that cannot be read"),
            }
        }
        Ok(due)
    }
}

/// [`StateStore::put_off_states`](quittance_core::StateStore::put_off_states).
pub(super) struct PutOff(pub(super) Vec<(SchemeState, Option<Timestamp>)>);

#[async_trait]
impl Write<Writer> for PutOff {
    type Answer = ();

    async fn execute(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        for (seen, due) in &self.0 {
            sqlx::query("UPDATE scheme_states SET due = $3 WHERE id = $1 AND revision = $2")
                .bind(seen.id.as_bytes().as_slice())
                .bind(integer(seen.revision))
                .bind(due.map(seconds))
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }
}
