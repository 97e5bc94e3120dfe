//! One node.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{debug, warn};
use url::Url;

use crate::http::{post, redacted};
use crate::{Answer, Call, Failure, Identity, NodeError, unavailable};

/// For how long a node that did not answer is asked only when every other one fails.
const REST: Duration = Duration::from_secs(15);

/// What nodes and gateways say inside HTTP 200 when somebody asked too much, or the node is behind and says nothing
/// (EIP-1474 and common gateways).
const LIMIT_CODES: [i64; 3] = [-32005, -32007, 429];

/// One node, by its URL.
#[derive(Debug)]
pub(crate) struct Node {
    http: reqwest::Client,
    url: Url,
    /// The URL without what may be secret in it.
    name: String,
    /// Whether it has said that it is on the right chain since it last failed.
    proven: AtomicBool,
    /// Milliseconds after the start until which it rests.
    rests_until: AtomicU64,
    /// Whether it was behind when it was last looked at.
    stale: AtomicBool,
}

/// One answer of JSON-RPC.
#[derive(Deserialize)]
struct Response {
    id: Option<u64>,
    #[serde(default)]
    result: Value,
    error: Option<NodeError>,
}

/// JSON-RPC answers a batch with a list, except when it refuses the whole.
#[derive(Deserialize)]
#[serde(untagged)]
enum Responses {
    Many(Vec<Response>),
    One(Response),
}

impl Node {
    pub(crate) fn new(http: &reqwest::Client, url: &Url) -> Self {
        Self {
            http: http.clone(),
            url: url.clone(),
            name: redacted(url),
            proven: AtomicBool::new(false),
            rests_until: AtomicU64::new(0),
            stale: AtomicBool::new(false),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    pub(crate) fn stands_still(&self, stale: bool) {
        self.stale.store(stale, Ordering::Relaxed);
    }

    pub(crate) fn rests(&self, now: Duration) -> bool {
        self.rests_until.load(Ordering::Relaxed) > now.as_millis() as u64
    }

    pub(crate) fn rest(&self, now: Duration, failure: &Failure) {
        warn!(node = self.name, ?failure, "a node does not answer");
        self.proven.store(false, Ordering::Relaxed);
        self.rests_until
            .store((now + REST).as_millis() as u64, Ordering::Relaxed);
    }

    /// The answers, in the order of the calls. Nothing is asked of a node before it has said that it is on the right chain,
    /// and again after each failure: behind one URL there may be another node now.
    pub(crate) async fn ask(
        &self,
        identity: &dyn Identity,
        calls: &[Call],
    ) -> Result<Vec<Answer>, Failure> {
        if !self.proven.load(Ordering::Relaxed) {
            self.prove(identity).await?;
        }
        self.exchange(calls).await
    }

    /// As [`ask`](Self::ask), and the proof is asked for whatever was said before.
    pub(crate) async fn ask_again(
        &self,
        identity: &dyn Identity,
        calls: &[Call],
    ) -> Result<Vec<Answer>, Failure> {
        self.prove(identity).await?;
        self.exchange(calls).await
    }

    async fn prove(&self, identity: &dyn Identity) -> Result<(), Failure> {
        // Not even this was understood: for whoever asked something else, nothing has happened.
        let not_asked = |failure: Failure| Failure::NotAsked(failure.fault());
        let answer = self.exchange(&[identity.question()]).await;
        let answer = answer.map_err(not_asked)?.pop().unwrap_or(Ok(Value::Null));
        let answer = answer.map_err(|error| not_asked(Failure::Node(error)))?;
        identity.check(&answer).map_err(|wrong| {
            Failure::NotAsked(unavailable(format_args!(
                "the node {} is {wrong}",
                self.name
            )))
        })?;
        self.proven.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// One round trip. The answers stand in the order of the calls.
    async fn exchange(&self, calls: &[Call]) -> Result<Vec<Answer>, Failure> {
        let Some((first, _)) = calls.first() else {
            return Ok(Vec::new());
        };
        debug!(node = self.name, calls = calls.len(), first, "asking");
        let request = |(id, (method, params)): (usize, &Call)| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let requests: Vec<Value> = calls.iter().enumerate().map(request).collect();
        // Not every gateway takes a list of one.
        let body = match requests.as_slice() {
            [one] => one.clone(),
            many => json!(many),
        };
        let answered = post(&self.http, &self.url, &body).await;
        let responses = answered.map_err(|error| error.failure())?;
        in_order(responses, calls.len())
    }
}

/// The answers to `count` calls, in their order.
fn in_order(responses: Value, count: usize) -> Result<Vec<Answer>, Failure> {
    let nonsense =
        |what: &str| Failure::NoAnswer(unavailable(format_args!("the node answered {what}")));
    let responses = match serde_json::from_value(responses) {
        Ok(Responses::Many(responses)) => responses,
        Ok(Responses::One(response)) if count == 1 => vec![response],
        Ok(Responses::One(Response {
            error: Some(error), ..
        })) => return Err(turned_away(&error)),
        Ok(Responses::One(_)) => return Err(nonsense("one of many calls")),
        Err(error) => return Err(nonsense(&format!("no JSON-RPC: {error}"))),
    };
    let mut by_id = BTreeMap::new();
    for response in responses {
        let answer = match response.error {
            Some(error) if LIMIT_CODES.contains(&error.code) => return Err(turned_away(&error)),
            Some(error) => Err(error),
            None => Ok(response.result),
        };
        by_id.insert(response.id, answer);
    }
    let answers = (0..count as u64).map(|id| {
        by_id
            .remove(&Some(id))
            .ok_or_else(|| nonsense("not every call of a batch"))
    });
    answers.collect()
}

fn turned_away(error: &NodeError) -> Failure {
    Failure::NotAsked(unavailable(format_args!(
        "the node says {}: {}",
        error.code, error.message
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_stand_in_the_order_of_the_calls_whatever_order_they_came_in() {
        let came = json!([
            { "id": 1, "error": { "code": 3, "message": "no" } },
            { "id": 0, "result": "first" },
        ]);
        let answers = in_order(came, 2).unwrap();
        assert_eq!(answers[0].as_ref().unwrap(), "first");
        assert_eq!(answers[1].as_ref().unwrap_err().code, 3);
    }

    #[test]
    fn a_call_without_an_answer_may_have_been_taken() {
        for came in [
            json!([]),
            json!([{ "id": 0, "result": 1 }]),
            json!({ "id": 0 }),
            json!("?"),
        ] {
            assert!(
                matches!(in_order(came.clone(), 2), Err(Failure::NoAnswer(_))),
                "{came}"
            );
        }
    }

    #[test]
    fn a_node_that_was_asked_too_much_did_nothing() {
        let limit = json!({ "code": -32005, "message": "slow down" });
        let whole = json!({ "id": null, "error": limit });
        let one = json!([{ "id": 0, "result": 1 }, { "id": 1, "error": limit }]);
        for came in [whole, one] {
            assert!(
                matches!(in_order(came.clone(), 2), Err(Failure::NotAsked(_))),
                "{came}"
            );
        }
    }
}
