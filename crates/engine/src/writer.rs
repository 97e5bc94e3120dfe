//! Writes to the journal that must succeed: they are repeated until they are written.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use quittance_core::{
    Chain, Clock, Fault, LaneId, PaymentId, SchemeState, StateId, Submission, Transaction,
    TransactionId, Watched,
};
use quittance_journal::{
    Ended, FencingToken, Journal, JournalError, Outcome, Settlement, SettlementStep,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// The pause between two attempts to write. A full disk is not emptied faster than this.
const PAUSE: Duration = Duration::from_secs(1);

/// A transaction that is recorded in the journal. Only a recorded transaction can be submitted.
#[derive(Debug, Clone)]
pub(crate) struct Journaled(Transaction);

impl Journaled {
    pub(crate) fn transaction(&self) -> &Transaction {
        &self.0
    }

    /// The transactions of a settlement that was read from the journal, oldest first, without
    /// withdrawn ones.
    pub(crate) fn from_settlement(settlement: Settlement) -> Vec<Self> {
        let transactions = settlement.transactions.into_iter();
        transactions
            .map(|signed| Self(signed.transaction))
            .collect()
    }

    /// The lane and the sequence number that it was signed for.
    pub(crate) fn key(&self) -> (LaneId, u64) {
        (self.0.lane.clone(), self.0.sequence)
    }

    /// Sends it to the chain's nodes. No other code submits transactions.
    pub(crate) async fn submit<C: Chain>(&self, chain: &C) -> Submission {
        chain.submit(&self.0).await
    }
}

/// The question about the transactions of one sequence number. `transactions` must not be empty.
pub(crate) fn watched(transactions: &[Journaled]) -> Watched {
    let (lane, sequence) = transactions[0].key();
    Watched {
        lane,
        sequence,
        transactions: transactions
            .iter()
            .map(|journaled| journaled.transaction().clone())
            .collect(),
    }
}

/// Writes to the journal. A write is repeated until it succeeds or this process stops. After a
/// stop, the next process reads what was written.
pub(crate) struct JournalWriter {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stopping: CancellationToken,
}

impl JournalWriter {
    /// Records a signed transaction, with the token of its lane if the signer is one of the
    /// chain's own. `None` if this process stops first, or if the work belongs to
    /// another replica: then it must not be sent.
    pub(crate) async fn record(
        &self,
        network: &str,
        signed: Transaction,
        settlements: &[SettlementStep],
        token: Option<FencingToken>,
    ) -> Option<Journaled> {
        self.retry_until_written(|| {
            self.journal
                .record(network, &signed, settlements, token, self.clock.now())
        })
        .await?;
        Some(Journaled(signed))
    }

    /// Withdraws a transaction that a node refused. `None` if this process stops first, or if the
    /// lane belongs to another replica.
    pub(crate) async fn withdraw(
        &self,
        transaction: &TransactionId,
        token: Option<FencingToken>,
    ) -> Option<()> {
        self.retry_until_written(|| self.journal.withdraw(transaction, token))
            .await
    }

    /// Ends an attempt, and writes the state record's next content. `None` if this process stops
    /// first, or if another replica works on the settlement.
    pub(crate) async fn conclude(
        &self,
        id: &PaymentId,
        attempt: u32,
        outcome: &Outcome,
        state: Option<&SchemeState>,
    ) -> Option<Ended> {
        self.retry_until_written(|| {
            self.journal
                .conclude(id, attempt, outcome, state, self.clock.now())
        })
        .await
    }

    /// Hands a settlement over to another replica. `None` if this process stops first: then its
    /// membership ends, and others take it up.
    pub(crate) async fn hand_over(
        &self,
        id: &PaymentId,
        attempt: u32,
        lane: Option<&LaneId>,
    ) -> Option<bool> {
        self.retry_until_written(|| self.journal.hand_over(id, attempt, lane))
            .await
    }

    /// Marks settlements as final. A mark that is not written is set later, when the settlement is
    /// checked again.
    pub(crate) async fn finalize(&self, ids: &[PaymentId]) -> Result<(), JournalError> {
        self.journal.finalize(ids, self.clock.now()).await
    }

    /// The transactions that the journal has for these sequence numbers of a lane.
    pub(crate) async fn transactions_at(
        &self,
        network: &str,
        lane: &LaneId,
        sequences: Range<u64>,
    ) -> Result<Vec<Journaled>, Fault> {
        let found = self
            .journal
            .transactions_at(network, lane, sequences)
            .await?;
        Ok(found.into_iter().map(Journaled).collect())
    }

    /// A state record, which is read until the journal can be read. `None` if this process stops
    /// first.
    pub(crate) async fn state(&self, id: &StateId) -> Option<Option<SchemeState>> {
        self.retry_until_written(|| self.journal.state(id)).await
    }

    /// A settlement, which is read until the journal can be read. The outer `None` if this process
    /// stops first. An unreadable one counts as none: to read it again would not help.
    pub(crate) async fn settlement(&self, id: &PaymentId) -> Option<Option<Settlement>> {
        let read = || async {
            match self.journal.settlement(id).await {
                Err(JournalError::Unreadable { .. }) => Ok(None),
                read => read,
            }
        };
        self.retry_until_written(read).await
    }

    /// Ends the hold of a verified payment. One that is not ended here ends by itself.
    pub(crate) async fn release_state(&self, state: &StateId, payment: &PaymentId) {
        if let Err(error) = self.journal.release_state(state, payment).await {
            warn!(%payment, %error, "the hold of a payment could not be ended");
        }
    }

    /// `None` if this process stops first, or if it no longer has the right to write: another
    /// replica goes on with the work.
    async fn retry_until_written<T, F: Future<Output = Result<T, E>>, E: Into<Unwritten>>(
        &self,
        write: impl Fn() -> F,
    ) -> Option<T> {
        loop {
            let error = match write().await {
                Ok(written) => return Some(written),
                Err(error) => error.into(),
            };
            match error {
                Unwritten::Lost(error) => {
                    warn!(%error, "dropped: the work belongs to another replica");
                    return None;
                }
                Unwritten::Failed(error) => {
                    error!(error, "the journal cannot be used: trying again");
                }
            }
            tokio::select! {
                // In this order, so that a simulation repeats itself.
                biased;
                () = self.stopping.cancelled() => return None,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
}

/// Why something was not written.
enum Unwritten {
    /// This process no longer has the right to write it.
    Lost(JournalError),
    /// It may succeed later.
    Failed(String),
}

impl From<JournalError> for Unwritten {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::NotOwner { .. } | JournalError::LeaseLost { .. } => Self::Lost(error),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<Fault> for Unwritten {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault.to_string())
    }
}
