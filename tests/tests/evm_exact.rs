//! `exact` on EVM chains has the properties of every scheme.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{U256, uint};
use async_trait::async_trait;
use quittance_core::wire::PaymentRequirements;
use quittance_core::{Amount, Clock, PaymentRequest, Reason, Scheme, SystemClock};

use quittance_engine::{Engine, EngineBuilder};
use quittance_evm::{Evm, Exact, reason};
use quittance_testing::faults::{
    ChainFault, EngineParts, FaultySchemeFixture, PlantedFault, SchemeFault,
};
use quittance_tests::conformance::scheme::{self, SchemeFixture};
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::mutations::{NOT_CAUGHT_IN_EXACT, assert_caught};
use serde_json::{Value, json};

struct ExactFixture(Setting);

const ORDER: U256 = uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);

/// The request with a change in its text that was not signed again.
fn edited(request: &PaymentRequest, edit: impl FnOnce(&mut Value)) -> PaymentRequest {
    let mut tree: Value = serde_json::from_str(request.text()).unwrap();
    edit(&mut tree);
    PaymentRequest::decode(tree.to_string().as_bytes()).unwrap()
}

/// A request for other requirements, correctly signed.
async fn signed_for(change: impl FnOnce(&mut PaymentRequirements)) -> PaymentRequest {
    let mut requirements = Setting::requirements();
    change(&mut requirements);
    quittance_tests::pay(&Setting::payer(), &requirements).await
}

fn set(request: &PaymentRequest, path: &str, value: Value) -> PaymentRequest {
    edited(request, |tree| *tree.pointer_mut(path).unwrap() = value)
}

#[async_trait]
impl SchemeFixture for ExactFixture {
    type Chain = Evm;

    const PRICE: Amount = Amount::new(U256::from_limbs([PRICE, 0, 0, 0]));

    async fn new() -> Self {
        Self(Setting::start().await)
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
        Setting::request().await
    }

    async fn alike(&self) -> [PaymentRequest; 2] {
        let accounts = quittance_devnet::Evm::accounts();
        let nonce = alloy::signers::local::PrivateKeySigner::random().to_bytes();
        let expires = SystemClock.now().secs() + 60;
        [2, 3].map(|at: usize| Setting::request_by(&accounts[at], nonce, 0, expires))
    }

    /// The other s, which is the same signature (attacks.md 14).
    fn twin(&self, request: &PaymentRequest) -> PaymentRequest {
        edited(request, |tree| {
            let signature = tree
                .pointer_mut("/paymentPayload/payload/signature")
                .unwrap();
            let mut bytes = alloy::hex::decode(signature.as_str().unwrap()).unwrap();
            let s = ORDER - U256::from_be_slice(&bytes[32..64]);
            bytes[32..64].copy_from_slice(&s.to_be_bytes::<32>());
            bytes[64] = 55 - bytes[64];
            *signature = json!(alloy::hex::encode_prefixed(bytes));
        })
    }

    async fn spoiled(&self) -> Vec<(&'static str, PaymentRequest, Reason)> {
        let good = Setting::request().await;
        let now = SystemClock.now().secs();
        let poor =
            quittance_evm::ExactPayer::new(alloy::signers::local::PrivateKeySigner::random());
        let signature = "/paymentPayload/payload/signature";
        let mut all = vec![
            (
                "another scheme",
                set(&good, "/paymentPayload/accepted/scheme", json!("upto")),
                reason::SCHEME,
            ),
            (
                "another network",
                set(&good, "/paymentPayload/accepted/network", json!("eip155:1")),
                reason::NETWORK_MISMATCH,
            ),
            (
                "an unknown network",
                edited(&good, |tree| {
                    tree["paymentRequirements"]["network"] = json!("eip155:999");
                    tree["paymentPayload"]["accepted"]["network"] = json!("eip155:999");
                }),
                Reason::INVALID_NETWORK,
            ),
            (
                "an unknown scheme",
                set(&good, "/paymentRequirements/scheme", json!("barter")),
                Reason::UNSUPPORTED_SCHEME,
            ),
            (
                "no EIP-712 domain",
                edited(&good, |tree| {
                    tree["paymentRequirements"]
                        .as_object_mut()
                        .unwrap()
                        .remove("extra");
                }),
                reason::MISSING_EIP712_DOMAIN,
            ),
            (
                "no EIP-712 version",
                set(
                    &good,
                    "/paymentRequirements/extra",
                    json!({ "name": "USDC" }),
                ),
                reason::MISSING_EIP712_DOMAIN,
            ),
            (
                "another token name",
                set(&good, "/paymentRequirements/extra/name", json!("USD Coin")),
                reason::TOKEN_NAME_MISMATCH,
            ),
            (
                "another token version",
                set(&good, "/paymentRequirements/extra/version", json!("1")),
                reason::TOKEN_VERSION_MISMATCH,
            ),
            (
                "an echo of less money",
                set(&good, "/paymentPayload/accepted/amount", json!("1")),
                Reason::INVALID_PAYMENT_REQUIREMENTS,
            ),
            (
                "an echo of another recipient",
                set(
                    &good,
                    "/paymentPayload/accepted/payTo",
                    json!(Setting::buyer().address),
                ),
                Reason::INVALID_PAYMENT_REQUIREMENTS,
            ),
            (
                "no authorization",
                set(
                    &good,
                    "/paymentPayload/payload",
                    json!({ "signature": "0x00" }),
                ),
                reason::UNSUPPORTED_PAYLOAD_TYPE,
            ),
            (
                "a signature of zeros",
                set(&good, signature, json!(format!("0x{}", "00".repeat(65)))),
                reason::SIGNATURE,
            ),
            (
                "an empty signature",
                set(&good, signature, json!("0x")),
                reason::SIGNATURE,
            ),
            (
                "a signature of 64 bytes",
                edited(&good, |tree| {
                    let text = tree.pointer_mut(signature).unwrap();
                    *text = json!(text.as_str().unwrap()[..130]);
                }),
                reason::SIGNATURE,
            ),
            (
                "a signature of 66 bytes",
                edited(&good, |tree| {
                    let text = tree.pointer_mut(signature).unwrap();
                    *text = json!(format!("{}00", text.as_str().unwrap()));
                }),
                reason::SIGNATURE,
            ),
            (
                "a payer without money",
                quittance_tests::pay(&poor, &Setting::requirements()).await,
                reason::INSUFFICIENT_BALANCE,
            ),
            (
                "expired",
                signed_for(|terms| terms.max_timeout_seconds = 0).await,
                reason::VALID_BEFORE,
            ),
            (
                "about to expire",
                signed_for(|terms| terms.max_timeout_seconds = 4).await,
                reason::VALID_BEFORE,
            ),
            (
                "a recipient that is the token",
                signed_for(|terms| terms.pay_to = terms.asset.clone()).await,
                Reason::INVALID_PAYMENT_REQUIREMENTS,
            ),
            (
                "a recipient without an account",
                signed_for(|terms| terms.pay_to = format!("0x{:040x}", 9)).await,
                Reason::INVALID_PAYMENT_REQUIREMENTS,
            ),
            (
                "a recipient that is the facilitator",
                signed_for(|terms| terms.pay_to = Setting::signers()[0].address.to_string()).await,
                Reason::INVALID_PAYMENT_REQUIREMENTS,
            ),
            (
                "a token that is not listed",
                edited(&good, |tree| {
                    let unlisted = json!(format!("0x{:040x}", 0xdead_beef_u64));
                    tree["paymentRequirements"]["asset"] = unlisted.clone();
                    tree["paymentPayload"]["accepted"]["asset"] = unlisted;
                }),
                Reason::UNSUPPORTED_ASSET,
            ),
            (
                "a value that was not signed",
                set(
                    &good,
                    "/paymentPayload/payload/authorization/value",
                    json!("9999"),
                ),
                reason::SIGNATURE,
            ),
            ("a high s", self.twin(&good), reason::SIGNATURE),
        ];
        // A payment presented for other requirements: its signature is valid, and the requirements
        // differ.
        let more = set(
            &set(&good, "/paymentRequirements/amount", json!("10001")),
            "/paymentPayload/accepted/amount",
            json!("10001"),
        );
        all.push(("less than required", more, reason::VALUE_MISMATCH));
        let less = set(
            &set(&good, "/paymentRequirements/amount", json!("9999")),
            "/paymentPayload/accepted/amount",
            json!("9999"),
        );
        all.push(("more than required", less, reason::VALUE_MISMATCH));
        let other = json!(quittance_devnet::Evm::accounts()[5].address);
        let elsewhere = set(
            &set(&good, "/paymentRequirements/payTo", other.clone()),
            "/paymentPayload/accepted/payTo",
            other,
        );
        all.push((
            "for another recipient",
            elsewhere,
            reason::RECIPIENT_MISMATCH,
        ));
        let window = Setting::request_within;
        all.push((
            "not yet valid",
            window(now + 60, now + 120),
            reason::VALID_AFTER,
        ));
        all.push((
            "valid for years",
            window(0, now + 20 * 365 * 24 * 3600),
            reason::VALID_BEFORE,
        ));
        all.push((
            "valid never",
            window(now + 50, now + 20),
            reason::VALID_AFTER,
        ));
        all
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
        self.0.settle_elsewhere(request).await;
        true
    }
}

quittance_tests::scheme_conformance!(ExactFixture);

mod life {
    use super::ExactFixture;
    use quittance_tests::conformance::life::OneAct;
    quittance_tests::life_conformance!(OneAct<ExactFixture>);
}

#[async_trait]
impl EngineParts for ExactFixture {
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
    let properties = scheme::properties::<FaultySchemeFixture<ExactFixture>>();
    // The suite of the chain does not search for used authorizations.
    let faults = std::iter::once(PlantedFault::Chain(ChainFault::FindsNothing));
    let faults = faults.chain(SchemeFault::ALL.map(PlantedFault::Scheme));
    assert_caught(&properties, faults, &NOT_CAUGHT_IN_EXACT).await;
}
