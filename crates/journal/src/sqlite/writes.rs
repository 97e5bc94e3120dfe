//! The writes, each one SQL change with an answer of its own type.

use async_trait::async_trait;
use quittance_core::{LaneId, PaymentId, SchemeState, Timestamp, Transaction, TransactionId};
use rusqlite::{Connection, Row, params};

use super::errors::{SqlError, invalid, refused};
use super::leases::{Fence, check_owner};
use super::reads::fetch;
use super::refusals;
use super::rows::{OutcomeColumns, integer, optional_bytes, seconds};
use super::sql;
use super::states::{self, Holder};
use super::store::Writer;
use crate::group::Write;
use crate::replica::ReplicaId;
use crate::settlement::{
    Claim, Claimed, Ended, FAILURES_MAX, Outcome, REPORTED_AGAIN_FOR, Reported, SettlementStep,
};

/// [`Journal::claim`](crate::Journal::claim).
pub(super) struct InsertClaim {
    pub(super) claim: Claim,
    pub(super) replica: ReplicaId,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write<Writer> for InsertClaim {
    type Answer = Claimed;

    async fn execute(&self, connection: &mut Connection) -> Result<Claimed, SqlError> {
        let (claim, place) = (&self.claim, self.claim.access.as_ref());
        if let Some(refused) = refusals::refuse(connection, claim, self.now)? {
            return Ok(refused);
        }
        // The number is the position in listings. It stays with the first claim.
        let won: Option<u32> = sql::optional(
            connection,
            "INSERT INTO settlements (id, network, scheme, payer, pay_to, asset, amount, expires,
                 request, decoded_at, attempt, failures, state, claimed_at, caller, state_id,
                 state_revision, state_exclusive, refund_of, retries_without_limit, owner, number)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 1, 0, 'open', ?11, ?12, ?13, ?14,
                 ?15, ?16, ?17, ?19, (SELECT coalesce(max(number), 0) + 1 FROM settlements))
             ON CONFLICT (id) DO UPDATE SET
                 network = excluded.network, scheme = excluded.scheme, payer = excluded.payer,
                 pay_to = excluded.pay_to, asset = excluded.asset, amount = excluded.amount,
                 expires = excluded.expires, request = excluded.request,
                 decoded_at = excluded.decoded_at, attempt = attempt + 1, state = 'open',
                 reason = NULL, detail = NULL, transaction_id = NULL, fault = NULL,
                 retry_after = NULL, claimed_at = excluded.claimed_at, concluded_at = NULL,
                 caller = excluded.caller, state_id = excluded.state_id,
                 state_revision = excluded.state_revision,
                 state_exclusive = excluded.state_exclusive, refund_of = excluded.refund_of,
                 retries_without_limit = excluded.retries_without_limit,
                 success_reported_at = NULL, reported_to = NULL, owner = excluded.owner,
                 wanted_lane = NULL
             WHERE (state IN ('failed', 'released')
                     AND (failures < ?18 OR excluded.retries_without_limit))
                 OR (state = 'lost' AND retries_without_limit AND excluded.retries_without_limit)
             RETURNING attempt",
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
                seconds(self.now),
                &claim.caller,
                place.map(|place| place.state.as_bytes()),
                place.map(|place| integer(place.revision)),
                place.is_some_and(|place| place.exclusive),
                claim.refund_of.as_ref().map(|id| id.as_bytes()),
                claim.retries_without_limit,
                FAILURES_MAX,
                self.replica.as_bytes()
            ],
            |row| Ok(row.get(0)?),
        )?;
        let Some(attempt) = won else {
            return match fetch(connection, &claim.id)? {
                Some(settlement) => Ok(Claimed::Taken(Box::new(settlement))),
                None => Err(invalid("an authorization that is neither free nor claimed")),
            };
        };
        if let Some(place) = claim.exclusive() {
            let holder = Holder {
                settlement: claim.id.as_bytes().as_slice(),
                network: &claim.network,
                scheme: &claim.scheme,
            };
            let state = place.state.as_bytes().as_slice();
            states::take(connection, state, &holder)?;
        }
        Ok(Claimed::Won { attempt })
    }
}

/// [`Journal::record`](crate::Journal::record).
pub(super) struct Record {
    pub(super) network: String,
    pub(super) transaction: Transaction,
    pub(super) settlements: Vec<SettlementStep>,
    pub(super) fence: Fence,
    pub(super) now: Timestamp,
}

impl Record {
    /// Adds the transaction to a settlement that this replica works on, or replaces one in it.
    fn add_to(&self, connection: &Connection, step: &SettlementStep) -> Result<(), SqlError> {
        let (id, transaction) = (&step.settlement, &self.transaction);
        let added = sql::execute(
            connection,
            "INSERT INTO settlement_transactions (settlement, attempt, transaction_id, step)
             SELECT s.id, s.attempt, ?2, ?3 FROM settlements s
             WHERE s.id = ?1 AND (s.state = 'open' AND s.owner = ?4 OR EXISTS (
                 SELECT 1 FROM settlement_transactions o
                 JOIN transactions t ON t.id = o.transaction_id
                 WHERE o.settlement = ?1 AND t.network = ?5 AND t.lane = ?6 AND t.sequence = ?7
                     AND t.id <> ?2))
             ON CONFLICT DO UPDATE SET attempt = excluded.attempt, step = excluded.step",
            params![
                id.as_bytes(),
                transaction.id.as_str(),
                step.step,
                self.fence.replica.as_bytes(),
                &self.network,
                transaction.lane.address(),
                integer(transaction.sequence)
            ],
        )?;
        match added {
            0 => check_owner(connection, id, None, &self.fence.replica),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Write<Writer> for Record {
    type Answer = ();

    async fn execute(&self, connection: &mut Connection) -> Result<(), SqlError> {
        let transaction = &self.transaction;
        let (network, lane) = (self.network.as_str(), &transaction.lane);
        self.fence.check(connection, network, lane)?;
        // On chains whose transactions do not contain the sequence number, the same bytes may be
        // signed for another number.
        sql::execute(
            connection,
            "INSERT INTO transactions (id, network, lane, sequence, bytes, signed_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (id) DO UPDATE SET withdrawn = 0, lane = excluded.lane,
                 sequence = excluded.sequence, signed_at = excluded.signed_at",
            params![
                transaction.id.as_str(),
                &self.network,
                transaction.lane.address(),
                integer(transaction.sequence),
                &*transaction.bytes,
                seconds(self.now)
            ],
        )?;
        for step in &self.settlements {
            self.add_to(connection, step)?;
        }
        Ok(())
    }
}

/// [`Journal::withdraw`](crate::Journal::withdraw).
pub(super) struct Withdraw {
    pub(super) transaction: TransactionId,
    pub(super) fence: Fence,
}

#[async_trait]
impl Write<Writer> for Withdraw {
    type Answer = ();

    async fn execute(&self, connection: &mut Connection) -> Result<(), SqlError> {
        let withdrawn: Option<(String, String)> = sql::optional(
            connection,
            "UPDATE transactions SET withdrawn = 1 WHERE id = ?1 RETURNING network, lane",
            params![self.transaction.as_str()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        match withdrawn {
            None => Ok(()),
            Some((network, lane)) => {
                let lane = LaneId::new(&lane);
                self.fence.check(connection, &network, &lane)
            }
        }
    }
}

/// [`Journal::conclude`](crate::Journal::conclude).
pub(super) struct Conclude {
    pub(super) id: PaymentId,
    pub(super) attempt: u32,
    pub(super) replica: ReplicaId,
    pub(super) outcome: Outcome,
    pub(super) state: Option<SchemeState>,
    pub(super) now: Timestamp,
}

impl Conclude {
    /// Writes the next state record. `None` if it is written. The attempt is looked up before,
    /// because an answer that nothing has changed undoes nothing.
    fn write_state(
        &self,
        connection: &Connection,
        state: &SchemeState,
    ) -> Result<Option<Ended>, SqlError> {
        let claimed = sql::optional(
            connection,
            "SELECT state_id FROM settlements WHERE id = ?1 AND attempt = ?2 AND state = 'open'",
            params![self.id.as_bytes(), self.attempt],
            |row| Ok(optional_bytes(row, "state_id")? == Some(state.id.as_bytes().as_slice())),
        )?;
        let Some(is_own) = claimed else {
            return Ok(Some(Ended::No));
        };
        if !is_own {
            return Err(refused("the state record is not the one of the claim"));
        }
        let is_written = states::write_next(connection, state, true)?;
        Ok((!is_written).then_some(Ended::StateMoved))
    }
}

#[async_trait]
impl Write<Writer> for Conclude {
    type Answer = Ended;

    async fn execute(&self, connection: &mut Connection) -> Result<Ended, SqlError> {
        if let Some(state) = &self.state
            && let Some(unchanged) = self.write_state(connection, state)?
        {
            return Ok(unchanged);
        }
        let columns = OutcomeColumns::new(&self.outcome);
        // Only a failure with a transaction cost gas, so only those are counted.
        let cost_gas = matches!(
            self.outcome,
            Outcome::Failed {
                transaction: Some(_),
                ..
            }
        );
        let concluded = sql::optional(
            connection,
            "UPDATE settlements SET state = ?3, reason = ?4, detail = ?5, transaction_id = ?6,
                 settled_amount = ?7, failures = failures + ?8, concluded_at = ?9, fault = ?10,
                 retry_after = ?11, receipt = ?12, final_at = ?13, owner = NULL
             WHERE id = ?1 AND attempt = ?2 AND state = 'open' AND owner = ?14
             RETURNING CASE WHEN state_exclusive THEN state_id END AS taken",
            params![
                self.id.as_bytes(),
                self.attempt,
                columns.state,
                columns.reason,
                columns.detail,
                columns.transaction,
                columns.amount,
                i64::from(cost_gas),
                seconds(self.now),
                columns.fault,
                columns.retry_after,
                columns.receipt,
                columns.is_final.then(|| seconds(self.now)),
                self.replica.as_bytes()
            ],
            taken,
        )?;
        let Some(exclusive) = concluded else {
            check_owner(connection, &self.id, Some(self.attempt), &self.replica)?;
            return Ok(Ended::No);
        };
        if let Some(state) = exclusive {
            states::free(connection, &state, &self.id)?;
        }
        Ok(Ended::Yes)
    }
}

/// The state record that a settlement has for itself, from the answer of its change.
fn taken(row: &Row<'_>) -> Result<Option<Vec<u8>>, SqlError> {
    let taken = optional_bytes(row, "taken")?;
    Ok(taken.map(<[u8]>::to_vec))
}

/// [`Journal::reopen`](crate::Journal::reopen).
pub(super) struct Reopen {
    pub(super) id: PaymentId,
    pub(super) attempt: u32,
    pub(super) replica: ReplicaId,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write<Writer> for Reopen {
    type Answer = bool;

    async fn execute(&self, connection: &mut Connection) -> Result<bool, SqlError> {
        // Not by a trigger: the settlement keeps no time of this change.
        let events = sql::execute(
            connection,
            "INSERT INTO events (settlement, attempt, kind, transaction_id, network, caller, at)
             SELECT id, attempt, 'reopened', transaction_id, network, caller, ?3 FROM settlements
             WHERE id = ?1 AND attempt = ?2 AND state = 'settled' AND final_at IS NULL",
            params![self.id.as_bytes(), self.attempt, seconds(self.now)],
        )?;
        if events == 0 {
            return Ok(false);
        }
        let reopened = sql::optional(
            connection,
            "UPDATE settlements SET state = 'open', transaction_id = NULL, settled_amount = NULL,
                 concluded_at = NULL, receipt = NULL, owner = ?3, wanted_lane = NULL
             WHERE id = ?1 AND attempt = ?2 AND state = 'settled' AND final_at IS NULL
             RETURNING CASE WHEN state_exclusive THEN state_id END AS taken, network, scheme",
            params![self.id.as_bytes(), self.attempt, self.replica.as_bytes()],
            |row| Ok((taken(row)?, row.get("network")?, row.get("scheme")?)),
        )?;
        let Some((taken, network, scheme)): Option<(_, String, String)> = reopened else {
            return Ok(false);
        };
        if let Some(state) = taken {
            let holder = Holder {
                settlement: self.id.as_bytes().as_slice(),
                network: &network,
                scheme: &scheme,
            };
            states::take(connection, &state, &holder)?;
        }
        Ok(true)
    }
}

/// [`Journal::finalize`](crate::Journal::finalize).
pub(super) struct Finalize {
    pub(super) ids: Vec<PaymentId>,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write<Writer> for Finalize {
    type Answer = ();

    async fn execute(&self, connection: &mut Connection) -> Result<(), SqlError> {
        for id in &self.ids {
            sql::execute(
                connection,
                "UPDATE settlements SET final_at = ?2
                 WHERE id = ?1 AND state = 'settled' AND final_at IS NULL",
                params![id.as_bytes(), seconds(self.now)],
            )?;
        }
        Ok(())
    }
}

/// [`Journal::report_success`](crate::Journal::report_success).
pub(super) struct ReportSuccess {
    pub(super) id: PaymentId,
    pub(super) attempt: u32,
    /// Not empty.
    pub(super) key: Option<String>,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write<Writer> for ReportSuccess {
    type Answer = Reported;

    async fn execute(&self, connection: &mut Connection) -> Result<Reported, SqlError> {
        let first = sql::execute(
            connection,
            "UPDATE settlements SET success_reported_at = ?3, reported_to = ?4
             WHERE id = ?1 AND attempt = ?2 AND state = 'settled' AND success_reported_at IS NULL",
            params![
                self.id.as_bytes(),
                self.attempt,
                seconds(self.now),
                &self.key
            ],
        )?;
        if first == 1 {
            return Ok(Reported::First);
        }
        let again = sql::exists(
            connection,
            "SELECT 1 FROM settlements WHERE id = ?1 AND attempt = ?2 AND state = 'settled'
                 AND (retries_without_limit
                     OR (reported_to = ?4 AND ?3 < success_reported_at + ?5))",
            params![
                self.id.as_bytes(),
                self.attempt,
                seconds(self.now),
                &self.key,
                integer(REPORTED_AGAIN_FOR)
            ],
        )?;
        Ok(match again {
            true => Reported::Again,
            false => Reported::No,
        })
    }
}
