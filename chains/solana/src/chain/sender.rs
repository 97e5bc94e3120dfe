//! The transport of `solana-rpc-client` over [`Nodes`].
//!
//! The library's client writes requests and reads results. The transport keeps what settling
//! payments needs: several nodes, their limits, and "not sent" distinguished from "no reply".

use std::fmt::Display;
use std::sync::Arc;

use async_trait::async_trait;
use quittance_core::Fault;
use quittance_nodes::{Failure, NodeError, Nodes, Request, unavailable};
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::Value;
use solana_hash::Hash;
use solana_rpc_client::rpc_sender::{RpcSender, RpcTransportStats};
use solana_rpc_client_api::client_error::{
    AnyhowError, Error as ClientError, ErrorKind, Result as ClientResult,
};
use solana_rpc_client_api::request::{RpcError, RpcRequest, RpcResponseErrorData};
use solana_rpc_client_api::response::{Response, RpcBlockhash};

use super::results::{FetchedTransaction, ListedTransaction, without_version};

/// The nodes of a cluster as one transport.
///
/// A request goes to each node in turn, until one returns a result of the method's type.
pub(super) struct NodesSender(pub(super) Arc<Nodes>);

#[async_trait]
impl RpcSender for NodesSender {
    async fn send(&self, request: RpcRequest, params: Value) -> ClientResult<Value> {
        // Some methods of the client send null for a list without entries.
        let params = if params.is_null() {
            Value::Array(Vec::new())
        } else {
            params
        };
        let to_nodes = Request::new(request.as_str(), params);
        let decode = |result| has_type_of(request, without_version(result));
        let result = self.0.ask_decoded(&to_nodes, decode).await;
        result.map_err(client_error)
    }

    fn get_transport_stats(&self) -> RpcTransportStats {
        RpcTransportStats::default()
    }

    /// Empty: there are several URLs, and they may contain keys.
    fn url(&self) -> String {
        String::new()
    }
}

/// Checks that a result has the type that the method returns, so that the next node is asked if it
/// has not.
fn has_type_of(request: RpcRequest, result: Value) -> Result<Value, Failure> {
    let checked = match request {
        RpcRequest::GetBlockHeight | RpcRequest::GetFirstAvailableBlock => {
            u64::deserialize(&result).map(drop)
        }
        RpcRequest::GetBlockTime => i64::deserialize(&result).map(drop),
        RpcRequest::GetLatestBlockhash => has_blockhash(&result),
        RpcRequest::GetSignaturesForAddress => {
            Vec::<ListedTransaction>::deserialize(&result).map(drop)
        }
        RpcRequest::GetTransaction => Option::<FetchedTransaction>::deserialize(&result).map(drop),
        _ => Ok(()),
    };
    match checked {
        Ok(()) => Ok(result),
        Err(error) => Err(Failure::NoReply(unexpected(error))),
    }
}

fn has_blockhash(result: &Value) -> Result<(), serde_json::Error> {
    let found = Response::<RpcBlockhash>::deserialize(result)?;
    let blockhash: Result<Hash, _> = found.value.blockhash.parse();
    blockhash.map(drop).map_err(serde_json::Error::custom)
}

/// The failure as an error of the client, from which [`fault`] takes it back.
fn client_error(failure: Failure) -> ClientError {
    let kind = match failure {
        Failure::Node(NodeError { code, message, .. }) => {
            ErrorKind::RpcError(RpcError::RpcResponseError {
                code,
                message,
                data: RpcResponseErrorData::Empty,
            })
        }
        failure => ErrorKind::Middleware(AnyhowError::new(failure)),
    };
    kind.into()
}

fn unexpected(error: impl Display) -> Fault {
    unavailable(format_args!(
        "the node returned an unexpected result: {error}"
    ))
}

/// The fault of a request that every working node can answer.
pub(crate) fn fault(error: ClientError) -> Fault {
    match *error.kind {
        ErrorKind::Middleware(error) => match error.downcast::<Failure>() {
            Ok(failure) => failure.fault(),
            Err(error) => unavailable(error),
        },
        ErrorKind::RpcError(RpcError::RpcResponseError { code, message, .. }) => {
            Failure::Node(NodeError::new(code, message)).fault()
        }
        kind => unexpected(kind),
    }
}

#[cfg(test)]
mod tests {
    use quittance_core::FaultKind;
    use serde_json::json;

    use super::*;

    #[test]
    fn failures_of_nodes_survive_the_client() {
        let mut source = unavailable("no node took the request");
        source.retry_after = Some(std::time::Duration::from_secs(77));
        for failure in [
            Failure::NotSent(source.clone()),
            Failure::NoReply(source.clone()),
        ] {
            let error = client_error(failure).into_with_request(RpcRequest::GetSlot);
            assert_eq!(fault(error), source);
        }
        let error = NodeError::new(-32004, "Block not available");
        let found = fault(client_error(Failure::Node(error.clone())));
        assert_eq!(found, Failure::Node(error).fault());
        assert_eq!(found.kind, FaultKind::ChainUnavailable);
    }

    #[test]
    fn result_of_another_type_is_not_accepted() {
        let response = |value| json!({ "context": { "slot": 1 }, "value": value });
        let blockhash =
            |hash: &str| response(json!({ "blockhash": hash, "lastValidBlockHeight": 1 }));
        let zero = Hash::default().to_string();
        let listed = json!([{ "signature": "1", "slot": 1, "err": null, "memo": null }]);
        let transaction = json!({ "slot": 1, "transaction": ["", "base64"], "meta": null });
        for (request, good, bad) in [
            (RpcRequest::GetBlockHeight, json!(7), json!(null)),
            (RpcRequest::GetFirstAvailableBlock, json!(0), json!("0")),
            (RpcRequest::GetBlockTime, json!(7), json!(null)),
            (
                RpcRequest::GetLatestBlockhash,
                blockhash(&zero),
                blockhash("0"),
            ),
            (
                RpcRequest::GetSignaturesForAddress,
                listed,
                json!([{ "slot": 1 }]),
            ),
            (RpcRequest::GetTransaction, transaction, json!([])),
        ] {
            assert!(has_type_of(request, good).is_ok(), "{request}");
            let failure = has_type_of(request, bad).unwrap_err();
            assert!(matches!(failure, Failure::NoReply(_)), "{request}");
        }
    }
}
