//! The payment flows: in every case, who is asked what, in which order, and whether the handler
//! runs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use quittance_core::json::Object;
use quittance_core::wire::{
    PaymentPayload, PaymentRequirements, SettleResponse, SupportedKind, VerifyResponse, header,
};
use quittance_core::{
    Amount, Fault, FaultKind, Flow, Network, Offer, OfferError, Payer as _, PaymentRequest, Phase,
    Reason, SaleId,
};
use quittance_seller::{Charge, PaymentLayer};
use quittance_testing::scripted::{
    ScriptedFacilitator, SettleResult, TestOffer, failed, requirements,
};
use quittance_testing::world::Environment;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower::util::BoxCloneSyncService;
use tower::{Layer as _, ServiceExt as _, service_fn};

/// The price of [`TestOffer`].
const PRICE: &str = "10000";

/// What the facilitator answers to one request, with all of its repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Success,
    /// A verdict that names no transaction.
    Refused,
    /// A verdict that names a transaction.
    Failed,
    /// Success was reported to another caller.
    Duplicate,
    Pending,
    PendingThenSuccess,
    /// A fault that a retry cannot mend in time.
    Fault,
    FaultThenSuccess,
    /// A verdict of a facilitator that may have attempted an earlier request.
    FaultThenRefused,
    /// No answer arrives, and the outcome is unknown.
    Lost,
}

impl Answer {
    const ALL: [Self; 10] = [
        Self::Success,
        Self::Refused,
        Self::Failed,
        Self::Duplicate,
        Self::Pending,
        Self::PendingThenSuccess,
        Self::Fault,
        Self::FaultThenSuccess,
        Self::FaultThenRefused,
        Self::Lost,
    ];

    fn results(self) -> Vec<SettleResult> {
        let success = || Ok(SettleResponse::settled("test:1", None, "0x1"));
        let pending = || Ok(failed("settlement_pending", "0x1"));
        let fault = |after: Option<u64>| {
            let mut fault = Fault::new(FaultKind::Busy, "busy");
            fault.retry_after = after.map(Duration::from_secs);
            Err(fault.into())
        };
        let lost = Fault::new(FaultKind::FacilitatorUnreachable, "no answer");
        let lost = Fault {
            retry_after: None,
            ..lost
        };
        let refused = || Ok(failed("insufficient_funds", ""));
        match self {
            Self::Success => vec![success()],
            Self::Refused => vec![refused()],
            Self::Failed => vec![Ok(failed("invalid_transaction_state", "0x1"))],
            Self::Duplicate => vec![Ok(failed("duplicate_settlement", ""))],
            Self::Pending => vec![pending(), pending()],
            Self::PendingThenSuccess => vec![pending(), success()],
            Self::Fault => vec![fault(None)],
            Self::FaultThenSuccess => vec![fault(Some(1)), success()],
            Self::FaultThenRefused => vec![fault(Some(1)), refused()],
            Self::Lost => vec![Err(lost.into())],
        }
    }

    fn is_success(self) -> bool {
        self.results()
            .last()
            .is_some_and(|last| last.as_ref().is_ok_and(|response| response.success))
    }

    /// Whether the payment may still settle.
    fn is_open(self) -> bool {
        matches!(
            self,
            Self::Pending | Self::Fault | Self::FaultThenRefused | Self::Lost
        )
    }

    /// The verdict that answers a verify request; `None` if there is no such verdict.
    fn verdict(self) -> Option<Result<VerifyResponse, quittance_core::FacilitatorError>> {
        let rejection = Reason::new("insufficient_funds").into();
        match self {
            Self::Success => Some(Ok(VerifyResponse::valid(None))),
            Self::Refused => Some(Ok(VerifyResponse::invalid(&rejection, None))),
            Self::Lost => Some(Err(self.results().remove(0).unwrap_err())),
            _ => None,
        }
    }
}

/// What the handler does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handler {
    Ok,
    /// Charges a quarter of the price.
    ChargesLess,
    ChargesMore,
    ErrorStatus,
    ServiceError,
    Panics,
    /// Succeeds after its client has disconnected.
    IsLeft,
}

impl Handler {
    const ALL: [Self; 7] = [
        Self::Ok,
        Self::ChargesLess,
        Self::ChargesMore,
        Self::ErrorStatus,
        Self::ServiceError,
        Self::Panics,
        Self::IsLeft,
    ];

    fn is_ok(self) -> bool {
        matches!(self, Self::Ok | Self::ChargesLess | Self::IsLeft)
    }

    fn charge(self) -> &'static str {
        match self {
            Self::ChargesLess => "2500",
            _ => PRICE,
        }
    }
}

/// What is observed of one request.
struct Observed {
    log: Vec<String>,
    runs: usize,
    /// `None` if there is no response: the handler panicked or failed, or the client was gone.
    response: Option<Response<Vec<u8>>>,
}

fn payment(flow: Flow) -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let mut accepted = serde_json::to_value(requirements()).unwrap();
    if flow != Flow::Authorization {
        accepted["extra"] = json!({ "paymentFlow": flow.name() });
    }
    let payload = json!({ "number": NUMBER.fetch_add(1, Ordering::SeqCst) });
    header::encode(&json!({ "x402Version": 2, "accepted": accepted, "payload": payload }))
}

fn paid(payment: &str) -> Request<Body> {
    let request = Request::get("http://shop.example/");
    let request = request.header(header::PAYMENT_SIGNATURE, payment);
    request.body(Body::empty()).unwrap()
}

async fn observe(
    flow: Flow,
    first: Answer,
    handler: Handler,
    second: Answer,
    back: Answer,
) -> Observed {
    let (facilitator, mut answers) = (ScriptedFacilitator::new(), Vec::new());
    match (flow, first.verdict()) {
        (Flow::Authorization, verdict) => facilitator.set_verify(verdict.unwrap()),
        (Flow::Upfront | Flow::Escrow, _) => answers.push(first),
    }
    match (handler.is_ok(), flow) {
        (false, _) => answers.push(back),
        (true, Flow::Upfront) => {}
        (true, Flow::Authorization | Flow::Escrow) => answers.extend([second, back]),
    }
    facilitator.queue_settle(answers.into_iter().flat_map(Answer::results));
    let offer = TestOffer::new().with_flow(flow).metered().giving_back();
    let layer = PaymentLayer::new(facilitator.clone()).accept(offer);
    let (runs, began, may_end) = <(Arc<AtomicUsize>, Arc<Notify>, Arc<Notify>)>::default();
    let (counted, start, end) = (runs.clone(), began.clone(), may_end.clone());
    let service = service_fn(move |_: Request<Body>| {
        let (counted, start, end) = (counted.clone(), start.clone(), end.clone());
        async move {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut response = Response::new(Body::from("sold"));
            match handler {
                Handler::Ok => {}
                Handler::ChargesLess => {
                    response.extensions_mut().insert(Charge::percent("25"));
                }
                Handler::ChargesMore => {
                    let overrides = r#"{"amount":"10001"}"#.parse().unwrap();
                    response
                        .headers_mut()
                        .insert("settlement-overrides", overrides);
                }
                Handler::ErrorStatus => *response.status_mut() = StatusCode::BAD_GATEWAY,
                Handler::ServiceError => return Err("the service failed"),
                Handler::Panics => panic!("the handler panics"),
                Handler::IsLeft => {
                    start.notify_one();
                    end.notified().await;
                }
            }
            Ok(response)
        }
    });
    let call = layer.layer(service).oneshot(paid(&payment(flow)));
    let response = match handler {
        Handler::IsLeft => {
            let mut call = Box::pin(call);
            tokio::select! {
                response = &mut call => response.ok(),
                () = began.notified() => {
                    drop(call);
                    may_end.notify_one();
                    // The clock is paused: this lets every other task come to its end.
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    None
                }
            }
        }
        _ => AssertUnwindSafe(call)
            .catch_unwind()
            .await
            .ok()
            .and_then(Result::ok),
    };
    let response = match response {
        None => None,
        Some(response) => {
            let (head, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes().to_vec();
            Some(Response::from_parts(head, body))
        }
    };
    Observed {
        log: facilitator.log(),
        runs: runs.load(Ordering::SeqCst),
        response,
    }
}

/// The requests that the rules of the flows allow, written down a second time.
fn expected(
    flow: Flow,
    first: Answer,
    handler: Handler,
    second: Answer,
    back: Answer,
) -> (Vec<String>, bool) {
    let times = |what: &str, amount: &str, answer: Answer| {
        vec![format!("{what} {amount}"); answer.results().len()]
    };
    let mut log = match flow {
        Flow::Authorization => vec![format!("verify {PRICE}")],
        Flow::Upfront | Flow::Escrow => times("settle", PRICE, first),
    };
    if !first.is_success() {
        return (log, false);
    }
    if !handler.is_ok() {
        log.extend(times("cancel", "0", back));
        return (log, true);
    }
    match flow {
        Flow::Authorization => log.extend(times("settle", handler.charge(), second)),
        Flow::Upfront => return (log, true),
        Flow::Escrow => log.extend(times("claim", handler.charge(), second)),
    }
    if second == Answer::Refused {
        log.extend(times("cancel", "0", back));
    }
    // A deposit is held, so the outcome is asked for until it is known. Without an answer left, the
    // facilitator settles.
    if flow == Flow::Escrow && second.is_open() && handler == Handler::IsLeft {
        let asked = if back == Answer::Success { 1 } else { 2 };
        log.extend(vec![format!("claim {}", handler.charge()); asked]);
    }
    (log, true)
}

fn receipt(response: &Response<Vec<u8>>) -> Option<SettleResponse> {
    let value = response.headers().get(header::PAYMENT_RESPONSE)?;
    Some(header::decode("receipt", value.as_bytes()).unwrap())
}

/// Who gets what: a response is delivered if and only if it is paid for, and each receipt says
/// whether money moved.
fn check_response(flow: Flow, first: Answer, handler: Handler, second: Answer, seen: &Observed) {
    let case = format!("{flow:?} {first:?} {handler:?} {second:?}");
    let Some(response) = &seen.response else {
        let is_silent =
            [Handler::ServiceError, Handler::Panics, Handler::IsLeft].contains(&handler);
        assert!(is_silent && seen.runs == 1, "{case}: no response");
        return;
    };
    let is_charged =
        first.is_success() && handler.is_ok() && (flow == Flow::Upfront || second.is_success());
    let is_sold = response.status() == StatusCode::OK && response.body() == b"sold";
    assert_eq!(is_sold, is_charged, "{case}: {response:?}");
    assert!(
        !response.headers().contains_key("settlement-overrides"),
        "{case}"
    );
    let moved = is_charged || (flow == Flow::Upfront && first.is_success());
    let success = receipt(response).map(|receipt| receipt.success);
    assert_eq!(success.unwrap_or_default(), moved, "{case}: {response:?}");
    if !first.is_success() {
        let status = match (flow, first) {
            (_, Answer::Refused | Answer::Failed | Answer::Duplicate) => 402,
            (_, Answer::FaultThenRefused) => 402,
            _ => 503,
        };
        assert_eq!(response.status(), status, "{case}");
        let names = receipt(response).map(|receipt| receipt.transaction);
        let expected = match first {
            Answer::Pending | Answer::Failed => Some("0x1"),
            Answer::Refused | Answer::FaultThenRefused | Answer::Duplicate
                if flow != Flow::Authorization =>
            {
                Some("")
            }
            _ => None,
        };
        assert_eq!(names.as_deref(), expected, "{case}");
    }
}

/// Every flow, with every outcome of the first request, of the handler, of the second request and
/// of the cancellation.
#[tokio::test(start_paused = true)]
async fn every_outcome_of_every_flow_follows_the_rules() {
    let mut cases = 0;
    for flow in Flow::ALL {
        for first in Answer::ALL {
            if flow == Flow::Authorization && first.verdict().is_none() {
                continue;
            }
            for handler in Handler::ALL {
                for second in Answer::ALL {
                    for back in [Answer::Success, Answer::Refused, Answer::Lost] {
                        let seen = observe(flow, first, handler, second, back).await;
                        let (log, ran) = expected(flow, first, handler, second, back);
                        let case = format!("{flow:?} {first:?} {handler:?} {second:?} {back:?}");
                        assert_eq!(seen.log, log, "{case}");
                        assert_eq!(seen.runs, usize::from(ran), "{case}");
                        check_response(flow, first, handler, second, &seen);
                        cases += 1;
                    }
                }
            }
        }
    }
    assert_eq!(cases, (3 + 10 + 10) * 7 * 10 * 3);
}

#[tokio::test(start_paused = true)]
async fn charge_of_zero_is_settled_without_a_transaction() {
    let facilitator = ScriptedFacilitator::new();
    facilitator.set_settle(Ok(SettleResponse::settled("test:1", None, "")));
    let offer = TestOffer::new().metered();
    let layer = PaymentLayer::new(facilitator.clone()).accept(offer);
    let handler = service_fn(async |_: Request<Body>| {
        let mut response = Response::new(Body::from("free"));
        response
            .extensions_mut()
            .insert(Charge::units(Amount::ZERO));
        Ok::<_, Infallible>(response)
    });
    let payment = payment(Flow::Authorization);
    let service = layer.layer(handler);
    let response = service.clone().oneshot(paid(&payment)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(facilitator.log(), ["verify 10000", "settle 0"]);
    // The response was delivered, and the payment buys nothing else.
    response.into_body().collect().await.unwrap();
    let again = service.oneshot(paid(&payment)).await.unwrap();
    assert_eq!(again.status(), StatusCode::PAYMENT_REQUIRED);
    assert_eq!(facilitator.settle_calls(), 1);
}

/// A buyer must not be charged the price where the handler meant less.
#[tokio::test(start_paused = true)]
async fn charge_that_the_scheme_or_the_words_do_not_allow_is_500() {
    for (offer, overrides) in [
        (TestOffer::new(), r#"{"amount":"1"}"#),
        (TestOffer::new(), r#"{"amount":"10000"}"#),
        (TestOffer::new().metered(), r#"{"amount":"-1"}"#),
        (TestOffer::new().metered(), r#"{"amount":"200%"}"#),
        (TestOffer::new().metered(), "five"),
    ] {
        let facilitator = ScriptedFacilitator::new();
        let layer = PaymentLayer::new(facilitator.clone()).accept(offer.giving_back());
        let handler = service_fn(move |_: Request<Body>| {
            let response = Response::builder().header("settlement-overrides", overrides);
            std::future::ready(response.body(Body::from("sold")))
        });
        let payment = payment(Flow::Authorization);
        let response = layer.layer(handler).oneshot(paid(&payment)).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!response.headers().contains_key("settlement-overrides"));
        assert_eq!(
            facilitator.log(),
            ["verify 10000", "cancel 0"],
            "{overrides}"
        );
    }
}

/// A client that disconnects while its money moves is served, because it has paid.
#[tokio::test(start_paused = true)]
async fn client_that_leaves_during_first_settlement_is_served_later() {
    for flow in [Flow::Upfront, Flow::Escrow] {
        let facilitator = ScriptedFacilitator::new();
        let busy = Fault {
            retry_after: Some(Duration::from_secs(1)),
            ..Fault::new(FaultKind::Busy, "busy")
        };
        facilitator.queue_settle([Err(busy.into())]);
        let offer = TestOffer::new().with_flow(flow);
        let layer = PaymentLayer::new(facilitator.clone()).accept(offer);
        let handler =
            async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::from("sold")));
        let service = layer.layer(service_fn(handler));
        let payment = payment(flow);
        let left = service.clone().oneshot(paid(&payment));
        let left = tokio::time::timeout(Duration::from_millis(100), left).await;
        assert!(left.is_err());
        tokio::time::sleep(Duration::from_secs(60)).await;
        let asked = facilitator.log();
        let response = service.oneshot(paid(&payment)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(facilitator.log(), asked, "{flow:?}: it was not asked again");
    }
}

async fn answer_to(offers: Vec<TestOffer>, stated: Value) -> (StatusCode, Vec<String>) {
    let facilitator = ScriptedFacilitator::new();
    let mut layer = PaymentLayer::new(facilitator.clone());
    for offer in offers {
        layer = layer.accept(offer);
    }
    let handler = async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::from("sold")));
    let mut accepted = serde_json::to_value(requirements()).unwrap();
    if stated != Value::Null {
        accepted["extra"] = stated;
    }
    let payment = json!({ "x402Version": 2, "accepted": accepted, "payload": { "number": 7 } });
    let request = paid(&header::encode(&payment));
    let response = layer
        .layer(service_fn(handler))
        .oneshot(request)
        .await
        .unwrap();
    (response.status(), facilitator.log())
}

/// Clients may drop the flow from their copy, but may not choose one that is not offered.
#[tokio::test(start_paused = true)]
async fn accepted_flow_is_compared_and_may_be_left_out() {
    let offer = |flow| TestOffer::new().with_flow(flow);
    let (verified, upfront) = (vec!["verify 10000", "settle 10000"], vec!["settle 10000"]);
    let named = |flow: &str| json!({ "paymentFlow": flow, "more": 1 });
    for (offers, stated, log) in [
        (vec![Flow::Upfront], named("upfront"), Some(&upfront)),
        (vec![Flow::Upfront], Value::Null, Some(&upfront)),
        (vec![Flow::Upfront], json!({ "more": 1 }), Some(&upfront)),
        (vec![Flow::Upfront], named("authorization"), None),
        (vec![Flow::Upfront], named("escrow"), None),
        (vec![Flow::Upfront], named("Upfront"), None),
        (vec![Flow::Upfront], json!({ "paymentFlow": null }), None),
        (vec![Flow::Authorization], named("upfront"), None),
        (
            vec![Flow::Authorization],
            named("authorization"),
            Some(&verified),
        ),
        (
            vec![Flow::Upfront, Flow::Authorization],
            Value::Null,
            Some(&verified),
        ),
        (
            vec![Flow::Upfront, Flow::Authorization],
            named("upfront"),
            Some(&upfront),
        ),
        (
            vec![Flow::Authorization, Flow::Upfront],
            named("upfront"),
            Some(&upfront),
        ),
    ] {
        let case = format!("{offers:?} {stated}");
        let (status, asked) = answer_to(offers.into_iter().map(offer).collect(), stated).await;
        let nothing = vec![];
        assert_eq!(asked, *log.unwrap_or(&nothing), "{case}");
        let expected = if log.is_some() { 200 } else { 402 };
        assert_eq!(status, expected, "{case}");
    }
}

/// A client of version 1 knows one flow: a handler that fails costs it nothing.
#[tokio::test(start_paused = true)]
async fn other_flows_are_offered_in_version_2_only() {
    for flow in Flow::ALL {
        let facilitator = ScriptedFacilitator::new();
        let layer = PaymentLayer::new(facilitator).accept(TestOffer::new().with_flow(flow));
        let handler =
            async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::from("sold")));
        let request = Request::new(Body::empty());
        let response = layer
            .layer(service_fn(handler))
            .oneshot(request)
            .await
            .unwrap();
        let offered = response.headers()[header::PAYMENT_REQUIRED].as_bytes();
        let offered: Value = header::decode("offered", offered).unwrap();
        let stated = &offered["accepts"][0]["extra"]["paymentFlow"];
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        match flow {
            Flow::Authorization => {
                assert_eq!((stated, &body["x402Version"]), (&Value::Null, &json!(1)));
            }
            Flow::Upfront | Flow::Escrow => {
                assert_eq!(
                    (stated, &body["x402Version"]),
                    (&json!(flow.name()), &json!(2))
                );
            }
        }
    }
}

/// The engine settles up front what the simulated chain's offer sells.
#[tokio::test]
async fn engine_settles_before_the_handler_and_once() {
    let environment = Environment::new();
    let (world, engine) = (environment.world.clone(), environment.engine().await);
    let offer = world.offer().with_flow(Flow::Upfront);
    let layer = PaymentLayer::new(Arc::new(engine)).accept(offer);
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let service = layer.layer(service_fn(move |_: Request<Body>| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok::<_, Infallible>(Response::new(Body::from("sold"))))
    }));
    let mut accepted = world.requirements();
    accepted.extra = Some(Object::of(&json!({ "paymentFlow": "upfront" })).unwrap());
    let paid_by = world
        .payer(0)
        .pay(&accepted, None, world.now())
        .await
        .unwrap();
    let payment = header::encode(&PaymentPayload::new(accepted, paid_by.payload));
    for (status, success) in [
        (StatusCode::OK, true),
        (StatusCode::PAYMENT_REQUIRED, false),
    ] {
        let response = service.clone().oneshot(paid(&payment)).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let response = Response::from_parts(head, body.to_vec());
        let receipt = receipt(&response).unwrap();
        assert_eq!((response.status(), receipt.success), (status, success));
        assert!(!receipt.transaction.is_empty());
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

/// A facilitator reports a success again only to the sale that it belongs to. So a sale keeps its
/// identity over retries, also over those of its client while the outcome is unknown.
#[tokio::test(start_paused = true)]
async fn sale_keeps_its_identity_until_its_outcome_is_known() {
    let facilitator = ScriptedFacilitator::new();
    let answers = [
        Answer::FaultThenSuccess,
        Answer::Success,
        Answer::Lost,
        Answer::Pending,
    ];
    facilitator.queue_settle(answers.into_iter().flat_map(Answer::results));
    let offer = TestOffer::new().with_flow(Flow::Escrow);
    let layer = PaymentLayer::new(facilitator.clone()).accept(offer);
    let handler = async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::from("sold")));
    let service = layer.layer(service_fn(handler));
    let buy = async |payment: &str| {
        let response = service.clone().oneshot(paid(payment)).await.unwrap();
        response.status().as_u16()
    };
    let (one, two) = (payment(Flow::Escrow), payment(Flow::Escrow));
    assert_eq!(buy(&one).await, 200);
    // The second payment's answer is lost, then pending, and then a success.
    assert_eq!(
        [buy(&two).await, buy(&two).await, buy(&two).await],
        [503, 503, 200]
    );
    let sales = facilitator.sales();
    let ids: Vec<_> = sales.into_iter().map(Option::unwrap).collect();
    let (first, second) = ids.split_at(3);
    assert_eq!((first.len(), second.len()), (3, 5));
    assert!(first.iter().all(|id| *id == first[0]));
    assert!(second.iter().all(|id| *id == second[0]));
    assert_ne!(first[0], second[0]);
}

/// A request with this payload.
fn paid_with(payload: &Value) -> Request<Body> {
    let accepted = serde_json::to_value(requirements()).unwrap();
    let payment = json!({ "x402Version": 2, "accepted": accepted, "payload": payload });
    paid(&header::encode(&payment))
}

/// Two vouchers of one channel are two payments, and the second depends on the first.
#[tokio::test(start_paused = true)]
async fn payments_of_one_channel_are_served_one_at_a_time() {
    let facilitator = ScriptedFacilitator::new();
    let layer = PaymentLayer::new(facilitator.clone()).accept(TestOffer::new());
    let service = layer.layer(service_fn(async |_: Request<Body>| {
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok::<_, Infallible>(Response::new(Body::from("sold")))
    }));
    let buy = async |number: u64, channel: &str| {
        let request = paid_with(&json!({ "number": number, "channel": channel }));
        let response = service.clone().oneshot(request).await.unwrap();
        response.status().as_u16()
    };
    let (first, second, other) = tokio::join!(buy(1, "a"), buy(2, "a"), buy(3, "b"));
    assert_eq!([first, second, other], [200, 503, 200]);
    assert_eq!(buy(2, "a").await, 200);
    assert_eq!(facilitator.settle_calls(), 3);
}

/// Anyone can name a channel. Payments that its payer has not signed kept its requests waiting.
#[tokio::test(start_paused = true)]
async fn invalid_payment_keeps_no_channel_from_its_payer() {
    let facilitator = ScriptedFacilitator::new();
    facilitator.hang_verify("forged");
    let layer = PaymentLayer::new(facilitator.clone()).accept(TestOffer::new());
    let service = layer.layer(service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(Response::new(Body::from("sold")))
    }));
    let buy = |payload: Value| service.clone().oneshot(paid_with(&payload));
    let forged = buy(json!({ "number": 1, "channel": "a", "forged": true }));
    let own = async {
        tokio::task::yield_now().await;
        buy(json!({ "number": 2, "channel": "a" })).await
    };
    tokio::select! {
        biased;
        forged = forged => panic!("{forged:?}"),
        own = own => assert_eq!(own.unwrap().status(), StatusCode::OK),
    }
}

/// The next voucher of a channel of which nothing was charged is the same one. It was refused as a
/// duplicate, and the channel was of no use any more.
#[tokio::test(start_paused = true)]
async fn channel_goes_on_after_a_charge_of_nothing() {
    let facilitator = ScriptedFacilitator::new();
    facilitator.set_settle(Ok(SettleResponse::settled("test:1", None, "")));
    let layer = PaymentLayer::new(facilitator.clone()).accept(TestOffer::new().metered());
    let service = layer.layer(service_fn(async |_: Request<Body>| {
        let mut response = Response::new(Body::from("sold"));
        response
            .extensions_mut()
            .insert(Charge::units(Amount::ZERO));
        Ok::<_, Infallible>(response)
    }));
    for _ in 0..2 {
        let request = paid_with(&json!({ "number": 1, "channel": "a" }));
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        // It is delivered, so that it is not stored for the second request.
        response.into_body().collect().await.unwrap();
    }
    assert_eq!(
        facilitator.log(),
        ["verify 10000", "settle 0", "verify 10000", "settle 0"]
    );
}

/// Otherwise a buyer that asks for its money back would be served for nothing.
#[tokio::test(start_paused = true)]
async fn payment_that_buys_nothing_runs_no_handler() {
    for (flow, asked) in [
        (Flow::Authorization, ["verify 10000", "refund 10000"]),
        (Flow::Escrow, ["refund 10000", "claim 10000"]),
    ] {
        let facilitator = ScriptedFacilitator::new();
        let offer = TestOffer::new().with_flow(flow);
        let layer = PaymentLayer::new(facilitator.clone()).accept(offer);
        let service = layer.layer(service_fn(async |_: Request<Body>| {
            Err::<Response<Body>, _>("the handler has run")
        }));
        let mut terms = serde_json::to_value(requirements()).unwrap();
        if flow == Flow::Escrow {
            terms["extra"] = json!({ "paymentFlow": flow.name() });
        }
        let payload = json!({ "number": 1, "type": "refund" });
        let payment = json!({ "x402Version": 2, "accepted": terms, "payload": payload });
        let request = paid(&header::encode(&payment));
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert!(response.headers().contains_key(header::PAYMENT_RESPONSE));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "{\"message\":\"acknowledged\"}");
        assert_eq!(facilitator.log(), asked);
    }
}

#[tokio::test(start_paused = true)]
async fn refusal_corrects_only_the_option_that_was_paid() {
    let facilitator = ScriptedFacilitator::new();
    facilitator.set_extra(&json!({ "own": 1 }));
    let rejection = Reason::new("cumulative_amount_mismatch").into();
    let correction = json!({ "own": 2, "channelState": { "charged": "7" } });
    facilitator.set_verify(Ok(VerifyResponse {
        extra: Some(Object::of(&correction).unwrap()),
        ..VerifyResponse::invalid(&rejection, None)
    }));
    let layer = PaymentLayer::new(facilitator)
        .accept(TestOffer::new())
        .accept(TestOffer::new().with_flow(Flow::Upfront));
    let handler = async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::from("sold")));
    let mut accepted = serde_json::to_value(requirements()).unwrap();
    accepted["extra"] = json!({ "own": 1 });
    let payment = json!({ "x402Version": 2, "accepted": accepted, "payload": { "number": 1 } });
    let request = paid(&header::encode(&payment));
    let response = layer
        .layer(service_fn(handler))
        .oneshot(request)
        .await
        .unwrap();
    let offered = response.headers()[header::PAYMENT_REQUIRED].as_bytes();
    let offered: Value = header::decode("offered", offered).unwrap();
    let extras = [0, 1].map(|at| offered["accepts"][at]["extra"].clone());
    let corrected = json!({ "own": 1, "channelState": { "charged": "7" } });
    assert_eq!(
        extras,
        [corrected, json!({ "own": 1, "paymentFlow": "upfront" })]
    );
}

/// A job takes longer than a request: its response waits for the settlement, and only the client
/// that has paid gets it.
#[tokio::test(start_paused = true)]
async fn pending_charge_is_accepted_and_delivered_once() {
    let later = [
        Answer::Pending,
        Answer::Pending,
        Answer::Lost,
        // An instance that does not know the transaction.
        Answer::Refused,
        Answer::Success,
    ];
    for (waits, flow) in [
        (true, Flow::Authorization),
        (true, Flow::Escrow),
        (false, Flow::Escrow),
    ] {
        let facilitator = ScriptedFacilitator::new();
        let first = (flow == Flow::Escrow).then_some(Answer::Success);
        let answers = first.into_iter().chain(later);
        facilitator.queue_settle(answers.flat_map(Answer::results));
        let layer = PaymentLayer::new(facilitator.clone());
        let layer = layer.accept(TestOffer::new().with_flow(flow).giving_back());
        let layer = if waits { layer.answer_pending() } else { layer };
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let service = layer.layer(service_fn(move |_: Request<Body>| {
            counted.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Ok::<_, Infallible>(Response::new(Body::from("sold"))))
        }));
        let payment = payment(flow);
        let buy = async |payment: &str, key: &'static str| {
            let mut request = paid(payment);
            request
                .headers_mut()
                .insert("x-api-key", key.parse().unwrap());
            let response = service.clone().oneshot(request).await.unwrap();
            let (head, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Response::from_parts(head, body.to_vec())
        };
        let accepted = buy(&payment, "mine").await;
        assert!(accepted.body() != b"sold");
        assert_eq!(receipt(&accepted).unwrap().transaction, "0x1");
        if !waits {
            assert_eq!(accepted.status(), StatusCode::PAYMENT_REQUIRED);
            continue;
        }
        assert_eq!(accepted.status(), StatusCode::ACCEPTED);
        assert_eq!(accepted.headers()["location"], "http://shop.example/");
        assert_eq!(
            buy(&payment, "mine").await.status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(buy(&payment, "stranger's").await.body() != b"sold");
        let delivered = buy(&payment, "mine").await;
        assert_eq!(
            (delivered.status(), delivered.body().as_slice()),
            (StatusCode::OK, &b"sold"[..])
        );
        assert!(receipt(&delivered).unwrap().success);
        assert_eq!(
            buy(&payment, "mine").await.status(),
            StatusCode::PAYMENT_REQUIRED
        );
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert!(!facilitator.log().contains(&"cancel 0".to_owned()));
    }
}

/// An offer that has no request for its charge.
struct ChargelessOffer(TestOffer);

#[async_trait]
impl Offer for ChargelessOffer {
    fn scheme(&self) -> &str {
        self.0.scheme()
    }

    fn network(&self) -> &Network {
        self.0.network()
    }

    fn requirements(&self, kind: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        self.0.requirements(kind)
    }

    fn flow(&self) -> Flow {
        self.0.flow()
    }

    async fn request(
        &self,
        phase: Phase<'_>,
        payment: &PaymentRequest,
        terms: &PaymentRequirements,
    ) -> Result<Option<PaymentRequest>, OfferError> {
        match phase {
            Phase::AfterHandler { .. } => Err(OfferError::ZeroPrice),
            _ => self.0.request(phase, payment, terms).await,
        }
    }
}

/// The answer of a facilitator that has settled a deposit.
fn deposited() -> SettleResult {
    Ok(SettleResponse {
        amount: Some(PRICE.to_owned()),
        ..SettleResponse::settled("test:1", None, "0xdeposit")
    })
}

/// A handler behind this offer, which always succeeds.
fn seller_of(
    offer: impl Offer,
    facilitator: &Arc<ScriptedFacilitator>,
) -> BoxCloneSyncService<Request<Body>, Response<Body>, Infallible> {
    let layer = PaymentLayer::new(facilitator.clone()).accept(offer);
    let sold = layer.layer(service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(Response::new(Body::from("sold")))
    }));
    BoxCloneSyncService::new(sold.map_response(|response| response.map(Body::new)))
}

/// A deposit that may not be returned stays named, whatever became of its charge.
#[tokio::test(start_paused = true)]
async fn deposit_is_named_until_it_is_returned() {
    let escrow = || TestOffer::new().with_flow(Flow::Escrow).giving_back();
    for (second, back, transaction) in [
        (Some(Answer::Refused), Answer::Success, ""),
        (Some(Answer::Refused), Answer::Refused, "0xdeposit"),
        (Some(Answer::Refused), Answer::Lost, "0xdeposit"),
        (Some(Answer::Duplicate), Answer::Success, "0xdeposit"),
        (Some(Answer::Lost), Answer::Lost, "0xdeposit"),
        (Some(Answer::Fault), Answer::Lost, "0xdeposit"),
        (Some(Answer::FaultThenRefused), Answer::Lost, "0xdeposit"),
        (Some(Answer::Pending), Answer::Pending, "0x1"),
        (Some(Answer::Failed), Answer::Success, "0x1"),
        (None, Answer::Success, ""),
        (None, Answer::Lost, "0xdeposit"),
    ] {
        let case = format!("{second:?} {back:?}");
        let facilitator = ScriptedFacilitator::new();
        let answers = second.into_iter().chain([back]).flat_map(Answer::results);
        facilitator.queue_settle([deposited()].into_iter().chain(answers));
        let request = paid(&payment(Flow::Escrow));
        let seller = match second {
            Some(_) => seller_of(escrow(), &facilitator),
            None => seller_of(ChargelessOffer(escrow()), &facilitator),
        };
        let (head, _) = seller.oneshot(request).await.unwrap().into_parts();
        let status = if second.is_some() { 402 } else { 503 };
        assert_eq!(head.status, status, "{case}");
        let receipt = receipt(&Response::from_parts(head, vec![])).unwrap();
        assert!(!receipt.success, "{case}");
        assert_eq!(receipt.transaction, transaction, "{case}");
        let is_pending = second.is_some_and(Answer::is_open);
        assert_eq!(receipt.is_pending(), is_pending, "{case}");
        let deposit = json!({ "depositTransaction": "0xdeposit", "depositAmount": PRICE });
        let extra = Value::Object(receipt.extra.unwrap().tree().into_iter().collect());
        assert_eq!(extra, deposit, "{case}");
    }
}

/// A payment that was settled up front stays settled, also if the seller cannot go on.
#[tokio::test(start_paused = true)]
async fn upfront_payment_is_named_if_its_sale_fails() {
    let facilitator = ScriptedFacilitator::new();
    let offer = ChargelessOffer(TestOffer::new().with_flow(Flow::Upfront));
    let seller = seller_of(offer, &facilitator);
    let request = paid(&payment(Flow::Upfront));
    let (head, _) = seller.oneshot(request).await.unwrap().into_parts();
    assert_eq!(head.status, StatusCode::SERVICE_UNAVAILABLE);
    let receipt = receipt(&Response::from_parts(head, vec![])).unwrap();
    assert!(receipt.success && receipt.transaction == "0x1");
}

/// Only the seller can have a deposit claimed or returned. So it asks until it knows the outcome,
/// also if there is no response to deliver.
#[tokio::test(start_paused = true)]
async fn sale_with_a_deposit_goes_on_after_a_lost_charge() {
    let unsent = || {
        Err(Fault::new(FaultKind::FacilitatorFunds, "no gas")
            .not_attempted()
            .into())
    };
    let refused = || Answer::Refused.results().remove(0);
    let lost = || Answer::Lost.results().remove(0);
    let success = || Answer::Success.results().remove(0);
    for (answers, asked) in [
        (
            vec![lost(), lost(), success()],
            vec!["claim", "claim", "claim"],
        ),
        (
            vec![lost(), refused(), success()],
            vec!["claim", "claim", "claim"],
        ),
        // The charge was certainly refused, so the deposit is returned.
        (
            vec![unsent(), unsent(), refused()],
            vec!["claim", "claim", "claim", "cancel"],
        ),
    ] {
        let facilitator = ScriptedFacilitator::new();
        let case = format!("{answers:?}");
        facilitator.queue_settle([deposited()].into_iter().chain(answers));
        let offer = TestOffer::new().with_flow(Flow::Escrow).giving_back();
        let seller = seller_of(offer, &facilitator);
        let payment = payment(Flow::Escrow);
        let response = seller.clone().oneshot(paid(&payment)).await.unwrap();
        assert_eq!(response.status(), StatusCode::PAYMENT_REQUIRED, "{case}");
        tokio::time::sleep(Duration::from_secs(60)).await;
        let log = facilitator.log();
        let acts: Vec<_> = log.iter().filter_map(|it| it.split(' ').next()).collect();
        assert_eq!(acts[1..], asked, "{case}");
        let again = seller.oneshot(paid(&payment)).await.unwrap();
        assert_eq!(again.status(), StatusCode::PAYMENT_REQUIRED, "{case}");
        assert_eq!(facilitator.log(), log, "{case}: it was not asked again");
    }
}

/// A connection that has changed its protocol cannot be delivered later.
#[tokio::test(start_paused = true)]
async fn pending_switch_of_protocols_is_not_stored() {
    let facilitator = ScriptedFacilitator::new();
    facilitator.queue_settle(Answer::Pending.results());
    let layer = PaymentLayer::new(facilitator.clone()).accept(TestOffer::new());
    let handler = async |_: Request<Body>| {
        let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
        Ok::<_, Infallible>(response.body(Body::empty()).unwrap())
    };
    let service = layer.answer_pending().layer(service_fn(handler));
    let request = paid(&payment(Flow::Authorization));
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYMENT_REQUIRED);
}

/// Clients of version 1 know only one flow, so such an offer has no buyer.
#[tokio::test(start_paused = true)]
async fn flow_without_version_2_is_a_problem_of_the_offer() {
    for flow in [Flow::Upfront, Flow::Escrow] {
        let facilitator = ScriptedFacilitator::new();
        facilitator.set_kinds(&[(1, "test")]);
        let offer = || TestOffer::new().with_flow(flow);
        let layer = PaymentLayer::new(facilitator.clone()).accept(offer());
        let fault = layer.check().await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::FacilitatorUnreachable);
        assert!(fault.detail.contains("does not settle"), "{fault}");
        let seller = seller_of(offer(), &facilitator);
        let response = seller.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}

/// Once, each payment that was presented took the place of a sale whose answer was lost.
#[tokio::test(start_paused = true)]
async fn refused_payments_displace_no_sale() {
    /// As many as are remembered.
    const SALES_MAX: usize = 10_000;
    for flow in [Flow::Authorization, Flow::Upfront] {
        let facilitator = ScriptedFacilitator::new();
        let seller = seller_of(TestOffer::new().with_flow(flow), &facilitator);
        let open = payment(flow);
        facilitator.queue_settle(Answer::Lost.results());
        let response = seller.clone().oneshot(paid(&open)).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        facilitator.reject("insufficient_funds");
        facilitator.set_settle(Answer::Refused.results().remove(0));
        for _ in 0..SALES_MAX {
            let response = seller.clone().oneshot(paid(&payment(flow))).await.unwrap();
            assert_eq!(response.status(), StatusCode::PAYMENT_REQUIRED);
        }
        // The lost answer was a success.
        let extra = Object::of(&json!({ SaleId::REPEATED: true })).unwrap();
        facilitator.set_verify(Ok(VerifyResponse {
            extra: Some(extra.clone()),
            ..VerifyResponse::valid(None)
        }));
        facilitator.set_settle(Ok(SettleResponse {
            extra: Some(extra),
            ..SettleResponse::settled("test:1", None, "0x1")
        }));
        let response = seller.oneshot(paid(&open)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let sales = facilitator.sales();
        assert_eq!(sales.first(), sales.last(), "{flow:?}");
    }
}
