//! A payment on its way through verification.

use std::sync::Arc;

use quittance_core::{
    Amount, Chain, CompletedStep, Fault, Malformed, Observed, Payment, PaymentInfo, Rejection,
    Timestamp,
};

/// A payment whose signatures were checked. The payment itself says what follows from them.
pub(super) struct Decoded<C: Chain> {
    pub(super) payment: Arc<dyn Payment<C>>,
    pub(super) decoded_at: Timestamp,
    pub(super) signatures: Vec<bool>,
    /// Whether the payment is to be settled, not only verified.
    pub(super) settling: bool,
    /// The steps that were included for it.
    pub(super) completed: Vec<CompletedStep<C::Evidence>>,
}

/// A payment that would settle now, with the answers that show it. Only a verified payment is
/// settled.
pub(super) struct Verified<'a, C: Chain> {
    pub(super) decoded: &'a Decoded<C>,
    pub(super) answers: Vec<C::Answer>,
    /// The payer's address.
    pub(super) payer: String,
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

    /// A verdict against this payment.
    pub(super) fn rejected(&self, rejection: Rejection) -> VerifyError {
        VerifyError::Rejected(rejection, Some(self.info().payer.clone()))
    }

    pub(super) fn observed<'a>(
        &'a self,
        answers: &'a [C::Answer],
        now: Timestamp,
    ) -> Observed<'a, C> {
        let observed = Observed::new(&self.signatures, answers, now).after(&self.completed);
        match self.settling {
            true => observed.settling(),
            false => observed,
        }
    }
}

impl<C: Chain> Verified<'_, C> {
    pub(super) fn observed(&self, now: Timestamp) -> Observed<'_, C> {
        self.decoded.observed(&self.answers, now)
    }

    /// The payer's observed balance of the asset.
    pub(super) fn balance(&self, now: Timestamp) -> Option<Amount> {
        self.decoded.payment.balance(&self.observed(now))
    }
}
