//! Memberships, leases, and who works on a settlement.
//!
//! Every change is a write in the queue, also those that are only in memory. So they are in one
//! order.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use quittance_core::{LaneId, PaymentId};
use rusqlite::{Connection, Row, params};
use tokio::time::Instant;

use super::errors::SqlError;
use super::members::Shared;
use super::rows::{integer, number, optional_replica, text};
use super::sql;
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
    pub(super) fn check(
        &self,
        connection: &Connection,
        network: &str,
        lane: &LaneId,
    ) -> Result<(), SqlError> {
        let Some(token) = self.token else {
            return Ok(());
        };
        let name = LeaseName::lane(network, lane);
        let held = sql::exists(
            connection,
            "SELECT 1 FROM leases WHERE name = ?1 AND holder = ?2 AND token = ?3",
            params![name.as_str(), self.replica.as_bytes(), integer(token.0)],
        )?;
        match held && self.shared.is_member(&self.replica) {
            true => Ok(()),
            false => Err(SqlError::Failed(JournalError::LeaseLost { name })),
        }
    }
}

/// Checks that a settlement has ended, is at another attempt, or belongs to this replica.
pub(super) fn check_owner(
    connection: &Connection,
    settlement: &PaymentId,
    attempt: Option<u32>,
    replica: &ReplicaId,
) -> Result<(), SqlError> {
    let is_foreign = sql::exists(
        connection,
        "SELECT 1 FROM settlements WHERE id = ?1 AND state = 'open' AND owner IS NOT ?2
             AND attempt = coalesce(?3, attempt)",
        params![settlement.as_bytes(), replica.as_bytes(), attempt],
    )?;
    let settlement = *settlement;
    match is_foreign {
        false => Ok(()),
        true => Err(SqlError::Failed(JournalError::NotOwner { settlement })),
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

    async fn execute(&self, connection: &mut Connection) -> Result<Members, SqlError> {
        self.shared
            .renew(self.replica, Instant::now() + self.duration);
        let replicas = self.shared.all();
        let sql = "SELECT * FROM leases WHERE holder IS NOT NULL ORDER BY name";
        let held = sql::all(connection, sql, [], lease)?;
        let held = held.into_iter().flatten();
        let leases = held
            .filter(|lease| replicas.contains(&lease.holder))
            .collect();
        Ok(Members { replicas, leases })
    }
}

/// A lease from its row; `None` if nothing holds it.
fn lease(row: &Row<'_>) -> Result<Option<Lease>, SqlError> {
    let Some(holder) = optional_replica(row, "holder")? else {
        return Ok(None);
    };
    Ok(Some(Lease {
        name: LeaseName::from_text(text(row, "name")?),
        holder,
        token: FencingToken(number(row.get("token")?)?),
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

    async fn execute(&self, _: &mut Connection) -> Result<(), SqlError> {
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

    async fn execute(&self, connection: &mut Connection) -> Result<Option<Lease>, SqlError> {
        if !self.shared.is_member(&self.replica) {
            return Ok(None);
        }
        let sql = "SELECT * FROM leases WHERE name = ?1";
        let held = sql::optional(connection, sql, params![self.name.as_str()], lease)?;
        match held.flatten() {
            Some(held) if held.holder == self.replica => return Ok(Some(held)),
            Some(held) if self.shared.is_member(&held.holder) => return Ok(None),
            _ => {}
        }
        let token = sql::one(
            connection,
            "INSERT INTO leases (name, holder, token) VALUES (?1, ?2, 1)
             ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, token = token + 1
             RETURNING token",
            params![self.name.as_str(), self.replica.as_bytes()],
            |row| number(row.get(0)?),
        )?;
        Ok(Some(Lease {
            name: self.name.clone(),
            holder: self.replica,
            token: FencingToken(token),
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

    async fn execute(&self, connection: &mut Connection) -> Result<(), SqlError> {
        sql::execute(
            connection,
            "UPDATE leases SET holder = NULL WHERE name = ?1 AND holder = ?2",
            params![self.name.as_str(), self.replica.as_bytes()],
        )?;
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
    fn take(&self, connection: &Connection, id: &PaymentId) -> Result<bool, SqlError> {
        let owner = sql::optional(
            connection,
            "SELECT owner FROM settlements WHERE id = ?1 AND state = 'open'",
            params![id.as_bytes()],
            // An owner that cannot be read is no member.
            |row| Ok(optional_replica(row, "owner").ok().flatten()),
        )?;
        let Some(owner) = owner else {
            return Ok(false);
        };
        match owner {
            Some(owner) if owner == self.replica => return Ok(true),
            Some(owner) if self.shared.is_member(&owner) => return Ok(false),
            _ => {}
        }
        sql::execute(
            connection,
            "UPDATE settlements SET owner = ?2, wanted_lane = NULL WHERE id = ?1",
            params![id.as_bytes(), self.replica.as_bytes()],
        )?;
        Ok(true)
    }
}

#[async_trait]
impl Write<Writer> for TakeUp {
    type Answer = Vec<PaymentId>;

    async fn execute(&self, connection: &mut Connection) -> Result<Vec<PaymentId>, SqlError> {
        let mut taken = Vec::new();
        if !self.shared.is_member(&self.replica) {
            return Ok(taken);
        }
        for id in &self.ids {
            if self.take(connection, id)? {
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

    async fn execute(&self, connection: &mut Connection) -> Result<bool, SqlError> {
        let handed = sql::execute(
            connection,
            "UPDATE settlements SET owner = NULL, wanted_lane = ?3
             WHERE id = ?1 AND attempt = ?2 AND state = 'open' AND owner = ?4",
            params![
                self.id.as_bytes(),
                self.attempt,
                self.lane.as_ref().map(LaneId::address),
                self.replica.as_bytes()
            ],
        )?;
        Ok(handed == 1)
    }
}
