//! A chain with one fault.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use quittance_core::{
    Chain, Fault, Finality, Found, Health, LaneId, Network, Problem, Scope, Status, Submission,
    Timestamp, Transaction, TransactionId, Watched,
};

/// What is wrong with a [`FaultyChain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it; `FaultyChain` shows each")]
pub enum ChainFault {
    LostAnswerIsRefused,
    RefusedIsAccepted,
    UsedSequenceIsRefused,
    UsedSequenceIsAccepted,
    SubmitsNothing,
    SubmitsWhenPrepared,
    FirstLaneSigns,
    FirstLaneSignsForEveryLane,
    IgnoresTheSequence,
    AnotherId,
    SequenceTooHigh,
    SequenceTooLow,
    SequenceIsZeroWithoutNodes,
    NoSequences,
    AnswersReversed,
    AnswersTooFew,
    OneFaultSpoilsAllAnswers,
    StatusesReversed,
    StatusesOfTheFirst,
    NewestTransactionOnly,
    FirstTransactionOnly,
    DroppedWhilePending,
    PendingWhenDropped,
    PendingWithoutNodes,
    NeverIncluded,
    ExecutingForEver,
    NoConfirmations,
    OneConfirmationForEver,
    FirstActionOnly,
    FirstActionTwice,
    UnboundedBatch,
    ReplacesByNoop,
    ReplacesByItself,
    ReplacesAtTheNextSequence,
    ReplacesForTheSameFee,
    NoopAtTheNextSequence,
    NoopForAnyFee,
    NoNoop,
    NoReplacement,
    FindsNothing,
    HealthLooksAtNothing,
    HealthIsAlwaysBad,
    HealthIgnoresSigners,
    NothingInFlight,
    NoConfirmationsRequired,
    LaneTwice,
    SignedActionIsIgnored,
    SignedActionHasAnotherId,
    SignedActionIsOfTheFirstLane,
    EveryActionIsSigned,
}

impl ChainFault {
    /// All faults.
    pub const ALL: [Self; 50] = [
        Self::LostAnswerIsRefused,
        Self::RefusedIsAccepted,
        Self::UsedSequenceIsRefused,
        Self::UsedSequenceIsAccepted,
        Self::SubmitsNothing,
        Self::SubmitsWhenPrepared,
        Self::FirstLaneSigns,
        Self::FirstLaneSignsForEveryLane,
        Self::IgnoresTheSequence,
        Self::AnotherId,
        Self::SequenceTooHigh,
        Self::SequenceTooLow,
        Self::SequenceIsZeroWithoutNodes,
        Self::NoSequences,
        Self::AnswersReversed,
        Self::AnswersTooFew,
        Self::OneFaultSpoilsAllAnswers,
        Self::StatusesReversed,
        Self::StatusesOfTheFirst,
        Self::NewestTransactionOnly,
        Self::FirstTransactionOnly,
        Self::DroppedWhilePending,
        Self::PendingWhenDropped,
        Self::PendingWithoutNodes,
        Self::NeverIncluded,
        Self::ExecutingForEver,
        Self::NoConfirmations,
        Self::OneConfirmationForEver,
        Self::FirstActionOnly,
        Self::FirstActionTwice,
        Self::UnboundedBatch,
        Self::ReplacesByNoop,
        Self::ReplacesByItself,
        Self::ReplacesAtTheNextSequence,
        Self::ReplacesForTheSameFee,
        Self::NoopAtTheNextSequence,
        Self::NoopForAnyFee,
        Self::NoNoop,
        Self::NoReplacement,
        Self::FindsNothing,
        Self::HealthLooksAtNothing,
        Self::HealthIsAlwaysBad,
        Self::HealthIgnoresSigners,
        Self::NothingInFlight,
        Self::NoConfirmationsRequired,
        Self::LaneTwice,
        Self::SignedActionIsIgnored,
        Self::SignedActionHasAnotherId,
        Self::SignedActionIsOfTheFirstLane,
        Self::EveryActionIsSigned,
    ];
}

/// A chain that does one thing wrong, and everything else as the chain inside it.
pub struct FaultyChain<C> {
    inner: Arc<C>,
    fault: Option<ChainFault>,
    lanes: Vec<LaneId>,
}

impl<C: Chain> FaultyChain<C> {
    /// The chain with this fault, or with none.
    pub fn new(inner: Arc<C>, fault: Option<ChainFault>) -> Self {
        let mut lanes = inner.lanes().to_vec();
        if let (Some(ChainFault::LaneTwice), [first, second, ..]) = (fault, &mut lanes[..]) {
            *second = first.clone();
        }
        Self {
            inner,
            fault,
            lanes,
        }
    }

    fn has(&self, fault: ChainFault) -> bool {
        self.fault == Some(fault)
    }

    fn watched(&self, watched: &Watched) -> Watched {
        let mut changed = watched.clone();
        let transactions = &mut changed.transactions;
        if self.has(ChainFault::NewestTransactionOnly) {
            transactions.drain(..transactions.len().saturating_sub(1));
        }
        if self.has(ChainFault::FirstTransactionOnly) {
            transactions.truncate(1);
        }
        changed
    }

    fn status_of(&self, status: Status<C::Evidence>) -> Status<C::Evidence> {
        match status {
            Status::Pending if self.has(ChainFault::DroppedWhilePending) => Status::Dropped,
            Status::Dropped if self.has(ChainFault::PendingWhenDropped) => Status::Pending,
            Status::Included { .. } if self.has(ChainFault::NeverIncluded) => Status::Pending,
            Status::Included { id, .. } if self.has(ChainFault::ExecutingForEver) => {
                Status::Executing { id }
            }
            Status::Included {
                id,
                confirmations,
                evidence,
            } => Status::Included {
                id,
                confirmations: match self.fault {
                    Some(ChainFault::NoConfirmations) => 0,
                    Some(ChainFault::OneConfirmationForEver) => 1,
                    _ => confirmations,
                },
                evidence,
            },
            other => other,
        }
    }
}

#[async_trait]
impl<C: Chain> Chain for FaultyChain<C> {
    type Read = C::Read;
    type Answer = C::Answer;
    type Action = C::Action;
    type Evidence = C::Evidence;
    type Search = C::Search;

    fn network(&self) -> &Network {
        self.inner.network()
    }

    fn lanes(&self) -> &[LaneId] {
        &self.lanes
    }

    fn signed(&self, action: &C::Action) -> Option<Transaction> {
        let signed = self.inner.signed(action);
        match self.fault {
            Some(ChainFault::SignedActionIsIgnored) => None,
            Some(ChainFault::SignedActionHasAnotherId) => signed.map(|signed| Transaction {
                id: TransactionId::new(&format!("{}0", signed.id.as_str())),
                ..signed
            }),
            Some(ChainFault::SignedActionIsOfTheFirstLane) => signed.map(|signed| Transaction {
                lane: self.lanes.first().cloned().unwrap_or(signed.lane),
                ..signed
            }),
            Some(ChainFault::EveryActionIsSigned) => Some(signed.unwrap_or(Transaction {
                id: TransactionId::new("planted"),
                lane: LaneId::new("planted"),
                sequence: 0,
                bytes: Arc::default(),
            })),
            _ => signed,
        }
    }

    fn confirmations_required(&self) -> u64 {
        match self.has(ChainFault::NoConfirmationsRequired) {
            true => 0,
            false => self.inner.confirmations_required(),
        }
    }

    fn finality(&self) -> Finality {
        self.inner.finality()
    }

    fn in_flight_max(&self) -> usize {
        match self.has(ChainFault::NothingInFlight) {
            true => 0,
            false => self.inner.in_flight_max(),
        }
    }

    fn inclusion_time(&self) -> Duration {
        self.inner.inclusion_time()
    }

    async fn read(&self, reads: &[C::Read]) -> Vec<Result<C::Answer, Fault>> {
        let mut answers = self.inner.read(reads).await;
        if self.has(ChainFault::AnswersReversed) {
            answers.reverse();
        }
        if self.has(ChainFault::AnswersTooFew) {
            answers.pop();
        }
        if self.has(ChainFault::OneFaultSpoilsAllAnswers) {
            let fault = answers
                .iter()
                .find_map(|answer| answer.as_ref().err().cloned());
            if let Some(fault) = fault {
                return answers.iter().map(|_| Err(fault.clone())).collect();
            }
        }
        answers
    }

    fn can_batch(&self, batch: &[&C::Action], next: &C::Action) -> bool {
        self.has(ChainFault::UnboundedBatch) || self.inner.can_batch(batch, next)
    }

    async fn next_sequence(&self, lane: &LaneId) -> Result<Option<u64>, Fault> {
        let next = self.inner.next_sequence(lane).await;
        match self.fault {
            Some(ChainFault::SequenceTooHigh) => next.map(|next| next.map(|next| next + 1)),
            Some(ChainFault::SequenceTooLow) => {
                next.map(|next| next.map(|next| next.saturating_sub(1)))
            }
            Some(ChainFault::SequenceIsZeroWithoutNodes) => next.or(Ok(Some(0))),
            Some(ChainFault::NoSequences) => next.map(|_| None),
            _ => next,
        }
    }

    async fn prepare(
        &self,
        lane: &LaneId,
        sequence: u64,
        actions: &[&C::Action],
    ) -> Result<Transaction, Fault> {
        let first = self.inner.lanes().first().unwrap_or(lane);
        let twice = [actions[0], actions[0]];
        let signer = match self.fault {
            Some(ChainFault::FirstLaneSigns | ChainFault::FirstLaneSignsForEveryLane) => first,
            _ => lane,
        };
        let sequence = match self.fault {
            Some(ChainFault::IgnoresTheSequence) => {
                let next = self.inner.next_sequence(lane).await?;
                next.unwrap_or(sequence)
            }
            _ => sequence,
        };
        let actions = match self.fault {
            Some(ChainFault::FirstActionOnly) => &actions[..1],
            Some(ChainFault::FirstActionTwice) => &twice[..],
            _ => actions,
        };
        let mut signed = self.inner.prepare(signer, sequence, actions).await?;
        match self.fault {
            Some(ChainFault::SubmitsWhenPrepared) => drop(self.inner.submit(&signed).await),
            Some(ChainFault::FirstLaneSignsForEveryLane) => signed.lane = lane.clone(),
            Some(ChainFault::AnotherId) => {
                signed.id = TransactionId::new(&format!("{}0", signed.id.as_str()));
            }
            _ => {}
        }
        Ok(signed)
    }

    async fn submit(&self, transaction: &Transaction) -> Submission {
        if self.has(ChainFault::SubmitsNothing) {
            return Submission::Accepted;
        }
        let fault = || Fault::new(quittance_core::FaultKind::ChainUnavailable, "planted");
        match (self.inner.submit(transaction).await, self.fault) {
            (Submission::Unknown(fault), Some(ChainFault::LostAnswerIsRefused)) => {
                Submission::Refused(fault)
            }
            (
                Submission::Refused(_) | Submission::Unknown(_),
                Some(ChainFault::RefusedIsAccepted),
            ) => Submission::Accepted,
            (Submission::SequenceUsed, Some(ChainFault::UsedSequenceIsRefused)) => {
                Submission::Refused(fault())
            }
            (Submission::SequenceUsed, Some(ChainFault::UsedSequenceIsAccepted)) => {
                Submission::Accepted
            }
            (submission, _) => submission,
        }
    }

    async fn status(&self, watched: &[Watched]) -> Vec<Result<Status<C::Evidence>, Fault>> {
        let asked: Vec<Watched> = match (self.fault, watched.first()) {
            (Some(ChainFault::StatusesOfTheFirst), Some(first)) => {
                watched.iter().map(|_| first.clone()).collect()
            }
            _ => watched.iter().map(|one| self.watched(one)).collect(),
        };
        let mut statuses: Vec<_> = self
            .inner
            .status(&asked)
            .await
            .into_iter()
            .map(|status| match status {
                Err(_) if self.has(ChainFault::PendingWithoutNodes) => Ok(Status::Pending),
                status => status.map(|status| self.status_of(status)),
            })
            .collect();
        if self.has(ChainFault::StatusesReversed) {
            statuses.reverse();
        }
        statuses
    }

    async fn find(&self, search: &C::Search) -> Result<Option<Found<C::Evidence>>, Fault> {
        match self.has(ChainFault::FindsNothing) {
            true => Ok(None),
            false => self.inner.find(search).await,
        }
    }

    async fn replace(&self, transaction: &Transaction) -> Result<Option<Transaction>, Fault> {
        let (lane, sequence) = (&transaction.lane, transaction.sequence);
        match self.fault {
            Some(ChainFault::NoReplacement) => Ok(None),
            Some(ChainFault::ReplacesByItself) => Ok(Some(transaction.clone())),
            Some(ChainFault::ReplacesByNoop) => {
                self.inner.noop(lane, sequence, Some(transaction)).await
            }
            Some(ChainFault::ReplacesForTheSameFee) => self.inner.noop(lane, sequence, None).await,
            Some(ChainFault::ReplacesAtTheNextSequence) => {
                let replacement = self.inner.replace(transaction).await?;
                Ok(replacement.map(|one| Transaction {
                    sequence: sequence + 1,
                    ..one
                }))
            }
            _ => self.inner.replace(transaction).await,
        }
    }

    async fn noop(
        &self,
        lane: &LaneId,
        sequence: u64,
        over: Option<&Transaction>,
    ) -> Result<Option<Transaction>, Fault> {
        match self.fault {
            Some(ChainFault::NoNoop) => Ok(None),
            Some(ChainFault::NoopAtTheNextSequence) => {
                self.inner.noop(lane, sequence + 1, over).await
            }
            Some(ChainFault::NoopForAnyFee) => self.inner.noop(lane, sequence, None).await,
            _ => self.inner.noop(lane, sequence, over).await,
        }
    }

    async fn health(&self, now: Timestamp) -> Health {
        let mut health = self.inner.health(now).await;
        match self.fault {
            Some(ChainFault::HealthLooksAtNothing) => health.problems.clear(),
            Some(ChainFault::HealthIsAlwaysBad) => health.problems.push(Problem {
                scope: Scope::Network,
                what: "planted".to_owned(),
            }),
            Some(ChainFault::HealthIgnoresSigners) => {
                let is_network = |problem: &Problem| problem.scope == Scope::Network;
                health.problems.retain(is_network);
            }
            _ => {}
        }
        health
    }

    fn clock_fault(&self) -> Option<Fault> {
        self.inner.clock_fault()
    }
}
