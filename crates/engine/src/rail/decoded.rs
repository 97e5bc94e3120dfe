//! A payment on its way through verification.

use std::sync::Arc;

use quittance_core::json::Object;
use quittance_core::{
    Amount, Chain, CompletedStep, Fault, Malformed, Observed, Payment, PaymentId, PaymentInfo,
    Rejection, SchemeState, Timestamp,
};
use quittance_journal::Place;

/// A payment whose signatures were checked. The payment itself says what follows from them.
pub(super) struct Decoded<C: Chain> {
    pub(super) payment: Arc<dyn Payment<C>>,
    pub(super) decoded_at: Timestamp,
    pub(super) signatures: Vec<bool>,
    /// Whether the payment is to be settled, not only verified.
    pub(super) settling: bool,
    /// The steps that were included for it.
    pub(super) completed: Vec<CompletedStep<C::Evidence>>,
    /// Its state record, as it was read last.
    pub(super) state: Option<SchemeState>,
    /// The settlement that it refunds.
    pub(super) refund_of: Option<PaymentId>,
}

/// A payment that would settle now, with the answers that show it. Only a verified payment is
/// settled.
pub(super) struct Verified<'a, C: Chain> {
    pub(super) decoded: &'a Decoded<C>,
    /// The verdicts on all signatures, those that became known by an answer included.
    pub(super) signatures: Vec<bool>,
    pub(super) answers: Vec<C::Answer>,
    /// The payer's address.
    pub(super) payer: String,
    /// When the authorization expires.
    pub(super) expires: Timestamp,
}

/// Why a payment is not verified.
pub(super) enum VerifyError {
    /// The request cannot be read.
    Malformed(Malformed),
    /// The verdict, with the payer if it is known.
    Rejected(Rejection, Option<String>),
    /// The facilitator or its nodes failed.
    Fault(Fault),
}

impl From<Fault> for VerifyError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl<C: Chain> Decoded<C> {
    pub(super) fn info(&self) -> &PaymentInfo {
        self.payment.info()
    }

    /// The same payment, which is to be settled.
    pub(super) fn settling(self) -> Self {
        Self {
            settling: true,
            ..self
        }
    }

    /// The same payment, after these steps.
    pub(super) fn after(self, completed: Vec<CompletedStep<C::Evidence>>) -> Self {
        Self { completed, ..self }
    }

    /// How the payment uses its state record, if it uses one.
    pub(super) fn place(&self) -> Option<Place> {
        self.payment.state_access().map(|access| Place {
            state: access.state,
            revision: self.state.as_ref().map_or(0, |state| state.revision),
            exclusive: access.exclusive,
        })
    }

    /// A verdict against this payment.
    pub(super) fn rejected(&self, rejection: Rejection) -> VerifyError {
        VerifyError::Rejected(rejection, Some(self.info().payer.clone()))
    }

    pub(super) fn observed<'a>(
        &'a self,
        signatures: &'a [bool],
        answers: &'a [C::Answer],
        now: Timestamp,
    ) -> Observed<'a, C> {
        let observed = Observed::new(signatures, answers, now).after(&self.completed);
        let mut observed = observed.with_state(self.state.as_ref());
        observed.settling = self.settling;
        observed
    }
}

impl<C: Chain> Verified<'_, C> {
    pub(super) fn observed(&self, now: Timestamp) -> Observed<'_, C> {
        self.decoded.observed(&self.signatures, &self.answers, now)
    }

    /// What its verdict says in `extra`.
    pub(super) fn extra(&self, now: Timestamp) -> Option<Object> {
        self.decoded.payment.verify_extra(&self.observed(now))
    }

    /// The payer's observed balance of the asset.
    pub(super) fn balance(&self, now: Timestamp) -> Option<Amount> {
        self.decoded.payment.balance(&self.observed(now))
    }
}
