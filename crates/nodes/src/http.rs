//! POST requests with JSON bodies, bounded in size and time. Errors never contain the URL.

use std::time::Duration;

use serde_json::Value;
use url::Url;

use crate::failure::{Failure, unavailable};
use crate::transport::ExchangeError;

/// The longest response body that is read, in bytes. A batch of a hundred transactions with their
/// logs is under 4 MiB.
const BODY_MAX: usize = 16 * 1024 * 1024;

/// Statuses with which a gateway certainly did not forward the request: no key, a bad key, an
/// unknown path, a body too long, too many requests. Any other status leaves that open.
const NOT_FORWARDED: [u16; 5] = [401, 403, 404, 413, 429];

/// Statuses that a gateway may return for a batch and not for a single request.
const BATCH_REFUSED: [u16; 8] = [400, 405, 413, 415, 422, 429, 500, 501];

/// The longest `Retry-After` that is respected. The node may be the only one that works.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);

/// The time limit for a connection. Without it, a host that drops packets uses up the whole time
/// limit of a request, and it stays open whether the request was sent. Three times the longest
/// round trip with one lost packet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The HTTP clients for remote and for local nodes.
pub(crate) struct Clients {
    any: reqwest::Client,
    local: reqwest::Client,
}

impl Clients {
    pub(crate) fn new(timeout: Duration) -> Result<Self, reqwest::Error> {
        let builder = || {
            reqwest::Client::builder()
                .timeout(timeout)
                // Shorter than the time limit, which leaves open whether the request was sent.
                .connect_timeout(CONNECT_TIMEOUT.min(timeout / 2))
                // Nodes do not redirect. A redirect could send a transaction to any host.
                .redirect(reqwest::redirect::Policy::none())
                .user_agent(concat!("quittance/", env!("CARGO_PKG_VERSION")))
        };
        Ok(Self {
            any: builder().build()?,
            local: builder().no_proxy().build()?,
        })
    }

    /// The client for a node. A node on this machine is reached without the environment's proxy,
    /// which could not reach it and would see its key.
    pub(crate) fn for_url(&self, url: &Url) -> &reqwest::Client {
        match is_local(url) {
            true => &self.local,
            false => &self.any,
        }
    }
}

/// Whether the host of a URL is this machine (RFC 6761, section 6.3, and the loopback addresses).
fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}

/// The URL without the parts that may contain keys: user, password, path and query.
pub fn redacted(url: &Url) -> String {
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or("?"))
}

/// Why an HTTP request returned no JSON.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("cannot be reached: {}", causes(.0))]
    Connect(#[source] reqwest::Error),
    #[error("did not respond: {}", causes(.0))]
    Broken(#[source] reqwest::Error),
    #[error("responded with HTTP status {status}")]
    Status {
        status: u16,
        /// The `Retry-After` header, bounded.
        retry_after: Option<Duration>,
    },
    #[error("responded with more than {BODY_MAX} bytes")]
    TooLong,
    #[error("responded with invalid JSON: {0}")]
    NotJson(#[source] serde_json::Error),
}

/// An error's text with those of its causes. Alone it says only that a request failed.
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl HttpError {
    fn from_reqwest(error: reqwest::Error) -> Self {
        let error = error.without_url();
        if error.is_connect() {
            Self::Connect(error)
        } else {
            Self::Broken(error)
        }
    }

    /// The error of a response without JSON-RPC in its body.
    fn from_status(response: &reqwest::Response) -> Self {
        let header = response.headers().get(reqwest::header::RETRY_AFTER);
        let seconds = header.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let after = seconds.map(Duration::from_secs);
        Self::Status {
            status: response.status().as_u16(),
            retry_after: after.map(|after| after.min(RETRY_AFTER_MAX)),
        }
    }

    pub(crate) fn exchange_error(&self) -> ExchangeError {
        let mut fault = unavailable(format_args!("the node {self}"));
        if let Self::Status {
            retry_after: Some(after),
            ..
        } = self
        {
            fault.retry_after = Some(*after);
        }
        let failure = match self {
            // The gateway in front of the node refused the request.
            Self::Status { status, .. } if NOT_FORWARDED.contains(status) => {
                Failure::NotSent(fault)
            }
            Self::Connect(_) => Failure::NotSent(fault),
            _ => Failure::NoReply(fault),
        };
        let fewer_may_work = match self {
            Self::Status { status, .. } => BATCH_REFUSED.contains(status),
            Self::TooLong | Self::NotJson(_) => true,
            Self::Connect(_) | Self::Broken(_) => false,
        };
        ExchangeError {
            failure,
            fewer_may_work,
        }
    }
}

pub(crate) async fn post(
    http: &reqwest::Client,
    url: &Url,
    body: &Value,
) -> Result<Value, HttpError> {
    let request = http.post(url.clone()).json(body);
    let mut response = request.send().await.map_err(HttpError::from_reqwest)?;
    let status = response.status();
    let refused = HttpError::from_status(&response);
    if NOT_FORWARDED.contains(&status.as_u16()) {
        return Err(refused);
    }
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(HttpError::from_reqwest)? {
        if text.len() + chunk.len() > BODY_MAX {
            return Err(HttpError::TooLong);
        }
        text.extend_from_slice(&chunk);
    }
    // A JSON-RPC body counts whatever the status is.
    serde_json::from_slice(&text).map_err(|error| {
        if status.is_success() {
            HttpError::NotJson(error)
        } else {
            refused
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redacted_url_has_no_keys() {
        let url = Url::parse("https://user:secret@node.example:8545/v2/secret?key=secret").unwrap();
        assert_eq!(redacted(&url), "https://node.example:8545");
    }

    #[test]
    fn only_local_hosts_are_reached_without_a_proxy() {
        let local = |text: &str| is_local(&Url::parse(text).unwrap());
        for url in [
            "http://localhost:8545",
            "http://node.localhost",
            "http://127.0.0.1:8545/key",
            "http://127.8.9.1",
            "http://[::1]:8545",
        ] {
            assert!(local(url), "{url}");
        }
        for url in [
            "http://localhost.example",
            "http://notlocalhost",
            "http://10.0.0.1",
            "http://[2001:db8::1]",
        ] {
            assert!(!local(url), "{url}");
        }
    }
}
