//! Memberships, leases, and who works on a settlement: in the database, by its clock.

use std::time::Duration;

use async_trait::async_trait;
use quittance_core::{LaneId, PaymentId};
use sqlx::Row;
use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgConnection, PgRow};

use super::errors::{failed, refused};
use super::rows::{integer, number, optional_replica, replica};
use super::store::Writer;
use crate::error::JournalError;
use crate::group::Write;
use crate::replica::{FencingToken, Lease, LeaseName, Members, ReplicaId};

/// The channel that replicas listen on for settlements that were handed over.
pub(super) const HANDED_OVER: &str = "quittance_handed_over";

/// What a write with a lane's transaction is allowed by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fence {
    pub(super) replica: ReplicaId,
    /// `None` for a transaction of a signer that is not the facilitator's.
    pub(super) token: Option<FencingToken>,
}

impl Fence {
    /// Checks that the replica is a member and holds the lane's lease with the token.
    pub(super) async fn check(
        &self,
        connection: &mut PgConnection,
        network: &str,
        lane: &LaneId,
    ) -> Result<(), sqlx::Error> {
        let Some(token) = self.token else {
            return Ok(());
        };
        let name = LeaseName::lane(network, lane);
        let held = sqlx::query(
            "SELECT 1 FROM leases l JOIN members m ON m.replica = l.holder
             WHERE l.name = $1 AND l.holder = $2 AND l.token = $3 AND m.until > clock_timestamp()",
        )
        .bind(name.as_str())
        .bind(self.replica.as_bytes().as_slice())
        .bind(integer(token.0))
        .fetch_optional(connection)
        .await?;
        match held {
            Some(_) => Ok(()),
            None => Err(failed(JournalError::LeaseLost { name })),
        }
    }
}

/// Checks that a settlement has ended, is at another attempt, or belongs to this replica.
pub(super) async fn check_owner(
    connection: &mut PgConnection,
    settlement: &PaymentId,
    attempt: Option<u32>,
    replica: &ReplicaId,
) -> Result<(), sqlx::Error> {
    let foreign = sqlx::query(
        "SELECT 1 FROM settlements WHERE id = $1 AND state = 'open'
             AND owner IS DISTINCT FROM $2 AND attempt = coalesce($3, attempt)",
    )
    .bind(settlement.as_bytes().as_slice())
    .bind(replica.as_bytes().as_slice())
    .bind(attempt.map(i64::from))
    .fetch_optional(connection)
    .await?;
    let settlement = *settlement;
    match foreign {
        None => Ok(()),
        Some(_) => Err(failed(JournalError::NotOwner { settlement })),
    }
}

/// A duration, as PostgreSQL adds it to a time.
///
/// # Errors
/// If it is longer than some hundred thousand years.
pub(super) fn interval(duration: Duration) -> Result<PgInterval, sqlx::Error> {
    let microseconds = i64::try_from(duration.as_micros());
    Ok(PgInterval {
        months: 0,
        days: 0,
        microseconds: microseconds.map_err(|_| refused("the duration is too long"))?,
    })
}

/// Whether a replica is a member now.
async fn is_member(
    connection: &mut PgConnection,
    replica: &ReplicaId,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM members WHERE replica = $1 AND until > clock_timestamp())",
    )
    .bind(replica.as_bytes().as_slice())
    .fetch_one(connection)
    .await
}

/// [`Journal::renew`](crate::Journal::renew).
pub(super) struct Renew {
    pub(super) replica: ReplicaId,
    pub(super) duration: Duration,
}

#[async_trait]
impl Write<Writer> for Renew {
    type Answer = Members;

    async fn execute(&self, connection: &mut PgConnection) -> Result<Members, sqlx::Error> {
        sqlx::query(
            "INSERT INTO members (replica, until) VALUES ($1, clock_timestamp() + $2)
             ON CONFLICT (replica) DO UPDATE SET until = excluded.until",
        )
        .bind(self.replica.as_bytes().as_slice())
        .bind(interval(self.duration)?)
        .execute(&mut *connection)
        .await?;
        // A membership that is over has the same meaning as none.
        for over in [
            "DELETE FROM members WHERE until < clock_timestamp() - interval '1 day'",
            "DELETE FROM state_holds WHERE until < clock_timestamp()",
        ] {
            sqlx::query(over).execute(&mut *connection).await?;
        }
        let rows = sqlx::query(
            "SELECT m.replica, l.name, l.holder, l.token
             FROM members m LEFT JOIN leases l ON l.holder = m.replica
             WHERE m.until > clock_timestamp() ORDER BY m.replica, l.name COLLATE \"C\"",
        )
        .fetch_all(connection)
        .await?;
        members(&rows)
    }
}

/// The members with their leases, from rows in the order of the members.
fn members(rows: &[PgRow]) -> Result<Members, sqlx::Error> {
    let (mut replicas, mut leases) = (Vec::new(), Vec::new());
    for row in rows {
        let member = replica(row, "replica")?;
        if replicas.last() != Some(&member) {
            replicas.push(member);
        }
        leases.extend(lease(row)?);
    }
    leases.sort();
    Ok(Members { replicas, leases })
}

/// A lease from its row; `None` if nothing holds it.
fn lease(row: &PgRow) -> Result<Option<Lease>, sqlx::Error> {
    let Some(holder) = optional_replica(row, "holder")? else {
        return Ok(None);
    };
    Ok(Some(Lease {
        name: LeaseName::from_text(row.try_get("name")?),
        holder,
        token: FencingToken(number(row.try_get("token")?)?),
    }))
}

/// [`Journal::leave`](crate::Journal::leave).
pub(super) struct Leave {
    pub(super) replica: ReplicaId,
}

#[async_trait]
impl Write<Writer> for Leave {
    type Answer = ();

    async fn execute(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM members WHERE replica = $1")
            .bind(self.replica.as_bytes().as_slice())
            .execute(&mut *connection)
            .await?;
        // Others can take up its work at once.
        notify(connection).await
    }
}

/// Wakes the replicas that wait for work.
async fn notify(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_notify($1, current_schema())")
        .bind(HANDED_OVER)
        .execute(connection)
        .await?;
    Ok(())
}

/// [`Journal::acquire`](crate::Journal::acquire).
pub(super) struct Acquire {
    pub(super) name: LeaseName,
    pub(super) replica: ReplicaId,
}

#[async_trait]
impl Write<Writer> for Acquire {
    type Answer = Option<Lease>;

    async fn execute(&self, connection: &mut PgConnection) -> Result<Option<Lease>, sqlx::Error> {
        if !is_member(connection, &self.replica).await? {
            return Ok(None);
        }
        let row = sqlx::query("SELECT name, holder, token FROM leases WHERE name = $1")
            .bind(self.name.as_str())
            .fetch_optional(&mut *connection)
            .await?;
        match row.as_ref().map(lease).transpose()?.flatten() {
            Some(held) if held.holder == self.replica => return Ok(Some(held)),
            Some(held) if is_member(connection, &held.holder).await? => return Ok(None),
            _ => {}
        }
        let token = sqlx::query_scalar(
            "INSERT INTO leases (name, holder, token) VALUES ($1, $2, 1)
             ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, token = leases.token + 1
             RETURNING token",
        )
        .bind(self.name.as_str())
        .bind(self.replica.as_bytes().as_slice())
        .fetch_one(connection)
        .await?;
        Ok(Some(Lease {
            name: self.name.clone(),
            holder: self.replica,
            token: FencingToken(number(token)?),
        }))
    }
}

/// [`Journal::release`](crate::Journal::release).
pub(super) struct Release {
    pub(super) name: LeaseName,
    pub(super) replica: ReplicaId,
}

#[async_trait]
impl Write<Writer> for Release {
    type Answer = ();

    async fn execute(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE leases SET holder = NULL WHERE name = $1 AND holder = $2")
            .bind(self.name.as_str())
            .bind(self.replica.as_bytes().as_slice())
            .execute(connection)
            .await?;
        Ok(())
    }
}

/// [`Journal::take_up`](crate::Journal::take_up).
pub(super) struct TakeUp {
    pub(super) ids: Vec<PaymentId>,
    pub(super) replica: ReplicaId,
}

#[async_trait]
impl Write<Writer> for TakeUp {
    type Answer = Vec<PaymentId>;

    async fn execute(&self, connection: &mut PgConnection) -> Result<Vec<PaymentId>, sqlx::Error> {
        if !is_member(connection, &self.replica).await? {
            return Ok(Vec::new());
        }
        let ids: Vec<&[u8]> = self.ids.iter().map(|id| id.as_bytes().as_slice()).collect();
        sqlx::query(
            "UPDATE settlements s SET owner = $2, wanted_lane = NULL
             WHERE id = ANY ($1) AND state = 'open' AND owner IS DISTINCT FROM $2
                 AND NOT EXISTS (SELECT 1 FROM members m
                     WHERE m.replica = s.owner AND m.until > clock_timestamp())",
        )
        .bind(&ids)
        .bind(self.replica.as_bytes().as_slice())
        .execute(&mut *connection)
        .await?;
        let own: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT id FROM settlements WHERE id = ANY ($1) AND state = 'open' AND owner = $2",
        )
        .bind(&ids)
        .bind(self.replica.as_bytes().as_slice())
        .fetch_all(connection)
        .await?;
        let is_own = |id: &PaymentId| own.iter().any(|own| own == id.as_bytes());
        Ok(self.ids.iter().copied().filter(is_own).collect())
    }
}

/// [`Journal::hand_over`](crate::Journal::hand_over).
pub(super) struct HandOver {
    pub(super) id: PaymentId,
    pub(super) attempt: u32,
    pub(super) lane: Option<LaneId>,
    pub(super) replica: ReplicaId,
}

#[async_trait]
impl Write<Writer> for HandOver {
    type Answer = bool;

    async fn execute(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let handed = sqlx::query(
            "UPDATE settlements SET owner = NULL, wanted_lane = $3
             WHERE id = $1 AND attempt = $2 AND state = 'open' AND owner = $4",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(i64::from(self.attempt))
        .bind(self.lane.as_ref().map(LaneId::address))
        .bind(self.replica.as_bytes().as_slice())
        .execute(&mut *connection)
        .await?;
        let is_handed_over = handed.rows_affected() == 1;
        if is_handed_over {
            notify(connection).await?;
        }
        Ok(is_handed_over)
    }
}
