//! A permit for the x402 proxy of `upto`. Its witness names the recipient, and the facilitator that
//! alone may settle it.

use alloy::primitives::{Address, B256, Bytes, Log, U256, b256};
use alloy::sol_types::{SolCall, SolEvent};
use quittance_core::json::Object;
use quittance_core::{Amount, Effect, LaneId, Reason, Rejection};
use serde::Deserialize;
use serde_json::{Value, json};

use super::reason;
use crate::abi::Permit2ProxyErrors::Permit2ProxyErrorsErrors as Errors;
use crate::abi::{EIP2612Permit, Erc20, UptoPermit2Proxy as Proxy};
use crate::exact::payment::Reasons;
use crate::exact::permit2::{ProxyPermit, permit_reasons};
use crate::hex::{Hex, HexBytes};
use crate::permit2::{PermitJson, PermitUse, UPTO_PERMIT2_PROXY, WitnessPermit, WitnessType};
use crate::reason::PERMIT2_AMOUNT_MISMATCH;
use crate::signature::SIGNATURE_MAX;

/// The hashes of `PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256
/// nonce,uint256 deadline,Witness witness)TokenPermissions(address token,uint256 amount)Witness(
/// address to,address facilitator,uint256 validAfter)` and of its `Witness`.
const WITNESS: WitnessType = WitnessType {
    permit_type_hash: b256!("51dff6974ad4388c499e7fcfe838d2bd767162553a144098ce20ea661d70c2ee"),
    witness_type_hash: b256!("d4171c445a74218b01d4fd8af34ff1106580ea1e36ff837e64484bfaa2253b75"),
};

static REASONS: Reasons = permit_reasons(
    reason::TRANSACTION_FAILED,
    reason::CONTRACT_WALLET_NOT_ALLOWED,
);

/// The payload of a payment.
#[derive(Deserialize)]
pub(super) struct Payload {
    #[serde(default)]
    pub(super) signature: Option<HexBytes<SIGNATURE_MAX>>,
    #[serde(default, rename = "permit2Authorization")]
    pub(super) permit2: Option<UptoPermit>,
}

impl Payload {
    /// The permit in a payload, if there is one.
    pub(super) fn permit(payload: &Object) -> Option<UptoPermit> {
        payload.read::<Self>("payload").ok()?.permit2
    }
}

/// A permit for the proxy, as the payload's `permit2Authorization` has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "PermitJson<WitnessJson>")]
pub(super) struct UptoPermit {
    pub(super) permit: WitnessPermit,
    /// The recipient.
    pub(super) to: Address,
    /// The only account that may settle it.
    pub(super) facilitator: Address,
    /// The first block time at which it can be used, in seconds since 1970.
    pub(super) valid_after: U256,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WitnessJson {
    to: Hex<20>,
    facilitator: Hex<20>,
    valid_after: Amount,
}

impl From<PermitJson<WitnessJson>> for UptoPermit {
    fn from(json: PermitJson<WitnessJson>) -> Self {
        Self {
            permit: json.permit(),
            to: json.witness.to.0.into(),
            facilitator: json.witness.facilitator.0.into(),
            valid_after: json.witness.valid_after.units(),
        }
    }
}

impl UptoPermit {
    /// The digest that the owner signs.
    pub(super) fn digest(&self, domain_separator: &B256) -> B256 {
        let witness = [
            self.to.into_word(),
            self.facilitator.into_word(),
            self.valid_after.into(),
        ];
        self.permit.digest(domain_separator, &WITNESS, witness)
    }

    /// The payload of a payment by this permit.
    pub(super) fn payload(&self, signature: &Bytes) -> Value {
        let witness = json!({
            "to": self.to.to_checksum(None),
            "facilitator": self.facilitator.to_checksum(None),
            "validAfter": self.valid_after.to_string(),
        });
        self.permit.payload(signature, witness)
    }

    /// The witness as the proxy takes it.
    fn witness(&self) -> Proxy::Witness {
        Proxy::Witness {
            to: self.to,
            facilitator: self.facilitator,
            validAfter: self.valid_after,
        }
    }

    /// The transfer, as the chain shows it.
    pub(super) fn transfer(&self) -> PermitUse {
        PermitUse::new(&self.permit, self.to).of_at_most()
    }
}

/// A permit with the amount that its payer accepted.
pub(super) struct Metered {
    pub(super) permit: UptoPermit,
    /// The lane of the facilitator that the permit names.
    pub(super) lane: LaneId,
    /// The amount in the payer's copy of the requirements: the most that may be settled.
    pub(super) accepted: Option<Amount>,
}

impl ProxyPermit for Metered {
    const PROXY: Address = UPTO_PERMIT2_PROXY;

    fn reasons(&self) -> &'static Reasons {
        &REASONS
    }

    fn permit(&self) -> &WitnessPermit {
        &self.permit.permit
    }

    fn own_reason(error: &Errors) -> Option<Reason> {
        match error {
            Errors::AmountExceedsPermitted(_) => Some(reason::AMOUNT_EXCEEDS_PERMITTED),
            Errors::UnauthorizedFacilitator(_) => Some(reason::UNAUTHORIZED_FACILITATOR),
            _ => None,
        }
    }

    fn to(&self) -> Address {
        self.permit.to
    }

    fn valid_after(&self) -> U256 {
        self.permit.valid_after
    }

    fn digest(&self, domain_separator: &B256) -> B256 {
        self.permit.digest(domain_separator)
    }

    fn settle(&self, amount: U256, signature: Bytes) -> Bytes {
        let permit = self.permit();
        let call = Proxy::settleCall {
            permit: permit.to_abi(),
            amount,
            owner: permit.owner,
            witness: self.permit.witness(),
            signature,
        };
        call.abi_encode().into()
    }

    fn settle_with_approval(
        &self,
        approval: EIP2612Permit,
        amount: U256,
        signature: Bytes,
    ) -> Bytes {
        let permit = self.permit();
        let call = Proxy::settleWithPermitCall {
            approval,
            permit: permit.to_abi(),
            amount,
            owner: permit.owner,
            witness: self.permit.witness(),
            signature,
        };
        call.abi_encode().into()
    }

    fn transfer(&self) -> PermitUse {
        self.permit.transfer()
    }

    fn sender(&self) -> Option<(Address, &LaneId)> {
        Some((self.permit.facilitator, &self.lane))
    }

    /// The permit is for exactly what the payer accepted. At /verify the seller requires all of it;
    /// at /settle it requires what it charges.
    fn check_amount(&self, amount: Amount, settling: bool) -> Result<(), Rejection> {
        let permitted = Amount::new(self.permit().amount);
        let maximum = match settling {
            true => self.accepted.unwrap_or(permitted),
            false => amount,
        };
        if permitted != maximum || self.accepted.is_some_and(|accepted| accepted != permitted) {
            let detail = format!(
                "the permit is for {permitted} atomic units, but the amount of the requirements is {maximum}"
            );
            return Err(Rejection::new(PERMIT2_AMOUNT_MISMATCH, detail));
        }
        if amount > permitted {
            let detail = format!(
                "the charge is {amount} atomic units, but the payer has authorized at most {permitted}"
            );
            let reason = reason::SETTLEMENT_EXCEEDS_AMOUNT;
            return Err(Rejection::new(reason, detail));
        }
        Ok(())
    }

    /// The transaction is only this payment's, so every transfer between the two accounts in it is,
    /// too.
    fn effect(&self, amount: Amount, logs: &[&Log], _authorization_first: bool) -> Effect {
        let parties = (self.permit().owner, self.permit.to);
        let transfers = logs.iter().filter_map(|log| {
            let transfer = Erc20::Transfer::decode_log_data(&log.data).ok()?;
            ((transfer.from, transfer.to) == parties).then_some(transfer.value)
        });
        let transfers: Vec<U256> = transfers.collect();
        let mismatch = |detail: String| Rejection::new(reason::TRANSFER_EVENT_MISMATCH, detail);
        match transfers.as_slice() {
            [] => Effect::None(mismatch("the token logged no such transfer".to_owned())),
            [value] if *value == amount.units() => Effect::Transferred(amount),
            [value] => {
                let detail = format!("the token logged a transfer of {value} instead of {amount}");
                Effect::Mismatch(mismatch(detail))
            }
            _ => {
                let detail = "the token logged the transfer more than once";
                Effect::Mismatch(mismatch(detail.to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::keccak256;
    use alloy::sol;
    use alloy::sol_types::{SolStruct, eip712_domain};
    use proptest::prelude::*;

    use super::*;
    use crate::exact::permit2::proxy_reason;
    use crate::permit2::{PERMIT2, domain_separator};

    sol! {
        struct TokenPermissions { address token; uint256 amount; }
        struct Witness { address to; address facilitator; uint256 validAfter; }
        struct PermitWitnessTransferFrom {
            TokenPermissions permitted; address spender; uint256 nonce; uint256 deadline;
            Witness witness;
        }
    }

    fn metered(permitted: u64) -> Metered {
        let [owner, token, to, facilitator] = [1, 2, 3, 4].map(Address::repeat_byte);
        let amount = (token, U256::from(permitted));
        let permit = WitnessPermit::new(owner, amount, UPTO_PERMIT2_PROXY, U256::ZERO, U256::MAX);
        let valid_after = U256::ZERO;
        let permit = UptoPermit {
            permit,
            to,
            facilitator,
            valid_after,
        };
        let accepted = Some(Amount::from(permitted));
        Metered {
            permit,
            lane: LaneId::new(&facilitator.to_checksum(None)),
            accepted,
        }
    }

    #[test]
    fn errors_of_the_proxy_have_their_reasons() {
        for (signature, expected) in [
            ("InvalidAmount()", "permit2_invalid_amount"),
            ("AmountExceedsPermitted()", "upto_amount_exceeds_permitted"),
            ("UnauthorizedFacilitator()", "upto_unauthorized_facilitator"),
        ] {
            let reason = proxy_reason::<Metered>(&keccak256(signature)[..4]);
            assert_eq!(reason.unwrap().code(), expected);
        }
    }

    proptest! {
        #[test]
        fn digest_equals_that_of_an_independent_implementation(
            accounts: [[u8; 20]; 5], numbers: [[u64; 4]; 4], chain_id: u64,
        ) {
            let [owner, token, spender, to, facilitator] = accounts.map(Address::from);
            let [amount, nonce, deadline, valid_after] = numbers.map(U256::from_limbs);
            let permit = WitnessPermit::new(owner, (token, amount), spender, nonce, deadline);
            let ours = UptoPermit { permit, to, facilitator, valid_after };
            let other = PermitWitnessTransferFrom {
                permitted: TokenPermissions { token, amount }, spender, nonce, deadline,
                witness: Witness { to, facilitator, validAfter: valid_after },
            };
            let domain = eip712_domain! {
                name: "Permit2", chain_id: chain_id, verifying_contract: PERMIT2,
            };
            let digest = ours.digest(&domain_separator(chain_id));
            prop_assert_eq!(digest, other.eip712_signing_hash(&domain));
        }

        /// Verified is the whole permit, and settled is never more than it.
        #[test]
        fn charge_never_exceeds_the_permit(permitted in 1_u64..1_000, amount in 0_u64..2_000) {
            let metered = metered(permitted);
            let allows = |settling| {
                metered.check_amount(Amount::from(amount), settling).is_ok()
            };
            prop_assert_eq!(allows(true), amount <= permitted);
            prop_assert_eq!(allows(false), amount == permitted);
        }
    }

    #[test]
    fn selector_is_that_of_the_deployed_proxy() {
        assert_eq!(Proxy::settleCall::SELECTOR, [0xff, 0x11, 0xe7, 0xb4]);
        let with_approval = Proxy::settleWithPermitCall::SELECTOR;
        assert_eq!(with_approval, [0x01, 0x6c, 0x17, 0x48]);
    }

    #[test]
    fn permit_for_another_amount_than_accepted_is_refused() {
        let metered = Metered {
            accepted: Some(Amount::from(6)),
            ..metered(5)
        };
        for (amount, settling) in [(5, false), (6, false), (5, true), (0, true)] {
            let refused = metered.check_amount(Amount::from(amount), settling);
            let reason = refused.unwrap_err().reason;
            assert_eq!(reason, PERMIT2_AMOUNT_MISMATCH, "{amount} {settling}");
        }
    }

    #[test]
    fn effect_is_one_transfer_of_the_charge() {
        let metered = metered(10);
        let log = |from: Address, value: u64| {
            let to = metered.to();
            let value = U256::from(value);
            Log {
                address: metered.permit().token,
                data: Erc20::Transfer { from, to, value }.encode_log_data(),
            }
        };
        let owner = metered.permit().owner;
        let (charge, other) = (log(owner, 4), log(owner, 5));
        let foreign = log(Address::repeat_byte(9), 4);
        let effect = |logs: &[&Log]| metered.effect(Amount::from(4), logs, true);
        let moved = Effect::Transferred(Amount::from(4));
        assert_eq!(effect(&[&charge]), moved);
        assert_eq!(effect(&[&foreign, &charge]), moved);
        assert!(matches!(effect(&[&foreign]), Effect::None(_)));
        assert!(matches!(effect(&[&other]), Effect::Mismatch(_)));
        assert!(matches!(effect(&[&charge, &charge]), Effect::Mismatch(_)));
    }
}
