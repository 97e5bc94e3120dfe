//! How requests reach a node: JSON-RPC by HTTP, or another way that a chain has.

use std::fmt;

use async_trait::async_trait;

use crate::failure::Failure;
use crate::request::{Reply, Request};

/// The way to one node. The default is JSON-RPC 2.0 by HTTP POST.
///
/// Other chains have another dialect, REST or gRPC. Such a transport translates a [`Request`]: its
/// method may be a path, and its parameters a query.
///
/// **An implementation must** bound what it reads and how long it waits. It must tell a request
/// that was certainly not sent from one whose reply is missing: a transaction of the second kind
/// may be included.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// The node's name for logs, without keys, such as its URL without path and query.
    fn name(&self) -> &str;

    /// Sends requests in one round trip. The replies are in the order of the requests, one for
    /// each.
    ///
    /// # Errors
    /// Why there are no replies.
    async fn exchange(&self, requests: &[Request]) -> Result<Vec<Reply>, ExchangeError>;
}

/// Why one round trip returned no replies.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{failure}")]
#[non_exhaustive]
pub struct ExchangeError {
    /// Whether the node may have acted on the requests.
    pub failure: Failure,
    /// Whether fewer requests at once may succeed.
    pub fewer_may_work: bool,
}

impl ExchangeError {
    /// An error with this failure. Fewer requests do not help.
    pub const fn new(failure: Failure) -> Self {
        Self {
            failure,
            fewer_may_work: false,
        }
    }

    /// The same error. Fewer requests at once may succeed.
    #[must_use]
    pub fn with_fewer(self) -> Self {
        Self {
            fewer_may_work: true,
            ..self
        }
    }
}
