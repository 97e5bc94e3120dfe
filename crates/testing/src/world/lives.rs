//! The lives of schemes on the simulated chain: the examples for fixtures of other schemes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::{Amount, Clock, PaymentRequest, Scheme, StateStore};

use super::channel::{Channel, Deed, Signed};
use super::{
    Address, SimulatedChain, SimulatedChannels, SimulatedSponsored, SimulatedUpto, USD, World,
};
use crate::conformance::life::{Act, LifeFixture};
use crate::{payload_of, request};

/// A world that makes a block for each transaction.
fn world() -> World {
    let world = World::new();
    world.includes_at_once(true);
    world
}

/// Lives of [`SimulatedUpto`]: an authorization is charged once, all of it or nothing.
pub struct SimulatedUptoLives(World);

#[async_trait]
impl LifeFixture for SimulatedUptoLives {
    type Chain = SimulatedChain;

    async fn new() -> Self {
        Self(world())
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.0.clock()
    }

    fn parts(&self) -> (SimulatedChain, Arc<dyn Scheme<SimulatedChain>>) {
        let chain = self.0.chain();
        let scheme = SimulatedUpto::new(&chain);
        (chain, Arc::new(scheme))
    }

    async fn acts(&self) -> Vec<Act> {
        let all = self.0.request(&self.0.payer(0)).await;
        let nothing = all.charging(Amount::ZERO).expect("a request");
        vec![
            Act::new("charge all", all).excludes(&["charge nothing"]),
            Act::new("charge nothing", nothing).excludes(&["charge all"]),
        ]
    }

    async fn effects(&self, acts: &[Act], _: &dyn StateStore) -> Vec<Option<u64>> {
        let transfer = World::transfer_of(&acts[0].request).authorization;
        vec![
            Some(self.0.transfers(&transfer.from, &transfer.nonce)),
            None,
        ]
    }

    async fn hold(&self) {
        self.0.includes_at_once(false);
    }

    async fn go_on(&self) {
        self.0.includes_at_once(true);
    }
}

/// Lives of [`SimulatedSponsored`]: two payments of one payer without money.
pub struct SimulatedSponsoredLives(World);

#[async_trait]
impl LifeFixture for SimulatedSponsoredLives {
    type Chain = SimulatedChain;

    async fn new() -> Self {
        Self(world())
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.0.clock()
    }

    fn parts(&self) -> (SimulatedChain, Arc<dyn Scheme<SimulatedChain>>) {
        let chain = self.0.chain();
        let scheme = SimulatedSponsored::new(&chain);
        (chain, Arc::new(scheme))
    }

    async fn acts(&self) -> Vec<Act> {
        let payer = self.0.payer(0);
        self.0.set_balance(payer.account(), USD, Amount::ZERO);
        vec![
            Act::new("pay", self.0.request(&payer).await),
            Act::new("pay again", self.0.request(&payer).await),
        ]
    }

    /// The sponsor must not pay more often than the payer.
    async fn effects(&self, acts: &[Act], _: &dyn StateStore) -> Vec<Option<u64>> {
        let count = |act: &Act| {
            let payment = World::transfer_of(&act.request).authorization;
            let (sponsor, nonce) = SimulatedSponsored::sponsoring(&payment);
            let sponsored = self.0.transfers(&sponsor, &nonce);
            Some(sponsored.max(self.0.transfers(&payment.from, &payment.nonce)))
        };
        acts.iter().map(count).collect()
    }

    async fn hold(&self) {
        self.0.includes_at_once(false);
    }

    async fn go_on(&self) {
        self.0.includes_at_once(true);
    }
}

/// Lives of [`SimulatedChannels`]: a channel is opened, charged and closed.
pub struct SimulatedChannelLives {
    world: World,
    channels: AtomicU64,
}

impl SimulatedChannelLives {
    /// A payment of payer 0 that does this to its channel.
    async fn sign(&self, signed: Signed) -> PaymentRequest {
        let payer = self.world.payer(0);
        let any = self.world.request(&payer).await;
        let mut authorization = World::transfer_of(&any).authorization;
        authorization.nonce = signed.nonce();
        let payload = Object::of(&payer.sign(authorization)).expect("JSON");
        let requirements = self.world.requirements();
        request(payload_of(&requirements, payload), &requirements)
    }
}

/// The acts of a channel. The acts that are named twice are signed twice.
const DEEDS: [(&str, Deed, u8); 6] = [
    ("deposit", Deed::Deposit, 0),
    ("voucher", Deed::Voucher, 0),
    ("rival voucher", Deed::Voucher, 1),
    ("claim", Deed::Claim, 0),
    ("claim again", Deed::Claim, 1),
    ("cancel", Deed::Cancel, 0),
];

#[async_trait]
impl LifeFixture for SimulatedChannelLives {
    type Chain = SimulatedChain;

    async fn new() -> Self {
        Self {
            world: world(),
            channels: AtomicU64::new(0),
        }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.world.clock()
    }

    fn parts(&self) -> (SimulatedChain, Arc<dyn Scheme<SimulatedChain>>) {
        let chain = self.world.chain();
        let scheme = SimulatedChannels::new(&chain);
        (chain, Arc::new(scheme))
    }

    async fn acts(&self) -> Vec<Act> {
        let channel = self.channels.fetch_add(1, Ordering::SeqCst);
        let mut acts = Vec::new();
        for (name, deed, variant) in DEEDS {
            let signed = Signed {
                channel,
                deed,
                variant,
            };
            let act = Act::new(name, self.sign(signed).await);
            acts.push(match deed {
                Deed::Deposit => act,
                Deed::Voucher => act
                    .after(&["deposit"])
                    .excludes(&["voucher", "rival voucher"]),
                // A closed channel stays closed.
                Deed::Claim | Deed::Cancel => act
                    .after(&["deposit"])
                    .excludes(&DEEDS.map(|(name, ..)| name)),
            });
        }
        acts
    }

    async fn effects(&self, acts: &[Act], records: &dyn StateStore) -> Vec<Option<u64>> {
        let payer: Address = self.world.payer(0).account();
        let authorizations = acts.iter().map(|act| World::transfer_of(&act.request));
        let mut effects = Vec::new();
        for authorization in authorizations.map(|transfer| transfer.authorization) {
            let signed = Signed::read(&authorization).expect("our own");
            let record = signed.record(self.world.network(), &payer);
            let record = records.state(&record).await.expect("a record");
            let done = Channel::read(record.as_ref()).done;
            let noted = done.iter().filter(|one| **one == signed).count() as u64;
            let transfers = self.world.transfers(&payer, &authorization.nonce);
            effects.push(Some(match signed.deed {
                Deed::Voucher => noted + transfers,
                _ => noted.max(transfers),
            }));
        }
        effects
    }

    async fn hold(&self) {
        self.world.includes_at_once(false);
    }

    async fn go_on(&self) {
        self.world.includes_at_once(true);
    }
}
