//! The scheme `exact` on a chain that wraps the real one and changes something about it.

use quittance_core::{
    Amount, Chain, Check, Effect, Observed, Payment, PaymentInfo, PaymentRequest, Refusal,
    Rejection, Scheme, SignatureClaim, Timestamp,
};
use quittance_evm::{Evm, Exact};

/// A chain that speaks as [`Evm`] does.
pub trait LikeEvm:
    Chain<
        Read = <Evm as Chain>::Read,
        Answer = <Evm as Chain>::Answer,
        Action = <Evm as Chain>::Action,
        Evidence = <Evm as Chain>::Evidence,
    >
{
}

impl<C> LikeEvm for C where
    C: Chain<
            Read = <Evm as Chain>::Read,
            Answer = <Evm as Chain>::Answer,
            Action = <Evm as Chain>::Action,
            Evidence = <Evm as Chain>::Evidence,
        >
{
}

/// `exact` on such a chain.
pub struct Wrapped(pub Exact);

struct WrappedPayment(Box<dyn Payment<Evm>>);

impl<C: LikeEvm> Scheme<C> for Wrapped {
    fn name(&self) -> &str {
        Scheme::<Evm>::name(&self.0)
    }

    fn assets(&self) -> Vec<String> {
        Scheme::<Evm>::assets(&self.0)
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<C>>, Refusal> {
        let payment = Scheme::<Evm>::decode(&self.0, request, now)?;
        Ok(Box::new(WrappedPayment(payment)))
    }
}

fn on_evm<'a, C: LikeEvm>(observed: &Observed<'a, C>) -> Observed<'a, Evm> {
    Observed {
        signatures: observed.signatures,
        answers: observed.answers,
        now: observed.now,
    }
}

impl<C: LikeEvm> Payment<C> for WrappedPayment {
    fn info(&self) -> &PaymentInfo {
        self.0.info()
    }

    fn signatures(&self) -> &[SignatureClaim] {
        self.0.signatures()
    }

    fn check(&self, observed: &Observed<'_, C>) -> Result<Check<C>, Rejection> {
        Ok(match self.0.check(&on_evm(observed))? {
            Check::Ask(read) => Check::Ask(read),
            Check::Valid => Check::Valid,
            Check::NotYet(time) => Check::NotYet(time),
        })
    }

    fn action(&self, amount: Amount, observed: &Observed<'_, C>) -> Result<C::Action, Rejection> {
        self.0.action(amount, &on_evm(observed))
    }

    fn effect(&self, amount: Amount, evidence: &C::Evidence) -> Effect {
        self.0.effect(amount, evidence)
    }
}
