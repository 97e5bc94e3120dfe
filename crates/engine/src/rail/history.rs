//! The outcomes of all transactions that were ever signed for a settlement.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use quittance_core::{
    Amount, Chain, Effect, Fault, FaultKind, LaneId, Payment, PaymentId, Rejection, Status,
    Transaction, TransactionId, Watched,
};
use quittance_journal::Settlement;

use super::Rail;
use crate::writer::Journaled;

/// The outcome of a settlement's transactions.
pub(super) enum History {
    /// This transaction transferred the money.
    Settled(TransactionId),
    /// These transactions, all of one sequence number, may still transfer the money.
    InFlight(Vec<Journaled>),
    /// No transaction transferred the money, and none ever will.
    NoEffect(NoEffect),
}

/// What is known of transactions of which none transferred the money.
#[derive(Default)]
pub(super) struct NoEffect {
    /// Whether some are known only to be dropped: their sequence number was used by another
    /// transaction.
    pub(super) is_dropped: bool,
    /// The transactions of the current attempt that were included without effect, each with the
    /// reason.
    pub(super) without_effect: Vec<(TransactionId, Rejection)>,
    /// A transaction of the current attempt that had another effect than the payment.
    pub(super) mismatch: Option<(TransactionId, Rejection)>,
    /// Every transaction that was ever signed for the settlement, withdrawn ones included.
    pub(super) signed: Vec<TransactionId>,
}

/// The transactions that were signed for one sequence number.
#[derive(Default)]
struct Signed {
    /// All transactions, withdrawn ones included.
    all: Vec<Transaction>,
    /// The transactions that are not withdrawn.
    sent: Vec<Journaled>,
}

impl<C: Chain> Rail<C> {
    /// The outcome of every transaction that was ever signed for a settlement, in any attempt.
    ///
    /// # Errors
    /// When the journal or the nodes cannot say.
    pub(super) async fn history(
        &self,
        id: &PaymentId,
        payment: &dyn Payment<C>,
        amount: Amount,
    ) -> Result<History, Fault> {
        let Some(settlement) = self.context.writer.journal.settlement(id).await? else {
            return Ok(History::NoEffect(NoEffect::default()));
        };
        let of_this_attempt: BTreeSet<TransactionId> = settlement
            .current_transactions()
            .map(|transaction| transaction.id.clone())
            .collect();
        let signed = settlement.all_transactions();
        let mut no_effect = NoEffect {
            signed: signed.map(|transaction| transaction.id.clone()).collect(),
            ..NoEffect::default()
        };
        let sequences = by_sequence(settlement);
        let questions = sequences.iter().map(watched_all);
        let statuses = join_all(questions.map(|watched| self.statuses.ask(watched))).await;
        let mut in_flight = None;
        for (signed, status) in sequences.into_values().zip(statuses) {
            match status? {
                Status::Included {
                    id,
                    confirmations,
                    evidence,
                } if confirmations >= self.chain().confirmations_required() => {
                    match payment.effect(amount, &evidence) {
                        Effect::Transferred(moved) if moved == amount => {
                            return Ok(History::Settled(id));
                        }
                        Effect::None(found) if of_this_attempt.contains(&id) => {
                            no_effect.without_effect.push((id, found));
                        }
                        Effect::Mismatch(found) if of_this_attempt.contains(&id) => {
                            no_effect.mismatch = Some((id, found));
                        }
                        _ => {}
                    }
                }
                Status::Dropped => no_effect.is_dropped = true,
                // A node that refused a transaction can be wrong.
                Status::Included { .. } if signed.sent.is_empty() => {
                    let what = "a transaction that a node refused is in a block";
                    return Err(Fault::new(FaultKind::ChainUnavailable, what));
                }
                // A withdrawn transaction is not sent again.
                Status::Pending if signed.sent.is_empty() => {}
                Status::Pending | Status::Included { .. } => in_flight = Some(signed.sent),
            }
        }
        Ok(in_flight.map_or(History::NoEffect(no_effect), History::InFlight))
    }
}

/// A settlement's transactions, by sequence number.
fn by_sequence(settlement: Settlement) -> BTreeMap<(LaneId, u64), Signed> {
    let mut sequences: BTreeMap<(LaneId, u64), Signed> = BTreeMap::new();
    for transaction in settlement.all_transactions() {
        let key = (transaction.lane.clone(), transaction.sequence);
        let signed = sequences.entry(key).or_default();
        signed.all.push(transaction.clone());
    }
    for sent in Journaled::from_settlement(settlement) {
        sequences.entry(sent.key()).or_default().sent.push(sent);
    }
    sequences
}

fn watched_all(((lane, sequence), signed): (&(LaneId, u64), &Signed)) -> Watched {
    Watched {
        lane: lane.clone(),
        sequence: *sequence,
        transactions: signed.all.clone(),
    }
}
