//! Why there is no answer, and whose business that is.

use quittance_core::{Fault, FaultKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Answer;

/// What a node said instead of an answer.
#[derive(Debug, Clone, Deserialize)]
pub struct NodeError {
    /// JSON-RPC's code.
    pub code: i64,
    /// What it said, for people; no two kinds of nodes agree on it.
    pub message: String,
    /// More of it, such as what a simulation found; null where there is none.
    #[serde(default)]
    pub data: Value,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub enum Failure {
    /// A node answered, and said no.
    Node(NodeError),
    /// No node took the question: certain that nothing happened.
    NotAsked(Fault),
    /// A node may have taken it, and no answer came.
    NoAnswer(Fault),
}

impl Failure {
    /// The fault this is when the question was one that any working node answers.
    pub fn fault(self) -> Fault {
        match self {
            Self::Node(error) => unavailable(format_args!(
                "the node says {}: {}",
                error.code, error.message
            )),
            Self::NotAsked(fault) | Self::NoAnswer(fault) => fault,
        }
    }
}

/// That the chain cannot be asked, and why.
pub fn unavailable(what: impl std::fmt::Display) -> Fault {
    Fault::new(FaultKind::ChainUnavailable, what)
}

/// An answer as what it should be.
///
/// # Errors
/// When the node said no, or something else than what it was asked.
pub fn read_answer<T: DeserializeOwned>(answer: Answer) -> Result<T, Fault> {
    answer
        .map_err(Failure::Node)
        .and_then(typed)
        .map_err(Failure::fault)
}

pub(crate) fn typed<T: DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    let nonsense = |error| unavailable(format_args!("the node answered nonsense: {error}"));
    serde_json::from_value(answer).map_err(|error| Failure::NoAnswer(nonsense(error)))
}
