//! Restarts of the seller: a sale whose answer is lost with its process is continued by the next
//! one, and no payment buys two responses.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use quittance_core::json::Object;
use quittance_core::wire::{
    PaymentPayload, SettleResponse, SupportedResponse, VerifyResponse, header,
};
use quittance_core::{
    Amount, Facilitator, FacilitatorError, Flow, Payer as _, PaymentRequest, Reason,
};
use quittance_seller::{PaymentLayer, PaymentService};
use quittance_testing::scripted::{ScriptedFacilitator, TestOffer, requirements};
use quittance_testing::world::{Environment, PRICE, World};
use serde_json::json;
use tokio::time::{advance, timeout};
use tower::util::BoxCloneSyncService;
use tower::{Layer as _, ServiceExt as _, service_fn};

const SECRET: [u8; 32] = [7; 32];

/// A facilitator whose seller dies at this settle request, once it is answered: the seller never
/// goes on.
struct Last {
    inner: Arc<dyn Facilitator>,
    settles: AtomicUsize,
    dies_at: usize,
}

#[async_trait]
impl Facilitator for Last {
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        self.inner.verify(request).await
    }

    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        let answer = self.inner.settle(request).await;
        if self.settles.fetch_add(1, Ordering::SeqCst) + 1 == self.dies_at {
            assert!(answer.unwrap().success);
            std::future::pending().await
        } else {
            answer
        }
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        self.inner.supported().await
    }
}

type Handler = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;
type Shop = PaymentService<Handler>;

/// A new process of the seller. It counts how often its handler runs.
fn shop(layer: PaymentLayer, runs: &Arc<AtomicUsize>) -> Shop {
    let runs = Arc::clone(runs);
    let handler = service_fn(move |_: Request<Body>| {
        runs.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok(Response::new(Body::from("sold"))))
    });
    layer.layer(BoxCloneSyncService::new(handler))
}

fn ask(path: &str, payment: &str) -> Request<Body> {
    let request = Request::get(format!("http://shop.example{path}"));
    let request = request.header(header::PAYMENT_SIGNATURE, payment);
    request.body(Body::empty()).unwrap()
}

/// The status, and the reason in the receipt.
async fn buy(shop: &Shop, path: &str, payment: &str) -> (StatusCode, Option<String>) {
    let response = shop.clone().oneshot(ask(path, payment)).await.unwrap();
    let receipt = response.headers().get(header::PAYMENT_RESPONSE);
    let receipt: Option<SettleResponse> =
        receipt.map(|value| header::decode("receipt", value.as_bytes()).unwrap());
    let reason = receipt.and_then(|receipt| receipt.error_reason);
    let status = response.status();
    // A response that is not read is stored, and delivered again.
    response.into_body().collect().await.unwrap();
    (status, reason)
}

fn sold() -> (StatusCode, Option<String>) {
    (StatusCode::OK, None)
}

async fn payment(world: &World, flow: Flow) -> String {
    let mut accepted = world.requirements();
    if flow != Flow::Authorization {
        let extra = json!({ "paymentFlow": flow.name() });
        accepted.extra = Some(Object::of(&extra).unwrap());
    }
    let payer = world.payer(0);
    let signed = payer.pay(&accepted, None, world.now()).await;
    let payload = signed.unwrap().payload;
    header::encode(&PaymentPayload::new(accepted, payload))
}

/// attacks.md 129 and 237: the seller dies between a settlement and its answer.
#[tokio::test(flavor = "multi_thread")]
async fn sale_of_a_seller_that_died_is_served_and_paid_once() {
    let deaths = [
        (Flow::Authorization, 1),
        (Flow::Upfront, 1),
        (Flow::Escrow, 1),
        (Flow::Escrow, 2),
    ];
    for (flow, dies_at) in deaths {
        let case = format!("{flow:?} {dies_at}");
        let environment = Environment::new();
        let (world, engine) = (&environment.world, environment.engine().await);
        let payment = payment(world, flow).await;
        let offer = || world.offer().with_flow(flow);
        let alive = || PaymentLayer::new(Arc::new(engine.clone())).accept(offer());
        let runs = Arc::default();

        let settles = AtomicUsize::new(0);
        let inner = Arc::new(engine.clone());
        let last = Last {
            inner,
            settles,
            dies_at,
        };
        let layer = PaymentLayer::new(Arc::new(last)).accept(offer());
        let first = shop(layer.sale_secret(SECRET), &Arc::default());
        let answer = timeout(Duration::from_secs(2), buy(&first, "/", &payment)).await;
        assert!(answer.is_err(), "{case}: {answer:?}");
        assert_eq!(environment.received(), Amount::from(PRICE), "{case}");

        // Neither another request, nor a process without the secret.
        let duplicate = Some(Reason::DUPLICATE_SETTLEMENT.code().to_owned());
        let others = [
            (shop(alive().sale_secret(SECRET), &runs), "/other"),
            (shop(alive().sale_secret([8; 32]), &runs), "/"),
            (shop(alive(), &runs), "/"),
        ];
        for (other, path) in others {
            let (status, reason) = buy(&other, path, &payment).await;
            assert_eq!(status, StatusCode::PAYMENT_REQUIRED, "{case} {path}");
            assert!(
                reason.is_none() || reason == duplicate,
                "{case} {path}: {reason:?}"
            );
        }
        assert_eq!(runs.load(Ordering::SeqCst), 0, "{case}");

        let next = shop(alive().sale_secret(SECRET), &runs);
        assert_eq!(buy(&next, "/", &payment).await, sold(), "{case}");
        let again = (StatusCode::PAYMENT_REQUIRED, duplicate);
        assert_eq!(buy(&next, "/", &payment).await, again, "{case}");
        assert_eq!(runs.load(Ordering::SeqCst), 1, "{case}");
        assert_eq!(environment.received(), Amount::from(PRICE), "{case}");
    }
}

/// A facilitator that has reported the success of every payment to the same sale before.
fn repeating(verify: bool) -> Arc<ScriptedFacilitator> {
    let extra = Object::of(&json!({ "successReportedBefore": true })).unwrap();
    let facilitator = ScriptedFacilitator::new();
    facilitator.set_settle(Ok(SettleResponse {
        extra: Some(extra.clone()),
        ..SettleResponse::settled("test:1", None, "0x1")
    }));
    if verify {
        facilitator.set_verify(Ok(VerifyResponse {
            extra: Some(extra),
            ..VerifyResponse::valid(None)
        }));
    }
    facilitator
}

fn scripted_payment(number: u64, flow: Flow) -> String {
    let mut accepted = serde_json::to_value(requirements()).unwrap();
    if flow != Flow::Authorization {
        accepted["extra"] = json!({ "paymentFlow": flow.name() });
    }
    let payload = json!({ "number": number });
    header::encode(&json!({ "x402Version": 2, "accepted": accepted, "payload": payload }))
}

/// A process cannot know which sales an earlier one has answered. So it continues them only for
/// some minutes, and without a secret never.
#[tokio::test(start_paused = true)]
async fn earlier_sales_are_continued_right_after_a_start_only() {
    for flow in Flow::ALL {
        let facilitator = repeating(true);
        let offer = || TestOffer::new().with_flow(flow);
        let layer = || PaymentLayer::new(facilitator.clone()).accept(offer());
        let runs = Arc::default();
        let with_secret = shop(layer().sale_secret(SECRET), &runs);
        let without = shop(layer(), &runs);
        let (status, _) = buy(&without, "/", &scripted_payment(1, flow)).await;
        assert_eq!(
            (status.as_u16(), runs.load(Ordering::SeqCst)),
            (402, 0),
            "{flow:?}"
        );
        assert_eq!(
            buy(&with_secret, "/", &scripted_payment(1, flow)).await,
            sold()
        );
        advance(Duration::from_secs(599)).await;
        assert_eq!(
            buy(&with_secret, "/", &scripted_payment(2, flow)).await,
            sold()
        );
        advance(Duration::from_secs(1)).await;
        let (status, reason) = buy(&with_secret, "/", &scripted_payment(3, flow)).await;
        assert_eq!(
            (status.as_u16(), runs.load(Ordering::SeqCst)),
            (402, 2),
            "{flow:?}"
        );
        assert_eq!(reason.as_deref(), Some("duplicate_settlement"), "{flow:?}");
    }
}

/// Two processes with one secret serve one payment at once: both verify it, and one has settled it
/// when the other asks.
#[tokio::test(start_paused = true)]
async fn of_two_processes_with_one_secret_one_answers() {
    let runs = Arc::default();
    let layer = PaymentLayer::new(repeating(false)).accept(TestOffer::new());
    let late = shop(layer.sale_secret(SECRET), &runs);
    let payment = scripted_payment(1, Flow::Authorization);
    let (status, reason) = buy(&late, "/", &payment).await;
    assert_eq!(status, StatusCode::PAYMENT_REQUIRED);
    assert_eq!(reason.as_deref(), Some("duplicate_settlement"));
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}
