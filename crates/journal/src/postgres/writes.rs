//! The writes, each one SQL change with an answer of its own type.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use quittance_core::{LaneId, PaymentId, SchemeState, Timestamp, Transaction, TransactionId};
use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::errors::refused;
use super::leases::{Fence, check_owner};
use super::reads::fetch;
use super::refusals;
use super::rows::{OutcomeColumns, integer, number, seconds, without_nul};
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

    async fn execute(&self, connection: &mut PgConnection) -> Result<Claimed, sqlx::Error> {
        let (claim, place) = (&self.claim, self.claim.access.as_ref());
        if let Some(refused) = refusals::refuse(connection, claim, self.now).await? {
            return Ok(refused);
        }
        // The number is the position in listings. It stays with the first claim.
        let won = sqlx::query_scalar::<_, i64>(
            "INSERT INTO settlements (id, network, scheme, payer, pay_to, asset, amount, expires,
                 request, decoded_at, attempt, failures, state, claimed_at, caller, state_id,
                 state_revision, state_exclusive, refund_of, retries_without_limit, owner, number)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 1, 0, 'open', $11, $12, $13, $14,
                 $15, $16, $17, $19, (SELECT coalesce(max(number), 0) + 1 FROM settlements))
             ON CONFLICT (id) DO UPDATE SET
                 network = excluded.network, scheme = excluded.scheme, payer = excluded.payer,
                 pay_to = excluded.pay_to, asset = excluded.asset, amount = excluded.amount,
                 expires = excluded.expires, request = excluded.request,
                 decoded_at = excluded.decoded_at, attempt = settlements.attempt + 1, state = 'open',
                 reason = NULL, detail = NULL, transaction_id = NULL, fault = NULL,
                 retry_after = NULL, claimed_at = excluded.claimed_at, concluded_at = NULL,
                 caller = excluded.caller, state_id = excluded.state_id,
                 state_revision = excluded.state_revision,
                 state_exclusive = excluded.state_exclusive, refund_of = excluded.refund_of,
                 retries_without_limit = excluded.retries_without_limit,
                 success_reported_at = NULL, reported_to = NULL, owner = excluded.owner,
                 wanted_lane = NULL
             WHERE (settlements.state IN ('failed', 'released')
                     AND (settlements.failures < $18 OR excluded.retries_without_limit))
                 OR (settlements.state = 'lost' AND settlements.retries_without_limit
                     AND excluded.retries_without_limit)
             RETURNING settlements.attempt",
        )
        .bind(claim.id.as_bytes().as_slice())
        .bind(&claim.network)
        .bind(&claim.scheme)
        .bind(&claim.payer)
        .bind(&claim.pay_to)
        .bind(&claim.asset)
        .bind(claim.amount.to_string())
        .bind(seconds(claim.expires))
        .bind(&claim.request)
        .bind(seconds(claim.decoded_at))
        .bind(seconds(self.now))
        .bind(&claim.caller)
        .bind(place.map(|place| place.state.as_bytes().as_slice()))
        .bind(place.map(|place| integer(place.revision)))
        .bind(place.is_some_and(|place| place.exclusive))
        .bind(claim.refund_of.as_ref().map(|id| id.as_bytes().as_slice()))
        .bind(claim.retries_without_limit)
        .bind(i64::from(FAILURES_MAX))
        .bind(self.replica.as_bytes().as_slice())
        .fetch_optional(&mut *connection)
        .await?;
        let Some(attempt) = won else {
            return match fetch(connection, &claim.id).await? {
                Some(settlement) => Ok(Claimed::Taken(Box::new(settlement))),
                None => Err(sqlx::Error::RowNotFound),
            };
        };
        if let Some(place) = claim.exclusive() {
            let holder = Holder {
                settlement: claim.id.as_bytes().as_slice(),
                network: &claim.network,
                scheme: &claim.scheme,
            };
            let state = place.state.as_bytes().as_slice();
            states::take(connection, state, &holder).await?;
        }
        let attempt = number(attempt)?;
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
    /// Adds the transaction to those of the settlements that this replica works on, or replaces one
    /// in them. One statement for all, because a transaction may settle hundreds.
    async fn add_to_all(
        &self,
        connection: &mut PgConnection,
        steps: &BTreeMap<PaymentId, i64>,
    ) -> Result<(), sqlx::Error> {
        let transaction = &self.transaction;
        let ids: Vec<&[u8]> = steps.keys().map(|id| id.as_bytes().as_slice()).collect();
        let numbers: Vec<i64> = steps.values().copied().collect();
        let added: Vec<Vec<u8>> = sqlx::query_scalar(
            "INSERT INTO settlement_transactions (settlement, attempt, transaction_id, step)
             SELECT s.id, s.attempt, $2, given.step
             FROM unnest($1::bytea[], $3::bigint[]) AS given (id, step)
             JOIN settlements s ON s.id = given.id
             WHERE (s.state = 'open' AND s.owner = $4 OR EXISTS (
                 SELECT 1 FROM settlement_transactions o
                 JOIN transactions t ON t.id = o.transaction_id
                 WHERE o.settlement = s.id AND t.network = $5 AND t.lane = $6 AND t.sequence = $7
                     AND t.id <> $2))
             ON CONFLICT (settlement, transaction_id)
                 DO UPDATE SET attempt = excluded.attempt, step = excluded.step
             RETURNING settlement",
        )
        .bind(&ids)
        .bind(transaction.id.as_str())
        .bind(&numbers)
        .bind(self.fence.replica.as_bytes().as_slice())
        .bind(&self.network)
        .bind(transaction.lane.address())
        .bind(integer(transaction.sequence))
        .fetch_all(&mut *connection)
        .await?;
        if added.len() == steps.len() {
            return Ok(());
        }
        let added: BTreeSet<Vec<u8>> = added.into_iter().collect();
        for id in steps
            .keys()
            .filter(|id| !added.contains(&id.as_bytes()[..]))
        {
            check_owner(connection, id, None, &self.fence.replica).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Write<Writer> for Record {
    type Answer = ();

    async fn execute(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let transaction = &self.transaction;
        let (network, lane) = (self.network.as_str(), &transaction.lane);
        self.fence.check(connection, network, lane).await?;
        // On chains whose transactions do not contain the sequence number, the same bytes may be
        // signed for another number.
        sqlx::query(
            "INSERT INTO transactions (id, network, lane, sequence, bytes, signed_at)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (id) DO UPDATE SET withdrawn = false, lane = excluded.lane,
                 sequence = excluded.sequence, signed_at = excluded.signed_at",
        )
        .bind(transaction.id.as_str())
        .bind(&self.network)
        .bind(transaction.lane.address())
        .bind(integer(transaction.sequence))
        .bind(&*transaction.bytes)
        .bind(seconds(self.now))
        .execute(&mut *connection)
        .await?;
        // Of several steps of one settlement, the last one counts.
        let steps = self.settlements.iter();
        let steps = steps.map(|step| (step.settlement, i64::from(step.step)));
        self.add_to_all(connection, &steps.collect()).await
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

    async fn execute(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let withdrawn: Option<(String, String)> = sqlx::query_as(
            "UPDATE transactions SET withdrawn = true WHERE id = $1 RETURNING network, lane",
        )
        .bind(self.transaction.as_str())
        .fetch_optional(&mut *connection)
        .await?;
        match withdrawn {
            None => Ok(()),
            Some((network, lane)) => {
                let lane = LaneId::new(&lane);
                self.fence.check(connection, &network, &lane).await
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
    async fn write_state(
        &self,
        connection: &mut PgConnection,
        state: &SchemeState,
    ) -> Result<Option<Ended>, sqlx::Error> {
        let claimed: Option<Option<Vec<u8>>> = sqlx::query_scalar(
            "SELECT state_id FROM settlements WHERE id = $1 AND attempt = $2 AND state = 'open'",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(i64::from(self.attempt))
        .fetch_optional(&mut *connection)
        .await?;
        let Some(claimed) = claimed else {
            return Ok(Some(Ended::No));
        };
        if claimed.as_deref() != Some(state.id.as_bytes().as_slice()) {
            return Err(refused("the state record is not the one of the claim"));
        }
        let is_written = states::write_next(connection, state, true).await?;
        Ok((!is_written).then_some(Ended::StateMoved))
    }
}

#[async_trait]
impl Write<Writer> for Conclude {
    type Answer = Ended;

    async fn execute(&self, connection: &mut PgConnection) -> Result<Ended, sqlx::Error> {
        if let Some(state) = &self.state
            && let Some(unchanged) = self.write_state(&mut *connection, state).await?
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
        let concluded: Option<Option<Vec<u8>>> = sqlx::query_scalar(
            "UPDATE settlements SET state = $3, reason = $4, detail = $5, transaction_id = $6,
                 settled_amount = $7, failures = failures + $8, concluded_at = $9, fault = $10,
                 retry_after = $11, receipt = $12, final_at = $13, owner = NULL
             WHERE id = $1 AND attempt = $2 AND state = 'open' AND owner = $14
             RETURNING CASE WHEN state_exclusive THEN state_id END",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(i64::from(self.attempt))
        .bind(columns.state)
        .bind(columns.reason)
        .bind(columns.detail.map(without_nul))
        .bind(columns.transaction)
        .bind(columns.amount)
        .bind(i64::from(cost_gas))
        .bind(seconds(self.now))
        .bind(columns.fault)
        .bind(columns.retry_after)
        .bind(columns.receipt)
        .bind(columns.is_final.then(|| seconds(self.now)))
        .bind(self.replica.as_bytes().as_slice())
        .fetch_optional(&mut *connection)
        .await?;
        let Some(exclusive) = concluded else {
            check_owner(connection, &self.id, Some(self.attempt), &self.replica).await?;
            return Ok(Ended::No);
        };
        if let Some(state) = exclusive {
            states::free(connection, &state, &self.id).await?;
        }
        Ok(Ended::Yes)
    }
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

    async fn execute(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        // Not by a trigger: the settlement keeps no time of this change.
        let event = sqlx::query(
            "SELECT quittance_event(s, 'reopened', s.transaction_id, $3) FROM settlements s
             WHERE id = $1 AND attempt = $2 AND state = 'settled' AND final_at IS NULL",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(i64::from(self.attempt))
        .bind(seconds(self.now))
        .execute(&mut *connection)
        .await?;
        if event.rows_affected() == 0 {
            return Ok(false);
        }
        let reopened = sqlx::query(
            "UPDATE settlements SET state = 'open', transaction_id = NULL, settled_amount = NULL,
                 concluded_at = NULL, receipt = NULL, owner = $3, wanted_lane = NULL
             WHERE id = $1 AND attempt = $2 AND state = 'settled' AND final_at IS NULL
             RETURNING CASE WHEN state_exclusive THEN state_id END AS taken, network, scheme",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(i64::from(self.attempt))
        .bind(self.replica.as_bytes().as_slice())
        .fetch_optional(&mut *connection)
        .await?;
        let Some(row) = reopened else {
            return Ok(false);
        };
        if let Some(state) = row.try_get::<Option<&[u8]>, _>("taken")? {
            let holder = Holder {
                settlement: self.id.as_bytes().as_slice(),
                network: row.try_get("network")?,
                scheme: row.try_get("scheme")?,
            };
            states::take(connection, state, &holder).await?;
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

    async fn execute(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let ids: Vec<&[u8]> = self.ids.iter().map(|id| id.as_bytes().as_slice()).collect();
        sqlx::query(
            "UPDATE settlements SET final_at = $2
             WHERE id = ANY ($1) AND state = 'settled' AND final_at IS NULL",
        )
        .bind(&ids)
        .bind(seconds(self.now))
        .execute(connection)
        .await?;
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

    async fn execute(&self, connection: &mut PgConnection) -> Result<Reported, sqlx::Error> {
        let first = sqlx::query(
            "UPDATE settlements SET success_reported_at = $3, reported_to = $4
             WHERE id = $1 AND attempt = $2 AND state = 'settled' AND success_reported_at IS NULL",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(i64::from(self.attempt))
        .bind(seconds(self.now))
        .bind(&self.key)
        .execute(&mut *connection)
        .await?;
        if first.rows_affected() == 1 {
            return Ok(Reported::First);
        }
        let again = sqlx::query(
            "SELECT 1 FROM settlements WHERE id = $1 AND attempt = $2 AND state = 'settled'
                 AND (retries_without_limit
                     OR (reported_to = $4 AND $3 < success_reported_at + $5))",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(i64::from(self.attempt))
        .bind(seconds(self.now))
        .bind(&self.key)
        .bind(integer(REPORTED_AGAIN_FOR))
        .fetch_optional(connection)
        .await?;
        Ok(match again {
            Some(_) => Reported::Again,
            None => Reported::No,
        })
    }
}
