//! Reads the body of an HTTP response as JSON-RPC responses.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::failure::{Failure, NodeError, unavailable};
use crate::limit::is_limit;
use crate::request::Reply;
use crate::transport::ExchangeError;

/// The id of the first request. It is not 0, because some gateways treat a zero as a missing id.
pub(crate) const FIRST_ID: u64 = 1;

/// One JSON-RPC response.
#[derive(Deserialize)]
struct Response {
    #[serde(default, deserialize_with = "read_id")]
    id: Option<u64>,
    #[serde(default)]
    result: Value,
    error: Option<NodeError>,
}

/// The response to a batch is a list, unless the node refuses the whole batch.
#[derive(Deserialize)]
#[serde(untagged)]
enum Responses {
    Many(Vec<Response>),
    One(Response),
}

/// The id, as a number or as a string with a number: some gateways return strings.
fn read_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text.parse().ok(),
        id => id.as_u64(),
    })
}

impl Response {
    /// The reply.
    ///
    /// # Errors
    /// If the node reports a rate limit.
    fn reply(self, limits: &[i64]) -> Result<Reply, ExchangeError> {
        match self.error {
            Some(error) if is_limit(&error, limits) => Err(rate_limited(&error)),
            Some(error) => Ok(Err(error)),
            None => Ok(Ok(self.result)),
        }
    }
}

/// The replies to `count` requests, in the order of the requests. `limits` are the error codes of
/// the chain's gateways for rate limits.
pub(crate) fn in_order(
    responses: Value,
    count: usize,
    limits: &[i64],
) -> Result<Vec<Reply>, ExchangeError> {
    let responses = match serde_json::from_value(responses) {
        Ok(Responses::Many(responses)) => responses,
        // A single response needs no id, because HTTP assigns it to its request. Errors often have
        // none.
        Ok(Responses::One(response)) if count == 1 => {
            return match response.id {
                None | Some(FIRST_ID) => Ok(vec![response.reply(limits)?]),
                Some(_) => Err(unexpected("a response to another request")),
            };
        }
        Ok(Responses::One(response)) => {
            return Err(match response.error {
                Some(error) => rate_limited(&error),
                None => unexpected("a single response to a batch"),
            });
        }
        Err(error) => {
            return Err(unexpected(&format!(
                "something other than JSON-RPC: {error}"
            )));
        }
    };
    let mut by_id = BTreeMap::new();
    for response in responses {
        by_id.insert(response.id, response.reply(limits)?);
    }
    let ids = FIRST_ID..FIRST_ID + count as u64;
    let replies = ids.map(|id| {
        by_id
            .remove(&Some(id))
            .ok_or_else(|| unexpected("responses to only a part of the batch"))
    });
    replies.collect()
}

/// The node did not act on any request of the batch.
fn rate_limited(error: &NodeError) -> ExchangeError {
    let what = format_args!(
        "the node reported a rate limit, error {}: {}",
        error.code, error.message
    );
    ExchangeError::new(Failure::NotSent(unavailable(what))).with_fewer()
}

/// The body is not what was expected. Some gateways respond like this to batches that they do not
/// support.
fn unexpected(what: &str) -> ExchangeError {
    let failure = Failure::NoReply(unavailable(format_args!("the node returned {what}")));
    ExchangeError::new(failure).with_fewer()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(body: Value, count: usize) -> Result<Vec<Reply>, Failure> {
        in_order(body, count, &[-32016]).map_err(|error| error.failure)
    }

    #[test]
    fn replies_are_in_the_order_of_the_requests() {
        let body = json!([
            { "id": 2, "error": { "code": 3, "message": "no" } },
            { "id": "1", "result": "first" },
        ]);
        let replies = read(body, 2).unwrap();
        assert_eq!(replies[0].as_ref().unwrap(), "first");
        assert_eq!(replies[1].as_ref().unwrap_err().code, 3);
    }

    #[test]
    fn missing_response_leaves_the_request_open() {
        for body in [
            json!([]),
            json!([{ "id": 1, "result": 1 }]),
            json!([{ "id": 0, "result": 1 }, { "id": 1, "result": 1 }]),
            json!([{ "id": null, "result": 1 }, { "id": 1, "result": 1 }]),
            json!({ "id": 1 }),
            json!("?"),
        ] {
            assert!(
                matches!(read(body.clone(), 2), Err(Failure::NoReply(_))),
                "{body}"
            );
        }
        let another = json!({ "id": 7, "result": 1 });
        assert!(matches!(read(another, 1), Err(Failure::NoReply(_))));
    }

    #[test]
    fn single_response_needs_no_id() {
        for id in [json!(null), json!(1), json!("1")] {
            let body = json!({ "id": id, "error": { "code": 3, "message": "no" } });
            assert_eq!(read(body, 1).unwrap()[0].as_ref().unwrap_err().code, 3);
        }
    }

    #[test]
    fn rate_limit_means_that_nothing_was_done() {
        for code in [-32005, -32016] {
            let limit = json!({ "code": code, "message": "please wait" });
            let whole = json!({ "id": null, "error": limit });
            let part = json!([{ "id": 1, "result": 1 }, { "id": 2, "error": limit }]);
            for (body, count) in [(whole.clone(), 2), (part, 2), (whole, 1)] {
                assert!(
                    matches!(read(body.clone(), count), Err(Failure::NotSent(_))),
                    "{body}"
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
        fn any_body_gives_a_reply_to_every_request_or_none(
            body in any_json(), count in 1usize..5,
        ) {
            if let Ok(replies) = read(body, count) {
                prop_assert_eq!(replies.len(), count);
            }
        }
    }
}
