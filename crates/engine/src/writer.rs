//! Writing that must not fail: what has happened is written down, however long it takes.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use quittance_core::{
    Chain, Clock, Fault, LaneId, PaymentId, Submission, Transaction, TransactionId, Watched,
};
use tokio_util::sync::CancellationToken;
use tracing::error;

use quittance_journal::{Journal, JournalError, Outcome, Settlement};

/// The pause between two tries at a journal that does not take a write: a full disk is not emptied faster.
const PAUSE: Duration = Duration::from_secs(1);

/// A transaction that stands in the journal. Only such a one can be submitted.
#[derive(Debug, Clone)]
pub(crate) struct Journaled(Transaction);

impl Journaled {
    pub(crate) fn transaction(&self) -> &Transaction {
        &self.0
    }

    /// Every transaction of a settlement that was read from the journal, oldest first.
    pub(crate) fn of(settlement: Settlement) -> Vec<Self> {
        let each = |(_, transaction)| Self(transaction);
        settlement.transactions.into_iter().map(each).collect()
    }

    /// The transactions in the journal for these places in a lane, by place, and for each place oldest first.
    pub(crate) async fn at(
        writer: &JournalWriter,
        network: &str,
        lane: &LaneId,
        sequences: Range<u64>,
    ) -> Result<Vec<Self>, Fault> {
        let found = writer
            .journal
            .transactions_at(network, lane, sequences)
            .await?;
        Ok(found.into_iter().map(Self).collect())
    }

    /// The lane and the place it was signed for.
    pub(crate) fn key(&self) -> (LaneId, u64) {
        (self.0.lane.clone(), self.0.sequence)
    }

    /// Hands it to the chain's nodes. The only place where that is done.
    pub(crate) async fn submit<C: Chain>(&self, chain: &C) -> Submission {
        chain.submit(&self.0).await
    }
}

/// What is to be asked about the transactions of one place.
pub(crate) fn watched(sequence: &[Journaled]) -> Watched {
    let (lane, at) = sequence[0].key();
    Watched {
        lane,
        sequence: at,
        transactions: sequence
            .iter()
            .map(|journaled| journaled.transaction().clone())
            .collect(),
    }
}

/// Writes to the journal until it is written, or until this process stops: then the next one reads what there is.
pub(crate) struct JournalWriter {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stopping: CancellationToken,
}

impl JournalWriter {
    /// Records a signed transaction. `None` when this process stops first: then it must not be sent.
    pub(crate) async fn record(
        &self,
        network: &str,
        signed: Transaction,
        settlements: &[PaymentId],
    ) -> Option<Journaled> {
        self.insist(|| {
            self.journal
                .record(network, &signed, settlements, self.clock.now())
        })
        .await?;
        Some(Journaled(signed))
    }

    /// Forgets a transaction that certainly was never sent. `None` when this process stops first.
    pub(crate) async fn withdraw(&self, transaction: &TransactionId) -> Option<()> {
        self.insist(|| self.journal.withdraw(transaction)).await
    }

    /// Ends an attempt; says whether it was still open. `None` when this process stops first.
    pub(crate) async fn conclude(
        &self,
        id: &PaymentId,
        attempt: u32,
        outcome: &Outcome,
    ) -> Option<bool> {
        self.insist(|| {
            self.journal
                .conclude(id, attempt, outcome, self.clock.now())
        })
        .await
    }

    /// Notes that the blocks of these settlements are final. One that is not noted is looked at again.
    pub(crate) async fn finalize(&self, ids: &[PaymentId]) -> Result<(), JournalError> {
        self.journal.finalize(ids, self.clock.now()).await
    }

    async fn insist<T, F: Future<Output = Result<T, JournalError>>>(
        &self,
        write: impl Fn() -> F,
    ) -> Option<T> {
        loop {
            match write().await {
                Ok(written) => return Some(written),
                Err(error) => error!(%error, "waiting for the journal"),
            }
            tokio::select! {
                () = self.stopping.cancelled() => return None,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
}
