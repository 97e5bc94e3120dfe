//! Accounts: whether they have code, and whether a contract accepts a signature (ERC-1271).

use alloy::primitives::{Address, B256};
use alloy::sol_types::SolCall;

use crate::abi::Erc1271;
use crate::chain::{Condition, Step, StepOutcome};
use crate::signature::PayerSignature;

/// What a contract wallet returns for a valid signature (ERC-1271): the four bytes `0x1626ba7e`,
/// padded to a word.
pub const ERC1271_MAGIC: [u8; 32] = {
    let mut word = [0; 32];
    (word[0], word[1], word[2], word[3]) = (0x16, 0x26, 0xba, 0x7e);
    word
};

/// Whether the account has code, by the outcome of [`Step::CodeSize`]. Any other outcome counts as
/// code.
pub fn has_code(outcome: Option<&StepOutcome>) -> bool {
    let size = outcome.and_then(StepOutcome::code_size);
    size.is_none_or(|size| size > 0)
}

/// The step that asks a contract account whether it accepts a signature over `digest`, with at most
/// this much gas. Accounts without code are not called.
pub fn ask_signature(account: Address, digest: B256, signature: &PayerSignature, gas: u32) -> Step {
    let call = Erc1271::isValidSignatureCall {
        hash: digest,
        signature: signature.bytes.clone(),
    };
    Step::Call {
        to: account,
        data: call.abi_encode().into(),
        gas,
        when: Condition::HasCode(account),
    }
}

/// Whether the contract accepted the signature, by the outcome of [`ask_signature`].
pub fn accepts_signature(outcome: Option<&StepOutcome>) -> bool {
    outcome
        .and_then(StepOutcome::word)
        .is_some_and(|word| word == ERC1271_MAGIC)
}
