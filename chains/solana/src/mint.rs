//! What a mint may do to a payment: its extensions, and which of them an operator accepts.
//!
//! Only the numbers of the extensions are read, by the layout that `spl-token-2022-interface` defines: that crate brings a
//! fifth again as many dependencies, for structures nobody here looks into.

use std::collections::BTreeSet;

use solana_pubkey::Pubkey;

use crate::account::Account;
use crate::token::{Extension, TokenProgram};

/// What an extension means for payments.
enum Meaning {
    /// It changes nothing of who has how much.
    Harmless,
    /// It must be accepted by the operator.
    Risk(Extension),
    /// No payment can be made with it.
    Never,
}

/// What is needed of a mint's account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MintFacts {
    /// Its decimal places.
    pub decimals: u8,
}

/// The length of a mint without extensions; where its decimal places and the mark that it is initialized stand.
const MINT_LEN: usize = 82;
const DECIMALS_AT: usize = 44;
const INITIALIZED_AT: usize = 45;

/// The length of a token account without extensions, to which a mint with extensions is padded; then comes its type.
const ACCOUNT_LEN: usize = 165;
const TYPE_MINT: u8 = 1;
const TYPE_ACCOUNT: u8 = 2;

/// The owner of a token account stands behind its mint.
const OWNER_AT: std::ops::Range<usize> = 32..64;

/// Where its amount is, the least significant byte first.
const AMOUNT_AT: std::ops::Range<usize> = 64..72;

/// What the extension with this number (`ExtensionType`) means.
fn meaning(extension: u16) -> Meaning {
    match extension {
        TRANSFER_FEE_CONFIG => Meaning::Risk(Extension::TransferFeeConfig),
        3 => Meaning::Risk(Extension::MintCloseAuthority),
        4 => Meaning::Risk(Extension::ConfidentialTransferMint),
        6 => Meaning::Risk(Extension::DefaultAccountState),
        12 => Meaning::Risk(Extension::PermanentDelegate),
        14 => Meaning::Risk(Extension::TransferHook),
        16 => Meaning::Risk(Extension::ConfidentialTransferFeeConfig),
        24 => Meaning::Risk(Extension::ConfidentialMintBurn),
        26 => Meaning::Risk(Extension::Pausable),
        28 => Meaning::Risk(Extension::PermissionedBurn),
        // InterestBearingConfig and ScaledUiAmount: what people are shown changes; atomic units do not. The others point to
        // descriptions, or are ones: MetadataPointer to TokenGroupMember.
        10 | 18..=23 | 25 => Meaning::Harmless,
        // NonTransferable (9); whatever belongs to token accounts; and whatever comes after this was written.
        _ => Meaning::Never,
    }
}

/// The number of `TransferFeeConfig`, and where its two fees stand: the one until an epoch, and the one from then on.
const TRANSFER_FEE_CONFIG: u16 = 1;
const FEES_AT: [usize; 2] = [72, 90];

/// Whether a `TransferFeeConfig` withholds something now, or is going to; also when it cannot be read.
fn charges(config: &[u8]) -> bool {
    let charges = |at: &usize| {
        // The epoch it begins in, the most that is withheld, and the share, in basis points.
        let fee = config.get(*at..*at + 18).and_then(|fee| fee.get(8..));
        fee.is_none_or(|fee| {
            let (most, share) = fee.split_at(8);
            most.iter().any(|byte| *byte != 0) && share.iter().any(|byte| *byte != 0)
        })
    };
    FEES_AT.iter().any(charges)
}

/// A mint's extensions by their numbers; `None` for what is no mint.
fn extensions(data: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    if data.get(INITIALIZED_AT) != Some(&1) {
        return None;
    }
    if data.len() == MINT_LEN {
        return Some(Vec::new());
    }
    let is_padding = |byte: &u8| *byte == 0;
    if !data.get(MINT_LEN..ACCOUNT_LEN)?.iter().all(is_padding) {
        return None;
    }
    let [TYPE_MINT, rest @ ..] = data.get(ACCOUNT_LEN..)? else {
        return None;
    };
    let mut rest = rest;
    let mut found = Vec::new();
    // Type and length, two bytes each, then the extension. A zero, or less than a type, ends the list.
    while let [low, high, after @ ..] = rest {
        let extension = u16::from_le_bytes([*low, *high]);
        if extension == 0 {
            return rest.iter().all(is_padding).then_some(found);
        }
        let [low, high, after @ ..] = after else {
            return None;
        };
        let (body, behind) = after.split_at_checked(u16::from_le_bytes([*low, *high]).into())?;
        rest = behind;
        found.push((extension, body));
    }
    rest.iter().all(is_padding).then_some(found)
}

/// Reads a mint's account, as the program that owns it does, and holds its extensions to what is `allowed`.
///
/// # Errors
/// For people: why payments of this mint are refused. An extension nobody here knows is a reason.
pub fn judge(
    account: &Account,
    program: TokenProgram,
    allowed: &BTreeSet<Extension>,
) -> Result<MintFacts, String> {
    if account.owner != program.id() {
        return Err(format!("it does not belong to {program}"));
    }
    let extensions = extensions(&account.data).ok_or("it is no mint")?;
    if program == TokenProgram::SplToken && account.data.len() != MINT_LEN {
        return Err("it is no mint".to_owned());
    }
    for (extension, body) in extensions {
        if extension == TRANSFER_FEE_CONFIG && charges(body) {
            return Err("part of each transfer is withheld".to_owned());
        }
        match meaning(extension) {
            Meaning::Harmless => {}
            Meaning::Risk(risk) if allowed.contains(&risk) => {}
            Meaning::Risk(risk) => return Err(format!("it has the extension {risk:?}")),
            Meaning::Never => return Err(format!("it has the extension number {extension}")),
        }
    }
    let decimals = account.data.get(DECIMALS_AT).ok_or("it is no mint")?;
    Ok(MintFacts {
        decimals: *decimals,
    })
}

/// Who owns a token account, where it is one of this program.
pub fn owner_of(account: &Account, program: TokenProgram) -> Option<Pubkey> {
    let kind = account.data.get(ACCOUNT_LEN);
    let is_account = account.owner == program.id()
        && account.data.len() >= ACCOUNT_LEN
        && kind.is_none_or(|kind| *kind == TYPE_ACCOUNT);
    let owner: [u8; 32] = account.data.get(OWNER_AT)?.try_into().ok()?;
    is_account.then_some(owner.into())
}

/// How much a token account holds, in atomic units, where it is one of this program.
pub fn amount_in(account: &Account, program: TokenProgram) -> Option<u64> {
    owner_of(account, program)?;
    let amount: [u8; 8] = account.data.get(AMOUNT_AT)?.try_into().ok()?;
    Some(u64::from_le_bytes(amount))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A Token-2022 mint with these extensions, each of eight bytes, except that one is as long as it must be.
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
        let mut data = vec![0; MINT_LEN];
        data[DECIMALS_AT] = 6;
        data[INITIALIZED_AT] = 1;
        if !extensions.is_empty() {
            data.resize(ACCOUNT_LEN, 0);
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
        let whole = mint(&[18]);
        for end in MINT_LEN + 1..whole.data.len() {
            let cut = Account {
                data: whole.data[..end].to_vec(),
                ..whole.clone()
            };
            // Cut off behind the mark of what it is, it is a mint without extensions.
            let is_whole = end == ACCOUNT_LEN + 1;
            assert_eq!(
                judge(&cut, TokenProgram::Token2022, &BTreeSet::new()).is_ok(),
                is_whole,
                "{end}"
            );
        }
        let mut hidden = mint(&[18, 0, 14]);
        hidden.data.push(9);
        assert!(judge(&hidden, TokenProgram::Token2022, &BTreeSet::new()).is_err());
        assert!(judge(&mint(&[18]), TokenProgram::SplToken, &BTreeSet::new()).is_err());
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
