//! EIP-3009: transfers that the owner of tokens authorizes with a signature and anyone can submit
//! once.

use alloy::primitives::{Address, B256, Bytes, Log, U256, b256, keccak256};
use alloy::sol_types::{SolCall, SolEvent, SolValue};
use quittance_core::{Amount, PaymentId, PaymentInfo, SignatureClaim, Timestamp};
use serde::Deserialize;

use crate::abi::{Eip3009, Erc20};
use crate::eip712;
use crate::hex::Hex;
use crate::signature::{EcdsaSignature, PayerSignature};

/// `keccak256("TransferWithAuthorization(address from,address to,uint256 value,uint256
/// validAfter,uint256 validBefore,bytes32 nonce)")`.
const TYPE_HASH: B256 = b256!("7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267");

/// `keccak256("ReceiveWithAuthorization(address from,address to,uint256 value,uint256
/// validAfter,uint256 validBefore,bytes32 nonce)")`.
const RECEIVE_TYPE_HASH: B256 =
    b256!("d099cc98ef71107a616c4f0f941f04c322d8e254fe26b3c6668db87aae413de8");

/// A signed transfer: `TransferWithAuthorization`.
///
/// It is read from the JSON of the `exact` scheme's payload.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "AuthorizationJson")]
pub struct Authorization {
    /// The payer.
    pub from: Address,
    /// The recipient.
    pub to: Address,
    /// The amount in the token's atomic units.
    pub value: U256,
    /// The time of the block must be later than this, in seconds since 1970.
    pub valid_after: U256,
    /// The time of the block must be earlier than this, in seconds since 1970.
    pub valid_before: U256,
    /// Makes the authorization unique among those of the payer for the token.
    pub nonce: B256,
}

/// An authorization that was used, or that its payer cancelled.
///
/// A token logs either with the same topics.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuthorizationUse {
    /// The token.
    pub token: Address,
    /// The payer.
    pub authorizer: Address,
    /// The nonce of the authorization.
    pub nonce: B256,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuthorizationJson {
    from: Hex<20>,
    to: Hex<20>,
    value: Amount,
    valid_after: Amount,
    valid_before: Amount,
    nonce: Hex<32>,
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

impl AuthorizationUse {
    /// The use of the payer's authorization with this nonce.
    pub fn new(token: Address, authorizer: Address, nonce: B256) -> Self {
        Self {
            token,
            authorizer,
            nonce,
        }
    }
}

impl Authorization {
    /// The digest that the payer signs, for a token with this domain separator.
    pub fn digest(&self, domain_separator: &B256) -> B256 {
        self.typed_digest(TYPE_HASH, domain_separator)
    }

    /// The digest that the payer signs if only the recipient may submit the transfer:
    /// `ReceiveWithAuthorization`.
    pub fn receive_digest(&self, domain_separator: &B256) -> B256 {
        self.typed_digest(RECEIVE_TYPE_HASH, domain_separator)
    }

    fn typed_digest(&self, type_hash: B256, domain_separator: &B256) -> B256 {
        let mut words = [0; 7 * 32];
        let mut word = |at: usize, bytes: &[u8]| {
            words[(at + 1) * 32 - bytes.len()..(at + 1) * 32].copy_from_slice(bytes)
        };
        word(0, type_hash.as_slice());
        word(1, self.from.as_slice());
        word(2, self.to.as_slice());
        word(3, &self.value.to_be_bytes::<32>());
        word(4, &self.valid_after.to_be_bytes::<32>());
        word(5, &self.valid_before.to_be_bytes::<32>());
        word(6, self.nonce.as_slice());
        eip712::digest(domain_separator, &keccak256(words))
    }

    /// The claim that the payer signed the authorization, for a token with this domain separator.
    pub fn claim(&self, domain_separator: &B256, signature: &EcdsaSignature) -> SignatureClaim {
        signature.claim(self.digest(domain_separator), self.from)
    }

    /// The identity of a payment by this authorization. EIP-3009 nonces are per token and payer, so
    /// an authorization is the same payment under every scheme.
    pub fn payment_id(&self, chain_id: u64, token: Address) -> PaymentId {
        PaymentId::from_parts(&[
            b"eip3009",
            &chain_id.to_be_bytes(),
            token.as_slice(),
            self.from.as_slice(),
            self.nonce.as_slice(),
        ])
    }

    /// What the engine needs to know about a payment by this authorization.
    pub fn payment_info(&self, chain_id: u64, token: Address) -> PaymentInfo {
        PaymentInfo {
            id: self.payment_id(chain_id, token),
            payer: self.from.to_checksum(None),
            pay_to: self.to.to_checksum(None),
            asset: token.to_checksum(None),
            amount: Amount::new(self.value),
            expires: Timestamp::from_secs(self.valid_before.try_into().unwrap_or(u64::MAX)),
        }
    }

    /// The call data of the transfer for a payer with a key: the overload that every EIP-3009 token
    /// has.
    pub fn transfer_with_key(&self, signature: &EcdsaSignature) -> Bytes {
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

    /// The call data of the transfer for a payer that is a contract: the overload of FiatToken 2.2,
    /// which asks the contract (ERC-1271).
    pub fn transfer_with_contract(&self, signature: &PayerSignature) -> Bytes {
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

    /// The call data that asks the token whether the authorization was used or cancelled.
    pub fn state_call(&self) -> Bytes {
        Eip3009::authorizationStateCall {
            authorizer: self.from,
            nonce: self.nonce,
        }
        .abi_encode()
        .into()
    }

    /// Whether a log of the token says that this authorization was used.
    pub fn is_used_by(&self, log: &Log) -> bool {
        Eip3009::AuthorizationUsed::decode_log_data(&log.data)
            .is_ok_and(|used| used.authorizer == self.from && used.nonce == self.nonce)
    }

    /// Whether a log of the token is a transfer like this one: same payer, recipient and amount.
    pub fn is_transfer(&self, log: &Log) -> bool {
        Erc20::Transfer::decode_log_data(&log.data).is_ok_and(|transfer| {
            (transfer.from, transfer.to, transfer.value) == (self.from, self.to, self.value)
        })
    }

    /// Identifies the transfer in the logs of a token that only logs transfers. Equal transfers
    /// have equal keys.
    pub fn transfer_key(&self, token: Address) -> B256 {
        keccak256((token, self.from, self.to, self.value).abi_encode())
    }

    /// Identifies the transfer in the logs of a token that also logs which authorization it used.
    /// Only one transfer has this key.
    pub fn use_key(&self, token: Address) -> B256 {
        keccak256((token, self.from, self.nonce).abi_encode())
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
        struct ReceiveWithAuthorization {
            address from; address to; uint256 value; uint256 validAfter; uint256 validBefore; bytes32 nonce;
        }
    }

    proptest! {
        #[test]
        fn digest_equals_that_of_an_independent_implementation(
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
            let other = ReceiveWithAuthorization {
                from: other.from, to: other.to, value: other.value, validAfter: other.validAfter,
                validBefore: other.validBefore, nonce: other.nonce,
            };
            prop_assert_eq!(authorization.receive_digest(&separator), other.eip712_signing_hash(&domain));
        }
    }
}
