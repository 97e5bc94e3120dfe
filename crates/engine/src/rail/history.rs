//! The outcomes of all transactions that were ever signed for a settlement.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU8;

use futures_util::future::join_all;
use quittance_core::{
    Amount, Chain, CompletedStep, Effect, Fault, FaultKind, LaneId, Payment, PaymentId, Rejection,
    Status, Transaction, TransactionId, Watched,
};
use quittance_journal::{Settlement, SignedFor};

use super::Rail;
use crate::writer::Journaled;

/// The outcome of a settlement's transactions.
pub(super) enum History<C: Chain> {
    /// A transaction transferred the money.
    Settled(Transferred<C>),
    /// These transactions, all of one sequence number, may still transfer the money.
    InFlight(Vec<Journaled>),
    /// No transaction transferred the money, and none ever will.
    NoEffect(NoEffect<C>),
}

/// A transaction that settled a payment.
pub(super) struct Transferred<C: Chain> {
    pub(super) transaction: TransactionId,
    /// The transferred amount.
    pub(super) amount: Amount,
    /// What the transaction did.
    pub(super) evidence: C::Evidence,
}

/// What is known of transactions of which none transferred the money.
pub(super) struct NoEffect<C: Chain> {
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
    /// Those of them that the chain has decided: each was included or can never be.
    pub(super) decided: BTreeSet<TransactionId>,
    /// How many sequence numbers were used for steps. A transaction and its replacements have one.
    pub(super) steps_sent: usize,
    /// The steps that were included, in any attempt.
    pub(super) completed: Vec<CompletedStep<C::Evidence>>,
}

impl<C: Chain> NoEffect<C> {
    /// What is known before the chain is asked.
    fn new(signed_for: &BTreeMap<TransactionId, SignedFor>) -> Self {
        let of_steps = signed_for.values().filter(|signed| signed.step > 0);
        let numbers =
            of_steps.map(|signed| (&signed.transaction.lane, signed.transaction.sequence));
        Self {
            is_dropped: false,
            without_effect: Vec::new(),
            mismatch: None,
            signed: signed_for.keys().cloned().collect(),
            decided: BTreeSet::new(),
            steps_sent: numbers.collect::<BTreeSet<_>>().len(),
            completed: Vec::new(),
        }
    }

    /// Adds what an included transaction of this settlement did without transferring the money.
    fn add(&mut self, id: TransactionId, effect: Effect, is_current: bool) {
        match effect {
            Effect::None(found) if is_current => self.without_effect.push((id, found)),
            Effect::Mismatch(found) if is_current => self.mismatch = Some((id, found)),
            _ => {}
        }
    }

    fn add_step(&mut self, step: NonZeroU8, transaction: TransactionId, evidence: C::Evidence) {
        self.completed.push(CompletedStep {
            step,
            transaction,
            evidence,
        });
        self.completed.sort_by_key(|completed| completed.step);
    }
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
    ) -> Result<History<C>, Fault> {
        let Some(settlement) = self.context.writer.journal.settlement(id).await? else {
            return Ok(History::NoEffect(NoEffect::new(&BTreeMap::new())));
        };
        let attempt = settlement.attempt;
        let required = self.context.confirmations_required(payment);
        let signed_for = signed_for(&settlement);
        let mut no_effect = NoEffect::new(&signed_for);
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
                } if confirmations >= required => {
                    no_effect.decided.extend(signed.ids());
                    let signed_for = signed_for.get(&id);
                    let step = signed_for.and_then(|signed| NonZeroU8::new(signed.step));
                    if let Some(step) = step {
                        no_effect.add_step(step, id, evidence);
                        continue;
                    }
                    let is_current = signed_for.is_some_and(|signed| signed.attempt == attempt);
                    match payment.effect(amount, &evidence) {
                        Effect::Transferred(moved) => {
                            return Ok(History::Settled(Transferred {
                                transaction: id,
                                amount: moved,
                                evidence,
                            }));
                        }
                        effect => no_effect.add(id, effect, is_current),
                    }
                }
                Status::Dropped => {
                    no_effect.is_dropped = true;
                    no_effect.decided.extend(signed.ids());
                }
                // A node that refused a transaction can be wrong.
                Status::Included { .. } | Status::Executing { .. } if signed.sent.is_empty() => {
                    let what = "a transaction that a node refused is in a block";
                    return Err(Fault::new(FaultKind::ChainUnavailable, what));
                }
                // A withdrawn transaction is not sent again.
                Status::Pending if signed.sent.is_empty() => {}
                Status::Pending | Status::Executing { .. } | Status::Included { .. } => {
                    in_flight = Some(signed.sent);
                }
            }
        }
        Ok(in_flight.map_or(History::NoEffect(no_effect), History::InFlight))
    }
}

impl Signed {
    fn ids(&self) -> impl Iterator<Item = TransactionId> {
        self.all.iter().map(|transaction| transaction.id.clone())
    }
}

/// What each transaction was signed for. A withdrawn one counts as of no attempt.
fn signed_for(settlement: &Settlement) -> BTreeMap<TransactionId, SignedFor> {
    let withdrawn = settlement.withdrawn.iter().map(|signed| SignedFor {
        attempt: 0,
        ..signed.clone()
    });
    let all = withdrawn.chain(settlement.transactions.iter().cloned());
    all.map(|signed| (signed.transaction.id.clone(), signed))
        .collect()
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
