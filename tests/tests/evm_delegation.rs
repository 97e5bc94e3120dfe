//! `exact` by delegation (ERC-7710) has the properties of every scheme, with a delegation manager
//! on a real node, and pays once whatever its caveats allow.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;
use std::time::Duration;

use alloy::hex::encode_prefixed;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolValue};
use async_trait::async_trait;
use quittance_core::wire::{PaymentRequirements, SettleResponse};
use quittance_core::{Amount, Facilitator, Offer, PaymentId, PaymentRequest, Reason, Scheme};
use quittance_devnet::{Account, Evm as Local, USDC};
use quittance_engine::{Engine, EngineBuilder};
use quittance_evm::abi::{Caveat, Delegation};
use quittance_evm::erc7710::{PermissionContext, transfer_execution};
use quittance_evm::{Evm, EvmConfig, reason};
use quittance_testing::faults::{EngineParts, FaultySchemeFixture, PlantedFault, SchemeFault};
use quittance_tests::conformance::scheme::{self, SchemeFixture};
use quittance_tests::delegation::{
    CONTEXT, Delegations, buyers, chain_of, hash, offer, open_root, root, start, with_chain,
};
use quittance_tests::engine::assert_refused;
use quittance_tests::evm::{PRICE, Setting, set, set_required};
use quittance_tests::mutations::{NOT_CAUGHT_IN_EXACT, NotCaught, assert_caught};
use quittance_tests::permit2::with_other_s;
use serde_json::{Value, json};

alloy::sol! {
    struct DisabledCaveat { address enforcer; bytes terms; bytes args; }
    struct Disabled {
        address delegate; address delegator; bytes32 authority; DisabledCaveat[] caveats;
        uint256 salt; bytes signature;
    }
    function disableDelegation(Disabled delegation) external;
}

struct DelegationFixture(Setting, Delegations);

/// The chain with both of the facilitator's signers.
fn two_signers(setting: &Setting) -> EvmConfig {
    let mut config = setting.config();
    let second = Setting::signers()[1].signer.clone();
    config.signers.push(Arc::new(second));
    config
}

async fn builder(setting: &Setting, delegations: &Delegations, config: EvmConfig) -> EngineBuilder {
    let scheme = delegations.scheme(config.clone());
    let evm = Evm::new(config).unwrap();
    setting.builder().await.chain(evm, vec![scheme])
}

async fn engine(setting: &Setting, delegations: &Delegations) -> Engine {
    let builder = builder(setting, delegations, two_signers(setting)).await;
    builder.start().await.unwrap()
}

fn signer() -> Address {
    Setting::signers()[0].address
}

fn seller() -> Address {
    Setting::seller().address
}

/// The answer once the outcome is known.
async fn decided(engine: &Engine, request: &PaymentRequest) -> SettleResponse {
    const TIMES: usize = 10;
    let mut answer = engine.settle(request).await.unwrap();
    for _ in 1..TIMES {
        if !answer.is_pending() {
            break;
        }
        answer = engine.settle(request).await.unwrap();
    }
    answer
}

impl DelegationFixture {
    fn requirements(&self) -> PaymentRequirements {
        self.1.requirements(self.0.config())
    }

    /// A payment by this account for changed requirements, properly delegated.
    async fn signed_for(
        &self,
        account: &Account,
        change: impl FnOnce(&mut PaymentRequirements),
    ) -> PaymentRequest {
        let mut requirements = self.requirements();
        change(&mut requirements);
        quittance_tests::pay(&self.1.payer(account), &requirements).await
    }

    /// A delegation of the price by this account, with a part of it changed before it is signed by
    /// the account's key.
    fn delegated_by(
        &self,
        account: &Account,
        change: impl FnOnce(&mut Delegation),
    ) -> PaymentRequest {
        let caveat = self.1.only(USDC, seller(), U256::from(PRICE));
        let mut delegation = root(signer(), account.address, vec![caveat]);
        change(&mut delegation);
        let signed = self.1.sign(&account.signer, delegation);
        self.1
            .request(&[signed], account.address, &self.requirements())
    }

    /// A good payment with a part of its delegation changed after it was signed.
    async fn changed(&self, change: impl FnOnce(&mut Vec<Delegation>)) -> PaymentRequest {
        let request = self.request().await;
        let mut chain = chain_of(&request);
        change(&mut chain);
        with_chain(&request, &chain)
    }
}

#[async_trait]
impl SchemeFixture for DelegationFixture {
    type Chain = Evm;

    const PRICE: Amount = Amount::new(U256::from_limbs([PRICE, 0, 0, 0]));
    const ONLY_CHAIN_KNOWS: bool = true;

    async fn new() -> Self {
        let (setting, delegations) = start().await;
        Self(setting, delegations)
    }

    fn scheme(&self) -> Arc<dyn Scheme<Evm>> {
        self.1.scheme(self.0.config())
    }

    async fn engine(&self) -> Engine {
        let builder = builder(&self.0, &self.1, self.0.config()).await;
        builder.start().await.unwrap()
    }

    async fn request(&self) -> PaymentRequest {
        self.signed_for(&Setting::buyer(), |_| ()).await
    }

    async fn alike(&self) -> [PaymentRequest; 2] {
        buyers()
            .map(|buyer| self.delegated_by(&buyer, |delegation| delegation.salt = U256::from(7)))
    }

    /// The other s, which the account accepts.
    fn twin(&self, request: &PaymentRequest) -> PaymentRequest {
        let mut chain = chain_of(request);
        chain[0].signature = with_other_s(&chain[0].signature).into();
        with_chain(request, &chain)
    }

    async fn spoiled(&self) -> Vec<(&'static str, PaymentRequest, Reason)> {
        let (buyer, other) = (Setting::buyer(), Local::accounts()[5].clone());
        let good = self.request().await;
        let field = |name: &str, value: Value| {
            set(&good, &format!("/paymentPayload/payload/{name}"), value)
        };
        let delegated = |change: fn(&mut Delegation)| self.delegated_by(&buyer, change);
        let eip3009 = Value::Object(Setting::request().await.payload.tree());
        let with_tail = {
            let context = Bytes::from([chain_of(&good).abi_encode(), vec![0; 32]].concat());
            set(&good, CONTEXT, json!(context))
        };
        let redelegated = {
            let open = self.1.sign(&buyer.signer, open_root(buyer.address, vec![]));
            let mut leaf = root(signer(), other.address, vec![]);
            leaf.authority = hash(&open);
            let leaf = self.1.sign(&other.signer, leaf);
            self.1
                .request(&[leaf, open], buyer.address, &self.requirements())
        };
        let poor = Local::accounts()[4].clone();
        self.0.drain(poor.address).await;
        let code = self.1.give_code(&self.0, poor.address, "DelegatorAccount");
        code.await;
        vec![
            (
                "an EIP-3009 payload",
                set(&good, "/paymentPayload/payload", eip3009),
                reason::UNSUPPORTED_PAYLOAD_TYPE,
            ),
            (
                "another method",
                set(
                    &good,
                    "/paymentRequirements/extra/assetTransferMethod",
                    json!("permit2"),
                ),
                reason::UNSUPPORTED_PAYLOAD_TYPE,
            ),
            (
                "another manager",
                field("delegationManager", json!(other.address)),
                reason::DELEGATION_MANAGER_NOT_ALLOWED,
            ),
            (
                "another delegator",
                field("delegator", json!(other.address)),
                reason::DELEGATOR_MISMATCH,
            ),
            (
                "another redeemer",
                delegated(|delegation| delegation.delegate = Address::repeat_byte(7)),
                reason::REDEEMER_MISMATCH,
            ),
            (
                "no delegation",
                with_chain(&good, &[]),
                reason::DELEGATION_CONTEXT,
            ),
            (
                "bytes behind the chain",
                with_tail,
                reason::DELEGATION_CONTEXT,
            ),
            (
                "an open delegation that another account redelegates",
                redelegated,
                reason::DELEGATION_CONTEXT,
            ),
            (
                "for another seller",
                set_required(&good, "payTo", json!(other.address)),
                reason::SIMULATION_FAILED,
            ),
            (
                "more than delegated",
                set_required(&good, "amount", json!((PRICE + 1).to_string())),
                reason::SIMULATION_FAILED,
            ),
            (
                "a salt that was not signed",
                self.changed(|chain| chain[0].salt = U256::from(1)).await,
                reason::SIMULATION_FAILED,
            ),
            (
                "a caveat that was removed",
                self.changed(|chain| chain[0].caveats.clear()).await,
                reason::SIMULATION_FAILED,
            ),
            (
                "another authority",
                delegated(|delegation| delegation.authority = B256::repeat_byte(5)),
                reason::SIMULATION_FAILED,
            ),
            (
                "a delegator without money",
                self.signed_for(&poor, |_| ()).await,
                reason::INSUFFICIENT_BALANCE,
            ),
            (
                "a delegator without code",
                self.signed_for(&other, |_| ()).await,
                reason::ACCOUNT_NOT_DELEGATED,
            ),
            (
                "no time for a block",
                set_required(&good, "maxTimeoutSeconds", json!(3)),
                Reason::SETTLEMENT_EXPIRED,
            ),
        ]
    }

    async fn pointless(&self) -> [(PaymentRequest, Reason); 2] {
        let buyer = Setting::buyer();
        let address = buyer.address.to_string();
        let nothing = self.signed_for(&buyer, |terms| terms.amount = "0".to_owned());
        let to_itself = self.signed_for(&buyer, |terms| terms.pay_to = address);
        [
            (nothing.await, Reason::AMOUNT_TOO_LOW),
            (to_itself.await, Reason::INVALID_PAYMENT_REQUIREMENTS),
        ]
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

    /// Only the redeemer that the delegation names can settle it.
    async fn settle_elsewhere(&self, _: &PaymentRequest) -> bool {
        false
    }
}

quittance_tests::scheme_conformance!(DelegationFixture);

#[async_trait]
impl EngineParts for DelegationFixture {
    fn parts(&self) -> (Evm, Arc<dyn Scheme<Evm>>) {
        let evm = Evm::new(self.0.config()).unwrap();
        (evm, self.scheme())
    }

    async fn builder(&self) -> EngineBuilder {
        self.0.builder().await
    }
}

/// Some minutes: `make mutations`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn planted_faults_are_caught() {
    let none = |fault, why| (PlantedFault::Scheme(fault), NotCaught::NoDifference(why));
    let mut not_caught = NOT_CAUGHT_IN_EXACT.to_vec();
    not_caught.extend([
        none(SchemeFault::ClaimsNoSignature, "it has no signatures"),
        none(SchemeFault::AcceptsBadSignatures, "it has no signatures"),
        none(SchemeFault::ExpiresNever, "it never expires"),
        none(SchemeFault::NotUsedByOthers, "no other account can use it"),
    ]);
    let properties = scheme::properties::<FaultySchemeFixture<DelegationFixture>>();
    let faults = SchemeFault::ALL.map(PlantedFault::Scheme);
    assert_caught(&properties, faults, &not_caught).await;
}

/// The payment of a delegation whose caveats allow it a hundred times.
fn generous(fixture: &DelegationFixture) -> PaymentRequest {
    fixture.delegated_by(&Setting::buyer(), |delegation| {
        delegation.caveats[0] = fixture.1.only(USDC, seller(), U256::from(100 * PRICE));
    })
}

/// Row 237 of docs/attacks.md: a seller presents a delegation again, in other words or for another
/// amount.
#[tokio::test(flavor = "multi_thread")]
async fn delegation_pays_once_whatever_its_caveats_allow() {
    let fixture = DelegationFixture::new().await;
    let engine = engine(&fixture.0, &fixture.1).await;
    let request = generous(&fixture);
    let settled = engine.settle(&request).await.unwrap();
    assert!(settled.success, "{settled:?}");
    let with_args = |args: &[u8]| {
        let mut chain = chain_of(&request);
        chain[0].caveats[0].args = Bytes::copy_from_slice(args);
        with_chain(&request, &chain)
    };
    let again = [
        request.clone(),
        with_args(&[1]),
        with_args(&[0; 40]),
        fixture.twin(&request),
        set_required(&request, "amount", json!((PRICE - 1).to_string())),
        set_required(&request, "amount", json!("1")),
        set_required(&request, "maxTimeoutSeconds", json!(3000)),
    ];
    for request in &again {
        assert!(!engine.verify(request).await.unwrap().is_valid);
        let refused = engine.settle(request).await.unwrap();
        assert_refused(&refused, &Reason::DUPLICATE_SETTLEMENT);
        assert_eq!(refused.transaction, settled.transaction);
    }
    engine.shut_down(Duration::from_secs(5)).await;
    drop(engine);

    // After a restart, too.
    let engine = self::engine(&fixture.0, &fixture.1).await;
    for request in &again {
        let refused = engine.settle(request).await.unwrap();
        assert_refused(&refused, &Reason::DUPLICATE_SETTLEMENT);
    }
    assert_eq!(fixture.received().await, Amount::from(PRICE));
}

/// Row 237: of all spellings at once, one settles.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_spellings_of_a_delegation_one_settles() {
    let fixture = DelegationFixture::new().await;
    let engine = engine(&fixture.0, &fixture.1).await;
    let request = generous(&fixture);
    let spellings = (0..10_u8).map(|at| {
        let mut chain = chain_of(&request);
        chain[0].caveats[0].args = vec![at; at.into()].into();
        let amount = (PRICE - u64::from(at % 3)).to_string();
        set_required(&with_chain(&request, &chain), "amount", json!(amount))
    });
    let spellings: Vec<_> = spellings.collect();
    let answers = spellings.iter().map(|request| engine.settle(request));
    let answers = futures_util::future::join_all(answers).await;
    let settled = answers.into_iter().map(Result::unwrap);
    let settled: Vec<_> = settled.filter(|answer| answer.success).collect();
    assert_eq!(settled.len(), 1, "{settled:?}");
    let amount = settled[0].amount.clone().unwrap();
    assert_eq!(fixture.received().await.to_string(), amount);
}

/// Rows 37 and 72: the delegation is disabled after the simulation, before the block.
#[tokio::test(flavor = "multi_thread")]
async fn delegation_revoked_before_inclusion_is_refused() {
    let fixture = DelegationFixture::new().await;
    let (setting, delegations) = (&fixture.0, &fixture.1);
    let engine = engine(setting, delegations).await;
    let request = generous(&fixture);
    setting.hold().await;
    let pending = engine.settle(&request).await.unwrap();
    assert!(pending.is_pending(), "{pending:?}");
    let delegation = chain_of(&request).remove(0);
    let selector = &disableDelegationCall::SELECTOR[..];
    let disable = [selector, &(delegation,).abi_encode_params()].concat();
    // It comes first in its block.
    let first = json!([{
        "from": Setting::buyer().address, "to": delegations.manager, "data": encode_prefixed(disable),
        "maxFeePerGas": "0xd18c2e2800", "maxPriorityFeePerGas": "0xba43b74000"
    }]);
    let _: B256 = setting
        .local
        .rpc("eth_sendTransaction", first)
        .await
        .unwrap();
    setting.go_on().await;
    let answer = decided(&engine, &request).await;
    assert_refused(&answer, &reason::SIMULATION_FAILED);
    assert_eq!(answer.transaction, pending.transaction);
    assert_eq!(setting.received().await, Amount::ZERO);
    assert_eq!(setting.sent(signer()).await, 1);
}

/// Row 72: code that the payer chose runs in the redemption.
#[tokio::test(flavor = "multi_thread")]
async fn delegator_that_cheats_never_gets_a_success() {
    for (name, reason, sent_max) in [
        ("AccountThatBurnsGas", reason::SIMULATION_FAILED, 0),
        ("AccountThatTellsSimulations", reason::SIMULATION_FAILED, 0),
        // Its delegation is used up, so the second simulation fails.
        ("AccountThatPaysNothing", reason::SIMULATION_FAILED, 1),
        ("AccountThatPaysTwice", reason::TRANSFER_EVENT_MISMATCH, 1),
    ] {
        let fixture = DelegationFixture::new().await;
        let buyer = Setting::buyer();
        fixture.1.give_code(&fixture.0, buyer.address, name).await;
        let engine = engine(&fixture.0, &fixture.1).await;
        let request = fixture.request().await;
        let refused = decided(&engine, &request).await;
        assert_refused(&refused, &reason);
        assert!(fixture.0.sent(signer()).await <= sent_max, "{name}");
    }
}

/// A delegation to an agent, which delegates each payment to the facilitator.
#[tokio::test(flavor = "multi_thread")]
async fn agent_pays_by_redelegation() {
    let fixture = DelegationFixture::new().await;
    let engine = engine(&fixture.0, &fixture.1).await;
    let (buyer, agent) = (Setting::buyer(), PrivateKeySigner::random());
    let budget = fixture.1.only(USDC, seller(), U256::from(2 * PRICE));
    let above = root(agent.address(), buyer.address, vec![budget]);
    let above = fixture.1.sign(&buyer.signer, above);
    let payment = || {
        let caveat = fixture.1.only(USDC, seller(), U256::from(PRICE));
        let mut leaf = root(signer(), agent.address(), vec![caveat]);
        leaf.authority = hash(&above);
        let leaf = fixture.1.sign(&agent, leaf);
        fixture.1.request(
            &[leaf, above.clone()],
            buyer.address,
            &fixture.requirements(),
        )
    };
    for _ in 0..2 {
        let settled = engine.settle(&payment()).await.unwrap();
        assert!(settled.success, "{settled:?}");
        assert_eq!(settled.payer, Some(buyer.address.to_checksum(None)));
    }
    let beyond = engine.settle(&payment()).await.unwrap();
    assert_refused(&beyond, &reason::SIMULATION_FAILED);
    assert_eq!(fixture.received().await, Amount::from(2 * PRICE));
}

/// Wallets of the Delegation Framework make open delegations with a caveat for redeemers.
#[tokio::test(flavor = "multi_thread")]
async fn open_delegation_to_all_signers_pays() {
    let fixture = DelegationFixture::new().await;
    let engine = engine(&fixture.0, &fixture.1).await;
    let buyer = Setting::buyer();
    let signers = Setting::signers().map(|signer| signer.address);
    for _ in 0..6 {
        let caveats: Vec<Caveat> = vec![
            fixture.1.only_by(&signers),
            fixture.1.only(USDC, seller(), U256::from(PRICE)),
        ];
        let delegation = fixture
            .1
            .sign(&buyer.signer, open_root(buyer.address, caveats));
        let requirements = fixture.1.requirements(two_signers(&fixture.0));
        let request = fixture
            .1
            .request(&[delegation], buyer.address, &requirements);
        let settled = engine.settle(&request).await.unwrap();
        assert!(settled.success, "{settled:?}");
    }
    assert_eq!(fixture.received().await, Amount::from(6 * PRICE));
}

/// The manager accepts no other sender than the one that the delegation names.
#[tokio::test(flavor = "multi_thread")]
async fn delegation_is_redeemed_by_the_signer_that_it_names() {
    let fixture = DelegationFixture::new().await;
    let engine = engine(&fixture.0, &fixture.1).await;
    for (at, signer) in Setting::signers().iter().enumerate() {
        for _ in 0..2 {
            let request = fixture.delegated_by(&Setting::buyer(), |delegation| {
                delegation.delegate = signer.address;
            });
            let settled = engine.settle(&request).await.unwrap();
            assert!(settled.success, "{at}: {settled:?}");
        }
        assert_eq!(fixture.0.sent(signer.address).await, 2, "{at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manager_that_is_not_deployed_is_named() {
    let fixture = DelegationFixture::new().await;
    let nowhere = Delegations {
        manager: Address::repeat_byte(0xd1),
        ..fixture.1
    };
    let engine = engine(&fixture.0, &nowhere).await;
    let requirements = nowhere.requirements(fixture.0.config());
    let request = quittance_tests::pay(&nowhere.payer(&Setting::buyer()), &requirements).await;
    let refused = engine.settle(&request).await.unwrap();
    assert_refused(&refused, &reason::DELEGATION_MANAGER_NOT_DEPLOYED);
}

/// `fixtures/erc7710-payload.json` is from the library of the Delegation Framework.
#[test]
fn payload_of_the_delegation_framework_is_read() {
    let fixture: Value =
        serde_json::from_str(include_str!("../fixtures/erc7710-payload.json")).unwrap();
    let bytes = |name: &str| -> Bytes { serde_json::from_value(fixture[name].clone()).unwrap() };
    let payload = &fixture["payload"];
    let address =
        |name: &str| -> Address { serde_json::from_value(payload[name].clone()).unwrap() };
    let context: Bytes = serde_json::from_value(payload["permissionContext"].clone()).unwrap();
    let context = PermissionContext::decode(&context).unwrap();
    assert_eq!(context.delegator(), address("delegator"));
    assert_eq!(context.redeemer(), Some(signer()));
    assert_eq!(context.leaf_hash().as_slice(), bytes("leafHash").as_ref());
    let execution = transfer_execution(USDC, seller(), U256::from(PRICE));
    assert_eq!(execution, bytes("execution"));
    assert_eq!(context.redeem(execution), bytes("redeemDelegations"));
    let id: PaymentId = context.payment_id(84532, address("delegationManager"));
    let payload = quittance_core::json::Object::of(payload).unwrap();
    assert_eq!(offer().authorization(&payload), Some(id));
}
