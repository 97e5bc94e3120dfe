//! The configuration file.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::error::{Actual, Kind};
use figment::providers::{Env, Format, Toml};
use quittance_core::Amount;
use quittance_service::{DRAIN, Keys, ServerOptions, ServiceLimits, ServiceOptions, WAIT_MAX};
use quittance_solana::{Commitment, Extension, TokenProgram};
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use tracing_subscriber::EnvFilter;

/// What `quittance.toml` says. Every unknown key is an error: a misspelled limit is no limit.
///
/// Any value can also come from the environment, which wins over the file: `QUITTANCE_LISTEN`,
/// `QUITTANCE_ACCESS__ANYONE`, with two underscores between the parts of a name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to listen.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// The journal's file.
    #[serde(default = "default_journal")]
    pub journal: PathBuf,
    /// How long a /settle waits before it answers `settlement_pending`, in seconds.
    #[serde(default = "default_settle_wait_secs")]
    pub settle_wait_secs: u64,
    /// How long stopping waits for settlements under way, in seconds.
    #[serde(default = "default_drain_secs")]
    pub drain_secs: u64,
    /// Who may call /verify and /settle. One of its two ways has to be chosen.
    #[serde(default)]
    pub access: Access,
    /// What the service bears.
    #[serde(default)]
    pub limits: ServiceLimits,
    /// How it logs.
    #[serde(default)]
    pub log: Log,
    /// The EVM networks.
    #[serde(default)]
    pub evm: Vec<EvmNetwork>,
    /// The Solana clusters.
    #[serde(default)]
    pub solana: Vec<SolanaNetwork>,
}

/// Who may call /verify and /settle.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// Anybody: whoever reaches the port can spend the signers' gas, within the limits below.
    #[serde(default)]
    pub anyone: bool,
    /// Those who show one of these keys: `Authorization: Bearer …`.
    #[serde(default)]
    pub keys: Vec<Secret>,
}

/// How the service logs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// As `RUST_LOG` has it, such as `info` or `info,quittance_evm=debug`.
    pub filter: String,
    /// For machines or for people.
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

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// An EVM network.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvmNetwork {
    /// Its CAIP-2 identifier or version 1 name.
    pub network: String,
    /// Its nodes, in order of preference. A URL with a key in it belongs in the environment or a file.
    pub rpc: Vec<Value>,
    /// The keys that sign and pay for transactions.
    pub signers: Vec<Secret>,
    /// How many blocks deep a payment must be to count as settled.
    #[serde(default = "default_confirmations")]
    pub confirmations: u64,
    /// How many blocks deep a settled payment must be to need no more watching.
    pub final_confirmations: Option<u64>,
    /// How long a settled payment is watched at least, in seconds.
    pub final_secs: Option<u64>,
    /// The most that is paid for a unit of gas, in gwei.
    pub max_gas_price_gwei: Option<u64>,
    /// The most of it that is paid to the producers of blocks, in gwei.
    pub max_tip_gwei: Option<u64>,
    /// The most gas that one payment may take.
    pub max_gas_per_payment: Option<u32>,
    /// How many payments may share a transaction; 1 sends each alone.
    pub max_batch: Option<usize>,
    /// Whether contract wallets and accounts with a delegation (EIP-7702) may pay. Their code runs on the signer's gas.
    pub contract_wallets: Option<bool>,
    /// The largest amount for which one node's word is enough that it was paid, by token address or
    /// ticker, as people write it: `{ USDC = "100" }`. Above it two nodes must agree.
    #[serde(default)]
    pub two_nodes_above: BTreeMap<String, String>,
    /// How old the newest block may be, in seconds, before the nodes count as stuck; 0 for a chain that makes blocks
    /// only when there is something to put in them.
    pub max_head_age_secs: Option<u64>,
    /// How much of the chain's own coin a signer must have, in wei.
    pub min_balance_wei: Option<Amount>,
    /// The recipients for whom payments are settled. Without it, all.
    pub recipients: Option<Vec<String>>,
    /// The smallest amount that is settled, by token address or ticker, as people write it: `{ USDC = "0.001" }`.
    #[serde(default)]
    pub min_amounts: BTreeMap<String, String>,
    /// The known tokens to settle, by ticker or address. Without it, all that ship with the library.
    pub assets: Option<Vec<String>>,
    /// Tokens that do not ship with the library, or differ from what does.
    #[serde(default)]
    pub tokens: Vec<EvmToken>,
}

/// A token on an EVM network that does not ship with the library.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvmToken {
    /// The contract.
    pub address: String,
    /// The name in its EIP-712 domain.
    pub name: String,
    /// The version in its EIP-712 domain.
    pub version: String,
    /// How many decimal places people write it with.
    pub decimals: u8,
    /// Its ticker.
    pub symbol: String,
    /// Whether it logs `AuthorizationUsed` right before the `Transfer` it makes for it, as Circle's FiatToken does: then
    /// equal payments can share a transaction. Say so only when its source shows it.
    #[serde(default)]
    pub logs_authorization_first: bool,
}

/// A Solana cluster.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SolanaNetwork {
    /// Its CAIP-2 identifier or version 1 name.
    pub network: String,
    /// Its nodes, in order of preference. A URL with a key in it belongs in the environment or a file.
    pub rpc: Vec<Value>,
    /// The keypairs that sign as fee payers and pay for transactions.
    pub fee_payers: Vec<Secret>,
    /// How sure the cluster must be of a payment for it to count as settled.
    #[serde(default)]
    pub commitment: CommitmentName,
    /// What the nodes' genesis hash must begin with, where it is not the network's reference: on clusters of one's own.
    pub genesis: Option<String>,
    /// The most compute units that a payment may ask for.
    pub max_compute_units: Option<u32>,
    /// The most that is paid for a compute unit, in millionths of a lamport.
    pub max_compute_unit_price: Option<u64>,
    /// The most that a payment may cost a fee payer, in lamports, signatures and all.
    pub max_fee_lamports: Option<u64>,
    /// Whether Lighthouse's assertions may be about a fee payer, as some wallets write them.
    #[serde(default)]
    pub guards_of_fee_payers: bool,
    /// The largest amount for which one node's word is enough that it was paid, by mint or ticker,
    /// as people write it: `{ USDC = "100" }`. Above it two nodes must agree.
    #[serde(default)]
    pub two_nodes_above: BTreeMap<String, String>,
    /// The wallets that may pay although they are programs. Without this table, even an empty one, none.
    pub smart_wallets: Option<SmartWallets>,
    /// How old the newest block may be, in seconds, before the nodes count as stuck.
    pub max_head_age_secs: Option<u64>,
    /// How much a fee payer must have, in lamports.
    pub min_balance_lamports: Option<u64>,
    /// The recipients for whom payments are settled. Without it, all.
    pub recipients: Option<Vec<String>>,
    /// The smallest amount that is settled, by mint or ticker, as people write it: `{ USDC = "0.001" }`.
    #[serde(default)]
    pub min_amounts: BTreeMap<String, String>,
    /// The known tokens to settle, by ticker or mint. Without it, those of SPL Token that ship with the library.
    pub assets: Option<Vec<String>>,
    /// Tokens that do not ship with the library, or differ from what does.
    #[serde(default)]
    pub tokens: Vec<SolanaToken>,
}

/// Wallets that are programs, and may pay on a Solana cluster. What is left out is as the specification has it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmartWallets {
    /// The programs that their payments may call, by address.
    pub programs: Option<Vec<String>>,
    /// The most compute units that a payment of theirs may ask for.
    pub max_compute_units: Option<u32>,
    /// The most that is paid for a compute unit, in millionths of a lamport.
    pub max_compute_unit_price: Option<u64>,
}

/// How sure a cluster must be of a payment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommitmentName {
    /// A supermajority has voted for its block.
    #[default]
    Confirmed,
    /// It cannot be undone.
    Finalized,
}

impl From<CommitmentName> for Commitment {
    fn from(name: CommitmentName) -> Self {
        match name {
            CommitmentName::Confirmed => Self::Confirmed,
            CommitmentName::Finalized => Self::Finalized,
        }
    }
}

/// A token on a Solana cluster that does not ship with the library, or is to be treated otherwise.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SolanaToken {
    /// The mint.
    pub mint: String,
    /// Its ticker.
    pub symbol: String,
    /// How many decimal places people write it with.
    pub decimals: u8,
    /// Which program keeps it.
    pub program: TokenProgram,
    /// The extensions of its mint that are accepted although they can break a payment.
    #[serde(default)]
    pub allow: BTreeSet<Extension>,
}

/// A value that may be secret: written here, or where to find it.
#[derive(Clone)]
pub enum Value {
    /// Written here.
    Here(String),
    /// Somewhere else.
    Elsewhere(Secret),
}

/// Where a secret is. A secret never stands in the configuration itself.
#[derive(Debug, Clone)]
pub enum Secret {
    /// In this environment variable.
    Env(String),
    /// In this file, alone.
    File(PathBuf),
}

/// What is said of a secret that stands in the configuration. Quotes nothing of it.
const SECRET_IN_FILE: &str = "a secret must not stand in the configuration, which is copied, shown and backed up: write \
    { env = \"NAME\" } or { file = \"PATH\" } here, and put the secret there. If it was a real key, replace it";

struct SecretReader;

impl<'de> Visitor<'de> for SecretReader {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{ env = \"NAME\" } or { file = \"PATH\" }")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Secret, E> {
        Err(E::custom(SECRET_IN_FILE))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Secret, E> {
        Err(E::custom(SECRET_IN_FILE))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Secret, E> {
        Err(E::custom(SECRET_IN_FILE))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Secret, A::Error> {
        const KNOWN: &[&str] = &["env", "file"];
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            let secret = match key.as_str() {
                "env" => Secret::Env(map.next_value()?),
                "file" => Secret::File(map.next_value()?),
                other => return Err(A::Error::unknown_field(other, KNOWN)),
            };
            if found.replace(secret).is_some() {
                return Err(A::Error::custom("either `env` or `file`, not both"));
            }
        }
        found.ok_or_else(|| A::Error::custom("either `env` or `file` is needed"))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretReader)
    }
}

struct ValueReader;

impl<'de> Visitor<'de> for ValueReader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, { env = \"NAME\" } or { file = \"PATH\" }")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Here(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        SecretReader.visit_map(map).map(Value::Elsewhere)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueReader)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // It may hold a key after all.
            Self::Here(_) => f.write_str("Here(..)"),
            Self::Elsewhere(secret) => secret.fmt(f),
        }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Something in the file or the environment is not what it should be.
    #[error("{0}")]
    File(String),
    /// Several things, one a line.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Many(Vec<ConfigError>),
    /// A value makes no sense.
    #[error("{field}: {problem}")]
    Value {
        /// Which one.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl ConfigError {
    /// `field` has this `problem`.
    pub fn value(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self::Value {
            field: field.into(),
            problem: problem.to_string(),
        }
    }
}

impl Config {
    /// Reads a configuration file, and the environment over it. Whether what it says makes sense,
    /// [`assemble`](crate::assemble) finds out.
    ///
    /// # Errors
    /// [`ConfigError`], naming the key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        if !path.is_file() {
            let problem = "no such file; `quittance serve --help` shows a smallest one, and `quittance devnet` prints one";
            return Err(ConfigError::value(path.display().to_string(), problem));
        }
        Self::extract(Figment::from(Toml::file_exact(path)))
    }

    /// Reads a configuration from text, and the environment over it.
    ///
    /// # Errors
    /// [`ConfigError`], naming the key.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Self::extract(Figment::from(Toml::string(text)))
    }

    fn extract(figment: Figment) -> Result<Self, ConfigError> {
        // What is not known is left out here and told by `problems`, with the name that was meant.
        let known = |name: &str| VARIABLES.contains(&dotted(name).as_str());
        let environment = Env::prefixed(PREFIX)
            .filter(move |name| known(name.as_str()))
            .split("__");
        figment
            .merge(environment)
            .extract()
            .map_err(|errors| ConfigError::File(describe(errors)))
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

    /// What makes no sense in it, apart from the networks.
    pub(crate) fn problems(&self) -> Vec<ConfigError> {
        let mut problems = self.unknown_variables(std::env::vars_os().map(|(name, _)| name));
        match (self.access.anyone, self.access.keys.is_empty()) {
            (true, true) | (false, false) => {}
            (false, true) => problems.push(ConfigError::value("access", WHO_MAY_CALL)),
            (true, false) => {
                let problem = "`anyone = true` and `keys` exclude each other: remove one of them";
                problems.push(ConfigError::value("access", problem));
            }
        }
        if self.evm.is_empty() && self.solana.is_empty() {
            let problem = "name at least one network, here or under solana";
            problems.push(ConfigError::value("evm", problem));
        }
        let limits = &self.limits;
        let wait_max = WAIT_MAX.as_secs();
        for (name, value, range) in [
            ("settle_wait_secs", self.settle_wait_secs, 0..=wait_max),
            ("drain_secs", self.drain_secs, 0..=wait_max),
            (
                "limits.connections",
                limits.connections as u64,
                1..=AT_ONCE_MAX,
            ),
            (
                "limits.connections_per_peer",
                limits.connections_per_peer as u64,
                1..=AT_ONCE_MAX,
            ),
            ("limits.requests", limits.requests as u64, 1..=AT_ONCE_MAX),
            ("limits.waiting", limits.waiting as u64, 1..=AT_ONCE_MAX),
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
        // A body that comes in time must not find that the time for its request is up.
        if limits.request_secs > 0 && limits.request_secs < limits.body_secs {
            let problem = "must not be less than limits.body_secs, which is a part of it";
            problems.push(ConfigError::value("limits.request_secs", problem));
        }
        problems
    }

    /// Variables that look as if they were meant for this program, and would be passed over.
    fn unknown_variables(&self, names: impl Iterator<Item = OsString>) -> Vec<ConfigError> {
        let referred: Vec<&str> = self.secrets().filter_map(Secret::variable).collect();
        let unknown = |name: &String| {
            let (Some(prefix), Some(rest)) = (name.get(..PREFIX.len()), name.get(PREFIX.len()..))
            else {
                return false;
            };
            prefix.eq_ignore_ascii_case(PREFIX)
                && !VARIABLES.contains(&dotted(rest).as_str())
                && !OTHERS.contains(&name.as_str())
                && !referred.contains(&name.as_str())
        };
        names
            .filter_map(|name| name.into_string().ok())
            .filter(unknown)
            .map(|name| ConfigError::value(&name, did_you_mean(&name)))
            .collect()
    }

    fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let of_evm = self.evm.iter().flat_map(|evm| &evm.rpc);
        let of_solana = self.solana.iter().flat_map(|solana| &solana.rpc);
        let urls = of_evm.chain(of_solana).filter_map(|url| match url {
            Value::Elsewhere(secret) => Some(secret),
            Value::Here(_) => None,
        });
        let signers = self.evm.iter().flat_map(|evm| &evm.signers);
        let fee_payers = self.solana.iter().flat_map(|solana| &solana.fee_payers);
        let keys = self.access.keys.iter().chain(signers).chain(fee_payers);
        keys.chain(urls)
    }
}

/// What is said where neither way was chosen. There is no default: either would be a surprise.
const WHO_MAY_CALL: &str = "say who may call the facilitator: write `access.anyone = true` for everyone who reaches the port, or \
    `access.keys = [{ env = \"NAME\" }]` for callers that send the secret in that variable as `Authorization: Bearer ...`";

/// The most connections or requests at once that may be configured: far beyond what one process can have open.
const AT_ONCE_MAX: u64 = 1_000_000;

/// What the names of variables for this program begin with.
const PREFIX: &str = "QUITTANCE_";

/// The variable in which `quittance pay` looks for its key unless told otherwise.
pub const PAYER_KEY: &str = "QUITTANCE_PAYER_KEY";

/// The variable in which `quittance pay` looks for its keypair on Solana unless told otherwise.
pub const SOLANA_PAYER_KEY: &str = "QUITTANCE_SOLANA_PAYER_KEY";

/// The variable in which `quittance pay` looks for a node of Solana unless told otherwise.
pub const SOLANA_RPC: &str = "QUITTANCE_SOLANA_RPC";

/// The variable in which `quittance pay` looks for nodes of EVM networks, `NETWORK=URL` with commas between.
pub const EVM_RPC: &str = "QUITTANCE_EVM_RPC";

/// Variables of this program that are no keys of the file; the last says where the local chains' tools are.
const OTHERS: [&str; 5] = [
    PAYER_KEY,
    SOLANA_PAYER_KEY,
    SOLANA_RPC,
    EVM_RPC,
    "QUITTANCE_DEVNET_TOOLS",
];

/// The keys that the environment may set. Networks are lists, and stand in the file.
const VARIABLES: [&str; 23] = [
    "listen",
    "journal",
    "settle_wait_secs",
    "drain_secs",
    "access.anyone",
    "access.keys",
    "limits.connections",
    "limits.connections_per_peer",
    "limits.requests",
    "limits.waiting",
    "limits.header_secs",
    "limits.idle_secs",
    "limits.body_secs",
    "limits.request_secs",
    "limits.per_minute",
    "limits.burst",
    "limits.key_per_minute",
    "limits.key_burst",
    "limits.proxies",
    "limits.failed_per_payer",
    "limits.failed_per_recipient",
    "log.filter",
    "log.format",
];

/// A variable's name after the prefix, as a key of the file.
fn dotted(name: &str) -> String {
    name.to_ascii_lowercase().replace("__", ".")
}

/// Names the known variable that is most like this one.
fn did_you_mean(name: &str) -> String {
    let meant = dotted(name.get(PREFIX.len()..).unwrap_or_default());
    let nearest = most_alike(&meant, &VARIABLES).map_or_else(String::new, |(key, _)| {
        let key = key.to_uppercase().replace('.', "__");
        format!("; did you mean {PREFIX}{key}?")
    });
    format!("no such variable{nearest}")
}

/// What was meant by a word that is none of these: the one it is most like, or the whole list.
fn meant(word: &str, known: &[&'static str]) -> String {
    /// Below it two words have little in common: `confirmation` and `confirmations` are 0.95 alike, `zzz` and `evm` 0.
    const ALIKE_MIN: f64 = 0.8;
    // In short words one slip is much: `rcp` is only 0.55 like `rpc`.
    let is_slip = |known: &&&str| word.len() > 1 && strsim::osa_distance(known, word) == 1;
    if let Some(nearest) = known.iter().find(is_slip) {
        return format!("did you mean `{nearest}`?");
    }
    match most_alike(word, known) {
        Some((nearest, alike)) if alike >= ALIKE_MIN => format!("did you mean `{nearest}`?"),
        _ => format!("known here: {}", known.join(", ")),
    }
}

/// The word that begins most alike and differs least, and how much alike it is, up to 1.
fn most_alike(word: &str, known: &[&'static str]) -> Option<(&'static str, f64)> {
    let alike = known
        .iter()
        .map(|known| (*known, strsim::jaro_winkler(known, word)));
    alike.max_by(|(_, one), (_, other)| one.total_cmp(other))
}

impl Log {
    /// What is logged; `RUST_LOG` wins over the configuration.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn filter(&self) -> Result<EnvFilter, ConfigError> {
        let (name, filter) = match std::env::var("RUST_LOG") {
            Ok(filter) => ("RUST_LOG", filter),
            Err(_) => ("log.filter", self.filter.clone()),
        };
        EnvFilter::try_new(filter).map_err(|error| ConfigError::value(name, error))
    }
}

impl Secret {
    /// The secret, from where it is.
    ///
    /// # Errors
    /// When it is not there, or empty. Says where, never what.
    pub fn read(&self, field: &str) -> Result<SecretString, ConfigError> {
        let found = match self {
            Self::Env(name) => std::env::var(name).map_err(|_| {
                ConfigError::value(field, format_args!("the environment has no {name}"))
            })?,
            Self::File(path) => std::fs::read_to_string(path).map_err(|error| {
                ConfigError::value(field, format_args!("{}: {error}", path.display()))
            })?,
        };
        let found = found.trim();
        if found.is_empty() {
            return Err(ConfigError::value(field, "the secret is empty"));
        }
        Ok(found.into())
    }
}

impl Secret {
    /// The variable it is in.
    fn variable(&self) -> Option<&str> {
        match self {
            Self::Env(name) => Some(name),
            Self::File(_) => None,
        }
    }
}

impl Value {
    /// The value, from here or where it is.
    ///
    /// # Errors
    /// As [`Secret::read`].
    pub fn read(&self, field: &str) -> Result<SecretString, ConfigError> {
        match self {
            Self::Here(value) => Ok(value.as_str().into()),
            Self::Elsewhere(secret) => secret.read(field),
        }
    }
}

/// What is wrong, and where. Texts that were found are left out: one of them may be a key in the wrong place.
fn describe(errors: figment::Error) -> String {
    let found = |actual: &Actual| match actual {
        Actual::Str(_) => "a text".to_owned(),
        other => other.to_string(),
    };
    let line = |error: figment::Error| {
        let what = match &error.kind {
            Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
                // serde calls a table by the name of our type for it.
                let expected = match expected.starts_with("struct ") {
                    true => "a table",
                    false => expected.as_str(),
                };
                format!("found {}, expected {expected}", found(actual))
            }
            Kind::UnknownField(name, known) => {
                format!("unknown key `{name}`; {}", meant(name, known))
            }
            Kind::UnknownVariant(_, known) => format!("expected one of {}", known.join(", ")),
            Kind::MissingField(name) => format!("the key `{name}` is missing"),
            // A syntax error shows the line it is about between its first line and its last.
            kind => {
                let text = kind.to_string();
                let mut lines = text.lines().filter(|line| !line.trim().is_empty());
                let (first, last) = (lines.next().unwrap_or_default(), lines.next_back());
                last.map_or_else(|| first.to_owned(), |last| format!("{first}: {last}"))
            }
        };
        match error.path.join(".") {
            path if path.is_empty() => what,
            path => format!("{path}: {what}"),
        }
    };
    errors.into_iter().map(line).collect::<Vec<_>>().join("; ")
}

fn default_listen() -> SocketAddr {
    ([127, 0, 0, 1], 4020).into()
}

fn default_journal() -> PathBuf {
    "quittance.db".into()
}

const fn default_settle_wait_secs() -> u64 {
    quittance_engine::SETTLE_WAIT.as_secs()
}

const fn default_drain_secs() -> u64 {
    DRAIN.as_secs()
}

const fn default_confirmations() -> u64 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn error(text: &str) -> String {
        match Config::parse(text) {
            Ok(config) => ConfigError::Many(config.problems()).to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_minimal_configuration_has_every_default() {
        let config = Config::parse(MINIMAL).unwrap();
        assert_eq!(config.listen, default_listen());
        assert_eq!(config.evm[0].confirmations, 1);
        assert_eq!(config.limits.connections, 4096);
    }

    /// The configuration's limits were read and not used: callers got the default ones.
    #[test]
    fn the_service_and_the_server_have_the_configured_limits() {
        let text = "settle_wait_secs = 7\ndrain_secs = 5\nlimits = { requests = 3, request_secs = 5, connections = 1 }";
        let config = Config::parse(text).unwrap();
        let service = config.service_options(Keys::anyone());
        assert_eq!(service.requests_max, 3);
        assert_eq!(service.request_max, Duration::from_secs(12));
        let server = config.server_options();
        assert_eq!(server.connections_max, 1);
        assert_eq!(server.drain, Duration::from_secs(5));
    }

    #[test]
    fn a_solana_cluster_alone_is_enough_and_has_every_default() {
        let config = Config::parse(SOLANA).unwrap();
        assert_eq!(error(SOLANA), "");
        assert_eq!(config.solana[0].commitment, CommitmentName::Confirmed);
        let more = "commitment = \"finalized\"\n\
            tokens = [{ mint = \"M\", symbol = \"T\", decimals = 6, program = \"token-2022\", allow = [\"transferFeeConfig\"] }]";
        let config = Config::parse(&format!("{SOLANA}{more}")).unwrap();
        let token = &config.solana[0].tokens[0];
        assert_eq!(config.solana[0].commitment, CommitmentName::Finalized);
        assert_eq!(token.program, TokenProgram::Token2022);
        assert_eq!(token.allow, [Extension::TransferFeeConfig].into());
    }

    #[test]
    fn what_is_wrong_with_a_solana_cluster_is_named() {
        for (more, named) in [
            ("commitment = \"processed\"", "commitment"),
            ("signers = []", "signers"),
            ("max_compute_units = -1", "max_compute_units"),
            ("smart_wallets = true", "smart_wallets"),
            ("smart_wallets = { programms = [] }", "programms"),
            (
                "tokens = [{ mint = \"M\", symbol = \"T\", decimals = 6, program = \"spl\" }]",
                "program",
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
        // Like nothing that there is: the list helps more than a guess.
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
    fn who_may_call_has_to_be_said() {
        let nobody = MINIMAL.replace("anyone = true", "anyone = false");
        let told = error(&nobody);
        assert!(told.contains("access: say who may call"), "{told}");
        assert!(told.contains("`access.anyone = true`"), "{told}");
        assert!(
            told.contains("`access.keys = [{ env = \"NAME\" }]`"),
            "{told}"
        );
        assert!(error("").contains("access: say who may call"));
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

    /// It was refused as "found a text, expected a map".
    #[test]
    fn a_secret_in_the_configuration_is_told_where_it_belongs() {
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
        let of_caller = MINIMAL.replace("anyone = true", "keys = [\"sesame\"]");
        let message = error(&of_caller);
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
        let config =
            Config::parse(&MINIMAL.replace("127.0.0.1:8545", "node.example/v2/secret")).unwrap();
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn every_problem_is_told_not_only_the_first() {
        let message = error("access = {}\nlimits = { connections = 0, burst = 0 }");
        for named in ["access:", "evm:", "limits.connections:", "limits.burst:"] {
            assert!(message.contains(named), "{named}: {message}");
        }
    }

    /// No time at all was taken as it was said: every request was answered `timeout`.
    #[test]
    fn the_time_for_a_request_covers_the_time_for_its_body() {
        let told = |limits: &str| error(&format!("limits = {{ {limits} }}\n{MINIMAL}"));
        assert!(told("request_secs = 0").contains("limits.request_secs: must be at least 1"));
        assert!(told("request_secs = 9").contains("limits.request_secs: must not be less"));
        assert!(told("body_secs = 16").contains("limits.request_secs"));
        assert_eq!(told("request_secs = 10"), "");
        assert_eq!(told("request_secs = 1, body_secs = 1"), "");
    }

    /// Near the end of the integers `serve` started and panicked at the first request, or when it was stopped.
    #[test]
    fn a_time_or_a_number_beyond_all_reason_is_refused_by_name() {
        for name in [
            "settle_wait_secs",
            "drain_secs",
            "limits.connections",
            "limits.connections_per_peer",
            "limits.requests",
            "limits.waiting",
            "limits.header_secs",
            "limits.idle_secs",
            "limits.body_secs",
            "limits.request_secs",
        ] {
            let told = error(&format!("{name} = {}\n{MINIMAL}", i64::MAX));
            assert!(told.contains(&format!("{name}: must be at most")), "{told}");
        }
        let longest = "settle_wait_secs = 3600\ndrain_secs = 3600\nlimits.request_secs = 3600";
        assert_eq!(error(&format!("{longest}\n{MINIMAL}")), "");
    }

    /// A misspelled limit was no limit: QUITTANCE_LIMITS_REQUESTS was passed over in silence.
    #[test]
    fn a_variable_nobody_reads_is_told_with_the_one_that_was_meant() {
        let config = Config::parse(&MINIMAL.replace("SIGNER", "QUITTANCE_SIGNER")).unwrap();
        let told = |name: &str| -> Vec<String> {
            let names = [OsString::from(name)].into_iter();
            let problems = config.unknown_variables(names);
            problems.iter().map(ToString::to_string).collect()
        };
        for (wrong, meant) in [
            ("QUITTANCE_LIMITS_REQUESTS", "QUITTANCE_LIMITS__REQUESTS?"),
            ("QUITTANCE_LISTNE", "QUITTANCE_LISTEN?"),
            ("QUITTANCE_ACCESS__ANYBODY", "QUITTANCE_ACCESS__ANYONE?"),
            ("quittance_drain", "QUITTANCE_DRAIN_SECS?"),
        ] {
            let told = told(wrong).join("\n");
            assert!(told.contains(wrong) && told.contains(meant), "{told}");
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
            assert_eq!(told(right), Vec::<String>::new());
        }
    }

    /// The list of variables is every key there is, by what the readers themselves say.
    #[test]
    fn the_environment_can_set_every_key_of_the_file() {
        let fields = |key: &str| -> Vec<String> {
            let text = format!("{key}\n{MINIMAL}");
            let figment = Figment::from(Toml::string(&text));
            let error = figment.extract::<Config>().unwrap_err();
            let Kind::UnknownField(_, known) = error.kind else {
                panic!("{error}")
            };
            known.iter().map(|field| (*field).to_owned()).collect()
        };
        let mut all = Vec::new();
        for field in fields("zzz = 1") {
            match field.as_str() {
                "evm" | "solana" => {}
                "access" | "limits" | "log" => {
                    let inner = format!("{field}.zzz = 1");
                    all.extend(
                        fields(&inner)
                            .iter()
                            .map(|inner| format!("{field}.{inner}")),
                    );
                }
                _ => all.push(field),
            }
        }
        all.sort();
        let mut listed = VARIABLES.to_vec();
        listed.sort_unstable();
        assert_eq!(all, listed);
    }
}
