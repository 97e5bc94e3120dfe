//! JSON-RPC 2.0 by HTTP POST: the transport of most chains.

use async_trait::async_trait;
use serde_json::{Value, json};
use url::Url;

use crate::http::{post, redacted};
use crate::reply::{FIRST_ID, in_order};
use crate::request::{Reply, Request};
use crate::transport::{ExchangeError, Transport};

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
