//! A scheme on the simulated chain whose payments take two transactions.

use std::num::NonZeroU8;

use quittance_core::{
    Amount, Check, Effect, Observed, Payment, PaymentId, PaymentInfo, PaymentRequest, Plan,
    Refusal, Rejection, Scheme, SignatureClaim, Timestamp,
};

use super::address::Address;
use super::chain::{Evidence, Search, SimulatedChain};
use super::exact::{SimulatedExact, reason};
use super::transaction::{Authorization, Transfer};
use super::{USD, World};

/// The payer that sponsors the others.
const SPONSOR: u8 = 3;

/// The step in which the sponsor pays.
const SPONSORING: NonZeroU8 = NonZeroU8::MIN;

/// `exact` for payers without money: first a sponsor gives the payer what it needs, once.
pub struct SimulatedSponsored {
    world: World,
    exact: SimulatedExact,
}

impl SimulatedSponsored {
    /// The scheme on this chain.
    pub fn new(chain: &SimulatedChain) -> Self {
        Self {
            world: chain.world().clone(),
            exact: SimulatedExact::new(chain),
        }
    }

    /// The sponsor, and the nonce of its transfer for a payment.
    pub(super) fn sponsoring(payment: &Authorization) -> (Address, [u8; 32]) {
        let sponsor = Address::from_key(&World::payer_key(SPONSOR));
        let parts = [&b"sponsored"[..], &payment.from.0, &payment.nonce];
        (sponsor, *PaymentId::from_parts(&parts).as_bytes())
    }
}

impl Scheme<SimulatedChain> for SimulatedSponsored {
    fn name(&self) -> &str {
        self.exact.name()
    }

    fn assets(&self) -> Vec<String> {
        self.exact.assets()
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<SimulatedChain>>, Refusal> {
        let payment = self.exact.decode(request, now)?;
        let transfer: Transfer = request.payload.read("paymentPayload.payload")?;
        let payer = transfer.authorization.from;
        let (from, nonce) = Self::sponsoring(&transfer.authorization);
        let sponsoring = Authorization {
            asset: USD.to_owned(),
            from,
            to: payer,
            nonce,
            ..transfer.authorization
        };
        let key = World::payer_key(SPONSOR);
        Ok(Box::new(Sponsored {
            sponsoring: sponsoring.sign(self.world.network(), &key),
            payment,
        }))
    }
}

struct Sponsored {
    payment: Box<dyn Payment<SimulatedChain>>,
    sponsoring: Transfer,
}

impl Payment<SimulatedChain> for Sponsored {
    fn info(&self) -> &PaymentInfo {
        self.payment.info()
    }

    fn signatures(&self) -> &[SignatureClaim] {
        self.payment.signatures()
    }

    /// A payer without money can pay once it is sponsored.
    fn check(
        &self,
        observed: &Observed<'_, SimulatedChain>,
    ) -> Result<Check<SimulatedChain>, Rejection> {
        match self.payment.check(observed) {
            Err(poor) if poor.reason == reason::BALANCE && observed.completed.is_empty() => {
                Ok(Check::Valid)
            }
            check => check,
        }
    }

    fn plan(
        &self,
        amount: Amount,
        observed: &Observed<'_, SimulatedChain>,
    ) -> Result<Plan<Transfer>, Rejection> {
        match observed.completed {
            [] => Ok(Plan::Step {
                step: SPONSORING,
                action: self.sponsoring.clone(),
            }),
            _ => self.payment.plan(amount, observed),
        }
    }

    fn used_by(&self, rejection: &Rejection) -> Option<Search> {
        self.payment.used_by(rejection)
    }

    fn effect(&self, amount: Amount, evidence: &Evidence) -> Effect {
        self.payment.effect(amount, evidence)
    }
}
