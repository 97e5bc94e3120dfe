//! A node that misbehaves on demand: a proxy in front of a real node, which breaks what a test
//! sets.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The fate of a call.
#[derive(Debug, Clone)]
pub enum Fate {
    /// Refused with this HTTP status. The node never gets it.
    Status(u16),
    /// The node executes it, and the answer never arrives.
    AnswerLost,
    /// The node executes it, and the answer arrives this much later.
    Slow(Duration),
    /// The node never gets it, and no answer arrives.
    Hangs,
    /// The node executes it, and this is the `error` of the answer.
    DoneAndRefused(i64, &'static str),
    /// The node never gets it. This is the `result` of the answer.
    Result(Value),
    /// The node never gets it. This is the `error` of the answer.
    Error(i64, &'static str),
    /// The node never gets it. This is the whole text of the answer.
    Text(&'static str),
}

/// How a gateway treats every request.
#[derive(Debug, Clone)]
pub enum Habit {
    /// Answers `id: 0` with `id: null`, as gateways in JavaScript do that test `id ? … : null`.
    LosesIdZero,
    /// Refuses every batch of more calls than this.
    RefusesBatchesOver(usize, BatchRefusal),
    /// Answers this many calls of a batch, and refuses each of the others with this error code.
    AnswersAtMost(usize, i64),
    /// Refuses every call of this method with this error, in a batch or alone.
    Limits(&'static str, i64, &'static str),
}

/// How a gateway refuses a batch.
#[derive(Debug, Clone, Copy)]
pub enum BatchRefusal {
    /// With this status and no JSON.
    Status(u16),
    /// With this status and one error in place of a list.
    Error(u16, i64, &'static str),
    /// With this text and HTTP 200.
    Text(&'static str),
}

struct Rule {
    method: &'static str,
    fate: Fate,
    times: usize,
}

/// Makes another result from a node's result and the call's parameters.
type Rewrite = Arc<dyn Fn(&Value, Value) -> Value + Send + Sync>;

#[derive(Default)]
struct Rules {
    rules: Vec<Rule>,
    rewrites: Vec<(&'static str, Rewrite)>,
    habits: Vec<Habit>,
    observed: Vec<String>,
    /// The number of calls in each request.
    sizes: Vec<usize>,
}

/// A node that misbehaves on demand.
pub struct Proxy {
    url: String,
    rules: Arc<Mutex<Rules>>,
}

#[derive(Clone)]
struct Node {
    url: String,
    http: reqwest::Client,
    rules: Arc<Mutex<Rules>>,
}

impl Proxy {
    /// A proxy in front of the node at this URL.
    pub async fn before(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let rules = Arc::<Mutex<Rules>>::default();
        let node = Node {
            url: url.to_owned(),
            http: reqwest::Client::new(),
            rules: Arc::clone(&rules),
        };
        let own = format!("http://{}", listener.local_addr().expect("a bound socket"));
        let app = Router::new().route("/", post(forward)).with_state(node);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url: own, rules }
    }

    /// The proxy's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sets the fate of the next `times` calls of a method. A batch has the fate of its first call
    /// with one.
    pub fn breaks(&self, method: &'static str, fate: Fate, times: usize) {
        self.locked().rules.push(Rule {
            method,
            fate,
            times,
        });
    }

    /// Sets the fate of all calls of a method, until [`mend`](Self::mend).
    pub fn breaks_for_good(&self, method: &'static str, fate: Fate) {
        self.breaks(method, fate, usize::MAX);
    }

    /// The node answers all calls of a method, also in batches, and `change` makes another result
    /// from its result and the call's parameters; until [`mend`](Self::mend).
    pub fn rewrites(
        &self,
        method: &'static str,
        rewrite: impl Fn(&Value, Value) -> Value + Send + Sync + 'static,
    ) {
        self.locked().rewrites.push((method, Arc::new(rewrite)));
    }

    /// Treats every request like this from now on.
    pub fn takes_on(&self, habit: Habit) {
        self.locked().habits.push(habit);
    }

    /// Everything works again.
    pub fn mend(&self) {
        let mut rules = self.locked();
        rules.rules.clear();
        rules.rewrites.clear();
        rules.habits.clear();
    }

    /// The number of calls in each HTTP request since the start.
    pub fn sizes(&self) -> Vec<usize> {
        self.locked().sizes.clone()
    }

    /// How often a method was called, with a fate or without.
    pub fn calls(&self, method: &str) -> usize {
        self.locked()
            .observed
            .iter()
            .filter(|observed| *observed == method)
            .count()
    }

    /// The number of HTTP requests since the start.
    pub fn round_trips(&self) -> usize {
        self.locked()
            .observed
            .iter()
            .filter(|observed| observed.is_empty())
            .count()
    }

    /// The methods of each HTTP request since the start.
    pub fn requests(&self) -> Vec<Vec<String>> {
        let rules = self.locked();
        let requests = rules.observed.split(String::is_empty).skip(1);
        requests.map(<[String]>::to_vec).collect()
    }

    /// The number of HTTP requests with a call of this method.
    pub fn round_trips_with(&self, method: &str) -> usize {
        let rules = self.locked();
        let requests = rules.observed.split(String::is_empty);
        let asks = |calls: &&[String]| calls.iter().any(|observed| observed == method);
        requests.filter(asks).count()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rules {
    fn fate(&mut self, methods: &[String]) -> Option<Fate> {
        self.observed.push(String::new());
        self.sizes.push(methods.len());
        self.observed.extend_from_slice(methods);
        let rule = self
            .rules
            .iter_mut()
            .find(|rule| rule.times > 0 && methods.iter().any(|method| method == rule.method))?;
        rule.times -= 1;
        Some(rule.fate.clone())
    }
}

async fn forward(State(node): State<Node>, body: Bytes) -> Response {
    /// Longer than any client here waits.
    const FOREVER: Duration = Duration::from_secs(600);
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let calls = request
        .as_array()
        .cloned()
        .unwrap_or_else(|| vec![request.clone()]);
    let methods: Vec<String> = calls
        .iter()
        .map(|call| call["method"].as_str().unwrap_or_default().to_owned())
        .collect();
    let (fate, habits) = {
        let mut rules = node.rules.lock().unwrap_or_else(PoisonError::into_inner);
        (rules.fate(&methods), rules.habits.clone())
    };
    match fate {
        None if !habits.is_empty() => node.ask_by_habit(&request, &calls, &habits).await,
        None => node
            .ask(body)
            .await
            .map(|text| node.rewritten(&calls, text))
            .into_response(),
        Some(Fate::AnswerLost) => {
            let _ = node.ask(body).await;
            tokio::time::sleep(FOREVER).await;
            StatusCode::GATEWAY_TIMEOUT.into_response()
        }
        Some(Fate::Slow(late)) => {
            tokio::time::sleep(late).await;
            node.ask(body).await.into_response()
        }
        Some(Fate::Hangs) => {
            tokio::time::sleep(FOREVER).await;
            StatusCode::GATEWAY_TIMEOUT.into_response()
        }
        Some(Fate::Status(status)) => (
            StatusCode::from_u16(status).expect("a status"),
            "<html>no</html>",
        )
            .into_response(),
        Some(Fate::Text(text)) => text.into_response(),
        Some(Fate::Result(result)) => answer(&request, &calls, "result", &result),
        Some(Fate::DoneAndRefused(code, message)) => {
            let _ = node.ask(body).await;
            let error = json!({ "code": code, "message": message });
            answer(&request, &calls, "error", &error)
        }
        Some(Fate::Error(code, message)) => answer(
            &request,
            &calls,
            "error",
            &json!({ "code": code, "message": message }),
        ),
    }
}

/// The same answer to each call.
fn answer(request: &Value, calls: &[Value], field: &str, value: &Value) -> Response {
    let one = |call: &Value| json!({ "jsonrpc": "2.0", "id": call["id"], field: value });
    let answers: Vec<Value> = calls.iter().map(one).collect();
    let text = if request.is_array() {
        json!(answers)
    } else {
        answers[0].clone()
    };
    text.to_string().into_response()
}

impl Habit {
    /// The refusal of a whole request, if there is one.
    fn refuses(&self, calls: usize) -> Option<BatchRefusal> {
        match self {
            Self::RefusesBatchesOver(most, refusal) if calls > *most => Some(*refusal),
            _ => None,
        }
    }

    /// The error for the call at this index of a request, if there is one.
    fn turns_away(&self, at: usize, call: &Value) -> Option<Value> {
        let error = |code: i64, message: &str| Some(json!({ "code": code, "message": message }));
        match self {
            Self::AnswersAtMost(most, code) if at >= *most => error(*code, "one at a time"),
            Self::Limits(method, code, message) if call["method"] == *method => {
                error(*code, message)
            }
            _ => None,
        }
    }
}

impl BatchRefusal {
    fn response(self) -> Response {
        let status = |status| StatusCode::from_u16(status).expect("a status");
        match self {
            Self::Status(code) => (status(code), "<html>no</html>").into_response(),
            Self::Text(text) => text.into_response(),
            Self::Error(code, error, message) => {
                let error = json!({ "code": error, "message": message });
                let body = json!({ "jsonrpc": "2.0", "id": null, "error": error });
                (status(code), body.to_string()).into_response()
            }
        }
    }
}

impl Node {
    async fn ask_by_habit(&self, request: &Value, calls: &[Value], habits: &[Habit]) -> Response {
        let refused = habits.iter().find_map(|habit| habit.refuses(calls.len()));
        if let Some(refusal) = refused {
            return refusal.response();
        }
        let mut answers = Vec::new();
        for (at, call) in calls.iter().enumerate() {
            let error = habits.iter().find_map(|habit| habit.turns_away(at, call));
            let mut answer = match error {
                Some(error) => json!({ "jsonrpc": "2.0", "id": call["id"], "error": error }),
                None => {
                    let answered = self.ask(call.to_string().into()).await;
                    let text =
                        answered.map(|text| self.rewritten(std::slice::from_ref(call), text));
                    serde_json::from_slice(&text.unwrap_or_default()).unwrap_or_default()
                }
            };
            let loses_zero = habits
                .iter()
                .any(|habit| matches!(habit, Habit::LosesIdZero));
            if loses_zero && answer["id"] == 0 {
                answer["id"] = Value::Null;
            }
            answers.push(answer);
        }
        let text = match request.is_array() {
            true => json!(answers),
            false => answers.swap_remove(0),
        };
        text.to_string().into_response()
    }

    async fn ask(&self, body: Bytes) -> Result<Bytes, StatusCode> {
        let asked = self
            .http
            .post(&self.url)
            .header("content-type", "application/json")
            .body(body);
        match asked.send().await {
            Ok(answer) => Ok(answer.bytes().await.unwrap_or_default()),
            Err(_) => Err(StatusCode::BAD_GATEWAY),
        }
    }

    /// Applies the rules for changed results to the node's answers.
    fn rewritten(&self, calls: &[Value], text: Bytes) -> Bytes {
        let rewrites = {
            let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
            rules.rewrites.clone()
        };
        if rewrites.is_empty() {
            return text;
        }
        let Ok(mut answers) = serde_json::from_slice::<Value>(&text) else {
            return text;
        };
        let each: &mut [Value] = match &mut answers {
            Value::Array(all) => all,
            one => std::slice::from_mut(one),
        };
        for answer in each {
            let call = calls.iter().find(|call| call["id"] == answer["id"]);
            let Some(call) = call else { continue };
            for (method, rewrite) in &rewrites {
                if call["method"] == *method {
                    answer["result"] = rewrite(&call["params"], answer["result"].take());
                }
            }
        }
        answers.to_string().into()
    }
}
