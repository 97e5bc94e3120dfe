//! The example scheme, which is one file, has the properties of every scheme.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Bytes, U256};
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::{Amount, Clock, Payer, PaymentRequest, Reason, Scheme, SystemClock};
use quittance_engine::Engine;
use quittance_evm::Evm;
use quittance_examples::AtLeast;
use quittance_tests::conformance::scheme::SchemeFixture;
use quittance_tests::evm::{PRICE, Setting};
use serde_json::json;

struct AtLeastFixture(Setting);

/// A payment of `authorized` for requirements of `required`.
async fn payment(authorized: u64, required: u64) -> PaymentRequest {
    let recipient = Setting::requirements().pay_to;
    payment_to(recipient, authorized, required).await
}

async fn payment_to(pay_to: String, authorized: u64, required: u64) -> PaymentRequest {
    let mut requirements = Setting::requirements();
    requirements.pay_to = pay_to;
    requirements.amount = authorized.to_string();
    let paid = Setting::payer()
        .pay(&requirements, None, SystemClock.now())
        .await;
    let payload = paid.unwrap().payload;
    requirements.scheme = "at-least".to_owned();
    requirements.amount = required.to_string();
    quittance_tests::request(
        quittance_tests::payload_of(&requirements, payload),
        &requirements,
    )
}

#[async_trait]
impl SchemeFixture for AtLeastFixture {
    type Chain = Evm;

    const PRICE: Amount = Amount::new(U256::from_limbs([PRICE, 0, 0, 0]));

    async fn new() -> Self {
        Self(Setting::start().await)
    }

    fn scheme(&self) -> Arc<dyn Scheme<Evm>> {
        Arc::new(AtLeast::new(&Evm::new(self.0.config()).unwrap()))
    }

    async fn engine(&self) -> Engine {
        let evm = Evm::new(self.0.config()).unwrap();
        let scheme = Arc::new(AtLeast::new(&evm));
        let builder = Engine::builder(self.0.journal().await).chain(evm, vec![scheme]);
        builder
            .settle_wait(Duration::from_secs(2))
            .start()
            .await
            .unwrap()
    }

    async fn request(&self) -> PaymentRequest {
        payment(PRICE, PRICE).await
    }

    async fn alike(&self) -> [PaymentRequest; 2] {
        let accounts = quittance_devnet::Evm::accounts();
        let nonce = alloy::signers::local::PrivateKeySigner::random().to_bytes();
        let expires = SystemClock.now().secs() + 60;
        [2, 3].map(|at: usize| {
            let exact = Setting::request_by(&accounts[at], nonce, 0, expires);
            let mut requirements = Setting::requirements();
            requirements.scheme = "at-least".to_owned();
            let payload = quittance_tests::payload_of(&requirements, exact.payload);
            quittance_tests::request(payload, &requirements)
        })
    }

    fn twin(&self, request: &PaymentRequest) -> PaymentRequest {
        let mut payload = request.payload.tree();
        let signature: Bytes = payload["signature"].as_str().unwrap().parse().unwrap();
        let mut bytes = signature.to_vec();
        // v has two encodings.
        bytes[64] = if bytes[64] >= 27 {
            bytes[64] - 27
        } else {
            bytes[64] + 27
        };
        payload["signature"] = json!(Bytes::from(bytes));
        let mut requirements = Setting::requirements();
        requirements.scheme = "at-least".to_owned();
        let payload = quittance_tests::payload_of(&requirements, Object::of(&payload).unwrap());
        quittance_tests::request(payload, &requirements)
    }

    async fn spoiled(&self) -> Vec<(&'static str, PaymentRequest, Reason)> {
        let too_little = Reason::new("invalid_at_least_evm_too_little");
        vec![("too little", payment(PRICE - 1, PRICE).await, too_little)]
    }

    async fn pointless(&self) -> [(PaymentRequest, Reason); 2] {
        let buyer = Setting::buyer().address.to_string();
        let to_itself = payment_to(buyer, PRICE, PRICE).await;
        [
            (payment(0, 0).await, Reason::AMOUNT_TOO_LOW),
            (to_itself, Reason::INVALID_PAYMENT_REQUIREMENTS),
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

    /// The example does not search for the transaction that used an authorization.
    async fn settle_elsewhere(&self, _: &PaymentRequest) -> bool {
        false
    }
}

quittance_tests::scheme_conformance!(AtLeastFixture);

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_may_pay_more_than_was_asked() {
    use quittance_core::Facilitator;
    let fixture = AtLeastFixture::new().await;
    let answer = fixture
        .engine()
        .await
        .settle(&payment(PRICE + 5, PRICE).await)
        .await
        .unwrap();
    assert!(answer.success, "{answer:?}");
    assert_eq!(fixture.received().await, Amount::from(PRICE + 5));
}
