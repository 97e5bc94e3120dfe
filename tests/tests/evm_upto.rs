//! `upto` by Permit2 has the properties of every scheme, on the real Permit2 contract, and settles
//! what the seller charges.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy::hex::encode_prefixed;
use alloy::primitives::{Address, U256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolValue};
use async_trait::async_trait;
use quittance_core::wire::{PaymentRequirements, SettleResponse};
use quittance_core::{
    Amount, AuthorizationState, Facilitator, Payer, PaymentRequest, Reason, Scheme, Scope,
    StateStore, Timestamp,
};
use quittance_devnet::{Account, EXACT_PERMIT2_PROXY, PERMIT2, UPTO_PERMIT2_PROXY, USDC};
use quittance_engine::{Engine, EngineBuilder, Rules};
use quittance_evm::{Evm, EvmConfig, Exact, Upto, UptoPayer, reason, upto_reason};
use quittance_testing::faults::{EngineParts, FaultySchemeFixture, PlantedFault, SchemeFault};
use quittance_tests::conformance::life::{Act, LifeFixture, counts};
use quittance_tests::conformance::scheme::{self, SchemeFixture};
use quittance_tests::contracts::hostile;
use quittance_tests::engine::assert_refused;
use quittance_tests::evm::{PRICE, Setting, set, set_required};
use quittance_tests::mutations::{NOT_CAUGHT_IN_EXACT, assert_caught};
use quittance_tests::permit2::{
    PERMIT, Permit, Permits, approved, settle_elsewhere, twin, upto_requirements,
};
use quittance_tests::proxy::Habit;
use serde_json::{Value, json};

alloy::sol! {
    function invalidateUnorderedNonces(uint256 wordPos, uint256 mask) external;
    function approve(address spender, uint256 amount) external returns (bool);
}

struct UptoFixture(Setting);

/// The chain with both of the facilitator's signers.
fn two_signers(setting: &Setting) -> EvmConfig {
    let mut config = setting.config();
    let second = Setting::signers()[1].signer.clone();
    config.signers.push(Arc::new(second));
    config
}

async fn builder(setting: &Setting, config: EvmConfig) -> EngineBuilder {
    let evm = Evm::new(config).unwrap();
    let upto = Arc::new(Upto::new(&evm));
    setting.builder().await.chain(evm, vec![upto])
}

async fn engine(setting: &Setting) -> Engine {
    let builder = builder(setting, two_signers(setting)).await;
    builder.start().await.unwrap()
}

fn payer() -> UptoPayer {
    UptoPayer::new(Setting::buyer().signer)
}

/// A payment for changed requirements, properly signed.
async fn signed_for(change: impl FnOnce(&mut PaymentRequirements)) -> PaymentRequest {
    Permits::upto().signed_for(change).await
}

/// A permit signed by this account, with a part of it changed before it is signed.
fn permit_by(buyer: &Account, change: impl FnOnce(&mut Permit)) -> PaymentRequest {
    Permits::upto().permit_by(buyer, change)
}

/// Settles this much of a payment.
async fn charge(engine: &Engine, request: &PaymentRequest, amount: u64) -> SettleResponse {
    let request = request.charging(Amount::from(amount)).unwrap();
    engine.settle(&request).await.unwrap()
}

#[async_trait]
impl SchemeFixture for UptoFixture {
    type Chain = Evm;

    const PRICE: Amount = Amount::new(U256::from_limbs([PRICE, 0, 0, 0]));

    async fn new() -> Self {
        Self(approved().await)
    }

    fn scheme(&self) -> Arc<dyn Scheme<Evm>> {
        Arc::new(Upto::new(&Evm::new(self.0.config()).unwrap()))
    }

    async fn engine(&self) -> Engine {
        let builder = builder(&self.0, self.0.config()).await;
        builder.start().await.unwrap()
    }

    async fn request(&self) -> PaymentRequest {
        signed_for(|_| ()).await
    }

    async fn alike(&self) -> [PaymentRequest; 2] {
        Permits::upto().alike()
    }

    /// The other s, which Permit2 would accept.
    fn twin(&self, request: &PaymentRequest) -> PaymentRequest {
        twin(request)
    }

    /// The rows 31, 65, 66 and 71 of docs/attacks.md are among them.
    async fn spoiled(&self) -> Vec<(&'static str, PaymentRequest, Reason)> {
        let permits = Permits::upto();
        let good = self.request().await;
        let buyer = Setting::buyer();
        let permit = |change: fn(&mut Permit)| permit_by(&buyer, change);
        let mut spoiled = permits.spoiled().await;
        spoiled.extend([
            (
                "another method",
                set(
                    &good,
                    "/paymentRequirements/extra/assetTransferMethod",
                    json!("eip3009"),
                ),
                reason::UNSUPPORTED_PAYLOAD_TYPE,
            ),
            (
                "the proxy of exact",
                permit(|permit| permit.spender = EXACT_PERMIT2_PROXY),
                reason::PERMIT2_SPENDER,
            ),
            (
                "another facilitator",
                permit(|permit| permit.facilitator = Some(Address::repeat_byte(7))),
                upto_reason::FACILITATOR_MISMATCH,
            ),
            (
                "no facilitator",
                permit(|permit| permit.facilitator = Some(Address::ZERO)),
                upto_reason::FACILITATOR_MISMATCH,
            ),
            (
                "an amount that was not signed",
                {
                    let amount = format!("{PERMIT}/permitted/amount");
                    let changed = set(&good, &amount, json!("9999"));
                    set_required(&changed, "amount", json!("9999"))
                },
                reason::PERMIT2_SIGNATURE,
            ),
        ]);
        spoiled
    }

    async fn pointless(&self) -> [(PaymentRequest, Reason); 2] {
        Permits::upto().pointless().await
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
        self.0.drain(Setting::buyer().address).await;
        true
    }

    async fn settle_elsewhere(&self, request: &PaymentRequest) -> bool {
        settle_elsewhere(&self.0, request, PRICE).await;
        true
    }
}

quittance_tests::scheme_conformance!(UptoFixture);

/// An authorization is charged once: much of it, little of it, or nothing.
struct UptoLives {
    setting: Setting,
    /// What the seller had when the newest life began.
    before: Mutex<Amount>,
}

/// The charges of a life. The seller's balance shows how many times each was made.
const CHARGES: [(&str, u64); 3] = [
    ("charge much", 9_000),
    ("charge little", 100),
    ("charge nothing", 0),
];

#[async_trait]
impl LifeFixture for UptoLives {
    type Chain = Evm;

    async fn new() -> Self {
        Self {
            setting: approved().await,
            before: Mutex::default(),
        }
    }

    fn parts(&self) -> (Evm, Arc<dyn Scheme<Evm>>) {
        let evm = Evm::new(self.setting.config()).unwrap();
        let upto = Upto::new(&evm);
        (evm, Arc::new(upto))
    }

    async fn acts(&self) -> Vec<Act> {
        *self.before.lock().unwrap() = self.setting.received().await;
        let request = signed_for(|_| ()).await;
        let act = |(name, amount): (&'static str, u64)| {
            let charge = request.charging(Amount::from(amount)).unwrap();
            Act::new(name, charge)
                .settled_only()
                .excludes(&CHARGES.map(|(name, _)| name))
        };
        CHARGES.map(act).to_vec()
    }

    /// A charge of nothing is in no books but the journal.
    async fn effects(&self, _: &[Act], _: &dyn StateStore) -> Vec<Option<u64>> {
        let received = self.setting.received().await;
        let before = *self.before.lock().unwrap();
        let moved = received.checked_sub(before).unwrap();
        let [much, little] = [0, 1].map(|at| Amount::from(CHARGES[at].1));
        let mut effects: Vec<_> = counts(moved, &[much, little])
            .into_iter()
            .map(Some)
            .collect();
        effects.push(None);
        effects
    }

    async fn hold(&self) {
        self.setting.hold().await;
    }

    async fn go_on(&self) {
        self.setting.go_on().await;
    }
}

mod life {
    use super::UptoLives;
    quittance_tests::life_conformance!(UptoLives);
}

#[async_trait]
impl EngineParts for UptoFixture {
    fn parts(&self) -> (Evm, Arc<dyn Scheme<Evm>>) {
        let evm = Evm::new(self.0.config()).unwrap();
        let upto = Upto::new(&evm);
        (evm, Arc::new(upto))
    }

    async fn builder(&self) -> EngineBuilder {
        self.0.builder().await
    }
}

/// Some minutes: `make mutations`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn planted_faults_are_caught() {
    let properties = scheme::properties::<FaultySchemeFixture<UptoFixture>>();
    let faults = SchemeFault::ALL.map(PlantedFault::Scheme);
    assert_caught(&properties, faults, &NOT_CAUGHT_IN_EXACT).await;
}

/// The search does not know what the other program charged.
#[tokio::test(flavor = "multi_thread")]
async fn charge_of_another_program_is_found_whatever_its_amount() {
    let setting = approved().await;
    let engine = engine(&setting).await;
    // The seller has not got what it charges, if that is another amount.
    for (amount, reason) in [
        (7, Reason::SETTLED_BY_OTHER_TRANSACTION),
        (500, reason::PERMIT2_NONCE_USED),
    ] {
        let request = signed_for(|_| ()).await;
        settle_elsewhere(&setting, &request, 7).await;
        let refused = charge(&engine, &request, amount).await;
        assert_refused(&refused, &reason);
        assert!(!refused.transaction.is_empty(), "{refused:?}");
    }
    assert_eq!(setting.received().await, Amount::from(14));
}

/// Row 70 of docs/attacks.md: sellers that deliver first would all deliver for one charge.
#[tokio::test(flavor = "multi_thread")]
async fn held_authorization_is_verified_for_one_request() {
    let setting = approved().await;
    let evm = Evm::new(setting.config()).unwrap();
    let upto = Arc::new(Upto::new(&evm).with_hold(Duration::from_secs(60)));
    let builder = setting.builder().await.chain(evm, vec![upto]);
    let engine = builder.start().await.unwrap();
    for amount in [0, 5] {
        let request = signed_for(|_| ()).await;
        let verdicts = (0..10).map(|_| engine.verify(&request));
        let verdicts = futures_util::future::join_all(verdicts).await;
        let mut valid = 0;
        for verdict in verdicts.into_iter().map(Result::unwrap) {
            valid += u32::from(verdict.is_valid);
            let reason = verdict.invalid_reason;
            assert!(verdict.is_valid || reason.as_deref() == Some("upto_authorization_held"));
        }
        assert_eq!(valid, 1);
        assert!(charge(&engine, &request, amount).await.success);
        let again = charge(&engine, &request, amount).await;
        assert_refused(&again, &Reason::DUPLICATE_SETTLEMENT);
        assert!(!engine.verify(&request).await.unwrap().is_valid);
    }
    assert_eq!(setting.received().await, Amount::from(5));
}

/// The seller gets what it charges, and the authorization is used up by it.
#[tokio::test(flavor = "multi_thread")]
async fn charge_moves_what_it_says_and_only_once() {
    let setting = approved().await;
    let engine = engine(&setting).await;
    let mut received = 0;
    for amount in [1, 2_500, PRICE - 1, PRICE] {
        let request = signed_for(|_| ()).await;
        assert!(engine.verify(&request).await.unwrap().is_valid);
        let settled = charge(&engine, &request, amount).await;
        assert!(settled.success, "{amount}: {settled:?}");
        assert_eq!(settled.amount, Some(amount.to_string()));
        received += amount;
        assert_eq!(setting.received().await, Amount::from(received));
        for again in [0, amount, PRICE - amount, PRICE] {
            let again = charge(&engine, &request, again).await;
            assert_refused(&again, &Reason::DUPLICATE_SETTLEMENT);
            assert_eq!(again.transaction, settled.transaction);
        }
        assert!(!engine.verify(&request).await.unwrap().is_valid);
    }
    assert_eq!(setting.received().await, Amount::from(received));
}

/// On the chain the permit stays unused, so the facilitator's journal refuses it.
#[tokio::test(flavor = "multi_thread")]
async fn charge_of_nothing_sends_nothing_and_uses_the_permit() {
    let setting = approved().await;
    let signer = Setting::signers()[0].address;
    let request = signed_for(|_| ()).await;
    let engine = engine(&setting).await;
    let settled = charge(&engine, &request, 0).await;
    assert!(settled.success, "{settled:?}");
    assert_eq!(
        (settled.transaction.as_str(), settled.amount.as_deref()),
        ("", Some("0"))
    );
    engine.shut_down(Duration::from_secs(5)).await;
    drop(engine);

    // After a restart, too.
    let engine = self::engine(&setting).await;
    for amount in [0, 1, PRICE] {
        let again = charge(&engine, &request, amount).await;
        assert_refused(&again, &Reason::DUPLICATE_SETTLEMENT);
    }
    assert!(!engine.verify(&request).await.unwrap().is_valid);
    assert_eq!(setting.sent(signer).await, 0);
    assert_eq!(setting.received().await, Amount::ZERO);
}

/// A charge of nothing needs no money of the payer, but a valid permit.
#[tokio::test(flavor = "multi_thread")]
async fn charge_of_nothing_needs_a_valid_permit() {
    let setting = approved().await;
    let engine = engine(&setting).await;
    let unsigned = set(
        &signed_for(|_| ()).await,
        &format!("{PERMIT}/nonce"),
        json!("9999"),
    );
    let refused = charge(&engine, &unsigned, 0).await;
    assert_refused(&refused, &reason::PERMIT2_SIGNATURE);
    let foreign = permit_by(&Setting::buyer(), |permit| {
        permit.facilitator = Some(Address::repeat_byte(7));
    });
    let refused = charge(&engine, &foreign, 0).await;
    assert_refused(&refused, &upto_reason::FACILITATOR_MISMATCH);
    let poor = UptoPayer::new(PrivateKeySigner::random());
    let poor = quittance_tests::pay(&poor, &Permits::upto().requirements).await;
    assert!(charge(&engine, &poor, 0).await.success);
}

/// The transfer of nothing was simulated, and a node that could not do that failed the charge.
#[tokio::test(flavor = "multi_thread")]
async fn charge_of_nothing_needs_no_simulated_transfer() {
    let setting = approved().await;
    let engine = engine(&setting).await;
    let request = signed_for(|_| ()).await;
    let missing = Habit::Limits("eth_estimateGas", -32601, "the method does not exist");
    setting.node.takes_on(missing);
    let something = request.charging(Amount::from(1_u64)).unwrap();
    assert!(engine.settle(&something).await.is_err());
    assert!(charge(&engine, &request, 0).await.success);
}

/// The payer authorized less.
#[tokio::test(flavor = "multi_thread")]
async fn charge_above_the_permit_is_refused() {
    let setting = approved().await;
    let engine = engine(&setting).await;
    let request = signed_for(|_| ()).await;
    for amount in [PRICE + 1, u64::MAX] {
        let refused = charge(&engine, &request, amount).await;
        assert_refused(&refused, &upto_reason::SETTLEMENT_EXCEEDS_AMOUNT);
        assert_eq!(refused.transaction, "");
    }
    // A refused charge uses nothing up.
    assert!(charge(&engine, &request, PRICE).await.success);
    assert_eq!(setting.received().await, Amount::from(PRICE));
}

/// Of all charges of one authorization at once, one settles.
#[tokio::test(flavor = "multi_thread")]
async fn of_different_charges_at_once_one_settles() {
    let setting = approved().await;
    let engine = engine(&setting).await;
    let request = signed_for(|_| ()).await;
    let charges = (0..10).map(|at| charge(&engine, &request, at * 1_000));
    let answers = futures_util::future::join_all(charges).await;
    let settled: Vec<_> = answers.iter().filter(|answer| answer.success).collect();
    assert_eq!(settled.len(), 1, "{answers:?}");
    let amount = settled[0].amount.clone().unwrap();
    assert_eq!(setting.received().await.to_string(), amount);
}

/// The proxy accepts no other sender, so no other signer of the facilitator may send it.
#[tokio::test(flavor = "multi_thread")]
async fn payment_is_sent_by_the_facilitator_that_it_names() {
    let setting = approved().await;
    let engine = engine(&setting).await;
    for (at, signer) in Setting::signers().iter().enumerate() {
        let requests = [(); 3].map(|()| async {
            quittance_tests::pay(&payer(), &upto_requirements(signer.address)).await
        });
        for request in futures_util::future::join_all(requests).await {
            let settled = charge(&engine, &request, 5).await;
            assert!(settled.success, "{at}: {settled:?}");
        }
        assert_eq!(setting.sent(signer.address).await, 3, "{at}");
    }
    let supported = engine.supported().await.unwrap();
    let named = supported.kinds.iter().filter_map(|kind| {
        let extra = kind.extra.as_ref()?.tree();
        extra["facilitatorAddress"].as_str().map(str::to_owned)
    });
    let named: Vec<String> = named.collect();
    let signers = Setting::signers().map(|signer| signer.address.to_checksum(None));
    assert!(!named.is_empty());
    assert!(named.iter().all(|name| signers.contains(name)), "{named:?}");
}

/// The balance and the allowance must cover the charge, and not the maximum.
#[tokio::test(flavor = "multi_thread")]
async fn charge_needs_only_its_own_allowance() {
    let setting = approved().await;
    let engine = engine(&setting).await;
    let request = signed_for(|_| ()).await;
    assert!(engine.verify(&request).await.unwrap().is_valid);
    let buyer = Setting::buyer().address;
    let approve = approveCall {
        spender: PERMIT2,
        amount: U256::from(100),
    };
    let sent = setting.local.send(buyer, USDC, approve.abi_encode());
    sent.await.unwrap();
    let refused = charge(&engine, &request, 101).await;
    assert_refused(&refused, &reason::PERMIT2_ALLOWANCE_REQUIRED);
    assert!(charge(&engine, &request, 100).await.success);
    assert_eq!(setting.received().await, Amount::from(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn permit_that_its_owner_invalidated_is_refused() {
    let setting = approved().await;
    let engine = engine(&setting).await;
    let nonce = U256::from(0x1234);
    let request = permit_by(&Setting::buyer(), |permit| permit.nonce = nonce);
    let invalidate = invalidateUnorderedNoncesCall {
        wordPos: nonce >> 8,
        mask: U256::from(1) << 0x34,
    };
    let buyer = Setting::buyer().address;
    let sent = setting.local.send(buyer, PERMIT2, invalidate.abi_encode());
    sent.await.unwrap();
    for amount in [0, 5, PRICE] {
        let refused = charge(&engine, &request, amount).await;
        assert_refused(&refused, &reason::PERMIT2_NONCE_USED);
    }
    assert_eq!(setting.received().await, Amount::ZERO);
}

/// A buyer whose answer was lost asks the chain, whatever the seller has charged.
#[tokio::test(flavor = "multi_thread")]
async fn payer_with_a_node_learns_the_state_of_a_permit() {
    let setting = approved().await;
    let engine = engine(&setting).await;
    let network = quittance_evm::known::network("base-sepolia").unwrap();
    let url = setting.local.url().parse().unwrap();
    let payer = payer().with_rpc(&network, &[url]).unwrap();
    let state = async |request: &PaymentRequest| {
        let asset = USDC.to_checksum(None);
        let end = Timestamp::from_secs(u64::MAX);
        let state = payer.authorization_state(network.id(), &asset, &request.payload, end);
        state.await
    };
    let request = signed_for(|_| ()).await;
    assert_eq!(state(&request).await, AuthorizationState::Usable);
    let settled = charge(&engine, &request, 123).await;
    let transaction = Some(settled.transaction);
    assert_eq!(state(&request).await, AuthorizationState::Used(transaction));
    let past = setting.block_time().await - 100;
    let expired = permit_by(&Setting::buyer(), |permit| {
        permit.deadline = U256::from(past)
    });
    assert_eq!(state(&expired).await, AuthorizationState::Expired);
}

/// The proxy asks the payer's contract for the signature, as it would in the transaction.
#[tokio::test(flavor = "multi_thread")]
async fn contract_wallet_pays_by_a_permit() {
    let setting = approved().await;
    let engine = engine(&setting).await;
    let buyer = Setting::buyer().address;
    let owner = encode_prefixed((buyer,).abi_encode_params());
    let owner = owner.trim_start_matches("0x");
    let code = format!("{}{owner}", hostile("WalletThatAcceptsAll"));
    setting.local.put_code(buyer, &code).await.unwrap();
    for amount in [5, 0, PRICE] {
        let request = signed_for(|_| ()).await;
        let verdict = engine.verify(&request).await.unwrap();
        assert!(verdict.is_valid, "{verdict:?}");
        let settled = charge(&engine, &request, amount).await;
        assert!(settled.success, "{settled:?}");
    }
    assert_eq!(setting.received().await, Amount::from(PRICE + 5));
}

/// `/supported` named the scheme on a network without its contracts, where every payment was
/// refused.
#[tokio::test(flavor = "multi_thread")]
async fn scheme_without_its_contract_is_not_supported() {
    for missing in [PERMIT2, UPTO_PERMIT2_PROXY] {
        let setting = approved().await;
        let erased = setting.local.rpc("anvil_setCode", (missing, "0x"));
        let _: Value = erased.await.unwrap();
        let evm = Evm::new(setting.config()).unwrap();
        let exact = Arc::new(Exact::new(&evm)) as _;
        let schemes = vec![exact, Arc::new(Upto::new(&evm)) as _];
        let builder = setting.builder().await.chain(evm, schemes);
        let engine = builder.start().await.unwrap();
        let supported = engine.supported().await.unwrap();
        assert!(supported.kinds.iter().all(|kind| kind.scheme == "exact"));
        assert!(!supported.kinds.is_empty());
        let (_, health) = &engine.health()[0];
        let scope = Scope::Scheme("upto".to_owned());
        let mut problems = health.problems.iter();
        let problem = problems.find(|problem| problem.scope == scope).unwrap();
        assert!(problem.what.contains(&missing.to_string()), "{problem:?}");
        let request = signed_for(|_| ()).await;
        assert!(!engine.verify(&request).await.unwrap().is_valid);
    }
}

/// The minimum was compared with what the payer authorized, so a charge of one unit passed it.
#[tokio::test(flavor = "multi_thread")]
async fn minimum_amount_is_that_of_the_charge() {
    let setting = approved().await;
    let mut rules = Rules::default();
    let key = ("eip155:84532".to_owned(), USDC.to_checksum(None));
    rules.amounts_min.insert(key, Amount::from(5_000));
    let builder = builder(&setting, setting.config()).await.policy(rules);
    let engine = builder.start().await.unwrap();
    let request = signed_for(|_| ()).await;
    assert!(engine.verify(&request).await.unwrap().is_valid);
    for amount in [1, 4_999] {
        let refused = charge(&engine, &request, amount).await;
        assert_refused(&refused, &Reason::AMOUNT_TOO_LOW);
    }
    assert!(charge(&engine, &request, 5_000).await.success);
    // A charge of nothing sends nothing.
    let request = signed_for(|_| ()).await;
    assert!(charge(&engine, &request, 0).await.success);
}
