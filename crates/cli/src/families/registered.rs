//! Families and chains behind one type each, so that the program can keep them in lists.

use async_trait::async_trait;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use figment::value::Dict;
use quittance_books::Ledger;
use quittance_core::{
    Chain, Fault, Health, Network, Offer, OfferError, Payer, PaymentRequest, SchemeState,
    StateSummary, Timestamp,
};
use quittance_engine::{EngineBuilder, scheme_problems};

use super::entry::{Common, Findings, ListedToken, NetworkEntry};
use super::{ChainWithSchemes, Family, HeldPayment, HoldAct, PayError};
use crate::bench::Case;
use crate::config::{self, Access, ConfigError, keys_of};

/// A [`Family`] of any types.
#[async_trait]
pub(crate) trait AnyFamily: Send + Sync {
    fn key(&self) -> &'static str;

    /// The variable with the payer's key.
    fn key_variable(&self) -> &'static str;

    /// All environment variables that `quittance pay` reads for this family, that of the key first.
    fn variables(&self) -> Vec<&'static str>;

    /// The chains of these tables, without those that have a problem.
    fn configure_all(
        &self,
        tables: &[Dict],
        access: &Access,
        findings: &mut Findings,
    ) -> Vec<Box<dyn ConfiguredChain>>;

    /// `quittance pay` or `quittance refund` with the options of this family.
    fn add_payer_args(&self, command: Command) -> Command;

    /// The payers of these options; none if there is no key for this family.
    fn payers(&self, matches: &ArgMatches) -> Result<Vec<Box<dyn Payer>>, PayError>;

    /// The payers of refunds with these options.
    fn refund_payers(&self, matches: &ArgMatches) -> Result<Vec<Box<dyn Payer>>, PayError>;

    /// What the payer of these options has locked up.
    fn locked(&self, matches: &ArgMatches) -> Option<Result<Vec<String>, PayError>>;

    fn token(&self, network: &str, asset: &str) -> Option<ListedToken>;

    fn refund_offer(
        &self,
        network: &str,
        asset: &str,
        amount: &str,
        pay_to: &str,
    ) -> Option<Result<Box<dyn Offer>, OfferError>>;

    async fn hold_request(
        &self,
        held: &HeldPayment<'_>,
        act: &HoldAct,
    ) -> Option<Result<PaymentRequest, PayError>>;

    fn summary(&self, state: &SchemeState, now: Timestamp) -> Option<StateSummary>;

    fn node_option(&self, network: &str) -> Option<String>;

    async fn benchmarks(&self) -> Result<Vec<Case>, Fault>;
}

#[async_trait]
impl<F: Family> AnyFamily for F {
    fn key(&self) -> &'static str {
        F::KEY
    }

    fn key_variable(&self) -> &'static str {
        F::KEY_VARIABLE
    }

    fn variables(&self) -> Vec<&'static str> {
        let mut variables = vec![F::KEY_VARIABLE];
        variables.extend(F::OTHER_VARIABLES);
        variables
    }

    fn configure_all(
        &self,
        tables: &[Dict],
        access: &Access,
        findings: &mut Findings,
    ) -> Vec<Box<dyn ConfiguredChain>> {
        let mut chains: Vec<Box<dyn ConfiguredChain>> = Vec::new();
        for (at, table) in tables.iter().enumerate() {
            let path = format!("{}[{at}]", F::KEY);
            let Some((common, own)) = decode::<F::Entry>(table, &path, findings) else {
                continue;
            };
            let network = self
                .network(&common.network)
                .map_err(|problem| ConfigError::value(format!("{path}.network"), problem))
                .and_then(|network| findings.add_network(network, &path));
            let Some(network) = findings.take(network) else {
                continue;
            };
            let entry = NetworkEntry::new(network, path, &common, &own, access);
            if let Some(configured) = self.configure(&entry, findings) {
                chains.push(Box::new(configured));
            }
        }
        chains
    }

    fn add_payer_args(&self, command: Command) -> Command {
        F::PayerArgs::augment_args(command)
    }

    fn payers(&self, matches: &ArgMatches) -> Result<Vec<Box<dyn Payer>>, PayError> {
        let args = F::PayerArgs::from_arg_matches(matches).map_err(PayError::payer)?;
        Family::payers(self, &args)
    }

    fn refund_payers(&self, matches: &ArgMatches) -> Result<Vec<Box<dyn Payer>>, PayError> {
        let args = F::PayerArgs::from_arg_matches(matches).map_err(PayError::payer)?;
        Family::refund_payers(self, &args)
    }

    fn locked(&self, matches: &ArgMatches) -> Option<Result<Vec<String>, PayError>> {
        match F::PayerArgs::from_arg_matches(matches) {
            Ok(args) => Family::locked(self, &args),
            Err(error) => Some(Err(PayError::payer(error))),
        }
    }

    fn token(&self, network: &str, asset: &str) -> Option<ListedToken> {
        Family::token(self, network, asset)
    }

    fn refund_offer(
        &self,
        network: &str,
        asset: &str,
        amount: &str,
        pay_to: &str,
    ) -> Option<Result<Box<dyn Offer>, OfferError>> {
        Family::refund_offer(self, network, asset, amount, pay_to)
    }

    async fn hold_request(
        &self,
        held: &HeldPayment<'_>,
        act: &HoldAct,
    ) -> Option<Result<PaymentRequest, PayError>> {
        Family::hold_request(self, held, act).await
    }

    fn summary(&self, state: &SchemeState, now: Timestamp) -> Option<StateSummary> {
        Family::summary(self, state, now)
    }

    fn node_option(&self, network: &str) -> Option<String> {
        Family::node_option(self, network)
    }

    async fn benchmarks(&self) -> Result<Vec<Case>, Fault> {
        Family::benchmarks(self).await
    }
}

/// The common and the family's own keys of a table. Every unknown key is reported.
fn decode<E: serde::de::DeserializeOwned>(
    table: &Dict,
    path: &str,
    findings: &mut Findings,
) -> Option<(Common, E)> {
    let (common_keys, own_keys) = (keys_of::<Common>(), keys_of::<E>());
    let (mut common, mut own) = (Dict::new(), Dict::new());
    let mut has_unknown_keys = false;
    for (key, value) in table {
        let part = if common_keys.contains(&key.as_str()) {
            &mut common
        } else if own_keys.contains(&key.as_str()) {
            &mut own
        } else {
            let known: Vec<&str> = common_keys.iter().chain(own_keys).copied().collect();
            findings.problem(config::unknown_key(path, key, &known));
            has_unknown_keys = true;
            continue;
        };
        part.insert(key.clone(), value.clone());
    }
    let common = findings.take(config::decode(common, path, &[]));
    let own = findings.take(config::decode(own, path, &[]));
    if has_unknown_keys {
        return None;
    }
    common.zip(own)
}

/// A configured chain of any family, with the schemes that are settled on it.
#[async_trait]
pub trait ConfiguredChain: Send + Sync {
    /// The network.
    fn network(&self) -> &Network;

    /// The health of the network, as the chain sees it now.
    async fn health(&self, now: Timestamp) -> Health;

    /// Whether any payment can be settled with this health: a lane and a token work.
    fn can_settle(&self, health: &Health) -> bool;

    /// What operators can know of a state record of one of the schemes. `None` if none of them can
    /// read it.
    fn summary(&self, state: &SchemeState, now: Timestamp) -> Option<StateSummary>;

    /// The chain's records, for a comparison with the books.
    fn ledger(&self) -> Option<&dyn Ledger>;

    /// The engine with this chain.
    fn add_to(self: Box<Self>, engine: EngineBuilder) -> EngineBuilder;
}

#[async_trait]
impl<C: Chain> ConfiguredChain for ChainWithSchemes<C> {
    fn network(&self) -> &Network {
        self.chain.network()
    }

    async fn health(&self, now: Timestamp) -> Health {
        let mut health = self.chain.health(now).await;
        if health.network_works() {
            let problems = scheme_problems(&self.chain, &self.schemes, &health).await;
            health.problems.extend(problems);
        }
        health
    }

    fn can_settle(&self, health: &Health) -> bool {
        let mut schemes = self.schemes.iter();
        health.can_send(self.chain.lanes())
            && schemes.any(|scheme| {
                let assets = scheme.assets();
                health.scheme_works(scheme.name())
                    && assets.iter().any(|asset| health.asset_works(asset))
            })
    }

    fn summary(&self, state: &SchemeState, now: Timestamp) -> Option<StateSummary> {
        let mut schemes = self.schemes.iter();
        let scheme = schemes.find(|scheme| scheme.name() == state.scheme)?;
        scheme.summary(state, now)
    }

    fn ledger(&self) -> Option<&dyn Ledger> {
        self.ledger.as_deref()
    }

    fn add_to(self: Box<Self>, engine: EngineBuilder) -> EngineBuilder {
        engine.chain(self.chain, self.schemes)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::Config;
    use crate::families::Families;

    /// Runs `test` with the only table of a configuration, of this family.
    pub(in super::super) fn with_entry<F: Family + Copy, T>(
        family: F,
        text: &str,
        test: impl FnOnce(&NetworkEntry<'_, F::Entry>) -> T,
    ) -> T {
        let config = Config::parse(text, &Families::default().with(family)).unwrap();
        let (path, mut findings) = (format!("{}[0]", F::KEY), Findings::default());
        let decoded = decode::<F::Entry>(&config.networks.tables(F::KEY)[0], &path, &mut findings);
        let Some((common, own)) = decoded else {
            panic!("{findings:?}")
        };
        let network = family.network(&common.network).unwrap();
        test(&NetworkEntry::new(
            network,
            path,
            &common,
            &own,
            &config.access,
        ))
    }
}
