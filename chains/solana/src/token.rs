//! Tokens and the programs that own their mints and accounts.

use std::collections::BTreeSet;
use std::fmt;

use quittance_core::kit::TokenInfo;
use serde::{Deserialize, Serialize};
use solana_pubkey::Pubkey;

use crate::instruction::{TOKEN, TOKEN_2022};

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
#[non_exhaustive]
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

/// An extension of Token-2022 that can break "the recipient has the amount, for good", and that an operator may accept
/// for one token all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Extension {
    /// Somebody may have part of each transfer withheld. As long as that is nothing the extension can be accepted; once it is
    /// something, or is going to be, payments are refused whatever is accepted.
    TransferFeeConfig,
    /// A program of the issuer's runs in each transfer, or may one day.
    TransferHook,
    /// Somebody may move anybody's tokens.
    PermanentDelegate,
    /// Amounts and balances can be hidden.
    ConfidentialTransferMint,
    /// Fees of confidential transfers.
    ConfidentialTransferFeeConfig,
    /// Confidential minting and burning.
    ConfidentialMintBurn,
    /// Somebody may stop all transfers.
    Pausable,
    /// New accounts may begin frozen.
    DefaultAccountState,
    /// The mint can be closed, and made anew with other rules.
    MintCloseAuthority,
    /// Burning needs somebody's consent.
    PermissionedBurn,
}
