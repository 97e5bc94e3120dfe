//! How requests reach a node: JSON-RPC by HTTP, or another way that a chain has.

use std::fmt;

use async_trait::async_trait;
use serde_json::{Value, json};
use url::Url;

use crate::failure::Failure;
use crate::http::{post, redacted};
use crate::reply::{FIRST_ID, in_order};
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

    /// Sends requests in one round trip. The replies are in the order of the requests, one for each.
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

/// JSON-RPC 2.0 by HTTP POST, many requests in one body.
#[derive(Debug)]
pub(crate) struct JsonRpc {
    http: reqwest::Client,
    url: Url,
    name: String,
    /// The error codes of the chain's gateways for rate limits.
    limit_codes: Vec<i64>,
}

impl JsonRpc {
    pub(crate) fn new(http: &reqwest::Client, url: &Url, limit_codes: &[i64]) -> Self {
        Self {
            http: http.clone(),
            url: url.clone(),
            name: redacted(url),
            limit_codes: limit_codes.to_vec(),
        }
    }
}

#[async_trait]
impl Transport for JsonRpc {
    fn name(&self) -> &str {
        &self.name
    }

    async fn exchange(&self, requests: &[Request]) -> Result<Vec<Reply>, ExchangeError> {
        let object = |(id, Request { method, params }): (u64, &Request)| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let objects: Vec<Value> = (FIRST_ID..).zip(requests).map(object).collect();
        // Not every gateway accepts a batch of one.
        let body = match objects.as_slice() {
            [one] => one.clone(),
            many => json!(many),
        };
        let response = post(&self.http, &self.url, &body).await;
        let response = response.map_err(|error| error.exchange_error())?;
        in_order(response, requests.len(), &self.limit_codes)
    }
}
