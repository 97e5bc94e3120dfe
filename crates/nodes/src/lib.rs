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

mod confirm;
mod failure;
mod health;
mod http;
mod limit;
mod node;
mod nodes;
mod object;
mod refusals;
mod reply;
mod request;
mod submission;

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
