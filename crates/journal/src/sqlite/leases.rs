//! Memberships, leases, and who works on a settlement.
//!
//! Every change is a write in the queue, also those that are only in memory. So they are in one
//! order.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use quittance_core::{LaneId, PaymentId};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use tokio::time::Instant;

use super::errors::failed;
use super::members::Shared;
use super::rows::{integer, number, optional_replica};
use super::store::Writer;
use crate::error::JournalError;
use crate::group::Write;
use crate::replica::{FencingToken, Lease, LeaseName, Members, ReplicaId};

/// What a write with a lane's transaction is allowed by.
#[derive(Debug, Clone)]
pub(super) struct Fence {
    pub(super) replica: ReplicaId,
    pub(super) shared: Arc<Shared>,
    /// `None` for a transaction of a signer that is not the facilitator's.
    pub(super) token: Option<FencingToken>,
}

impl Fence {
    /// Checks that the replica holds the lane's lease with the token.
    pub(super) async fn check(
        &self,
        connection: &mut SqliteConnection,
        network: &str,
        lane: &LaneId,
    ) -> Result<(), sqlx::Error> {
        let Some(token) = self.token else {
            return Ok(());
        };
        let name = LeaseName::lane(network, lane);
        let held =
            sqlx::query("SELECT 1 FROM leases WHERE name = ?1 AND holder = ?2 AND token = ?3")
                .bind(name.as_str())
                .bind(self.replica.as_bytes().as_slice())
                .bind(integer(token.0))
                .fetch_optional(connection)
                .await?;
        match held.is_some() && self.shared.is_member(&self.replica) {
            true => Ok(()),
            false => Err(failed(JournalError::LeaseLost { name })),
        }
    }
}

/// Checks that a settlement has ended, is at another attempt, or belongs to this replica.
pub(super) async fn check_owner(
    connection: &mut SqliteConnection,
    settlement: &PaymentId,
    attempt: Option<u32>,
    replica: &ReplicaId,
) -> Result<(), sqlx::Error> {
    let foreign = sqlx::query(
        "SELECT 1 FROM settlements WHERE id = ?1 AND state = 'open' AND owner IS NOT ?2
             AND attempt = coalesce(?3, attempt)",
    )
    .bind(settlement.as_bytes().as_slice())
    .bind(replica.as_bytes().as_slice())
    .bind(attempt)
    .fetch_optional(connection)
    .await?;
    let settlement = *settlement;
    match foreign {
        None => Ok(()),
        Some(_) => Err(failed(JournalError::NotOwner { settlement })),
    }
}

/// [`Journal::renew`](crate::Journal::renew).
pub(super) struct Renew {
    pub(super) replica: ReplicaId,
    pub(super) shared: Arc<Shared>,
    pub(super) duration: Duration,
}

#[async_trait]
impl Write<Writer> for Renew {
    type Answer = Members;

    async fn execute(&self, connection: &mut SqliteConnection) -> Result<Members, sqlx::Error> {
        self.shared
            .renew(self.replica, Instant::now() + self.duration);
        let replicas = self.shared.all();
        let rows = sqlx::query("SELECT * FROM leases WHERE holder IS NOT NULL ORDER BY name")
            .fetch_all(connection)
            .await?;
        let mut leases = Vec::with_capacity(rows.len());
        for row in &rows {
            leases.extend(lease(row)?.filter(|lease| replicas.contains(&lease.holder)));
        }
        Ok(Members { replicas, leases })
    }
}

/// A lease from its row; `None` if nothing holds it.
fn lease(row: &SqliteRow) -> Result<Option<Lease>, sqlx::Error> {
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
    pub(super) shared: Arc<Shared>,
}

#[async_trait]
impl Write<Writer> for Leave {
    type Answer = ();

    async fn execute(&self, _: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        self.shared.leave(&self.replica);
        Ok(())
    }
}

/// [`Journal::acquire`](crate::Journal::acquire).
pub(super) struct Acquire {
    pub(super) name: LeaseName,
    pub(super) replica: ReplicaId,
    pub(super) shared: Arc<Shared>,
}

#[async_trait]
impl Write<Writer> for Acquire {
    type Answer = Option<Lease>;

    async fn execute(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<Option<Lease>, sqlx::Error> {
        if !self.shared.is_member(&self.replica) {
            return Ok(None);
        }
        let row = sqlx::query("SELECT * FROM leases WHERE name = ?1")
            .bind(self.name.as_str())
            .fetch_optional(&mut *connection)
            .await?;
        let held = row.as_ref().map(lease).transpose()?.flatten();
        match held {
            Some(held) if held.holder == self.replica => return Ok(Some(held)),
            Some(held) if self.shared.is_member(&held.holder) => return Ok(None),
            _ => {}
        }
        let token = sqlx::query_scalar(
            "INSERT INTO leases (name, holder, token) VALUES (?1, ?2, 1)
             ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, token = token + 1
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

    async fn execute(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE leases SET holder = NULL WHERE name = ?1 AND holder = ?2")
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
    pub(super) shared: Arc<Shared>,
}

impl TakeUp {
    /// Takes up one settlement, unless another member works on it. Returns whether this replica
    /// owns it now.
    async fn take(
        &self,
        connection: &mut SqliteConnection,
        id: &PaymentId,
    ) -> Result<bool, sqlx::Error> {
        let row = sqlx::query("SELECT owner FROM settlements WHERE id = ?1 AND state = 'open'")
            .bind(id.as_bytes().as_slice())
            .fetch_optional(&mut *connection)
            .await?;
        let Some(row) = row else {
            return Ok(false);
        };
        // An owner that cannot be read is no member.
        match optional_replica(&row, "owner").ok().flatten() {
            Some(owner) if owner == self.replica => return Ok(true),
            Some(owner) if self.shared.is_member(&owner) => return Ok(false),
            _ => {}
        }
        sqlx::query("UPDATE settlements SET owner = ?2, wanted_lane = NULL WHERE id = ?1")
            .bind(id.as_bytes().as_slice())
            .bind(self.replica.as_bytes().as_slice())
            .execute(connection)
            .await?;
        Ok(true)
    }
}

#[async_trait]
impl Write<Writer> for TakeUp {
    type Answer = Vec<PaymentId>;

    async fn execute(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<Vec<PaymentId>, sqlx::Error> {
        let mut taken = Vec::new();
        if !self.shared.is_member(&self.replica) {
            return Ok(taken);
        }
        for id in &self.ids {
            if self.take(connection, id).await? {
                taken.push(*id);
            }
        }
        Ok(taken)
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

    async fn execute(&self, connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
        let handed = sqlx::query(
            "UPDATE settlements SET owner = NULL, wanted_lane = ?3
             WHERE id = ?1 AND attempt = ?2 AND state = 'open' AND owner = ?4",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(self.attempt)
        .bind(self.lane.as_ref().map(LaneId::address))
        .bind(self.replica.as_bytes().as_slice())
        .execute(connection)
        .await?;
        Ok(handed.rows_affected() == 1)
    }
}
