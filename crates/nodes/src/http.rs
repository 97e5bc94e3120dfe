//! A POST of JSON, with limits on what is read and on how long it takes, and no URL in any error.

use std::time::Duration;

use serde_json::Value;
use url::Url;

use crate::reply::Missed;
use crate::{Failure, unavailable};

/// The longest answer that is read: a batch of some hundred transactions with their logs is under 4 MiB.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// Answers with which no request was passed on: no key, a bad one, no such place, too long, too many. Of all others it
/// is not certain.
const TURNED_AWAY: [u16; 5] = [401, 403, 404, 413, 429];

/// Answers that a gateway may give to a batch and not to a single call.
const BATCH_REFUSED: [u16; 8] = [400, 405, 413, 415, 422, 429, 500, 501];

/// The longest time for which a node is left alone because it asks for it (`Retry-After`). It may
/// be the only one that works.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);

/// How long a connection may take to come about. Without it a host that is gone, and refuses
/// nothing, costs the whole time limit and leaves open whether it was asked. Three times as long as
/// the farthest round trip with one lost packet.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// The clients that nodes are asked with.
pub(crate) struct Clients {
    any: reqwest::Client,
    local: reqwest::Client,
}

impl Clients {
    pub(crate) fn new(timeout: Duration) -> Result<Self, reqwest::Error> {
        let builder = || {
            reqwest::Client::builder()
                .timeout(timeout)
                // Under the time limit, which would not say that nothing was sent.
                .connect_timeout(CONNECT_MAX.min(timeout / 2))
                // A node that redirects is not a node; and the body could go to anybody.
                .redirect(reqwest::redirect::Policy::none())
                .user_agent(concat!("quittance/", env!("CARGO_PKG_VERSION")))
        };
        Ok(Self {
            any: builder().build()?,
            local: builder().no_proxy().build()?,
        })
    }

    /// The client for a node. One on this machine is asked without the environment's proxy, which could not reach it and would
    /// see its key.
    pub(crate) fn of(&self, url: &Url) -> &reqwest::Client {
        match is_local(url) {
            true => &self.local,
            false => &self.any,
        }
    }
}

/// Whether a URL is of this machine (RFC 6761, section 6.3, and the loopback addresses).
fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// A URL as it may be printed: keys stand in the path, the query, or before the host.
pub fn redacted(url: &Url) -> String {
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or("?"))
}

/// Why HTTP brought no JSON.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("cannot be reached: {}", causes(.0))]
    Connect(reqwest::Error),
    #[error("did not answer: {}", causes(.0))]
    Broken(reqwest::Error),
    #[error("answered HTTP {status}")]
    Status {
        status: u16,
        /// When it wants to be asked again (`Retry-After`).
        retry_after: Option<Duration>,
    },
    #[error("answered more than {ANSWER_MAX} bytes")]
    TooLong,
    #[error("answered no JSON: {0}")]
    NotJson(serde_json::Error),
}

/// An error with what caused it: by itself it says only that a request failed.
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
    fn of(error: reqwest::Error) -> Self {
        let error = error.without_url();
        if error.is_connect() {
            Self::Connect(error)
        } else {
            Self::Broken(error)
        }
    }

    /// The status of an answer that is no JSON-RPC.
    fn of_status(response: &reqwest::Response) -> Self {
        let header = response.headers().get(reqwest::header::RETRY_AFTER);
        let seconds = header.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let after = seconds.map(Duration::from_secs);
        Self::Status {
            status: response.status().as_u16(),
            retry_after: after.map(|after| after.min(RETRY_AFTER_MAX)),
        }
    }

    pub(crate) fn missed(&self) -> Missed {
        let mut fault = unavailable(format_args!("the node {self}"));
        if let Self::Status {
            retry_after: Some(after),
            ..
        } = self
        {
            fault.retry_after = Some(*after);
        }
        let failure = match self {
            // Turned away at the door, by what stands before the node.
            Self::Status { status, .. } if TURNED_AWAY.contains(status) => Failure::NotAsked(fault),
            Self::Connect(_) => Failure::NotAsked(fault),
            _ => Failure::NoAnswer(fault),
        };
        let fewer_may_work = match self {
            Self::Status { status, .. } => BATCH_REFUSED.contains(status),
            Self::TooLong | Self::NotJson(_) => true,
            Self::Connect(_) | Self::Broken(_) => false,
        };
        Missed {
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
    let mut response = request.send().await.map_err(HttpError::of)?;
    let status = response.status();
    let refused = HttpError::of_status(&response);
    if TURNED_AWAY.contains(&status.as_u16()) {
        return Err(refused);
    }
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(HttpError::of)? {
        if text.len() + chunk.len() > ANSWER_MAX {
            return Err(HttpError::TooLong);
        }
        text.extend_from_slice(&chunk);
    }
    // Whatever else the status says, the node's own answer counts if there is one.
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
    fn keys_in_a_url_are_not_printed() {
        let url = Url::parse("https://user:secret@node.example:8545/v2/secret?key=secret").unwrap();
        assert_eq!(redacted(&url), "https://node.example:8545");
    }

    #[test]
    fn a_node_on_this_machine_is_asked_without_a_proxy() {
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
