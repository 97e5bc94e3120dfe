//! Webhooks: each change of a settlement as a signed `POST` to a receiver.
//!
//! A receiver gets each event at least once, and the events of one settlement in order. The
//! position of each webhook is in the journal, so a restart continues where it stopped.

mod guard;
mod sender;

use quittance_core::RequestCaller;
use quittance_engine::EventKind;
use quittance_http::webhook::WebhookSecret;
use url::{Host, Url};

use crate::gate::Keys;

pub use self::sender::WebhookSender;

/// The most characters of a webhook's name.
const NAME_LEN_MAX: usize = 64;

/// A receiver of events, and which events it gets.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Webhook {
    /// The name, in the log and in the journal: the webhook's position is saved under it.
    pub name: String,
    /// Where the events are sent. Never printed: it may contain a secret.
    url: HiddenUrl,
    /// What the messages are signed with: one secret, or two while it is replaced.
    pub secrets: Vec<WebhookSecret>,
    /// Only events of settlements that this caller claimed. `None` sends those of all callers.
    pub caller: Option<String>,
    /// Only these events. An empty list sends all of them.
    pub events: Vec<EventKind>,
    /// Whether the receiver may be in a private network, or on this machine, and without TLS.
    pub private: bool,
}

/// A URL that is not printed.
#[derive(Clone)]
struct HiddenUrl(Url);

impl std::fmt::Debug for HiddenUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Url(..)")
    }
}

/// Why a webhook cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookProblem {
    /// The name is empty, too long, or has other characters.
    #[error("the name must have 1 to 64 letters, digits, `-` and `_`")]
    Name,
    /// The URL is not one of a receiver.
    #[error("the URL must begin with https:// and have a host, and no user name or password")]
    Url,
    /// The receiver is in a private network.
    #[error("the URL's address is not public: set `private = true` if you mean it")]
    Private,
    /// There is no secret, or more than two.
    #[error("one secret is needed, or two while it is replaced")]
    Secrets,
    /// No HTTP client can be built on this machine.
    #[error("no HTTP client can be built: the system has no root certificates")]
    Client,
}

impl Webhook {
    /// A webhook for all events of all callers. `private` permits a receiver in a private network
    /// or on this machine, and HTTP without TLS.
    ///
    /// # Errors
    /// When one of the values cannot be used.
    pub fn new(
        name: &str,
        url: Url,
        secrets: Vec<WebhookSecret>,
        private: bool,
    ) -> Result<Self, WebhookProblem> {
        let is_permitted = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if !(1..=NAME_LEN_MAX).contains(&name.len()) || !name.bytes().all(is_permitted) {
            return Err(WebhookProblem::Name);
        }
        if !(1..=2).contains(&secrets.len()) {
            return Err(WebhookProblem::Secrets);
        }
        check_url(&url, private)?;
        Ok(Self {
            name: name.to_owned(),
            url: HiddenUrl(url),
            secrets,
            caller: None,
            events: Vec::new(),
            private,
        })
    }

    /// Only events of settlements that the caller with this key claimed.
    #[must_use]
    pub fn of_key(mut self, key: &secrecy::SecretString) -> Self {
        let name = Keys::new(std::slice::from_ref(key)).name(0);
        self.caller = name.and_then(|name| RequestCaller::Known(name.into()).to_text());
        self
    }

    /// Only these events.
    #[must_use]
    pub fn only(mut self, events: Vec<EventKind>) -> Self {
        self.events = events;
        self
    }

    fn sends(&self, kind: EventKind) -> bool {
        self.events.is_empty() || self.events.contains(&kind)
    }
}

fn check_url(url: &Url, private: bool) -> Result<(), WebhookProblem> {
    let has_credentials = !url.username().is_empty() || url.password().is_some();
    let is_secure = url.scheme() == "https" || (private && url.scheme() == "http");
    let Some(host) = url.host() else {
        return Err(WebhookProblem::Url);
    };
    if has_credentials || !is_secure {
        return Err(WebhookProblem::Url);
    }
    // A name is checked whenever it is resolved.
    let is_public = match host {
        Host::Domain(_) => true,
        Host::Ipv4(address) => guard::is_public(address.into()),
        Host::Ipv6(address) => guard::is_public(address.into()),
    };
    match private || is_public {
        true => Ok(()),
        false => Err(WebhookProblem::Private),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> WebhookSecret {
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap()
    }

    fn problem(url: &str, private: bool) -> Option<WebhookProblem> {
        let webhook = Webhook::new("a", url.parse().unwrap(), vec![secret()], private);
        webhook.err()
    }

    #[test]
    fn a_receiver_is_public_and_has_tls_unless_permitted() {
        for url in [
            "https://a.example/x",
            "https://1.1.1.1/",
            "https://[2606:4700::1]/",
        ] {
            assert_eq!(problem(url, false), None, "{url}");
        }
        for url in [
            "http://a.example/",
            "ftp://a.example/",
            "https://me:pw@a.example/",
        ] {
            assert_eq!(problem(url, false), Some(WebhookProblem::Url), "{url}");
        }
        // Hosts of browsers: the parser reads all of these as 127.0.0.1.
        for url in [
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://[::1]/",
        ] {
            assert_eq!(problem(url, false), Some(WebhookProblem::Private), "{url}");
            assert_eq!(problem(url, true), None, "{url}");
        }
        assert_eq!(problem("http://127.0.0.1:1/", true), None);
        assert_eq!(problem("data:x", true), Some(WebhookProblem::Url));
    }

    #[test]
    fn a_webhook_needs_a_name_and_a_secret() {
        let url: Url = "https://a.example/token".parse().unwrap();
        let with = |name: &str, secrets| Webhook::new(name, url.clone(), secrets, false).err();
        for name in ["", "a b", "a/b", &"a".repeat(65)] {
            assert_eq!(with(name, vec![secret()]), Some(WebhookProblem::Name));
        }
        for secrets in [vec![], vec![secret(); 3]] {
            assert_eq!(with("a", secrets), Some(WebhookProblem::Secrets));
        }
        let webhook = Webhook::new("a", url.clone(), vec![secret(); 2], false).unwrap();
        assert!(!format!("{webhook:?}").contains("token"), "{webhook:?}");
    }
}
