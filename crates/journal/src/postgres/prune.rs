//! Removes personal data of settlements that have ended for good.

use async_trait::async_trait;
use quittance_core::Timestamp;
use sqlx::postgres::PgConnection;

use super::rows::seconds;
use super::store::Writer;
use crate::group::Write;

/// [`Journal::prune`](crate::Journal::prune).
pub(super) struct Prune {
    pub(super) before: Timestamp,
    pub(super) limit: u32,
}

#[async_trait]
impl Write<Writer> for Prune {
    type Answer = u64;

    async fn execute(&self, connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
        // An empty caller is the name of no key. NULL would show the settlement to every caller.
        let pruned: Vec<Vec<u8>> = sqlx::query_scalar(
            "UPDATE settlements SET payer = '', pay_to = '', request = '',
                 detail = CASE WHEN detail IS NULL THEN NULL ELSE '' END, receipt = NULL,
                 caller = CASE WHEN caller IS NULL THEN NULL ELSE '' END, reported_to = NULL
             WHERE id IN (SELECT id FROM settlements AS old
                 WHERE (request <> '' OR payer <> '') AND concluded_at < $1
                     AND (state = 'settled' AND final_at IS NOT NULL
                         OR state IN ('failed', 'released') AND expires < $1)
                     AND NOT EXISTS (SELECT 1 FROM settlements AS refund
                         WHERE refund.refund_of = old.id AND refund.state = 'open')
                 ORDER BY number LIMIT $2)
             RETURNING id",
        )
        .bind(seconds(self.before))
        .bind(i64::from(self.limit))
        .fetch_all(&mut *connection)
        .await?;
        for id in &pruned {
            // A batch has the payments of others, too.
            sqlx::query(
                "UPDATE transactions SET bytes = ''
                 WHERE id IN (SELECT transaction_id FROM settlement_transactions
                     WHERE settlement = $1)
                 AND NOT EXISTS (SELECT 1 FROM settlement_transactions AS other
                     JOIN settlements AS whole ON whole.id = other.settlement
                     WHERE other.transaction_id = transactions.id
                         AND (whole.request <> '' OR whole.payer <> ''))",
            )
            .bind(id)
            .execute(&mut *connection)
            .await?;
        }
        Ok(pruned.len() as u64)
    }
}
