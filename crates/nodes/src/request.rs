//! Requests to nodes, and their replies.

use std::borrow::Cow;

use quittance_core::Fault;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::{Failure, NodeError, unavailable};

/// A JSON-RPC request without its id, which the node's client assigns.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Request {
    /// The method, such as `eth_call`.
    pub method: Cow<'static, str>,
    /// The parameters.
    pub params: Value,
}

impl Request {
    /// A request for this method with these parameters.
    pub fn new(method: impl Into<Cow<'static, str>>, params: Value) -> Self {
        Self {
            method: method.into(),
            params,
        }
    }
}

/// One node's reply to one request: the result, or the node's error.
pub type Reply = Result<Value, NodeError>;

/// How a node proves that it belongs to a chain.
pub trait Identity: std::fmt::Debug + Send + Sync + 'static {
    /// The request that every node gets before any other, such as `eth_chainId`.
    fn request(&self) -> Request;

    /// Checks the result of [`request`](Self::request).
    ///
    /// # Errors
    /// What is wrong, to be read after "the node ... is": "on chain 1, not 8453".
    fn check(&self, result: &Value) -> Result<(), String>;

    /// The error codes with which this chain's gateways report their limits, in addition to those
    /// that all gateways share. A node that returns one of them certainly did nothing.
    fn limit_codes(&self) -> &[i64] {
        &[]
    }
}

/// Decodes the result in a reply.
///
/// # Errors
/// If the node replied with an error, or with a result of another type.
pub fn decode_reply<T: DeserializeOwned>(reply: Reply) -> Result<T, Fault> {
    reply
        .map_err(Failure::Node)
        .and_then(decode_result)
        .map_err(Failure::fault)
}

pub(crate) fn decode_result<T: DeserializeOwned>(result: Value) -> Result<T, Failure> {
    serde_json::from_value(result).map_err(|error| {
        let detail = format_args!("the node returned an unexpected result: {error}");
        Failure::NoReply(unavailable(detail))
    })
}
