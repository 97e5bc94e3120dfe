//! Taking up what was left: settlements from the journal, and those whose transaction did nothing for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use quittance_core::{
    Amount, Chain, Effect, Fault, FaultKind, LaneId, Payment, PaymentId, PaymentRequest, Problem,
    Reason, Rejection, Scope, Status, Transaction, TransactionId, Watched,
};
use tokio::time::Instant;
use tracing::{debug, error, info};

use super::Rail;
use super::used::Use;
use super::verify::Unverified;
use crate::job::{InFlightGuard, Job, Progress};
use crate::writer::Journaled;
use quittance_journal::{JournalError, Settlement, State};

/// The pause before a chain that does not answer is asked again about a settlement that was left.
const PAUSE: Duration = Duration::from_secs(1);

/// The pause between later tries. A node that turns away thousands of questions does so for longer if all are repeated
/// every second; callers wait for twenty seconds.
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// The pause before the nodes are searched again for who used an authorization.
const PAUSE_UNKNOWN: Duration = Duration::from_secs(3);

/// What the transactions that were ever signed for a settlement have done.
pub(super) enum Trail {
    /// This one moved the money.
    Moved(TransactionId),
    /// These, all of one place, may still move it.
    Out(Vec<Journaled>),
    /// None moved it, and none ever will.
    Cold(Cold),
}

/// What is known of transactions none of which moved the money.
#[derive(Default)]
pub(super) struct Cold {
    /// Whether that is known of some only because their place was taken, and not from what they did.
    gone: bool,
    /// Those of the current attempt that were included and moved nothing, with what was found in them.
    fruitless: Vec<(TransactionId, Rejection)>,
    /// One of the current attempt that did something else than it should have.
    other: Option<(TransactionId, Rejection)>,
    /// Every transaction that was ever signed for it, withdrawn ones included.
    pub(super) signed: Vec<TransactionId>,
}

/// The transactions that were signed for one place.
#[derive(Default)]
struct Signed {
    /// All of them. One that was withdrawn was refused by a node that may have been wrong.
    all: Vec<Transaction>,
    /// Those that are sent.
    sent: Vec<Journaled>,
}

/// What is to be done about a job that is in nobody's hands.
enum Next<C: Chain> {
    /// To conclude it: this one moved the money.
    Settled(TransactionId),
    /// To follow these, which may still move it.
    Follow(Vec<Journaled>),
    /// To send this.
    Send {
        action: C::Action,
        /// Who must send it, where it matters.
        sender: Option<LaneId>,
        alone: bool,
    },
    /// To wait until the nodes say who used its authorization; in the end, to conclude it without success.
    Wait { rejection: Rejection },
    /// To conclude it without success. Where a place was found `gone`, only after a second look.
    Fail {
        rejection: Rejection,
        transaction: Option<TransactionId>,
        gone: bool,
    },
}

/// An action, and who must send it, where it matters.
type Plan<C> = (<C as Chain>::Action, Option<LaneId>);
/// For how long a payment waits until the nodes say who used its authorization. Indexes of receipts and logs lie behind by
/// seconds, and seldom by minutes.
const UNKNOWN_MAX: Duration = Duration::from_secs(600);

/// How many transactions of one attempt may be included without effect. The first may have been spoilt by somebody it
/// shared; the second was alone.
const FRUITLESS_MAX: usize = 2;

impl<C: Chain> Rail<C> {
    /// Takes up every settlement that the journal has open and nobody works on.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<(), Fault> {
        for id in self.writer.journal.open(self.network()).await? {
            let Ok(hold) = self.live.hold(id) else {
                continue;
            };
            // Read only now that nobody else can work on it: it may have ended since the search.
            let settlement = match self.writer.journal.settlement(&id).await {
                Ok(Some(settlement)) => settlement,
                Ok(None) => continue,
                Err(error @ JournalError::Unreadable { .. }) => {
                    self.pass_over(id, &error.to_string());
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if settlement.state != State::Open {
                continue;
            }
            match self.decode_again(&settlement) {
                Some(payment) => {
                    info!(settlement = %id, "taking up a settlement from the journal");
                    let job = self.job_of(&settlement, payment, hold);
                    self.spawn(Arc::clone(self).take_up(job));
                }
                None => self.pass_over(id, "no scheme of this network reads its request"),
            }
        }
        Ok(())
    }

    /// Leaves a settlement as it is: another program wrote it, or it is damaged. It is reported once.
    pub(crate) fn pass_over(&self, id: PaymentId, problem: &str) {
        let mut known = self
            .unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if known.insert(id) {
            error!(settlement = %id, problem, "a settlement in the journal cannot be read");
            metrics::counter!("quittance_unreadable_settlements_total").increment(1);
        }
    }

    /// What operators should know of the settlements that are left as they are.
    pub(super) fn unreadable_problem(&self) -> Option<Problem> {
        let known = self
            .unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let first = known.first()?;
        let what = format!(
            "{} settlements in the journal cannot be read and are left as they are; the first is {first}",
            known.len()
        );
        let scope = Scope::Advisory;
        Some(Problem { scope, what })
    }

    /// The payment as it was decoded when it was claimed.
    pub(crate) fn decode_again(&self, settlement: &Settlement) -> Option<Arc<dyn Payment<C>>> {
        let claim = &settlement.claim;
        let request = PaymentRequest::decode(claim.request.as_bytes()).ok()?;
        let scheme = self.scheme_of(&request)?;
        let payment = scheme.decode(&request, claim.decoded_at).ok()?;
        (payment.info().id == claim.id).then(|| payment.into())
    }

    pub(crate) fn job_of(
        &self,
        settlement: &Settlement,
        payment: Arc<dyn Payment<C>>,
        hold: InFlightGuard,
    ) -> Job<C> {
        hold.report(
            settlement
                .transaction()
                .map_or(Progress::Waiting, |sent| Progress::Sent(sent.id.clone())),
        );
        Job {
            id: settlement.claim.id,
            attempt: settlement.attempt,
            amount: settlement.claim.amount,
            expires: settlement.claim.expires,
            payer: settlement.claim.payer.as_str().into(),
            pay_to: settlement.claim.pay_to.as_str().into(),
            reservation: self.ledger.add(
                &settlement.claim.payer,
                &settlement.claim.asset,
                settlement.claim.amount,
            ),
            payment,
            alone: false,
            told: settlement.success_reported_at.is_some(),
            hold,
        }
    }

    /// Brings a job to its end that is in nobody's hands: finds out what its transactions have done, follows what is still
    /// out, and sends a payment that is still good anew.
    ///
    /// It is told failed only when none of its transactions can have moved the money and the chain itself speaks against
    /// the payment.
    pub(crate) async fn take_up(self: Arc<Self>, mut job: Job<C>) {
        let (mut looked_twice, mut pause) = (false, PAUSE);
        let mut unknown_since = None;
        loop {
            match self.next_in_turn(&job).await {
                Ok(Next::Settled(transaction)) => return self.settled(job, transaction).await,
                Ok(Next::Follow(transactions)) => return self.watch.adopt(Some(job), transactions),
                Ok(Next::Send {
                    action,
                    sender,
                    alone,
                }) => {
                    job.alone = alone;
                    return self.queue(job, action, sender).await;
                }
                Ok(Next::Wait { rejection }) => {
                    let since = *unknown_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= UNKNOWN_MAX {
                        return self.fail(job, rejection, None).await;
                    }
                    debug!(settlement = %job.id, "the authorization is used, and no node says by which transaction");
                    tokio::time::sleep(PAUSE_UNKNOWN).await;
                }
                // A node may know that a place is taken before it can say by what.
                Ok(Next::Fail { gone: true, .. }) if !looked_twice => {
                    looked_twice = true;
                    tokio::time::sleep(self.timing.gone_for).await;
                }
                Ok(Next::Fail {
                    rejection,
                    transaction,
                    ..
                }) => return self.fail(job, rejection, transaction).await,
                Err(fault) => {
                    debug!(settlement = %job.id, %fault, "cannot be taken up yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// As [`next`](Self::next), of a few settlements at a time.
    async fn next_in_turn(&self, job: &Job<C>) -> Result<Next<C>, Fault> {
        let turn = self.recovering.acquire().await;
        let _turn = turn.map_err(|error| Fault::new(FaultKind::Internal, error))?;
        self.next(job).await
    }

    /// What is to be done about a job that is in nobody's hands.
    async fn next(&self, job: &Job<C>) -> Result<Next<C>, Fault> {
        let mut cold = match self.trail(&job.id, &*job.payment, job.amount).await? {
            Trail::Moved(transaction) => return Ok(Next::Settled(transaction)),
            Trail::Out(transactions) => return Ok(Next::Follow(transactions)),
            Trail::Cold(cold) => cold,
        };
        let gone = cold.gone;
        // That is all there is to say: what the chain says of the payment now comes of it.
        if let Some((transaction, rejection)) = cold.other {
            return Ok(Next::Fail {
                rejection,
                transaction: Some(transaction),
                gone,
            });
        }
        let mut judged = self.judge_again(job).await?;
        if let Err(rejection) = &judged {
            let found = self
                .who_used(&*job.payment, job.amount, rejection, &cold.signed)
                .await?;
            match found {
                Use::Unused => {}
                Use::Cancelled(rejection) => judged = Err(rejection),
                Use::Ours(transaction) => return Ok(Next::Settled(transaction)),
                Use::Other(transaction, rejection) => {
                    return Ok(Next::Fail {
                        rejection,
                        transaction: Some(transaction),
                        gone: false,
                    });
                }
                Use::Unknown => {
                    return Ok(Next::Wait {
                        rejection: rejection.clone(),
                    });
                }
            }
        }
        let is_late = cold.fruitless.is_empty() && self.is_too_late(job);
        if is_late && let Some(fault) = self.doubts_time().await {
            return Err(fault);
        }
        let rejection = match judged {
            _ if is_late => Some(Reason::SETTLEMENT_EXPIRED.into()),
            // It was good before and it is good now: once more, and in no company that could spoil it.
            Ok((action, sender)) if cold.fruitless.len() < FRUITLESS_MAX => {
                let alone = !cold.fruitless.is_empty();
                return Ok(Next::Send {
                    action,
                    sender,
                    alone,
                });
            }
            Ok(_) => None,
            Err(rejection) => Some(rejection),
        };
        let (transaction, found) = cold.fruitless.pop().unzip();
        Ok(Next::Fail {
            rejection: rejection
                .or(found)
                .unwrap_or_else(|| Reason::INVALID_TRANSACTION_STATE.into()),
            transaction,
            gone,
        })
    }

    /// The action that settles a job's payment now, and who must send it; or the verdict against it.
    async fn judge_again(&self, job: &Job<C>) -> Result<Result<Plan<C>, Rejection>, Fault> {
        let now = self.clock.now();
        let decoded = self.decoded(Arc::clone(&job.payment), now).await?;
        match self.check(&decoded).await {
            Ok(verified) => {
                let observed = verified.observed(self.clock.now());
                let action = job.payment.action(job.amount, &observed);
                Ok(action.map(|action| (action, job.payment.sender(&observed))))
            }
            Err(Unverified::Rejected(rejection, _)) => Ok(Err(rejection)),
            Err(Unverified::Malformed(malformed)) => {
                Ok(Err(Rejection::new(Reason::INVALID_PAYLOAD, malformed)))
            }
            Err(Unverified::Fault(fault)) => Err(fault),
        }
    }

    /// What has become of every transaction that was ever signed for a settlement, in whatever attempt.
    pub(super) async fn trail(
        &self,
        id: &PaymentId,
        payment: &dyn Payment<C>,
        amount: Amount,
    ) -> Result<Trail, Fault> {
        let Some(settlement) = self.writer.journal.settlement(id).await? else {
            return Ok(Trail::Cold(Cold::default()));
        };
        let of_this_attempt: BTreeSet<TransactionId> = settlement
            .current_transactions()
            .map(|transaction| transaction.id.clone())
            .collect();
        let mut cold = Cold {
            signed: ids(settlement.all_transactions()),
            ..Cold::default()
        };
        let sequences = by_place(settlement);
        let watched: Vec<Watched> = sequences.iter().map(watched_all).collect();
        let statuses = join_all(
            watched
                .into_iter()
                .map(|sequence| self.statuses.ask(sequence)),
        )
        .await;
        let mut out = None;
        for (signed, status) in sequences.into_values().zip(statuses) {
            match status? {
                Status::Included {
                    id,
                    confirmations,
                    evidence,
                } if confirmations >= self.chain.confirmations_required() => {
                    match payment.effect(amount, &evidence) {
                        Effect::Transferred(moved) if moved == amount => {
                            return Ok(Trail::Moved(id));
                        }
                        Effect::None(found) if of_this_attempt.contains(&id) => {
                            cold.fruitless.push((id, found));
                        }
                        Effect::Mismatch(found) if of_this_attempt.contains(&id) => {
                            cold.other = Some((id, found));
                        }
                        _ => {}
                    }
                }
                Status::Dropped => cold.gone = true,
                // What is in a block that is not deep enough is out, even if it was withdrawn.
                Status::Included { .. } if signed.sent.is_empty() => {
                    let what = "a transaction that a node refused is in a block";
                    return Err(Fault::new(FaultKind::ChainUnavailable, what));
                }
                // What was withdrawn is not sent again.
                Status::Pending if signed.sent.is_empty() => {}
                Status::Pending | Status::Included { .. } => out = Some(signed.sent),
            }
        }
        Ok(out.map_or(Trail::Cold(cold), Trail::Out))
    }
}

fn ids<'a>(transactions: impl Iterator<Item = &'a Transaction>) -> Vec<TransactionId> {
    transactions
        .map(|transaction| transaction.id.clone())
        .collect()
}

/// A settlement's transactions, by the place that they were signed for.
fn by_place(settlement: Settlement) -> BTreeMap<(LaneId, u64), Signed> {
    let mut sequences: BTreeMap<(LaneId, u64), Signed> = BTreeMap::new();
    for transaction in settlement.all_transactions() {
        let key = (transaction.lane.clone(), transaction.sequence);
        sequences
            .entry(key)
            .or_default()
            .all
            .push(transaction.clone());
    }
    for sent in Journaled::of(settlement) {
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
