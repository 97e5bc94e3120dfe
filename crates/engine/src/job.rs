//! A claimed settlement that a task works on.

use std::sync::Arc;

use quittance_core::{Amount, Chain, Payment, PaymentId, Timestamp};
use quittance_journal::{Claim, Settlement};

use crate::in_flight::{InFlightGuard, Progress};
use crate::ledger::Reservation;

/// A claimed settlement with all that is needed to finish it.
///
/// A job comes from a claim that was won, or from an open settlement in the journal.
pub(crate) struct Job<C: Chain> {
    id: PaymentId,
    attempt: u32,
    amount: Amount,
    expires: Timestamp,
    scheme: Arc<str>,
    payer: Arc<str>,
    pay_to: Arc<str>,
    /// The part of the payer's balance that this payment needs until it ends.
    reservation: Reservation,
    payment: Arc<dyn Payment<C>>,
    /// What the chain answered right before the action was planned. Empty after a restart.
    answers: Vec<C::Answer>,
    /// Whether the payment must be alone in its transaction.
    alone: bool,
    /// Whether success was reported before the chain took the payment back.
    success_reported: bool,
    guard: InFlightGuard,
}

impl<C: Chain> Job<C> {
    /// The job of a claim that was won in this attempt.
    pub(crate) fn claimed(
        claim: &Claim,
        attempt: u32,
        payment: Arc<dyn Payment<C>>,
        reservation: Reservation,
        guard: InFlightGuard,
    ) -> Self {
        guard.report(Progress::Waiting);
        Self {
            id: claim.id,
            attempt,
            amount: claim.amount,
            expires: claim.expires,
            scheme: claim.scheme.as_str().into(),
            payer: claim.payer.as_str().into(),
            pay_to: claim.pay_to.as_str().into(),
            reservation,
            payment,
            answers: Vec::new(),
            alone: false,
            success_reported: false,
            guard,
        }
    }

    /// The job of an open settlement from the journal.
    pub(crate) fn resumed(
        settlement: &Settlement,
        payment: Arc<dyn Payment<C>>,
        reservation: Reservation,
        guard: InFlightGuard,
    ) -> Self {
        let claim = &settlement.claim;
        let success_reported = settlement.success_reported_at.is_some();
        let job = Self::claimed(claim, settlement.attempt, payment, reservation, guard);
        if let Some(sent) = settlement.transaction() {
            job.guard.report(Progress::Sent(sent.id.clone()));
        }
        Self {
            success_reported,
            ..job
        }
    }

    /// The authorization's identity.
    pub(crate) fn id(&self) -> PaymentId {
        self.id
    }

    /// The number of the attempt.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The amount to transfer.
    pub(crate) fn amount(&self) -> Amount {
        self.amount
    }

    /// The first moment at which the authorization can no longer be used.
    pub(crate) fn expires(&self) -> Timestamp {
        self.expires
    }

    /// Sets the expiry, by what the chain says now.
    #[must_use]
    pub(crate) fn with_expires(self, expires: Timestamp) -> Self {
        Self { expires, ..self }
    }

    /// The scheme's name.
    pub(crate) fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The payer's address. Payers take turns in a lane.
    pub(crate) fn payer(&self) -> &Arc<str> {
        &self.payer
    }

    /// The recipient's address.
    pub(crate) fn pay_to(&self) -> &str {
        &self.pay_to
    }

    /// The decoded payment.
    pub(crate) fn payment(&self) -> &Arc<dyn Payment<C>> {
        &self.payment
    }

    /// Whether two payments may be in one transaction. A payment is alone if its last transaction
    /// had no effect for it, or if its batch could not be signed. Payments that need more
    /// confirmations do not delay others.
    pub(crate) fn may_share_with(&self, other: &Self) -> bool {
        let confirmations = |job: &Self| job.payment.confirmations_required();
        !self.alone && !other.alone && confirmations(self) == confirmations(other)
    }

    /// Sets whether the payment must be alone in its transaction.
    #[must_use]
    pub(crate) fn with_alone(self, alone: bool) -> Self {
        Self { alone, ..self }
    }

    /// Whether success was reported before the chain took the payment back. Such a job is not given
    /// up because of a fault.
    pub(crate) fn success_reported(&self) -> bool {
        self.success_reported
    }

    /// What the chain answered right before the action was planned. Empty after a restart.
    pub(crate) fn answers(&self) -> &[C::Answer] {
        &self.answers
    }

    /// The same job, with what the chain answered right before its action was planned.
    #[must_use]
    pub(crate) fn with_answers(self, answers: Vec<C::Answer>) -> Self {
        Self { answers, ..self }
    }

    /// Reports progress to the callers that wait for it.
    pub(crate) fn report(&self, progress: Progress) {
        self.guard.report(progress);
    }

    /// Frees the payer's balance, because the outcome is known.
    pub(crate) fn free_balance(&self) {
        self.reservation.release();
    }
}

/// A job with an action that settled it in a simulation a moment ago, or with a step before that.
pub(crate) struct Ready<C: Chain> {
    pub(crate) job: Job<C>,
    pub(crate) action: C::Action,
    /// The number of the step; 0 for the action that settles.
    pub(crate) step: u8,
}
