//! Claiming: from a request to a settlement that is in progress, or to the reason why there is
//! none.

use std::sync::Arc;

use quittance_core::{
    Amount, Chain, Fault, FaultKind, KEPT_MAX, Malformed, PaymentId, PaymentInfo, PaymentRequest,
    Plan, Reason, Rejection, SchemeReceipt, SchemeState, Timestamp,
};
use quittance_journal::{Claim, Claimed, RefundProblem, Settlement};
use tokio::sync::watch;

use super::Rail;
use super::decoded::{Decoded, Verified, VerifyError};
use super::judge::{Judgement, Unfinished, Used, too_soon};
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

/// A payment that is being settled, or has been.
pub(super) enum Started {
    /// It has a settlement in the journal.
    Settlement {
        id: PaymentId,
        /// The payer's address, as the journal has it.
        payer: String,
        attempt: u32,
        follow: Follow,
    },
    /// A write of its state record has settled it. The journal has no settlement of it.
    Written {
        payer: String,
        amount: Amount,
        receipt: SchemeReceipt,
    },
}

/// How to follow a settlement.
pub(super) enum Follow {
    /// A task of this process works on it.
    InFlight(watch::Receiver<Progress>),
    /// No task works on the settlement. This is its entry in the journal.
    Journal(Box<Settlement>),
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
    /// A payment that an earlier attempt has begun on the chain.
    Unfinished(Unfinished),
}

impl<C: Chain> Rail<C> {
    /// Verifies a payment, and settles it by its state record or claims it and hands it to a lane.
    /// If another task works on the same request, follows that task.
    pub(super) async fn start_settlement(
        self: &Arc<Self>,
        request: &PaymentRequest,
    ) -> Result<Started, NotStarted> {
        let mut decoded = self.decode(request).await?.settling();
        for _ in 0..ROUNDS_MAX {
            let prior = self.prior(request, decoded.payment.as_ref()).await?;
            self.check_room(&prior)?;
            let candidate = match self.judge(request, &decoded, prior).await? {
                Judgement::Same(settlement) => return Ok(self.follow_existing(settlement).await?),
                // A caller that retries gets the transaction that failed.
                Judgement::Over(rejection, settlement) => {
                    return Err(NotStarted::Over(rejection, settlement));
                }
                Judgement::Used(used) => return Err(NotStarted::Used(used)),
                Judgement::Unfinished(unfinished) => Candidate::Unfinished(unfinished),
                Judgement::Valid(verified) => Candidate::Verified(verified),
            };
            if let Some(started) = self.start_candidate(request, &decoded, candidate).await? {
                return Ok(started);
            }
            decoded = self.with_state(decoded).await?;
        }
        let what = "many concurrent requests need what this payment needs: retry";
        Err(Fault::new(FaultKind::Busy, what).into())
    }

    /// Starts to settle a candidate. `None` if it must be judged again, because another request has
    /// claimed the authorization or changed the state record.
    async fn start_candidate(
        self: &Arc<Self>,
        request: &PaymentRequest,
        decoded: &Decoded<C>,
        candidate: Candidate<'_, C>,
    ) -> Result<Option<Started>, NotStarted> {
        if let Some((next, written)) = self.off_chain(request, &candidate) {
            return self.write_state(decoded, &next, written).await;
        }
        match self.context.in_flight.guard(decoded.info().id) {
            Ok(guard) => self.claim(request, decoded, candidate, guard).await,
            Err(other) => {
                wait_until_claimed(other).await;
                Ok(None)
            }
        }
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
        Ok(Started::Settlement {
            id,
            payer: settlement.claim.payer.clone(),
            attempt: settlement.attempt,
            follow,
        })
    }

    /// The next state record of a payment that this one write settles, because nothing has to be
    /// sent for it. `None` for other payments.
    fn off_chain(
        &self,
        request: &PaymentRequest,
        candidate: &Candidate<'_, C>,
    ) -> Option<(SchemeState, Started)> {
        let Candidate::Verified(verified) = candidate else {
            return None;
        };
        let (payment, state) = (&verified.decoded.payment, &verified.decoded.state);
        let access = payment.state_access()?;
        let (amount, now) = (request.requirements.amount, self.context.now());
        let observed = verified.observed(now);
        let plan = payment.plan(amount, &observed).ok()?;
        if !matches!(plan, Plan::OffChain) {
            return None;
        }
        let change = payment.state_after(amount, &observed, None);
        let (network, scheme) = (self.context.network(), &request.requirements.scheme);
        let next = next_state(access, state.as_ref(), &change, network, scheme)?;
        let written = Started::Written {
            payer: verified.payer.clone(),
            amount,
            receipt: change.receipt,
        };
        Some((next, written))
    }

    /// Writes the state record that settles a payment. `None` if another payment has changed the
    /// record meanwhile.
    async fn write_state(
        &self,
        decoded: &Decoded<C>,
        next: &SchemeState,
        written: Started,
    ) -> Result<Option<Started>, NotStarted> {
        let journal = &self.context.writer.journal;
        if journal.write_state(next).await? {
            let writer = &self.context.writer;
            writer.release_state(&next.id, &decoded.info().id).await;
            return Ok(Some(written));
        }
        let revision = |state: &SchemeState| state.revision;
        let newest = journal.state(&next.id).await?;
        // No payment has changed the record, so a settlement has it for itself.
        match newest.as_ref().map(revision) == decoded.state.as_ref().map(revision) {
            true => Err(busy(decoded).into()),
            false => Ok(None),
        }
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
        let known = match &candidate {
            Candidate::Verified(verified) => (&verified.payer, verified.expires),
            Candidate::Unfinished(unfinished) => {
                let claim = &unfinished.settlement.claim;
                (&claim.payer, claim.expires)
            }
        };
        let claim = self.claim_for(request, decoded, known);
        let mut claim = claim.map_err(VerifyError::Malformed)?;
        // After steps alone, the conditions of a claim still count: no money has moved.
        claim.is_unfinished = match &candidate {
            Candidate::Verified(_) => false,
            Candidate::Unfinished(unfinished) => unfinished.may_have_moved,
        };
        let reservation = self.reserve(&claim, decoded, &candidate)?;
        let journal = &self.context.writer.journal;
        let claimed = journal.claim(&claim, self.context.now()).await;
        let attempt = match claimed.map_err(Fault::from)? {
            Claimed::Won { attempt } => attempt,
            // Another process with this journal was faster.
            Claimed::Taken(settlement) => {
                let is_bound = decoded.payment.is_bound_to_caller();
                return self.taken(request, *settlement, is_bound).await.map(Some);
            }
            Claimed::StateMoved => return Ok(None),
            Claimed::StateTaken(_) => return Err(busy(decoded).into()),
            Claimed::RefundsExceed { left } => return Err(exceeds(decoded, left).into()),
            Claimed::NotRefundable(problem) => {
                let reason = match problem {
                    RefundProblem::Unknown => Reason::UNKNOWN_SETTLEMENT,
                    _ => Reason::INVALID_REFUND,
                };
                let rejection = Rejection::new(reason, problem);
                return Err(decoded.rejected(rejection).into());
            }
            Claimed::TooSoon { until } => {
                return Err(too_soon(until, self.context.now()).into());
            }
        };
        // Steps of an earlier attempt must not be made twice.
        let has_steps = attempt > 1 && self.has_steps(&claim.id).await?;
        let follow = Follow::InFlight(guard.follow());
        let payment = Arc::clone(&decoded.payment);
        let job = Job::claimed(&claim, attempt, payment, reservation, guard);
        match candidate {
            Candidate::Verified(verified) if !has_steps => self.dispatch(job, verified).await,
            Candidate::Verified(_) | Candidate::Unfinished(_) => {
                self.context.spawn(Arc::clone(self).resume(job));
            }
        }
        Ok(Some(Started::Settlement {
            id: claim.id,
            payer: claim.payer,
            attempt,
            follow,
        }))
    }

    /// Reserves what a payment needs of its payer's balance. An unfinished payment is not checked
    /// against the balance: its money may have left it already.
    fn reserve(
        &self,
        claim: &Claim,
        decoded: &Decoded<C>,
        candidate: &Candidate<'_, C>,
    ) -> Result<Reservation, Fault> {
        let ledger = &self.context.ledger;
        let amount = decoded.payment.reserves(claim.amount);
        match candidate {
            Candidate::Verified(verified) => {
                let balance = verified.balance(self.context.now());
                ledger.reserve(&claim.payer, &claim.asset, amount, balance)
            }
            Candidate::Unfinished(_) => Ok(ledger.add(&claim.payer, &claim.asset, amount)),
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
        is_bound: bool,
    ) -> Result<Started, NotStarted> {
        match Prior::new(request, settlement, is_bound) {
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
        (payer, expires): (&String, Timestamp),
    ) -> Result<Claim, Malformed> {
        let info = PaymentInfo {
            payer: payer.clone(),
            expires,
            amount: request.requirements.amount,
            ..decoded.info().clone()
        };
        let found = self.context.schemes.for_request(request);
        let (extensions, kept_max): (&[&str], _) = match found {
            Ok(scheme) => (scheme.extensions(), scheme.kept_max()),
            Err(_) => (&[], KEPT_MAX),
        };
        let text = request.kept_text(extensions, kept_max)?;
        let scheme = &request.requirements.scheme;
        let network = self.context.network();
        let mut claim = Claim::new(network, scheme, &info, text, decoded.decoded_at);
        claim.access = decoded.place();
        claim.caller = request.caller().to_text();
        claim.refund_of = request.refund_of();
        claim.retries_without_limit = decoded.payment.releases_nothing();
        Ok(claim)
    }
}

/// The verdict on a payment whose state record another settlement has for itself.
fn busy<C: Chain>(decoded: &Decoded<C>) -> VerifyError {
    let access = decoded.payment.state_access();
    let reason = access.map_or(Reason::DUPLICATE_SETTLEMENT, |access| access.busy.clone());
    let detail = "another settlement of this payer is in progress: retry after it";
    decoded.rejected(Rejection::new(reason, detail))
}

/// The verdict on a refund of which only a part is left.
fn exceeds<C: Chain>(decoded: &Decoded<C>, left: Amount) -> VerifyError {
    let detail = format_args!("{left} are left of the payment, without its refunds");
    decoded.rejected(Rejection::new(Reason::REFUND_EXCEEDS_PAYMENT, detail))
}

/// Waits until a concurrent request has claimed. Then the journal says whether it is the same
/// request.
async fn wait_until_claimed(mut other: watch::Receiver<Progress>) {
    let is_claimed = |progress: &Progress| !matches!(progress, Progress::Claiming);
    // An error means that the other request has given up.
    drop(other.wait_for(is_claimed).await);
}
