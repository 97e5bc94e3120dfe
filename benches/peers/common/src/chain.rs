//! A chain that answers at once, inside the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use alloy_json_rpc::{RequestPacket, Response, ResponsePacket, ResponsePayload, SerializedRequest};
use alloy_provider::RootProvider;
use alloy_rpc_client::RpcClient;
use alloy_transport::{TransportError, TransportErrorKind, TransportFut};
use serde_json::value::RawValue;
use tower::Service;

/// Answers what a facilitator asks about a payment as a chain would on which every payer is rich
/// and has no code, the token is a contract, no authorization is used and every transfer succeeds.
/// Everything else is an error, so that nothing is measured that did not happen.
#[derive(Debug, Clone, Default)]
pub struct InstantChain {
    calls: Arc<AtomicU64>,
}

/// The token, as a request spells it.
const TOKEN: &str = "0x036cbd53842c5426634e7929541ec2318f3dcf7e";

/// `balanceOf(address)`, `authorizationState(address,bytes32)`, and `transferWithAuthorization`
/// with its signature in three parts and in one.
const BALANCE_OF: &str = "0x70a08231";
const AUTHORIZATION_STATE: &str = "0xe94a0102";
const TRANSFER: [&str; 2] = ["0xe3ee160e", "0xcf092995"];

const RICH: &str = "\"0x000000000000000000000000000000000000000000000000000000e8d4a51000\"";
const UNUSED: &str = "\"0x0000000000000000000000000000000000000000000000000000000000000000\"";
const NOTHING: &str = "\"0x\"";
const SOME_CODE: &str = "\"0x60806040\"";

impl InstantChain {
    /// A provider that asks this chain.
    pub fn provider(&self) -> RootProvider {
        RootProvider::new(RpcClient::new(self.clone(), true))
    }

    /// How often it was asked.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn answer(&self, request: &SerializedRequest) -> Result<Response, TransportError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let params = request.params().map_or("", RawValue::get);
        let answer = match request.method() {
            "eth_getCode" if params.contains(TOKEN) => SOME_CODE,
            "eth_getCode" => NOTHING,
            "eth_call" if params.contains(BALANCE_OF) => RICH,
            "eth_call" if params.contains(AUTHORIZATION_STATE) => UNUSED,
            "eth_call" if TRANSFER.iter().any(|selector| params.contains(selector)) => NOTHING,
            method => {
                let problem = format!("this chain does not know {method} {params}");
                return Err(TransportErrorKind::custom_str(&problem));
            }
        };
        Ok(Response {
            id: request.id().clone(),
            payload: ResponsePayload::Success(
                RawValue::from_string(answer.to_owned()).map_err(TransportErrorKind::custom)?,
            ),
        })
    }
}

impl Service<RequestPacket> for InstantChain {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        let answer = match &packet {
            RequestPacket::Single(request) => self.answer(request).map(ResponsePacket::Single),
            RequestPacket::Batch(requests) => requests
                .iter()
                .map(|request| self.answer(request))
                .collect::<Result<_, _>>()
                .map(ResponsePacket::Batch),
        };
        Box::pin(std::future::ready(answer))
    }
}
