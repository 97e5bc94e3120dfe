//! The tables `[[webhooks]]`.

use quittance_engine::EventKind;
use quittance_http::webhook::WebhookSecret;
use quittance_service::Webhook;
use secrecy::ExposeSecret;
use serde::Deserialize;
use url::Url;

use super::{ConfigError, Secret, Setting};

/// A receiver of signed messages about settlements.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WebhookTable {
    /// The name, in the log and in the journal. A webhook with another name begins anew.
    pub name: String,
    /// Where the messages are sent.
    pub url: Setting,
    /// The secret that signs the messages, or two while it is replaced.
    pub secrets: Vec<Secret>,
    /// Only events of the settlements of the caller with this key. Without it, those of all
    /// callers.
    #[serde(default)]
    pub key: Option<Secret>,
    /// Only these events, such as `settled`. An empty list sends all of them.
    #[serde(default)]
    pub events: Vec<String>,
    /// Whether the receiver may be in a private network or on this machine, and without TLS.
    #[serde(default)]
    pub private: bool,
}

impl WebhookTable {
    /// Reads the secrets of the table at this position, and checks its values.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub(crate) fn read(&self, at: usize) -> Result<Webhook, ConfigError> {
        let field = |name: &str| format!("webhooks[{at}].{name}");
        let url = self.url.read(&field("url"))?;
        // The message has no part of the URL, which may contain a secret.
        let url = url.expose_secret().parse::<Url>();
        let url = url.map_err(|_| ConfigError::value(field("url"), "not a URL"))?;
        let mut secrets = Vec::new();
        for (number, secret) in self.secrets.iter().enumerate() {
            let field = field(&format!("secrets[{number}]"));
            let secret = secret.read(&field)?;
            let parsed = secret.expose_secret().parse::<WebhookSecret>();
            secrets.push(parsed.map_err(|error| ConfigError::value(&field, error))?);
        }
        let kinds: Result<Vec<EventKind>, _> =
            self.events.iter().map(|name| name.parse()).collect();
        let kinds = kinds.map_err(|error| ConfigError::value(field("events"), error))?;
        let webhook = Webhook::new(&self.name, url, secrets, self.private);
        let webhook = webhook.map_err(|problem| {
            use quittance_service::WebhookProblem::{Name, Secrets};
            let name = match problem {
                Name => "name",
                Secrets => "secrets",
                _ => "url",
            };
            ConfigError::value(field(name), problem)
        })?;
        let webhook = webhook.only(kinds);
        Ok(match &self.key {
            Some(key) => webhook.of_key(&key.read(&field("key"))?),
            None => webhook,
        })
    }

    /// The secrets that the table names.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let url = match &self.url {
            Setting::Secret(secret) => Some(secret),
            Setting::Plain(_) => None,
        };
        self.secrets.iter().chain(&self.key).chain(url)
    }
}

#[cfg(test)]
mod tests {
    use figment::Figment;
    use figment::providers::{Format, Toml};

    use super::*;

    fn table(text: &str) -> WebhookTable {
        Figment::from(Toml::string(text)).extract().unwrap()
    }

    /// A secret in a file, for a test.
    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn each_problem_names_its_field_and_no_secret() {
        let good = file("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let bad = file("hunter2");
        let with = |rest: &str, secret: &tempfile::NamedTempFile| {
            let path = secret.path().display();
            table(&format!("secrets = [{{ file = \"{path}\" }}]\n{rest}")).read(1)
        };
        let rest = "name = \"a\"\nurl = \"https://a.example/\"\nevents = [\"settled\"]";
        let webhook = with(rest, &good).unwrap();
        assert_eq!(webhook.events, [EventKind::Settled]);
        for (rest, secret, field) in [
            (rest, &bad, "webhooks[1].secrets[0]"),
            (
                "name = \"a b\"\nurl = \"https://a.example/\"",
                &good,
                "webhooks[1].name",
            ),
            ("name = \"a\"\nurl = \"hunter2\"", &good, "webhooks[1].url"),
            (
                "name = \"a\"\nurl = \"http://10.0.0.1/\"",
                &good,
                "webhooks[1].url",
            ),
            (
                "name = \"a\"\nurl = \"https://a.example/\"\nevents = [\"paid\"]",
                &good,
                "webhooks[1].events",
            ),
        ] {
            let problem = with(rest, secret).unwrap_err().to_string();
            assert!(problem.contains(field), "{problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }
}
