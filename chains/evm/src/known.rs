//! Networks and assets that ship with the library. They are data, in `data/`; a configuration can add any other.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use alloy::primitives::Address;
use quittance_core::Network;
use serde::{Deserialize, Serialize};

/// A token, as a payment's signature and a price need to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// The contract.
    #[serde(rename = "asset")]
    pub address: Address,
    /// The name in the token's EIP-712 domain; not always the one people read.
    pub name: String,
    /// The version in the token's EIP-712 domain.
    pub version: String,
    /// How many decimal places people write it with.
    pub decimals: u8,
    /// Its ticker.
    pub symbol: String,
    /// How the token is moved on behalf of its owner.
    #[serde(default, rename = "assetTransferMethod")]
    pub method: TransferMethod,
    /// Whether the token itself takes signed approvals (EIP-2612).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub supports_eip2612: bool,
}

/// How a token is moved on behalf of its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransferMethod {
    /// The token itself takes signed transfers (EIP-3009).
    #[default]
    Eip3009,
    /// Through the Permit2 contract.
    Permit2,
}

/// Tokens by network, as the files have them.
type Tokens = BTreeMap<String, Vec<Token>>;

static TOKENS: LazyLock<Tokens> = LazyLock::new(|| {
    // The first file is the table the reference implementation ships; the second adds what it lacks.
    let mut tokens = read(include_str!("../data/assets.json"));
    tokens.extend(read(include_str!("../data/more-assets.json")));
    tokens
});

static ALIASES: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../data/aliases.json")).expect("a file of this crate")
});

fn read(text: &str) -> Tokens {
    serde_json::from_str(text).expect("a file of this crate")
}

/// The network with this CAIP-2 identifier or version 1 name, with both. Any EIP-155 chain has an identifier, so one
/// that is not in the tables is a network too, without a version 1 name.
pub fn network(name: &str) -> Option<Network> {
    let id = ALIASES
        .iter()
        .find(|(_, alias)| *alias == name)
        .map_or(name, |(id, _)| id);
    let network = Network::new(id)
        .ok()
        .filter(|network| chain_id(network).is_some())?;
    Some(match ALIASES.get(id) {
        Some(alias) => network.with_alias(alias),
        None => network,
    })
}

/// The identifiers of all networks with a known token.
pub fn networks() -> impl Iterator<Item = &'static str> {
    TOKENS.keys().map(String::as_str)
}

/// The known tokens of a network, the one prices mean by default first.
pub fn tokens(network: &str) -> &'static [Token] {
    TOKENS.get(network).map_or(&[], Vec::as_slice)
}

/// The token of a network with this ticker or address.
pub fn token(network: &str, name: &str) -> Option<&'static Token> {
    tokens(network)
        .iter()
        .find(|token| token.symbol.eq_ignore_ascii_case(name) || name.parse() == Ok(token.address))
}

/// The EIP-155 chain id of a network; `None` for a network of another family.
pub fn chain_id(network: &Network) -> Option<u64> {
    let reference = network.reference();
    let canonical =
        !reference.starts_with('0') && reference.bytes().all(|byte| byte.is_ascii_digit());
    (network.namespace() == "eip155" && canonical).then(|| reference.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_network_is_an_eip155_chain_with_a_token() {
        assert!(networks().count() >= 30);
        for id in networks() {
            assert!(chain_id(&network(id).unwrap()).is_some(), "{id}");
            assert!(!tokens(id).is_empty(), "{id}");
        }
        for alias in [
            "base",
            "base-sepolia",
            "polygon",
            "avalanche",
            "sei",
            "iotex",
            "xdc",
        ] {
            assert!(!tokens(network(alias).unwrap().id()).is_empty(), "{alias}");
        }
    }

    #[test]
    fn an_unknown_chain_is_a_network_and_an_unknown_name_is_not() {
        assert_eq!(network("eip155:31337").unwrap().alias(), None);
        for name in [
            "base-mainnet",
            "solana:mainnet",
            "eip155:",
            "eip155:0x1",
            "eip155:01",
            "eip155:99999999999999999999999",
        ] {
            assert!(network(name).is_none(), "{name}");
        }
    }

    #[test]
    fn tokens_are_found_by_ticker_and_by_address_in_any_case() {
        let usdc = token("eip155:8453", "usdc").unwrap();
        assert_eq!(
            token("eip155:8453", &format!("{:#x}", usdc.address)),
            Some(usdc)
        );
        assert_eq!(token("eip155:8453", "USDT"), None);
    }
}
