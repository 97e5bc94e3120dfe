//! The EVM networks of a configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, U256};
use alloy::signers::local::PrivateKeySigner;
use quittance_core::{Amount, Network};
use quittance_engine::Rules;
use quittance_evm::{Evm, EvmConfig, Signer, Token, TransferMethod, known};
use secrecy::ExposeSecret;

use super::{
    Listed, Problems, Restrictions, all, amounts_by_token, not_an_address, rpc_urls, tokens_of,
};
use crate::config::{Access, ConfigError, EvmNetwork, EvmToken, Secret};

/// Wei in a gwei.
const GWEI: u128 = 1_000_000_000;

pub(super) fn network(entry: &EvmNetwork, field: &str) -> Result<Network, ConfigError> {
    let unknown = || {
        ConfigError::value(
            format!("{field}.network"),
            format_args!(
                "{:?} is not an EVM network: write eip155: and the chain id, or a known name such as base",
                entry.network
            ),
        )
    };
    known::network(&entry.network).ok_or_else(unknown)
}

pub(super) fn chain(
    entry: &EvmNetwork,
    network: Network,
    access: &Access,
    field: &str,
    rules: &mut Rules,
    problems: &mut Problems,
) -> Option<Evm> {
    let urls = rpc_urls(&entry.rpc, field, problems);
    let signers = signers(entry, field, problems);
    let tokens = problems.take(tokens(entry, &network, field));
    let mut config = EvmConfig::new(network, urls?, signers?);
    config.tokens = tokens?;
    config.confirmations_required = entry.confirmations;
    config.final_confirmations = entry
        .final_confirmations
        .unwrap_or(config.final_confirmations);
    config.final_after = entry
        .final_secs
        .map_or(config.final_after, Duration::from_secs);
    if let Some(gwei) = entry.max_gas_price_gwei {
        config.gas_price_max = u128::from(gwei) * GWEI;
    }
    if let Some(gwei) = entry.max_tip_gwei {
        config.tip_max = u128::from(gwei) * GWEI;
    }
    config.gas_per_payment_max = entry
        .max_gas_per_payment
        .unwrap_or(config.gas_per_payment_max);
    config.max_batch = entry.max_batch.unwrap_or(config.max_batch).max(1);
    config.contract_wallets = entry.contract_wallets.unwrap_or(config.contract_wallets);
    if let Some(secs) = entry.max_head_age_secs {
        config.head_age_max = (secs > 0).then(|| Duration::from_secs(secs));
    }
    config.balance_min = entry
        .min_balance_wei
        .map(|amount| U256::from(amount.units()));
    config.two_nodes_above = problems.take(two_nodes_above(entry, &config, field))?;
    let without_min = problems.take(add_rules(entry, &config, field, rules))?;
    if access.anyone && !without_min.is_empty() {
        problems.warnings.push(format!(
            "{}: anyone may call, and no smallest amount is set for {}: a payment of one atomic unit costs as much gas as any \
             other. Set {field}.min_amounts, such as {{ {} = \"0.001\" }}",
            config.network,
            without_min.join(", "),
            without_min[0],
        ));
    }
    problems.take(Evm::new(config).map_err(|error| ConfigError::value(field, error)))
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
    let described = entry.tokens.iter().enumerate();
    let described: Result<_, _> = described
        .map(|(at, described)| token(described, &format!("{field}.tokens[{at}]")))
        .collect();
    let is = |token: &Token, name: &str| known::token(network.id(), name) == Some(token);
    let is_same = |one: &Token, other: &Token| one.address == other.address;
    let shipped = known::tokens(network.id()).to_vec();
    let named = entry.assets.as_deref();
    tokens_of(described?, named, shipped, is, is_same, network, field)
}

fn token(described: &EvmToken, field: &str) -> Result<Token, ConfigError> {
    let EvmToken {
        address,
        name,
        version,
        decimals,
        symbol,
        logs_authorization_first,
    } = described.clone();
    let parsed = address.parse();
    Ok(Token {
        address: parsed.map_err(|_| not_an_address(format!("{field}.address"), &address))?,
        name,
        version,
        decimals,
        symbol,
        method: TransferMethod::Eip3009,
        supports_eip2612: false,
        logs_authorization_first,
    })
}

fn add_rules(
    entry: &EvmNetwork,
    config: &EvmConfig,
    field: &str,
    rules: &mut Rules,
) -> Result<Vec<String>, ConfigError> {
    let restrictions = Restrictions {
        network: &config.network,
        field,
        recipients: entry.recipients.as_deref(),
        min_amounts: &entry.min_amounts,
    };
    let tokens = listed(config);
    restrictions.add_to(rules, &tokens, canonical)?;
    Ok(restrictions.without_min(rules, &tokens))
}

/// The tokens of a configuration.
fn listed(config: &EvmConfig) -> Vec<Listed<'_>> {
    let listed = config.tokens.iter().map(|token| Listed {
        address: token.address.to_checksum(None),
        symbol: &token.symbol,
        decimals: token.decimals,
    });
    listed.collect()
}

/// An address as the chain spells it.
fn canonical(text: &str) -> Option<String> {
    let address: Address = text.parse().ok()?;
    Some(address.to_checksum(None))
}

/// Above which amounts two nodes must agree.
fn two_nodes_above(
    entry: &EvmNetwork,
    config: &EvmConfig,
    field: &str,
) -> Result<BTreeMap<Address, U256>, ConfigError> {
    let (field, tokens) = (format!("{field}.two_nodes_above"), listed(config));
    let amounts = amounts_by_token(&entry.two_nodes_above, &field, &tokens, canonical)?;
    let bound = |(token, amount): (&Listed<'_>, Amount)| {
        let address = token.address.parse().ok()?;
        Some((address, amount.units()))
    };
    Ok(amounts.into_iter().filter_map(bound).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// It held for the first token of that ticker; the other was settled from one atomic unit on.
    #[test]
    fn a_smallest_amount_by_ticker_holds_for_every_token_of_that_ticker() {
        let other = "0x00000000000000000000000000000000000000aa";
        let rules_of = |more: &str| {
            let text = format!(
                "[[evm]]\nnetwork = \"base-sepolia\"\nrpc = []\nsigners = []\n\
                 tokens = [{{ address = {other:?}, name = \"X\", version = \"1\", decimals = 18, symbol = \"usdc\" }}]\n{more}"
            );
            let config = Config::parse(&text).unwrap();
            let network = known::network("base-sepolia").unwrap();
            let mut evm = EvmConfig::new(network.clone(), Vec::new(), Vec::new());
            evm.tokens = tokens(&config.evm[0], &network, "evm[0]").unwrap();
            let mut rules = Rules::default();
            let unset = add_rules(&config.evm[0], &evm, "evm[0]", &mut rules).unwrap();
            let key = |address: Address| (network.id().to_owned(), address.to_checksum(None));
            let usdc = known::token(network.id(), "USDC").unwrap().address;
            let least = |address| {
                rules
                    .amounts_min
                    .get(&key(address))
                    .map(ToString::to_string)
            };
            (least(usdc), least(other.parse().unwrap()), unset)
        };
        let (usdc, other_usdc, unset) = rules_of("min_amounts = { USDC = \"0.01\" }");
        assert_eq!(usdc.as_deref(), Some("10000"));
        assert_eq!(other_usdc.as_deref(), Some("10000000000000000"));
        assert!(
            unset
                .iter()
                .all(|ticker| !ticker.eq_ignore_ascii_case("usdc"))
        );
        // By address it holds for one of them; and of two rules for one token the stricter holds.
        let both = format!("min_amounts = {{ {other:?} = \"1\", USDC = \"0.01\" }}");
        assert_eq!(rules_of(&both).1.as_deref(), Some("1000000000000000000"));
        let (usdc, _, unset) = rules_of(&format!("min_amounts = {{ {other:?} = \"1\" }}"));
        assert_eq!(usdc, None);
        assert!(unset.contains(&"USDC".to_owned()), "{unset:?}");
    }
}
