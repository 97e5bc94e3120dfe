//! State records: their writes, and which settlement has one for itself.

use async_trait::async_trait;
use quittance_core::{PaymentId, SchemeState, Timestamp};
use rusqlite::{Connection, params};
use tracing::error;

use super::errors::{SqlError, refused};
use super::rows::{bytes, integer, number, optional_payment_id, scheme_state, seconds};
use super::sql;
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
pub(super) fn refuse(
    connection: &Connection,
    claim: &Claim,
    place: &Place,
) -> Result<Option<Claimed>, SqlError> {
    let found: Option<(u64, _, String, String)> = sql::optional(
        connection,
        "SELECT * FROM scheme_states WHERE id = ?1",
        params![place.state.as_bytes()],
        |row| {
            let (network, scheme) = (row.get("network")?, row.get("scheme")?);
            let holder = optional_payment_id(row, "exclusive")?;
            Ok((number(row.get("revision")?)?, holder, network, scheme))
        },
    )?;
    let Some((revision, holder, network, scheme)) = found else {
        return Ok((place.revision != 0).then_some(Claimed::StateMoved));
    };
    if revision > 0 {
        check_owner((&network, &scheme), (&claim.network, &claim.scheme))?;
    }
    Ok(match holder {
        Some(holder) => Some(Claimed::StateTaken(holder)),
        None => (revision != place.revision).then_some(Claimed::StateMoved),
    })
}

/// Takes a state record for a settlement, unless another one has it. A record that does not exist
/// gets a row with the revision 0.
pub(super) fn take(
    connection: &Connection,
    state: &[u8],
    holder: &Holder<'_>,
) -> Result<(), SqlError> {
    sql::execute(
        connection,
        "INSERT INTO scheme_states (id, network, scheme, revision, state, exclusive)
         VALUES (?1, ?2, ?3, 0, x'', ?4)
         ON CONFLICT (id) DO UPDATE SET exclusive = excluded.exclusive WHERE exclusive IS NULL",
        params![state, holder.network, holder.scheme, holder.settlement],
    )?;
    Ok(())
}

/// Frees the state record that a settlement has taken. A record that was never written disappears.
pub(super) fn free(
    connection: &Connection,
    state: &[u8],
    settlement: &PaymentId,
) -> Result<(), SqlError> {
    for sql in [
        "DELETE FROM scheme_states WHERE id = ?1 AND exclusive = ?2 AND revision = 0",
        "UPDATE scheme_states SET exclusive = NULL WHERE id = ?1 AND exclusive = ?2",
    ] {
        sql::execute(connection, sql, params![state, settlement.as_bytes()])?;
    }
    Ok(())
}

/// Writes a state record if the stored one has the revision before, and either no settlement has it
/// exclusively or `even_if_taken`. Returns whether it was written.
pub(super) fn write_next(
    connection: &Connection,
    state: &SchemeState,
    even_if_taken: bool,
) -> Result<bool, SqlError> {
    let id = state.id.as_bytes().as_slice();
    let written = sql::execute(
        connection,
        "INSERT INTO scheme_states (id, network, scheme, revision, state, due)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6
         WHERE ?4 = 1 OR EXISTS (SELECT 1 FROM scheme_states WHERE id = ?1)
         ON CONFLICT (id) DO UPDATE SET
             network = excluded.network, scheme = excluded.scheme, revision = excluded.revision,
             state = excluded.state, due = excluded.due
         WHERE revision = excluded.revision - 1 AND (exclusive IS NULL OR ?7)
             AND (revision = 0 OR (network, scheme) = (excluded.network, excluded.scheme))",
        params![
            id,
            &state.network,
            &state.scheme,
            integer(state.revision),
            &state.state,
            state.due.map(seconds),
            even_if_taken
        ],
    )?;
    if written == 1 {
        return Ok(true);
    }
    let owner: Option<(String, String)> = sql::optional(
        connection,
        "SELECT network, scheme FROM scheme_states WHERE id = ?1 AND revision > 0",
        params![id],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    if let Some((network, scheme)) = &owner {
        check_owner((network, scheme), (&state.network, &state.scheme))?;
    }
    Ok(false)
}

/// Refuses a record of another scheme, or of another network. It has another meaning: judging again
/// would never help.
pub(super) fn check_owner(owner: (&str, &str), user: (&str, &str)) -> Result<(), SqlError> {
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

    async fn execute(&self, connection: &mut Connection) -> Result<bool, SqlError> {
        write_next(connection, &self.0, false)
    }
}

/// [`StateStore::due_states`](quittance_core::StateStore::due_states).
#[derive(Clone)]
pub(super) struct TakeDue {
    pub(super) network: String,
    pub(super) scheme: String,
    pub(super) now: Timestamp,
    pub(super) again: Timestamp,
    pub(super) limit: u32,
}

impl TakeDue {
    /// Whether a record of the scheme is due.
    pub(super) fn is_any_due(&self, connection: &Connection) -> Result<bool, SqlError> {
        sql::exists(
            connection,
            "SELECT 1 FROM scheme_states WHERE network = ?1 AND scheme = ?2 AND due <= ?3 LIMIT 1",
            params![self.network, self.scheme, seconds(self.now)],
        )
    }
}

#[async_trait]
impl Write<Writer> for TakeDue {
    type Answer = Vec<SchemeState>;

    async fn execute(&self, connection: &mut Connection) -> Result<Vec<SchemeState>, SqlError> {
        let found = sql::all(
            connection,
            "SELECT * FROM scheme_states WHERE network = ?1 AND scheme = ?2 AND due <= ?3
             ORDER BY due, id LIMIT ?4",
            params![&self.network, &self.scheme, seconds(self.now), self.limit],
            |row| Ok((bytes(row, "id")?.to_vec(), scheme_state(row))),
        )?;
        let mut due = Vec::with_capacity(found.len());
        for (id, state) in found {
            // An unreadable record is put off too. Else it would be the first one every time.
            sql::execute(
                connection,
                "UPDATE scheme_states SET due = ?2 WHERE id = ?1",
                params![id, seconds(self.again)],
            )?;
            match state {
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

    async fn execute(&self, connection: &mut Connection) -> Result<(), SqlError> {
        for (seen, due) in &self.0 {
            sql::execute(
                connection,
                "UPDATE scheme_states SET due = ?3 WHERE id = ?1 AND revision = ?2",
                params![seen.id.as_bytes(), integer(seen.revision), due.map(seconds)],
            )?;
        }
        Ok(())
    }
}
