//! Networks and tokens that ship with the library. A configuration can add any other.

use std::collections::BTreeSet;
use std::fmt;

use quittance_core::Network;
use quittance_core::kit::TokenInfo;
use serde::{Deserialize, Serialize};
use solana_pubkey::Pubkey;

use crate::instruction::{TOKEN, TOKEN_2022};
use crate::mint::Extension;

/// The namespace of Solana's clusters in CAIP-2.
pub(crate) const NAMESPACE: &str = "solana";

/// Which program keeps a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenProgram {
    /// SPL Token.
    SplToken,
    /// Token-2022.
    #[serde(rename = "token-2022")]
    Token2022,
}

impl TokenProgram {
    /// The program's address.
    pub const fn id(self) -> Pubkey {
        match self {
            Self::SplToken => TOKEN,
            Self::Token2022 => TOKEN_2022,
        }
    }

    /// The program with this address.
    pub fn with_id(id: &Pubkey) -> Option<Self> {
        [Self::SplToken, Self::Token2022]
            .into_iter()
            .find(|program| program.id() == *id)
    }
}

impl fmt::Display for TokenProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SplToken => "SPL Token",
            Self::Token2022 => "Token-2022",
        })
    }
}

/// A token, as a payment and a price need to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The mint.
    pub mint: Pubkey,
    /// Its ticker.
    pub symbol: String,
    /// How many decimal places people write it with.
    pub decimals: u8,
    /// Which program keeps it.
    pub program: TokenProgram,
    /// The extensions of its mint that are accepted although they can break a payment.
    pub allowed: BTreeSet<Extension>,
}

impl TokenInfo for Token {
    type Address = Pubkey;

    fn address(&self) -> &Pubkey {
        &self.mint
    }

    fn symbol(&self) -> &str {
        &self.symbol
    }

    fn decimals(&self) -> u8 {
        self.decimals
    }
}

impl Token {
    /// A token none of whose extensions may break a payment.
    pub fn new(mint: Pubkey, symbol: &str, decimals: u8, program: TokenProgram) -> Self {
        Self {
            mint,
            symbol: symbol.to_owned(),
            decimals,
            program,
            allowed: BTreeSet::new(),
        }
    }

    /// The token account that holds what `owner` is paid: its associated account under the token's own program.
    pub fn account_of(&self, owner: &Pubkey) -> Pubkey {
        associated_account(owner, &self.mint, self.program)
    }
}

/// The associated token account of an owner for a mint of this program.
pub fn associated_account(owner: &Pubkey, mint: &Pubkey, program: TokenProgram) -> Pubkey {
    const ASSOCIATED_TOKEN: Pubkey =
        Pubkey::from_str_const("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL");
    let seeds = [
        owner.as_ref(),
        program.id().as_array().as_slice(),
        mint.as_ref(),
    ]
    .map(<[u8]>::to_vec);
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    Pubkey::find_program_address(&seeds, &ASSOCIATED_TOKEN).0
}

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
