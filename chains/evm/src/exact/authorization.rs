//! EIP-3009 `TransferWithAuthorization`: what the payer signs and what the token is told.

use alloy::primitives::{Address, B256, Bytes, U256, b256, keccak256};
use alloy::sol_types::SolCall;
use quittance_core::{Amount, PaymentId};
use serde::Deserialize;

use crate::abi::Eip3009;
use crate::eip712;
use crate::hex::Hex;
use crate::signature::{Ecdsa, Signature};

/// `keccak256("TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)")`.
const TYPE_HASH: B256 = b256!("7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267");

/// The authorization as the payload has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AuthorizationJson {
    from: Hex<20>,
    to: Hex<20>,
    value: Amount,
    valid_after: Amount,
    valid_before: Amount,
    nonce: Hex<32>,
}

/// A transfer that a payer allows anybody to make, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authorization {
    pub(super) from: Address,
    pub(super) to: Address,
    pub(super) value: U256,
    pub(super) valid_after: U256,
    pub(super) valid_before: U256,
    pub(super) nonce: B256,
}

impl From<AuthorizationJson> for Authorization {
    fn from(json: AuthorizationJson) -> Self {
        Self {
            from: json.from.0.into(),
            to: json.to.0.into(),
            value: json.value.units(),
            valid_after: json.valid_after.units(),
            valid_before: json.valid_before.units(),
            nonce: json.nonce.0,
        }
    }
}

impl Authorization {
    /// The digest the payer signs.
    pub(super) fn digest(&self, domain_separator: &B256) -> B256 {
        let mut words = [0; 7 * 32];
        let mut word = |at: usize, bytes: &[u8]| {
            words[(at + 1) * 32 - bytes.len()..(at + 1) * 32].copy_from_slice(bytes)
        };
        word(0, TYPE_HASH.as_slice());
        word(1, self.from.as_slice());
        word(2, self.to.as_slice());
        word(3, &self.value.to_be_bytes::<32>());
        word(4, &self.valid_after.to_be_bytes::<32>());
        word(5, &self.valid_before.to_be_bytes::<32>());
        word(6, self.nonce.as_slice());
        eip712::digest(domain_separator, &keccak256(words))
    }

    /// What makes it unique: EIP-3009 nonces are per token and payer.
    pub(super) fn id(&self, chain_id: u64, token: Address) -> PaymentId {
        PaymentId::from_parts(&[
            b"eip3009",
            &chain_id.to_be_bytes(),
            token.as_slice(),
            self.from.as_slice(),
            self.nonce.as_slice(),
        ])
    }

    /// The transfer for a payer with a key: the form every EIP-3009 token has.
    pub(super) fn transfer_with_key(&self, signature: &Ecdsa) -> Bytes {
        Eip3009::transferWithAuthorization_0Call {
            from: self.from,
            to: self.to,
            value: self.value,
            validAfter: self.valid_after,
            validBefore: self.valid_before,
            nonce: self.nonce,
            v: signature.v(),
            r: signature.r(),
            s: signature.s(),
        }
        .abi_encode()
        .into()
    }

    /// The transfer for a payer that is a contract: the form of FiatToken 2.2, which asks the contract (ERC-1271).
    pub(super) fn transfer_with_contract(&self, signature: &Signature) -> Bytes {
        Eip3009::transferWithAuthorization_1Call {
            from: self.from,
            to: self.to,
            value: self.value,
            validAfter: self.valid_after,
            validBefore: self.valid_before,
            nonce: self.nonce,
            signature: signature.bytes.clone(),
        }
        .abi_encode()
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::address;
    use alloy::sol;
    use alloy::sol_types::{Eip712Domain, SolStruct};
    use proptest::prelude::*;

    sol! {
        struct TransferWithAuthorization {
            address from; address to; uint256 value; uint256 validAfter; uint256 validBefore; bytes32 nonce;
        }
    }

    proptest! {
        #[test]
        fn the_digest_is_that_of_an_independent_implementation(
            from: [u8; 20], to: [u8; 20], nonce: [u8; 32], value: [u64; 4], valid_after: [u64; 4], valid_before: [u64; 4],
            chain_id: u64, name: String,
        ) {
            let authorization = Authorization {
                from: from.into(), to: to.into(), value: U256::from_limbs(value), valid_after: U256::from_limbs(valid_after),
                valid_before: U256::from_limbs(valid_before), nonce: nonce.into(),
            };
            let contract = address!("0x036CbD53842c5426634e7929541eC2318f3dCF7e");
            let domain = Eip712Domain::new(Some(name.clone().into()), Some("2".into()), Some(U256::from(chain_id)), Some(contract), None);
            let other = TransferWithAuthorization {
                from: from.into(), to: to.into(), value: authorization.value, validAfter: authorization.valid_after,
                validBefore: authorization.valid_before, nonce: nonce.into(),
            };
            let separator = eip712::domain_separator(&name, "2", chain_id, contract);
            prop_assert_eq!(authorization.digest(&separator), other.eip712_signing_hash(&domain));
        }
    }
}
