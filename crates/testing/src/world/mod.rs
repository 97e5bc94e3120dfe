//! A simulated chain: accounts, authorizations, transactions and blocks in memory.
//!
//! [`World`] is the chain itself, with its node and its clock. [`SimulatedChain`] is the
//! [`Chain`](quittance_core::Chain) through which the engine uses it, [`SimulatedExact`] is the
//! scheme `exact` on it, and [`SimulatedOffer`] and [`SimulatedPayer`] are the two ends of a
//! payment. [`SimulatedUpto`], [`SimulatedSponsored`] and [`SimulatedChannels`] are schemes whose
//! payments send nothing, take several transactions, or share a state record.
//!
//! Nothing happens by itself. A test moves the clock, makes blocks, and breaks the node.
//!
//! ```
//! use quittance_core::Amount;
//! use quittance_testing::world::{USD, World};
//!
//! # #[tokio::main]
//! # async fn main() {
//! let world = World::new();
//! let request = world.request(&world.payer(0)).await;
//! assert_eq!(request.requirements.amount, Amount::from(10_000));
//! assert_eq!(world.balance(&world.seller(), USD), Amount::ZERO);
//! # }
//! ```

mod address;
mod chain;
mod channel;
mod ends;
mod environment;
mod exact;
mod fixtures;
mod ledger;
mod link;
mod lives;
mod sponsored;
mod transaction;
mod upto;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ed25519_dalek::SigningKey;
use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, Rest, SupportedKind};
use quittance_core::{
    Amount, Asset, Clock, LaneId, ManualClock, Network, Offer, PaymentRequest, Timestamp,
    TransactionId,
};

pub use address::{Address, AddressError};
pub use chain::{Evidence, Question, Search, SimulatedChain, StateAnswer};
pub use channel::SimulatedChannels;
pub use ed25519_dalek;
pub use ends::{SimulatedOffer, SimulatedPayer};
pub use environment::{Environment, TIMING};
pub use exact::{BLOCK_SECS, SimulatedExact, SimulatedRule, reason};
pub use fixtures::{SimulatedChainFixture, SimulatedEndsFixture, SimulatedExactFixture};
pub use ledger::{COIN, TransferEvent};
pub use link::{Link, NodeCall, Passage};
pub use lives::{SimulatedChannelLives, SimulatedSponsoredLives, SimulatedUptoLives};
pub use sponsored::SimulatedSponsored;
pub use transaction::{Authorization, Carrier, Transfer};
pub use upto::SimulatedUpto;

use ledger::{Ledger, Refused};
use transaction::{Content, SignedContent};

/// The asset that payments are made in. It has six decimal places.
pub const USD: &str = "usd";

/// The price of everything, in atomic units: one cent.
pub const PRICE: u64 = 10_000;

/// The CAIP-2 identifier of the simulated chain.
pub const NETWORK: &str = "sim:local";

/// The time at which a world begins: in January 2027. The value has no meaning.
const START: Timestamp = Timestamp::from_secs(1_800_000_000);

/// What each payer has at the start: enough for every test.
const FUNDS: u64 = 1_000_000 * PRICE;

/// What each payer and each signer has at the start, in coins: enough for every test.
const COINS: u64 = 1_000_000_000;

/// The fee that nodes ask for now.
pub(crate) const FEE: u64 = 100;

/// The simulated chain with its node and its clock. All clones are one world.
#[derive(Clone)]
pub struct World(Arc<Inner>);

struct Inner {
    network: Network,
    clock: Arc<ManualClock>,
    nonces: AtomicU64,
    state: Mutex<State>,
}

struct State {
    ledger: Ledger,
    node: Node,
    includes_at_once: bool,
    /// Whether the blocks contradict the clock.
    is_clock_wrong: bool,
}

/// How the node behaves.
#[derive(Debug, Default)]
struct Node {
    is_down: bool,
    loses_answers: bool,
    loses_transactions: bool,
    refuses: bool,
}

/// Why the node has not taken a transaction, as far as its caller can know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SubmitError {
    /// The node could not be reached: the transaction was not sent.
    Down,
    /// The transaction was sent, and no answer came.
    AnswerLost,
    /// The node refused all transactions.
    Refuses,
    /// The chain refused this one.
    Refused(Refused),
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A world whose payers and signers have money. Blocks are made by [`include`](Self::include).
    pub fn new() -> Self {
        let network = Network::new(NETWORK)
            .expect("a CAIP-2 identifier")
            .with_alias("simulated");
        let world = Self(Arc::new(Inner {
            network: network.clone(),
            clock: Arc::new(ManualClock::new(START)),
            nonces: AtomicU64::new(0),
            state: Mutex::new(State {
                ledger: Ledger::new(network),
                node: Node::default(),
                includes_at_once: false,
                is_clock_wrong: false,
            }),
        }));
        for at in 0..4 {
            let payer = Address::from_key(&Self::payer_key(at));
            world.set_balance(payer, USD, Amount::from(FUNDS));
            // For the fees of transactions that it sends itself.
            world.set_balance(payer, COIN, Amount::from(COINS));
        }
        for key in Self::signer_keys() {
            world.set_balance(Address::from_key(&key), COIN, Amount::from(COINS));
        }
        world
    }

    /// The chain's name.
    pub fn network(&self) -> &Network {
        &self.0.network
    }

    /// The world's clock. It moves only by hand.
    pub fn clock(&self) -> Arc<ManualClock> {
        Arc::clone(&self.0.clock)
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// The asset that payments are made in, as people write it.
    pub fn usd() -> Asset {
        Asset {
            address: USD.to_owned(),
            symbol: "USD".to_owned(),
            decimals: 6,
        }
    }

    /// The keys of the facilitator's two signers.
    pub fn signer_keys() -> [SigningKey; 2] {
        [10, 11].map(key)
    }

    /// The key of a payer. Payers 0 to 3 have money, and others do not.
    pub fn payer_key(at: u8) -> SigningKey {
        key(100_u8.saturating_add(at))
    }

    /// A payer of this world. Payers 0 to 3 have money, and others do not.
    pub fn payer(&self, at: u8) -> SimulatedPayer {
        SimulatedPayer::new(self.clone(), Self::payer_key(at))
    }

    /// The seller's address.
    pub fn seller(&self) -> Address {
        Address::from_key(&key(1))
    }

    /// The seller as a payer, such as of refunds.
    pub fn paying_seller(&self) -> SimulatedPayer {
        SimulatedPayer::new(self.clone(), key(1))
    }

    /// A chain with both signers, as the engine uses it.
    pub fn chain(&self) -> SimulatedChain {
        SimulatedChain::new(self.clone(), Self::signer_keys().to_vec())
    }

    /// A chain without signers, on which payers sign and send whole transactions.
    pub fn chain_without_signers(&self) -> SimulatedChain {
        SimulatedChain::new(self.clone(), Vec::new())
    }

    /// The seller's offer.
    pub fn offer(&self) -> SimulatedOffer {
        SimulatedOffer::new(
            self.network().clone(),
            Self::usd(),
            "0.01",
            &self.seller().to_string(),
        )
        .expect("an offer")
    }

    /// What the seller asks for: [`PRICE`] in [`USD`].
    pub fn requirements(&self) -> PaymentRequirements {
        let kind = SupportedKind {
            x402_version: 2,
            scheme: "exact".to_owned(),
            network: self.network().id().to_owned(),
            extra: None,
            rest: Rest::default(),
        };
        self.offer().requirements(&kind).expect("requirements")
    }

    /// A new payment by this payer, as a seller sends it to a facilitator.
    pub async fn request(&self, payer: &SimulatedPayer) -> PaymentRequest {
        crate::pay(payer, &self.requirements(), self.now()).await
    }

    /// A new payment by this payer, who sends it in a transaction of its own.
    pub async fn carried_request(&self, payer: &SimulatedPayer) -> PaymentRequest {
        self.carry(&self.request(payer).await, payer)
    }

    /// The same payment, in a transaction of the payer's own, which expires with the authorization.
    ///
    /// # Panics
    /// When the request carries no transfer.
    pub fn carry(&self, request: &PaymentRequest, payer: &SimulatedPayer) -> PaymentRequest {
        let transfer = Self::transfer_of(request);
        let expires = Some(transfer.authorization.expires);
        let carried = self.carried(transfer, payer, expires);
        let payload = Object::of(&carried).expect("JSON");
        let request = request.completed(payload, request.requirements.amount);
        request.expect("a request that is not too long")
    }

    /// A transfer in a new transaction of this payer. No block includes it from `expires` on.
    pub fn carried(
        &self,
        transfer: Transfer,
        payer: &SimulatedPayer,
        expires: Option<u64>,
    ) -> Transfer {
        let number = self.0.nonces.fetch_add(1, Ordering::SeqCst);
        transfer.carried(self.network(), payer.key(), number, expires)
    }

    /// A new payment of this amount by the seller to the payer of a request.
    pub async fn refund(&self, request: &PaymentRequest, amount: u64) -> PaymentRequest {
        let payer = Self::transfer_of(request).authorization.from;
        let requirements = PaymentRequirements {
            amount: amount.to_string(),
            pay_to: payer.to_string(),
            ..self.requirements()
        };
        crate::pay(&self.paying_seller(), &requirements, self.now()).await
    }

    /// The balance of an account, in atomic units.
    pub fn balance(&self, address: &Address, asset: &str) -> Amount {
        self.state().ledger.accounts.balance(address, asset)
    }

    /// Sets the balance of an account, after the newest block.
    pub fn set_balance(&self, address: Address, asset: &str, amount: Amount) {
        let accounts = &mut self.state().ledger.accounts;
        accounts.set_balance(address, asset, amount);
    }

    /// Gives an account another key, which signs for it from now on. Only the chain knows it.
    pub fn set_key(&self, address: Address, key: &SigningKey) {
        let key = key.verifying_key().to_bytes();
        self.state().ledger.accounts.set_key(address, key);
    }

    /// From now on, authorizations expire at a height, and not at a time.
    pub fn count_heights(&self) {
        self.state().ledger.counts_heights = true;
    }

    /// The height of the next block.
    pub fn height(&self) -> u64 {
        self.state().ledger.height()
    }

    /// Makes a block of the waiting transactions.
    pub fn include(&self) {
        let now = self.now().secs();
        self.state().ledger.include(now);
    }

    /// Whether the chain makes a block for each transaction, or only by [`include`](Self::include).
    pub fn includes_at_once(&self, at_once: bool) {
        self.state().includes_at_once = at_once;
        if at_once {
            self.include();
        }
    }

    /// Takes back the newest `depth` blocks. Their transactions wait again.
    pub fn reorganize(&self, depth: usize) {
        self.state().ledger.take_back(depth, false);
    }

    /// Takes back the newest `depth` blocks, and drops their transactions.
    pub fn reorganize_and_forget(&self, depth: usize) {
        self.state().ledger.take_back(depth, true);
    }

    /// Drops all waiting transactions, as nodes do that are restarted.
    pub fn forget_waiting(&self) {
        self.state().ledger.forget_waiting();
    }

    /// How many transactions wait for a block.
    pub fn waiting_count(&self) -> usize {
        self.state().ledger.waiting_count()
    }

    /// How many transactions are in blocks.
    pub fn included_count(&self) -> usize {
        self.state().ledger.included().count()
    }

    /// Whether the newest blocks contradict the clock.
    pub fn contradict_clock(&self, is_wrong: bool) {
        self.state().is_clock_wrong = is_wrong;
    }

    /// Whether the newest blocks contradict the clock now.
    pub(crate) fn is_clock_wrong(&self) -> bool {
        self.state().is_clock_wrong
    }

    /// The node does not answer any more. Nothing that is sent reaches it.
    pub fn nodes_down(&self) {
        self.state().node.is_down = true;
    }

    /// The node answers again, and takes transactions.
    pub fn nodes_up(&self) {
        self.state().node = Node::default();
    }

    /// The node takes transactions, and its answers are lost.
    pub fn lose_answers(&self) {
        self.state().node.loses_answers = true;
    }

    /// The node takes transactions and forgets them at once.
    pub fn lose_transactions(&self) {
        self.state().node.loses_transactions = true;
    }

    /// The node refuses all transactions.
    pub fn refuse_transactions(&self) {
        self.state().node.refuses = true;
    }

    /// How many transfers with this nonce of a payer have moved money.
    pub fn transfers(&self, from: &Address, nonce: &[u8; 32]) -> u64 {
        let state = self.state();
        let events = state.ledger.included().flat_map(|(_, one)| &one.events);
        let moved = events.filter(|event| {
            let authorization = &event.authorization;
            event.failure.is_none() && (&authorization.from, &authorization.nonce) == (from, nonce)
        });
        moved.count() as u64
    }

    /// The ids of all transactions in blocks that carry transfers.
    pub fn included_ids(&self) -> Vec<TransactionId> {
        let state = self.state();
        let included = state.ledger.included();
        let carrying = included.filter(|(_, one)| !one.events.is_empty());
        carrying.map(|(_, one)| one.id.clone()).collect()
    }

    /// Sends a transaction without effect at the signer's next sequence number, as another program
    /// with the same key would. It waits for a block.
    ///
    /// # Panics
    /// When the lane is not one of this world's signers, or another transaction waits there.
    pub fn submit_rival(&self, lane: &LaneId) {
        let key = Self::signer_keys()
            .into_iter()
            .find(|key| Address::from_key(key).to_string() == lane.address())
            .expect("a signer of this world");
        let signer = Address::from_key(&key);
        let mut state = self.state();
        let content = Content {
            signer,
            sequence: state.ledger.accounts.next_sequence(&signer),
            in_any_order: false,
            fee: FEE,
            expires: None,
            transfers: Vec::new(),
        };
        let signed = SignedContent::sign(content, self.network(), &key);
        let now = self.now().secs();
        let result = state.ledger.submit(&signed.encode(), now);
        result.expect("a free sequence number");
    }

    /// Moves a transfer as another facilitator would: in a block of its own.
    pub fn settle_elsewhere(&self, transfer: Transfer) {
        let key = key(20);
        let signer = Address::from_key(&key);
        self.set_balance(signer, COIN, Amount::from(COINS));
        let sequence = self.state().ledger.accounts.next_sequence(&signer);
        let content = Content {
            signer,
            sequence,
            in_any_order: false,
            fee: FEE,
            expires: None,
            transfers: vec![Transfer {
                carrier: None,
                ..transfer
            }],
        };
        let signed = SignedContent::sign(content, self.network(), &key);
        let now = self.now().secs();
        let result = self.state().ledger.submit(&signed.encode(), now);
        result.expect("a free sequence number");
        self.include();
    }

    /// A nonce that was not used in this world.
    pub(crate) fn new_nonce(&self) -> [u8; 32] {
        let count = self.0.nonces.fetch_add(1, Ordering::SeqCst);
        let mut nonce = [0; 32];
        nonce[24..].copy_from_slice(&count.to_be_bytes());
        nonce
    }

    /// Hands bytes to the node.
    pub(crate) fn submit(&self, bytes: &[u8]) -> Result<(), SubmitError> {
        let now = self.now().secs();
        let mut state = self.state();
        if state.node.is_down {
            return Err(SubmitError::Down);
        }
        if state.node.refuses {
            return Err(SubmitError::Refuses);
        }
        let result = state.ledger.submit(bytes, now);
        if state.node.loses_transactions {
            state.ledger.forget_waiting();
        }
        if result.is_ok() && state.includes_at_once {
            state.ledger.include(now);
        }
        match state.node.loses_answers {
            true => Err(SubmitError::AnswerLost),
            false => result.map_err(SubmitError::Refused),
        }
    }

    /// Asks the node about the chain; `None` when it does not answer.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(&Ledger) -> T) -> Option<T> {
        let state = self.state();
        (!state.node.is_down).then(|| question(&state.ledger))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that failed elsewhere does not change what the chain has done.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key that is the same in every run.
fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}
