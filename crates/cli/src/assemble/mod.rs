//! From a configuration to an engine: how each family of chains is made from its entry.

mod evm;
mod solana;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quittance_core::{
    Amount, Chain, Clock, Fault, Health, Network, Scheme, SystemClock, Timestamp,
};
use quittance_engine::{Engine, EngineBuilder, JournalError, Rules, SqliteJournal};
use quittance_evm::Evm;
use quittance_solana::Solana;
use secrecy::ExposeSecret;
use tokio::net::TcpListener;
use url::Url;

use crate::config::{Access, Config, ConfigError, Secret, Value};
use quittance_service::Keys;

pub use solana::keypair as solana_keypair;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The engine does not start.
    #[error(transparent)]
    Start(#[from] Fault),
}

/// What a configuration describes, read and found to make sense.
pub struct Plan {
    /// Who may call.
    pub keys: Keys,
    chains: Vec<AnyChain>,
    rules: Rules,
}

impl Plan {
    /// Reads everything a configuration refers to. Opens and asks nothing.
    ///
    /// # Errors
    /// Everything that makes no sense.
    pub fn read(config: &Config) -> Result<Self, ConfigError> {
        let mut problems = Problems {
            found: config.problems(),
            ..Problems::default()
        };
        problems.take(config.log.filter());
        let keys = keys(&config.access, &mut problems);
        let (chains, rules) = chains(config, &mut problems);
        match problems.found {
            problems if problems.is_empty() => Ok(Self {
                keys,
                chains,
                rules,
            }),
            problems => Err(ConfigError::Many(problems)),
        }
    }

    /// Starts the engine.
    ///
    /// # Errors
    /// When the journal cannot be used. A network that cannot be reached is no error.
    pub async fn start(self, config: &Config) -> Result<Engine, AssembleError> {
        let journal = SqliteJournal::open(&config.journal).await?;
        let mut builder = Engine::builder(journal)
            .policy(self.rules)
            .failure_limits(config.limits.failures())
            .settle_wait(Duration::from_secs(config.settle_wait_secs));
        for chain in self.chains {
            builder = chain.add_to(builder);
        }
        Ok(builder.start().await?)
    }
}

/// A chain of any family, with the schemes that are settled on it.
enum AnyChain {
    Evm(Box<Evm>),
    Solana(Box<Solana>),
}

impl AnyChain {
    fn network(&self) -> &Network {
        match self {
            Self::Evm(chain) => chain.network(),
            Self::Solana(chain) => chain.network(),
        }
    }

    async fn health(&self, now: Timestamp) -> Health {
        match self {
            Self::Evm(chain) => chain.health(now).await,
            Self::Solana(chain) => chain.health(now).await,
        }
    }

    /// Whether any payment can be settled with this health.
    fn settles(&self, health: &Health) -> bool {
        let (lanes, assets) = match self {
            Self::Evm(chain) => (chain.lanes(), quittance_evm::Exact::new(chain).assets()),
            Self::Solana(chain) => (chain.lanes(), quittance_solana::Exact::new(chain).assets()),
        };
        lanes.iter().any(|lane| health.lane_works(lane))
            && assets.iter().any(|asset| health.asset_works(asset))
    }

    fn add_to(self, builder: EngineBuilder) -> EngineBuilder {
        match self {
            Self::Evm(chain) => {
                let exact = Arc::new(quittance_evm::Exact::new(&chain));
                builder.chain(*chain, vec![exact])
            }
            Self::Solana(chain) => {
                let exact = Arc::new(quittance_solana::Exact::new(&chain));
                builder.chain(*chain, vec![exact])
            }
        }
    }
}

/// What was found of a configuration.
#[derive(Debug)]
pub struct Checked {
    /// Why it would not be served.
    pub problems: Vec<ConfigError>,
    /// What is wrong with the journal, though it would be served.
    pub journal: Vec<String>,
    /// How each network is that could be asked.
    pub networks: Vec<CheckedNetwork>,
    /// What can be served, and may cost the operator more than it brings.
    pub warnings: Vec<String>,
}

/// How a network is.
#[derive(Debug)]
pub struct CheckedNetwork {
    /// Which one.
    pub network: Network,
    /// What is wrong with it.
    pub health: Health,
    /// Whether any payment can be settled there now: there is a signer and a token that can be used.
    pub settles: bool,
}

/// Everything that serving a configuration would trip over, without serving it.
pub async fn check(config: &Config) -> Checked {
    let mut problems = Problems {
        found: config.problems(),
        ..Problems::default()
    };
    problems.take(config.log.filter());
    keys(&config.access, &mut problems);
    let (chains, _) = chains(config, &mut problems);
    problems.take(listen(config).await);
    problems.take(try_journal(&config.journal).await);
    let journal = inspect_journal(&config.journal, &problems).await;
    let mut networks = Vec::new();
    for chain in chains {
        let health = chain.health(SystemClock.now()).await;
        networks.push(CheckedNetwork {
            network: chain.network().clone(),
            settles: chain.settles(&health),
            health,
        });
    }
    Checked {
        problems: problems.found,
        journal,
        networks,
        warnings: problems.warnings,
    }
}

/// Listens where a configuration says.
///
/// # Errors
/// When the operating system does not let us.
pub async fn listen(config: &Config) -> Result<TcpListener, ConfigError> {
    TcpListener::bind(config.listen)
        .await
        .map_err(|error| ConfigError::value("listen", format_args!("{}: {error}", config.listen)))
}

/// Whether a journal could be opened. Makes none: whoever checks may be another user than who serves.
async fn try_journal(path: &Path) -> Result<(), ConfigError> {
    let failed = |problem: &dyn Display| ConfigError::value("journal", problem);
    if path.exists() {
        let opened = SqliteJournal::open(path).await;
        // It says itself that it is about the journal.
        let failed = |error: JournalError| ConfigError::File(error.to_string());
        return opened.map(drop).map_err(failed);
    }
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    match tempfile::tempfile_in(folder) {
        Ok(_) => Ok(()),
        Err(error) => Err(failed(&format_args!("{}: {error}", folder.display()))),
    }
}

/// What is wrong with a journal that is there, whether or not a process has it.
async fn inspect_journal(path: &Path, problems: &Problems) -> Vec<String> {
    if !path.exists() {
        return Vec::new();
    }
    match SqliteJournal::inspect(path).await {
        Ok(found) => found,
        Err(error) => {
            let error = error.to_string();
            let is_known = problems
                .found
                .iter()
                .any(|known| known.to_string().contains(&error));
            Vec::from_iter((!is_known).then_some(error))
        }
    }
}

/// What was found so far.
#[derive(Default)]
struct Problems {
    /// What is wrong.
    found: Vec<ConfigError>,
    /// What an operator should look at, although it can be served.
    warnings: Vec<String>,
}

impl Problems {
    /// The value, if there is nothing wrong with it.
    fn take<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|problem| self.found.push(problem)).ok()
    }
}

fn keys(access: &Access, problems: &mut Problems) -> Keys {
    if access.anyone {
        return Keys::anyone();
    }
    let read =
        |(at, secret): (usize, &Secret)| problems.take(secret.read(&format!("access.keys[{at}]")));
    let keys: Vec<_> = access.keys.iter().enumerate().filter_map(read).collect();
    Keys::new(&keys)
}

/// The chains that can be made, and their rules.
fn chains(config: &Config, problems: &mut Problems) -> (Vec<AnyChain>, Rules) {
    let mut rules = Rules::default();
    let mut chains = Vec::new();
    let mut seen = Seen::default();
    for (at, entry) in config.evm.iter().enumerate() {
        let field = format!("evm[{at}]");
        let network = evm::network(entry, &field).and_then(|network| seen.once(network, &field));
        if let Some(network) = problems.take(network) {
            let chain = evm::chain(entry, network, &config.access, &field, &mut rules, problems);
            chains.extend(chain.map(|chain| AnyChain::Evm(Box::new(chain))));
        }
    }
    for (at, entry) in config.solana.iter().enumerate() {
        let field = format!("solana[{at}]");
        let network = solana::network(entry, &field).and_then(|network| seen.once(network, &field));
        if let Some(network) = problems.take(network) {
            let chain = solana::chain(entry, network, &field, &mut rules, problems);
            chains.extend(chain.map(|chain| AnyChain::Solana(Box::new(chain))));
        }
    }
    (chains, rules)
}

/// Which networks were named, and where.
#[derive(Default)]
struct Seen(BTreeMap<String, String>);

impl Seen {
    /// The network, the first time. Twice it would have two lanes of one signer; and it may be spelled in two ways.
    fn once(&mut self, network: Network, field: &str) -> Result<Network, ConfigError> {
        match self.0.get(network.id()) {
            Some(before) => {
                let problem = format_args!("{network} is configured already, by {before}");
                Err(ConfigError::value(format!("{field}.network"), problem))
            }
            None => {
                self.0.insert(network.id().to_owned(), field.to_owned());
                Ok(network)
            }
        }
    }
}

/// All of them, or none.
fn all<T>(
    read: impl Iterator<Item = Result<T, ConfigError>>,
    problems: &mut Problems,
) -> Option<Vec<T>> {
    let read: Vec<Option<T>> = read.map(|one| problems.take(one)).collect();
    read.into_iter().collect()
}

fn rpc_urls(entries: &[Value], field: &str, problems: &mut Problems) -> Option<Vec<Url>> {
    let read = |(at, value): (usize, &Value)| {
        let field = format!("{field}.rpc[{at}]");
        let text = value.read(&field)?;
        let url: Url = text
            .expose_secret()
            .parse()
            .map_err(|_| ConfigError::value(&field, "not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(ConfigError::value(field, "not an HTTP URL"));
        }
        Ok(url)
    };
    all(entries.iter().enumerate().map(read), problems)
}

/// The tokens of a network: those described in the configuration, and of those that ship with the library the ones it names
/// (all, where it names none) and does not describe itself.
fn tokens_of<T>(
    described: Vec<T>,
    named: Option<&[String]>,
    shipped: Vec<T>,
    is: impl Fn(&T, &str) -> bool,
    is_same: impl Fn(&T, &T) -> bool,
    network: &Network,
    field: &str,
) -> Result<Vec<T>, ConfigError> {
    for name in named.unwrap_or_default() {
        if !shipped.iter().any(|token| is(token, name)) {
            let problem = format_args!("{name:?} is not known on {network}");
            return Err(ConfigError::value(format!("{field}.assets"), problem));
        }
    }
    let is_wanted = |token: &T| {
        let is_named = named.is_none_or(|named| named.iter().any(|name| is(token, name)));
        is_named && !described.iter().any(|other| is_same(other, token))
    };
    let (wanted, _): (Vec<T>, Vec<T>) = shipped.into_iter().partition(is_wanted);
    let mut tokens = described;
    tokens.extend(wanted);
    if tokens.is_empty() {
        let problem = "no token is known here: describe one under `tokens`";
        return Err(ConfigError::value(field, problem));
    }
    Ok(tokens)
}

/// What a network's entry says of the payments that are settled there.
struct Restrictions<'a> {
    network: &'a Network,
    field: &'a str,
    recipients: Option<&'a [String]>,
    min_amounts: &'a BTreeMap<String, String>,
}

/// What rules need to know of a token.
struct Listed<'a> {
    /// As the chain spells it.
    address: String,
    symbol: &'a str,
    decimals: u8,
}

impl Restrictions<'_> {
    /// Adds them to the rules. `canonical` is an address as the chain spells it.
    fn add_to(
        &self,
        rules: &mut Rules,
        tokens: &[Listed<'_>],
        canonical: impl Fn(&str) -> Option<String>,
    ) -> Result<(), ConfigError> {
        let id = self.network.id();
        if let Some(recipients) = self.recipients {
            let read = |text: &String| {
                let field = format!("{}.recipients", self.field);
                canonical(text).ok_or_else(|| not_an_address(field, text))
            };
            let recipients = recipients.iter().map(read).collect::<Result<_, _>>()?;
            rules.recipients.insert(id.to_owned(), recipients);
        }
        let field = format!("{}.min_amounts", self.field);
        let named = amounts_by_token(self.min_amounts, &field, tokens, canonical)?;
        for (token, least) in named {
            let key = (id.to_owned(), token.address.clone());
            let known = rules.amounts_min.entry(key).or_default();
            *known = least.max(*known);
        }
        Ok(())
    }

    /// The tickers of the tokens for which no smallest amount is set.
    fn without_min(&self, rules: &Rules, tokens: &[Listed<'_>]) -> Vec<String> {
        let is_set = |token: &&Listed<'_>| {
            let key = (self.network.id().to_owned(), token.address.clone());
            rules.amounts_min.contains_key(&key)
        };
        let unset = tokens.iter().filter(|token| !is_set(token));
        unset.map(|token| token.symbol.to_owned()).collect()
    }
}

/// Amounts that are written by a token's ticker or address: each token that is meant, with its amount
/// in atomic units.
fn amounts_by_token<'t>(
    written: &BTreeMap<String, String>,
    field: &str,
    tokens: &'t [Listed<'t>],
    canonical: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(&'t Listed<'t>, Amount)>, ConfigError> {
    let mut amounts = Vec::new();
    for (name, text) in written {
        let field = format!("{field}.{name}");
        let is_named = |token: &&Listed<'_>| {
            let is_ticker = token.symbol.eq_ignore_ascii_case(name);
            is_ticker || canonical(name).as_ref() == Some(&token.address)
        };
        // Several tokens may have one ticker. Which of them was meant is not ours to guess, so it holds for all.
        let named: Vec<_> = tokens.iter().filter(is_named).collect();
        if named.is_empty() {
            return Err(ConfigError::value(field, "no such token"));
        }
        for token in named {
            let amount = Amount::from_decimal(text, token.decimals);
            let amount = amount.map_err(|error| ConfigError::value(&field, error))?;
            amounts.push((token, amount));
        }
    }
    Ok(amounts)
}

fn not_an_address(field: impl Into<String>, text: &str) -> ConfigError {
    ConfigError::value(field, format_args!("{text:?} is not an address"))
}
