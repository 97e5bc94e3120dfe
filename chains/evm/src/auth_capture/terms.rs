//! The terms of a hold: what its payer signs, and what identifies it.

use alloy::primitives::aliases::{U48, U120};
use alloy::primitives::{Address, B256, U256, b256, keccak256};
use alloy::sol_types::SolValue;
use quittance_core::{Amount, Malformed, StateId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::abi;
use crate::hex::Hex;

/// The largest amount that the contract represents: 120 bits.
pub(super) const AMOUNT_MAX: u128 = (1 << 120) - 1;

/// The latest time that the contract represents, in seconds since 1970: 48 bits.
pub(super) const TIME_MAX: u64 = (1 << 48) - 1;

/// The hash of the contract's type `PaymentInfo`.
const TYPE_HASH: B256 = b256!("ae68ac7ce30c86ece8196b61a7c486d8f0061f575037fbd34e7fe4e2820c6591");

/// `keccak256("x402AuthCaptureSaltBinding(address receiverAuthorizer,address policy,uint256
/// saltNonce)")`.
const SALT_TYPE_HASH: B256 =
    b256!("8a2a7e41a0bda000ded071ff38b79401d2603e1826516ff2635b11fe9e30877f");

/// The terms of a hold: the contract's `PaymentInfo`. They never change, and their hash identifies
/// the hold.
///
/// In JSON it is the payload's `paymentInfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "TermsJson", into = "Value")]
pub struct HoldTerms {
    /// The only account that can authorize, capture, void and refund.
    pub operator: Address,
    /// The account whose tokens are held.
    pub payer: Address,
    /// The recipient of what is captured.
    pub receiver: Address,
    /// The token.
    pub token: Address,
    /// The most that can be held, in atomic units of the token.
    pub max_amount: u128,
    /// The first block time at which the payment cannot be collected any more, in seconds since
    /// 1970.
    pub pre_approval_expiry: u64,
    /// The first block time at which it cannot be captured any more, in seconds since 1970. From
    /// then on the payer can take back what is held.
    pub authorization_expiry: u64,
    /// The first block time at which it cannot be refunded any more, in seconds since 1970.
    pub refund_expiry: u64,
    /// The smallest fee, in hundredths of a percent.
    pub min_fee_bps: u16,
    /// The largest fee, in hundredths of a percent.
    pub max_fee_bps: u16,
    /// Who gets the fee. Zero if the operator decides.
    pub fee_receiver: Address,
    /// Makes the payment unique, and binds it to the receiver's authorizer if there is one.
    pub salt: B256,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TermsJson {
    operator: Hex<20>,
    payer: Hex<20>,
    receiver: Hex<20>,
    token: Hex<20>,
    max_amount: Amount,
    pre_approval_expiry: u64,
    authorization_expiry: u64,
    refund_expiry: u64,
    min_fee_bps: u16,
    max_fee_bps: u16,
    fee_receiver: Hex<20>,
    salt: Hex<32>,
}

impl TryFrom<TermsJson> for HoldTerms {
    type Error = Malformed;

    fn try_from(json: TermsJson) -> Result<Self, Malformed> {
        Ok(Self {
            operator: json.operator.0.into(),
            payer: json.payer.0.into(),
            receiver: json.receiver.0.into(),
            token: json.token.0.into(),
            max_amount: units("maxAmount", json.max_amount)?,
            pre_approval_expiry: time("preApprovalExpiry", json.pre_approval_expiry)?,
            authorization_expiry: time("authorizationExpiry", json.authorization_expiry)?,
            refund_expiry: time("refundExpiry", json.refund_expiry)?,
            min_fee_bps: json.min_fee_bps,
            max_fee_bps: json.max_fee_bps,
            fee_receiver: json.fee_receiver.0.into(),
            salt: json.salt.0,
        })
    }
}

/// An amount that the contract can represent. `field` names it in the error.
pub(super) fn units(field: &str, amount: Amount) -> Result<u128, Malformed> {
    let amount = u128::try_from(amount.units()).ok();
    let amount = amount.filter(|amount| *amount <= AMOUNT_MAX);
    amount.ok_or_else(|| Malformed::new(field, "holds have amounts of 120 bits"))
}

/// A time that the contract can represent. `field` names it in the error.
pub(super) fn time(field: &str, secs: u64) -> Result<u64, Malformed> {
    match secs <= TIME_MAX {
        true => Ok(secs),
        false => Err(Malformed::new(field, "holds have times of 48 bits")),
    }
}

impl From<HoldTerms> for Value {
    fn from(terms: HoldTerms) -> Self {
        json!({
            "operator": terms.operator.to_checksum(None),
            "payer": terms.payer.to_checksum(None),
            "receiver": terms.receiver.to_checksum(None),
            "token": terms.token.to_checksum(None),
            "maxAmount": terms.max_amount.to_string(),
            "preApprovalExpiry": terms.pre_approval_expiry,
            "authorizationExpiry": terms.authorization_expiry,
            "refundExpiry": terms.refund_expiry,
            "minFeeBps": terms.min_fee_bps,
            "maxFeeBps": terms.max_fee_bps,
            "feeReceiver": terms.fee_receiver.to_checksum(None),
            "salt": terms.salt,
        })
    }
}

impl HoldTerms {
    /// The hold's identity on the chain with this id, in this contract of holds. Chain and contract
    /// are part of it.
    pub fn id(&self, chain_id: u64, escrow: Address) -> B256 {
        let hash = keccak256((TYPE_HASH, self.to_abi()).abi_encode());
        keccak256((U256::from(chain_id), escrow, hash).abi_encode())
    }

    /// The nonce that the payer signs: the identity of these terms without a payer.
    pub fn nonce(&self, chain_id: u64, escrow: Address) -> B256 {
        let payer = Address::ZERO;
        Self { payer, ..*self }.id(chain_id, escrow)
    }

    /// The terms as the contract takes them.
    ///
    /// Numbers that the contract cannot represent become its largest ones.
    pub fn to_abi(&self) -> abi::PaymentInfo {
        abi::PaymentInfo {
            operator: self.operator,
            payer: self.payer,
            receiver: self.receiver,
            token: self.token,
            maxAmount: U120::saturating_from(self.max_amount),
            preApprovalExpiry: U48::saturating_from(self.pre_approval_expiry),
            authorizationExpiry: U48::saturating_from(self.authorization_expiry),
            refundExpiry: U48::saturating_from(self.refund_expiry),
            minFeeBps: self.min_fee_bps,
            maxFeeBps: self.max_fee_bps,
            feeReceiver: self.fee_receiver,
            salt: self.salt.into(),
        }
    }
}

/// The salt that binds a hold to the receiver's authorizer. `nonce` is the payer's random number.
pub fn bound_salt(authorizer: Address, nonce: B256) -> B256 {
    let policy = Address::ZERO;
    keccak256((SALT_TYPE_HASH, authorizer, policy, nonce).abi_encode())
}

/// The state record of the hold with this identity, in the journal of a facilitator.
pub fn state_id(hold: &B256) -> StateId {
    // The identity is bound to chain and contract.
    StateId::from_parts(&[b"auth-capture", hold.as_slice()])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use alloy::sol_types::SolStruct;
    use proptest::prelude::*;

    #[test]
    fn type_hashes_are_those_of_the_types() {
        let other = abi::PaymentInfo::eip712_encode_type();
        assert_eq!(TYPE_HASH, keccak256(other.as_bytes()));
        let salt = "x402AuthCaptureSaltBinding(address receiverAuthorizer,address policy,uint256 saltNonce)";
        assert_eq!(SALT_TYPE_HASH, keccak256(salt));
    }

    prop_compose! {
        /// Terms that the contract can represent.
        pub(in crate::auth_capture) fn terms()(
            accounts: [[u8; 20]; 5], max_amount in 0..=AMOUNT_MAX,
            times in [0..=TIME_MAX, 0..=TIME_MAX, 0..=TIME_MAX], fees: [u16; 2], salt: [u8; 32],
        ) -> HoldTerms {
            let [operator, payer, receiver, token, fee_receiver] = accounts.map(Address::from);
            let [pre_approval_expiry, authorization_expiry, refund_expiry] = times;
            HoldTerms {
                operator, payer, receiver, token, max_amount, pre_approval_expiry,
                authorization_expiry, refund_expiry, min_fee_bps: fees[0], max_fee_bps: fees[1],
                fee_receiver, salt: salt.into(),
            }
        }
    }

    proptest! {
        #[test]
        fn identity_equals_that_of_an_independent_implementation(
            terms in terms(), chain_id: u64, escrow: [u8; 20],
        ) {
            let escrow = Address::from(escrow);
            // For a struct without dynamic fields, the contract's encoding is that of EIP-712.
            let identity = |terms: &HoldTerms| {
                let hash = terms.to_abi().eip712_hash_struct();
                keccak256((U256::from(chain_id), escrow, hash).abi_encode())
            };
            prop_assert_eq!(terms.id(chain_id, escrow), identity(&terms));
            let without = HoldTerms { payer: Address::ZERO, ..terms };
            prop_assert_eq!(terms.nonce(chain_id, escrow), identity(&without));
        }

        #[test]
        fn terms_survive_their_json(terms in terms()) {
            let json = serde_json::to_string(&terms).unwrap();
            prop_assert_eq!(serde_json::from_str::<HoldTerms>(&json).unwrap(), terms);
        }

        /// A number that is cut to the contract's width would be another hold.
        #[test]
        fn numbers_that_the_contract_cannot_represent_are_malformed(
            terms in terms(), field in prop::sample::select(vec![
                ("maxAmount", json!((AMOUNT_MAX + 1).to_string())),
                ("preApprovalExpiry", json!(TIME_MAX + 1)),
                ("authorizationExpiry", json!(TIME_MAX + 1)),
                ("refundExpiry", json!(TIME_MAX + 1)),
                ("minFeeBps", json!(65_536)),
            ]),
        ) {
            let mut json = Value::from(terms);
            json[field.0] = field.1;
            prop_assert!(serde_json::from_value::<HoldTerms>(json).is_err());
        }
    }

    #[test]
    fn salt_depends_on_authorizer_and_nonce() {
        let (one, other) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let salt = |authorizer, nonce| bound_salt(authorizer, B256::repeat_byte(nonce));
        assert_ne!(salt(one, 1), salt(other, 1));
        assert_ne!(salt(one, 1), salt(one, 2));
    }
}
