//! The transport of `solana-rpc-client` over [`Nodes`].
//!
//! The library's client writes requests and reads results. The transport keeps what settling
//! payments needs: several nodes, their limits, and "not sent" distinguished from "no reply".

use std::fmt::Display;
use std::sync::Arc;

use async_trait::async_trait;
use quittance_core::{Fault, FaultKind};
use quittance_nodes::{Failure, Nodes, Request, unavailable};
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::Value;
use solana_hash::Hash;
use solana_rpc_client::rpc_sender::{RpcSender, RpcTransportStats};
use solana_rpc_client_api::client_error::{
    AnyhowError, Error as ClientError, ErrorKind, Result as ClientResult,
};
use solana_rpc_client_api::request::RpcRequest;
use solana_rpc_client_api::response::{Response, RpcBlockhash};

use super::results::without_version;

/// The nodes of a cluster as one transport.
///
/// A request goes to each node in turn, until one returns a result of the method's type.
pub(super) struct NodesSender(pub(super) Arc<Nodes>);

#[async_trait]
impl RpcSender for NodesSender {
    async fn send(&self, request: RpcRequest, params: Value) -> ClientResult<Value> {
        let check = check_of(request).map_err(client_error)?;
        let to_nodes = Request::new(request.as_str(), params);
        let decode = |result| checked(check, without_version(result));
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

/// Checks that a result has the type that a method returns, so that the next node is asked if it
/// has not.
type Check = fn(&Value) -> Result<(), serde_json::Error>;

/// The check of a method's results.
///
/// # Errors
/// If the transport does not know the method. Results without a check would end the search for a
/// node that works.
fn check_of(request: RpcRequest) -> Result<Check, Failure> {
    match request {
        RpcRequest::GetBlockHeight => Ok(|result| u64::deserialize(result).map(drop)),
        RpcRequest::GetLatestBlockhash => Ok(has_blockhash),
        _ => {
            let detail = format_args!("the transport does not know the method {request}");
            Err(Failure::NotSent(Fault::new(FaultKind::Internal, detail)))
        }
    }
}

fn checked(check: Check, result: Value) -> Result<Value, Failure> {
    match check(&result) {
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
    ErrorKind::Middleware(AnyhowError::new(failure)).into()
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
        kind => unexpected(kind),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quittance_nodes::NodeError;
    use serde_json::json;

    use super::*;
    use crate::chain::rpc::Rpc;

    #[test]
    fn failures_of_nodes_survive_the_client() {
        let mut source = unavailable("no node took the request");
        source.retry_after = Some(Duration::from_secs(77));
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
        for (request, good, bad) in [
            (RpcRequest::GetBlockHeight, json!(7), json!(null)),
            (
                RpcRequest::GetLatestBlockhash,
                blockhash(&zero),
                blockhash("0"),
            ),
        ] {
            let check = check_of(request).unwrap();
            assert!(checked(check, good).is_ok(), "{request}");
            let failure = checked(check, bad).unwrap_err();
            assert!(matches!(failure, Failure::NoReply(_)), "{request}");
        }
    }

    /// With these nodes, whatever is sent ends as an unavailable chain.
    #[tokio::test]
    async fn unknown_method_is_not_sent() {
        let nodes = ["http://127.0.0.1:1".parse().unwrap()];
        let rpc = Rpc::new("", &nodes, Duration::from_secs(1)).unwrap();
        let slot = rpc.client().get_slot().await.unwrap_err();
        assert_eq!(fault(slot).kind, FaultKind::Internal);
        let height = rpc.client().get_block_height().await.unwrap_err();
        assert_eq!(fault(height).kind, FaultKind::ChainUnavailable);
    }
}
