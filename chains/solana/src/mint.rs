//! Mints and token accounts: what an issuer can do to a payment, and which of that is accepted.

use std::collections::BTreeSet;

use solana_program_pack::Pack as _;
use solana_pubkey::Pubkey;
use spl_token_2022_interface::extension::transfer_fee::{TransferFee, TransferFeeConfig};
use spl_token_2022_interface::extension::{
    BaseStateWithExtensions, ExtensionType, StateWithExtensions,
};
use spl_token_2022_interface::state;

use crate::account::{Account, DATA_MAX};
use crate::token::{Extension, TokenProgram};

/// The meaning of an extension for payments.
enum Meaning {
    /// The extension changes no balance.
    Harmless,
    /// The operator must allow the extension.
    Risk(Extension),
    /// No payment is possible with the extension.
    Never,
}

/// The properties of a mint that payments need.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MintFacts {
    /// Its decimal places.
    pub decimals: u8,
}

/// Why payments of a mint are rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MintError {
    /// Another program owns the account.
    #[error("the mint does not belong to {0}")]
    Owner(TokenProgram),
    /// The account is not a mint.
    #[error("the account is not a mint")]
    NotAMint,
    /// The mint is so long that only its beginning was read.
    #[error("the mint has {DATA_MAX} bytes or more")]
    TooLong,
    /// The list of extensions is malformed, or an extension is newer than this library.
    #[error("the mint has an unknown or malformed extension")]
    UnknownExtension,
    /// The mint withholds a fee from transfers, or is going to.
    #[error("the mint withholds part of each transfer")]
    TransferFee,
    /// The operator has not accepted an extension.
    #[error("the mint has the extension {0:?}, which is not allowed for this token")]
    NotAllowed(Extension),
    /// No payment is possible with the extension of this number (`ExtensionType`).
    #[error("the mint has the extension number {0}, with which no payment is possible")]
    Never(u16),
}

fn meaning(extension: ExtensionType) -> Meaning {
    use ExtensionType as Found;
    match extension {
        Found::TransferFeeConfig => Meaning::Risk(Extension::TransferFeeConfig),
        Found::MintCloseAuthority => Meaning::Risk(Extension::MintCloseAuthority),
        Found::ConfidentialTransferMint => Meaning::Risk(Extension::ConfidentialTransferMint),
        Found::DefaultAccountState => Meaning::Risk(Extension::DefaultAccountState),
        Found::PermanentDelegate => Meaning::Risk(Extension::PermanentDelegate),
        Found::TransferHook => Meaning::Risk(Extension::TransferHook),
        Found::ConfidentialTransferFeeConfig => {
            Meaning::Risk(Extension::ConfidentialTransferFeeConfig)
        }
        Found::ConfidentialMintBurn => Meaning::Risk(Extension::ConfidentialMintBurn),
        Found::Pausable => Meaning::Risk(Extension::Pausable),
        Found::PermissionedBurn => Meaning::Risk(Extension::PermissionedBurn),
        // These change only the displayed amount.
        Found::InterestBearingConfig | Found::ScaledUiAmount => Meaning::Harmless,
        // These are descriptions, or point to one.
        Found::MetadataPointer
        | Found::TokenMetadata
        | Found::GroupPointer
        | Found::TokenGroup
        | Found::GroupMemberPointer
        | Found::TokenGroupMember => Meaning::Harmless,
        // NonTransferable, and the extensions of token accounts.
        _ => Meaning::Never,
    }
}

/// Whether a mint withholds a fee from transfers, now or from a later epoch on. A malformed
/// configuration counts as a fee.
fn withholds_fee(mint: &StateWithExtensions<'_, state::Mint>) -> bool {
    let charges = |fee: &TransferFee| {
        u64::from(fee.maximum_fee) != 0 && u16::from(fee.transfer_fee_basis_points) != 0
    };
    let config = mint.get_extension::<TransferFeeConfig>();
    config.map_or(true, |config| {
        charges(&config.older_transfer_fee) || charges(&config.newer_transfer_fee)
    })
}

/// Parses a mint, and checks that all its extensions are harmless or `allowed`.
///
/// # Errors
/// Why payments of this mint are rejected. An unknown extension is a reason.
pub fn judge(
    account: &Account,
    program: TokenProgram,
    allowed: &BTreeSet<Extension>,
) -> Result<MintFacts, MintError> {
    if account.owner != program.id() {
        return Err(MintError::Owner(program));
    }
    // Extensions could be missing from truncated data.
    if account.data.len() >= DATA_MAX {
        return Err(MintError::TooLong);
    }
    if program == TokenProgram::SplToken && account.data.len() != state::Mint::LEN {
        return Err(MintError::NotAMint);
    }
    let mint = StateWithExtensions::<state::Mint>::unpack(&account.data);
    let mint = mint.map_err(|_| MintError::NotAMint)?;
    let extensions = mint.get_extension_types();
    let extensions = extensions.map_err(|_| MintError::UnknownExtension)?;
    for extension in extensions {
        if extension == ExtensionType::TransferFeeConfig && withholds_fee(&mint) {
            return Err(MintError::TransferFee);
        }
        match meaning(extension) {
            Meaning::Harmless => {}
            Meaning::Risk(risk) if allowed.contains(&risk) => {}
            Meaning::Risk(risk) => return Err(MintError::NotAllowed(risk)),
            Meaning::Never => return Err(MintError::Never(extension.into())),
        }
    }
    Ok(MintFacts {
        decimals: mint.base.decimals,
    })
}

fn token_account(account: &Account, program: TokenProgram) -> Option<state::Account> {
    let found = StateWithExtensions::<state::Account>::unpack(&account.data).ok()?;
    (account.owner == program.id()).then_some(found.base)
}

/// The owner of a token account of this program; `None` for any other account.
pub fn owner_of(account: &Account, program: TokenProgram) -> Option<Pubkey> {
    token_account(account, program).map(|account| account.owner)
}

/// The balance of a token account of this program, in atomic units; `None` for any other account.
pub fn amount_in(account: &Account, program: TokenProgram) -> Option<u64> {
    token_account(account, program).map(|account| account.amount)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The offsets of a mint's fields, and of the type of an account with extensions.
    const DECIMALS_AT: usize = 44;
    const INITIALIZED_AT: usize = 45;
    const TYPE_AT: usize = state::Account::LEN;
    const TYPE_MINT: u8 = 1;
    const TRANSFER_FEE_CONFIG: u16 = ExtensionType::TransferFeeConfig as u16;

    /// A Token-2022 mint with these extensions, of eight bytes each. The transfer fee has its real
    /// length.
    fn mint(extensions: &[u16]) -> Account {
        let body = |extension: &u16| match *extension {
            TRANSFER_FEE_CONFIG => vec![0; 108],
            _ => vec![1, 2, 3, 4, 5, 6, 7, 8],
        };
        let with_body = extensions.iter().map(|found| (*found, body(found)));
        mint_with(&with_body.collect::<Vec<_>>())
    }

    /// A Token-2022 mint with these extensions.
    fn mint_with(extensions: &[(u16, Vec<u8>)]) -> Account {
        let mut data = vec![0; state::Mint::LEN];
        data[DECIMALS_AT] = 6;
        data[INITIALIZED_AT] = 1;
        if !extensions.is_empty() {
            data.resize(TYPE_AT, 0);
            data.push(TYPE_MINT);
        }
        for (extension, body) in extensions {
            data.extend_from_slice(&extension.to_le_bytes());
            data.extend_from_slice(&(body.len() as u16).to_le_bytes());
            data.extend_from_slice(body);
        }
        Account {
            owner: TokenProgram::Token2022.id(),
            data,
        }
    }

    fn is_accepted(extensions: &[u16], allowed: &[Extension]) -> bool {
        let allowed = allowed.iter().copied().collect();
        judge(&mint(extensions), TokenProgram::Token2022, &allowed).is_ok()
    }

    /// attacks.md 97.
    #[test]
    fn extension_that_can_break_a_payment_must_be_allowed() {
        assert!(is_accepted(&[], &[]));
        assert!(is_accepted(&[10, 18, 19, 20, 21, 22, 23, 25], &[]));
        for (number, risk) in [
            (1, Extension::TransferFeeConfig),
            (3, Extension::MintCloseAuthority),
            (4, Extension::ConfidentialTransferMint),
            (6, Extension::DefaultAccountState),
            (12, Extension::PermanentDelegate),
            (14, Extension::TransferHook),
            (16, Extension::ConfidentialTransferFeeConfig),
            (24, Extension::ConfidentialMintBurn),
            (26, Extension::Pausable),
            (28, Extension::PermissionedBurn),
        ] {
            assert!(!is_accepted(&[18, number], &[]), "{risk:?}");
            assert!(is_accepted(&[18, number], &[risk]), "{risk:?}");
        }
    }

    /// attacks.md 97: the recipient would get less than the amount.
    #[test]
    fn transfer_fee_is_rejected_even_if_its_extension_is_allowed() {
        let allowed = [Extension::TransferFeeConfig].into();
        let verdict = |older: (u64, u16), newer: (u64, u16)| {
            let mut config = vec![9; 72];
            for (most, share) in [older, newer] {
                config.extend_from_slice(&7_u64.to_le_bytes());
                config.extend_from_slice(&most.to_le_bytes());
                config.extend_from_slice(&share.to_le_bytes());
            }
            let mint = mint_with(&[(TRANSFER_FEE_CONFIG, config)]);
            judge(&mint, TokenProgram::Token2022, &allowed).is_ok()
        };
        assert!(verdict((0, 0), (0, 0)));
        assert!(verdict((u64::MAX, 0), (0, 10_000)));
        assert!(!verdict((1, 1), (0, 0)));
        assert!(!verdict((0, 0), (u64::MAX, 10_000)));
        let cut = mint_with(&[(TRANSFER_FEE_CONFIG, vec![0; 107])]);
        assert!(judge(&cut, TokenProgram::Token2022, &allowed).is_err());
    }

    /// attacks.md 97.
    #[test]
    fn unknown_and_nontransferable_extensions_are_always_rejected() {
        for number in [2, 5, 7, 8, 9, 11, 13, 15, 17, 27, 29, 1000, u16::MAX] {
            assert!(
                !is_accepted(&[number], &[Extension::TransferHook]),
                "{number}"
            );
        }
    }

    /// attacks.md 97.
    #[test]
    fn malformed_extension_list_is_rejected() {
        let judge = |account: &Account| judge(account, TokenProgram::Token2022, &BTreeSet::new());
        let whole = mint(&[18]);
        for end in state::Mint::LEN + 1..whole.data.len() {
            let cut = Account {
                data: whole.data[..end].to_vec(),
                ..whole.clone()
            };
            // Without a whole type after the account's own type, it is a mint without extensions.
            let is_mint = end == TYPE_AT + 1 || end == TYPE_AT + 2;
            assert_eq!(judge(&cut).is_ok(), is_mint, "{end}");
        }
        let mut without_length = mint(&[18]);
        without_length.data.extend([14, 0, 1]);
        assert_eq!(judge(&without_length), Err(MintError::UnknownExtension));
        let of_spl_token = Account {
            owner: TokenProgram::SplToken.id(),
            ..whole
        };
        let judged = super::judge(&of_spl_token, TokenProgram::SplToken, &BTreeSet::new());
        assert_eq!(judged, Err(MintError::NotAMint));
    }

    /// The token program reads no extension behind the end of the list, so there is none.
    #[test]
    fn extension_list_ends_at_the_first_zero() {
        let mut ended = mint(&[18]);
        ended.data.extend([0, 0, 0, 0]);
        ended.data.extend([14, 0, 0, 0]);
        assert!(judge(&ended, TokenProgram::Token2022, &BTreeSet::new()).is_ok());
    }

    /// Regression: an extension could begin exactly where the data is truncated.
    #[test]
    fn mint_that_may_be_truncated_is_rejected() {
        let with_length = |length: usize| {
            let body = length - (TYPE_AT + 1) - 4;
            let account = mint_with(&[(19, vec![1; body])]);
            assert_eq!(account.data.len(), length);
            judge(&account, TokenProgram::Token2022, &BTreeSet::new())
        };
        assert!(with_length(DATA_MAX - 1).is_ok());
        assert_eq!(with_length(DATA_MAX), Err(MintError::TooLong));
    }

    proptest! {
        #[test]
        fn arbitrary_account_data_never_panics(data: Vec<u8>) {
            let account = Account { owner: TokenProgram::Token2022.id(), data };
            let _ = judge(&account, TokenProgram::Token2022, &BTreeSet::new());
            let _ = owner_of(&account, TokenProgram::Token2022);
        }
    }
}
