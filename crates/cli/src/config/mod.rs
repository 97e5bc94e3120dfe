//! The configuration file, `quittance.toml`.

mod error;
mod journal;
mod keys;
mod secret;
mod webhooks;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Toml};
use figment::value::{Dict, Value};
use quittance_service::{DRAIN, Keys, ServerOptions, ServiceLimits, ServiceOptions, WAIT_MAX};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tracing_subscriber::EnvFilter;

use crate::families::Families;

pub use error::ConfigError;
pub use journal::JournalPlace;
pub(crate) use keys::keys_of;
pub use secret::{Secret, Setting};
pub use webhooks::WebhookTable;

/// The content of `quittance.toml`. Every unknown key is an error: with a misspelled limit there
/// would be no limit.
///
/// Each value can also come from the environment, which has precedence over the file. The variable
/// of `listen` is `QUITTANCE_LISTEN`. Two underscores separate the parts of a key, as in
/// `QUITTANCE_ACCESS__ANYONE`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// The address to listen on.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// The path of the journal's file, or the URL of its PostgreSQL database.
    #[serde(default = "default_journal")]
    pub journal: JournalPlace,
    /// How long `POST /settle` waits before it answers `settlement_pending`, in seconds.
    #[serde(default = "default_settle_wait_secs")]
    pub settle_wait_secs: u64,
    /// How long a stop waits for settlements in progress, in seconds.
    #[serde(default = "default_drain_secs")]
    pub drain_secs: u64,
    /// How many days events of settlements are kept, for those that resume.
    #[serde(default = "default_events_keep_days")]
    pub events_keep_days: u64,
    /// Receivers of signed messages about settlements.
    #[serde(default)]
    pub webhooks: Vec<WebhookTable>,
    /// The callers of `/verify` and `/settle`. One of the two ways must be chosen.
    #[serde(default)]
    pub access: Access,
    /// How much the service accepts.
    #[serde(default)]
    pub limits: ServiceLimits,
    /// What is logged, and how.
    #[serde(default)]
    pub log: Log,
    /// The networks by the key of their family, such as `evm`. Each family reads its own.
    #[serde(skip)]
    pub(crate) networks: Networks,
}

/// The tables of the networks, by the key of their family.
#[derive(Default)]
pub(crate) struct Networks(BTreeMap<&'static str, Vec<Dict>>);

impl Networks {
    /// The tables of the family with this key, in the order of the file.
    pub(crate) fn tables(&self, key: &str) -> &[Dict] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    fn all(&self) -> impl Iterator<Item = &Dict> {
        self.0.values().flatten()
    }
}

impl fmt::Debug for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A URL in a table may contain a key.
        let counts = self.0.iter().map(|(key, tables)| (key, tables.len()));
        f.debug_map().entries(counts).finish()
    }
}

/// The callers of `/verify` and `/settle`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Access {
    /// Every caller that reaches the port. Each can spend the signers' gas, within the limits.
    #[serde(default)]
    pub anyone: bool,
    /// Callers that send one of these keys: `Authorization: Bearer ...`.
    #[serde(default)]
    pub keys: Vec<Secret>,
}

/// What is logged, and how.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Log {
    /// A filter as in `RUST_LOG`, such as `info` or `info,quittance_evm=debug`.
    pub filter: String,
    /// The format of a log line.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: LogFormat::Json,
        }
    }
}

/// The format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LogFormat {
    /// A JSON object, for programs.
    Json,
    /// Text, for people.
    Text,
}

impl Config {
    /// Reads a configuration file, with the environment over it.
    ///
    /// The networks are only split by family here; [`Startup::read`](crate::startup::Startup::read)
    /// reads them.
    ///
    /// # Errors
    /// When there is no such file, and everything that cannot be read in it.
    pub fn read(path: &Path, families: &Families) -> Result<Self, ConfigError> {
        if !path.is_file() {
            let problem = "there is no such file; `quittance serve --help` shows a minimal configuration, and \
                `quittance-devnet all` prints one for local chains";
            return Err(ConfigError::value(path.display().to_string(), problem));
        }
        Self::extract(Figment::from(Toml::file_exact(path)), families)
    }

    /// Reads a configuration from text, with the environment over it.
    ///
    /// # Errors
    /// Everything that cannot be read in it.
    pub fn parse(text: &str, families: &Families) -> Result<Self, ConfigError> {
        Self::extract(Figment::from(Toml::string(text)), families)
    }

    fn extract(figment: Figment, families: &Families) -> Result<Self, ConfigError> {
        // Unknown variables are left out here. `problems` reports them, with the probable name.
        let variables = variables();
        let is_known = move |name: &str| variables.contains(&dotted(name));
        let environment = Env::prefixed(PREFIX)
            .filter(move |name| is_known(name.as_str()))
            .split("__");
        let describe = |error| error::describe(error, "", &[]);
        let merged = figment.merge(environment);
        let mut tables: Dict = merged.extract().map_err(describe)?;
        let mut networks = Networks::default();
        let mut errors = Vec::new();
        for key in families.keys() {
            let Some(list) = tables.remove(key) else {
                continue;
            };
            match list.deserialize() {
                Ok(list) => drop(networks.0.insert(key, list)),
                Err(error) => errors.push(error::describe(error, key, &[])),
            }
        }
        let family_keys: Vec<&str> = families.keys().collect();
        match decode::<Self>(tables, "", &family_keys) {
            Ok(config) if errors.is_empty() => Ok(Self { networks, ..config }),
            Ok(_) => Err(ConfigError::many(errors)),
            Err(error) => {
                errors.push(error);
                Err(ConfigError::many(errors))
            }
        }
    }

    /// The service's options. `keys` are those that were read for `access.keys`.
    pub fn service_options(&self, keys: Keys) -> ServiceOptions {
        let settle_wait = Duration::from_secs(self.settle_wait_secs);
        ServiceOptions::with_limits(&self.limits, settle_wait, keys)
    }

    /// The server's options.
    pub fn server_options(&self) -> ServerOptions {
        ServerOptions::new(&self.limits, Duration::from_secs(self.drain_secs))
    }

    /// Everything that is wrong with the values, apart from those of the networks.
    pub(crate) fn problems(&self, families: &Families) -> Vec<ConfigError> {
        let names = std::env::vars_os().map(|(name, _)| name);
        let mut problems = self.unknown_variables(names, families);
        match (self.access.anyone, self.access.keys.is_empty()) {
            (true, true) | (false, false) => {}
            (false, true) => problems.push(ConfigError::value("access", NO_CALLERS)),
            (true, false) => {
                let problem = "`anyone = true` and `keys` exclude each other: remove one of them";
                problems.push(ConfigError::value("access", problem));
            }
        }
        if self.networks.all().next().is_none() {
            let keys: Vec<&str> = families.keys().collect();
            let lists: Vec<String> = keys.iter().map(|key| format!("[[{key}]]")).collect();
            let problem = format_args!("configure at least one network: {}", lists.join(" or "));
            let field = keys.first().copied().unwrap_or("networks");
            problems.push(ConfigError::value(field, problem));
        }
        problems.extend(self.limit_problems());
        problems.extend(self.webhook_problems());
        problems
    }

    fn webhook_problems(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        let mut names = std::collections::BTreeSet::new();
        for (at, webhook) in self.webhooks.iter().enumerate() {
            if !names.insert(&webhook.name) {
                let field = format!("webhooks[{at}].name");
                problems.push(ConfigError::value(field, "another webhook has this name"));
            }
        }
        problems
    }

    fn limit_problems(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        let limits = &self.limits;
        let wait_max = WAIT_MAX.as_secs();
        for (name, value, range) in [
            ("settle_wait_secs", self.settle_wait_secs, 0..=wait_max),
            ("drain_secs", self.drain_secs, 0..=wait_max),
            ("events_keep_days", self.events_keep_days, 1..=KEEP_DAYS_MAX),
            (
                "limits.connections",
                limits.connections as u64,
                1..=CONCURRENT_MAX,
            ),
            (
                "limits.connections_per_address",
                limits.connections_per_address as u64,
                1..=CONCURRENT_MAX,
            ),
            (
                "limits.requests",
                limits.requests as u64,
                1..=CONCURRENT_MAX,
            ),
            ("limits.waiting", limits.waiting as u64, 1..=CONCURRENT_MAX),
            ("limits.streams", limits.streams as u64, 1..=CONCURRENT_MAX),
            ("limits.header_secs", limits.header_secs, 1..=wait_max),
            ("limits.idle_secs", limits.idle_secs, 1..=wait_max),
            ("limits.body_secs", limits.body_secs, 1..=wait_max),
            ("limits.request_secs", limits.request_secs, 1..=wait_max),
            ("limits.burst", limits.burst.into(), 1..=u64::MAX),
            ("limits.key_burst", limits.key_burst.into(), 1..=u64::MAX),
        ] {
            if value < *range.start() {
                problems.push(ConfigError::value(name, "must be at least 1"));
            } else if value > *range.end() {
                let problem = format_args!("must be at most {}", range.end());
                problems.push(ConfigError::value(name, problem));
            }
        }
        // The time for a request contains the time for its body.
        if limits.request_secs > 0 && limits.request_secs < limits.body_secs {
            let problem = "must not be less than limits.body_secs, which is a part of it";
            problems.push(ConfigError::value("limits.request_secs", problem));
        }
        problems
    }

    /// Variables that begin like those of this program and that nothing reads.
    fn unknown_variables(
        &self,
        names: impl Iterator<Item = OsString>,
        families: &Families,
    ) -> Vec<ConfigError> {
        let known = variables();
        let mut others: Vec<&str> = families.variables();
        others.push(DEVNET_TOOLS);
        others.extend(crate::commands::REFUND_VARIABLES.iter().copied());
        let mut referred: Vec<&str> = self.networks.all().flat_map(named_in).collect();
        let webhooks = self.webhooks.iter().flat_map(WebhookTable::secrets);
        let secrets = self.access.keys.iter().chain(webhooks);
        referred.extend(secrets.filter_map(|secret| match secret {
            Secret::Env(name) => Some(name.as_str()),
            Secret::File(_) => None,
        }));
        let is_unknown = |name: &String| {
            let (Some(prefix), Some(rest)) = (name.get(..PREFIX.len()), name.get(PREFIX.len()..))
            else {
                return false;
            };
            prefix.eq_ignore_ascii_case(PREFIX)
                && !known.contains(&dotted(rest))
                && !others.contains(&name.as_str())
                && !referred.contains(&name.as_str())
        };
        names
            .filter_map(|name| name.into_string().ok())
            .filter(is_unknown)
            .map(|name| ConfigError::value(&name, suggest_variable(&name, &known)))
            .collect()
    }
}

/// Decodes a table whose path is `root`. `more_keys` are keys that exist beside those of `T`.
pub(crate) fn decode<T: DeserializeOwned>(
    table: Dict,
    root: &str,
    more_keys: &[&str],
) -> Result<T, ConfigError> {
    let describe = |error| error::describe(error, root, more_keys);
    Value::from(table).deserialize().map_err(describe)
}

/// The error for a key that the table at `path` does not have, with the most similar key.
pub(crate) fn unknown_key(path: &str, name: &str, known: &[&str]) -> ConfigError {
    ConfigError::value(format!("{path}.{name}"), error::unknown_key(name, known))
}

/// The environment variables that the secrets of a table name, at any depth.
fn named_in(table: &Dict) -> Vec<&str> {
    let mut names = Vec::new();
    if let Some(Value::String(_, name)) = table.get("env") {
        names.push(name.as_str());
    }
    let mut values: Vec<&Value> = table.values().collect();
    while let Some(value) = values.pop() {
        match value {
            Value::Dict(_, table) => names.extend(named_in(table)),
            Value::Array(_, list) => values.extend(list),
            _ => {}
        }
    }
    names
}

/// The error for a configuration without callers. There is no default, because either would
/// surprise an operator.
const NO_CALLERS: &str = "configure the callers of the facilitator: write `access.anyone = true` for every caller that reaches \
    the port, or `access.keys = [{ env = \"NAME\" }]` for callers that send the secret in that variable as \
    `Authorization: Bearer ...`";

/// The largest number of concurrent connections or requests that may be configured: far more than
/// one process can have open.
const CONCURRENT_MAX: u64 = 1_000_000;

/// The most days that events are kept: ten years.
const KEEP_DAYS_MAX: u64 = 3650;

/// The prefix of this program's environment variables.
const PREFIX: &str = "QUITTANCE_";

/// The variable with the folder of the local chains' tools, which `quittance-devnet` reads.
const DEVNET_TOOLS: &str = "QUITTANCE_DEVNET_TOOLS";

/// The keys that the environment can set, as paths with dots. Networks are lists, and only the file
/// can have them.
fn variables() -> Vec<String> {
    let tables = [
        ("access", keys_of::<Access>()),
        ("limits", keys_of::<ServiceLimits>()),
        ("log", keys_of::<Log>()),
    ];
    let of_table = |key: &str| {
        let found = tables.iter().find(|(name, _)| *name == key);
        match found {
            Some((table, keys)) => keys.iter().map(|key| format!("{table}.{key}")).collect(),
            None => vec![key.to_owned()],
        }
    };
    keys_of::<Config>()
        .iter()
        .copied()
        .flat_map(of_table)
        .collect()
}

/// A variable's name without the prefix, as the path of a key.
fn dotted(name: &str) -> String {
    name.to_ascii_lowercase().replace("__", ".")
}

/// The message for an unknown variable, with the most similar known one.
fn suggest_variable(name: &str, known: &[String]) -> String {
    let path = dotted(name.get(PREFIX.len()..).unwrap_or_default());
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let nearest = error::most_similar(&path, &known).map_or_else(String::new, |(key, _)| {
        let key = key.to_uppercase().replace('.', "__");
        format!("; did you mean {PREFIX}{key}?")
    });
    format!("there is no such variable{nearest}")
}

impl Log {
    /// The filter of log lines. `RUST_LOG` has precedence over the configuration.
    ///
    /// # Errors
    /// When the filter cannot be parsed.
    pub fn filter(&self) -> Result<EnvFilter, ConfigError> {
        let (name, filter) = match std::env::var("RUST_LOG") {
            Ok(filter) => ("RUST_LOG", filter),
            Err(_) => ("log.filter", self.filter.clone()),
        };
        EnvFilter::try_new(filter).map_err(|error| ConfigError::value(name, error))
    }
}

fn default_listen() -> SocketAddr {
    ([127, 0, 0, 1], 4020).into()
}

fn default_journal() -> JournalPlace {
    JournalPlace::new("quittance.db")
}

const fn default_settle_wait_secs() -> u64 {
    quittance_engine::SETTLE_WAIT.as_secs()
}

const fn default_events_keep_days() -> u64 {
    // A receiver that fails on a Friday is noticed on Monday, and has days to catch up.
    7
}

const fn default_drain_secs() -> u64 {
    DRAIN.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::startup::Startup;

    const MINIMAL: &str = r#"
        access.anyone = true
        [[evm]]
        network = "eip155:84532"
        rpc = ["http://127.0.0.1:8545"]
        signers = [{ env = "SIGNER" }]
    "#;

    const SOLANA: &str = r#"
        access.anyone = true
        [[solana]]
        network = "solana-devnet"
        rpc = ["http://127.0.0.1:8899"]
        fee_payers = [{ env = "SIGNER" }]
    "#;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, &Families::shipped())
    }

    /// Every error, one a line, but for secrets: none of these tests sets one.
    fn error(text: &str) -> String {
        let families = Families::shipped();
        let read = parse(text).and_then(|config| Startup::read(&config, &families).map(drop));
        let text = read
            .err()
            .map_or_else(String::new, |error| error.to_string());
        let lines = text
            .lines()
            .filter(|line| !line.contains("SIGNER is not set"));
        Vec::from_iter(lines).join("\n")
    }

    #[test]
    fn the_minimal_configuration_has_every_default() {
        let config = parse(MINIMAL).unwrap();
        assert_eq!(config.listen, default_listen());
        assert_eq!(config.limits.connections, 4096);
    }

    /// The configuration's limits were read and not used: callers got the default ones.
    #[test]
    fn the_service_and_the_server_have_the_configured_limits() {
        let text = "settle_wait_secs = 7\ndrain_secs = 5\nlimits = { requests = 3, request_secs = 5, connections = 1 }";
        let config = parse(text).unwrap();
        let service = config.service_options(Keys::anyone());
        assert_eq!(service.requests_max, 3);
        assert_eq!(service.request_max, Duration::from_secs(12));
        let server = config.server_options();
        assert_eq!(server.connections_max, 1);
        assert_eq!(server.drain, Duration::from_secs(5));
    }

    #[test]
    fn a_solana_cluster_alone_is_enough() {
        assert_eq!(error(SOLANA), "");
        let more = "commitment = \"finalized\"\n\
            tokens = [{ mint = \"M\", symbol = \"T\", decimals = 6, program = \"token-2022\", allow = [\"transferFeeConfig\"] }]";
        let expected = "solana[0].tokens[0].mint: \"M\" is not an address";
        assert_eq!(error(&format!("{SOLANA}{more}")), expected);
    }

    #[test]
    fn errors_of_a_solana_table_have_the_full_path() {
        for (more, named) in [
            (
                "commitment = \"processed\"",
                "solana[0].commitment: expected one of",
            ),
            (
                "signers = []",
                "solana[0].signers: unknown key `signers`; known here: network",
            ),
            ("max_compute_units = -1", "solana[0].max_compute_units: "),
            ("smart_wallets = true", "solana[0].smart_wallets: found"),
            (
                "smart_wallets = { programms = [] }",
                "solana[0].smart_wallets.programms: unknown key `programms`; did you mean `programs`?",
            ),
            (
                "tokens = [{ mint = \"M\", symbol = \"T\", decimals = 6, program = \"spl\" }]",
                "solana[0].tokens[0].program: ",
            ),
        ] {
            let message = error(&format!("{SOLANA}{more}"));
            assert!(message.contains(named), "{named}: {message}");
        }
        let key = SOLANA.replace(
            "{ env = \"SIGNER\" }",
            "\"4wBqpZM9xaSheZzJSMawUKKwhdpChKbZ5eu5ky4Vigw\"",
        );
        assert!(!error(&key).contains("4wBqpZM9"));
    }

    #[test]
    fn an_unknown_key_is_named() {
        let message = error(&MINIMAL.replace("signers", "max_gas_prize_gwei = 5\nsigners"));
        assert!(message.contains("`max_gas_prize_gwei`"), "{message}");
        assert!(
            message.contains("did you mean `max_gas_price_gwei`?"),
            "{message}"
        );
        let message = error(&format!("listne = \"127.0.0.1:1\"\n{MINIMAL}"));
        assert!(
            message.contains("`listne`; did you mean `listen`?"),
            "{message}"
        );
        let message = error(&MINIMAL.replace("rpc =", "rcp ="));
        assert!(message.contains("`rcp`; did you mean `rpc`?"), "{message}");
        let message = error("access = 5");
        assert!(
            message.contains("access: found signed int `5`, expected a table"),
            "{message}"
        );
        // No known key is similar, so the whole list is shown.
        let message = error(&format!("zzz = 1\n{MINIMAL}"));
        assert!(
            message.contains("`zzz`; known here: listen, journal"),
            "{message}"
        );
        let missing = MINIMAL.replace("rpc = [\"http://127.0.0.1:8545\"]", "");
        assert!(
            error(&missing).contains("the key `rpc` is missing"),
            "{}",
            error(&missing)
        );
    }

    #[test]
    fn a_wrong_value_is_named() {
        let message = error(&format!("settle_wait_secs = \"soon\"\n{MINIMAL}"));
        assert!(message.contains("settle_wait_secs"), "{message}");
    }

    #[test]
    fn a_configuration_without_callers_is_an_error() {
        let without = MINIMAL.replace("anyone = true", "anyone = false");
        let message = error(&without);
        assert!(
            message.contains("access: configure the callers"),
            "{message}"
        );
        assert!(message.contains("`access.anyone = true`"), "{message}");
        let keys = "`access.keys = [{ env = \"NAME\" }]`";
        assert!(message.contains(keys), "{message}");
        assert!(error("").contains("access: configure the callers"));
        let both = MINIMAL.replace(
            "access.anyone = true",
            "access = { anyone = true, keys = [{ env = \"K\" }] }",
        );
        assert!(error(&both).contains("access: `anyone = true` and `keys` exclude"));
    }

    #[test]
    fn a_key_in_the_configuration_itself_is_refused() {
        let key = MINIMAL.replace(
            "{ env = \"SIGNER\" }",
            "\"0xac0974bec39a17e36ba4a6b4d238ff94\"",
        );
        for text in [
            key,
            MINIMAL.replace(
                "{ env = \"SIGNER\" }",
                "0xac0974bec39a17e36ba4a6b4d238ff94zz",
            ),
        ] {
            let message = error(&text);
            assert!(!message.contains("ac0974"), "{message}");
        }
    }

    /// The error was "found a text, expected a map".
    #[test]
    fn the_error_for_a_secret_says_where_it_belongs() {
        let in_place = |secret: &str| MINIMAL.replace("{ env = \"SIGNER\" }", secret);
        for secret in ["\"0xac0974bec39a17e3\"", "1234567", "\"\""] {
            let message = error(&in_place(secret));
            assert!(message.contains("signers"), "{message}");
            assert!(message.contains("write { env = \"NAME\" }"), "{message}");
            assert!(
                !message.contains("ac0974") && !message.contains("1234567"),
                "{message}"
            );
        }
        let callers_key = MINIMAL.replace("anyone = true", "keys = [\"sesame\"]");
        let message = error(&callers_key);
        assert!(
            message.contains("access.keys") && message.contains("write {"),
            "{message}"
        );
        assert!(!message.contains("sesame"), "{message}");
        for (secret, named) in [
            ("{ envv = \"A\" }", "did you mean `env`?"),
            ("{ env = \"A\", file = \"B\" }", "not both"),
            ("{}", "either `env` or `file` is needed"),
            ("true", "{ env = \"NAME\" }"),
        ] {
            let message = error(&in_place(secret));
            assert!(message.contains(named), "{secret}: {message}");
        }
    }

    #[test]
    fn debug_output_holds_no_url() {
        let config = parse(&MINIMAL.replace("127.0.0.1:8545", "node.example/v2/secret")).unwrap();
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn every_problem_is_reported_not_only_the_first() {
        let message = error("access = {}\nlimits = { connections = 0, burst = 0 }");
        for named in ["access:", "evm:", "limits.connections:", "limits.burst:"] {
            assert!(message.contains(named), "{named}: {message}");
        }
    }

    /// With a limit of 0 every request was answered `timeout`.
    #[test]
    fn the_time_for_a_request_covers_the_time_for_its_body() {
        let message = |limits: &str| error(&format!("limits = {{ {limits} }}\n{MINIMAL}"));
        assert!(message("request_secs = 0").contains("limits.request_secs: must be at least 1"));
        assert!(message("request_secs = 9").contains("limits.request_secs: must not be less"));
        assert!(message("body_secs = 16").contains("limits.request_secs"));
        assert_eq!(message("request_secs = 10"), "");
        assert_eq!(message("request_secs = 1, body_secs = 1"), "");
    }

    /// With a value near the largest integer, `serve` panicked at the first request or at a stop.
    #[test]
    fn a_number_out_of_range_is_an_error_with_its_key() {
        for name in [
            "settle_wait_secs",
            "drain_secs",
            "limits.connections",
            "limits.connections_per_address",
            "limits.requests",
            "limits.waiting",
            "limits.header_secs",
            "limits.idle_secs",
            "limits.body_secs",
            "limits.request_secs",
        ] {
            let message = error(&format!("{name} = {}\n{MINIMAL}", i64::MAX));
            assert!(
                message.contains(&format!("{name}: must be at most")),
                "{message}"
            );
        }
        let longest = "settle_wait_secs = 3600\ndrain_secs = 3600\nlimits.request_secs = 3600";
        assert_eq!(error(&format!("{longest}\n{MINIMAL}")), "");
    }

    /// QUITTANCE_LIMITS_REQUESTS was ignored, so a misspelled limit had no effect.
    #[test]
    fn an_unknown_variable_is_reported_with_a_suggestion() {
        let config = parse(&MINIMAL.replace("SIGNER", "QUITTANCE_SIGNER")).unwrap();
        let reported = |name: &str| -> Vec<String> {
            let names = [OsString::from(name)].into_iter();
            let problems = config.unknown_variables(names, &Families::shipped());
            problems.iter().map(ToString::to_string).collect()
        };
        for (wrong, meant) in [
            ("QUITTANCE_LIMITS_REQUESTS", "QUITTANCE_LIMITS__REQUESTS?"),
            ("QUITTANCE_LISTNE", "QUITTANCE_LISTEN?"),
            ("QUITTANCE_ACCESS__ANYON", "QUITTANCE_ACCESS__ANYONE?"),
            ("quittance_drain", "QUITTANCE_DRAIN_SECS?"),
        ] {
            let message = reported(wrong).join("\n");
            assert!(
                message.contains(wrong) && message.contains(meant),
                "{message}"
            );
        }
        for right in [
            "QUITTANCE_LISTEN",
            "QUITTANCE_LIMITS__REQUESTS",
            "QUITTANCE_SIGNER",
            "QUITTANCE_PAYER_KEY",
            "PATH",
            "QUITTANC",
            "ÄÄÄÄÄÄÄÄÄÄ",
        ] {
            assert_eq!(reported(right), Vec::<String>::new());
        }
    }

    #[test]
    fn the_environment_can_set_every_key_of_the_file() {
        let variables = variables();
        for key in [
            "listen",
            "access.anyone",
            "limits.failed_per_payer",
            "log.format",
        ] {
            assert!(variables.iter().any(|variable| variable == key), "{key}");
        }
        let tables = ["access", "limits", "log"];
        assert!(variables.iter().all(|key| !tables.contains(&key.as_str())));
    }

    #[test]
    fn every_problem_of_every_network_is_reported() {
        let evm = "[[evm]]\nnetwork = \"nowhere\"\nrpc = [\"x\"]\nsigners = [{ env = \"SIGNER\" }]\nconfirmation = 2\nmax_batsh = 1";
        let solana = "[[solana]]\nnetwork = \"solana-devnet\"\nrpc = 5\nfee_payers = 7";
        let message = error(&format!("access.anyone = true\n{evm}\n{solana}"));
        for line in [
            "evm[0].confirmation: unknown key `confirmation`; did you mean `confirmations`?",
            "evm[0].max_batsh: unknown key `max_batsh`; did you mean `max_batch`?",
            "solana[0].rpc: found",
            "solana[0].fee_payers: found",
        ] {
            assert!(message.contains(line), "{line} is not in\n{message}");
        }
        let both = "[evm]\nx = 1\n[solana]\ny = 2";
        let message = error(&format!("access.anyone = true\n{both}"));
        for line in ["evm: found map", "solana: found map"] {
            assert!(message.contains(line), "{line} is not in\n{message}");
        }
    }

    #[test]
    fn a_network_that_is_configured_twice_is_an_error() {
        let again = MINIMAL
            .replace("access.anyone = true", "")
            .replace("eip155:84532", "base-sepolia");
        let message = error(&format!("{MINIMAL}{again}"));
        let expected = "evm[1].network: eip155:84532 is already configured by evm[0]";
        assert_eq!(message, expected);
    }
}
