//! Streams and webhooks of settlements, as their receivers see them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use futures_util::StreamExt;
use quittance_core::{Clock, SystemClock};
use quittance_engine::{Engine, EventKind};
use quittance_http::webhook::{WebhookSecret, verify_webhook};
use quittance_service::{
    Keys, SecretString, ServerOptions, ServiceOptions, Webhook, WebhookSender, openapi, router,
    serve,
};
use quittance_testing::world::Environment;
use quittance_tests::until;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// The kinds of events of a payment that settles and is reported.
const SETTLES: [&str; 4] = ["claimed", "signed", "settled", "reported"];

struct Service {
    environment: Environment,
    engine: Engine,
    url: String,
    stop: Option<oneshot::Sender<()>>,
    stopped: tokio::task::JoinHandle<Duration>,
}

impl Service {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut ServiceOptions)) -> Self {
        let environment = Environment::new();
        let engine = environment.engine().await;
        let mut options = ServiceOptions::new(Keys::new(&["one".into(), "two".into()]));
        change(&mut options);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let service = router(engine.clone(), options);
        let server = ServerOptions::default();
        let stopped = tokio::spawn(serve(service, listener, server, async move {
            drop(stopped.await)
        }));
        Self {
            environment,
            engine,
            url,
            stop: Some(stop),
            stopped,
        }
    }

    /// Settles a payment of this payer for the caller with this key. The settlement's id.
    async fn settle(&self, key: &str, payer: u8) -> String {
        let world = &self.environment.world;
        let request = world.request(&world.payer(payer)).await;
        let post = Client::new().post(format!("{}/settle", self.url));
        let post = post.bearer_auth(key).body(request.text().to_owned());
        let outcome: Value = post.send().await.unwrap().json().await.unwrap();
        assert_eq!(outcome["success"], true, "{outcome}");
        outcome["extra"]["settlement"].as_str().unwrap().to_owned()
    }

    async fn get(&self, key: &str, query: &str) -> Response {
        let get = Client::new().get(format!("{}/events{query}", self.url));
        get.bearer_auth(key).send().await.unwrap()
    }

    async fn stream(&self, key: &str, query: &str) -> Stream {
        Stream::new(self.get(key, query).await)
    }
}

/// A stream of events, as a client reads it.
struct Stream {
    bytes: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<Bytes>> + Send>>,
    text: String,
}

impl Stream {
    fn new(response: Response) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            bytes: Box::pin(response.bytes_stream()),
            text: String::new(),
        }
    }

    /// The fields of the next block; `None` at the end.
    async fn block(&mut self) -> Option<Vec<(String, String)>> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let fields = block.lines().filter_map(|line| line.split_once(": "));
                let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
                let fields = fields.collect();
                self.text = rest.to_owned();
                return Some(fields);
            }
            let bytes = self.bytes.next().await?.ok()?;
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    /// The next event; `None` at the end.
    async fn event(&mut self) -> Option<Value> {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(10), self.block());
            let block = next.await.expect("an event or the end")?;
            let field = |name: &str| {
                let found = block.iter().find(|(field, _)| field == name);
                found.map(|(_, value)| value.clone())
            };
            let Some(data) = field("data") else { continue };
            let event: Value = serde_json::from_str(&data).unwrap();
            assert_eq!(field("id").as_deref(), event["id"].as_str());
            assert_eq!(field("event").as_deref(), event["event"].as_str());
            return Some(event);
        }
    }

    async fn events(&mut self, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        for _ in 0..count {
            events.push(self.event().await.unwrap());
        }
        events
    }
}

/// What never changes of these events.
fn facts(events: &[Value]) -> Vec<Value> {
    let mut facts = events.to_vec();
    for fact in &mut facts {
        fact.as_object_mut().unwrap().remove("now");
    }
    facts
}

fn kinds(events: &[Value]) -> Vec<&str> {
    let kinds = events.iter().map(|event| event["event"].as_str().unwrap());
    kinds.collect()
}

/// As a client uses it: it follows, loses the connection, and resumes where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_shows_a_settlement_and_resumes() {
    let service = Service::start().await;
    let mut stream = service.stream("one", "").await;
    let id = service.settle("one", 0).await;
    let events = stream.events(4).await;
    assert_eq!(kinds(&events), SETTLES);
    let description = openapi();
    let schema = &description["components"]["schemas"]["SettlementEvent"];
    let whole =
        json!({ "schema": schema, "$ref": "#/schema", "components": description["components"] });
    let validator = jsonschema::validator_for(&whole).unwrap();
    for event in &events {
        assert_eq!(event["settlement"], id.as_str());
        let errors: Vec<String> = validator
            .iter_errors(event)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{errors:?}\n{event}");
    }
    let look_up = Client::new().get(format!("{}/settlements/{id}", service.url));
    let look_up = look_up.bearer_auth("one").send().await.unwrap();
    let now: Value = look_up.json().await.unwrap();
    for field in ["id", "state", "amount", "transaction", "successReported"] {
        assert_eq!(events[3]["now"][field], now[field], "{field}");
    }

    // From the query, and from the header, which a browser sends when it connects again.
    let seen = events[1]["id"].as_str().unwrap();
    let mut resumed = service.stream("one", &format!("?after={seen}")).await;
    assert_eq!(facts(&resumed.events(2).await), facts(&events[2..]));
    let get = Client::new().get(format!("{}/events?after={seen}", service.url));
    let get = get
        .bearer_auth("one")
        .header("last-event-id", events[2]["id"].as_str().unwrap());
    let mut resumed = Stream::new(get.send().await.unwrap());
    assert_eq!(facts(&resumed.events(1).await), facts(&events[3..]));
    let mut from_start = service.stream("one", "?after=oldest").await;
    assert_eq!(facts(&from_start.events(4).await), facts(&events));
}

/// Two callers on one facilitator are competitors.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_sees_its_own_settlements_only() {
    let service = Service::start().await;
    let (mut one, mut two) = (
        service.stream("one", "").await,
        service.stream("two", "").await,
    );
    let first = service.settle("one", 0).await;
    let second = service.settle("two", 1).await;
    for (stream, id) in [(&mut one, first), (&mut two, second)] {
        for event in stream.events(4).await {
            assert_eq!(event["settlement"], id.as_str());
        }
    }
    // Only its own payment may still become final.
    let later = tokio::time::timeout(Duration::from_millis(500), one.event()).await;
    assert!(later.is_err() || later.unwrap().unwrap()["event"] == "final");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_needs_a_key_and_a_known_position() {
    let service = Service::start().await;
    for (key, query, status) in [
        ("three", "", 401),
        ("one", "?after=%2527", 400),
        ("one", "?after=", 400),
        ("one", "?after=99999", 410),
        ("one", "?after=x", 410),
    ] {
        let refused = service.get(key, query).await;
        assert_eq!(refused.status(), status, "{query}");
        let body: Value = refused.json().await.unwrap();
        assert!(body["error"].is_string(), "{body}");
    }
    let open = Service::with(|options| options.keys = Keys::anyone()).await;
    assert_eq!(open.get("one", "").await.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_limited_and_end_when_the_server_stops() {
    let mut service = Service::with(|options| options.streams_max = 3).await;
    let mut first = service.stream("one", "").await;
    let second = service.stream("one", "").await;
    let refused = service.get("one", "").await;
    assert_eq!(refused.status(), 503);
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"], "busy");
    // Another caller still gets a place.
    drop(service.stream("two", "").await);
    drop(second);
    let freed = || async { service.get("one", "").await.status() == 200 };
    until("a place is free", freed).await;
    drop(service.stop.take());
    assert_eq!(first.event().await, None);
    let stopped = tokio::time::timeout(Duration::from_secs(10), &mut service.stopped).await;
    stopped.unwrap().unwrap();
}

/// What a receiver of webhooks got, and what it answers.
#[derive(Default)]
struct Received {
    /// The id and the body of each message that was accepted.
    accepted: Mutex<Vec<(String, Value)>>,
    /// How many further messages are refused, and with which status.
    refusals: AtomicUsize,
    attempts: AtomicUsize,
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn secret() -> WebhookSecret {
    SECRET.parse().unwrap()
}

impl Received {
    fn take(&self, headers: &HeaderMap, body: &[u8], refusal: StatusCode) -> StatusCode {
        let verified = verify_webhook(headers, body, &[secret()], SystemClock.now());
        let id = verified.expect("a signed message");
        self.attempts.fetch_add(1, Ordering::SeqCst);
        let refuses = |left: usize| left.checked_sub(1);
        let order = Ordering::SeqCst;
        if self.refusals.fetch_update(order, order, refuses).is_ok() {
            return refusal;
        }
        let body = serde_json::from_slice(body).unwrap();
        self.accepted.lock().unwrap().push((id, body));
        StatusCode::NO_CONTENT
    }

    fn kinds_of(&self, settlement: &str) -> Vec<String> {
        let accepted = self.accepted.lock().unwrap();
        let of_this = accepted
            .iter()
            .filter(|(_, body)| body["settlement"] == settlement);
        of_this
            .map(|(_, body)| body["event"].as_str().unwrap().to_owned())
            .collect()
    }

    fn count(&self) -> usize {
        self.accepted.lock().unwrap().len()
    }
}

/// Starts a receiver. While it refuses, it answers this status.
async fn receiver(refusal: StatusCode) -> (Arc<Received>, String) {
    let received = Arc::new(Received::default());
    let state = Arc::clone(&received);
    let take = move |headers: HeaderMap, body: Bytes| {
        let status = state.take(&headers, &body, refusal);
        async move { (status, [("location", "/elsewhere")]) }
    };
    let followed = Arc::clone(&received);
    let elsewhere = move || {
        // No test expects so many attempts.
        followed.attempts.fetch_add(100, Ordering::SeqCst);
        async { StatusCode::OK }
    };
    let app = axum::Router::new()
        .route("/hook", post(take))
        .route("/elsewhere", post(elsewhere));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (received, url)
}

fn webhook(name: &str, url: &str) -> Webhook {
    let webhook = Webhook::new(name, url.parse().unwrap(), vec![secret()], true);
    // When a payment becomes final does not matter here.
    let wanted = EventKind::ALL
        .into_iter()
        .filter(|kind| *kind != EventKind::Final);
    webhook.unwrap().only(wanted.collect())
}

/// Starts to send. The first position is saved when this returns.
async fn send(engine: &Engine, webhook: Webhook) -> tokio::task::JoinHandle<()> {
    let name = format!("webhook:{}", webhook.name);
    let sender = WebhookSender::new(webhook, engine.feed().clone(), Arc::new(SystemClock)).unwrap();
    let sending = tokio::spawn(sender.run());
    let feed = engine.feed().clone();
    until("the position is saved", || async {
        feed.saved(&name).await.unwrap().is_some()
    })
    .await;
    sending
}

/// A receiver that fails, and one that redirects, get every event after all, in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_gets_every_event_in_order() {
    let service = Service::start().await;
    for refusal in [
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::TEMPORARY_REDIRECT,
    ] {
        let (received, url) = receiver(refusal).await;
        received.refusals.store(2, Ordering::SeqCst);
        let sending = send(&service.engine, webhook(refusal.as_str(), &url)).await;
        let id = service.settle("one", 0).await;
        until("all events came", || async { received.count() >= 4 }).await;
        assert_eq!(received.kinds_of(&id), SETTLES);
        assert_eq!(received.attempts.load(Ordering::SeqCst), 6);
        sending.abort();
    }
}

/// A dead receiver waits alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_receiver_does_not_block_another() {
    let service = Service::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let (received, url) = receiver(StatusCode::OK).await;
    send(&service.engine, webhook("dead", &dead)).await;
    send(&service.engine, webhook("alive", &url)).await;
    let id = service.settle("one", 0).await;
    until("all events came", || async { received.count() >= 4 }).await;
    assert_eq!(received.kinds_of(&id), SETTLES);
}

/// Events of the pause come after the restart. The last part before it may come again.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_continues_after_a_restart() {
    let service = Service::start().await;
    let (received, url) = receiver(StatusCode::OK).await;
    let sending = send(&service.engine, webhook("a", &url)).await;
    let first = service.settle("one", 0).await;
    until("the first came", || async { received.count() >= 4 }).await;
    sending.abort();
    let second = service.settle("one", 1).await;
    let again = send(&service.engine, webhook("a", &url)).await;
    until("the second came", || async {
        received.kinds_of(&second).len() >= 4
    })
    .await;
    assert_eq!(received.kinds_of(&second), SETTLES);
    assert!(
        received
            .kinds_of(&first)
            .ends_with(&SETTLES.map(str::to_owned))
    );
    // Whatever came twice has the same id.
    let accepted = received.accepted.lock().unwrap();
    for (id, body) in accepted.iter() {
        assert_eq!(body["id"], id.as_str());
    }
    again.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_has_only_the_events_that_it_wants() {
    let service = Service::start().await;
    let (received, url) = receiver(StatusCode::OK).await;
    let of_two = webhook("a", &url).of_key(&SecretString::from("two"));
    let wanted = of_two.only(vec![EventKind::Settled]);
    let sending = send(&service.engine, wanted).await;
    let other = service.settle("one", 0).await;
    let own = service.settle("two", 1).await;
    until("the event came", || async { received.count() >= 1 }).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(received.kinds_of(&own), ["settled"]);
    assert_eq!(received.kinds_of(&other), [""; 0]);
    sending.abort();
}

/// The receiver does not want events any more (410), so the sender ends, and keeps its position.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_is_switched_off() {
    let service = Service::start().await;
    let (received, url) = receiver(StatusCode::GONE).await;
    received.refusals.store(1, Ordering::SeqCst);
    let sending = send(&service.engine, webhook("a", &url)).await;
    let id = service.settle("one", 0).await;
    let ended = tokio::time::timeout(Duration::from_secs(10), sending).await;
    ended.expect("it ends").unwrap();
    assert_eq!(received.count(), 0);
    // A restart tries again.
    let again = send(&service.engine, webhook("a", &url)).await;
    until("all events came", || async { received.count() >= 4 }).await;
    assert_eq!(received.kinds_of(&id), SETTLES);
    again.abort();
}

/// Without a permission, the sender connects to no private address, whatever name leads to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_private_receiver_is_reached_only_if_permitted() {
    let service = Service::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "https://localhost:{}/",
        listener.local_addr().unwrap().port()
    );
    for private in [false, true] {
        let name = format!("private-{private}");
        let webhook = Webhook::new(&name, url.parse().unwrap(), vec![secret()], private);
        let sending = send(&service.engine, webhook.unwrap()).await;
        service.settle("one", u8::from(private)).await;
        let reached = tokio::time::timeout(Duration::from_secs(2), listener.accept()).await;
        assert_eq!(reached.is_ok(), private);
        sending.abort();
    }
}
