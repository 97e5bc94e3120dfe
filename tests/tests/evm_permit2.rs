//! `exact` by Permit2 has the properties of every scheme, on the real Permit2 contract.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::U256;
use alloy::sol_types::SolCall;
use async_trait::async_trait;
use quittance_core::wire::PaymentRequirements;
use quittance_core::{
    Amount, AuthorizationState, Facilitator, Payer, PaymentRequest, Reason, Scheme, Timestamp,
};
use quittance_devnet::{Account, PERMIT2, UPTO_PERMIT2_PROXY, USDC};
use quittance_engine::{Engine, EngineBuilder};
use quittance_evm::{Evm, Exact, reason};
use quittance_testing::faults::{EngineParts, FaultySchemeFixture, PlantedFault, SchemeFault};
use quittance_tests::conformance::scheme::{self, SchemeFixture};
use quittance_tests::evm::{PRICE, Setting, set, set_required};
use quittance_tests::mutations::{NOT_CAUGHT_IN_EXACT, assert_caught};
use quittance_tests::permit2::{PERMIT, Permit, Permits, approved, settle_elsewhere, twin};
use serde_json::json;

alloy::sol! {
    function invalidateUnorderedNonces(uint256 wordPos, uint256 mask) external;
    function approve(address spender, uint256 amount) external returns (bool);
}

struct Permit2Fixture(Setting);

/// A payment for changed requirements, properly signed.
async fn signed_for(change: impl FnOnce(&mut PaymentRequirements)) -> PaymentRequest {
    Permits::exact().signed_for(change).await
}

/// A permit signed by this account, with a part of it changed before it is signed.
fn permit_by(buyer: &Account, change: impl FnOnce(&mut Permit)) -> PaymentRequest {
    Permits::exact().permit_by(buyer, change)
}

#[async_trait]
impl SchemeFixture for Permit2Fixture {
    type Chain = Evm;

    const PRICE: Amount = Amount::new(U256::from_limbs([PRICE, 0, 0, 0]));

    async fn new() -> Self {
        Self(approved().await)
    }

    fn scheme(&self) -> Arc<dyn Scheme<Evm>> {
        Arc::new(Exact::new(&Evm::new(self.0.config()).unwrap()))
    }

    async fn engine(&self) -> Engine {
        self.0
            .engine_with(self.0.config(), |builder| {
                builder.settle_wait(Duration::from_secs(2))
            })
            .await
    }

    async fn request(&self) -> PaymentRequest {
        signed_for(|_| ()).await
    }

    async fn alike(&self) -> [PaymentRequest; 2] {
        Permits::exact().alike()
    }

    /// The other s, which Permit2 would accept.
    fn twin(&self, request: &PaymentRequest) -> PaymentRequest {
        twin(request)
    }

    /// The rows 31, 65 and 66 of docs/attacks.md are among them.
    async fn spoiled(&self) -> Vec<(&'static str, PaymentRequest, Reason)> {
        let permits = Permits::exact();
        let good = self.request().await;
        let buyer = Setting::buyer();
        let mut spoiled = permits.spoiled().await;
        spoiled.extend([
            (
                "a permit where EIP-3009 is required",
                set_required(&good, "extra", json!({ "name": "USDC", "version": "2" })),
                reason::UNSUPPORTED_PAYLOAD_TYPE,
            ),
            (
                "the proxy of upto",
                permit_by(&buyer, |permit| permit.spender = UPTO_PERMIT2_PROXY),
                reason::PERMIT2_SPENDER,
            ),
            (
                "an amount that was not signed",
                set(&good, &format!("{PERMIT}/permitted/amount"), json!("9999")),
                reason::PERMIT2_SIGNATURE,
            ),
        ]);
        spoiled
    }

    async fn pointless(&self) -> [(PaymentRequest, Reason); 2] {
        Permits::exact().pointless().await
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

quittance_tests::scheme_conformance!(Permit2Fixture);

mod life {
    use super::Permit2Fixture;
    use quittance_tests::conformance::life::OneAct;
    quittance_tests::life_conformance!(OneAct<Permit2Fixture>);
}

#[async_trait]
impl EngineParts for Permit2Fixture {
    fn parts(&self) -> (Evm, Arc<dyn Scheme<Evm>>) {
        self.0.parts()
    }

    async fn builder(&self) -> EngineBuilder {
        self.0.builder().await
    }
}

/// Some minutes: `make mutations`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn planted_faults_are_caught() {
    let properties = scheme::properties::<FaultySchemeFixture<Permit2Fixture>>();
    let faults = SchemeFault::ALL.map(PlantedFault::Scheme);
    assert_caught(&properties, faults, &NOT_CAUGHT_IN_EXACT).await;
}

/// Another sender was faster: the seller is paid once, and the facilitator does not claim that
/// success. Equal transfers of other permits are not mistaken for this one.
#[tokio::test(flavor = "multi_thread")]
async fn transaction_of_another_sender_is_found_among_equal_ones() {
    let setting = approved().await;
    let engine = setting.engine().await;
    let requests = [(); 3].map(|()| signed_for(|_| ()));
    let requests = futures_util::future::join_all(requests).await;
    for request in &requests {
        settle_elsewhere(&setting, request, PRICE).await;
    }
    let mut transactions = BTreeSet::new();
    for request in &requests {
        let settled = engine.settle(request).await.unwrap();
        assert!(!settled.success);
        let reason = settled.error_reason.as_deref();
        assert_eq!(reason, Some(Reason::SETTLED_BY_OTHER_TRANSACTION.code()));
        transactions.insert(settled.transaction);
    }
    assert_eq!(transactions.len(), requests.len());
    assert_eq!(setting.received().await, Amount::from(3 * PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn permit_that_its_owner_invalidated_is_refused() {
    let setting = approved().await;
    let engine = setting.engine().await;
    let nonce = U256::from(0x1234);
    let request = permit_by(&Setting::buyer(), |permit| permit.nonce = nonce);
    let invalidate = invalidateUnorderedNoncesCall {
        wordPos: nonce >> 8,
        mask: U256::from(1) << 0x34,
    };
    let buyer = Setting::buyer().address;
    let sent = setting.local.send(buyer, PERMIT2, invalidate.abi_encode());
    sent.await.unwrap();
    let settled = engine.settle(&request).await.unwrap();
    assert_eq!(
        settled.error_reason.as_deref(),
        Some("permit2_invalid_nonce")
    );
    let message = settled.error_message.unwrap();
    assert!(message.contains("cancelled by its payer"), "{message}");
    assert_eq!(setting.received().await, Amount::ZERO);
}

/// A payer approved one payment and signed many. Each passed its own simulation, and all but one
/// reverted at the operator's cost.
#[tokio::test(flavor = "multi_thread")]
async fn permits_beyond_the_allowance_cost_no_gas() {
    let setting = Setting::start().await;
    let buyer = Setting::buyer().address;
    let approve = approveCall {
        spender: PERMIT2,
        amount: U256::from(PRICE),
    };
    let sent = setting.local.send(buyer, USDC, approve.abi_encode());
    sent.await.unwrap();
    let engine = setting.engine().await;
    let requests = [(); 8].map(|()| signed_for(|_| ()));
    let requests = futures_util::future::join_all(requests).await;
    let settled = requests.iter().map(|request| engine.settle(request));
    let settled = futures_util::future::join_all(settled).await;
    let successes = settled.iter().flatten().filter(|answer| answer.success);
    assert_eq!(successes.count(), 1);
    assert_eq!(setting.received().await, Amount::from(PRICE));
    let signer = Setting::signers()[0].address;
    assert_eq!(
        setting.sent(signer).await,
        1,
        "one transaction for one payment"
    );
}

/// Payments by both methods between the same accounts have equal transfers in their logs.
#[tokio::test(flavor = "multi_thread")]
async fn equal_payments_by_both_methods_settle_once_each() {
    let setting = approved().await;
    let engine = setting.engine().await;
    let requests = [
        signed_for(|_| ()).await,
        Setting::request().await,
        signed_for(|_| ()).await,
        Setting::request().await,
    ];
    let settled = requests.each_ref().map(|request| engine.settle(request));
    for answer in futures_util::future::join_all(settled).await {
        let answer = answer.unwrap();
        assert!(answer.success, "{answer:?}");
    }
    assert_eq!(setting.received().await, Amount::from(4 * PRICE));
}

/// A buyer whose answer was lost asks the chain.
#[tokio::test(flavor = "multi_thread")]
async fn payer_with_a_node_learns_the_state_of_a_permit() {
    let setting = approved().await;
    let network = quittance_evm::known::network("base-sepolia").unwrap();
    let url = setting.local.url().parse().unwrap();
    let payer = Setting::payer().with_rpc(&network, &[url]).unwrap();
    let state = async |request: &PaymentRequest| {
        let asset = USDC.to_checksum(None);
        let end = Timestamp::from_secs(u64::MAX);
        let state = payer.authorization_state(network.id(), &asset, &request.payload, end);
        state.await
    };
    let fresh = signed_for(|_| ()).await;
    assert_eq!(state(&fresh).await, AuthorizationState::Usable);
    settle_elsewhere(&setting, &fresh, PRICE).await;
    assert!(matches!(
        state(&fresh).await,
        AuthorizationState::Used(Some(_))
    ));
    let past = setting.block_time().await - 100;
    let expired = permit_by(&Setting::buyer(), |permit| {
        permit.deadline = U256::from(past)
    });
    assert_eq!(state(&expired).await, AuthorizationState::Expired);
}
