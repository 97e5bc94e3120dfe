//! Claiming: from a request to a settlement that is in progress, or to the reason why there is
//! none.

use std::sync::Arc;
use std::time::Duration;

use quittance_core::{
    Amount, Chain, Fault, FaultKind, Malformed, PaymentId, PaymentInfo, PaymentRequest, Plan,
    Reason, Rejection, SchemeReceipt,
};
use quittance_journal::{Claim, Claimed, Settlement};
use tokio::sync::watch;

use super::Rail;
use super::decoded::{Decoded, Verified, VerifyError};
use super::judge::{Judgement, Used};
use super::prior::Prior;
use crate::context::next_state;
use crate::in_flight::{InFlightGuard, Progress};
use crate::job::Job;
use crate::ledger::Reservation;

/// How many settlements may be in progress on one network. At hundreds a second this is half a
/// minute of work, which is as long as callers wait.
const IN_FLIGHT_MAX: usize = 10_000;

/// How many concurrent requests with the same authorization a request waits for, one after the
/// other.
const ROUNDS_MAX: usize = 8;

/// A settlement that is in progress or has ended, and how to follow it.
pub(super) struct Started {
    pub(super) id: PaymentId,
    /// The payer's address, as the journal has it.
    pub(super) payer: String,
    pub(super) attempt: u32,
    pub(super) follow: Follow,
}

/// How to follow a settlement.
pub(super) enum Follow {
    /// A task of this process works on it.
    InFlight(watch::Receiver<Progress>),
    /// No task works on the settlement. This is its entry in the journal.
    Journal(Box<Settlement>),
    /// It was settled by a write of its state record. The journal has no entry of its own for it.
    Written {
        amount: Amount,
        receipt: SchemeReceipt,
    },
}

/// Whether a payment was settled by a write of its state record.
enum OffChain {
    /// It was.
    Settled(Started),
    /// Another payment has changed the record meanwhile, or has it for itself.
    Refused,
    /// It is settled in another way.
    No,
}

/// Why no settlement was started.
pub(super) enum NotStarted {
    /// The payment is not verified.
    Unverified(VerifyError),
    /// The authorization was claimed before, with this result.
    Over(Rejection, Box<Settlement>),
    /// The authorization is used.
    Used(Box<Used>),
}

impl From<VerifyError> for NotStarted {
    fn from(error: VerifyError) -> Self {
        Self::Unverified(error)
    }
}

impl From<Fault> for NotStarted {
    fn from(fault: Fault) -> Self {
        Self::Unverified(fault.into())
    }
}

/// What to claim.
enum Candidate<'a, C: Chain> {
    /// A payment that would settle now.
    Verified(Verified<'a, C>),
    /// A payment whose earlier transaction has transferred the money, or still may.
    Unfinished(Box<Settlement>),
}

impl<C: Chain> Rail<C> {
    /// Verifies a payment, claims it and hands it to a lane. If another task works on the same
    /// request, follows that task.
    pub(super) async fn start_settlement(
        self: &Arc<Self>,
        request: &PaymentRequest,
    ) -> Result<Started, NotStarted> {
        let mut decoded = self.decode(request).await?.settling();
        for round in 0..ROUNDS_MAX {
            if round > 0 {
                decoded = self.with_state(decoded).await?;
            }
            let prior = self.prior(request, decoded.info()).await?;
            self.check_room(&prior)?;
            let candidate = match self.judge(request, &decoded, prior).await? {
                Judgement::Same(settlement) => return Ok(self.follow_existing(settlement).await?),
                // A caller that retries gets the transaction that failed.
                Judgement::Over(rejection, settlement) => {
                    return Err(NotStarted::Over(rejection, settlement));
                }
                Judgement::Used(used) => return Err(NotStarted::Used(used)),
                Judgement::Unfinished(settlement) => Candidate::Unfinished(settlement),
                Judgement::Valid(verified) => Candidate::Verified(verified),
            };
            let started = match self.change_state(request, &decoded, &candidate).await? {
                OffChain::Settled(started) => Some(started),
                OffChain::Refused => {
                    let read = decoded.place();
                    decoded = self.with_state(decoded).await?;
                    // No payment has changed the record, so a settlement has it for itself.
                    if decoded.place() == read {
                        return Err(is_busy(&decoded).into());
                    }
                    None
                }
                OffChain::No => match self.context.in_flight.guard(decoded.info().id) {
                    Ok(guard) => self.claim(request, &decoded, candidate, guard).await?,
                    Err(other) => {
                        wait_until_claimed(other).await;
                        None
                    }
                },
            };
            if let Some(started) = started {
                return Ok(started);
            }
        }
        let what = "many concurrent requests need what this payment needs: retry";
        Err(Fault::new(FaultKind::Busy, what).into())
    }

    /// Whether one more settlement may be started, if the request needs one.
    fn check_room(&self, prior: &Prior) -> Result<(), Fault> {
        let is_full = self.in_progress() >= IN_FLIGHT_MAX;
        let is_stopping = self.context.writer.stopping.is_cancelled();
        match prior {
            Prior::Free(_) if is_full || is_stopping => {
                let what = "too many settlements are in progress: retry";
                Err(Fault::new(FaultKind::Busy, what))
            }
            _ => Ok(()),
        }
    }

    /// Follows a settlement of the same request.
    async fn follow_existing(&self, settlement: Box<Settlement>) -> Result<Started, Fault> {
        let id = settlement.claim.id;
        let (settlement, follow) = match self.context.in_flight.follow(&id) {
            Some(progress) => (settlement, Follow::InFlight(progress)),
            // The task may have ended since the settlement was read. Then the journal has the
            // outcome.
            None => {
                let newer = self.context.writer.journal.settlement(&id).await?;
                let settlement = newer.map_or(settlement, Box::new);
                (settlement.clone(), Follow::Journal(settlement))
            }
        };
        Ok(Started {
            id,
            payer: settlement.claim.payer.clone(),
            attempt: settlement.attempt,
            follow,
        })
    }

    /// Settles a payment by one write of its state record, if nothing has to be sent for it.
    async fn change_state(
        &self,
        request: &PaymentRequest,
        decoded: &Decoded<C>,
        candidate: &Candidate<'_, C>,
    ) -> Result<OffChain, NotStarted> {
        let payment = &decoded.payment;
        let (Some(access), Candidate::Verified(verified)) = (payment.state_access(), candidate)
        else {
            return Ok(OffChain::No);
        };
        let (amount, now) = (request.requirements.amount, self.context.now());
        let plan = payment.plan(amount, &verified.observed(now));
        if !matches!(plan, Ok(Plan::OffChain)) {
            return Ok(OffChain::No);
        }
        let change = payment.state_after(amount, decoded.state.as_ref(), None, now);
        let (network, scheme) = (self.context.network(), &request.requirements.scheme);
        let next = next_state(access, decoded.state.as_ref(), &change, network, scheme);
        let Some(next) = next else {
            return Ok(OffChain::No);
        };
        if !self.context.writer.journal.write_state(&next).await? {
            return Ok(OffChain::Refused);
        }
        let id = decoded.info().id;
        self.context.holds.release(&access.state, &id);
        Ok(OffChain::Settled(Started {
            id,
            payer: verified.payer.clone(),
            attempt: 0,
            follow: Follow::Written {
                amount,
                receipt: change.receipt,
            },
        }))
    }

    /// Claims a payment. Hands a verified one to a lane. An unfinished one already has a
    /// transaction, and is resumed. `None` if the payment must be judged again, because its state
    /// record has changed.
    async fn claim(
        self: &Arc<Self>,
        request: &PaymentRequest,
        decoded: &Decoded<C>,
        candidate: Candidate<'_, C>,
        guard: InFlightGuard,
    ) -> Result<Option<Started>, NotStarted> {
        let payer = match &candidate {
            Candidate::Verified(verified) => &verified.payer,
            Candidate::Unfinished(settlement) => &settlement.claim.payer,
        };
        let claim = self.claim_for(request, decoded, payer);
        let claim = claim.map_err(VerifyError::Malformed)?;
        let reservation = self.reserve(&claim, &candidate)?;
        let journal = &self.context.writer.journal;
        let claimed = journal.claim(&claim, self.context.now()).await;
        let attempt = match claimed.map_err(Fault::from)? {
            Claimed::Won { attempt } => attempt,
            // Another process with this journal was faster.
            Claimed::Taken(settlement) => {
                return self.taken(request, *settlement).await.map(Some);
            }
            Claimed::StateMoved => return Ok(None),
            Claimed::StateTaken(_) => return Err(is_busy(decoded).into()),
            Claimed::RefundsExceed { left } => {
                let detail = format_args!("{left} are left of the payment, without its refunds");
                let rejection = Rejection::new(Reason::REFUND_EXCEEDS_PAYMENT, detail);
                return Err(decoded.rejected(rejection).into());
            }
            Claimed::NotRefundable(problem) => {
                let rejection = Rejection::new(Reason::INVALID_REFUND, problem);
                return Err(decoded.rejected(rejection).into());
            }
            Claimed::TooSoon { until } => {
                let wait = until.secs_since(self.context.now());
                let what = "the last attempt failed a short time ago: retry later";
                let fault = Fault::new(FaultKind::Busy, what);
                return Err(Fault {
                    retry_after: Some(Duration::from_secs(wait)),
                    ..fault
                }
                .into());
            }
        };
        // Steps of an earlier attempt must not be made twice.
        let has_steps = attempt > 1 && self.has_steps(&claim.id).await?;
        let follow = Follow::InFlight(guard.follow());
        let payment = Arc::clone(&decoded.payment);
        let job = Job::claimed(&claim, attempt, payment, reservation, guard);
        match candidate {
            Candidate::Verified(verified) if !has_steps => self.dispatch(job, &verified).await,
            Candidate::Verified(_) | Candidate::Unfinished(_) => {
                self.context.spawn(Arc::clone(self).resume(job));
            }
        }
        Ok(Some(Started {
            id: claim.id,
            payer: claim.payer,
            attempt,
            follow,
        }))
    }

    /// Reserves the amount of a claim in its payer's balance. An unfinished payment is not checked
    /// against the balance: its money may have left it already.
    fn reserve(&self, claim: &Claim, candidate: &Candidate<'_, C>) -> Result<Reservation, Fault> {
        let ledger = &self.context.ledger;
        match candidate {
            Candidate::Verified(verified) => {
                let balance = verified.balance(self.context.now());
                ledger.reserve(&claim.payer, &claim.asset, claim.amount, balance)
            }
            Candidate::Unfinished(_) => Ok(ledger.add(&claim.payer, &claim.asset, claim.amount)),
        }
    }

    /// Whether a transaction was ever signed for a step of this settlement.
    async fn has_steps(&self, id: &PaymentId) -> Result<bool, Fault> {
        let settlement = self.context.writer.journal.settlement(id).await?;
        Ok(settlement.is_some_and(|known| known.has_steps()))
    }

    /// What an authorization means that another process has claimed.
    async fn taken(
        &self,
        request: &PaymentRequest,
        settlement: Settlement,
    ) -> Result<Started, NotStarted> {
        match Prior::new(request, settlement) {
            Prior::Same(settlement) => Ok(self.follow_existing(settlement).await?),
            Prior::Over(rejection, settlement) => Err(NotStarted::Over(rejection, settlement)),
            // Another process claimed the authorization a moment ago, and it is free again.
            Prior::Free(_) => {
                let what = "another process claimed this authorization: retry";
                Err(Fault::new(FaultKind::Busy, what).into())
            }
        }
    }

    fn claim_for(
        &self,
        request: &PaymentRequest,
        decoded: &Decoded<C>,
        payer: &str,
    ) -> Result<Claim, Malformed> {
        let info = PaymentInfo {
            payer: payer.to_owned(),
            amount: request.requirements.amount,
            ..decoded.info().clone()
        };
        let (scheme, text) = (&request.requirements.scheme, request.kept_text()?);
        let network = self.context.network();
        let claim = Claim::new(network, scheme, &info, text, decoded.decoded_at);
        let claim = match decoded.place() {
            Some(place) => claim.access(place),
            None => claim,
        };
        let claim = match request.caller().to_text() {
            Some(caller) => claim.caller(caller),
            None => claim,
        };
        Ok(match request.refund_of() {
            Some(original) => claim.refund_of(original),
            None => claim,
        })
    }
}

/// The verdict on a payment whose state record another settlement has for itself.
fn is_busy<C: Chain>(decoded: &Decoded<C>) -> VerifyError {
    let busy = decoded.payment.state_access().map(|access| &access.busy);
    let busy = busy.cloned().unwrap_or(Reason::DUPLICATE_SETTLEMENT);
    let detail = "another settlement of this payer is in progress: retry after it";
    decoded.rejected(Rejection::new(busy, detail))
}

/// Waits until a concurrent request has claimed. Then the journal says whether it is the same
/// request.
async fn wait_until_claimed(mut other: watch::Receiver<Progress>) {
    let is_claimed = |progress: &Progress| !matches!(progress, Progress::Claiming);
    // An error means that the other request has given up.
    drop(other.wait_for(is_claimed).await);
}
