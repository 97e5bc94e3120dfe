//! Why a request has no reply, and whether a node may have acted on it.

use quittance_core::{Fault, FaultKind};
use serde::Deserialize;
use serde_json::Value;

/// The error object that a node returned instead of a result.
#[derive(Debug, Clone, PartialEq, Deserialize, thiserror::Error)]
#[error("the node returned error {code}: {message}")]
#[non_exhaustive]
pub struct NodeError {
    /// The code of the JSON-RPC error.
    pub code: i64,
    /// Its message, for people. Node software does not agree on the words.
    pub message: String,
    /// Its data, such as the result of a simulation; null if there is none.
    #[serde(default)]
    pub data: Value,
}

impl NodeError {
    /// An error with this code and message and without data.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            data: Value::Null,
        }
    }
}

/// Why a request has no reply.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// A node replied with an error.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Certain: no node acted on the request.
    #[error(transparent)]
    NotSent(Fault),
    /// A node may have acted on the request, and its reply is missing or unreadable.
    #[error(transparent)]
    NoReply(Fault),
}

impl Failure {
    /// The failure as a fault, for a request that every working node can answer.
    pub fn fault(self) -> Fault {
        match self {
            Self::Node(error) => unavailable(error),
            Self::NotSent(fault) | Self::NoReply(fault) => fault,
        }
    }
}

/// The fault of a chain that cannot be reached, with this detail.
pub fn unavailable(detail: impl std::fmt::Display) -> Fault {
    Fault::new(FaultKind::ChainUnavailable, detail)
}
