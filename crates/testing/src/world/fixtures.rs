//! The fixtures of the simulated chain: the example for fixtures of other chains.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, Rest, SupportedKind};
use quittance_core::{Amount, Clock, Flow, LaneId, Offer, Payer, PaymentRequest, Reason, Scheme};
use quittance_engine::{Engine, EngineBuilder};

use super::{
    Address, Authorization, COIN, Environment, PRICE, Question, SimulatedChain, SimulatedExact,
    SimulatedPayer, StateAnswer, Transfer, USD, World, reason,
};
use crate::conformance::chain::ChainFixture;
use crate::conformance::ends::EndsFixture;
use crate::conformance::scheme::SchemeFixture;
use crate::faults::EngineParts;
use crate::{payload_of, request};

/// The simulated chain in a world of its own, with two signers or with none.
pub struct SimulatedChainFixture<const SIGNERS: usize = 2> {
    world: World,
    chain: Arc<SimulatedChain>,
}

impl<const SIGNERS: usize> SimulatedChainFixture<SIGNERS> {
    fn question(&self, payer: u8) -> Question {
        Question {
            from: self.world.payer(payer).account(),
            asset: USD.to_owned(),
            nonce: [0; 32],
        }
    }
}

#[async_trait]
impl<const SIGNERS: usize> ChainFixture for SimulatedChainFixture<SIGNERS> {
    type Chain = SimulatedChain;

    async fn new() -> Self {
        let world = World::new();
        let keys = World::signer_keys()[..SIGNERS].to_vec();
        let chain = Arc::new(SimulatedChain::new(world.clone(), keys));
        Self { world, chain }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.world.clock()
    }

    fn chain(&self) -> Arc<SimulatedChain> {
        Arc::clone(&self.chain)
    }

    async fn action(&self, _: &LaneId) -> Transfer {
        let request = self.world.request(&self.world.payer(0)).await;
        World::transfer_of(&request)
    }

    async fn signed_action(&self) -> Option<Transfer> {
        let request = self.world.carried_request(&self.world.payer(0)).await;
        Some(World::transfer_of(&request))
    }

    async fn effects(&self) -> u64 {
        let received = self.world.balance(&self.world.seller(), USD);
        received.to_string().parse::<u64>().expect("small") / PRICE
    }

    /// Payer 9 has nothing.
    fn questions(&self) -> Vec<Question> {
        [0, 9].map(|at| self.question(at)).to_vec()
    }

    fn is_answer(&self, at: usize, answer: &StateAnswer) -> bool {
        (at == 1) == (answer.balance == Amount::ZERO)
    }

    /// All questions cost the same here. The longest name is as hostile as a question can be.
    fn hostile_question(&self) -> Question {
        Question {
            asset: "x".repeat(1 << 20),
            ..self.question(0)
        }
    }

    async fn include(&self) {
        self.world.include();
    }

    async fn use_sequence(&self, lane: &LaneId) {
        self.world.submit_rival(lane);
        self.world.include();
    }

    /// Only the transactions of payers expire, with their authorizations.
    async fn expire(&self) -> bool {
        const LIFETIME_SECS: u64 = 600;
        self.world.clock().advance(LIFETIME_SECS);
        self.world.include();
        SIGNERS == 0
    }

    async fn lose_transactions(&self) {
        self.world.lose_transactions();
    }

    async fn drain_signer(&self, lane: &LaneId) {
        let signer: Address = lane.address().parse().expect("an address");
        self.world.set_balance(signer, COIN, Amount::ZERO);
    }

    async fn nodes_down(&self) {
        self.world.nodes_down();
    }

    async fn lose_answers(&self) {
        self.world.lose_answers();
    }

    async fn nodes_up(&self) {
        self.world.nodes_up();
    }
}

/// `exact` on the simulated chain, in a world of its own. If `CARRIED`, the facilitator has no
/// signer, and payers sign whole transactions.
pub struct SimulatedExactFixture<const CARRIED: bool = false>(Environment);

impl<const CARRIED: bool> SimulatedExactFixture<CARRIED> {
    /// A request with the seller's requirements and another transfer.
    fn with_transfer(&self, transfer: &Transfer) -> PaymentRequest {
        let requirements = self.0.world.requirements();
        let payload = Object::of(transfer).expect("JSON");
        request(payload_of(&requirements, payload), &requirements)
    }

    /// The request as this payer sends it.
    fn by(&self, payer: &SimulatedPayer, request: PaymentRequest) -> PaymentRequest {
        match CARRIED {
            true => self.0.world.carry(&request, payer),
            false => request,
        }
    }

    fn chain(&self) -> SimulatedChain {
        match CARRIED {
            true => self.0.world.chain_without_signers(),
            false => self.0.world.chain(),
        }
    }
}

#[async_trait]
impl<const CARRIED: bool> SchemeFixture for SimulatedExactFixture<CARRIED> {
    type Chain = SimulatedChain;

    const PRICE: Amount = Amount::from_units(PRICE);

    async fn new() -> Self {
        Self(Environment::new())
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.0.world.clock()
    }

    fn scheme(&self) -> Arc<dyn Scheme<SimulatedChain>> {
        Arc::new(SimulatedExact::new(&self.chain()))
    }

    async fn engine(&self) -> Engine {
        let (chain, scheme) = self.parts();
        let builder = self.builder().await.chain(chain, vec![scheme]);
        builder.start().await.expect("an engine")
    }

    async fn request(&self) -> PaymentRequest {
        let payer = self.0.world.payer(0);
        self.by(&payer, self.0.request().await)
    }

    async fn alike(&self) -> [PaymentRequest; 2] {
        let first = World::transfer_of(&self.request().await).authorization;
        [0, 1].map(|at| {
            let payer = self.0.world.payer(at);
            let authorization = Authorization {
                from: payer.account(),
                ..first.clone()
            };
            self.by(&payer, self.with_transfer(&payer.sign(authorization)))
        })
    }

    fn twin(&self, request: &PaymentRequest) -> PaymentRequest {
        let mut transfer = World::transfer_of(request);
        transfer.signature[0] ^= 1;
        self.with_transfer(&transfer)
    }

    async fn spoiled(&self) -> Vec<(&'static str, PaymentRequest, Reason)> {
        let world = &self.0.world;
        let (payer, good) = (world.payer(0), self.request().await);
        let authorization = World::transfer_of(&good).authorization;
        let signed = |change: &dyn Fn(&mut Authorization)| {
            let mut changed = authorization.clone();
            change(&mut changed);
            self.by(&payer, self.with_transfer(&payer.sign(changed)))
        };
        let (now, poor) = (world.now(), world.payer(9));
        let mut unsigned = World::transfer_of(&good);
        unsigned.signature = [0; 64];
        vec![
            (
                "no signature",
                self.by(&payer, self.with_transfer(&unsigned)),
                reason::SIGNATURE,
            ),
            (
                "another recipient",
                signed(&|one| one.to = payer.account()),
                reason::RECIPIENT,
            ),
            (
                "less money",
                signed(&|one| one.amount = Amount::from(PRICE - 1)),
                reason::AMOUNT,
            ),
            (
                "another asset",
                signed(&|one| "coin".clone_into(&mut one.asset)),
                reason::ASSET,
            ),
            (
                "expired",
                signed(&|one| one.expires = now.secs()),
                reason::EXPIRED,
            ),
            (
                "expires with the next block",
                signed(&|one| one.expires = now.plus_secs(5).secs()),
                reason::EXPIRED,
            ),
            (
                "valid for a year",
                signed(&|one| one.expires = now.plus_secs(365 * 86_400).secs()),
                reason::LIFETIME,
            ),
            (
                "a payer without money",
                self.by(&poor, world.request(&poor).await),
                reason::BALANCE,
            ),
        ]
    }

    async fn pointless(&self) -> [(PaymentRequest, Reason); 2] {
        let world = &self.0.world;
        let payer = world.payer(0);
        let (mut nothing, mut to_itself) = (world.requirements(), world.requirements());
        nothing.amount = "0".to_owned();
        to_itself.pay_to = payer.account().to_string();
        let now = world.now();
        [
            (
                self.by(&payer, crate::pay(&payer, &nothing, now).await),
                Reason::AMOUNT_TOO_LOW,
            ),
            (
                self.by(&payer, crate::pay(&payer, &to_itself, now).await),
                Reason::INVALID_PAYMENT_REQUIREMENTS,
            ),
        ]
    }

    async fn received(&self) -> Amount {
        self.0.received()
    }

    async fn hold(&self) {
        self.0.world.includes_at_once(false);
    }

    async fn go_on(&self) {
        self.0.world.includes_at_once(true);
    }

    async fn drain_payer(&self) -> bool {
        let payer = self.0.world.payer(0).account();
        self.0.world.set_balance(payer, USD, Amount::ZERO);
        true
    }

    async fn settle_elsewhere(&self, request: &PaymentRequest) -> bool {
        self.0.world.settle_elsewhere(World::transfer_of(request));
        true
    }
}

/// The simulated chain's offer and payer, in a world of their own. The offer has the flow with
/// this index in [`Flow::ALL`], and lets handlers charge less in the escrow flow.
pub struct SimulatedEndsFixture<const FLOW: usize = 0>(World);

#[async_trait]
impl<const FLOW: usize> EndsFixture for SimulatedEndsFixture<FLOW> {
    type Chain = SimulatedChain;

    async fn new() -> Self {
        Self(World::new())
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.0.clock()
    }

    fn offer(&self) -> Arc<dyn Offer> {
        let flow = Flow::ALL[FLOW];
        let offer = self.0.offer().with_flow(flow);
        match flow {
            Flow::Authorization | Flow::Upfront => Arc::new(offer),
            Flow::Escrow => Arc::new(offer.metered()),
        }
    }

    fn payer(&self) -> Arc<dyn Payer> {
        Arc::new(self.0.payer(0))
    }

    fn supported(&self) -> SupportedKind {
        SupportedKind {
            x402_version: 2,
            scheme: "exact".to_owned(),
            network: self.0.network().id().to_owned(),
            extra: None,
            rest: Rest::default(),
        }
    }

    fn scheme(&self) -> Arc<dyn Scheme<SimulatedChain>> {
        Arc::new(SimulatedExact::new(&self.0.chain()))
    }

    fn respelled(&self, requirements: &PaymentRequirements) -> PaymentRequirements {
        PaymentRequirements {
            network: "simulated".to_owned(),
            pay_to: requirements.pay_to.to_uppercase(),
            ..requirements.clone()
        }
    }

    fn in_unknown_asset(&self, requirements: &PaymentRequirements) -> PaymentRequirements {
        PaymentRequirements {
            asset: COIN.to_owned(),
            ..requirements.clone()
        }
    }
}

#[async_trait]
impl<const CARRIED: bool> EngineParts for SimulatedExactFixture<CARRIED> {
    fn parts(&self) -> (SimulatedChain, Arc<dyn Scheme<SimulatedChain>>) {
        let chain = self.chain();
        let scheme = SimulatedExact::new(&chain);
        (chain, Arc::new(scheme))
    }

    /// Waits for an outcome as long as a busy machine needs for forty payments.
    async fn builder(&self) -> EngineBuilder {
        self.0.builder().await.settle_wait(Duration::from_secs(1))
    }
}
