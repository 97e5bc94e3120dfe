//! The networks and tokens that ship with the library. A configuration can add any other.
//!
//! The tables are the files in `data/`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use quittance_core::Network;
use serde::Deserialize;

use crate::token::Token;

/// Tokens by network, as the files have them.
type Tokens = BTreeMap<String, Vec<Token>>;

static TOKENS: LazyLock<Tokens> = LazyLock::new(|| {
    // The first file is the table of the reference implementation; the second adds other tokens.
    let mut tokens = parse(include_str!("../data/assets.json"));
    tokens.extend(parse(include_str!("../data/more-assets.json")));
    tokens
});

static ALIASES: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../data/aliases.json"))
        .expect("the file ships with this crate, and a test reads it")
});

fn parse(text: &str) -> Tokens {
    serde_json::from_str(text).expect("the file ships with this crate, and a test reads it")
}

/// The network with this CAIP-2 identifier or x402 version 1 name.
///
/// The identifier of any EIP-155 chain is a network. One that is not in the table has no version 1
/// name.
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

/// The known tokens of a network. The first is the default for prices.
pub fn tokens(network: &str) -> &'static [Token] {
    TOKENS.get(network).map_or(&[], Vec::as_slice)
}

/// The token of a network with this ticker or address.
pub fn token(network: &str, name: &str) -> Option<&'static Token> {
    tokens(network)
        .iter()
        .find(|token| token.symbol.eq_ignore_ascii_case(name) || name.parse() == Ok(token.address))
}

/// The highest gas prices that are paid on a network, unless the operator sets others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct FeeLimits {
    /// The highest price of a unit of gas, tip included, in gwei.
    pub max_gas_price_gwei: u64,
    /// The highest tip to the block's producer, in gwei per unit of gas. The chain sets the base
    /// fee, but a node suggests the tip, which is paid in full.
    pub max_tip_gwei: u64,
}

/// The limits of networks that the file does not name: a hundred times the ordinary price of most
/// chains. Ethereum's expensive days are below them.
const FEE_LIMITS: FeeLimits = FeeLimits {
    max_gas_price_gwei: 500,
    max_tip_gwei: 100,
};

/// The limits of networks that differ from the default. Each is at least a hundred times the
/// ordinary price, and never below the network's minimum (Polygon: 25 gwei of tip, IoTeX: 1,000
/// gwei in all).
static FEE_LIMITS_BY_NETWORK: LazyLock<BTreeMap<String, FeeLimits>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../data/fees.json"))
        .expect("the file ships with this crate, and a test reads it")
});

/// The highest gas prices that are paid on a network, unless the operator sets others.
pub fn fee_limits(network: &str) -> FeeLimits {
    let known = FEE_LIMITS_BY_NETWORK.get(network);
    known.copied().unwrap_or(FEE_LIMITS)
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
    use crate::token::TransferMethod;

    #[test]
    fn known_networks_are_eip155_chains_with_tokens() {
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

    /// Circle publishes the source (`EIP3009.sol`: `_markAuthorizationAsUsed`, then `_transfer`)
    /// and the addresses of its own contracts. Contracts of others may differ, so the stricter rule
    /// holds for them.
    #[test]
    fn only_contracts_of_circle_log_authorization_first() {
        let in_order = networks().flat_map(|id| {
            let tokens = tokens(id).iter();
            tokens
                .filter(|token| token.logs_authorization_first)
                .map(move |token| (id, token))
        });
        let mut found = 0;
        for (id, token) in in_order {
            let is_fiat_token = token.symbol == "USDC" && token.version == "2";
            assert!(
                is_fiat_token && token.method == TransferMethod::Eip3009,
                "{id}"
            );
            found += 1;
        }
        assert_eq!(found, CIRCLES_OWN.len());
        for id in CIRCLES_OWN {
            assert!(tokens(id)[0].logs_authorization_first, "{id}");
            // `EIP2612.sol` of the same source.
            assert!(tokens(id)[0].supports_eip2612, "{id}");
        }
        let bridged = token("eip155:4689", "USDC.e").unwrap();
        let tether = token("eip155:988", "USDT0").unwrap();
        assert!(!bridged.logs_authorization_first && !tether.logs_authorization_first);
    }

    /// The networks with a native USDC, by Circle's page "USDC contract addresses".
    const CIRCLES_OWN: [&str; 16] = [
        "eip155:1",
        "eip155:8453",
        "eip155:84532",
        "eip155:43114",
        "eip155:43113",
        "eip155:137",
        "eip155:80002",
        "eip155:42161",
        "eip155:421614",
        "eip155:42220",
        "eip155:11142220",
        "eip155:1329",
        "eip155:1328",
        "eip155:143",
        "eip155:50",
        "eip155:51",
    ];

    #[test]
    fn fee_limits_are_consistent_and_of_known_networks() {
        for (id, limits) in &*FEE_LIMITS_BY_NETWORK {
            assert!(
                !tokens(id).is_empty() || network(id).unwrap().alias().is_some(),
                "{id}"
            );
            assert!(0 < limits.max_tip_gwei, "{id}");
            assert!(limits.max_tip_gwei < limits.max_gas_price_gwei, "{id}");
        }
        assert_eq!(fee_limits("eip155:31337"), FEE_LIMITS);
        assert_eq!(fee_limits("eip155:8453").max_tip_gwei, 1);
    }

    #[test]
    fn unknown_chain_id_is_a_network_and_unknown_name_is_not() {
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
    fn tokens_are_found_by_ticker_or_address_in_any_case() {
        let usdc = token("eip155:8453", "usdc").unwrap();
        assert_eq!(
            token("eip155:8453", &format!("{:#x}", usdc.address)),
            Some(usdc)
        );
        assert_eq!(token("eip155:8453", "USDT"), None);
    }
}
