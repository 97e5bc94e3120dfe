//! An EVM chain with some of its methods changed, and the scheme `exact` on it.

use std::time::Duration;

use async_trait::async_trait;
use quittance_core::{
    Amount, Chain, Check, Effect, Fault, Finality, Found, Health, LaneId, Network, Observed,
    Payment, PaymentInfo, PaymentRequest, Plan, Refusal, Rejection, Scheme, SignatureClaim, Status,
    Submission, Timestamp, Transaction, Watched,
};
use quittance_evm::{Evm, Exact};

/// A chain with the types of [`Evm`].
pub trait LikeEvm:
    Chain<
        Read = <Evm as Chain>::Read,
        Answer = <Evm as Chain>::Answer,
        Action = <Evm as Chain>::Action,
        Evidence = <Evm as Chain>::Evidence,
        Search = <Evm as Chain>::Search,
    >
{
}

impl<C> LikeEvm for C where
    C: Chain<
            Read = <Evm as Chain>::Read,
            Answer = <Evm as Chain>::Answer,
            Action = <Evm as Chain>::Action,
            Evidence = <Evm as Chain>::Evidence,
            Search = <Evm as Chain>::Search,
        >
{
}

/// The scheme `exact` on such a chain.
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

impl<C: LikeEvm> Payment<C> for WrappedPayment {
    fn info(&self) -> &PaymentInfo {
        self.0.info()
    }

    fn signatures(&self) -> &[SignatureClaim] {
        self.0.signatures()
    }

    fn check(&self, observed: &Observed<'_, C>) -> Result<Check<C>, Rejection> {
        Ok(match self.0.check(&observed.for_chain())? {
            Check::Ask(read) => Check::Ask(read),
            Check::Verify(claims) => Check::Verify(claims),
            Check::Valid => Check::Valid,
            Check::NotYet(time) => Check::NotYet(time),
        })
    }

    fn plan(
        &self,
        amount: Amount,
        observed: &Observed<'_, C>,
    ) -> Result<Plan<C::Action>, Rejection> {
        self.0.plan(amount, &observed.for_chain())
    }

    fn depends_on_time(&self, rejection: &Rejection) -> bool {
        self.0.depends_on_time(rejection)
    }

    fn payer(&self, observed: &Observed<'_, C>) -> Option<String> {
        self.0.payer(&observed.for_chain())
    }

    fn expires(&self, observed: &Observed<'_, C>) -> Option<Timestamp> {
        self.0.expires(&observed.for_chain())
    }

    fn confirmations_required(&self) -> u64 {
        self.0.confirmations_required()
    }

    fn sender(&self, observed: &Observed<'_, C>) -> Option<LaneId> {
        self.0.sender(&observed.for_chain())
    }

    fn balance(&self, observed: &Observed<'_, C>) -> Option<Amount> {
        self.0.balance(&observed.for_chain())
    }

    fn used_by(&self, rejection: &Rejection) -> Option<C::Search> {
        self.0.used_by(rejection)
    }

    fn effect(&self, amount: Amount, evidence: &C::Evidence) -> Effect {
        self.0.effect(amount, evidence)
    }
}

/// What the chain says a transaction did.
type Evidence = <Evm as Chain>::Evidence;

/// The changes to an EVM chain. A method that is not changed forwards to [`evm`](Self::evm).
#[async_trait]
pub trait Changes: Send + Sync + 'static {
    /// The chain itself.
    fn evm(&self) -> &Evm;

    /// [`Chain::in_flight_max`].
    fn in_flight_max(&self) -> usize {
        self.evm().in_flight_max()
    }

    /// [`Chain::prepare`].
    async fn prepare(
        &self,
        lane: &LaneId,
        sequence: u64,
        actions: &[&<Evm as Chain>::Action],
    ) -> Result<Transaction, Fault> {
        self.evm().prepare(lane, sequence, actions).await
    }

    /// [`Chain::submit`].
    async fn submit(&self, transaction: &Transaction) -> Submission {
        self.evm().submit(transaction).await
    }

    /// [`Chain::status`].
    async fn status(&self, watched: &[Watched]) -> Vec<Result<Status<Evidence>, Fault>> {
        self.evm().status(watched).await
    }

    /// [`Chain::replace`].
    async fn replace(&self, transaction: &Transaction) -> Result<Option<Transaction>, Fault> {
        self.evm().replace(transaction).await
    }

    /// [`Chain::noop`].
    async fn noop(
        &self,
        lane: &LaneId,
        sequence: u64,
        over: Option<&Transaction>,
    ) -> Result<Option<Transaction>, Fault> {
        self.evm().noop(lane, sequence, over).await
    }
}

/// An EVM chain with these changes.
pub struct Changed<T>(pub T);

#[async_trait]
impl<T: Changes> Chain for Changed<T> {
    type Read = <Evm as Chain>::Read;
    type Answer = <Evm as Chain>::Answer;
    type Action = <Evm as Chain>::Action;
    type Evidence = Evidence;
    type Search = <Evm as Chain>::Search;

    fn network(&self) -> &Network {
        self.0.evm().network()
    }

    fn lanes(&self) -> &[LaneId] {
        self.0.evm().lanes()
    }

    fn signed(&self, action: &Self::Action) -> Option<Transaction> {
        self.0.evm().signed(action)
    }

    fn confirmations_required(&self) -> u64 {
        self.0.evm().confirmations_required()
    }

    fn finality(&self) -> Finality {
        self.0.evm().finality()
    }

    fn inclusion_time(&self) -> Duration {
        self.0.evm().inclusion_time()
    }

    fn clock_fault(&self) -> Option<Fault> {
        self.0.evm().clock_fault()
    }

    fn in_flight_max(&self) -> usize {
        self.0.in_flight_max()
    }

    async fn read(&self, reads: &[Self::Read]) -> Vec<Result<Self::Answer, Fault>> {
        self.0.evm().read(reads).await
    }

    fn can_batch(&self, batch: &[&Self::Action], next: &Self::Action) -> bool {
        self.0.evm().can_batch(batch, next)
    }

    async fn next_sequence(&self, lane: &LaneId) -> Result<Option<u64>, Fault> {
        self.0.evm().next_sequence(lane).await
    }

    async fn prepare(
        &self,
        lane: &LaneId,
        sequence: u64,
        actions: &[&Self::Action],
    ) -> Result<Transaction, Fault> {
        self.0.prepare(lane, sequence, actions).await
    }

    async fn submit(&self, transaction: &Transaction) -> Submission {
        self.0.submit(transaction).await
    }

    async fn status(&self, watched: &[Watched]) -> Vec<Result<Status<Evidence>, Fault>> {
        self.0.status(watched).await
    }

    async fn find(&self, search: &Self::Search) -> Result<Option<Found<Evidence>>, Fault> {
        self.0.evm().find(search).await
    }

    async fn replace(&self, transaction: &Transaction) -> Result<Option<Transaction>, Fault> {
        self.0.replace(transaction).await
    }

    async fn noop(
        &self,
        lane: &LaneId,
        sequence: u64,
        over: Option<&Transaction>,
    ) -> Result<Option<Transaction>, Fault> {
        self.0.noop(lane, sequence, over).await
    }

    async fn health(&self, now: Timestamp) -> Health {
        self.0.evm().health(now).await
    }
}
