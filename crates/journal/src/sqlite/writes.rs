//! The writes, each one SQL change with an answer of its own type.

use async_trait::async_trait;
use quittance_core::{PaymentId, Timestamp, Transaction, TransactionId};
use sqlx::sqlite::SqliteConnection;

use super::reads::fetch;
use super::rows::{OutcomeColumns, integer, number, seconds};
use super::store::Writer;
use crate::group::Write;
use crate::settlement::{Claim, Claimed, FAILURES_MAX, Outcome};

/// [`Journal::claim`](crate::Journal::claim).
pub(super) struct InsertClaim {
    pub(super) claim: Claim,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write<Writer> for InsertClaim {
    type Answer = Claimed;

    async fn execute(&self, connection: &mut SqliteConnection) -> Result<Claimed, sqlx::Error> {
        let claim = &self.claim;
        // The number is the position in listings. It stays with the first claim.
        let won = sqlx::query_scalar::<_, i64>(
            "INSERT INTO settlements (id, network, scheme, payer, pay_to, asset, amount, expires,
                 request, decoded_at, attempt, failures, state, claimed_at, number)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 1, 0, 'open', ?11,
                 (SELECT coalesce(max(number), 0) + 1 FROM settlements))
             ON CONFLICT (id) DO UPDATE SET
                 network = excluded.network, scheme = excluded.scheme, payer = excluded.payer,
                 pay_to = excluded.pay_to, asset = excluded.asset, amount = excluded.amount,
                 expires = excluded.expires, request = excluded.request,
                 decoded_at = excluded.decoded_at, attempt = attempt + 1, state = 'open',
                 reason = NULL, detail = NULL, transaction_id = NULL, fault = NULL,
                 retry_after = NULL, claimed_at = excluded.claimed_at, concluded_at = NULL
             WHERE state IN ('failed', 'released') AND failures < ?12
             RETURNING attempt",
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
        .bind(FAILURES_MAX)
        .fetch_optional(&mut *connection)
        .await?;
        match won {
            Some(attempt) => Ok(Claimed::Won {
                attempt: number(attempt)?,
            }),
            None => match fetch(connection, &claim.id).await? {
                Some(settlement) => Ok(Claimed::Taken(Box::new(settlement))),
                None => Err(sqlx::Error::RowNotFound),
            },
        }
    }
}

/// [`Journal::record`](crate::Journal::record).
pub(super) struct Record {
    pub(super) network: String,
    pub(super) transaction: Transaction,
    pub(super) settlements: Vec<PaymentId>,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write<Writer> for Record {
    type Answer = ();

    async fn execute(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let transaction = &self.transaction;
        // On chains whose transactions do not contain the sequence number, the same bytes may be
        // signed for another number.
        sqlx::query(
            "INSERT INTO transactions (id, network, lane, sequence, bytes, signed_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (id) DO UPDATE SET withdrawn = 0, lane = excluded.lane,
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
        for id in &self.settlements {
            sqlx::query(
                "INSERT INTO settlement_transactions (settlement, attempt, transaction_id)
                 SELECT id, attempt, ?2 FROM settlements WHERE id = ?1 AND state = 'open'
                 ON CONFLICT DO UPDATE SET attempt = excluded.attempt",
            )
            .bind(id.as_bytes().as_slice())
            .bind(transaction.id.as_str())
            .execute(&mut *connection)
            .await?;
        }
        Ok(())
    }
}

/// [`Journal::withdraw`](crate::Journal::withdraw).
pub(super) struct Withdraw(pub(super) TransactionId);

#[async_trait]
impl Write<Writer> for Withdraw {
    type Answer = ();

    async fn execute(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE transactions SET withdrawn = 1 WHERE id = ?1")
            .bind(self.0.as_str())
            .execute(connection)
            .await?;
        Ok(())
    }
}

/// [`Journal::conclude`](crate::Journal::conclude).
pub(super) struct Conclude {
    pub(super) id: PaymentId,
    pub(super) attempt: u32,
    pub(super) outcome: Outcome,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write<Writer> for Conclude {
    type Answer = bool;

    async fn execute(&self, connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
        let columns = OutcomeColumns::new(&self.outcome);
        // Only a failure with a transaction cost gas, so only those are counted.
        let cost_gas = matches!(
            self.outcome,
            Outcome::Failed {
                transaction: Some(_),
                ..
            }
        );
        let concluded = sqlx::query(
            "UPDATE settlements SET state = ?3, reason = ?4, detail = ?5, transaction_id = ?6,
                 settled_amount = ?7, failures = failures + ?8, concluded_at = ?9, fault = ?10,
                 retry_after = ?11
             WHERE id = ?1 AND attempt = ?2 AND state = 'open'",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(self.attempt)
        .bind(columns.state)
        .bind(columns.reason)
        .bind(columns.detail)
        .bind(columns.transaction)
        .bind(columns.amount)
        .bind(i64::from(cost_gas))
        .bind(seconds(self.now))
        .bind(columns.fault)
        .bind(columns.retry_after)
        .execute(connection)
        .await?;
        Ok(concluded.rows_affected() == 1)
    }
}

/// [`Journal::reopen`](crate::Journal::reopen).
pub(super) struct Reopen {
    pub(super) id: PaymentId,
    pub(super) attempt: u32,
}

#[async_trait]
impl Write<Writer> for Reopen {
    type Answer = bool;

    async fn execute(&self, connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
        let reopened = sqlx::query(
            "UPDATE settlements SET state = 'open', transaction_id = NULL, settled_amount = NULL,
                 concluded_at = NULL
             WHERE id = ?1 AND attempt = ?2 AND state = 'settled' AND final_at IS NULL",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(self.attempt)
        .execute(connection)
        .await?;
        Ok(reopened.rows_affected() == 1)
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

    async fn execute(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        for id in &self.ids {
            sqlx::query("UPDATE settlements SET final_at = ?2 WHERE id = ?1 AND state = 'settled'")
                .bind(id.as_bytes().as_slice())
                .bind(seconds(self.now))
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }
}

/// [`Journal::report_success`](crate::Journal::report_success).
pub(super) struct ReportSuccess {
    pub(super) id: PaymentId,
    pub(super) attempt: u32,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write<Writer> for ReportSuccess {
    type Answer = bool;

    async fn execute(&self, connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
        let reported = sqlx::query(
            "UPDATE settlements SET success_reported_at = ?3
             WHERE id = ?1 AND attempt = ?2 AND state = 'settled' AND success_reported_at IS NULL",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(self.attempt)
        .bind(seconds(self.now))
        .execute(connection)
        .await?;
        Ok(reported.rows_affected() == 1)
    }
}
