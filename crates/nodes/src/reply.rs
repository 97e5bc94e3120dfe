//! What one HTTP request to a node brought back, read as JSON-RPC.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::limit::is_limit;
use crate::{Answer, Failure, NodeError, unavailable};

/// The id of the first call. Not 0: some gateways test whether there is an id by its truth, and
/// lose a zero.
pub(crate) const FIRST_ID: u64 = 1;

/// Why a request brought no answers.
#[derive(Debug)]
pub(crate) struct Missed {
    pub(crate) failure: Failure,
    /// Whether fewer calls in one request may fare better.
    pub(crate) fewer_may_work: bool,
}

/// One answer of JSON-RPC.
#[derive(Deserialize)]
struct Response {
    #[serde(default, deserialize_with = "read_id")]
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

/// The id, where it is a number or a text that is one: some gateways write texts.
fn read_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text.parse().ok(),
        id => id.as_u64(),
    })
}

impl Response {
    /// The answer; an error where the node was asked too much.
    fn answer(self, limits: &[i64]) -> Result<Answer, Missed> {
        match self.error {
            Some(error) if is_limit(&error, limits) => Err(too_much(&error)),
            Some(error) => Ok(Err(error)),
            None => Ok(Ok(self.result)),
        }
    }
}

/// The answers to `count` calls, in their order. `limits` are the chain's codes for too many
/// requests.
pub(crate) fn in_order(
    responses: Value,
    count: usize,
    limits: &[i64],
) -> Result<Vec<Answer>, Missed> {
    let responses = match serde_json::from_value(responses) {
        Ok(Responses::Many(responses)) => responses,
        // One answer to one call needs no id: HTTP says what it is for. Errors often have none.
        Ok(Responses::One(response)) if count == 1 => {
            return match response.id {
                None | Some(FIRST_ID) => Ok(vec![response.answer(limits)?]),
                Some(_) => Err(nonsense("another call")),
            };
        }
        Ok(Responses::One(response)) => {
            return Err(match response.error {
                Some(error) => too_much(&error),
                None => nonsense("one of many calls"),
            });
        }
        Err(error) => return Err(nonsense(&format!("no JSON-RPC: {error}"))),
    };
    let mut by_id = BTreeMap::new();
    for response in responses {
        by_id.insert(response.id, response.answer(limits)?);
    }
    let ids = FIRST_ID..FIRST_ID + count as u64;
    let answers = ids.map(|id| {
        by_id
            .remove(&Some(id))
            .ok_or_else(|| nonsense("not every call of a batch"))
    });
    answers.collect()
}

/// The node did nothing of what it was asked.
fn too_much(error: &NodeError) -> Missed {
    let what = format_args!(
        "the node turned the request away with {}: {}",
        error.code, error.message
    );
    Missed {
        failure: Failure::NotAsked(unavailable(what)),
        fewer_may_work: true,
    }
}

/// What came makes no sense, as some gateways answer batches that they do not understand.
fn nonsense(what: &str) -> Missed {
    Missed {
        failure: Failure::NoAnswer(unavailable(format_args!("the node answered {what}"))),
        fewer_may_work: true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(came: Value, count: usize) -> Result<Vec<Answer>, Failure> {
        in_order(came, count, &[-32016]).map_err(|missed| missed.failure)
    }

    #[test]
    fn answers_stand_in_the_order_of_the_calls_whatever_order_they_came_in() {
        let came = json!([
            { "id": 2, "error": { "code": 3, "message": "no" } },
            { "id": "1", "result": "first" },
        ]);
        let answers = read(came, 2).unwrap();
        assert_eq!(answers[0].as_ref().unwrap(), "first");
        assert_eq!(answers[1].as_ref().unwrap_err().code, 3);
    }

    #[test]
    fn a_call_without_an_answer_may_have_been_taken() {
        for came in [
            json!([]),
            json!([{ "id": 1, "result": 1 }]),
            json!([{ "id": 0, "result": 1 }, { "id": 1, "result": 1 }]),
            json!([{ "id": null, "result": 1 }, { "id": 1, "result": 1 }]),
            json!({ "id": 1 }),
            json!("?"),
        ] {
            assert!(
                matches!(read(came.clone(), 2), Err(Failure::NoAnswer(_))),
                "{came}"
            );
        }
        let another = json!({ "id": 7, "result": 1 });
        assert!(matches!(read(another, 1), Err(Failure::NoAnswer(_))));
    }

    #[test]
    fn one_answer_to_one_call_needs_no_id() {
        for id in [json!(null), json!(1), json!("1")] {
            let came = json!({ "id": id, "error": { "code": 3, "message": "no" } });
            assert_eq!(read(came, 1).unwrap()[0].as_ref().unwrap_err().code, 3);
        }
    }

    #[test]
    fn a_node_that_was_asked_too_much_did_nothing() {
        for code in [-32005, -32016] {
            let limit = json!({ "code": code, "message": "please wait" });
            let whole = json!({ "id": null, "error": limit });
            let part = json!([{ "id": 1, "result": 1 }, { "id": 2, "error": limit }]);
            for (came, count) in [(whole.clone(), 2), (part, 2), (whole, 1)] {
                assert!(
                    matches!(read(came.clone(), count), Err(Failure::NotAsked(_))),
                    "{came}"
                );
            }
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<i64>().prop_map(|number| json!(number)),
            "\\PC{0,8}".prop_map(|text| json!(text)),
        ];
        let name = prop_oneof![
            Just("id"),
            Just("result"),
            Just("error"),
            Just("code"),
            Just("message")
        ];
        leaf.prop_recursive(4, 40, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(name.clone(), inner, 0..5).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_a_node_says_there_is_an_answer_to_every_call_or_none(
            came in any_json(), count in 1usize..5,
        ) {
            if let Ok(answers) = read(came, count) {
                prop_assert_eq!(answers.len(), count);
            }
        }
    }
}
