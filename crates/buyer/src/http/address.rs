//! The address of a request: proxies, credentials and the origin.

use http::HeaderValue;
use http::header::{AUTHORIZATION, IF_MODIFIED_SINCE, IF_NONE_MATCH};
use reqwest::Request;
use url::{Host, Url};

use super::error::BuyError;

/// Two HTTP clients. One uses the proxies from the environment (`HTTP_PROXY`, `HTTPS_PROXY`,
/// `ALL_PROXY`, `NO_PROXY`). The other uses none, for servers on this machine: a proxy cannot reach
/// them and would see their payments unencrypted.
#[derive(Debug)]
pub(crate) struct Clients {
    by_environment: reqwest::Client,
    direct: reqwest::Client,
}

impl Clients {
    /// # Errors
    /// When no HTTP client can be built, for example because there are no root certificates.
    pub(crate) fn new() -> Result<Self, BuyError> {
        let builder = || {
            reqwest::Client::builder()
                // `super::redirect` decides which redirects are followed.
                .redirect(reqwest::redirect::Policy::none())
                .user_agent(concat!("quittance/", env!("CARGO_PKG_VERSION")))
        };
        let built = |builder: reqwest::ClientBuilder| {
            let client = builder.build();
            client.map_err(|error| BuyError::Client(error.without_url()))
        };
        Ok(Self {
            by_environment: built(builder())?,
            direct: built(builder().no_proxy())?,
        })
    }

    pub(crate) async fn execute(
        &self,
        request: Request,
    ) -> Result<reqwest::Response, reqwest::Error> {
        let client = match is_local(request.url()) {
            true => &self.direct,
            false => &self.by_environment,
        };
        client.execute(request).await
    }
}

fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}

/// Moves the user name and the password in the request's URL to `Authorization: Basic`, as browsers
/// do. In the URL they would reach proxies and logs. An `Authorization` header of the caller wins.
pub(crate) fn move_credentials(request: &mut Request) {
    let (name, password) = (
        request.url().username().to_owned(),
        request.url().password(),
    );
    if name.is_empty() && password.is_none() {
        return;
    }
    let decoded = |text: &str| percent_decoded(text);
    let pair = [
        decoded(&name),
        b":".to_vec(),
        decoded(password.unwrap_or_default()),
    ]
    .concat();
    let value = format!("Basic {}", base64(&pair));
    let mut value: HeaderValue = value.parse().expect("base64 is a header value");
    value.set_sensitive(true);
    let headers = request.headers_mut();
    if !headers.contains_key(AUTHORIZATION) {
        headers.insert(AUTHORIZATION, value);
    }
    without_credentials(request.url_mut());
}

/// Removes the user name and the password from a URL.
pub(crate) fn without_credentials(url: &mut Url) {
    // Fails only for URLs without a host, which have none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
}

/// Removes the conditions that a server answers with 304 Not Modified: a paid request would be
/// charged and deliver nothing.
pub(crate) fn unconditional(request: &mut Request) {
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE] {
        request.headers_mut().remove(name);
    }
}

/// Scheme, host and port.
pub(crate) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn percent_decoded(text: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(text).collect()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use reqwest::Method;

    use super::*;

    fn request(url: &str) -> Request {
        Request::new(Method::GET, url.parse().unwrap())
    }

    #[test]
    fn credentials_in_a_url_become_a_header() {
        for (url, sent) in [
            (
                "http://user:hunter2@a.example/x?y",
                Some("Basic dXNlcjpodW50ZXIy"),
            ),
            ("http://user@a.example/x?y", Some("Basic dXNlcjo=")),
            (
                "http://us%20er:hunter2@a.example/x?y",
                Some("Basic dXMgZXI6aHVudGVyMg=="),
            ),
            ("http://a.example/x?y", None),
        ] {
            let mut request = request(url);
            move_credentials(&mut request);
            assert_eq!(request.url().as_str(), "http://a.example/x?y", "{url}");
            let found = request.headers().get(AUTHORIZATION);
            assert_eq!(found.map(|value| value.to_str().unwrap()), sent, "{url}");
            assert!(found.is_none_or(HeaderValue::is_sensitive));
        }
        let mut own = request("http://user:hunter2@a.example/");
        own.headers_mut()
            .insert(AUTHORIZATION, HeaderValue::from_static("Bearer own"));
        move_credentials(&mut own);
        assert_eq!(own.headers()[AUTHORIZATION], "Bearer own");
    }

    #[test]
    fn all_names_of_this_machine_are_local() {
        for (url, own) in [
            ("http://127.0.0.1:1/", true),
            ("http://127.9.9.9/", true),
            ("http://localhost/", true),
            ("http://shop.localhost/", true),
            ("http://[::1]:1/", true),
            ("http://[::ffff:127.0.0.1]/", true),
            ("http://localhost.example/", false),
            ("http://10.0.0.1/", false),
            ("https://a.example/", false),
        ] {
            assert_eq!(is_local(&url.parse().unwrap()), own, "{url}");
        }
    }
}
