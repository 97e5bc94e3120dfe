//! A facilitator behind HTTP.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use quittance_core::wire::{SettleResponse, SupportedResponse, VerifyResponse};
use quittance_core::{Facilitator, FacilitatorError, Fault, FaultKind, PaymentRequest, json};
use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::bounded;
use crate::printable::printable;
use crate::retry::retry_after;

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
        let builder = reqwest::Client::builder()
            .timeout(ANSWER_WITHIN)
            // A payment is sent to the facilitator that was named and to nobody it may point to.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("quittance/", env!("CARGO_PKG_VERSION")));
        // The environment's proxy could not reach this machine, and would see the key.
        let builder = match is_local(&url) {
            true => builder.no_proxy(),
            false => builder,
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

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        within: Duration,
        request: &PaymentRequest,
        stands: fn(&T) -> bool,
    ) -> Result<T, FacilitatorError> {
        let post = self.http.post(self.url(path)).timeout(within);
        let post = post
            .header("content-type", "application/json")
            .body(request.text().to_owned());
        self.ask(path, post, stands).await
    }

    /// `stands` says of which answers the status makes no difference.
    async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        ask: RequestBuilder,
        stands: fn(&T) -> bool,
    ) -> Result<T, FacilitatorError> {
        let ask = match &self.key {
            Some(key) => ask.bearer_auth(key.expose_secret()),
            None => ask,
        };
        let answered = ask.send().await.map_err(|error| unsent(path, error))?;
        let (status, headers) = (answered.status(), answered.headers().clone());
        let body = bounded::read(answered)
            .await
            .map_err(|error| unreachable(path, error))?;
        match (status, json::read::<T>("answer", &body)) {
            (StatusCode::OK, Ok(answer)) => Ok(answer),
            (StatusCode::OK, Err(malformed)) => Err(unreachable(path, malformed).into()),
            // Some facilitators give verdicts with a status of their own.
            (status, Ok(answer)) if status.is_client_error() || stands(&answer) => Ok(answer),
            (status, _) => Err(problem(path, status, &headers, &body).into()),
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

/// Whether an answer to /settle names the transaction that may have moved the money: a known id is never dropped, whatever
/// stands over it.
fn names_transaction(settled: &SettleResponse) -> bool {
    !settled.success && !settled.transaction.is_empty()
}

fn unreachable(path: &str, problem: impl fmt::Display) -> Fault {
    // It may quote what the facilitator wrote.
    let problem = printable(&problem.to_string());
    let detail = format_args!("/{path}: {problem}");
    Fault::new(FaultKind::FacilitatorUnreachable, detail)
}

/// What an answer is that never came.
fn unsent(path: &str, error: reqwest::Error) -> Fault {
    let never_sent = error.is_connect();
    let fault = unreachable(path, error.without_url());
    match never_sent {
        true => fault.untouched(),
        false => fault,
    }
}

/// What facilitators say in answers that are no verdicts.
#[derive(Default, Deserialize)]
struct Said {
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    field: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    untouched: bool,
}

/// What an answer is that is no verdict. It says nothing about the payer: the request is the seller's, and so is the choice
/// of a facilitator that cannot read it.
fn problem(path: &str, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Fault {
    let said = json::read::<Said>("answer", body).unwrap_or_default();
    let mut detail = format!("/{path}: HTTP {}", status.as_u16());
    if status.is_redirection() {
        detail.push_str(" (redirects are not followed)");
    }
    for part in [&said.field, &said.message].into_iter().flatten() {
        detail.push_str(": ");
        detail.push_str(&printable(part));
    }
    let mut fault = Fault::new(kind(status, said.error.as_deref()), detail);
    if let Some(after) = retry_after(headers) {
        fault.retry_after = Some(after);
    }
    fault.untouched = said.untouched || status.is_redirection() || at_the_door(status);
    fault
}

/// Whether a request with this answer was turned away before anybody read the payment.
fn at_the_door(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403 | 404 | 405 | 413 | 415 | 429)
}

fn kind(status: StatusCode, code: Option<&str>) -> FaultKind {
    let known = [
        FaultKind::Busy,
        FaultKind::ChainUnavailable,
        FaultKind::FacilitatorFunds,
        FaultKind::JournalUnavailable,
    ];
    let said = known.into_iter().find(|kind| code == Some(kind.code()));
    said.unwrap_or(match status {
        StatusCode::TOO_MANY_REQUESTS => FaultKind::Busy,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FaultKind::Misconfigured,
        _ => FaultKind::FacilitatorUnreachable,
    })
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
        self.post("verify", ANSWER_WITHIN, request, |_| false).await
    }

    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        self.post("settle", SETTLE_WITHIN, request, names_transaction)
            .await
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        let get = self.http.get(self.url("supported"));
        self.ask("supported", get, |_| false).await
    }
}
