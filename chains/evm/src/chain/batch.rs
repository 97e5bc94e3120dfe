//! Many calls in one transaction, each with its own gas limit.
//!
//! A payer's account can change between the simulation and the block: an EIP-7702 delegation gives
//! it code, and the token then runs that code. So every call gets a fixed share of the
//! transaction's gas, and no call can use the gas of another. The program is `contracts/Batch.yul`.
//! It is sent as init code, so no contract has to be deployed beforehand.
//!
//! The token sees the new account as the caller. `transferWithAuthorization` accepts any caller. A
//! call that depends on its caller must not be [`batchable`](Call::batchable).

use alloy::primitives::{Address, Bytes, hex};

use crate::call::Call;

/// `contracts/Batch.yul`, compiled. A test compiles the source and compares.
const PROGRAM: &[u8] = &match hex::const_decode_to_array::<
    { include_bytes!("../../contracts/Batch.hex").len() / 2 },
>(include_bytes!("../../contracts/Batch.hex"))
{
    Ok(program) => program,
    Err(_) => panic!("contracts/Batch.hex is not hexadecimal"),
};

/// The bytes before a call's data: gas limit, target and size.
const HEAD: usize = 4 + 20 + 2;

/// The longest init code that chains accept, in bytes (EIP-3860).
const CODE_MAX: usize = 49_152;

/// The highest gas limit of a batch. Since Osaka, chains accept no transaction above 16,777,216
/// (EIP-7825). The smallest block limit in use is 30 million.
const GAS_MAX: u64 = 15_000_000;

/// The gas for creating an account, in addition to that of an ordinary transaction (EIP-2).
const CREATE: u64 = 32_000;

/// The gas of the program for each call, in addition to the call's own limit: the loop, the copy,
/// and a cold target (EIP-2929: 2,600). Measured: under 3,000 for the first call and under 700 for
/// each other.
const OVERHEAD: u64 = 3_500;

/// The gas that a call may need beyond its simulation. If the recipient's balance has become zero
/// since, the transfer writes a new slot (EIP-2200: 20,000 gas instead of 2,900).
pub(super) const EMPTIED_RECIPIENT: u64 = 20_000;

/// How much gas a call may use in a batch: that of its simulation, an eighth of it, and
/// [`EMPTIED_RECIPIENT`].
fn limit(call: &Call) -> u32 {
    let limit = call.gas + call.gas / 8 + EMPTIED_RECIPIENT;
    u32::try_from(limit).unwrap_or(u32::MAX)
}

/// Whether chains accept a transaction with these calls.
pub(super) fn fits<'a>(calls: impl Iterator<Item = &'a Call>) -> bool {
    let (mut size, mut gas) = (PROGRAM.len(), 0_u64);
    for call in calls {
        size = size.saturating_add(HEAD + call.data.len());
        gas = gas.saturating_add(u64::from(limit(call)) + OVERHEAD);
    }
    size <= CODE_MAX && gas <= GAS_MAX
}

/// The init code that makes these calls.
pub(super) fn program(calls: &[&Call]) -> Bytes {
    let mut code = PROGRAM.to_vec();
    for call in calls {
        let size = u16::try_from(call.data.len())
            .expect("the longest accepted signature is far below 64 KiB");
        code.extend_from_slice(&limit(call).to_be_bytes());
        code.extend_from_slice(call.to.as_slice());
        code.extend_from_slice(&size.to_be_bytes());
        code.extend_from_slice(&call.data);
    }
    code.into()
}

/// The calls that an init code makes, each with its target; `None` if it is not the program. What
/// does not parse makes no call.
pub(super) fn calls_of(code: &[u8]) -> Option<Vec<(Address, &[u8])>> {
    let mut rest = code.strip_prefix(PROGRAM)?;
    let mut calls = Vec::new();
    while let Some((head, after)) = rest.split_at_checked(HEAD) {
        let size = usize::from(u16::from_be_bytes([head[HEAD - 2], head[HEAD - 1]]));
        let Some((data, after)) = after.split_at_checked(size) else {
            break;
        };
        calls.push((Address::from_slice(&head[4..24]), data));
        rest = after;
    }
    Some(calls)
}

/// The most gas that the calls can use, without the gas of every transaction and of its data.
///
/// A frame keeps a sixty-fourth of its gas (EIP-150), and the last call must still get its whole
/// limit.
pub(super) fn gas(calls: &[&Call], code: &[u8]) -> u64 {
    let limits = calls.iter().map(|call| u64::from(limit(call)));
    let largest = limits.clone().max().unwrap_or(0);
    let words = code.len().div_ceil(32) as u64;
    // EIP-3860: two units for each word of init code.
    CREATE + 2 * words + limits.map(|limit| limit + OVERHEAD).sum::<u64>() + largest / 63 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::{Address, B256};
    use proptest::prelude::*;

    fn call(size: usize, gas: u64) -> Call {
        let data = vec![5; size].into();
        let call = Call::new(Address::repeat_byte(7), data, gas, B256::ZERO);
        call.with_batchable(true)
    }

    /// Parses the calls of a program as the program itself does.
    fn parse(code: &[u8]) -> Vec<(u32, &[u8], &[u8])> {
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
        /// Each call gets its whole limit, even if all earlier calls use up theirs.
        #[test]
        fn call_cannot_use_the_gas_of_another(sizes in prop::collection::vec((0_usize..400, 0_u64..600_000), 1..40)) {
            let calls: Vec<Call> = sizes.iter().map(|(size, gas)| call(*size, *gas)).collect();
            let calls: Vec<&Call> = calls.iter().collect();
            let code = program(&calls);
            let parsed = parse(&code);
            prop_assert_eq!(parsed.len(), calls.len());
            let words = code.len().div_ceil(32) as u64;
            let mut left = gas(&calls, &code) - CREATE - 2 * words;
            for ((limit, to, data), call) in parsed.iter().zip(&calls) {
                prop_assert_eq!((*to, *data), (call.to.as_slice(), call.data.as_ref()));
                prop_assert!(u64::from(*limit) >= call.gas + EMPTIED_RECIPIENT);
                left -= OVERHEAD;
                prop_assert!(left - left / 64 >= u64::from(*limit), "{left} left, {limit} needed");
                left -= u64::from(*limit);
            }
        }
    }

    #[test]
    fn batch_beyond_the_limits_of_chains_does_not_fit() {
        let fits = |calls: Vec<Call>| fits(calls.iter());
        assert!(fits(vec![call(292, 60_000); 32]));
        assert!(!fits(vec![call(292, 1_000); 160]), "too long");
        assert!(!fits(vec![call(292, 600_000); 25]), "too much gas");
    }
}
