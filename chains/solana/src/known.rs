//! Networks and tokens that ship with the library. A configuration can add any other.

use quittance_core::Network;
use solana_pubkey::Pubkey;

use crate::token::{Token, TokenProgram};

/// The namespace of Solana's clusters in CAIP-2.
pub(crate) const NAMESPACE: &str = "solana";

/// Clusters by CAIP-2 identifier (the first 32 letters of the genesis hash) and version 1 name.
const NETWORKS: [(&str, &str); 3] = [
    ("solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "solana"),
    ("solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1", "solana-devnet"),
    ("solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z", "solana-testnet"),
];

/// Tokens by network, mint, ticker, decimal places and program.
const TOKENS: [(&str, &str, &str, u8, TokenProgram); 7] = [
    (
        NETWORKS[0].0,
        "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v",
        "USDC",
        6,
        TokenProgram::SplToken,
    ),
    (
        NETWORKS[0].0,
        "Es9vMFrzaCERmJfrF4H2FYD4KCoNkY11McCe8BenwNYB",
        "USDT",
        6,
        TokenProgram::SplToken,
    ),
    (
        NETWORKS[0].0,
        "2u1tszSeqZ3qBWF3uNGPFc8TzMk2tdiwknnRMWGWjGWH",
        "USDG",
        6,
        TokenProgram::Token2022,
    ),
    (
        NETWORKS[0].0,
        "2b1kV6DkPAnxd5ixfnxCpjxmKwqjjaYmCZfHsFu24GXo",
        "PYUSD",
        6,
        TokenProgram::Token2022,
    ),
    (
        NETWORKS[0].0,
        "CASHx9KJUStyftLFWGvEVf59SGeG9sh5FfcnZMVPCASH",
        "CASH",
        6,
        TokenProgram::Token2022,
    ),
    (
        NETWORKS[1].0,
        "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
        "USDC",
        6,
        TokenProgram::SplToken,
    ),
    (
        NETWORKS[2].0,
        "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
        "USDC",
        6,
        TokenProgram::SplToken,
    ),
];

/// A cluster that ships with the library by its CAIP-2 identifier or its version 1 name, and any other by the former.
pub fn network(name: &str) -> Option<Network> {
    let known = NETWORKS
        .iter()
        .find(|(id, alias)| name == *id || name == *alias);
    match known {
        Some((id, alias)) => Some(Network::new(id).ok()?.with_alias(alias)),
        None => Network::new(name)
            .ok()
            .filter(|network| network.namespace() == NAMESPACE),
    }
}

/// The tokens on the cluster with this CAIP-2 identifier.
pub fn tokens(network: &str) -> Vec<Token> {
    let of_network = TOKENS.iter().filter(|(of, ..)| *of == network);
    of_network
        .map(|(_, mint, symbol, decimals, program)| {
            Token::new(Pubkey::from_str_const(mint), symbol, *decimals, *program)
        })
        .collect()
}

/// One token of a cluster by its ticker.
pub fn token(network: &str, symbol: &str) -> Option<Token> {
    tokens(network)
        .into_iter()
        .find(|token| token.symbol == symbol)
}
