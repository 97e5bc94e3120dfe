//! `exact` by Permit2 has the properties of every scheme, on the real Permit2 contract.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use alloy::hex::encode_prefixed;
use alloy::primitives::{Address, Bytes, U256, uint};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolStruct, eip712_domain};
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::wire::PaymentRequirements;
use quittance_core::{
    Amount, AuthorizationState, Clock, Facilitator, Payer, PaymentRequest, Reason, Scheme,
    SystemClock, Timestamp,
};
use quittance_devnet::{Account, EXACT_PERMIT2_PROXY, PERMIT2, USDC};
use quittance_engine::{Engine, EngineBuilder};
use quittance_evm::{Evm, Exact, ExactPayer, reason};
use quittance_testing::faults::{EngineParts, FaultySchemeFixture, PlantedFault, SchemeFault};
use quittance_tests::conformance::scheme::{self, SchemeFixture};
use quittance_tests::evm::{PRICE, Setting, set, set_required, wrapped};
use quittance_tests::mutations::{NOT_CAUGHT_IN_EXACT, assert_caught};
use serde_json::{Value, json};

alloy::sol! {
    struct TokenPermissions { address token; uint256 amount; }
    struct Witness { address to; uint256 validAfter; }
    struct PermitWitnessTransferFrom {
        TokenPermissions permitted; address spender; uint256 nonce; uint256 deadline; Witness witness;
    }
    struct PermitTransferFrom { TokenPermissions permitted; uint256 nonce; uint256 deadline; }
    function settle(
        PermitTransferFrom permit, address owner, Witness witness, bytes signature
    ) external;
    function invalidateUnorderedNonces(uint256 wordPos, uint256 mask) external;
    function approve(address spender, uint256 amount) external returns (bool);
}

struct Permit2Fixture(Setting);

/// A local chain on which the buyers have approved Permit2.
async fn approved() -> Setting {
    let setting = Setting::start().await;
    for buyer in [
        Setting::buyer(),
        quittance_devnet::Evm::accounts()[3].clone(),
    ] {
        let approved = setting.local.approve_permit2(USDC, buyer.address);
        approved.await.unwrap();
    }
    setting
}

fn requirements() -> PaymentRequirements {
    let extra = json!({ "name": "USDC", "version": "2", "assetTransferMethod": "permit2" });
    PaymentRequirements {
        extra: Some(Object::of(&extra).unwrap()),
        ..Setting::requirements()
    }
}

/// A request for other requirements, properly signed.
async fn signed_for(change: impl FnOnce(&mut PaymentRequirements)) -> PaymentRequest {
    let mut requirements = requirements();
    change(&mut requirements);
    quittance_tests::pay(&Setting::payer(), &requirements).await
}

/// A permit signed by this account, with a part of it changed before it is signed.
fn permit_by(
    buyer: &Account,
    change: impl FnOnce(&mut PermitWitnessTransferFrom),
) -> PaymentRequest {
    let nonce = PrivateKeySigner::random().to_bytes();
    let mut permit = PermitWitnessTransferFrom {
        permitted: TokenPermissions {
            token: USDC,
            amount: U256::from(PRICE),
        },
        spender: EXACT_PERMIT2_PROXY,
        nonce: U256::from_be_bytes(nonce.0),
        deadline: U256::from(SystemClock.now().secs() + 60),
        witness: Witness {
            to: Setting::seller().address,
            validAfter: U256::ZERO,
        },
    };
    change(&mut permit);
    let domain = eip712_domain! {
        name: "Permit2", chain_id: 84532, verifying_contract: PERMIT2,
    };
    let digest = permit.eip712_signing_hash(&domain);
    let signature = buyer.signer.sign_hash_sync(&digest).unwrap();
    let payload = json!({
        "signature": encode_prefixed(signature.as_bytes()),
        "permit2Authorization": {
            "from": buyer.address,
            "permitted": {
                "token": permit.permitted.token, "amount": permit.permitted.amount.to_string(),
            },
            "spender": permit.spender,
            "nonce": permit.nonce.to_string(),
            "deadline": permit.deadline.to_string(),
            "witness": {
                "to": permit.witness.to, "validAfter": permit.witness.validAfter.to_string(),
            },
        }
    });
    let payload = Object::of(&payload).unwrap();
    let requirements = requirements();
    quittance_tests::request(
        quittance_tests::payload_of(&requirements, payload),
        &requirements,
    )
}

const SIGNATURE: &str = "/paymentPayload/payload/signature";
const PERMIT: &str = "/paymentPayload/payload/permit2Authorization";

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
        let accounts = quittance_devnet::Evm::accounts();
        let nonce = U256::from_be_bytes(PrivateKeySigner::random().to_bytes().0);
        [2, 3].map(|at: usize| permit_by(&accounts[at], |permit| permit.nonce = nonce))
    }

    /// The other s, which Permit2 would accept.
    fn twin(&self, request: &PaymentRequest) -> PaymentRequest {
        const ORDER: U256 =
            uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);
        let payload = request.payload.tree();
        let mut bytes = alloy::hex::decode(payload["signature"].as_str().unwrap()).unwrap();
        let s = ORDER - U256::from_be_slice(&bytes[32..64]);
        bytes[32..64].copy_from_slice(&s.to_be_bytes::<32>());
        bytes[64] = 55 - bytes[64];
        set(request, SIGNATURE, json!(encode_prefixed(bytes)))
    }

    /// The rows 31, 65 and 66 of docs/attacks.md are among them.
    async fn spoiled(&self) -> Vec<(&'static str, PaymentRequest, Reason)> {
        let good = self.request().await;
        let buyer = Setting::buyer();
        let now = SystemClock.now().secs();
        let stranger = ExactPayer::new(PrivateKeySigner::random());
        let unapproved = ExactPayer::new(quittance_devnet::Evm::accounts()[4].signer.clone());
        let other = quittance_devnet::Evm::accounts()[5].address;
        let permit = |change: fn(&mut PermitWitnessTransferFrom)| permit_by(&buyer, change);
        let until =
            |deadline: u64| permit_by(&buyer, |permit| permit.deadline = U256::from(deadline));
        vec![
            (
                "an EIP-3009 payload",
                {
                    let eip3009 = Setting::request().await;
                    set(
                        &good,
                        "/paymentPayload/payload",
                        Value::Object(eip3009.payload.tree()),
                    )
                },
                reason::UNSUPPORTED_PAYLOAD_TYPE,
            ),
            (
                "a permit where EIP-3009 is required",
                set_required(&good, "extra", json!({ "name": "USDC", "version": "2" })),
                reason::UNSUPPORTED_PAYLOAD_TYPE,
            ),
            (
                "another spender",
                permit(|permit| permit.spender = Address::repeat_byte(7)),
                reason::PERMIT2_SPENDER,
            ),
            (
                "another token",
                permit(|permit| permit.permitted.token = Address::repeat_byte(7)),
                reason::PERMIT2_TOKEN_MISMATCH,
            ),
            (
                "another recipient in the witness",
                permit(|permit| permit.witness.to = Address::repeat_byte(7)),
                reason::PERMIT2_RECIPIENT_MISMATCH,
            ),
            (
                "less than required",
                permit(|permit| permit.permitted.amount = U256::from(PRICE - 1)),
                reason::PERMIT2_AMOUNT_MISMATCH,
            ),
            (
                "more than required",
                permit(|permit| permit.permitted.amount = U256::from(PRICE + 1)),
                reason::PERMIT2_AMOUNT_MISMATCH,
            ),
            (
                "for another seller",
                set_required(&good, "payTo", json!(other)),
                reason::PERMIT2_RECIPIENT_MISMATCH,
            ),
            ("expired", until(now - 1), reason::PERMIT2_DEADLINE_EXPIRED),
            (
                "about to expire",
                until(now + 3),
                reason::PERMIT2_DEADLINE_EXPIRED,
            ),
            (
                "valid for years",
                until(now + 20 * 365 * 24 * 3600),
                reason::PERMIT2_DEADLINE_EXPIRED,
            ),
            (
                "not yet valid",
                permit(|permit| permit.witness.validAfter = permit.deadline),
                reason::PERMIT2_NOT_YET_VALID,
            ),
            (
                "a payer without money",
                quittance_tests::pay(&stranger, &requirements()).await,
                reason::PERMIT2_INSUFFICIENT_BALANCE,
            ),
            (
                "a payer that did not approve Permit2",
                quittance_tests::pay(&unapproved, &requirements()).await,
                reason::PERMIT2_ALLOWANCE_REQUIRED,
            ),
            (
                "an amount that was not signed",
                set(&good, &format!("{PERMIT}/permitted/amount"), json!("9999")),
                reason::PERMIT2_SIGNATURE,
            ),
            (
                "a nonce that was not signed",
                set(&good, &format!("{PERMIT}/nonce"), json!("9999")),
                reason::PERMIT2_SIGNATURE,
            ),
            (
                "an account that is not deployed",
                set(&good, SIGNATURE, json!(wrapped())),
                reason::FACTORY_NOT_ALLOWED,
            ),
            (
                "an empty signature",
                set(&good, SIGNATURE, json!("0x")),
                reason::PERMIT2_SIGNATURE,
            ),
            ("a high s", self.twin(&good), reason::PERMIT2_SIGNATURE),
        ]
    }

    async fn pointless(&self) -> [(PaymentRequest, Reason); 2] {
        let nothing = signed_for(|terms| terms.amount = "0".to_owned()).await;
        let to_itself = signed_for(|terms| terms.pay_to = Setting::buyer().address.to_string());
        [
            (nothing, Reason::AMOUNT_TOO_LOW),
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

    async fn settle_elsewhere(&self, request: &PaymentRequest) -> bool {
        settle_elsewhere(&self.0, request).await;
        true
    }
}

quittance_tests::scheme_conformance!(Permit2Fixture);

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

/// Settles a permit as any other account can.
async fn settle_elsewhere(setting: &Setting, request: &PaymentRequest) {
    let payload = request.payload.tree();
    let permit = &payload["permit2Authorization"];
    let address = |value: &Value| -> Address { serde_json::from_value(value.clone()).unwrap() };
    let number = |value: &Value| -> U256 { value.as_str().unwrap().parse().unwrap() };
    let call = settleCall {
        permit: PermitTransferFrom {
            permitted: TokenPermissions {
                token: address(&permit["permitted"]["token"]),
                amount: number(&permit["permitted"]["amount"]),
            },
            nonce: number(&permit["nonce"]),
            deadline: number(&permit["deadline"]),
        },
        owner: address(&permit["from"]),
        witness: Witness {
            to: address(&permit["witness"]["to"]),
            validAfter: number(&permit["witness"]["validAfter"]),
        },
        signature: serde_json::from_value::<Bytes>(payload["signature"].clone()).unwrap(),
    };
    let sender = quittance_devnet::Evm::accounts()[6].address;
    let sent = setting
        .local
        .send(sender, EXACT_PERMIT2_PROXY, call.abi_encode());
    sent.await.unwrap();
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
        settle_elsewhere(&setting, request).await;
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
    settle_elsewhere(&setting, &fresh).await;
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
