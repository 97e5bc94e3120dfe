//! EIP-2612: approvals of a token that its owner signs, and anyone can submit.

use alloy::primitives::{Address, B256, Bytes, U256, b256, keccak256};
use alloy::sol_types::{SolCall, SolValue};

use crate::abi::Eip2612;
use crate::eip712;

/// `keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256
/// deadline)")`.
const TYPE_HASH: B256 = b256!("6e71edae12b1b97f4d1f60370fef10105fa2faae0126114a169c64845d6126c9");

/// An approval of a token, as its owner signs it: `Permit`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenApproval {
    /// The account whose tokens may be moved.
    pub owner: Address,
    /// The account that may move them.
    pub spender: Address,
    /// The most that may be moved, in the token's atomic units. It replaces the earlier allowance.
    pub value: U256,
    /// The owner's next nonce at the token. The token counts it up with every approval.
    pub nonce: U256,
    /// The last block time at which it can be submitted, in seconds since 1970.
    pub deadline: U256,
}

impl TokenApproval {
    /// The approval of `value` by `owner` for `spender`.
    pub fn new(owner: Address, spender: Address, value: U256, nonce: U256, deadline: U256) -> Self {
        Self {
            owner,
            spender,
            value,
            nonce,
            deadline,
        }
    }

    /// The digest that the owner signs, in the token's EIP-712 domain.
    pub fn digest(&self, domain_separator: &B256) -> B256 {
        let message = (
            TYPE_HASH,
            self.owner,
            self.spender,
            self.value,
            self.nonce,
            self.deadline,
        );
        eip712::digest(domain_separator, &keccak256(message.abi_encode()))
    }
}

/// The call data that asks a token for the next nonce of an owner's approval.
pub fn nonce_call(owner: Address) -> Bytes {
    Eip2612::noncesCall { owner }.abi_encode().into()
}

#[cfg(test)]
mod tests {
    use alloy::sol;
    use alloy::sol_types::{SolStruct, eip712_domain};
    use proptest::prelude::*;

    use super::*;

    sol! {
        struct Permit { address owner; address spender; uint256 value; uint256 nonce; uint256 deadline; }
    }

    proptest! {
        #[test]
        fn digest_equals_that_of_an_independent_implementation(
            accounts: [[u8; 20]; 3], numbers: [[u64; 4]; 3], chain_id: u64,
        ) {
            let [owner, spender, token] = accounts.map(Address::from);
            let [value, nonce, deadline] = numbers.map(U256::from_limbs);
            let ours = TokenApproval::new(owner, spender, value, nonce, deadline);
            let other = Permit { owner, spender, value, nonce, deadline };
            let domain = eip712_domain! {
                name: "USDC", version: "2", chain_id: chain_id, verifying_contract: token,
            };
            let separator = eip712::domain_separator("USDC", "2", chain_id, token);
            prop_assert_eq!(ours.digest(&separator), other.eip712_signing_hash(&domain));
        }
    }
}
