//! The clusters and tokens that ship with the library. A configuration can add any other.
//!
//! The tables are the files in `data/`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use quittance_core::Network;
use serde::Deserialize;

use crate::token::{Token, TokenProgram};

/// The namespace of Solana's clusters in CAIP-2.
pub(crate) const NAMESPACE: &str = "solana";

/// A token, as the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    mint: String,
    symbol: String,
    decimals: u8,
    program: TokenProgram,
}

static TOKENS: LazyLock<BTreeMap<String, Vec<Token>>> = LazyLock::new(|| {
    let rows: BTreeMap<String, Vec<Row>> = parse(include_str!("../data/tokens.json"));
    let token = |row: Row| {
        let mint = row.mint.parse().expect("a test reads every mint");
        Token::new(mint, &row.symbol, row.decimals, row.program)
    };
    let tokens = |rows: Vec<Row>| rows.into_iter().map(token).collect();
    rows.into_iter()
        .map(|(network, rows)| (network, tokens(rows)))
        .collect()
});

/// Version 1 names by CAIP-2 identifier: the first 32 characters of the genesis hash.
static ALIASES: LazyLock<BTreeMap<String, String>> =
    LazyLock::new(|| parse(include_str!("../data/aliases.json")));

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).expect("the file ships with this crate, and a test reads it")
}

/// The cluster with this CAIP-2 identifier or x402 version 1 name.
///
/// Any identifier in the namespace `solana` is a cluster. One that is not in the table has no
/// version 1 name.
pub fn network(name: &str) -> Option<Network> {
    let known = ALIASES
        .iter()
        .find(|(id, alias)| name == *id || name == *alias);
    match known {
        Some((id, alias)) => Some(Network::new(id).ok()?.with_alias(alias)),
        None => Network::new(name)
            .ok()
            .filter(|network| network.namespace() == NAMESPACE),
    }
}

/// The identifiers of all clusters with a known token.
pub fn networks() -> impl Iterator<Item = &'static str> {
    TOKENS.keys().map(String::as_str)
}

/// The known tokens of a cluster. The first is the default for prices.
pub fn tokens(network: &str) -> &'static [Token] {
    TOKENS.get(network).map_or(&[], Vec::as_slice)
}

/// The token of a cluster with this ticker or mint.
pub fn token(network: &str, name: &str) -> Option<&'static Token> {
    tokens(network)
        .iter()
        .find(|token| token.symbol.eq_ignore_ascii_case(name) || name.parse() == Ok(token.mint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_clusters_have_names_and_tokens() {
        assert_eq!(networks().count(), 3);
        for id in networks() {
            let network = network(id).unwrap();
            let alias = network.alias().unwrap();
            assert_eq!(super::network(alias), Some(network.clone()));
            assert_eq!(network.namespace(), NAMESPACE);
            assert_eq!(tokens(id)[0].symbol, "USDC", "{id}");
        }
    }

    #[test]
    fn unknown_cluster_is_a_network_without_tokens() {
        let local = network("solana:11111111111111111111111111111111").unwrap();
        assert_eq!(local.alias(), None);
        assert!(tokens(local.id()).is_empty());
        assert_eq!(network("eip155:1"), None);
        assert_eq!(network("solana-mainnet"), None);
    }

    #[test]
    fn tokens_are_found_by_ticker_in_any_case_or_by_mint() {
        let mainnet = network("solana").unwrap();
        let usdc = token(mainnet.id(), "usdc").unwrap();
        assert_eq!(token(mainnet.id(), &usdc.mint.to_string()), Some(usdc));
        assert_eq!(usdc.program, TokenProgram::SplToken);
        let pyusd = token(mainnet.id(), "PYUSD").unwrap();
        assert_eq!(pyusd.program, TokenProgram::Token2022);
        assert_eq!(token(mainnet.id(), "DOGE"), None);
    }
}
