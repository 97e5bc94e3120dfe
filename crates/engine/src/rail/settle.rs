//! Settlement: from a verified payment to an answer, by way of the journal and a lane.

use std::sync::Arc;

use quittance_core::json::Object;
use quittance_core::wire::SettleResponse;
use quittance_core::{
    Chain, FacilitatorError, Fault, FaultKind, LaneId, Malformed, PaymentId, PaymentInfo,
    PaymentRequest, Reason, Rejection, TransactionId,
};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, error, info, warn};

use super::Rail;
use super::told::Telling;
use super::verify::{Decoded, Judgement, Standing, Unverified, Verified};
use crate::engine::HeldPlace;
use crate::event::Event;
use crate::job::{InFlightGuard, Job, Progress, Ready};
use crate::lane::Lane;
use quittance_journal::{Claim, Claimed, Outcome, Settlement, State};

/// How many settlements may be under way on one network. At hundreds a second this is half a minute of work, as much
/// as anybody waits for.
const LIVE_MAX: usize = 10_000;

/// The detail of a fault about an outcome that this version does not know.
const UNKNOWN_OUTCOME: &str =
    "the journal has an outcome that this version does not know: use a newer version";

/// A settlement that is under way or over, with how to wait for it.
struct Begun {
    id: PaymentId,
    /// Who pays, as the journal has it.
    payer: String,
    attempt: u32,
    follow: Follow,
}

/// How to wait for a settlement.
enum Follow {
    /// This process works on it.
    InFlight(watch::Receiver<Progress>),
    /// It does not; the journal says this much.
    Journal(Box<Settlement>),
}

/// Why there is nothing to wait for.
enum Unbegun {
    Unverified(Unverified),
    /// The authorization was here before, and this is what came of it.
    Over(Rejection, Box<Settlement>),
    /// It was used, by this transaction.
    Used {
        rejection: Rejection,
        payer: String,
        transaction: TransactionId,
        /// Where the journal knows it.
        id: Option<PaymentId>,
    },
}

impl From<Unverified> for Unbegun {
    fn from(unverified: Unverified) -> Self {
        Self::Unverified(unverified)
    }
}

impl From<Fault> for Unbegun {
    fn from(fault: Fault) -> Self {
        Self::Unverified(fault.into())
    }
}

impl<C: Chain> Rail<C> {
    /// The answer to /settle.
    ///
    /// Everything up to the lane happens in a task of its own: a caller that goes away does not take a claim along. The
    /// waiting happens here, so that nobody is told who is not there. The caller's `place` is given back in between.
    pub(crate) async fn settle(
        self: &Arc<Self>,
        request: &PaymentRequest,
        sequence: HeldPlace,
    ) -> Result<SettleResponse, FacilitatorError> {
        let deadline = Instant::now() + self.settle_wait;
        let (rail, owned) = (Arc::clone(self), request.clone());
        let begin = async move {
            let begun = rail.begin(&owned).await;
            drop(sequence);
            begun
        };
        let begun = self.tasks.spawn(begin.in_current_span()).await;
        let stopped = |error| {
            Err(Fault::new(
                FaultKind::Internal,
                format_args!("settling stopped: {error}"),
            )
            .into())
        };
        let network = request.requirements.network.as_str();
        match begun.unwrap_or_else(stopped) {
            Ok(begun) => self.outcome(network, begun, deadline).await,
            Err(Unbegun::Over(rejection, settlement)) => {
                let payer = Some(settlement.claim.payer.clone());
                let transaction = settlement.evidence().map_or("", TransactionId::as_str);
                let failed = SettleResponse::failed(network, &rejection, payer, transaction);
                Ok(SettleResponse {
                    extra: where_to_ask(&settlement.claim.id),
                    ..failed
                })
            }
            Err(Unbegun::Used {
                rejection,
                payer,
                transaction,
                id,
            }) => {
                let transaction = transaction.as_str();
                let failed = SettleResponse::failed(network, &rejection, Some(payer), transaction);
                Ok(SettleResponse {
                    extra: id.as_ref().and_then(where_to_ask),
                    ..failed
                })
            }
            Err(Unbegun::Unverified(Unverified::Rejected(rejection, payer))) => {
                Ok(SettleResponse::failed(network, &rejection, payer, ""))
            }
            Err(Unbegun::Unverified(Unverified::Malformed(malformed))) => Err(malformed.into()),
            Err(Unbegun::Unverified(Unverified::Fault(fault))) => Err(fault.into()),
        }
    }

    /// Verifies, claims, and hands to a lane; or finds who does already.
    async fn begin(self: &Arc<Self>, request: &PaymentRequest) -> Result<Begun, Unbegun> {
        /// Twins of a request that are claimed at the same moment; each round waits for one of them.
        const ROUNDS_MAX: usize = 8;
        let decoded = self.decode(request).await?;
        let info = decoded.info();
        for _ in 0..ROUNDS_MAX {
            let standing = self.standing(request, info).await?;
            let is_full = self.live.len() >= LIVE_MAX || self.writer.stopping.is_cancelled();
            if is_full && matches!(standing, Standing::Free(_)) {
                return Err(
                    Fault::new(FaultKind::Busy, "too many settlements are under way").into(),
                );
            }
            let (verified, payer) = match self.judge(request, &decoded, standing).await? {
                Judgement::Same(settlement) => return Ok(self.join(settlement).await?),
                // A caller that asks again gets the transaction that failed.
                Judgement::Over(rejection, settlement) => {
                    return Err(Unbegun::Over(rejection, settlement));
                }
                Judgement::Used {
                    rejection,
                    payer,
                    transaction,
                    id,
                } => {
                    return Err(Unbegun::Used {
                        rejection,
                        payer,
                        transaction,
                        id,
                    });
                }
                Judgement::Unfinished(settlement) => (None, settlement.claim.payer),
                Judgement::Valid(found) => {
                    let payer = found.payer.clone();
                    (Some(found), payer)
                }
            };
            match self.live.hold(info.id) {
                Ok(hold) => {
                    let verified = verified.as_ref();
                    return self.claim(request, &decoded, payer, verified, hold).await;
                }
                // A twin came first. Once it has claimed, the journal says whether it is this very request.
                Err(mut twin) => {
                    let claimed = |progress: &Progress| !matches!(progress, Progress::Claiming);
                    drop(twin.wait_for(claimed).await);
                }
            }
        }
        let what = "this authorization is claimed by many at once";
        Err(Fault::new(FaultKind::Busy, what).into())
    }

    /// Somebody settles this very request, or has: there is nothing to do but wait.
    async fn join(&self, settlement: Box<Settlement>) -> Result<Begun, Fault> {
        let id = settlement.claim.id;
        let (settlement, follow) = match self.live.follow(&id) {
            Some(live) => (settlement, Follow::InFlight(live)),
            // Whoever worked on it may have ended between the two looks; now the journal says how.
            None => {
                let newer = self.writer.journal.settlement(&id).await?;
                let settlement = newer.map_or(settlement, Box::new);
                (settlement.clone(), Follow::Journal(settlement))
            }
        };
        Ok(Begun {
            id,
            payer: settlement.claim.payer.clone(),
            attempt: settlement.attempt,
            follow,
        })
    }

    /// Claims, and hands what was verified to a lane; what was not has a transaction out there already.
    async fn claim(
        self: &Arc<Self>,
        request: &PaymentRequest,
        decoded: &Decoded<C>,
        payer: String,
        verified: Option<&Verified<'_, C>>,
        hold: InFlightGuard,
    ) -> Result<Begun, Unbegun> {
        let info = decoded.info();
        let claim = self
            .claim_of(request, decoded, payer)
            .map_err(Unverified::Malformed)?;
        let reservation = match verified {
            Some(verified) => {
                let (payer, balance) = (&claim.payer, verified.balance(self.clock.now()));
                self.ledger
                    .reserve(payer, &claim.asset, claim.amount, balance)?
            }
            None => self.ledger.add(&claim.payer, &claim.asset, claim.amount),
        };
        let claimed = self.writer.journal.claim(&claim, self.clock.now()).await;
        let attempt = match claimed.map_err(Fault::from)? {
            Claimed::Won { attempt } => attempt,
            // Somebody else with this journal was faster.
            Claimed::Taken(settlement) => return self.taken(request, *settlement).await,
        };
        hold.report(Progress::Waiting);
        let follow = Follow::InFlight(hold.follow());
        let job = Job {
            id: info.id,
            attempt,
            amount: request.requirements.amount,
            expires: info.expires,
            payer: claim.payer.as_str().into(),
            pay_to: claim.pay_to.as_str().into(),
            reservation,
            payment: Arc::clone(&decoded.payment),
            alone: false,
            told: false,
            hold,
        };
        match verified {
            Some(verified) => self.dispatch(job, verified).await,
            None => self.spawn(Arc::clone(self).take_up(job)),
        }
        Ok(Begun {
            id: claim.id,
            payer: claim.payer,
            attempt,
            follow,
        })
    }

    async fn taken(
        &self,
        request: &PaymentRequest,
        settlement: Settlement,
    ) -> Result<Begun, Unbegun> {
        match Standing::of(request, settlement) {
            Standing::Same(settlement) => Ok(self.join(settlement).await?),
            Standing::Over(rejection, settlement) => Err(Unbegun::Over(rejection, settlement)),
            // It was taken a moment ago, and is free by now.
            Standing::Free(_) => {
                let what = "this authorization was claimed by another process: ask again";
                Err(Fault::new(FaultKind::Busy, what).into())
            }
        }
    }

    fn claim_of(
        &self,
        request: &PaymentRequest,
        decoded: &Decoded<C>,
        payer: String,
    ) -> Result<Claim, Malformed> {
        let info = PaymentInfo {
            payer,
            amount: request.requirements.amount,
            ..decoded.info().clone()
        };
        let scheme = &request.requirements.scheme;
        let text = request.kept_text()?;
        Ok(Claim::new(
            self.network(),
            scheme,
            &info,
            text,
            decoded.decoded_at,
        ))
    }

    /// Finds the action that settles a job's payment, and hands both to a lane.
    async fn dispatch(&self, job: Job<C>, verified: &Verified<'_, C>) {
        let observed = verified.observed(self.clock.now());
        let sender = job.payment.sender(&observed);
        match job.payment.action(job.amount, &observed) {
            Ok(action) => self.queue(job, action, sender).await,
            Err(rejection) => self.fail(job, rejection, None).await,
        }
    }

    /// Hands a job to a lane, or gives it back where there is none for it. Only `sender` may send it, where one is named.
    pub(crate) async fn queue(&self, job: Job<C>, action: C::Action, sender: Option<LaneId>) {
        match self.lane_for(sender.as_ref()) {
            Ok(lane) => {
                if let Some(Ready { job, .. }) = lane.accept(Ready { job, action }) {
                    let full = Fault::new(FaultKind::Busy, "the lane's queue is full");
                    self.release(job, full).await;
                }
            }
            Err(fault) => self.release(job, fault).await,
        }
    }

    /// The working lane with the least to do; where a signer is named, that one.
    fn lane_for(&self, named: Option<&LaneId>) -> Result<&Lane<C>, Fault> {
        let health = self.health();
        let usable = |lane: &&Lane<C>| {
            named.is_none_or(|named| *named == lane.id) && health.lane_works(&lane.id)
        };
        let found = self
            .lanes
            .iter()
            .filter(usable)
            .min_by_key(|lane| lane.waiting());
        found.ok_or_else(|| match health.network_works() {
            true => Fault::new(
                FaultKind::FacilitatorFunds,
                "no signer can pay for a transaction",
            ),
            false => Fault::new(
                FaultKind::ChainUnavailable,
                "the network cannot be used now",
            ),
        })
    }

    /// Waits for a settlement as long as the caller does, and answers.
    async fn outcome(
        &self,
        network: &str,
        begun: Begun,
        deadline: Instant,
    ) -> Result<SettleResponse, FacilitatorError> {
        let Begun {
            id,
            payer,
            attempt,
            follow,
        } = begun;
        let progress = match follow {
            Follow::InFlight(follow) => last_word(follow, deadline).await,
            Follow::Journal(settlement) => progress_of(&settlement),
        };
        let extra = where_to_ask(&id);
        let response = match progress {
            Progress::Concluded(outcome) => {
                self.report_success(network, payer, (id, attempt), outcome)
                    .await?
            }
            Progress::Sent(transaction) => {
                let detail = "broadcast, and not decided yet: ask again with the same request";
                let pending = Rejection::new(Reason::SETTLEMENT_PENDING, detail);
                SettleResponse::failed(network, &pending, Some(payer), transaction.as_str())
            }
            Progress::Released(fault) => return Err(fault.into()),
            Progress::Claiming | Progress::Waiting => {
                let what = "the settlement waits to be sent: ask again with the same request";
                return Err(Fault::new(FaultKind::Busy, what).into());
            }
        };
        Ok(SettleResponse { extra, ..response })
    }

    /// The answer about a settlement that is over: success, to the first who asks.
    async fn report_success(
        &self,
        network: &str,
        payer: String,
        (id, attempt): (PaymentId, u32),
        outcome: Outcome,
    ) -> Result<SettleResponse, FacilitatorError> {
        let payer = Some(payer);
        let failed = |reason: Reason, detail: &str, transaction: &str| {
            let rejection = Rejection::new(reason, detail);
            SettleResponse::failed(network, &rejection, payer.clone(), transaction)
        };
        match outcome {
            Outcome::Settled {
                transaction,
                amount,
            } => {
                let transaction = transaction.as_str();
                let Some(telling) = self.telling(id, attempt).await? else {
                    if self.was_taken_back(&id).await? {
                        let detail =
                            "the chain took the transaction back: ask again with the same request";
                        return Ok(failed(Reason::SETTLEMENT_PENDING, detail, transaction));
                    }
                    let detail = "success was already reported for this authorization";
                    return Ok(failed(Reason::DUPLICATE_SETTLEMENT, detail, transaction));
                };
                telling.used();
                Ok(SettleResponse {
                    amount: Some(amount.to_string()),
                    ..SettleResponse::settled(network, payer, transaction)
                })
            }
            Outcome::Failed {
                reason,
                detail,
                transaction,
            }
            | Outcome::Lost {
                reason,
                detail,
                transaction,
            } => {
                // One that was named while it was pending stays named, even if it was never included.
                let named = match transaction {
                    Some(transaction) => Some(transaction),
                    None => self.named(&id).await?,
                };
                let named = named.as_ref().map_or("", TransactionId::as_str);
                Ok(failed(reason, &detail, named))
            }
            Outcome::Released { fault } => Err(fault.into()),
            // A newer journal crate may know more outcomes. None of them is reported as success.
            _ => Err(Fault::new(FaultKind::Internal, UNKNOWN_OUTCOME).into()),
        }
    }

    /// Whether the chain took a payment back before its success was reported. It is under way again.
    async fn was_taken_back(&self, id: &PaymentId) -> Result<bool, Fault> {
        let settlement = self.writer.journal.settlement(id).await?;
        Ok(settlement
            .is_some_and(|known| known.state == State::Open && known.success_reported_at.is_none()))
    }

    /// The transaction that callers were told of.
    async fn named(&self, id: &PaymentId) -> Result<Option<TransactionId>, Fault> {
        let settlement = self.writer.journal.settlement(id).await?;
        Ok(settlement.and_then(|settlement| settlement.evidence().cloned()))
    }

    /// The right to report success; `None` where it was reported before, and heard.
    ///
    /// The write is a task of its own, which no timeout and no caller that hangs up cuts short. Where the caller is gone when
    /// it is done, the right goes to the next who asks with the same request.
    async fn telling(&self, id: PaymentId, attempt: u32) -> Result<Option<Telling>, Fault> {
        let (journal, now) = (Arc::clone(&self.writer.journal), self.clock.now());
        let unheard = self.unheard.clone();
        let write = self.tasks.spawn(async move {
            let is_first = journal.report_success(&id, attempt, now).await?;
            Ok(is_first.then(|| unheard.telling(id)))
        });
        let written: Result<_, Fault> = write.await.unwrap_or_else(|error| {
            let what = format_args!("reporting stopped: {error}");
            Err(Fault::new(FaultKind::Internal, what))
        });
        Ok(written?.or_else(|| self.unheard.take(&id)))
    }

    /// Concludes a job whose money moved.
    pub(crate) async fn settled(&self, job: Job<C>, transaction: TransactionId) {
        info!(settlement = %job.id, %transaction, "settled");
        self.failures
            .settled(&job.payer, &job.pay_to, self.clock.now());
        if job.told {
            self.report(Event::Restored {
                network: self.network().to_owned(),
                settlement: job.id,
                transaction: transaction.clone(),
            });
        }
        let outcome = Outcome::Settled {
            transaction,
            amount: job.amount,
        };
        self.conclude(job, outcome).await;
    }

    /// Concludes a job whose money did not move.
    pub(crate) async fn fail(
        &self,
        job: Job<C>,
        rejection: Rejection,
        transaction: Option<TransactionId>,
    ) {
        if job.told {
            return self.lose(job, rejection, transaction).await;
        }
        info!(settlement = %job.id, %rejection, ?transaction, "failed");
        // That an outsider was faster is not the payer's doing.
        let by_other = rejection.reason == Reason::SETTLED_BY_OTHER_TRANSACTION;
        if transaction.is_some() && !by_other {
            self.failures
                .failed(&job.payer, &job.pay_to, self.clock.now());
        }
        let Rejection { reason, detail } = rejection;
        let detail = detail.unwrap_or_default();
        self.conclude(
            job,
            Outcome::Failed {
                reason,
                detail,
                transaction,
            },
        )
        .await;
    }

    /// Concludes a job whose money had moved, was taken back after success was reported, and cannot move any more.
    async fn lose(&self, job: Job<C>, rejection: Rejection, transaction: Option<TransactionId>) {
        let (id, network) = (job.id, self.network().to_owned());
        error!(settlement = %id, network, %rejection, ?transaction,
            "a payment whose success was reported was undone and cannot be settled again");
        metrics::counter!("quittance_lost_settlements_total", "network" => network.clone())
            .increment(1);
        let Rejection { reason, detail } = rejection;
        let outcome = Outcome::Lost {
            reason,
            detail: detail.unwrap_or_default(),
            transaction,
        };
        self.conclude(job, outcome).await;
        self.report(Event::Lost {
            network,
            settlement: id,
        });
    }

    /// Gives a job back of which nothing was sent. One whose success was reported stays open: the next sweep tries again.
    pub(crate) async fn release(&self, job: Job<C>, fault: Fault) {
        if job.told {
            return warn!(settlement = %job.id, %fault, "cannot be sent again yet");
        }
        warn!(settlement = %job.id, %fault, "given back unsent");
        let outcome = Outcome::Released {
            fault: fault.clone(),
        };
        if self.concluded(&job, &outcome).await {
            job.hold.report(Progress::Released(fault));
        }
    }

    async fn conclude(&self, job: Job<C>, outcome: Outcome) {
        if self.concluded(&job, &outcome).await {
            job.hold.report(Progress::Concluded(outcome));
        }
    }

    /// Writes down how a job ended. Where that cannot be written, nobody is told.
    async fn concluded(&self, job: &Job<C>, outcome: &Outcome) -> bool {
        let (id, attempt) = (job.id, job.attempt);
        let written = self.writer.conclude(&id, attempt, outcome).await;
        // Before anybody hears of it and asks for the next one.
        job.reservation.release();
        if written == Some(false) {
            error!(settlement = %id, attempt, ?outcome, "the journal has concluded this attempt otherwise");
        }
        written == Some(true)
    }

    /// Whether the authorization of a job runs out before a transaction that is sent now could be included.
    pub(crate) fn is_too_late_to_send(&self, job: &Job<C>) -> bool {
        let needed = self.chain.inclusion_time().as_secs();
        self.clock.now().plus_secs(needed) > job.expires || self.is_too_late(job)
    }

    /// Whether the authorization of a job can no longer be used.
    pub(crate) fn is_too_late(&self, job: &Job<C>) -> bool {
        self.clock.now() >= job.expires
    }
}

/// Waits until a settlement ends or the time is up; how far it has come then.
async fn last_word(mut follow: watch::Receiver<Progress>, deadline: Instant) -> Progress {
    let ended =
        |progress: &Progress| matches!(progress, Progress::Concluded(_) | Progress::Released(_));
    // An error means that nobody works on it any more, because this process stops; the journal has it.
    drop(timeout_at(deadline, follow.wait_for(ended)).await);
    Progress::clone(&follow.borrow())
}

/// How far the journal says a settlement has come.
fn progress_of(settlement: &Settlement) -> Progress {
    match (&settlement.state, settlement.transaction()) {
        (State::Concluded(outcome), _) => Progress::Concluded(outcome.clone()),
        (_, Some(transaction)) => Progress::Sent(transaction.id.clone()),
        (_, None) => Progress::Waiting,
    }
}

/// The `extra` of an answer: the settlement's identity, by which its state can be asked for at any time.
fn where_to_ask(id: &PaymentId) -> Option<Object> {
    Object::of(&json!({ "settlement": id.to_string() })).ok()
}
