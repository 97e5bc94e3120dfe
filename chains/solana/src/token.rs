//! Tokens and the programs that own their mints and accounts.

use std::collections::BTreeSet;
use std::fmt;

use quittance_core::kit::TokenInfo;
use serde::{Deserialize, Serialize};
use solana_pubkey::Pubkey;

use crate::instruction::{TOKEN, TOKEN_2022};

/// A token program: it owns the mints and the accounts of its tokens.
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

/// A token, as payments and prices need to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Token {
    /// The mint.
    pub mint: Pubkey,
    /// Its ticker.
    pub symbol: String,
    /// The number of decimal places in displayed amounts.
    pub decimals: u8,
    /// The program that owns the mint.
    pub program: TokenProgram,
    /// The extensions of the mint that are accepted although they can break a payment.
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
    /// A token without accepted extensions.
    pub fn new(mint: Pubkey, symbol: &str, decimals: u8, program: TokenProgram) -> Self {
        Self {
            mint,
            symbol: symbol.to_owned(),
            decimals,
            program,
            allowed: BTreeSet::new(),
        }
    }

    /// The token account of `owner` for this token: its associated account.
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

/// An extension of Token-2022 that can break "the recipient has the amount, for good". An operator
/// may accept it for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Extension {
    /// An authority may withhold a fee from transfers. A fee that is not zero, now or later, is
    /// rejected even if the extension is accepted.
    TransferFeeConfig,
    /// A program of the issuer runs in each transfer, or may later.
    TransferHook,
    /// An authority may move the tokens of every account.
    PermanentDelegate,
    /// Amounts and balances can be hidden.
    ConfidentialTransferMint,
    /// Fees of confidential transfers.
    ConfidentialTransferFeeConfig,
    /// Confidential minting and burning.
    ConfidentialMintBurn,
    /// An authority may stop all transfers.
    Pausable,
    /// New accounts may begin frozen.
    DefaultAccountState,
    /// An authority may close the mint, which can then be created again with other rules.
    MintCloseAuthority,
    /// An authority must approve each burn.
    PermissionedBurn,
}
