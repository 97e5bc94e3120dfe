//! Paid HTTP requests: our seller and our buyer, with a facilitator and a real chain, and with
//! dishonest servers and facilitators.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{any, get, post};
use axum::{Extension, Router};
use quittance_buyer::{BuyError, Buyer, Limits};
use quittance_core::wire::{
    PaymentPayload, PaymentRequired, ResourceInfo, SettleResponse, SupportedResponse,
    VerifyResponse, header, v1,
};
use quittance_core::{Amount, Facilitator, FacilitatorError, Fault, FaultKind, PaymentRequest};
use quittance_engine::Engine;
use quittance_http::RemoteFacilitator;
use quittance_seller::{PaymentLayer, VerifiedPayment};
use quittance_service::{Keys, ServiceOptions, router};
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::proxy::Fate;
use serde_json::Value;
use tokio::net::TcpListener;

async fn listen(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// A shop whose goods cost the price, with a count of the requests that its handlers got.
struct Shop {
    url: String,
    served: Arc<AtomicUsize>,
}

async fn shop(facilitator: Arc<dyn Facilitator>) -> Shop {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let price = || {
        PaymentLayer::new(Arc::clone(&facilitator))
            .accept(Setting::offer())
            .description("Goods")
    };
    let goods = move |Extension(paid_by): Extension<VerifiedPayment>| {
        count.fetch_add(1, Ordering::SeqCst);
        async move { format!("goods for {}", paid_by.payer.unwrap_or_default()) }
    };
    let app = Router::new()
        .route("/goods", get(goods).layer(price()))
        .route(
            "/cached",
            get(|| async { ([("cache-control", "public, max-age=3600")], "goods") }).layer(price()),
        )
        .route(
            "/broken",
            any(|| async { StatusCode::INTERNAL_SERVER_ERROR }).layer(price()),
        )
        .route("/echo", post(|body: String| async { body }).layer(price()))
        .route("/free", get(|| async { "nothing" }));
    Shop {
        url: listen(app).await,
        served,
    }
}

async fn town() -> (Setting, Engine, Shop) {
    let setting = Setting::start().await;
    let engine = setting
        .engine_with(setting.config(), |builder| {
            builder.settle_wait(Duration::from_secs(2))
        })
        .await;
    let facilitator = listen(router(engine.clone(), ServiceOptions::new(Keys::anyone()))).await;
    let shop = shop(Arc::new(RemoteFacilitator::new(&facilitator).unwrap())).await;
    (setting, engine, shop)
}

fn buyer() -> Buyer {
    Buyer::builder().payer(Setting::payer()).build().unwrap()
}

fn paid(count: u64) -> Amount {
    Amount::from(count * PRICE)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_pays_once_and_is_served() {
    let (setting, _engine, shop) = town().await;
    let bought = buyer().get(&format!("{}/goods", shop.url)).await.unwrap();
    assert_eq!(bought.response.status(), StatusCode::OK);
    assert_eq!(bought.response.headers()["cache-control"], "no-store");
    let cost = bought.cost.unwrap();
    assert_eq!(cost.amount, Amount::from(PRICE));
    let receipt = cost.receipt.unwrap();
    assert!(receipt.success && !receipt.transaction.is_empty());
    let goods = bought.response.text().await.unwrap();
    assert_eq!(goods, format!("goods for {}", Setting::buyer().address));
    assert_eq!(setting.received().await, paid(1));

    let free = buyer().get(&format!("{}/free", shop.url)).await.unwrap();
    assert_eq!(
        (free.cost, free.response.text().await.unwrap().as_str()),
        (None, "nothing")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_sent_again_with_the_payment() {
    let (setting, _engine, shop) = town().await;
    let request = reqwest::Client::new()
        .post(format!("{}/echo", shop.url))
        .body("hello")
        .build()
        .unwrap();
    let bought = buyer().execute(request).await.unwrap();
    assert_eq!(bought.response.text().await.unwrap(), "hello");
    assert_eq!(setting.received().await, paid(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_payment_the_answer_is_402_in_both_versions() {
    let (_setting, _engine, shop) = town().await;
    let answer = reqwest::get(format!("{}/goods?x=1", shop.url))
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let value = answer.headers()[header::PAYMENT_REQUIRED]
        .as_bytes()
        .to_vec();
    let required: PaymentRequired = header::decode("402", &value).unwrap();
    assert_eq!(required.accepts, [Setting::requirements()]);
    let resource: ResourceInfo = required.resource.unwrap().read("resource").unwrap();
    assert_eq!(resource.url, format!("{}/goods?x=1", shop.url));
    let v1: v1::PaymentRequired = answer.json().await.unwrap();
    assert_eq!(
        (v1.x402_version, v1.accepts[0].network.as_str()),
        (1, "base-sepolia")
    );
    assert_eq!(shop.served.load(Ordering::SeqCst), 0);
}

async fn present(url: &str, headers: &[(&'static str, String)]) -> reqwest::Response {
    let mut request = reqwest::Client::new().get(url);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    request.send().await.unwrap()
}

fn signed(request: &PaymentRequest) -> String {
    let tree: Value = serde_json::from_str(request.text()).unwrap();
    header::encode(&tree["paymentPayload"])
}

#[tokio::test(flavor = "multi_thread")]
async fn one_payment_serves_one_request() {
    let (setting, _engine, shop) = town().await;
    let payment = signed(&Setting::request().await);
    let url = format!("{}/goods", shop.url);
    let first = present(&url, &[(header::PAYMENT_SIGNATURE, payment.clone())]).await;
    assert_eq!(first.status(), StatusCode::OK);
    for _ in 0..3 {
        let again = present(&url, &[(header::PAYMENT_SIGNATURE, payment.clone())]).await;
        assert_eq!(again.status(), StatusCode::PAYMENT_REQUIRED);
    }
    assert_eq!(shop.served.load(Ordering::SeqCst), 1);
    let burst = signed(&Setting::request().await);
    let answers = futures_util::future::join_all((0..20).map(|_| present(&url, &[]))).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.status() == StatusCode::PAYMENT_REQUIRED)
    );
    let headers = [(header::PAYMENT_SIGNATURE, burst)];
    let answers = futures_util::future::join_all((0..20).map(|_| present(&url, &headers))).await;
    assert_eq!(
        answers
            .iter()
            .filter(|answer| answer.status() == StatusCode::OK)
            .count(),
        1
    );
    assert_eq!(setting.received().await, paid(2));
}

/// The buyer's machine stops while the payment settles. It had paid, and was never served.
#[tokio::test(flavor = "multi_thread")]
async fn disconnected_buyer_is_served_once_on_retry() {
    let (setting, _engine, shop) = town().await;
    let url = format!("{}/goods", shop.url);
    let headers = [(header::PAYMENT_SIGNATURE, signed(&Setting::request().await))];
    let first = tokio::time::timeout(Duration::from_millis(300), present(&url, &headers)).await;
    // It is being settled, or was settled quickly.
    let again = async {
        loop {
            let answer = present(&url, &headers).await;
            if answer.status() != StatusCode::SERVICE_UNAVAILABLE {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let served = match first {
        Ok(answer) => answer,
        Err(_) => tokio::time::timeout(Duration::from_secs(60), again)
            .await
            .unwrap(),
    };
    assert_eq!(served.status(), StatusCode::OK);
    let value = served.headers()[header::PAYMENT_RESPONSE].clone();
    let receipt: SettleResponse = header::decode("receipt", value.as_bytes()).unwrap();
    assert!(receipt.success);
    let goods = served.text().await.unwrap();
    assert_eq!(goods, format!("goods for {}", Setting::buyer().address));
    // Presented once more, it buys nothing, and the response names the transaction.
    let third = present(&url, &headers).await;
    assert_eq!(third.status(), StatusCode::PAYMENT_REQUIRED);
    let value = third.headers()[header::PAYMENT_RESPONSE].clone();
    let refused: SettleResponse = header::decode("receipt", value.as_bytes()).unwrap();
    assert_eq!(
        (refused.success, refused.transaction),
        (false, receipt.transaction)
    );
    assert_eq!(shop.served.load(Ordering::SeqCst), 1);
    assert_eq!(setting.received().await, paid(1));
}

/// attacks.md 186. Each spelling has another unknown field, in the payload or in the authorization.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_spellings_of_one_authorization_run_one_handler() {
    let (setting, _engine, shop) = town().await;
    let request: Value = serde_json::from_str(Setting::request().await.text()).unwrap();
    let url = format!("{}/goods", shop.url);
    let spelled = |number: usize| {
        let mut payment = request["paymentPayload"].clone();
        match number % 2 {
            0 => payment["payload"]["x"] = number.into(),
            _ => payment["payload"]["authorization"]["x"] = number.into(),
        }
        [(header::PAYMENT_SIGNATURE, header::encode(&payment))]
    };
    let all: Vec<_> = (0..20).map(spelled).collect();
    let answers = all.iter().map(|headers| present(&url, headers));
    let answers = futures_util::future::join_all(answers).await;
    let count = |status| {
        answers
            .iter()
            .filter(|answer| answer.status() == status)
            .count()
    };
    assert_eq!(count(StatusCode::OK), 1);
    // A request after the sale is refused.
    let refused = count(StatusCode::SERVICE_UNAVAILABLE) + count(StatusCode::PAYMENT_REQUIRED);
    assert_eq!(refused, 19);
    assert_eq!(shop.served.load(Ordering::SeqCst), 1);
    assert_eq!(setting.received().await, paid(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_header_that_cannot_be_read_is_400() {
    let (_setting, _engine, shop) = town().await;
    let url = format!("{}/goods", shop.url);
    let good = signed(&Setting::request().await);
    for value in [
        "%%%",
        "e30",
        "bm90IGpzb24=",
        "////",
        &good[..good.len() / 2],
    ] {
        let answer = present(&url, &[(header::PAYMENT_SIGNATURE, value.to_owned())]).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{value}");
    }
    // attacks.md 120: more than one payment.
    let other = signed(&Setting::request().await);
    for second in [header::PAYMENT_SIGNATURE, header::X_PAYMENT] {
        let headers = [
            (header::PAYMENT_SIGNATURE, good.clone()),
            (second, other.clone()),
        ];
        assert_eq!(
            present(&url, &headers).await.status(),
            StatusCode::BAD_REQUEST
        );
    }
    assert_eq!(shop.served.load(Ordering::SeqCst), 0);
    // Wallets that support both versions present one payment in both headers.
    let headers = [
        (header::PAYMENT_SIGNATURE, good.clone()),
        (header::X_PAYMENT, good),
    ];
    assert_eq!(present(&url, &headers).await.status(), StatusCode::OK);
    assert_eq!(shop.served.load(Ordering::SeqCst), 1);
}

/// attacks.md 1: the client's copy has a lower price.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_for_other_terms_buys_nothing() {
    let (setting, _engine, shop) = town().await;
    let mut cheap = Setting::requirements();
    cheap.amount = "1".to_owned();
    let payment = signed(&quittance_tests::pay(&Setting::payer(), &cheap).await);
    let answer = present(
        &format!("{}/goods", shop.url),
        &[(header::PAYMENT_SIGNATURE, payment)],
    )
    .await;
    assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED);
    assert_eq!(
        (shop.served.load(Ordering::SeqCst), setting.received().await),
        (0, Amount::ZERO)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn version_1_clients_are_served_too() {
    let (setting, _engine, shop) = town().await;
    let request = Setting::request().await;
    let payload = v1::PaymentPayload {
        x402_version: 1,
        scheme: "exact".to_owned(),
        network: "base-sepolia".to_owned(),
        payload: request.payload.clone(),
        rest: Default::default(),
    };
    let url = format!("{}/goods", shop.url);
    let answer = present(&url, &[(header::X_PAYMENT, header::encode(&payload))]).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let receipt: SettleResponse = header::decode(
        "receipt",
        answer.headers()[header::X_PAYMENT_RESPONSE].as_bytes(),
    )
    .unwrap();
    assert_eq!(
        (receipt.success, receipt.network.as_str()),
        (true, "base-sepolia")
    );
    assert_eq!(setting.received().await, paid(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_handler_settles_nothing_and_payment_stays_valid() {
    let (setting, _engine, shop) = town().await;
    let buyer = buyer();
    let broken = buyer.get(&format!("{}/broken", shop.url)).await.unwrap();
    assert_eq!(broken.response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    // The seller says so, and the payment can still be used.
    let cost = broken.cost.unwrap();
    let word = cost.receipt.unwrap();
    assert_eq!(
        (word.success, word.error_reason.as_deref()),
        (false, Some("handler_failed"))
    );
    assert!(cost.open.is_some());
    assert_eq!(setting.received().await, Amount::ZERO);
    assert_eq!(broken.response.headers()["cache-control"], "no-store");
}

#[tokio::test(flavor = "multi_thread")]
async fn paid_responses_forbid_caching() {
    let (_setting, _engine, shop) = town().await;
    let bought = buyer().get(&format!("{}/cached", shop.url)).await.unwrap();
    assert_eq!(bought.response.headers()["cache-control"], "no-store");
}

/// A facilitator with set answers.
struct Puppet {
    engine: Engine,
    settle: Mutex<Vec<Result<SettleResponse, FacilitatorError>>>,
}

#[async_trait]
impl Facilitator for Puppet {
    async fn verify(&self, _: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        Ok(VerifyResponse::valid(None))
    }

    async fn settle(&self, _: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        self.settle.lock().unwrap().pop().unwrap()
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        self.engine.supported().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_unless_the_money_has_moved() {
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let settled = SettleResponse::settled("eip155:84532", None, "0x1");
    let failed = SettleResponse {
        success: false,
        error_reason: Some("no".to_owned()),
        ..settled.clone()
    };
    let pending = SettleResponse {
        error_reason: Some("settlement_pending".to_owned()),
        ..failed.clone()
    };
    // A retry cannot help, so there is none.
    let fault = Fault {
        retry_after: None,
        ..Fault::new(FaultKind::ChainUnavailable, "down")
    };
    for (answers, status) in [
        (vec![Ok(failed.clone())], StatusCode::PAYMENT_REQUIRED),
        (
            vec![Err(fault.clone().into())],
            StatusCode::SERVICE_UNAVAILABLE,
        ),
        // A pending settlement is asked about once more.
        (
            vec![Ok(pending.clone()), Ok(pending.clone())],
            StatusCode::PAYMENT_REQUIRED,
        ),
        (
            vec![Ok(failed), Ok(pending.clone())],
            StatusCode::PAYMENT_REQUIRED,
        ),
        // The transaction stays known, whatever the second answer says.
        (
            vec![Err(fault.into()), Ok(pending.clone())],
            StatusCode::PAYMENT_REQUIRED,
        ),
        (vec![Ok(settled), Ok(pending)], StatusCode::OK),
    ] {
        let puppet = Puppet {
            engine: engine.clone(),
            settle: Mutex::new(answers),
        };
        let shop = shop(Arc::new(puppet)).await;
        let payment = signed(&Setting::request().await);
        let answer = present(
            &format!("{}/goods", shop.url),
            &[(header::PAYMENT_SIGNATURE, payment)],
        )
        .await;
        assert_eq!(answer.status(), status);
        if let Some(receipt) = answer.headers().get(header::PAYMENT_RESPONSE) {
            let receipt: SettleResponse = header::decode("receipt", receipt.as_bytes()).unwrap();
            assert_eq!(receipt.transaction, "0x1");
        } else {
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        }
        let served = answer.text().await.unwrap().starts_with("goods");
        assert_eq!(served, status == StatusCode::OK);
    }
}

/// attacks.md 9: only the JSON value true is a success.
#[tokio::test(flavor = "multi_thread")]
async fn only_json_true_is_a_success_of_a_facilitator() {
    let setting = Setting::start().await;
    let supported =
        serde_json::to_string(&setting.engine().await.supported().await.unwrap()).unwrap();
    let answered = async |answer: &'static str| {
        let supported = supported.clone();
        let facilitator = Router::new()
            .route("/supported", get(move || async { supported }))
            .route("/verify", post(|| async { r#"{"isValid":true}"# }))
            .route("/settle", post(move || async move { answer }));
        let remote = RemoteFacilitator::new(&listen(facilitator).await).unwrap();
        let shop = shop(Arc::new(remote)).await;
        let payment = signed(&Setting::request().await);
        let headers = [(header::PAYMENT_SIGNATURE, payment)];
        present(&format!("{}/goods", shop.url), &headers).await
    };
    // All at once. Each is asked about again before the handler's response is discarded.
    let naming = [
        r#"{"success":"true","transaction":"0x1","network":"eip155:84532"}"#,
        r#"{"success":1,"transaction":"0x1","network":"eip155:84532"}"#,
        r#"{"transaction":"0x1","network":"eip155:84532"}"#,
        r#"{"success":false,"success":true,"transaction":"0x1","network":"eip155:84532"}"#,
    ];
    // The answer is not a verdict but has a transaction. It may have transferred the money, and the
    // buyer must know it.
    for answer in futures_util::future::join_all(naming.map(&answered)).await {
        assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED);
        let receipt = &answer.headers()[header::PAYMENT_RESPONSE];
        let receipt: SettleResponse = header::decode("receipt", receipt.as_bytes()).unwrap();
        let said = (receipt.success, &*receipt.transaction, receipt.error_reason);
        assert_eq!(said, (false, "0x1", Some("settlement_pending".to_owned())));
    }
    for answer in futures_util::future::join_all(["true", ""].map(answered)).await {
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers().contains_key("retry-after"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_without_its_facilitator_says_so() {
    let remote = RemoteFacilitator::new("http://127.0.0.1:1").unwrap();
    let shop = shop(Arc::new(remote)).await;
    let answer = reqwest::get(format!("{}/goods", shop.url)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        reqwest::get(format!("{}/free", shop.url))
            .await
            .unwrap()
            .status(),
        StatusCode::OK
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn chain_that_is_down_gives_no_verdict() {
    let (setting, _engine, shop) = town().await;
    setting.node.breaks("eth_call", Fate::Status(500), 2);
    // The buyer presents the same payment again, and is served.
    let bought = buyer().get(&format!("{}/goods", shop.url)).await.unwrap();
    assert!(bought.cost.unwrap().receipt.unwrap().success);
    assert_eq!(setting.received().await, paid(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_payment_is_presented_again_and_not_signed_again() {
    let (setting, _engine, shop) = town().await;
    setting
        .local
        .set_mining(quittance_devnet::Mining::Manual)
        .await
        .unwrap();
    let url = format!("{}/goods", shop.url);
    let buying = tokio::spawn(async move { buyer().get(&url).await.unwrap() });
    // Longer than the facilitator waits, twice: the seller has answered "pending".
    tokio::time::sleep(Duration::from_millis(4_500)).await;
    setting.local.mine().await.unwrap();
    let bought = buying.await.unwrap();
    assert_eq!(bought.response.status(), StatusCode::OK);
    setting
        .local
        .set_mining(quittance_devnet::Mining::Instant)
        .await
        .unwrap();
    assert_eq!(setting.received().await, paid(1));
    assert_eq!(setting.sent(Setting::signers()[0].address).await, 1);
}

/// A server that accepts payments and never serves. It stores the payments.
#[derive(Clone, Default)]
struct Thief(Arc<Mutex<Vec<String>>>);

impl Thief {
    async fn serve(self, headers: HeaderMap, answer: Response) -> Response {
        match headers.get(header::PAYMENT_SIGNATURE) {
            Some(payment) => {
                self.0
                    .lock()
                    .unwrap()
                    .push(payment.to_str().unwrap().to_owned());
                answer
            }
            None => required().into_response(),
        }
    }

    fn payments(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

fn required() -> impl IntoResponse + use<> {
    let resource = serde_json::from_str(r#"{"url":"http://thief.example/"}"#).unwrap();
    let required = PaymentRequired {
        x402_version: 2,
        error: None,
        resource,
        accepts: vec![Setting::requirements()],
        extensions: None,
        rest: Default::default(),
    };
    (
        StatusCode::PAYMENT_REQUIRED,
        [(header::PAYMENT_REQUIRED, header::encode(&required))],
    )
}

/// attacks.md 175: 402, paid, and 402 again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_serves_gets_one_authorization() {
    for answer in [
        StatusCode::PAYMENT_REQUIRED,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::INTERNAL_SERVER_ERROR,
    ] {
        let thief = Thief::default();
        let own = thief.clone();
        let app = Router::new().route(
            "/",
            get(move |headers| own.serve(headers, answer.into_response())),
        );
        let (url, buyer) = (listen(app).await, buyer());
        for _ in 0..3 {
            match buyer.get(&url).await {
                Err(BuyError::Refused { .. }) => {
                    assert_ne!(answer, StatusCode::INTERNAL_SERVER_ERROR)
                }
                Ok(bought) => assert_eq!(bought.response.status(), answer),
                Err(other) => panic!("{other}"),
            }
        }
        let payments = thief.payments();
        assert!(
            payments.len() >= 3 && payments.iter().all(|payment| *payment == payments[0]),
            "{answer}"
        );
    }
}

/// A payment goes only to the origin that it is for.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_follows_no_redirect_and_no_foreign_price() {
    let thief = Thief::default();
    let own = thief.clone();
    let elsewhere = listen(Router::new().route(
        "/",
        get(move |headers| own.serve(headers, "x".into_response())),
    ))
    .await;
    // The price comes from another origin.
    let to = elsewhere.clone();
    let lure =
        listen(Router::new().route("/", get(move || async move { Redirect::temporary(&to) })))
            .await;
    let refused = buyer().get(&lure).await;
    assert!(
        matches!(refused, Err(BuyError::Redirect { .. })),
        "{refused:?}"
    );
    // The price comes from here, and the paid request is redirected to another origin.
    let to = elsewhere.clone();
    let here = move |headers: HeaderMap| async move {
        match headers.contains_key(header::PAYMENT_SIGNATURE) {
            true => Redirect::temporary(&to).into_response(),
            false => required().into_response(),
        }
    };
    let trap = listen(Router::new().route("/", get(here))).await;
    let refused = buyer().get(&trap).await;
    assert!(
        matches!(refused, Err(BuyError::Refused { .. })),
        "{refused:?}"
    );
    assert_eq!(thief.payments(), Vec::<String>::new());
    // Redirects within an origin are followed before the payment.
    let app = Router::new()
        .route("/old", get(|| async { Redirect::permanent("/new") }))
        .route(
            "/new",
            get(|request: Request| async move {
                match request.headers().contains_key(header::PAYMENT_SIGNATURE) {
                    true => "goods".into_response(),
                    false => required().into_response(),
                }
            }),
        );
    let shop = listen(app).await;
    assert_eq!(
        buyer()
            .get(&format!("{shop}/old"))
            .await
            .unwrap()
            .response
            .text()
            .await
            .unwrap(),
        "goods"
    );
}

/// Requirements that a buyer must refuse, one by one (attacks.md 177 and the categories before it).
#[tokio::test(flavor = "multi_thread")]
async fn buyer_signs_only_what_its_limits_allow() {
    let offers = |change: fn(&mut PaymentRequired)| {
        let resource = serde_json::from_str(r#"{"url":"http://a.example/"}"#).unwrap();
        let mut required = PaymentRequired {
            x402_version: 2,
            error: None,
            resource,
            accepts: vec![Setting::requirements()],
            extensions: None,
            rest: Default::default(),
        };
        change(&mut required);
        header::encode(&required)
    };
    for (name, value) in [
        (
            "too much",
            offers(|required| required.accepts[0].amount = "1000001".to_owned()),
        ),
        (
            "far too much",
            offers(|required| required.accepts[0].amount = format!("1{}", "0".repeat(70))),
        ),
        (
            "no amount",
            offers(|required| required.accepts[0].amount = "0x1".to_owned()),
        ),
        (
            "an unknown token",
            offers(|required| required.accepts[0].asset = format!("0x{:040x}", 7)),
        ),
        (
            "the same token elsewhere",
            offers(|required| required.accepts[0].network = "eip155:1".to_owned()),
        ),
        (
            "an unknown scheme",
            offers(|required| required.accepts[0].scheme = "upto".to_owned()),
        ),
        (
            "another way to transfer",
            offers(|required| {
                let extra = serde_json::json!({ "name": "USDC", "version": "2", "assetTransferMethod": "barter" });
                required.accepts[0].extra = Some(quittance_core::json::Object::of(&extra).unwrap());
            }),
        ),
        ("nothing", offers(|required| required.accepts.clear())),
        (
            "a recipient that is not an address",
            offers(|required| required.accepts[0].pay_to = "merchant".to_owned()),
        ),
    ] {
        let thief = Thief::default();
        let own = thief.clone();
        let answer = move |headers: HeaderMap| {
            let value = value.clone();
            async move {
                if headers.contains_key(header::PAYMENT_SIGNATURE) {
                    own.serve(headers, "x".into_response()).await
                } else {
                    (
                        StatusCode::PAYMENT_REQUIRED,
                        [(header::PAYMENT_REQUIRED, value)],
                    )
                        .into_response()
                }
            }
        };
        let url = listen(Router::new().route("/", get(answer))).await;
        let refused = buyer().get(&url).await;
        assert!(
            matches!(refused, Err(BuyError::NotAcceptable(_))),
            "{name}: {refused:?}"
        );
        assert_eq!(thief.payments(), Vec::<String>::new(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn affordable_option_is_taken_in_any_order() {
    let (setting, _engine, shop) = town().await;
    drop(shop);
    let dear = quittance_evm::ExactOffer::usdc(
        "base-sepolia",
        "5",
        &Setting::seller().address.to_string(),
    )
    .unwrap();
    let engine: Arc<dyn Facilitator> = Arc::new(_engine);
    let price = PaymentLayer::new(engine)
        .accept(dear)
        .accept(Setting::offer());
    let url = listen(Router::new().route("/", get(|| async { "goods" }).layer(price))).await;
    assert_eq!(
        buyer().get(&url).await.unwrap().cost.unwrap().amount,
        Amount::from(PRICE)
    );
    assert_eq!(setting.received().await, paid(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_total_limit_ends_the_spending() {
    let (setting, _engine, shop) = town().await;
    let limits = Limits::default().in_total("0.025");
    let buyer = Buyer::builder()
        .payer(Setting::payer())
        .limits(limits)
        .build()
        .unwrap();
    let url = format!("{}/goods", shop.url);
    for _ in 0..2 {
        buyer.get(&url).await.unwrap();
    }
    assert!(matches!(buyer.get(&url).await, Err(BuyError::OverLimit(_))));
    assert_eq!(setting.received().await, paid(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_buyers_at_once_are_each_served_for_their_own_payment() {
    let (setting, _engine, shop) = town().await;
    let buyer = buyer();
    let url = format!("{}/goods", shop.url);
    let bought = futures_util::future::join_all((0..20).map(|_| buyer.get(&url))).await;
    assert!(bought.iter().all(|bought| {
        bought
            .as_ref()
            .is_ok_and(|bought| bought.response.status() == StatusCode::OK)
    }));
    assert_eq!(setting.received().await, paid(20));
}

/// A version 1 server: requirements in the body, the payment in X-PAYMENT.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_1_server_is_paid_in_version_1() {
    let terms = r#"{"x402Version":1,"error":"pay","accepts":[{"scheme":"exact","network":"base-sepolia","maxAmountRequired":"10000",
        "resource":"http://a.example/","description":"","mimeType":"","payTo":"PAYTO","maxTimeoutSeconds":60,
        "asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","extra":{"name":"USDC","version":"2"}}]}"#;
    let terms = terms.replace("PAYTO", &Setting::seller().address.to_string());
    let setting = Setting::start().await;
    let engine = setting.engine().await;
    let serve = move |headers: HeaderMap| async move {
        let Some(payment) = headers.get(header::X_PAYMENT) else {
            return (StatusCode::PAYMENT_REQUIRED, terms).into_response();
        };
        let payload: v1::PaymentPayload = header::decode("X-PAYMENT", payment.as_bytes()).unwrap();
        let required: v1::PaymentRequired = serde_json::from_str(&terms).unwrap();
        let request = PaymentRequest::new_v1(payload, required.accepts[0].clone()).unwrap();
        let settled = engine.settle(&request).await.unwrap();
        (
            [(header::X_PAYMENT_RESPONSE, header::encode(&settled))],
            "goods",
        )
            .into_response()
    };
    let url = listen(Router::new().route("/", get(serve))).await;
    let bought = buyer().get(&url).await.unwrap();
    assert!(bought.cost.unwrap().receipt.unwrap().success);
    assert_eq!(setting.received().await, paid(1));
}

#[test]
fn a_payload_is_read_as_it_was_signed() {
    let text = include_str!("../../crates/core/vectors/payment_payload.json");
    let payload: PaymentPayload = serde_json::from_str(text).unwrap();
    assert_eq!(payload.x402_version, 2);
}
