//! From a configuration to an engine. The only place where chains are named.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, U256};
use alloy::signers::local::PrivateKeySigner;
use quittance_core::{Amount, Chain, Fault, Health, Network};
use quittance_engine::{Engine, JournalError, Rules, SqliteJournal};
use quittance_evm::{Evm, EvmConfig, Exact, Signer, Token, TransferMethod, known};
use secrecy::ExposeSecret;
use tokio::net::TcpListener;
use url::Url;

use crate::access::Keys;
use crate::config::{Access, Config, ConfigError, EvmNetwork, Secret, TokenEntry, Value};

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
    chains: Vec<Evm>,
    rules: Rules,
}

impl Plan {
    /// Reads everything a configuration refers to. Opens and asks nothing.
    ///
    /// # Errors
    /// Everything that makes no sense.
    pub fn read(config: &Config) -> Result<Self, ConfigError> {
        let mut problems = Problems(config.problems());
        problems.take(config.log.filter());
        let keys = keys(&config.access, &mut problems);
        let (chains, rules) = chains(config, &mut problems);
        match problems.0 {
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
            .settle_wait(Duration::from_secs(config.settle_wait_secs));
        for evm in self.chains {
            let exact = Arc::new(Exact::new(&evm));
            builder = builder.chain(evm, vec![exact]);
        }
        Ok(builder.start().await?)
    }
}

/// Starts the engine that a configuration describes.
///
/// # Errors
/// When the configuration makes no sense or the journal cannot be used. A network that cannot be reached is no error.
pub async fn engine(config: &Config) -> Result<Engine, AssembleError> {
    Plan::read(config)?.start(config).await
}

/// What was found of a configuration.
#[derive(Debug)]
pub struct Checked {
    /// Why it would not be served.
    pub problems: Vec<ConfigError>,
    /// How each network is that could be asked.
    pub networks: Vec<(Network, Health)>,
}

/// Everything that serving a configuration would trip over, without serving it.
pub async fn check(config: &Config) -> Checked {
    let mut problems = Problems(config.problems());
    problems.take(config.log.filter());
    keys(&config.access, &mut problems);
    let (chains, _) = chains(config, &mut problems);
    problems.take(listen(config).await);
    problems.take(try_journal(&config.journal).await);
    let mut networks = Vec::new();
    for evm in chains {
        networks.push((evm.network().clone(), evm.health().await));
    }
    Checked {
        problems: problems.0,
        networks,
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
        return opened.map(drop).map_err(|error| failed(&error));
    }
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    match tempfile::tempfile_in(folder) {
        Ok(_) => Ok(()),
        Err(error) => Err(failed(&format_args!("{}: {error}", folder.display()))),
    }
}

/// What was found wrong so far.
#[derive(Default)]
struct Problems(Vec<ConfigError>);

impl Problems {
    /// The value, if there is nothing wrong with it.
    fn take<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|problem| self.0.push(problem)).ok()
    }
}

fn keys(access: &Access, problems: &mut Problems) -> Keys {
    if access.anyone {
        return Keys::anyone();
    }
    let read =
        |(at, secret): (usize, &Secret)| problems.take(secret.read(&format!("access.keys[{at}]")));
    let keys: Vec<_> = access.keys.iter().enumerate().filter_map(read).collect();
    Keys::of(&keys)
}

/// The chains that can be made, and their rules.
fn chains(config: &Config, problems: &mut Problems) -> (Vec<Evm>, Rules) {
    let mut rules = Rules::default();
    let mut chains = Vec::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (at, entry) in config.evm.iter().enumerate() {
        let field = format!("evm[{at}]");
        let Some(network) = problems.take(network(entry, &field)) else {
            continue;
        };
        // Two would use the same signers' nonces; and a network may be spelled in two ways.
        if let Some(before) = seen.insert(network.id().to_owned(), at) {
            let problem = format_args!("{network} is configured already, by evm[{before}]");
            problems.take::<()>(Err(ConfigError::value(format!("{field}.network"), problem)));
            continue;
        }
        chains.extend(evm(entry, network, &field, &mut rules, problems));
    }
    (chains, rules)
}

fn network(entry: &EvmNetwork, field: &str) -> Result<Network, ConfigError> {
    let unknown = || {
        ConfigError::value(
            format!("{field}.network"),
            format_args!("{:?} is no EVM network", entry.network),
        )
    };
    known::network(&entry.network).ok_or_else(unknown)
}

fn evm(
    entry: &EvmNetwork,
    network: Network,
    field: &str,
    rules: &mut Rules,
    problems: &mut Problems,
) -> Option<Evm> {
    let urls = rpc_urls(entry, field, problems);
    let signers = signers(entry, field, problems);
    let tokens = problems.take(tokens(entry, &network, field));
    let mut config = EvmConfig::new(network, urls?, signers?);
    config.tokens = tokens?;
    config.depth_required = entry.depth;
    if let Some(gwei) = entry.max_gas_price_gwei {
        config.gas_price_max = u128::from(gwei) * 1_000_000_000;
    }
    config.gas_per_payment_max = entry
        .max_gas_per_payment
        .unwrap_or(config.gas_per_payment_max);
    config.group_max = entry.max_group.unwrap_or(config.group_max).max(1);
    if let Some(secs) = entry.max_head_age_secs {
        config.head_age_max = (secs > 0).then(|| Duration::from_secs(secs));
    }
    config.balance_min = entry
        .min_balance_wei
        .map(|amount| U256::from(amount.units()));
    problems.take(add_rules(entry, &config, field, rules))?;
    problems.take(Evm::new(config).map_err(|error| ConfigError::value(field, error)))
}

/// All of them, or none.
fn all<T>(
    read: impl Iterator<Item = Result<T, ConfigError>>,
    problems: &mut Problems,
) -> Option<Vec<T>> {
    let read: Vec<Option<T>> = read.map(|one| problems.take(one)).collect();
    read.into_iter().collect()
}

fn rpc_urls(entry: &EvmNetwork, field: &str, problems: &mut Problems) -> Option<Vec<Url>> {
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
    all(entry.rpc.iter().enumerate().map(read), problems)
}

fn signers(entry: &EvmNetwork, field: &str, problems: &mut Problems) -> Option<Vec<Signer>> {
    let read = |(at, secret): (usize, &Secret)| {
        let field = format!("{field}.signers[{at}]");
        let key = secret.read(&field)?;
        // The error of the parser might quote what it could not parse.
        let signer: PrivateKeySigner = key
            .expose_secret()
            .parse()
            .map_err(|_| ConfigError::value(field, "not a private key in hexadecimal"))?;
        Ok(Arc::new(signer) as Signer)
    };
    all(entry.signers.iter().enumerate().map(read), problems)
}

/// The listed tokens of those that ship with the library, and those that are described here.
fn tokens(entry: &EvmNetwork, network: &Network, field: &str) -> Result<Vec<Token>, ConfigError> {
    let mut tokens = Vec::new();
    for (at, described) in entry.tokens.iter().enumerate() {
        tokens.push(token(described, &format!("{field}.tokens[{at}]"))?);
    }
    let shipped: Vec<Token> = match &entry.assets {
        None => known::tokens(network.id()).to_vec(),
        Some(names) => {
            let find = |name: &String| {
                let unknown = || {
                    ConfigError::value(
                        format!("{field}.assets"),
                        format_args!("{name:?} is not known on {network}"),
                    )
                };
                known::token(network.id(), name)
                    .cloned()
                    .ok_or_else(unknown)
            };
            names.iter().map(find).collect::<Result<_, _>>()?
        }
    };
    let described: BTreeSet<Address> = tokens.iter().map(|token| token.address).collect();
    tokens.extend(
        shipped
            .into_iter()
            .filter(|token| !described.contains(&token.address)),
    );
    if tokens.is_empty() {
        return Err(ConfigError::value(
            field,
            "no token is known here: describe one under `tokens`",
        ));
    }
    Ok(tokens)
}

fn token(described: &TokenEntry, field: &str) -> Result<Token, ConfigError> {
    let TokenEntry {
        address,
        name,
        version,
        decimals,
        symbol,
    } = described.clone();
    Ok(Token {
        address: parse_address(&address, &format!("{field}.address"))?,
        name,
        version,
        decimals,
        symbol,
        method: TransferMethod::Eip3009,
        supports_eip2612: false,
    })
}

fn parse_address(text: &str, field: &str) -> Result<Address, ConfigError> {
    text.parse()
        .map_err(|_| ConfigError::value(field, format_args!("{text:?} is not an address")))
}

fn add_rules(
    entry: &EvmNetwork,
    config: &EvmConfig,
    field: &str,
    rules: &mut Rules,
) -> Result<(), ConfigError> {
    let network = config.network.id().to_owned();
    if let Some(recipients) = &entry.recipients {
        let canonical = |text: &String| {
            parse_address(text, &format!("{field}.recipients"))
                .map(|address| address.to_checksum(None))
        };
        let recipients = recipients.iter().map(canonical).collect::<Result<_, _>>()?;
        rules.recipients.insert(network.clone(), recipients);
    }
    for (name, least) in &entry.min_amounts {
        let field = format!("{field}.min_amounts.{name}");
        let named = |token: &&Token| {
            token.symbol.eq_ignore_ascii_case(name) || name.parse() == Ok(token.address)
        };
        let token = config
            .tokens
            .iter()
            .find(named)
            .ok_or_else(|| ConfigError::value(&field, "no such token"))?;
        let least = Amount::from_decimal(least, token.decimals)
            .map_err(|error| ConfigError::value(&field, error))?;
        rules
            .amounts_min
            .insert((network.clone(), token.address.to_checksum(None)), least);
    }
    Ok(())
}
