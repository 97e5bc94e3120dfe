//! A facilitator behind HTTP.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::wire::{SettleResponse, SupportedResponse, VerifyResponse};
use quittance_core::{
    Amount, Facilitator, FacilitatorError, Fault, PaymentId, PaymentRequest, SaleId,
};
use reqwest::{ClientBuilder, RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use crate::bounded;
use crate::verdict::{self, FacilitatorResponse, unreachable};

/// How long a connection may take, including TLS, to all addresses of a host together. A host that
/// is switched off does not answer. The operating system would wait half a minute for each address,
/// which is half of the time for which a payment is valid.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long settling may take: longer than a facilitator waits for a transaction, so that it can
/// answer "pending" itself.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long other requests may take: a few reads of a chain, each of which has a limit of seconds.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);

/// A facilitator behind HTTP that implements section 7 of the specification.
pub struct RemoteFacilitator {
    http: reqwest::Client,
    url: Url,
    key: Option<SecretString>,
}

fn client() -> ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(RESPONSE_TIMEOUT)
        // A payment goes only to the configured facilitator.
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("quittance/", env!("CARGO_PKG_VERSION")))
}

impl RemoteFacilitator {
    /// The facilitator whose `/verify`, `/settle` and `/supported` are under this URL.
    ///
    /// # Errors
    /// When it is not an HTTP URL or no HTTP client can be built.
    pub fn new(url: &str) -> Result<Self, RemoteError> {
        let mut url: Url = url.parse().map_err(RemoteError::InvalidUrl)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(RemoteError::UnsupportedScheme {
                scheme: url.scheme().to_owned(),
            });
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        // A proxy of the environment could not reach this machine, and would see the key.
        let builder = match is_local(&url) {
            true => client().no_proxy(),
            false => client(),
        };
        let http = builder
            .build()
            .map_err(|error| RemoteError::Client(error.without_url()))?;
        Ok(Self {
            http,
            url,
            key: None,
        })
    }

    /// The same facilitator, with this key in `Authorization: Bearer …`.
    #[must_use]
    pub fn with_key(self, key: SecretString) -> Self {
        Self {
            key: Some(key),
            ..self
        }
    }

    /// A settlement of a Quittance facilitator, by its identity. `None` if the facilitator does not
    /// have it.
    ///
    /// # Errors
    /// When the facilitator does not answer, or the answer is not a settlement.
    pub async fn settlement(&self, id: PaymentId) -> Result<Option<RemoteSettlement>, Fault> {
        let get = self.http.get(self.url(&format!("settlements/{id}")));
        let response = self.send("settlements", get).await?;
        match response.status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                let parsed = response.parse();
                parsed.map(Some).map_err(|it| response.invalid(&it))
            }
            _ => Err(response.problem()),
        }
    }

    fn url(&self, path: &str) -> Url {
        self.url
            .join(path)
            .expect("a relative path joins any HTTP URL")
    }

    fn post(&self, path: &str, within: Duration, request: &PaymentRequest) -> RequestBuilder {
        let post = self.http.post(self.url(path)).timeout(within);
        let post = match request.sale() {
            Some(sale) => post.header(SaleId::HEADER, sale.as_str()),
            None => post,
        };
        post.header("content-type", "application/json")
            .body(request.text().to_owned())
    }

    async fn send(
        &self,
        path: &'static str,
        request: RequestBuilder,
    ) -> Result<FacilitatorResponse, Fault> {
        let request = match &self.key {
            Some(key) => request.bearer_auth(key.expose_secret()),
            None => request,
        };
        let response = request
            .send()
            .await
            .map_err(|error| no_response(path, error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let (body, incomplete) = bounded::read_part(response).await;
        Ok(FacilitatorResponse {
            path,
            status,
            headers,
            body,
            incomplete: incomplete.map(|error| error.to_string()),
        })
    }
}

/// A settlement, as a Quittance facilitator describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RemoteSettlement {
    /// Its state: `pending`, `settled`, `failed`, `released` or `lost`.
    pub state: String,
    /// The CAIP-2 identifier of the network.
    pub network: String,
    /// The payer's address.
    pub payer: String,
    /// The recipient's address.
    pub pay_to: String,
    /// The token.
    pub asset: String,
    /// What can still be refunded, in atomic units. `None` if it has not settled, or is a refund
    /// itself.
    #[serde(default)]
    pub refundable: Option<Amount>,
    /// What the answer to /settle said in `extra`, in the words of the scheme. `None` if it has not
    /// settled, or if the scheme said nothing.
    #[serde(default)]
    pub extra: Option<Object>,
}

/// Whether a URL's host is this machine (RFC 6761, section 6.3, and the loopback addresses).
fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}

/// The fault of a request without a response. Without a connection, nothing of the payment was
/// sent.
fn no_response(path: &str, error: reqwest::Error) -> Fault {
    let never_sent = error.is_connect();
    let fault = unreachable(path, error.without_url());
    match never_sent {
        true => fault.not_attempted(),
        false => fault,
    }
}

/// Why a remote facilitator could not be created. No variant contains the URL, which may contain a
/// key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The URL cannot be parsed.
    #[error("the facilitator's URL is invalid: {0}; use an http or https URL")]
    InvalidUrl(#[source] url::ParseError),
    /// The URL's scheme is neither `http` nor `https`.
    #[error("the facilitator's URL has the scheme {scheme}; use http or https")]
    UnsupportedScheme {
        /// The URL's scheme.
        scheme: String,
    },
    /// The HTTP client could not be built, for example because there are no root certificates.
    #[error("the HTTP client could not be built: {0}")]
    Client(#[source] reqwest::Error),
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
        let post = self.post("verify", RESPONSE_TIMEOUT, request);
        let response = self.send("verify", post).await?;
        Ok(verdict::of_verify(&response)?)
    }

    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        let path = match request.refund_of() {
            None => "settle".to_owned(),
            Some(settlement) => format!("settlements/{settlement}/refunds"),
        };
        let post = self.post(&path, SETTLE_TIMEOUT, request);
        let response = self.send("settle", post).await?;
        Ok(verdict::of_settle(request, &response)?)
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        let get = self.http.get(self.url("supported"));
        let response = self.send("supported", get).await?;
        if !response.status.is_success() {
            return Err(response.problem().into());
        }
        let parsed = response.parse();
        parsed.map_err(|malformed| response.invalid(&malformed).into())
    }
}

#[cfg(test)]
mod tests;
