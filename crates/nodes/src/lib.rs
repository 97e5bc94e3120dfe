//! JSON-RPC requests to several nodes of one chain.
//!
//! This client does three things that settling payments needs and other clients lack:
//!
//! * It distinguishes a request that was certainly not sent ([`Failure::NotSent`]) from one whose
//!   reply is missing ([`Failure::NoReply`]). A transaction of the second kind may be included.
//! * It sends many requests in one round trip. Each gets its own reply. A request that one node
//!   cannot answer goes to the next.
//! * It bounds what it reads, waits for nodes that limit their clients, and sends nothing to a node
//!   of another chain ([`Identity`]).
//!
//! The chain defines the requests. Chains use the typed client of their ecosystem on top of
//! [`Nodes`].
//!
//! Nodes that speak another language have a [`Transport`] of their own:
//!
//! ```
//! use async_trait::async_trait;
//! use quittance_core::{Fault, FaultKind, Submission};
//! use quittance_nodes::serde_json::{Value, json};
//! use quittance_nodes::{ExchangeError, Failure, Identity, Nodes, Reply, Request, Transport};
//!
//! /// A node in this process, whose answer to a submission is an object.
//! #[derive(Debug)]
//! struct Node {
//!     is_up: bool,
//! }
//!
//! #[async_trait]
//! impl Transport for Node {
//!     fn name(&self) -> &str {
//!         "local"
//!     }
//!
//!     async fn exchange(&self, requests: &[Request]) -> Result<Vec<Reply>, ExchangeError> {
//!         if !self.is_up {
//!             let fault = Fault::new(FaultKind::ChainUnavailable, "the node is down");
//!             return Err(ExchangeError::new(Failure::NotSent(fault)));
//!         }
//!         let reply = |request: &Request| match &*request.method {
//!             "chain" => Ok(json!("local")),
//!             _ => Ok(json!({ "status": "PENDING" })),
//!         };
//!         Ok(requests.iter().map(reply).collect())
//!     }
//! }
//!
//! #[derive(Debug)]
//! struct Local;
//!
//! impl Identity for Local {
//!     fn request(&self) -> Request {
//!         Request::new("chain", Value::Null)
//!     }
//!
//!     fn check(&self, result: &Value) -> Result<(), String> {
//!         (result == "local").then_some(()).ok_or_else(|| format!("on chain {result}"))
//!     }
//! }
//!
//! # #[tokio::main]
//! # async fn main() {
//! let transports: Vec<Box<dyn Transport>> =
//!     vec![Box::new(Node { is_up: false }), Box::new(Node { is_up: true })];
//! let nodes = Nodes::with_transports(transports, Local);
//! let request = Request::new("submit", json!("signed bytes"));
//! let submission = nodes.submit(&request, |reply| match reply {
//!     Ok(result) if result["status"] == "PENDING" => Submission::Accepted,
//!     _ => Submission::Unknown(Fault::new(FaultKind::ChainUnavailable, "unknown status")),
//! });
//! assert_eq!(submission.await, Submission::Accepted);
//! # }
//! ```

mod confirm;
mod failure;
mod health;
mod http;
mod json_rpc;
mod limit;
mod node;
mod nodes;
mod object;
mod refusals;
mod reply;
mod request;
mod submission;
mod transport;

pub use reqwest;
pub use serde_json;
pub use url::{self, Url};

pub use crate::failure::{Failure, NodeError, unavailable};
pub use crate::health::{NodesHealth, problem};
pub use crate::http::redacted;
pub use crate::nodes::Nodes;
pub use crate::object::Object;
pub use crate::refusals::{Meaning, Refusals};
pub use crate::request::{Identity, Reply, Request, decode_reply};
pub use crate::transport::{ExchangeError, Transport};
