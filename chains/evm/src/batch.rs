//! Many calls in one transaction, each with a gas limit of its own.
//!
//! A payer's account can change between the simulation and the block: an EIP-7702 delegation gives it code, and the
//! token then runs that code. So every call gets a fixed share of the transaction's gas, and what one call burns is
//! missing nowhere else. The program is `contracts/Batch.yul`; it is sent as init code, so nothing has to be deployed
//! on any chain beforehand.
//!
//! The token sees the new account as the caller. That is fine for `transferWithAuthorization`, which any caller may
//! use; calls that depend on their caller must not be marked as shareable.

use alloy::primitives::{Bytes, hex};

use crate::chain::Call;

/// `contracts/Batch.yul`, compiled. A test compiles it again and compares.
const PROGRAM: &[u8] = &match hex::const_decode_to_array::<
    { include_bytes!("../contracts/Batch.hex").len() / 2 },
>(include_bytes!("../contracts/Batch.hex"))
{
    Ok(program) => program,
    Err(_) => panic!("contracts/Batch.hex is not hexadecimal"),
};

/// Bytes before a call's data: gas limit, target, size.
const HEAD: usize = 4 + 20 + 2;

/// The longest init code that chains take (EIP-3860).
const CODE_MAX: usize = 49_152;

/// The most gas that a batch may ask for. Chains since Osaka take no transaction above 16,777,216 (EIP-7825); the
/// smallest block limit in use is 30 million.
const GAS_MAX: u64 = 15_000_000;

/// What creating an account takes on top of an ordinary transaction (EIP-2).
const CREATE: u64 = 32_000;

/// What the program takes for each call, beside the call's own limit: the loop, the copy, and a target whose account was
/// not touched before (EIP-2929: 2,600). Measured: under 3,000 for the first and under 700 for each other.
const OVERHEAD: u64 = 3_500;

/// What a call may take more than when it was tried: a recipient that has been emptied since, whose balance is a new
/// slot again (EIP-2200: 20,000 instead of 2,900).
pub(crate) const EMPTIED: u64 = 20_000;

/// How much gas a call may use in a batch: what it took when it was tried, an eighth, and [`EMPTIED`].
fn limit(call: &Call) -> u32 {
    let limit = call.gas + call.gas / 8 + EMPTIED;
    u32::try_from(limit).unwrap_or(u32::MAX)
}

/// Whether calls of this number and size make a transaction that chains take.
pub(crate) fn fits<'a>(calls: impl Iterator<Item = &'a Call>) -> bool {
    let (mut size, mut gas) = (PROGRAM.len(), 0_u64);
    for call in calls {
        size = size.saturating_add(HEAD + call.data.len());
        gas = gas.saturating_add(u64::from(limit(call)) + OVERHEAD);
    }
    size <= CODE_MAX && gas <= GAS_MAX
}

/// The init code that makes these calls.
pub(crate) fn program(calls: &[&Call]) -> Bytes {
    let mut code = PROGRAM.to_vec();
    for call in calls {
        let size = u16::try_from(call.data.len())
            .expect("calls are made of signatures of at most a few kilobytes");
        code.extend_from_slice(&limit(call).to_be_bytes());
        code.extend_from_slice(call.to.as_slice());
        code.extend_from_slice(&size.to_be_bytes());
        code.extend_from_slice(&call.data);
    }
    code.into()
}

/// How much gas the calls can take at most, without what every transaction and its data cost.
///
/// A frame keeps a sixty-fourth of its gas for itself (EIP-150): the last call still has to be handed its whole limit.
pub(crate) fn gas(calls: &[&Call], code: &[u8]) -> u64 {
    let limits = calls.iter().map(|call| u64::from(limit(call)));
    let largest = limits.clone().max().unwrap_or(0);
    let words = code.len().div_ceil(32) as u64;
    // EIP-3860: two for each word of init code.
    CREATE + 2 * words + limits.map(|limit| limit + OVERHEAD).sum::<u64>() + largest / 63 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::{Address, B256};
    use proptest::prelude::*;

    fn call(size: usize, gas: u64) -> Call {
        Call {
            to: Address::repeat_byte(7),
            data: vec![5; size].into(),
            gas,
            batchable: true,
            effect_key: B256::ZERO,
        }
    }

    /// The calls of a program, as the program itself reads them.
    fn read(code: &[u8]) -> Vec<(u32, &[u8], &[u8])> {
        let (mut rest, mut calls) = (&code[PROGRAM.len()..], Vec::new());
        while !rest.is_empty() {
            let size = usize::from(u16::from_be_bytes([rest[24], rest[25]]));
            let limit = u32::from_be_bytes(rest[..4].try_into().unwrap());
            calls.push((limit, &rest[4..24], &rest[HEAD..HEAD + size]));
            rest = &rest[HEAD + size..];
        }
        calls
    }

    proptest! {
        /// Whatever the first calls burn, each later one is handed its whole limit.
        #[test]
        fn no_call_can_take_gas_from_another(sizes in prop::collection::vec((0_usize..400, 0_u64..600_000), 1..40)) {
            let calls: Vec<Call> = sizes.iter().map(|(size, gas)| call(*size, *gas)).collect();
            let calls: Vec<&Call> = calls.iter().collect();
            let code = program(&calls);
            let read = read(&code);
            prop_assert_eq!(read.len(), calls.len());
            let words = code.len().div_ceil(32) as u64;
            let mut left = gas(&calls, &code) - CREATE - 2 * words;
            for ((limit, to, data), call) in read.iter().zip(&calls) {
                prop_assert_eq!((*to, *data), (call.to.as_slice(), call.data.as_ref()));
                prop_assert!(u64::from(*limit) >= call.gas + EMPTIED);
                left -= OVERHEAD;
                prop_assert!(left - left / 64 >= u64::from(*limit), "{left} left, {limit} needed");
                left -= u64::from(*limit);
            }
        }
    }

    #[test]
    fn a_batch_that_chains_would_refuse_does_not_fit() {
        let fits = |calls: Vec<Call>| fits(calls.iter());
        assert!(fits(vec![call(292, 60_000); 32]));
        assert!(!fits(vec![call(292, 1_000); 160]), "too long");
        assert!(!fits(vec![call(292, 600_000); 25]), "too much gas");
    }
}
