//! The HTTP service, seen by its clients.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::time::Duration;

use quittance_core::PaymentRequest;
use quittance_service::{Keys, Rate, ServerOptions, ServiceOptions, openapi, router, serve};
use quittance_tests::evm::Setting;
use quittance_tests::proxy::Fate;
use quittance_tests::until;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

struct Service {
    url: String,
    setting: Setting,
    stop: Option<oneshot::Sender<()>>,
    stopped: tokio::task::JoinHandle<Duration>,
}

impl Service {
    async fn start() -> Self {
        Self::with(
            ServiceOptions::new(Keys::anyone()),
            ServerOptions::default(),
        )
        .await
    }

    async fn with(service: ServiceOptions, server: ServerOptions) -> Self {
        Self::on(Setting::start().await, service, server).await
    }

    async fn on(setting: Setting, service: ServiceOptions, server: ServerOptions) -> Self {
        let engine = setting.engine().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let router = router(engine, service);
        let stopped = tokio::spawn(serve(router, listener, server, async move {
            drop(stopped.await)
        }));
        Self {
            url,
            setting,
            stop: Some(stop),
            stopped,
        }
    }

    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        let post = Client::new().post(format!("{}{path}", self.url));
        post.header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        Client::new()
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .unwrap()
    }

    fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }
}

/// Asserts that a response matches the interface's description.
fn assert_described(path: &str, method: &str, status: StatusCode, body: &Value) {
    let description = openapi();
    let responses = &description["paths"][path][method]["responses"];
    let response = &responses[status.as_str()];
    assert!(
        !response.is_null(),
        "{path} does not say that it answers {status}: {responses}"
    );
    let schema = &response["content"]["application/json"]["schema"];
    let whole =
        json!({ "$ref": "#/schema", "schema": schema, "components": description["components"] });
    let validator = jsonschema::validator_for(&whole).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(body)
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{path} {status}: {errors:?}\n{body}");
}

async fn described(path: &str, method: &str, response: Response) -> (StatusCode, Value) {
    let status = response.status();
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert!(response.headers().contains_key("x-request-id"));
    let body: Value = response.json().await.unwrap();
    assert_described(path, method, status, &body);
    (status, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_goes_the_whole_way_over_http() {
    let service = Service::start().await;
    let request = Setting::request().await;
    let body = || request.text().to_owned();

    let (status, verdict) =
        described("/verify", "post", service.post("/verify", body()).await).await;
    assert_eq!(
        (status, &verdict["isValid"]),
        (StatusCode::OK, &json!(true))
    );
    let (status, outcome) =
        described("/settle", "post", service.post("/settle", body()).await).await;
    assert_eq!(
        (status, &outcome["success"]),
        (StatusCode::OK, &json!(true))
    );
    let (_, again) = described("/settle", "post", service.post("/settle", body()).await).await;
    assert_eq!(
        (&again["success"], &again["errorReason"]),
        (&json!(false), &json!("duplicate_settlement"))
    );
    assert_eq!(again["transaction"], outcome["transaction"]);

    let id = outcome["extra"]["settlement"].as_str().unwrap();
    let state = service.get(&format!("/settlements/{id}")).await;
    let (_, state) = described("/settlements/{id}", "get", state).await;
    assert_eq!(
        (&state["state"], &state["successReported"]),
        (&json!("settled"), &json!(true))
    );
    let by_transaction = format!(
        "/settlements?transaction={}",
        outcome["transaction"].as_str().unwrap()
    );
    let (_, found) = described("/settlements", "get", service.get(&by_transaction).await).await;
    // Only the answer about one settlement says what can still be refunded.
    let mut state = state;
    let refundable = state.as_object_mut().unwrap().remove("refundable");
    assert_eq!(refundable.as_ref(), Some(&state["amount"]));
    assert_eq!(found["settlements"][0], state);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_says_of_itself_is_true() {
    let service = Service::start().await;
    let (_, supported) = described("/supported", "get", service.get("/supported").await).await;
    assert_eq!(supported["kinds"].as_array().unwrap().len(), 2);
    let (status, health) = described("/health", "get", service.get("/health").await).await;
    assert_eq!((status, &health["status"]), (StatusCode::OK, &json!("ok")));
    let description: Value = service.get("/openapi.json").await.json().await.unwrap();
    assert_eq!(description, *openapi());
    assert_eq!(
        service.get("/metrics").await.status(),
        StatusCode::NOT_FOUND
    );
    let unknown = format!("/settlements/{}", "0".repeat(64));
    for path in [
        unknown.as_str(),
        "/settlements/x",
        "/settlements/%ff",
        "/",
        "/Verify",
        "/verify/x",
        "/nothing",
    ] {
        assert_eq!(
            service.get(path).await.status(),
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    for path in ["/verify", "/settle"] {
        let answer = service.get(path).await;
        assert_eq!(answer.headers()["allow"], "POST", "{path}");
        let (status, problem) = described(path, "post", answer).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(problem["error"], "method_not_allowed");
    }
    for query in ["", "?transaction", "?transactoin=0x00", "?%ff"] {
        let answer = service.get(&format!("/settlements{query}")).await;
        let (status, problem) = described("/settlements", "get", answer).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
        assert_eq!(problem["field"], "transaction");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_request_is_400_and_names_the_field() {
    let service = Service::start().await;
    let good = Setting::request().await.text().to_owned();
    let amount = "\"amount\":\"10000\"";
    assert!(good.contains(amount));
    for (body, field) in [
        (String::new(), "body"),
        ("null".to_owned(), "body"),
        ("{".to_owned(), "body"),
        ("{}".to_owned(), "body"),
        ("[]".to_owned(), "body"),
        ("\u{0}".to_owned(), "body"),
        (format!("{good}x"), "body"),
        (
            good.replacen(amount, "\"amount\":1e4", 1),
            "paymentPayload.accepted.amount",
        ),
        (
            good.replace(amount, "\"amount\":\"-1\""),
            "paymentRequirements.amount",
        ),
        (
            good.replacen(amount, "\"amount\":\"1\",\"amount\":\"10000\"", 1),
            "paymentPayload.accepted",
        ),
        (
            good.replace("\"value\":\"10000\"", "\"value\":\"1e4\""),
            "paymentPayload.payload.authorization.value",
        ),
        (
            good.replace("\"value\":\"10000\"", "\"value\":10000.0"),
            "paymentPayload.payload.authorization.value",
        ),
        (
            good.replace("\"x402Version\":2", "\"x402Version\":\"two\""),
            "body.x402Version",
        ),
        (
            good.replace("\"payTo\":\"0x", "\"payTo\":\""),
            "paymentRequirements.payTo",
        ),
        (
            good.replace("\"signature\":\"0x", "\"signature\":\"0xzz"),
            "paymentPayload.payload.signature",
        ),
        (
            good.replace(
                "\"name\":\"USDC\"",
                &format!("\"name\":{}1{}", "[".repeat(99), "]".repeat(99)),
            ),
            "paymentPayload.accepted.extra",
        ),
    ] {
        for path in ["/verify", "/settle"] {
            let response = service.post(path, body.clone()).await;
            let (status, problem) = described(path, "post", response).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {field}");
            assert_eq!(problem["error"], "invalid_payload");
            assert_eq!(problem["field"], field, "{problem}");
        }
    }
    let latin1 = service.post("/verify", vec![b'"', 0xff, b'"']).await;
    assert_eq!(latin1.status(), StatusCode::BAD_REQUEST);
}

/// The specification requires `network` in every answer to /settle. A refusal of the message itself
/// had none.
#[tokio::test(flavor = "multi_thread")]
async fn refused_message_is_answered_with_its_network() {
    let service = Service::start().await;
    let good = Setting::request().await.text().to_owned();
    for (body, status, network) in [
        (
            good.replace("\"x402Version\":2", "\"x402Version\":3"),
            200,
            "eip155:84532",
        ),
        (
            good.replace("\"scheme\":\"exact\"", "\"scheme\":7"),
            400,
            "eip155:84532",
        ),
        (good.replace("eip155:84532", "eip155:1"), 200, "eip155:1"),
        (good.replace("\"payTo\"", "\"payto\""), 400, "eip155:84532"),
        ("{}".to_owned(), 400, ""),
    ] {
        let (code, outcome) =
            described("/settle", "post", service.post("/settle", body).await).await;
        let said = (code.as_u16(), &outcome["network"]);
        assert_eq!(said, (status, &json!(network)), "{outcome}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_payment_is_200_with_its_reason() {
    let service = Service::start().await;
    const ANOTHER: &str = "0x00000000000000000000000000000000000000Aa";
    let good = Setting::request().await.text().to_owned();
    let mut forged: Value = serde_json::from_str(&good).unwrap();
    forged["paymentPayload"]["payload"]["authorization"]["nonce"] = json!(format!("0x{:064x}", 7));
    for (body, reason, expected) in [
        (
            good.replace("\"x402Version\":2", "\"x402Version\":3"),
            "invalid_x402_version",
            "ersion",
        ),
        (
            good.replacen("\"x402Version\":2", "\"x402Version\":1", 2)
                .replacen("\"x402Version\":1", "\"x402Version\":2", 1),
            "invalid_x402_version",
            "ersion",
        ),
        (
            good.replace("eip155:84532", "eip155:1"),
            "invalid_network",
            "supported networks: eip155:84532",
        ),
        (
            good.replace("eip155:84532", "near:mainnet"),
            "invalid_network",
            "supported networks: eip155:84532",
        ),
        (
            good.replace("\"scheme\":\"exact\"", "\"scheme\":\"barter\""),
            "unsupported_scheme",
            "schemes supported on eip155:84532 in version 2: exact",
        ),
        (
            good.replace("0x036CbD53842c5426634e7929541eC2318f3dCF7e", ANOTHER),
            "unsupported_asset",
            "USDC 0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        ),
        (
            good.replace("\"version\":\"2\"", "\"other\":\"2\""),
            "invalid_exact_evm_missing_eip712_domain",
            "name and the version",
        ),
        (
            forged.to_string(),
            "invalid_exact_evm_signature",
            "over TransferWithAuthorization",
        ),
    ] {
        let (status, verdict) = described(
            "/verify",
            "post",
            service.post("/verify", body.clone()).await,
        )
        .await;
        assert_eq!(
            (status, &verdict["invalidReason"]),
            (StatusCode::OK, &json!(reason)),
            "{verdict}"
        );
        let message = verdict["invalidMessage"].as_str().unwrap_or_default();
        assert!(message.contains(expected), "{verdict}");
        let (status, outcome) =
            described("/settle", "post", service.post("/settle", body).await).await;
        assert_eq!(
            (status, &outcome["errorReason"]),
            (StatusCode::OK, &json!(reason)),
            "{outcome}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_is_down_is_503_with_retry_after() {
    let service = Service::start().await;
    let request = Setting::request().await;
    service
        .setting
        .node
        .breaks_for_good("eth_call", Fate::Status(500));
    for path in ["/verify", "/settle"] {
        let response = service.post(path, request.text().to_owned()).await;
        assert_eq!(response.headers()["retry-after"], "5");
        let (status, problem) = described(path, "post", response).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            (&problem["error"], &problem["retryable"]),
            (&json!("chain_unavailable"), &json!(true))
        );
        // It cannot be mistaken for a verdict, and does not reveal the node's address.
        assert!(problem.get("isValid").is_none() && problem.get("success").is_none());
        assert!(!problem.to_string().contains("127.0.0.1"), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn version_1_requests_get_version_1_names() {
    let service = Service::start().await;
    let v2: Value = serde_json::from_str(Setting::request().await.text()).unwrap();
    let terms = &v2["paymentRequirements"];
    let body = json!({
        "x402Version": 1,
        "paymentPayload": { "x402Version": 1, "scheme": "exact", "network": "base-sepolia", "payload": v2["paymentPayload"]["payload"] },
        "paymentRequirements": {
            "scheme": "exact", "network": "base-sepolia", "maxAmountRequired": terms["amount"], "resource": "http://a.example/",
            "description": "", "mimeType": "", "payTo": terms["payTo"], "maxTimeoutSeconds": 60, "asset": terms["asset"], "extra": terms["extra"],
        }
    });
    let (_, verdict) = described(
        "/verify",
        "post",
        service.post("/verify", body.to_string()).await,
    )
    .await;
    assert_eq!(verdict["isValid"], true, "{verdict}");
    let (_, outcome) = described(
        "/settle",
        "post",
        service.post("/settle", body.to_string()).await,
    )
    .await;
    assert_eq!(
        (&outcome["success"], &outcome["network"]),
        (&json!(true), &json!("base-sepolia"))
    );
    // It is the same authorization in either version.
    let again = service.post("/settle", v2.to_string()).await;
    assert_eq!(
        again.json::<Value>().await.unwrap()["errorReason"],
        "duplicate_settlement"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_with_a_key_may_call() {
    let options = ServiceOptions::new(Keys::new(&["sesame".into()]));
    let service = Service::with(options, ServerOptions::default()).await;
    let request = Setting::request().await;
    let settle = |key: Option<&'static str>| {
        let post = Client::new()
            .post(format!("{}/settle", service.url))
            .body(request.text().to_owned());
        let post = match key {
            Some(key) => post.header("authorization", key),
            None => post,
        };
        async move { post.send().await.unwrap() }
    };
    assert_eq!(settle(Some("bearer sesame")).await.status(), StatusCode::OK);
    for key in [
        None,
        Some("Bearer wrong"),
        Some("sesame"),
        Some("Bearer"),
        Some("Basic sesame"),
    ] {
        let (status, _) = described("/settle", "post", settle(key).await).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{key:?}");
    }
    let settlement = service
        .get(&format!("/settlements/{}", "0".repeat(64)))
        .await;
    assert_eq!(settlement.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(service.get("/supported").await.status(), StatusCode::OK);
    assert_eq!(settle(Some("Bearer sesame")).await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_heads_are_bounded() {
    let service = Service::start().await;
    let long = format!("{{\"x\":\"{}\"}}", "a".repeat(70_000));
    let (status, _) = described("/verify", "post", service.post("/verify", long).await).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    // Chunks without end.
    let endless = reqwest::Body::wrap_stream(futures_util::stream::repeat_with(|| {
        Ok::<_, std::io::Error>(vec![b' '; 8192])
    }));
    let post = Client::new()
        .post(format!("{}/settle", service.url))
        .body(endless)
        .send()
        .await;
    assert!(post.map_or(true, |answer| answer.status()
        == StatusCode::PAYLOAD_TOO_LARGE));
    let head = service_get_with_header(&service, &"h".repeat(64 * 1024)).await;
    assert!(head.is_none_or(|status| status == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    let form = Client::new()
        .post(format!("{}/verify", service.url))
        .header("content-type", "text/plain")
        .body("{}")
        .send()
        .await
        .unwrap();
    let (status, _) = described("/verify", "post", form).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(service.get("/supported").await.status(), StatusCode::OK);
}

async fn service_get_with_header(service: &Service, value: &str) -> Option<StatusCode> {
    let get = Client::new()
        .get(format!("{}/health", service.url))
        .header("x-long", value);
    get.send().await.ok().map(|answer| answer.status())
}

/// Waits until the server closes a connection. Returns what the server sent before.
async fn closed(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut said)).await;
    // A reset is a closed connection, too.
    drop(read.expect("the connection is still open"));
    String::from_utf8(said).unwrap()
}

/// A client could open a thousand connections, send nothing on them, and block all others.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_requests_are_closed_and_block_no_client() {
    const SLOTS: usize = 8;
    let mut server = ServerOptions::default();
    server.connections_max = SLOTS;
    server.connections_per_address = SLOTS;
    server.header_max = Duration::from_millis(300);
    let service = Service::with(ServiceOptions::new(Keys::anyone()), server).await;
    let beginnings: [&[u8]; 4] = [
        b"",
        b"P",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /verify HTTP/1.1\r\nHost: x\r\n",
    ];
    let mut silent = Vec::new();
    for at in 0..SLOTS {
        let mut stream = TcpStream::connect(service.address()).await.unwrap();
        let beginning = beginnings[at % beginnings.len()];
        stream.write_all(beginning).await.unwrap();
        silent.push(stream);
    }
    let patient = tokio::time::timeout(Duration::from_secs(10), service.get("/supported"));
    assert_eq!(patient.await.unwrap().status(), StatusCode::OK);
    for mut stream in silent {
        let mut said = Vec::new();
        let read = stream.read_to_end(&mut said);
        let read = tokio::time::timeout(Duration::from_secs(10), read).await;
        assert!(read.is_ok(), "the connection is still open");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_peer_are_limited() {
    let mut server = ServerOptions::default();
    server.connections_per_address = 2;
    let service = Service::with(ServiceOptions::new(Keys::anyone()), server).await;
    let _first = TcpStream::connect(service.address()).await.unwrap();
    let second = TcpStream::connect(service.address()).await.unwrap();
    let mut third = TcpStream::connect(service.address()).await.unwrap();
    assert_eq!(closed(&mut third).await, "");
    drop(second);
    until("a place is free again", || async {
        let get = Client::new().get(format!("{}/supported", service.url));
        get.send().await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_serves_many_requests_and_ends_when_it_is_idle() {
    let mut server = ServerOptions::default();
    server.header_max = Duration::from_secs(1);
    server.idle_max = Duration::from_secs(4);
    let service = Service::with(ServiceOptions::new(Keys::anyone()), server).await;
    let mut stream = TcpStream::connect(service.address()).await.unwrap();
    let mut answer = vec![0; 4096];
    for _ in 0..3 {
        let get = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(get).await.unwrap();
        let read = stream.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 404"));
        // Longer than the limit for a new client, shorter than that for a known one.
        tokio::time::sleep(Duration::from_millis(1200)).await;
    }
    assert_eq!(closed(&mut stream).await, "");
}

/// Makes blocks until all are answered. A block made before a transaction reached the node does not
/// have it.
async fn mine_until_all_end(service: &Service, settling: &[tokio::task::JoinHandle<Value>]) {
    until("all are answered", || async {
        service.setting.local.mine().await.unwrap();
        settling.iter().all(|settling| settling.is_finished())
    })
    .await;
}

/// Settles this many new payments. Waits until all of them are in progress.
async fn settling(service: &Service, many: usize) -> Vec<tokio::task::JoinHandle<Value>> {
    let manual = quittance_devnet::Mining::Manual;
    service.setting.local.set_mining(manual).await.unwrap();
    let mut settling = Vec::new();
    for _ in 0..many {
        let request: PaymentRequest = Setting::request().await;
        let post = Client::new()
            .post(format!("{}/settle", service.url))
            .body(request.text().to_owned());
        settling.push(tokio::spawn(async move {
            post.send().await.unwrap().json::<Value>().await.unwrap()
        }));
    }
    until("all are under way", || async {
        let health: Value = service.get("/health").await.json().await.unwrap();
        health["inProgress"] == many
    })
    .await;
    settling
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_is_refused_and_loses_no_payment() {
    // One caller may use all places that are free.
    let mut options = ServiceOptions::new(Keys::anyone());
    options.waiting_max = 4;
    let service = Service::with(options, ServerOptions::default()).await;
    let settling = settling(&service, 2).await;
    let body = Setting::request().await.text().to_owned();
    let busy = service.post("/settle", body).await;
    assert_eq!(busy.headers()["retry-after"], "1");
    let (status, problem) = described("/settle", "post", busy).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(problem["error"], "busy");
    // The health check still gets an answer.
    for path in ["/health", "/supported", "/openapi.json"] {
        assert_eq!(service.get(path).await.status(), StatusCode::OK, "{path}");
    }
    mine_until_all_end(&service, &settling).await;
    for settled in settling {
        assert_eq!(settled.await.unwrap()["success"], true);
    }
}

/// Each /settle held a permit for up to `settle_wait`, while it only waited for a block. The first
/// callers blocked all others.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_settlement_holds_no_permit() {
    let mut options = ServiceOptions::new(Keys::anyone());
    options.requests_max = 1;
    let service = Service::with(options, ServerOptions::default()).await;
    let settling = settling(&service, 1).await;
    let body = Setting::request().await.text().to_owned();
    until("the place is free again", || async {
        service.post("/verify", body.clone()).await.status() == StatusCode::OK
    })
    .await;
    assert!(!settling[0].is_finished());
    mine_until_all_end(&service, &settling).await;
    for settled in settling {
        assert_eq!(settled.await.unwrap()["success"], true);
    }
}

/// Base URLs with a trailing slash, and clients that add one, got 404.
#[tokio::test(flavor = "multi_thread")]
async fn additional_slashes_do_not_change_the_path() {
    let service = Service::start().await;
    let request = Setting::request().await;
    for path in ["/verify/", "//verify", "//verify//"] {
        let answer = service.post(path, request.text().to_owned()).await;
        let (status, verdict) = described("/verify", "post", answer).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        assert_eq!(verdict["isValid"], true, "{path}: {verdict}");
    }
    let answer = service.post("//settle", request.text().to_owned()).await;
    let (_, outcome) = described("/settle", "post", answer).await;
    assert_eq!(outcome["success"], true, "{outcome}");
    let named = outcome["transaction"].as_str().unwrap();
    let path = format!("/settlements/?transaction={named}");
    assert_eq!(service.get(&path).await.status(), StatusCode::OK);
    assert_eq!(service.get("//health/").await.status(), StatusCode::OK);
}

/// An additional slash does not bypass the key.
#[tokio::test(flavor = "multi_thread")]
async fn every_spelling_of_a_path_needs_the_key() {
    let options = ServiceOptions::new(Keys::new(&["sesame".into()]));
    let service = Service::with(options, ServerOptions::default()).await;
    for path in [
        "/settle",
        "//settle",
        "/settle/",
        "//settlements?transaction=0x00",
    ] {
        let answer = match path.contains("settlements") {
            true => service.get(path).await,
            false => service.post(path, "{}").await,
        };
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
}

/// A client of a facilitator whose answers must not be lost.
struct Raw(TcpStream);

impl Raw {
    async fn connect(service: &Service) -> Self {
        Self(TcpStream::connect(service.address()).await.unwrap())
    }

    async fn connect_from(service: &Service, address: &str) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(address.parse().unwrap()).unwrap();
        let to = service.address().parse().unwrap();
        Self(socket.connect(to).await.unwrap())
    }

    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// One response: its lower-case head, and a body of the length it states.
    async fn answer(&mut self) -> (String, String) {
        let read = async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.0.read_u8().await.expect("an answer"));
            }
            let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap();
            let length = length.split("\r\n").next().unwrap().parse().unwrap();
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).await.unwrap();
            (head, String::from_utf8(body).unwrap())
        };
        let answered = tokio::time::timeout(Duration::from_secs(5), read).await;
        answered.expect("an answer in time")
    }
}

/// A refusal after the head left the body on the connection. The connection was then closed without
/// a response, and the client's next request on it failed: 60 of 60 with the body 20 ms later.
#[tokio::test(flavor = "multi_thread")]
async fn refusal_keeps_the_connection_usable_or_closes_it() {
    let options = ServiceOptions::new(Keys::new(&["sesame".into()]));
    let service = Service::with(options, ServerOptions::default()).await;
    let head = |more: &str| format!("POST /settle HTTP/1.1\r\nHost: x\r\n{more}\r\n");
    let body = "x".repeat(60_000);
    for late in [0, 20, 200] {
        let mut client = Raw::connect(&service).await;
        for _ in 0..2 {
            client.send(&head("Content-Length: 60000\r\n")).await;
            tokio::time::sleep(Duration::from_millis(late)).await;
            client.send(&body).await;
            let (said, problem) = client.answer().await;
            assert!(said.starts_with("http/1.1 401"), "{late}: {said}");
            assert!(!said.contains("connection: close"), "{late}: {said}");
            assert!(problem.contains("unauthorized"), "{problem}");
        }
    }
    // A body that never arrives, one that is too long to be read, and one that waits for `100
    // Continue`.
    for more in [
        "Content-Length: 10\r\n",
        "Content-Length: 10000000000\r\n",
        "Content-Length: 10\r\nExpect: 100-continue\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Content-Length: 10\r\nAuthorization: Bearer sesame\r\nContent-Type: text/plain\r\n",
    ] {
        let mut client = Raw::connect(&service).await;
        client.send(&head(more)).await;
        let (said, _) = client.answer().await;
        assert!(said.contains("connection: close"), "{more}: {said}");
        assert_eq!(closed(&mut client.0).await, "", "{more}");
    }
}

/// With all connections in use, `/health` got no answer until the first of them timed out.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connection_of_the_busiest_peer_is_closed_for_a_new_one() {
    const MOST: usize = 6;
    let mut server = ServerOptions::default();
    server.connections_max = MOST;
    server.header_max = Duration::from_secs(60);
    let service = Service::with(ServiceOptions::new(Keys::anyone()), server).await;
    let mut honest = Raw::connect_from(&service, "127.0.0.2:0").await;
    let get = "GET /supported HTTP/1.1\r\nHost: x\r\n\r\n";
    honest.send(get).await;
    assert!(honest.answer().await.0.starts_with("http/1.1 200"));
    let mut greedy = Vec::new();
    for _ in 0..3 * MOST {
        greedy.push(Raw::connect_from(&service, "127.0.0.3:0").await);
    }
    let mut supervisor = Raw::connect_from(&service, "127.0.0.4:0").await;
    supervisor
        .send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    let (said, _) = supervisor.answer().await;
    assert!(said.starts_with("http/1.1 200"), "{said}");
    // The older connection with few requests is still open.
    honest.send(get).await;
    assert!(honest.answer().await.0.starts_with("http/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_health_is_answered_when_all_connections_are_busy() {
    const MOST: usize = 4;
    let mut server = ServerOptions::default();
    server.connections_max = MOST;
    let service = Service::with(ServiceOptions::new(Keys::anyone()), server).await;
    let mut busy = Vec::new();
    for _ in 0..MOST {
        let mut client = Raw::connect(&service).await;
        client
            .send("POST /settle HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            .await;
        busy.push(client);
    }
    // Their requests have begun.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (path, status) in [
        ("/health", "200"),
        ("/supported", "503"),
        ("/health", "200"),
    ] {
        let mut client = Raw::connect(&service).await;
        let get = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        client.send(&get).await;
        let (said, _) = client.answer().await;
        assert!(
            said.starts_with(&format!("http/1.1 {status}")),
            "{path}: {said}"
        );
        assert!(said.contains("connection: close"), "{path}: {said}");
        assert_eq!(closed(&mut client.0).await, "", "{path}");
    }
    // No connection with a request in progress was closed.
    for mut client in busy {
        client.send("12345678").await;
        assert!(client.answer().await.0.starts_with("http/1.1 400"));
    }
}

/// A seller sends the payments of all its clients to /verify. One client without money could use up
/// the rate that the seller's /settle needed.
#[tokio::test(flavor = "multi_thread")]
async fn verify_does_not_use_up_the_rate_of_settle() {
    let mut options = ServiceOptions::new(Keys::anyone());
    options.rate = rate(1, 2);
    let service = Service::with(options, ServerOptions::default()).await;
    let request = Setting::request().await;
    for _ in 0..2 {
        let verdict = service.post("/verify", request.text().to_owned()).await;
        assert_eq!(verdict.status(), StatusCode::OK);
    }
    let refused = service.post("/verify", "{}").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let settled = service.post("/settle", request.text().to_owned()).await;
    let (_, outcome) = described("/settle", "post", settled).await;
    assert_eq!(outcome["success"], true, "{outcome}");
}

/// Once, a refund counted as a look-up, and its 429 had no reason code.
#[tokio::test(flavor = "multi_thread")]
async fn refund_counts_as_a_settlement() {
    let mut options = ServiceOptions::new(Keys::anyone());
    options.rate = rate(1, 2);
    let service = Service::with(options, ServerOptions::default()).await;
    let id = quittance_core::PaymentId::from_parts(&[b"unknown"]);
    let refunds = format!("/settlements/{id}/refunds");
    for path in ["/settle", &refunds] {
        let answer = service.post(path, "{}").await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{path}");
    }
    let answer = service.post(&refunds, "{}").await;
    let (status, problem) = described("/settlements/{id}/refunds", "post", answer).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(problem["errorReason"], "rate_limited");
    let look_up = service.get(&format!("/settlements/{id}")).await;
    assert_eq!(look_up.status(), StatusCode::NOT_FOUND);
}

/// A scheme compares the callers of two acts, so the journal names each by its key, and keeps no
/// key.
#[tokio::test(flavor = "multi_thread")]
async fn settlement_keeps_the_name_of_its_callers_key() {
    let environment = quittance_testing::world::Environment::new();
    let (world, engine) = (&environment.world, environment.engine().await);
    let keys = Keys::new(&["first-secret".into(), "second-secret".into()]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/settle", listener.local_addr().unwrap());
    let service = router(engine.clone(), ServiceOptions::new(keys));
    let stop = std::future::pending();
    tokio::spawn(serve(service, listener, ServerOptions::default(), stop));
    let mut callers = Vec::new();
    for key in ["first-secret", "first-secret", "second-secret"] {
        let request = world.request(&world.payer(0)).await;
        let post = Client::new().post(&url).bearer_auth(key);
        let answer = post.body(request.text().to_owned()).send().await.unwrap();
        let outcome: Value = answer.json().await.unwrap();
        let id = outcome["extra"]["settlement"].as_str().unwrap();
        let settlement = engine.settlement(&id.parse().unwrap()).await.unwrap();
        callers.push(settlement.unwrap().claim.caller.unwrap());
    }
    assert_eq!(callers[0], callers[1]);
    assert_ne!(callers[0], callers[2]);
    assert!(callers.iter().all(|caller| !caller.contains("secret")));
}

/// Paths that do not exist, and those that need no key, were answered and logged without a limit.
#[tokio::test(flavor = "multi_thread")]
async fn requests_without_a_key_are_counted_except_health() {
    let mut options = ServiceOptions::new(Keys::anyone());
    options.rate = rate(1, 2);
    let service = Service::with(options, ServerOptions::default()).await;
    for status in [404, 404, 429] {
        assert_eq!(service.get("/nothing").await.status(), status);
    }
    for path in ["/supported", "/openapi.json"] {
        let refused = service.get(path).await;
        assert!(refused.headers().contains_key("retry-after"), "{path}");
        let (status, _) = described(path, "get", refused).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{path}");
    }
    for _ in 0..5 {
        assert_eq!(service.get("/health").await.status(), StatusCode::OK);
    }
    // A method that the path does not have counts like the path itself.
    for status in [405, 405, 429] {
        assert_eq!(service.get("/settle").await.status(), status);
    }
    let verdict = service.post("/verify", "{}").await;
    assert_eq!(verdict.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_finishes_requests_in_progress() {
    let mut service = Service::start().await;
    service
        .setting
        .local
        .set_mining(quittance_devnet::Mining::Manual)
        .await
        .unwrap();
    let request = Setting::request().await;
    let post = Client::new()
        .post(format!("{}/settle", service.url))
        .body(request.text().to_owned());
    let settling =
        tokio::spawn(async move { post.send().await.unwrap().json::<Value>().await.unwrap() });
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(service.stop.take());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!service.stopped.is_finished());
    assert!(
        TcpStream::connect(service.address()).await.is_err(),
        "still accepting"
    );
    mine_until_all_end(&service, std::slice::from_ref(&settling)).await;
    assert_eq!(settling.await.unwrap()["success"], true);
    service.stopped.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_cannot_add_lines_to_the_log() {
    let service = Service::start().await;
    let get = Client::new()
        .get(format!("{}/health", service.url))
        .header("x-request-id", "forged\tline");
    let answer = get.send().await.unwrap();
    assert_ne!(answer.headers()["x-request-id"], "forged\tline");
}

/// Bodies that arrived byte by byte each held a permit, for as long as their senders chose.
#[tokio::test(flavor = "multi_thread")]
async fn slow_body_times_out_and_blocks_no_client() {
    let mut options = ServiceOptions::new(Keys::anyone());
    options.requests_max = 1;
    options.body_max = Duration::from_millis(500);
    let service = Service::with(options, ServerOptions::default()).await;
    let mut slow = TcpStream::connect(service.address()).await.unwrap();
    let head = b"POST /settle HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{";
    slow.write_all(head).await.unwrap();
    let body = Setting::request().await.text().to_owned();
    let verdict = service.post("/verify", body).await;
    assert_eq!(verdict.status(), StatusCode::OK);
    let trickling = async {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if slow.write_all(b" ").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let mut other = TcpStream::connect(service.address()).await.unwrap();
    other.write_all(head).await.unwrap();
    let said = tokio::select! {
        said = closed(&mut other) => said,
        () = trickling => unreachable!("it never ends"),
    };
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
    assert!(said.contains("body_timeout"), "{said}");
    let said = closed(&mut slow).await;
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
}

/// A network whose only signer had no gas was reported as usable. Nothing could be settled, and
/// /health returned 200.
#[tokio::test(flavor = "multi_thread")]
async fn health_is_503_when_no_kind_of_payment_can_be_settled() {
    let setting = Setting::start().await;
    let signer = Setting::signers()[0].address;
    let params = (signer, "0x0");
    let emptied: Option<()> = setting.local.rpc("anvil_setBalance", params).await.unwrap();
    assert_eq!(emptied, None);
    let service = Service::on(
        setting,
        ServiceOptions::new(Keys::anyone()),
        ServerOptions::default(),
    )
    .await;
    let (_, supported) = described("/supported", "get", service.get("/supported").await).await;
    assert_eq!(supported["kinds"], json!([]));
    let (status, health) = described("/health", "get", service.get("/health").await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{health}");
    assert_eq!(health["status"], "down");
    assert_eq!(health["networks"][0]["usable"], false);
}

/// Problems name signers, nodes and balances, so only authorized callers see them.
#[tokio::test(flavor = "multi_thread")]
async fn problems_are_shown_only_to_authorized_callers() {
    let setting = Setting::start().await;
    let params = (Setting::signers()[0].address, "0x0");
    let _: Option<()> = setting.local.rpc("anvil_setBalance", params).await.unwrap();
    let options = ServiceOptions::new(Keys::new(&["sesame".into()]));
    let service = Service::on(setting, options, ServerOptions::default()).await;
    let (_, health) = described("/health", "get", service.get("/health").await).await;
    let only = json!({ "status": "down", "journal": { "usable": true }, "networks": [{ "network": "eip155:84532", "usable": false }] });
    assert_eq!(health, only);
    let get = Client::new().get(format!("{}/health", service.url));
    let answer = get.bearer_auth("sesame").send().await.unwrap();
    let (_, health) = described("/health", "get", answer).await;
    assert_eq!(health["inProgress"], 0);
    let problems = health["networks"][0]["problems"].as_array().unwrap();
    assert!(
        problems[0]["scope"]
            .as_str()
            .unwrap()
            .starts_with("signer 0x"),
        "{health}"
    );
}

fn rate(per_minute: u32, burst: u32) -> Option<Rate> {
    Some(Rate::new(
        per_minute.try_into().unwrap(),
        burst.try_into().unwrap(),
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limit_affects_one_caller_and_has_retry_after() {
    let mut options = ServiceOptions::new(Keys::new(&["one".into(), "two".into()]));
    options.rate = rate(1, 2);
    options.key_rate = rate(1, 2);
    let service = Service::with(options, ServerOptions::default()).await;
    let post = |path: &'static str, key: &'static str| {
        let post = Client::new().post(format!("{}{path}", service.url));
        async move { post.bearer_auth(key).body("{}").send().await.unwrap() }
    };
    for (path, reason) in [("/verify", "invalidReason"), ("/settle", "errorReason")] {
        for _ in 0..2 {
            assert_eq!(post(path, "one").await.status(), StatusCode::BAD_REQUEST);
        }
        let answer = post(path, "one").await;
        let after = answer.headers()["retry-after"].to_str().unwrap();
        assert!((1..=61).contains(&after.parse::<u64>().unwrap()), "{after}");
        let (status, problem) = described(path, "post", answer).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(problem["error"], "rate_limited");
        assert_eq!(problem[reason], "rate_limited");
        // This is not a verdict: the payer has done nothing wrong.
        assert!(problem.get("isValid").is_none() && problem.get("success").is_none());
    }
    // Another key has its own bucket, and so has an address that guesses keys.
    assert_eq!(
        post("/verify", "two").await.status(),
        StatusCode::BAD_REQUEST
    );
    for _ in 0..2 {
        assert_eq!(
            post("/verify", "three").await.status(),
            StatusCode::UNAUTHORIZED
        );
    }
    let guessed = post("/verify", "four").await;
    assert_eq!(guessed.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(service.get("/supported").await.status(), StatusCode::OK);
}

/// Whether a key is valid could be tested at /health without a limit.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_at_health_are_counted_and_no_key_is_not() {
    let mut options = ServiceOptions::new(Keys::new(&["one".into()]));
    options.rate = rate(1, 2);
    let service = Service::with(options, ServerOptions::default()).await;
    let asked = async |key: &'static str| {
        let get = Client::new().get(format!("{}/health", service.url));
        get.bearer_auth(key).send().await.unwrap()
    };
    for _ in 0..2 {
        assert_eq!(asked("wrong").await.status(), StatusCode::OK);
    }
    let answer = asked("wrong").await;
    assert!(answer.headers().contains_key("retry-after"));
    let (status, _) = described("/health", "get", answer).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    // A caller with a valid key has its own bucket. A caller without a key is not guessing.
    assert_eq!(asked("one").await.status(), StatusCode::OK);
    for _ in 0..5 {
        assert_eq!(service.get("/health").await.status(), StatusCode::OK);
    }
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// attacks.md 122, CVE-2023-44487: endless streams on one connection, each reset right after it was
/// opened.
#[tokio::test(flavor = "multi_thread")]
async fn connection_that_resets_its_streams_is_closed() {
    const HEADERS: u8 = 1;
    const RESET: u8 = 3;
    const SETTINGS: u8 = 4;
    const GO_AWAY: u8 = 7;
    const ENDS_STREAM_AND_HEADERS: u8 = 5;
    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 11];
    let service = Service::start().await;
    let mut stream = TcpStream::connect(service.address()).await.unwrap();
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend(frame(SETTINGS, 0, 0, &[]));
    // GET http://x/, by the static table (RFC 7541, appendix A).
    let head = [0x82, 0x86, 0x84, 0x41, 0x01, b'x'];
    for id in (1..200).step_by(2) {
        flood.extend(frame(HEADERS, ENDS_STREAM_AND_HEADERS, id, &head));
        flood.extend(frame(RESET, 0, id, &CANCEL));
    }
    stream.write_all(&flood).await.unwrap();
    let mut said = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut said)).await;
    drop(read.expect("the connection is still open"));
    let mut rest = said.as_slice();
    let mut why = None;
    while let [a, b, c, kind, ..] = *rest {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if kind == GO_AWAY {
            why = rest.get(13..17);
        }
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    assert_eq!(why, Some(&ENHANCE_YOUR_CALM[..]), "{said:?}");
    assert_eq!(service.get("/supported").await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_header_distinguishes_callers() {
    let mut options = ServiceOptions::new(Keys::anyone());
    options.rate = rate(1, 1);
    options.proxies = 1;
    let service = Service::with(options, ServerOptions::default()).await;
    let asked = |forwarded: &'static str| {
        let get = Client::new().get(format!("{}/settlements", service.url));
        async move {
            let answer = get.header("x-forwarded-for", forwarded).send().await;
            answer.unwrap().status()
        }
    };
    assert_eq!(asked("192.0.2.1").await, StatusCode::BAD_REQUEST);
    assert_eq!(asked("192.0.2.2").await, StatusCode::BAD_REQUEST);
    // Text that the caller itself put before the proxy's entry changes nothing.
    assert_eq!(
        asked("192.0.2.9, 192.0.2.1").await,
        StatusCode::TOO_MANY_REQUESTS
    );
    // Some proxies add a port, or brackets. Those callers shared the proxy's own bucket.
    for entry in [
        "192.0.2.3:4711",
        "192.0.2.4:4711",
        "[2001:db8::1]:4711",
        "[2001:db9::1]",
    ] {
        assert_eq!(asked(entry).await, StatusCode::BAD_REQUEST, "{entry}");
    }
    for entry in ["192.0.2.3:4712", "192.0.2.4", "2001:db8::1"] {
        assert_eq!(asked(entry).await, StatusCode::TOO_MANY_REQUESTS, "{entry}");
    }
}
