//! Fixtures that plant the fault of their task.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use quittance_core::wire::{PaymentRequirements, SupportedKind};
use quittance_core::{
    Amount, Chain, Clock, LaneId, Offer, Payer, PaymentRequest, Reason, Scheme, SignedPayment,
    StateStore,
};
use quittance_engine::{Engine, EngineBuilder, Journal};

use super::{
    ChainFault, EndsFault, FaultyChain, FaultyJournal, FaultyOffer, FaultyPayer, FaultyScheme,
    JournalFault, PlantedFault, SchemeFault, planted,
};
use crate::conformance::chain::ChainFixture;
use crate::conformance::ends::EndsFixture;
use crate::conformance::life::{Act, LifeFixture};
use crate::conformance::scheme::{EngineParts, SchemeFixture};

fn chain_fault() -> Option<ChainFault> {
    match planted() {
        Some(PlantedFault::Chain(fault)) => Some(fault),
        _ => None,
    }
}

fn scheme_fault() -> Option<SchemeFault> {
    match planted() {
        Some(PlantedFault::Scheme(fault)) => Some(fault),
        _ => None,
    }
}

fn journal_fault() -> Option<JournalFault> {
    match planted() {
        Some(PlantedFault::Journal(fault)) => Some(fault),
        _ => None,
    }
}

fn ends_fault() -> Option<EndsFault> {
    match planted() {
        Some(PlantedFault::Ends(fault)) => Some(fault),
        _ => None,
    }
}

/// A chain fixture whose chain has the planted fault.
pub struct FaultyChainFixture<F: ChainFixture> {
    inner: F,
    chain: Arc<FaultyChain<F::Chain>>,
}

#[async_trait]
impl<F: ChainFixture> ChainFixture for FaultyChainFixture<F> {
    type Chain = FaultyChain<F::Chain>;

    async fn new() -> Self {
        let inner = F::new().await;
        let chain = Arc::new(FaultyChain::new(inner.chain(), chain_fault()));
        Self { inner, chain }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.inner.clock()
    }

    fn chain(&self) -> Arc<Self::Chain> {
        Arc::clone(&self.chain)
    }

    async fn action(&self, lane: &LaneId) -> <Self::Chain as Chain>::Action {
        self.inner.action(lane).await
    }

    async fn signed_action(&self) -> Option<<Self::Chain as Chain>::Action> {
        self.inner.signed_action().await
    }

    async fn effects(&self) -> u64 {
        self.inner.effects().await
    }

    fn questions(&self) -> Vec<<Self::Chain as Chain>::Read> {
        self.inner.questions()
    }

    fn is_answer(&self, at: usize, answer: &<Self::Chain as Chain>::Answer) -> bool {
        self.inner.is_answer(at, answer)
    }

    fn hostile_question(&self) -> <Self::Chain as Chain>::Read {
        self.inner.hostile_question()
    }

    async fn include(&self) {
        self.inner.include().await;
    }

    async fn use_sequence(&self, lane: &LaneId) {
        self.inner.use_sequence(lane).await;
    }

    async fn expire(&self) -> bool {
        self.inner.expire().await
    }

    async fn lose_transactions(&self) {
        self.inner.lose_transactions().await;
    }

    async fn drain_signer(&self, lane: &LaneId) {
        self.inner.drain_signer(lane).await;
    }

    async fn nodes_down(&self) {
        self.inner.nodes_down().await;
    }

    async fn lose_answers(&self) {
        self.inner.lose_answers().await;
    }

    async fn nodes_up(&self) {
        self.inner.nodes_up().await;
    }
}

/// A scheme fixture whose chain and scheme have the planted fault.
pub struct FaultySchemeFixture<F>(F);

#[async_trait]
impl<F: EngineParts> SchemeFixture for FaultySchemeFixture<F> {
    type Chain = FaultyChain<F::Chain>;

    const PRICE: Amount = F::PRICE;
    const ONLY_CHAIN_KNOWS: bool = F::ONLY_CHAIN_KNOWS;

    async fn new() -> Self {
        Self(F::new().await)
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.0.clock()
    }

    fn scheme(&self) -> Arc<dyn Scheme<Self::Chain>> {
        Arc::new(FaultyScheme::new(self.0.scheme(), scheme_fault()))
    }

    async fn engine(&self) -> Engine {
        let (chain, scheme) = self.0.parts();
        let chain = FaultyChain::new(Arc::new(chain), chain_fault());
        let scheme = Arc::new(FaultyScheme::new(scheme, scheme_fault()));
        let builder = self.0.builder().await.chain(chain, vec![scheme]);
        builder.start().await.expect("an engine")
    }

    async fn request(&self) -> PaymentRequest {
        self.0.request().await
    }

    async fn alike(&self) -> [PaymentRequest; 2] {
        self.0.alike().await
    }

    fn twin(&self, request: &PaymentRequest) -> PaymentRequest {
        self.0.twin(request)
    }

    async fn spoiled(&self) -> Vec<(&'static str, PaymentRequest, Reason)> {
        self.0.spoiled().await
    }

    async fn pointless(&self) -> [(PaymentRequest, Reason); 2] {
        self.0.pointless().await
    }

    async fn received(&self) -> Amount {
        self.0.received().await
    }

    async fn hold(&self) {
        self.0.hold().await;
    }

    async fn go_on(&self) {
        self.0.go_on().await;
    }

    async fn drain_payer(&self) -> bool {
        self.0.drain_payer().await
    }

    async fn settle_elsewhere(&self, request: &PaymentRequest) -> bool {
        self.0.settle_elsewhere(request).await
    }
}

/// A fixture of lives whose chain, scheme and journal have the planted fault.
pub struct FaultyLifeFixture<F>(F);

#[async_trait]
impl<F: LifeFixture> LifeFixture for FaultyLifeFixture<F> {
    type Chain = FaultyChain<F::Chain>;

    async fn new() -> Self {
        Self(F::new().await)
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.0.clock()
    }

    fn parts(&self) -> (Self::Chain, Arc<dyn Scheme<Self::Chain>>) {
        let (chain, scheme) = self.0.parts();
        let chain = FaultyChain::new(Arc::new(chain), chain_fault());
        (chain, Arc::new(FaultyScheme::new(scheme, scheme_fault())))
    }

    fn builder(&self, journal: impl Journal) -> EngineBuilder {
        let journal = FaultyJournal::new(journal, journal_fault());
        self.0.builder(journal)
    }

    async fn acts(&self) -> Vec<Act> {
        self.0.acts().await
    }

    async fn effects(&self, acts: &[Act], records: &dyn StateStore) -> Vec<Option<u64>> {
        self.0.effects(acts, records).await
    }

    async fn hold(&self) {
        self.0.hold().await;
    }

    async fn go_on(&self) {
        self.0.go_on().await;
    }
}

/// A fixture of the two ends whose offer and payer have the planted fault.
pub struct FaultyEndsFixture<F> {
    inner: F,
    paid: Arc<Mutex<Option<SignedPayment>>>,
}

#[async_trait]
impl<F: EndsFixture> EndsFixture for FaultyEndsFixture<F> {
    type Chain = F::Chain;

    const EXPIRY_SLACK_SECS: u64 = F::EXPIRY_SLACK_SECS;

    async fn new() -> Self {
        Self {
            inner: F::new().await,
            paid: Arc::default(),
        }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.inner.clock()
    }

    fn offer(&self) -> Arc<dyn Offer> {
        Arc::new(FaultyOffer::new(self.inner.offer(), ends_fault()))
    }

    fn payer(&self) -> Arc<dyn Payer> {
        let known = self.inner.offer().requirements(&self.supported());
        Arc::new(FaultyPayer::new(
            self.inner.payer(),
            ends_fault(),
            known.expect("requirements"),
            Arc::clone(&self.paid),
        ))
    }

    fn supported(&self) -> SupportedKind {
        self.inner.supported()
    }

    fn scheme(&self) -> Arc<dyn Scheme<F::Chain>> {
        self.inner.scheme()
    }

    fn respelled(&self, requirements: &PaymentRequirements) -> PaymentRequirements {
        self.inner.respelled(requirements)
    }

    fn in_unknown_asset(&self, requirements: &PaymentRequirements) -> PaymentRequirements {
        self.inner.in_unknown_asset(requirements)
    }
}
