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
    /// Whether the token logs `AuthorizationUsed` right before the `Transfer` it makes for it, as Circle's FiatToken does.
    /// Then equal payments can share a transaction, because the nonce says whose a transfer is. To be said only of a token
    /// whose source shows it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub logs_authorization_first: bool,
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

/// The most that is paid for gas on a network, where the operator says nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FeeLimits {
    /// For a unit of gas in all, in gwei.
    pub max_gas_price_gwei: u64,
    /// For a unit of gas to the block's producer, in gwei. A base fee is what the chain says it is;
    /// a tip is what a node suggests, and is paid in full.
    pub max_tip_gwei: u64,
}

/// What holds on networks that the file does not name: some hundred times what most chains ask on
/// an ordinary day, Ethereum's bad days included.
const FEE_LIMITS: FeeLimits = FeeLimits {
    max_gas_price_gwei: 500,
    max_tip_gwei: 100,
};

/// Those that differ: a hundred times and more of an ordinary day's price there, and never under
/// what the network's own rules ask as a minimum (Polygon 25 gwei of tip, IoTeX 1,000 gwei in all).
static FEE_LIMITS_BY_NETWORK: LazyLock<BTreeMap<String, FeeLimits>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../data/fees.json")).expect("a file of this crate")
});

/// The most that is paid for gas on a network, where the operator says nothing else.
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

    /// Circle publishes the source (`EIP3009.sol`: `_markAuthorizationAsUsed`, then `_transfer`) and the addresses of its own
    /// contracts. What others have deployed from that source or another may differ, and keeps the stricter rule.
    #[test]
    fn only_circles_own_contracts_are_known_to_log_in_order() {
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
        }
        let bridged = token("eip155:4689", "USDC.e").unwrap();
        let tether = token("eip155:988", "USDT0").unwrap();
        assert!(!bridged.logs_authorization_first && !tether.logs_authorization_first);
    }

    /// Networks with a native USDC on Circle's page "USDC contract addresses".
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
    fn every_limit_of_fees_is_one_and_of_a_known_network() {
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
