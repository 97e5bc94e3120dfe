//! A facilitator behind HTTP.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use quittance_core::wire::{SettleResponse, SupportedResponse, VerifyResponse};
use quittance_core::{Facilitator, FacilitatorError, Fault, PaymentRequest};
use reqwest::{ClientBuilder, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::bounded;
use crate::verdict::{self, Answered, unreachable};

/// How long a connection may take, TLS included, to all addresses of a host together. A host that is switched off does
/// not even refuse; without this limit the operating system waits for half a minute at each address, which is half of
/// the time that a payment is valid.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// How long settling may take. Longer than a facilitator waits for a transaction, so that it can say "pending" itself.
const SETTLE_WITHIN: Duration = Duration::from_secs(60);

/// How long everything else may take: a few reads of a chain, each of which is given up after seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// A facilitator behind HTTP: any that speaks the specification's section 7.
pub struct RemoteFacilitator {
    http: reqwest::Client,
    url: Url,
    key: Option<SecretString>,
}

fn client() -> ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_WITHIN)
        .timeout(ANSWER_WITHIN)
        // A payment is sent to the facilitator that was named, and to no other one that it points to.
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("quittance/", env!("CARGO_PKG_VERSION")))
}

impl RemoteFacilitator {
    /// The facilitator whose `/verify`, `/settle` and `/supported` stand under this URL.
    ///
    /// # Errors
    /// When it is not an HTTP URL or no HTTP client can be built.
    pub fn new(url: &str) -> Result<Self, RemoteError> {
        let mut url: Url = url
            .parse()
            .map_err(|_| RemoteError::Url("what was given".to_owned()))?;
        if !matches!(url.scheme(), "http" | "https") {
            let shown = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
            return Err(RemoteError::Url(shown));
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        // The environment's proxy could not reach this machine, and would see the key.
        let builder = match is_local(&url) {
            true => client().no_proxy(),
            false => client(),
        };
        let http = builder
            .build()
            .map_err(|error| RemoteError::Http(error.without_url()))?;
        Ok(Self {
            http,
            url,
            key: None,
        })
    }

    /// The same facilitator, asked with this key: `Authorization: Bearer …`.
    #[must_use]
    pub fn with_key(self, key: SecretString) -> Self {
        Self {
            key: Some(key),
            ..self
        }
    }

    fn url(&self, path: &str) -> Url {
        self.url
            .join(path)
            .expect("a relative path joins any HTTP URL")
    }

    async fn post(
        &self,
        path: &'static str,
        within: Duration,
        request: &PaymentRequest,
    ) -> Result<Answered, Fault> {
        let post = self.http.post(self.url(path)).timeout(within);
        let post = post
            .header("content-type", "application/json")
            .body(request.text().to_owned());
        self.ask(path, post).await
    }

    async fn ask(&self, path: &'static str, ask: RequestBuilder) -> Result<Answered, Fault> {
        let ask = match &self.key {
            Some(key) => ask.bearer_auth(key.expose_secret()),
            None => ask,
        };
        let answered = ask.send().await.map_err(|error| unsent(path, error))?;
        let (status, headers) = (answered.status(), answered.headers().clone());
        let (body, broken) = bounded::read_part(answered).await;
        Ok(Answered {
            path,
            status,
            headers,
            body,
            broken: broken.map(|broken| broken.to_string()),
        })
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

/// What an answer is that never came. Without a connection not one byte of the payment was sent.
fn unsent(path: &str, error: reqwest::Error) -> Fault {
    let never_sent = error.is_connect();
    let fault = unreachable(path, error.without_url());
    match never_sent {
        true => fault.not_attempted(),
        false => fault,
    }
}

/// Why there is no such facilitator.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The URL is none, or not for HTTP. Only scheme and host are told: the rest may hold a key.
    #[error("{0} is not an HTTP URL")]
    Url(String),
    /// The HTTP client could not be built.
    #[error("HTTP: {0}")]
    Http(reqwest::Error),
}

impl fmt::Debug for RemoteFacilitator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The rest of the URL may hold a key.
        let origin = self.url.origin().ascii_serialization();
        write!(f, "RemoteFacilitator({origin})")
    }
}

#[async_trait]
impl Facilitator for RemoteFacilitator {
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        let answered = self.post("verify", ANSWER_WITHIN, request).await?;
        Ok(verdict::of_verify(&answered)?)
    }

    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        let answered = self.post("settle", SETTLE_WITHIN, request).await?;
        Ok(verdict::of_settle(request, &answered)?)
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        let get = self.http.get(self.url("supported"));
        let answered = self.ask("supported", get).await?;
        if !answered.status.is_success() {
            return Err(answered.problem().into());
        }
        let read = answered.read();
        read.map_err(|malformed| answered.nonsense(&malformed).into())
    }
}

#[cfg(test)]
mod tests;
