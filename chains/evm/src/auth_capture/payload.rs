//! The payloads of the acts, as their JSON has them.

use alloy::primitives::{Address, B256, Bytes};
use quittance_core::json::Object;
use quittance_core::{Amount, Malformed, PaymentId, Refusal, Rejection};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::deployment::{EscrowDeployment, HoldBalances};
use super::fee::{Fee, SubmittedFee};
use super::reason;
use super::terms::{HoldTerms, time, units};
use crate::eip3009::Authorization;
use crate::hex::{Hex, HexBytes};
use crate::permit2::{PermitJson, WitnessPermit};
use crate::signature::{DEPLOYED_SIGNATURE_MAX, SIGNATURE_MAX};
use crate::token::TransferMethod;

/// The name of the payload in errors.
const PAYLOAD: &str = "paymentPayload.payload";

/// What a payload asks for.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// To collect a payment: to hold it, or to charge it.
    Collect(Box<CollectAct>),
    /// Something with a payment that was collected.
    Later(Box<LaterAct>),
}

/// The payer's payload, and what the seller has added to it.
#[derive(Debug, Clone)]
pub(super) struct CollectAct {
    pub(super) part: PayersPart,
    /// What the seller charges. `None` while it has not completed the payload.
    pub(super) completion: Option<Completion>,
}

/// What the payer has signed.
#[derive(Debug, Clone)]
pub(super) enum Signed {
    /// An EIP-3009 authorization to receive.
    Eip3009(Authorization),
    /// A permit without a witness.
    Permit2(WitnessPermit),
}

impl Signed {
    pub(super) fn method(&self) -> TransferMethod {
        match self {
            Self::Eip3009(_) => TransferMethod::Eip3009,
            Self::Permit2(_) => TransferMethod::Permit2,
        }
    }

    /// The identity of the authorization, which is the same under every scheme.
    pub(super) fn payment_id(&self, chain_id: u64, token: Address) -> PaymentId {
        match self {
            Self::Eip3009(authorization) => authorization.payment_id(chain_id, token),
            Self::Permit2(permit) => permit.payment_id(chain_id),
        }
    }

    /// The end of the authorization, in seconds since 1970, and its nonce.
    pub(super) fn terms(&self) -> Result<(u64, B256), Malformed> {
        let (field, end, nonce) = match self {
            Self::Eip3009(authorization) => {
                let end = authorization.valid_before;
                (
                    "payload.authorization.validBefore",
                    end,
                    authorization.nonce,
                )
            }
            Self::Permit2(permit) => {
                let (end, nonce) = (permit.deadline, permit.nonce);
                ("payload.permit2Authorization.deadline", end, nonce.into())
            }
        };
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        Ok((time(field, end)?, nonce))
    }

    pub(super) fn payer(&self) -> Address {
        match self {
            Self::Eip3009(authorization) => authorization.from,
            Self::Permit2(permit) => permit.owner,
        }
    }
}

/// What a seller charges.
#[derive(Debug, Clone)]
pub(super) struct Completion {
    pub(super) amount: u128,
    pub(super) fee: SubmittedFee,
    /// The authorizer's signature. `None` if the facilitator is the authorizer.
    pub(super) signature: Option<Bytes>,
}

/// An act with a payment that was collected.
#[derive(Debug, Clone)]
pub(super) struct LaterAct {
    pub(super) kind: LaterKind,
    pub(super) terms: HoldTerms,
    pub(super) salt_nonce: Option<B256>,
    /// The authorizer's signature. `None` if the facilitator is the authorizer.
    pub(super) signature: Option<Bytes>,
}

impl LaterAct {
    /// Whether the authorizer has signed all of it: a capture, and its void.
    pub(super) fn is_signed(&self) -> bool {
        let void = match &self.kind {
            LaterKind::Capture { void, .. } => void.as_ref(),
            LaterKind::Void | LaterKind::Refund { .. } => None,
        };
        self.signature.is_some() && void.is_none_or(Option::is_some)
    }
}

/// Which act it is.
#[derive(Debug, Clone)]
pub(super) enum LaterKind {
    /// To pay this much of what is held.
    Capture {
        amount: u128,
        fee: SubmittedFee,
        expected: HoldBalances,
        /// Returns the rest: the authorizer's signature for it, without one if the facilitator
        /// is the authorizer.
        void: Option<Option<Bytes>>,
    },
    /// To return what is held.
    Void,
    /// To pay back this much of what was paid.
    Refund {
        amount: u128,
        expected: HoldBalances,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CollectJson {
    #[serde(default)]
    authorization: Option<Authorization>,
    #[serde(default)]
    permit2_authorization: Option<PermitJson<Option<IgnoredAny>>>,
    signature: HexBytes<SIGNATURE_MAX>,
    salt: Hex<32>,
    #[serde(default)]
    salt_nonce: Option<Hex<32>>,
}

/// What a seller adds.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AddedJson {
    #[serde(default)]
    amount: Option<Amount>,
    #[serde(default)]
    fee_amount: Option<Amount>,
    #[serde(default)]
    fee_bps: Option<u16>,
    #[serde(default)]
    fee_receiver: Option<Hex<20>>,
    #[serde(default)]
    authorizer_signature: Option<HexBytes<DEPLOYED_SIGNATURE_MAX>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LaterJson {
    payment_info: HoldTerms,
    #[serde(default)]
    salt_nonce: Option<Hex<32>>,
    #[serde(default)]
    expected_capturable_amount: Option<Amount>,
    #[serde(default)]
    expected_refundable_amount: Option<Amount>,
    #[serde(default)]
    void_authorizer_signature: Option<HexBytes<DEPLOYED_SIGNATURE_MAX>>,
}

#[derive(Deserialize)]
struct Typed {
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

/// A signature; `None` for empty bytes, which leave it to the facilitator.
fn signature(bytes: HexBytes<DEPLOYED_SIGNATURE_MAX>) -> Option<Bytes> {
    (!bytes.0.is_empty()).then(|| bytes.0.into())
}

fn format(detail: &str) -> Refusal {
    Rejection::new(reason::PAYLOAD_FORMAT, detail).into()
}

fn amount(field: &str, amount: Option<Amount>) -> Result<u128, Refusal> {
    let amount = amount.ok_or_else(|| format(&format!("payload.{field} is missing")))?;
    Ok(units(&format!("{PAYLOAD}.{field}"), amount)?)
}

impl AddedJson {
    fn is_empty(&self) -> bool {
        self.amount.is_none() && self.has_no_fee() && self.authorizer_signature.is_none()
    }

    fn has_no_fee(&self) -> bool {
        self.fee_amount.is_none() && self.fee_bps.is_none() && self.fee_receiver.is_none()
    }

    /// The fee, in the unit of the deployment.
    fn fee(&self, deployment: &EscrowDeployment) -> Result<SubmittedFee, Refusal> {
        let fee = match (self.fee_amount, self.fee_bps, deployment.fees_are_amounts) {
            (Some(fee), None, true) => Fee::Amount(amount("feeAmount", Some(fee))?),
            (None, Some(bps), false) => Fee::Bps(bps),
            (_, _, true) => return Err(format("this contract takes payload.feeAmount")),
            (_, _, false) => return Err(format("this contract takes payload.feeBps")),
        };
        let receiver = self.fee_receiver;
        let receiver = receiver.ok_or_else(|| format("payload.feeReceiver is missing"))?;
        Ok(SubmittedFee {
            fee,
            receiver: receiver.0.into(),
        })
    }
}

impl CollectAct {
    fn read(payload: &Object, deployment: &EscrowDeployment) -> Result<Self, Refusal> {
        let part = PayersPart::read(PAYLOAD, payload)?;
        let added: AddedJson = payload.read(PAYLOAD)?;
        let completion = match added.is_empty() {
            true => None,
            false => Some(Completion {
                amount: amount("amount", added.amount)?,
                fee: added.fee(deployment)?,
                signature: added.authorizer_signature.and_then(signature),
            }),
        };
        Ok(Self { part, completion })
    }
}

/// The payer's part of a payload.
#[derive(Debug, Clone)]
pub(super) struct PayersPart {
    pub(super) signed: Signed,
    pub(super) signature: Vec<u8>,
    pub(super) salt: B256,
    /// The payer's random number, if the salt binds the payment to an authorizer.
    pub(super) salt_nonce: Option<B256>,
}

impl PayersPart {
    /// Reads what the payer has signed, whatever the seller has added. `field` names the payload in
    /// errors.
    pub(super) fn read(field: &str, payload: &Object) -> Result<Self, Malformed> {
        let json: CollectJson = payload.read(field)?;
        let signed = match (json.authorization, json.permit2_authorization) {
            (Some(authorization), None) => Signed::Eip3009(authorization),
            (None, Some(permit)) => Signed::Permit2(permit.permit()),
            _ => {
                let what = "authorization or permit2Authorization: one of the two";
                return Err(Malformed::new(field, what));
            }
        };
        Ok(Self {
            signed,
            signature: json.signature.0,
            salt: json.salt.0,
            salt_nonce: json.salt_nonce.map(|nonce| nonce.0),
        })
    }
}

impl LaterAct {
    fn read(kind: &str, payload: &Object, deployment: &EscrowDeployment) -> Result<Self, Refusal> {
        let json: LaterJson = payload.read(PAYLOAD)?;
        let added: AddedJson = payload.read(PAYLOAD)?;
        let void = json.void_authorizer_signature.map(signature);
        if void.is_some() && kind != "capture" {
            let detail = "only a capture has a voidAuthorizerSignature";
            return Err(Rejection::new(reason::VOID_AUTHORIZER_SIGNATURE, detail).into());
        }
        let balances = || -> Result<HoldBalances, Refusal> {
            let (held, paid) = (
                json.expected_capturable_amount,
                json.expected_refundable_amount,
            );
            Ok(HoldBalances {
                capturable: amount("expectedCapturableAmount", held)?,
                refundable: amount("expectedRefundableAmount", paid)?,
            })
        };
        let kind = match kind {
            "capture" => LaterKind::Capture {
                amount: amount("amount", added.amount)?,
                fee: added.fee(deployment)?,
                expected: balances()?,
                void,
            },
            "refund" => LaterKind::Refund {
                amount: amount("amount", added.amount)?,
                expected: balances()?,
            },
            _ => LaterKind::Void,
        };
        Ok(Self {
            kind,
            terms: json.payment_info,
            salt_nonce: json.salt_nonce.map(|nonce| nonce.0),
            signature: added.authorizer_signature.and_then(signature),
        })
    }
}

impl Act {
    /// Reads a payload for this deployment.
    ///
    /// # Errors
    /// The malformed field, and the rejection of an unknown type or of a field that is missing.
    pub(super) fn read(payload: &Object, deployment: &EscrowDeployment) -> Result<Self, Refusal> {
        let typed: Typed = payload.read(PAYLOAD)?;
        match typed.kind.as_deref() {
            None => Ok(Self::Collect(Box::new(CollectAct::read(
                payload, deployment,
            )?))),
            Some(kind @ ("capture" | "void" | "refund")) => {
                let act = LaterAct::read(kind, payload, deployment)?;
                Ok(Self::Later(Box::new(act)))
            }
            Some(other) => {
                let detail = format!(
                    "payload.type is {other:?}, and must be capture, void or refund, or left out"
                );
                Err(Rejection::new(reason::PAYLOAD_TYPE, detail).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::deployment::{V1_0, V1_1};
    use super::super::terms::tests::terms;
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// What is wrong with a payload: the reason code, or the malformed field.
    fn problem(payload: &Value, deployment: &EscrowDeployment) -> Option<String> {
        let payload = Object::of(payload).unwrap();
        match Act::read(&payload, deployment) {
            Ok(_) => None,
            Err(Refusal::Rejected(rejection)) => Some(rejection.reason.to_string()),
            Err(Refusal::Malformed(malformed)) => Some(malformed.to_string()),
        }
    }

    fn payers_part() -> Value {
        let account = Address::repeat_byte(1);
        let word = B256::repeat_byte(2);
        json!({
            "authorization": {
                "from": account, "to": account, "value": "5", "validAfter": "0",
                "validBefore": "9", "nonce": word,
            },
            "signature": "0x11", "salt": word, "saltNonce": word,
        })
    }

    fn with(mut payload: Value, fields: Value) -> Value {
        let fields = fields.as_object().unwrap().clone();
        payload.as_object_mut().unwrap().extend(fields);
        payload
    }

    /// A group of fields that is not whole could be settled in two ways.
    #[test]
    fn what_a_seller_adds_is_whole_and_in_the_unit_of_the_contract() {
        let receiver = Address::repeat_byte(3);
        let amounts = json!({ "amount": "4", "feeAmount": "1", "feeReceiver": receiver });
        let bps = json!({ "amount": "4", "feeBps": 100, "feeReceiver": receiver });
        let problem_of =
            |added: &Value, deployment| problem(&with(payers_part(), added.clone()), deployment);
        assert_eq!(problem(&payers_part(), &V1_1), None);
        assert_eq!(problem_of(&amounts, &V1_1), None);
        assert_eq!(problem_of(&bps, &V1_0), None);
        let format = Some(reason::PAYLOAD_FORMAT.to_string());
        assert_eq!(problem_of(&bps, &V1_1), format);
        assert_eq!(problem_of(&amounts, &V1_0), format);
        assert_eq!(problem_of(&with(amounts.clone(), bps), &V1_1), format);
        for field in ["amount", "feeAmount", "feeReceiver"] {
            let mut part = amounts.clone();
            part.as_object_mut().unwrap().remove(field);
            assert_eq!(problem_of(&part, &V1_1), format, "without {field}");
        }
        let alone = json!({ "authorizerSignature": "0x11" });
        assert_eq!(problem_of(&alone, &V1_1), format);
    }

    #[test]
    fn payload_has_one_authorization() {
        let mut none = payers_part();
        none.as_object_mut().unwrap().remove("authorization");
        assert!(problem(&none, &V1_1).is_some());
        let account = Address::repeat_byte(1);
        let permit = json!({ "permit2Authorization": {
            "from": account, "permitted": { "token": account, "amount": "5" },
            "spender": account, "nonce": "7", "deadline": "9",
        } });
        assert_eq!(problem(&with(none, permit.clone()), &V1_1), None);
        assert!(problem(&with(payers_part(), permit), &V1_1).is_some());
    }

    proptest! {
        #[test]
        fn later_acts_have_what_they_are_signed_for(terms in terms()) {
            let act = |kind: &str| json!({ "type": kind, "paymentInfo": terms });
            let balances = json!({
                "expectedCapturableAmount": "5", "expectedRefundableAmount": "0",
            });
            let refund = with(with(act("refund"), json!({ "amount": "1" })), balances.clone());
            let fee = json!({ "feeAmount": "0", "feeReceiver": Address::ZERO });
            let capture = with(with(act("capture"), fee), json!({ "amount": "1" }));
            let capture = with(capture, balances);
            for whole in [act("void"), refund.clone(), capture.clone()] {
                prop_assert_eq!(problem(&whole, &V1_1), None);
            }
            let format = Some(reason::PAYLOAD_FORMAT.to_string());
            for whole in [&refund, &capture] {
                for field in ["amount", "expectedCapturableAmount", "expectedRefundableAmount"] {
                    let mut part = whole.clone();
                    part.as_object_mut().unwrap().remove(field);
                    prop_assert_eq!(problem(&part, &V1_1), format.clone());
                }
            }
            // Only a capture returns the rest.
            let void = json!({ "voidAuthorizerSignature": "0x" });
            prop_assert_eq!(problem(&with(capture, void.clone()), &V1_1), None);
            let odd = Some(reason::VOID_AUTHORIZER_SIGNATURE.to_string());
            prop_assert_eq!(problem(&with(refund, void.clone()), &V1_1), odd.clone());
            prop_assert_eq!(problem(&with(act("void"), void), &V1_1), odd);
        }

        #[test]
        fn odd_fields_are_refused_without_a_panic(
            kind in prop::option::of(prop::sample::select(vec!["capture", "void", "refund", "x"])),
            field in "[a-zA-Z0-9]{1,20}", text in ".{0,90}", number: i64,
        ) {
            for value in [json!(text), json!(number), json!([number]), Value::Null] {
                let mut payload = payers_part();
                payload["paymentInfo"] = value.clone();
                payload[field.as_str()] = value.clone();
                payload["feeAmount"] = value;
                if let Some(kind) = kind {
                    payload["type"] = json!(kind);
                }
                let _ = problem(&payload, &V1_1);
            }
        }
    }
}
