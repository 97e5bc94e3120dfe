//! Permit2: a contract that moves any token for its owner, by signed permits.
//!
//! The owner approves the contract once for a token, and then signs a permit for each transfer. A
//! permit names the contract that may use it (the spender), and can bind a witness: what the
//! spender has to do with it. Source: Uniswap's `permit2`, `SignatureTransfer.sol`.

use alloy::primitives::{Address, B256, Bytes, Log, U256, address, b256, keccak256};
use alloy::sol_types::{Eip712Domain, SolCall, SolEvent, SolValue};
use quittance_core::{Amount, PaymentId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::abi::{Erc20, Permit2, PermitTransferFrom, TokenPermissions};
use crate::eip712;
use crate::hex::Hex;

/// The address of Permit2, the same on every chain.
pub const PERMIT2: Address = address!("000000000022D473030F116dDEE9F6B43aC78BA3");

/// The address of `x402ExactPermit2Proxy`, through which payments of the scheme `exact` use
/// Permit2. It is the same on every chain.
pub const EXACT_PERMIT2_PROXY: Address = address!("402085c248EeA27D92E8b30b2C58ed07f9E20001");

/// The address of `x402UptoPermit2Proxy`, through which payments of the scheme `upto` use Permit2.
/// It is the same on every chain.
pub const UPTO_PERMIT2_PROXY: Address = address!("4020A4f3b7b90ccA423B9fabCc0CE57C6C240002");

/// `keccak256("TokenPermissions(address token,uint256 amount)")`.
const TOKEN_PERMISSIONS_TYPE_HASH: B256 =
    b256!("618358ac3db8dc274f0cd8829da7e234bd48cd73c4a740aede1adec9846d06a1");

/// `keccak256("PermitTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256
/// deadline)TokenPermissions(address token,uint256 amount)")`.
const PLAIN_TYPE_HASH: B256 =
    b256!("939c21a48a8dbe3a9a2404a1d46691e4d39f6583d6ec6b35714604c986d80106");

/// A permit that the owner of tokens signs, most often together with a witness:
/// `PermitWitnessTransferFrom`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WitnessPermit {
    /// The account whose tokens move.
    pub owner: Address,
    /// The token.
    pub token: Address,
    /// The most that may be moved, in the token's atomic units.
    pub amount: U256,
    /// The contract that may use the permit.
    pub spender: Address,
    /// Makes the permit unique among those of the owner, over all tokens and spenders.
    pub nonce: U256,
    /// The last block time at which it can be used, in seconds since 1970.
    pub deadline: U256,
}

/// The identity of a payment by the owner's permit with this nonce.
pub(crate) fn permit_id(chain_id: u64, owner: Address, nonce: U256) -> PaymentId {
    PaymentId::from_parts(&[
        b"permit2",
        &chain_id.to_be_bytes(),
        owner.as_slice(),
        &nonce.to_be_bytes::<32>(),
    ])
}

/// A permit as a payload's `permit2Authorization` has it, with a witness of the type `W`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PermitJson<W> {
    from: Hex<20>,
    permitted: PermittedJson,
    spender: Hex<20>,
    nonce: Amount,
    deadline: Amount,
    pub(crate) witness: W,
}

#[derive(Deserialize)]
struct PermittedJson {
    token: Hex<20>,
    amount: Amount,
}

impl<W> PermitJson<W> {
    /// The permit without its witness.
    pub(crate) fn permit(&self) -> WitnessPermit {
        let permitted = (self.permitted.token.0.into(), self.permitted.amount.units());
        WitnessPermit::new(
            self.from.0.into(),
            permitted,
            self.spender.0.into(),
            self.nonce.units(),
            self.deadline.units(),
        )
    }
}

/// The use of a permit for a transfer, as the chain shows it. Permit2 logs no nonce.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PermitUse {
    /// The token.
    pub token: Address,
    /// The account whose tokens moved.
    pub owner: Address,
    /// The account that got them.
    pub to: Address,
    /// The permitted amount in atomic units.
    pub amount: U256,
    /// Whether the transfer may be of less than the permitted amount.
    pub may_be_less: bool,
    /// The nonce of the permit.
    pub nonce: U256,
}

impl PermitUse {
    /// The transfer of this permit to this account.
    pub fn new(permit: &WitnessPermit, to: Address) -> Self {
        Self {
            token: permit.token,
            owner: permit.owner,
            to,
            amount: permit.amount,
            may_be_less: false,
            nonce: permit.nonce,
        }
    }

    /// The same, of at most the permitted amount.
    #[must_use]
    pub fn of_at_most(self) -> Self {
        Self {
            may_be_less: true,
            ..self
        }
    }

    /// Whether a log is a transfer like this one: same token, owner, recipient and amount.
    pub fn is_transfer(&self, log: &Log) -> bool {
        let expected = (self.owner, self.to);
        let is_amount = |value: U256| match self.may_be_less {
            true => value <= self.amount,
            false => value == self.amount,
        };
        log.address == self.token
            && Erc20::Transfer::decode_log_data(&log.data)
                .is_ok_and(|found| (found.from, found.to) == expected && is_amount(found.value))
    }

    /// Whether a log of Permit2 says that the owner invalidated the nonce.
    pub fn is_invalidated(&self, log: &Log) -> bool {
        log.address == PERMIT2
            && Permit2::UnorderedNonceInvalidation::decode_log_data(&log.data).is_ok_and(|found| {
                found.owner == self.owner
                    && found.word == self.nonce >> 8
                    && found.mask.bit(self.nonce.byte(0).into())
            })
    }

    /// Whether the data of a transaction contains the permit: the words of its token, its amount
    /// and its nonce, one after the other, as every call that uses a permit encodes them. The nonce
    /// alone would not do: payers choose it, and a small number is in the data of many calls.
    pub fn is_named_in(&self, data: &[u8]) -> bool {
        let permit = (self.token, self.amount, self.nonce).abi_encode();
        data.windows(permit.len()).any(|words| words == permit)
    }
}

/// The type of a witness, as the hash of the permit's type names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WitnessType {
    /// The hash of the type `PermitWitnessTransferFrom` with this witness.
    pub permit_type_hash: B256,
    /// The hash of the witness's own type.
    pub witness_type_hash: B256,
}

impl WitnessPermit {
    /// A permit of `owner` for this amount of a token, which only `spender` may use.
    pub fn new(
        owner: Address,
        (token, amount): (Address, U256),
        spender: Address,
        nonce: U256,
        deadline: U256,
    ) -> Self {
        Self {
            owner,
            token,
            amount,
            spender,
            nonce,
            deadline,
        }
    }

    /// The digest that the owner signs. `witness` are the fields of the witness, each as a word.
    pub fn digest<const N: usize>(
        &self,
        domain_separator: &B256,
        witness_type: &WitnessType,
        witness: [B256; N],
    ) -> B256 {
        let permitted = (TOKEN_PERMISSIONS_TYPE_HASH, self.token, self.amount).abi_encode();
        let witness = (witness_type.witness_type_hash, witness).abi_encode();
        let permit = (
            witness_type.permit_type_hash,
            keccak256(permitted),
            self.spender,
            self.nonce,
            self.deadline,
            keccak256(witness),
        );
        eip712::digest(domain_separator, &keccak256(permit.abi_encode()))
    }

    /// The digest that the owner signs if the permit has no witness: `PermitTransferFrom`.
    pub fn plain_digest(&self, domain_separator: &B256) -> B256 {
        let permitted = (TOKEN_PERMISSIONS_TYPE_HASH, self.token, self.amount).abi_encode();
        let permit = (
            PLAIN_TYPE_HASH,
            keccak256(permitted),
            self.spender,
            self.nonce,
            self.deadline,
        );
        eip712::digest(domain_separator, &keccak256(permit.abi_encode()))
    }

    /// The permit as its spender passes it on to Permit2.
    pub fn to_abi(&self) -> PermitTransferFrom {
        PermitTransferFrom {
            permitted: TokenPermissions {
                token: self.token,
                amount: self.amount,
            },
            nonce: self.nonce,
            deadline: self.deadline,
        }
    }

    /// The payload of a payment by this permit. `witness` are the fields of the witness.
    pub(crate) fn payload(&self, signature: &Bytes, witness: Value) -> Value {
        json!({
            "signature": signature,
            "permit2Authorization": {
                "from": self.owner.to_checksum(None),
                "permitted": {
                    "token": self.token.to_checksum(None),
                    "amount": self.amount.to_string(),
                },
                "spender": self.spender.to_checksum(None),
                "nonce": self.nonce.to_string(),
                "deadline": self.deadline.to_string(),
                "witness": witness,
            }
        })
    }

    /// The identity of a payment by this permit. Permit2 has one set of nonces for each owner, over
    /// all tokens and spenders, so a permit is the same payment under every scheme.
    pub fn payment_id(&self, chain_id: u64) -> PaymentId {
        permit_id(chain_id, self.owner, self.nonce)
    }

    /// The first block time at which it can no longer be used, in seconds since 1970: one after the
    /// deadline, because Permit2 accepts a block at the deadline itself.
    pub fn valid_before(&self) -> U256 {
        self.deadline.saturating_add(U256::ONE)
    }

    /// The call data that asks Permit2 for the word of used nonces with this nonce in it.
    pub fn nonce_call(&self) -> Bytes {
        let word = self.nonce >> 8;
        let call = Permit2::nonceBitmapCall {
            owner: self.owner,
            word,
        };
        call.abi_encode().into()
    }

    /// Whether the nonce was used or invalidated, by the word that [`nonce_call`](Self::nonce_call)
    /// asks for.
    pub fn is_used(&self, word: B256) -> bool {
        let bit = self.nonce.byte(0);
        U256::from_be_bytes(word.0).bit(bit.into())
    }

    /// The call data that asks the token how much of the owner's tokens Permit2 may move.
    pub fn allowance_call(&self) -> Bytes {
        let call = Erc20::allowanceCall {
            owner: self.owner,
            spender: PERMIT2,
        };
        call.abi_encode().into()
    }
}

/// The separator of Permit2's EIP-712 domain, which has no version, on the chain with this id.
pub fn domain_separator(chain_id: u64) -> B256 {
    Eip712Domain {
        name: Some("Permit2".into()),
        version: None,
        chain_id: Some(U256::from(chain_id)),
        verifying_contract: Some(PERMIT2),
        salt: None,
    }
    .separator()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_hash_is_that_of_the_type() {
        let expected = keccak256("TokenPermissions(address token,uint256 amount)");
        assert_eq!(TOKEN_PERMISSIONS_TYPE_HASH, expected);
        let plain = "PermitTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline)TokenPermissions(address token,uint256 amount)";
        assert_eq!(PLAIN_TYPE_HASH, keccak256(plain));
    }

    /// The search compared the nonce alone. With the nonce zero it took the first equal transfer
    /// for the permit's, because a call without `validAfter` has a word of zeros, too.
    #[test]
    fn small_nonce_is_not_found_in_the_data_of_another_permit() {
        let permit = |nonce: u64| PermitUse {
            token: Address::repeat_byte(1),
            owner: Address::repeat_byte(2),
            to: Address::repeat_byte(3),
            amount: U256::from(5),
            nonce: U256::from(nonce),
            may_be_less: false,
        };
        let data = |used: &PermitUse| {
            let valid_after = U256::ZERO;
            let call = (used.token, used.amount, used.nonce, used.to, valid_after);
            [[0x13, 0xcd, 0x3b, 0x53].as_slice(), &call.abi_encode()].concat()
        };
        for nonce in [0, 1, 5] {
            assert!(permit(nonce).is_named_in(&data(&permit(nonce))));
            assert!(!permit(nonce).is_named_in(&data(&permit(7))), "{nonce}");
        }
    }

    /// Permit2 keeps 256 nonces in a word; the low byte of the nonce is the bit.
    #[test]
    fn nonce_is_one_bit_of_its_word() {
        let permit = |nonce: U256| {
            let token = (Address::ZERO, U256::ZERO);
            WitnessPermit::new(Address::ZERO, token, Address::ZERO, nonce, U256::MAX)
        };
        for bit in [0_u64, 1, 8, 255] {
            let permit = permit((U256::from(7) << 8) | U256::from(bit));
            let word = U256::from(1) << bit;
            assert!(permit.is_used(B256::from(word.to_be_bytes())), "{bit}");
            assert!(!permit.is_used(B256::from((!word).to_be_bytes())), "{bit}");
            let call = Permit2::nonceBitmapCall::abi_decode(&permit.nonce_call()).unwrap();
            assert_eq!(call.word, U256::from(7));
        }
    }
}
