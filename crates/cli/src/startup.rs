//! From a configuration to an engine.

use std::time::Duration;

use quittance_core::{Clock, Fault, Health, Network, SystemClock};
use quittance_engine::{Engine, JournalError, Rules};
use quittance_service::{Keys, Webhook};
use tokio::net::TcpListener;

use crate::config::{Access, Config, ConfigError, JournalPlace, Secret};
use crate::families::{ConfiguredChain, Families, Findings};

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The engine does not start on it.
    #[error(transparent)]
    Engine(#[from] Fault),
}

/// A configuration in which everything was read and is usable.
#[non_exhaustive]
pub struct Startup {
    /// The keys of the callers.
    pub keys: Keys,
    /// The receivers of webhooks.
    pub webhooks: Vec<Webhook>,
    chains: Vec<Box<dyn ConfiguredChain>>,
    rules: Rules,
}

impl Startup {
    /// Reads everything that a configuration names, such as secrets. Opens no journal and asks no
    /// node.
    ///
    /// # Errors
    /// Everything in the configuration that cannot be used.
    pub fn read(config: &Config, families: &Families) -> Result<Self, ConfigError> {
        let (mut findings, keys, chains) = read(config, families);
        let webhooks = config.webhooks.iter().enumerate();
        let webhooks = webhooks.filter_map(|(at, webhook)| findings.take(webhook.read(at)));
        let webhooks = webhooks.collect();
        match findings.into_parts() {
            (problems, _, rules) if problems.is_empty() => Ok(Self {
                keys,
                webhooks,
                chains,
                rules,
            }),
            (problems, _, _) => Err(ConfigError::Many(problems)),
        }
    }

    /// The configured chains, for commands that start no engine.
    pub fn into_chains(self) -> Vec<Box<dyn ConfiguredChain>> {
        self.chains
    }

    /// Starts the engine.
    ///
    /// # Errors
    /// When the journal cannot be used. A network that cannot be reached is not an error.
    pub async fn start(self, config: &Config) -> Result<Engine, StartError> {
        let journal = config.journal.open().await?;
        let mut builder = Engine::builder_on(journal)
            .policy(self.rules)
            .failure_limits(config.limits.failures())
            .settle_wait(Duration::from_secs(config.settle_wait_secs));
        for chain in self.chains {
            builder = chain.add_to(builder);
        }
        Ok(builder.start().await?)
    }
}

/// Everything that a configuration names, with all that is wrong with it.
fn read(config: &Config, families: &Families) -> (Findings, Keys, Vec<Box<dyn ConfiguredChain>>) {
    let mut findings = Findings::default();
    for problem in config.problems(families) {
        findings.problem(problem);
    }
    findings.take(config.log.filter());
    let keys = keys(&config.access, &mut findings);
    let mut chains = Vec::new();
    for family in families.iter() {
        let tables = config.networks.tables(family.key());
        chains.extend(family.configure_all(tables, &config.access, &mut findings));
    }
    (findings, keys, chains)
}

fn keys(access: &Access, findings: &mut Findings) -> Keys {
    if access.anyone {
        return Keys::anyone();
    }
    let key = |(at, secret): (usize, &Secret)| {
        let key = secret.read(&format!("access.keys[{at}]"));
        findings.take(key)
    };
    let keys: Vec<_> = access.keys.iter().enumerate().filter_map(key).collect();
    Keys::new(&keys)
}

/// The result of checking a configuration.
#[derive(Debug)]
#[non_exhaustive]
pub struct CheckReport {
    /// Why the facilitator would not start.
    pub problems: Vec<ConfigError>,
    /// What is wrong with the journal, although the facilitator would start.
    pub journal: Vec<String>,
    /// The networks whose configuration can be used.
    pub networks: Vec<NetworkReport>,
    /// What may cost the operator more than it earns, although the facilitator would start.
    pub warnings: Vec<String>,
}

/// The state of a network.
#[derive(Debug)]
#[non_exhaustive]
pub struct NetworkReport {
    /// The network.
    pub network: Network,
    /// What is wrong with it.
    pub health: Health,
    /// Whether any payment can be settled there now: a signer and a token work.
    pub can_settle: bool,
}

/// Finds everything that would stop `serve` or degrade a network, without serving.
pub async fn check(config: &Config, families: &Families) -> CheckReport {
    let (mut findings, _, chains) = read(config, families);
    for (at, webhook) in config.webhooks.iter().enumerate() {
        findings.take(webhook.read(at));
    }
    findings.take(listen(config).await);
    let opened = config.journal.check().await;
    let open_error = opened.as_ref().err().map(ToString::to_string);
    findings.take(opened);
    let journal = inspect_journal(&config.journal, open_error.as_deref()).await;
    let mut networks = Vec::new();
    for chain in chains {
        let health = chain.health(SystemClock.now()).await;
        networks.push(NetworkReport {
            network: chain.network().clone(),
            can_settle: chain.can_settle(&health),
            health,
        });
    }
    let (problems, warnings, _) = findings.into_parts();
    CheckReport {
        problems,
        journal,
        networks,
        warnings,
    }
}

/// Listens on the configured address.
///
/// # Errors
/// When the operating system refuses the address.
pub async fn listen(config: &Config) -> Result<TcpListener, ConfigError> {
    let bound = TcpListener::bind(config.listen).await;
    bound.map_err(|error| ConfigError::io("listen", config.listen.to_string(), error))
}

/// What is wrong with an existing journal, whether or not a process has it open. Leaves out
/// `open_error`, which is reported already.
async fn inspect_journal(journal: &JournalPlace, open_error: Option<&str>) -> Vec<String> {
    match journal.inspect().await {
        Ok(found) => found,
        Err(error) => {
            let error = error.to_string();
            let is_reported = open_error.is_some_and(|known| known.contains(&error));
            Vec::from_iter((!is_reported).then_some(error))
        }
    }
}
