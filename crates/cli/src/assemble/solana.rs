//! The Solana clusters of a configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quittance_core::{Amount, Network};
use quittance_engine::Rules;
use quittance_solana::{
    Keypair, Pubkey, Signer, SmartWallets, Solana, SolanaConfig, Token, TokenProgram, known,
};
use secrecy::ExposeSecret;

use super::{
    Listed, Problems, Restrictions, all, amounts_by_token, not_an_address, rpc_urls, tokens_of,
};
use crate::config::{self, ConfigError, Secret, SolanaNetwork, SolanaToken};

pub(super) fn network(entry: &SolanaNetwork, field: &str) -> Result<Network, ConfigError> {
    let unknown = || {
        ConfigError::value(
            format!("{field}.network"),
            format_args!(
                "{:?} is not a Solana cluster: write solana, solana-devnet, solana-testnet, or a CAIP-2 identifier",
                entry.network
            ),
        )
    };
    known::network(&entry.network).ok_or_else(unknown)
}

pub(super) fn chain(
    entry: &SolanaNetwork,
    network: Network,
    field: &str,
    rules: &mut Rules,
    problems: &mut Problems,
) -> Option<Solana> {
    let urls = rpc_urls(&entry.rpc, field, problems);
    let fee_payers = fee_payers(entry, field, problems);
    let tokens = problems.take(tokens(entry, &network, field));
    let head_age_max = problems.take(head_age_max(entry, field));
    let smart_wallets = entry.smart_wallets.as_ref();
    let smart_wallets = smart_wallets.map(|entry| smart_wallets_of(entry, field));
    let smart_wallets = problems.take(smart_wallets.transpose());
    let mut config = SolanaConfig::new(network, urls?, fee_payers?);
    config.tokens = tokens?;
    config.commitment = entry.commitment.into();
    config.smart_wallets = smart_wallets?;
    config.guards_of_fee_payers = entry.guards_of_fee_payers;
    config.head_age_max = head_age_max?.unwrap_or(config.head_age_max);
    if let Some(genesis) = &entry.genesis {
        config.genesis.clone_from(genesis);
    }
    config.compute_units_max = entry.max_compute_units.unwrap_or(config.compute_units_max);
    config.compute_unit_price_max = entry
        .max_compute_unit_price
        .unwrap_or(config.compute_unit_price_max);
    config.fee_max = entry.max_fee_lamports.unwrap_or(config.fee_max);
    config.balance_min = entry.min_balance_lamports.unwrap_or(config.balance_min);
    config.two_nodes_above = problems.take(two_nodes_above(entry, &config, field))?;
    let without_min = problems.take(add_rules(entry, &config, field, rules))?;
    if !without_min.is_empty() {
        problems.warnings.push(format!(
            "{}: no smallest amount is set for {}: a payment of one atomic unit may cost up to {} lamports in fees. Set \
             {field}.min_amounts, such as {{ {} = \"0.01\" }}, or lower {field}.max_fee_lamports",
            config.network,
            without_min.join(", "),
            config.fee_highest(),
            without_min[0],
        ));
    }
    problems.take(Solana::new(config).map_err(|error| ConfigError::value(field, error)))
}

fn smart_wallets_of(
    entry: &config::SmartWallets,
    field: &str,
) -> Result<SmartWallets, ConfigError> {
    let mut wallets = SmartWallets::default();
    if let Some(programs) = &entry.programs {
        let address = |(at, text): (usize, &String)| {
            let field = || format!("{field}.smart_wallets.programs[{at}]");
            text.parse().map_err(|_| not_an_address(field(), text))
        };
        wallets.programs = programs
            .iter()
            .enumerate()
            .map(address)
            .collect::<Result<_, _>>()?;
    }
    wallets.compute_units_max = entry.max_compute_units.unwrap_or(wallets.compute_units_max);
    wallets.compute_unit_price_max = entry
        .max_compute_unit_price
        .unwrap_or(wallets.compute_unit_price_max);
    Ok(wallets)
}

fn fee_payers(entry: &SolanaNetwork, field: &str, problems: &mut Problems) -> Option<Vec<Signer>> {
    let read = |(at, secret): (usize, &Secret)| {
        let field = format!("{field}.fee_payers[{at}]");
        let key = secret.read(&field)?;
        let keypair =
            keypair(key.expose_secret()).ok_or_else(|| ConfigError::value(field, NOT_A_KEYPAIR))?;
        Ok(Arc::new(keypair) as Signer)
    };
    all(entry.fee_payers.iter().enumerate().map(read), problems)
}

/// What is said of a text that is no keypair. Quotes nothing: it may be a key with a letter missing.
const NOT_A_KEYPAIR: &str =
    "not a keypair: 64 bytes in base58, or the JSON list that solana-keygen writes";

/// A keypair as people keep it: 64 bytes, in base58 as wallets export them, or as the JSON list of numbers that `solana-keygen`
/// writes. `None` for anything else, and where the halves do not belong together.
pub fn keypair(text: &str) -> Option<Keypair> {
    if text.trim_start().starts_with('[') {
        let bytes: Vec<u8> = serde_json::from_str(text).ok()?;
        return Keypair::try_from(bytes.as_slice()).ok();
    }
    Keypair::try_from_base58_string(text).ok()
}

/// A cluster that is well makes a block in every half second: there is none of which this would not be known.
fn head_age_max(entry: &SolanaNetwork, field: &str) -> Result<Option<Duration>, ConfigError> {
    match entry.max_head_age_secs {
        Some(0) => Err(ConfigError::value(
            format!("{field}.max_head_age_secs"),
            "must be at least 1",
        )),
        secs => Ok(secs.map(Duration::from_secs)),
    }
}

/// The listed tokens of those that ship with the library, and those that are described here. Where none is listed, those of
/// SPL Token: issuers of Token-2022 can do to a payment what somebody must have said is accepted.
fn tokens(
    entry: &SolanaNetwork,
    network: &Network,
    field: &str,
) -> Result<Vec<Token>, ConfigError> {
    let described = entry.tokens.iter().enumerate();
    let described: Result<_, _> = described
        .map(|(at, described)| token(described, &format!("{field}.tokens[{at}]")))
        .collect();
    let is = |token: &Token, name: &str| {
        token.symbol.eq_ignore_ascii_case(name) || name.parse() == Ok(token.mint)
    };
    let is_same = |one: &Token, other: &Token| one.mint == other.mint;
    let named = entry.assets.as_deref();
    let mut shipped = known::tokens(network.id());
    shipped.retain(|token| named.is_some() || token.program == TokenProgram::SplToken);
    tokens_of(described?, named, shipped, is, is_same, network, field)
}

fn token(described: &SolanaToken, field: &str) -> Result<Token, ConfigError> {
    let SolanaToken {
        mint,
        symbol,
        decimals,
        program,
        allow,
    } = described;
    let parsed = mint.parse();
    let mint = parsed.map_err(|_| not_an_address(format!("{field}.mint"), mint))?;
    let mut token = Token::new(mint, symbol, *decimals, *program);
    token.allowed.clone_from(allow);
    Ok(token)
}

fn add_rules(
    entry: &SolanaNetwork,
    config: &SolanaConfig,
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
fn listed(config: &SolanaConfig) -> Vec<Listed<'_>> {
    let listed = config.tokens.iter().map(|token| Listed {
        address: token.mint.to_string(),
        symbol: &token.symbol,
        decimals: token.decimals,
    });
    listed.collect()
}

/// An address as the chain spells it.
fn canonical(text: &str) -> Option<String> {
    Some(text.parse::<Pubkey>().ok()?.to_string())
}

/// Above which amounts two nodes must agree.
fn two_nodes_above(
    entry: &SolanaNetwork,
    config: &SolanaConfig,
    field: &str,
) -> Result<BTreeMap<Pubkey, u64>, ConfigError> {
    let (field, tokens) = (format!("{field}.two_nodes_above"), listed(config));
    let amounts = amounts_by_token(&entry.two_nodes_above, &field, &tokens, canonical)?;
    let bound = |(token, amount): (&Listed<'_>, Amount)| {
        // No token has more than a u64 can say.
        Some((token.address.parse().ok()?, amount.units().saturating_to()))
    };
    Ok(amounts.into_iter().filter_map(bound).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_keypair_is_read_as_wallets_and_as_the_command_line_tools_write_it() {
        let key = Keypair::new_from_array([7; 32]);
        let base58 = key.to_base58_string();
        let json = serde_json::to_string(key.to_bytes().as_slice()).unwrap();
        for text in [&base58, &json] {
            assert_eq!(keypair(text).as_ref(), Some(&key));
        }
        let mut torn = key.to_bytes();
        torn[63] ^= 1;
        let torn = serde_json::to_string(torn.as_slice()).unwrap();
        for text in ["", "[]", "[1,2]", "0xac09", &base58[..80], torn.as_str()] {
            assert!(keypair(text).is_none(), "{text:?}");
        }
    }

    fn mainnet(more: &str) -> Config {
        let text = format!(
            "access.anyone = true\n[[solana]]\nnetwork = \"solana\"\nrpc = []\nfee_payers = []\n{more}"
        );
        Config::parse(&text).unwrap()
    }

    #[test]
    fn tokens_of_token_2022_are_settled_only_where_they_are_named() {
        let symbols = |more: &str| -> Vec<String> {
            let network = known::network("solana").unwrap();
            let tokens = tokens(&mainnet(more).solana[0], &network, "solana[0]").unwrap();
            tokens.into_iter().map(|token| token.symbol).collect()
        };
        assert_eq!(symbols(""), ["USDC", "USDT"]);
        assert_eq!(symbols("assets = [\"pyusd\"]"), ["PYUSD"]);
        let described = "tokens = [{ mint = \"2b1kV6DkPAnxd5ixfnxCpjxmKwqjjaYmCZfHsFu24GXo\", symbol = \"P\", decimals = 6, program = \"token-2022\" }]";
        assert_eq!(symbols(described), ["P", "USDC", "USDT"]);
    }

    #[test]
    fn smart_wallets_are_those_of_the_specification_unless_others_are_named() {
        let wallets = |more: &str| {
            let config = mainnet(more);
            let entry = config.solana[0].smart_wallets.as_ref();
            entry.map(|entry| smart_wallets_of(entry, "solana[0]"))
        };
        assert!(wallets("").is_none());
        let all = wallets("smart_wallets = {}").unwrap().unwrap();
        assert_eq!(all, SmartWallets::default());
        let squads = "SQDS4ep65T869zMMBKyuUq6aD6EgTu8psMjkvj52pCf";
        let one = format!("smart_wallets = {{ programs = [\"{squads}\"], max_compute_units = 7 }}");
        let one = wallets(&one).unwrap().unwrap();
        assert_eq!(one.programs, [squads.parse().unwrap()]);
        assert_eq!(one.compute_units_max, 7);
        assert_eq!(one.compute_unit_price_max, all.compute_unit_price_max);
        let wrong = wallets("smart_wallets = { programs = [\"0xaa\"] }").unwrap();
        let wrong = wrong.unwrap_err().to_string();
        assert!(
            wrong.starts_with("solana[0].smart_wallets.programs[0]"),
            "{wrong}"
        );
    }

    #[test]
    fn restrictions_are_read_as_the_chain_spells_them() {
        let config = mainnet(
            "recipients = [\"2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4\"]\nmin_amounts = { usdc = \"0.001\" }",
        );
        let network = known::network("solana").unwrap();
        let mut solana = SolanaConfig::new(network.clone(), Vec::new(), Vec::new());
        solana.tokens = known::tokens(network.id());
        let mut rules = Rules::default();
        add_rules(&config.solana[0], &solana, "solana[0]", &mut rules).unwrap();
        let recipients = &rules.recipients[network.id()];
        assert!(recipients.contains("2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4"));
        let usdc = known::token(network.id(), "USDC").unwrap().mint.to_string();
        let key = (network.id().to_owned(), usdc);
        assert_eq!(rules.amounts_min[&key].to_string(), "1000");
        for (more, field) in [
            ("recipients = [\"0xaa\"]", "solana[0].recipients"),
            (
                "min_amounts = { DOGE = \"1\" }",
                "solana[0].min_amounts.DOGE",
            ),
            (
                "min_amounts = { USDC = \"0.0000001\" }",
                "solana[0].min_amounts.USDC",
            ),
        ] {
            let entry = &mainnet(more).solana[0];
            let error = add_rules(entry, &solana, "solana[0]", &mut rules).unwrap_err();
            assert!(error.to_string().starts_with(field), "{error}");
        }
    }
}
