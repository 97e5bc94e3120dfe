//! The keys that the tables of all families share, and their parser.

use std::collections::BTreeMap;

use quittance_core::{Amount, Network};
use quittance_engine::Rules;
use secrecy::ExposeSecret;
use serde::Deserialize;
use url::Url;

use crate::config::{Access, ConfigError, Setting};

/// The keys of a network's table that every family has.
#[derive(Debug, Deserialize)]
#[non_exhaustive]
pub struct Common {
    /// The network, by its CAIP-2 identifier or its version 1 name.
    pub network: String,
    /// The URLs of its nodes, in order of preference. A URL with a key in it belongs in the
    /// environment or in a file.
    pub rpc: Vec<Setting>,
    /// The recipients whose payments are settled. Without this key, every recipient.
    pub recipients: Option<Vec<String>>,
    /// The smallest amount that is settled, by token address or ticker, in decimal notation:
    /// `{ USDC = "0.001" }`.
    #[serde(default)]
    pub min_amounts: BTreeMap<String, String>,
    /// The tokens that ship with the library and are settled, by ticker or address. Without this
    /// key, each family has a default.
    pub assets: Option<Vec<String>>,
}

/// A network's table in the configuration.
#[non_exhaustive]
pub struct NetworkEntry<'a, E> {
    /// The network that the table names.
    pub network: Network,
    /// The path of the table, such as `evm[0]`.
    pub path: String,
    /// The keys that every family has.
    pub common: &'a Common,
    /// The family's own keys.
    pub own: &'a E,
    /// The callers of the service.
    pub access: &'a Access,
}

/// A token that is settled on a network, as the limits of the configuration name it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListedToken {
    /// The address in the chain's canonical notation.
    pub address: String,
    /// The ticker.
    pub symbol: String,
    /// The number of decimal places.
    pub decimals: u8,
}

impl ListedToken {
    /// A token with this canonical address.
    pub fn new(address: impl Into<String>, symbol: impl Into<String>, decimals: u8) -> Self {
        Self {
            address: address.into(),
            symbol: symbol.into(),
            decimals,
        }
    }
}

/// The rules, problems and warnings that are collected while a configuration is read.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Findings {
    /// The rules for payments, from all networks.
    pub rules: Rules,
    problems: Vec<ConfigError>,
    warnings: Vec<String>,
    /// The paths of the tables by the identifiers of their networks.
    networks: BTreeMap<String, String>,
}

impl Findings {
    /// Adds a problem: the facilitator does not start.
    pub fn problem(&mut self, problem: ConfigError) {
        self.problems.push(problem);
    }

    /// Adds a warning: the facilitator starts, and the operator should know this.
    pub fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// The value, or `None` after its problem was added.
    pub fn take<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|problem| self.problem(problem)).ok()
    }

    /// All values, or `None` after the problem of each that has one was added.
    pub fn take_all<T>(
        &mut self,
        results: impl Iterator<Item = Result<T, ConfigError>>,
    ) -> Option<Vec<T>> {
        let taken: Vec<Option<T>> = results.map(|result| self.take(result)).collect();
        taken.into_iter().collect()
    }

    /// The network, unless an earlier table has it: two chains with one signer would use its
    /// sequence numbers twice. The two tables may spell the network differently.
    pub(super) fn add_network(
        &mut self,
        network: Network,
        path: &str,
    ) -> Result<Network, ConfigError> {
        let before = self
            .networks
            .insert(network.id().to_owned(), path.to_owned());
        if let Some(before) = before {
            let problem = format_args!("{network} is already configured by {before}");
            return Err(ConfigError::value(format!("{path}.network"), problem));
        }
        Ok(network)
    }

    /// The problems and the warnings, with the rules.
    pub(crate) fn into_parts(self) -> (Vec<ConfigError>, Vec<String>, Rules) {
        (self.problems, self.warnings, self.rules)
    }
}

impl<'a, E> NetworkEntry<'a, E> {
    pub(super) fn new(
        network: Network,
        path: String,
        common: &'a Common,
        own: &'a E,
        access: &'a Access,
    ) -> Self {
        Self {
            network,
            path,
            common,
            own,
            access,
        }
    }

    /// The full path of a key of this table.
    pub fn field(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    /// The URLs of `rpc`. Each must be an HTTP URL.
    pub fn rpc_urls(&self, findings: &mut Findings) -> Option<Vec<Url>> {
        let url = |(at, setting): (usize, &Setting)| {
            let field = format!("{}.rpc[{at}]", self.path);
            let text = setting.read(&field)?;
            let url: Url = text
                .expose_secret()
                .parse()
                .map_err(|_| ConfigError::value(&field, "not a URL"))?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(ConfigError::value(field, "not an HTTP URL"));
            }
            Ok(url)
        };
        findings.take_all(self.common.rpc.iter().enumerate().map(url))
    }

    /// The tokens of this network: those that the table describes, then those of `shipped` that
    /// `assets` names, or all of them without that key. A described token replaces a shipped one.
    ///
    /// `has_name` says whether a token has this ticker or address, `is_same` whether two tokens
    /// have the same address.
    ///
    /// # Errors
    /// When `assets` names a token that is not in `shipped`, or no token is left.
    pub fn tokens<T>(
        &self,
        described: Vec<T>,
        shipped: Vec<T>,
        has_name: impl Fn(&T, &str) -> bool,
        is_same: impl Fn(&T, &T) -> bool,
    ) -> Result<Vec<T>, ConfigError> {
        let assets = self.common.assets.as_deref();
        for name in assets.unwrap_or_default() {
            if !shipped.iter().any(|token| has_name(token, name)) {
                let problem = format_args!(
                    "{name:?} does not ship with the library for {}: describe it under `tokens`",
                    self.network
                );
                return Err(ConfigError::value(self.field("assets"), problem));
            }
        }
        let is_wanted = |token: &T| {
            let is_named =
                assets.is_none_or(|names| names.iter().any(|name| has_name(token, name)));
            is_named && !described.iter().any(|other| is_same(other, token))
        };
        let (wanted, _): (Vec<T>, Vec<T>) = shipped.into_iter().partition(is_wanted);
        let mut tokens = described;
        tokens.extend(wanted);
        if tokens.is_empty() {
            let problem =
                "no token ships with the library for this network: describe one under `tokens`";
            return Err(ConfigError::value(&self.path, problem));
        }
        Ok(tokens)
    }

    /// Adds `recipients` and `min_amounts` to the rules. `canonical` gives an address in the
    /// chain's canonical notation, or `None` for a text that is not one.
    ///
    /// Returns the tickers of the tokens without a minimum amount.
    ///
    /// # Errors
    /// When a recipient is not an address, or a minimum amount is for another token or unreadable.
    pub fn restrict(
        &self,
        tokens: &[ListedToken],
        canonical: impl Fn(&str) -> Option<String>,
        rules: &mut Rules,
    ) -> Result<Vec<String>, ConfigError> {
        let id = self.network.id();
        if let Some(recipients) = &self.common.recipients {
            let address = |text: &String| {
                canonical(text).ok_or_else(|| not_an_address(self.field("recipients"), text))
            };
            let recipients = recipients.iter().map(address).collect::<Result<_, _>>()?;
            rules.recipients.insert(id.to_owned(), recipients);
        }
        let named = self.amounts("min_amounts", &self.common.min_amounts, tokens, canonical)?;
        for (token, min) in named {
            let key = (id.to_owned(), token.address.clone());
            let known = rules.amounts_min.entry(key).or_default();
            *known = min.max(*known);
        }
        let has_min = |token: &&ListedToken| {
            let key = (id.to_owned(), token.address.clone());
            rules.amounts_min.contains_key(&key)
        };
        let without = tokens.iter().filter(|token| !has_min(token));
        Ok(without.map(|token| token.symbol.clone()).collect())
    }

    /// The amounts of a table by token address or ticker, such as `min_amounts`: each token with
    /// its amount in atomic units. `key` is the table's key in this entry.
    ///
    /// # Errors
    /// When a name is of no listed token, or an amount cannot be read.
    pub fn amounts<'t>(
        &self,
        key: &str,
        amounts: &BTreeMap<String, String>,
        tokens: &'t [ListedToken],
        canonical: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<(&'t ListedToken, Amount)>, ConfigError> {
        let mut found = Vec::new();
        for (name, text) in amounts {
            let field = format!("{}.{key}.{name}", self.path);
            let is_named = |token: &&ListedToken| {
                let is_ticker = token.symbol.eq_ignore_ascii_case(name);
                is_ticker || canonical(name).as_ref() == Some(&token.address)
            };
            // Several tokens may have one ticker, and the amount then applies to each of them.
            let named: Vec<_> = tokens.iter().filter(is_named).collect();
            if named.is_empty() {
                let problem = "no token of this network has this ticker or address";
                return Err(ConfigError::value(field, problem));
            }
            for token in named {
                let amount = Amount::from_decimal(text, token.decimals);
                let amount = amount.map_err(|error| ConfigError::value(&field, error))?;
                found.push((token, amount));
            }
        }
        Ok(found)
    }
}

/// The error for a text that is not an address.
pub(super) fn not_an_address(field: impl Into<String>, text: &str) -> ConfigError {
    ConfigError::value(field, format_args!("{text:?} is not an address"))
}
