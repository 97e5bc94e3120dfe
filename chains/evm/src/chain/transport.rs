//! Alloy's transport over [`Nodes`].
//!
//! Alloy's typed client writes requests and reads results. The transport keeps what settling
//! payments needs: several nodes, their limits, batches in one round trip, and "not sent"
//! distinguished from "no reply".

use std::fmt::Display;
use std::sync::Arc;
use std::task::{Context, Poll};

use alloy::primitives::{Bytes, U64};
use alloy::rpc::json_rpc::{
    ErrorPayload, Id, RequestPacket, Response, ResponsePacket, ResponsePayload, SerializedRequest,
};
use alloy::transports::{RpcError, TransportError, TransportErrorKind, TransportFut};
use quittance_core::Fault;
use quittance_nodes::{Failure, NodeError, Nodes, Reply, Request, unavailable};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::to_raw_value;
use tower_service::Service;

use super::results::{FoundLog, Head, Receipt};

/// The nodes of a chain as one transport.
///
/// A single request goes to each node in turn, until one returns a result of the method's type. A
/// batch is sent in one round trip, and what one node cannot answer goes to the next.
#[derive(Debug, Clone)]
pub(super) struct NodesTransport(pub(super) Arc<Nodes>);

impl Service<RequestPacket> for NodesTransport {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> TransportFut<'static> {
        let nodes = Arc::clone(&self.0);
        Box::pin(async move {
            match packet {
                RequestPacket::Single(request) => single(&nodes, request).await,
                RequestPacket::Batch(requests) => batch(&nodes, &requests).await,
            }
        })
    }
}

async fn single(
    nodes: &Nodes,
    request: SerializedRequest,
) -> Result<ResponsePacket, TransportError> {
    let to_nodes = to_nodes(&request)?;
    let decode = |result| has_type_of(&to_nodes.method, result);
    let reply = match nodes.ask_decoded(&to_nodes, decode).await {
        Ok(result) => Ok(result),
        Err(Failure::Node(error)) => Err(error),
        Err(failure) => return Err(TransportErrorKind::custom(failure)),
    };
    from_nodes(request.id().clone(), reply).map(ResponsePacket::Single)
}

async fn batch(
    nodes: &Nodes,
    requests: &[SerializedRequest],
) -> Result<ResponsePacket, TransportError> {
    let to_nodes: Vec<Request> = requests.iter().map(to_nodes).collect::<Result<_, _>>()?;
    let replies = nodes.ask_many(&to_nodes).await;
    let replies = replies.map_err(|fault| TransportErrorKind::custom(Failure::NoReply(fault)))?;
    let ids = requests.iter().map(|request| request.id().clone());
    let responses = ids.zip(replies).map(|(id, reply)| from_nodes(id, reply));
    let responses = responses.collect::<Result<_, _>>()?;
    Ok(ResponsePacket::Batch(responses))
}

fn to_nodes(request: &SerializedRequest) -> Result<Request, TransportError> {
    let params = match request.params() {
        Some(params) => serde_json::from_str(params.get()).map_err(RpcError::SerError)?,
        None => Value::Array(Vec::new()),
    };
    Ok(Request::new(request.method_clone(), params))
}

fn from_nodes(id: Id, reply: Reply) -> Result<Response, TransportError> {
    let raw = |value: &Value| to_raw_value(value).map_err(RpcError::SerError);
    let payload = match reply {
        Ok(result) => ResponsePayload::Success(raw(&result)?),
        Err(error) => ResponsePayload::Failure(ErrorPayload {
            code: error.code,
            data: Some(raw(&error.data)?),
            message: error.message.into(),
        }),
    };
    Ok(Response { id, payload })
}

/// Checks that a result has the type that the method returns, so that the next node is asked if it
/// has not.
fn has_type_of(method: &str, result: Value) -> Result<Value, Failure> {
    let checked = match method {
        "eth_call" => Bytes::deserialize(&result).map(drop),
        "eth_blockNumber" | "eth_estimateGas" => U64::deserialize(&result).map(drop),
        "eth_getLogs" => Vec::<FoundLog>::deserialize(&result).map(drop),
        "eth_getBlockByNumber" => Option::<Head>::deserialize(&result).map(drop),
        "eth_getTransactionReceipt" => Option::<Receipt>::deserialize(&result).map(drop),
        _ => Ok(()),
    };
    match checked {
        Ok(()) => Ok(result),
        Err(error) => Err(Failure::NoReply(unexpected(error))),
    }
}

fn unexpected(error: impl Display) -> Fault {
    unavailable(format_args!(
        "the node returned an unexpected result: {error}"
    ))
}

/// The fault of a request that every working node can answer.
pub(crate) fn fault(error: TransportError) -> Fault {
    match error {
        RpcError::ErrorResp(ErrorPayload { code, message, .. }) => {
            Failure::Node(NodeError::new(code, message)).fault()
        }
        RpcError::Transport(TransportErrorKind::Custom(error)) => {
            match error.downcast::<Failure>() {
                Ok(failure) => failure.fault(),
                Err(error) => unavailable(error),
            }
        }
        // Not the result itself, which may be a whole block.
        RpcError::DeserError { err, .. } => unexpected(err),
        error => unexpected(error),
    }
}

#[cfg(test)]
mod tests {
    use quittance_core::FaultKind;
    use serde_json::json;

    use super::*;

    #[test]
    fn failures_of_nodes_survive_the_transport() {
        let mut source = unavailable("no node took the request");
        source.retry_after = Some(std::time::Duration::from_secs(77));
        for failure in [
            Failure::NotSent(source.clone()),
            Failure::NoReply(source.clone()),
        ] {
            assert_eq!(fault(TransportErrorKind::custom(failure)), source);
        }
        let reply = from_nodes(
            Id::Number(5),
            Err(NodeError::new(-32000, "header not found")),
        );
        let ResponsePayload::Failure(error) = reply.unwrap().payload else {
            panic!("an error is not a result");
        };
        let fault = fault(RpcError::ErrorResp(error));
        assert_eq!(fault.kind, FaultKind::ChainUnavailable);
        assert!(fault.detail.contains("-32000") && fault.detail.contains("header not found"));
    }

    #[test]
    fn result_of_another_type_is_not_accepted() {
        for (method, good, bad) in [
            ("eth_call", json!("0x01"), json!(null)),
            ("eth_blockNumber", json!("0x10"), json!("ten")),
            ("eth_estimateGas", json!("0x5208"), json!({})),
            ("eth_getLogs", json!([]), json!([{ "address": "0x" }])),
            ("eth_getBlockByNumber", json!(null), json!({ "hash": "0x" })),
            ("eth_getTransactionReceipt", json!(null), json!([])),
        ] {
            assert!(has_type_of(method, good).is_ok(), "{method}");
            let failure = has_type_of(method, bad).unwrap_err();
            assert!(matches!(failure, Failure::NoReply(_)), "{method}");
        }
    }
}
