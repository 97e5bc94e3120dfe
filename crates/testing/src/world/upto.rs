//! A scheme on the simulated chain that settles all or nothing of an authorization.

use quittance_core::{
    Amount, Check, Effect, Observed, Payment, PaymentInfo, PaymentRequest, Plan, Reason, Refusal,
    Rejection, Scheme, SignatureClaim, Timestamp,
};

use super::chain::{Evidence, Search, SimulatedChain};
use super::exact::SimulatedExact;
use super::transaction::Transfer;

/// The seller charges the authorized amount, or nothing. A charge of nothing sends no transaction,
/// and on the chain the authorization stays unused: only the journal excludes the other charge.
pub struct SimulatedUpto(SimulatedExact);

impl SimulatedUpto {
    /// The scheme on this chain.
    pub fn new(chain: &SimulatedChain) -> Self {
        Self(SimulatedExact::new(chain))
    }
}

impl Scheme<SimulatedChain> for SimulatedUpto {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn assets(&self) -> Vec<String> {
        self.0.assets()
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<SimulatedChain>>, Refusal> {
        // The payer accepted the largest amount.
        let mut authorized = request.clone();
        if let Some(accepted) = &request.accepted.requirements {
            authorized.requirements.amount = accepted.amount;
        }
        Ok(Box::new(Charge(self.0.decode(&authorized, now)?)))
    }
}

struct Charge(Box<dyn Payment<SimulatedChain>>);

impl Payment<SimulatedChain> for Charge {
    fn info(&self) -> &PaymentInfo {
        self.0.info()
    }

    fn signatures(&self) -> &[SignatureClaim] {
        self.0.signatures()
    }

    fn check(
        &self,
        observed: &Observed<'_, SimulatedChain>,
    ) -> Result<Check<SimulatedChain>, Rejection> {
        self.0.check(observed)
    }

    fn plan(
        &self,
        amount: Amount,
        observed: &Observed<'_, SimulatedChain>,
    ) -> Result<Plan<Transfer>, Rejection> {
        match amount {
            Amount::ZERO => Ok(Plan::OffChain),
            amount if amount == self.info().amount => self.0.plan(amount, observed),
            _ => Err(Rejection::new(
                Reason::INVALID_PAYMENT_REQUIREMENTS,
                "the charge must be all or nothing",
            )),
        }
    }

    fn used_by(&self, rejection: &Rejection) -> Option<Search> {
        self.0.used_by(rejection)
    }

    fn effect(&self, amount: Amount, evidence: &Evidence) -> Effect {
        self.0.effect(amount, evidence)
    }
}
