//! The extension `eip2612GasSponsoring`: beside its permit, the payer signs the approval of Permit2
//! at the token (EIP-2612). The proxy submits the approval before it uses the permit, so the payer
//! needs no transaction of its own, and no coin of the chain.
//!
//! The approval has no signature claim. The proxy ignores an approval that fails, because the
//! allowance may be there already. So the simulation of the transfer decides.

use std::collections::BTreeMap;

use alloy::primitives::{Address, Bytes, U256};
use alloy::sol_types::SolValue;
use quittance_core::json::{Json, Object};
use quittance_core::{Amount, PaymentRequest, Reason, Rejection};
use serde::Deserialize;
use serde_json::{Value, json};

use super::approval::APPROVAL_GAS_SPONSORING;
use super::reason;
use crate::abi::EIP2612Permit;
use crate::eip2612::TokenApproval;
use crate::hex::Hex;
use crate::permit2::{PERMIT2, WitnessPermit};
use crate::signature::EcdsaSignature;
use crate::token::Token;

/// The extension's identifier.
pub(crate) const GAS_SPONSORING: &str = "eip2612GasSponsoring";

/// Where a request has the approval.
const FIELD: &str = "paymentPayload.extensions.eip2612GasSponsoring.info";

/// The extensions of a scheme that settles these tokens by Permit2. `sends_approvals` says whether
/// it sends payers' approval transactions.
pub(crate) fn extensions<'a>(
    tokens: impl IntoIterator<Item = &'a Token>,
    sends_approvals: bool,
) -> &'static [&'static str] {
    let signed = tokens.into_iter().any(|token| token.supports_eip2612);
    match (signed, sends_approvals) {
        (true, true) => &[GAS_SPONSORING, APPROVAL_GAS_SPONSORING],
        (true, false) => &[GAS_SPONSORING],
        (false, true) => &[APPROVAL_GAS_SPONSORING],
        (false, false) => &[],
    }
}

/// What a 402 response says of payments in this token by Permit2. `supported` has the facilitator's
/// extensions. A signed approval costs less than a transaction, so only one of the two is offered.
pub(crate) fn offered(token: &Token, supported: &[String]) -> Option<Object> {
    let (name, description, schema) = match token.supports_eip2612 {
        true => (
            GAS_SPONSORING,
            "The facilitator submits a signed approval of Permit2 (EIP-2612) with the payment.",
            schema(&["nonce", "deadline", "signature"]),
        ),
        false => (
            APPROVAL_GAS_SPONSORING,
            "The facilitator sends a signed transaction that approves Permit2, and can pay its gas.",
            schema(&["signedTransaction"]),
        ),
    };
    if !supported.iter().any(|supported| supported == name) {
        return None;
    }
    let info = json!({ "description": description, "version": "1" });
    Object::of(&json!({ name: { "info": info, "schema": schema } })).ok()
}

/// The JSON Schema of the information that a client adds: the fields of every approval, and these.
fn schema(own: &[&str]) -> Value {
    let text = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    let pattern = |field: &str| match field {
        "from" | "asset" | "spender" => "^0x[a-fA-F0-9]{40}$",
        "signature" | "signedTransaction" => "^0x[a-fA-F0-9]+$",
        "version" => "^[0-9]+(\\.[0-9]+)*$",
        _ => "^[0-9]+$",
    };
    let mut fields = vec!["from", "asset", "spender", "amount", "version"];
    fields.extend_from_slice(own);
    let properties = fields
        .iter()
        .map(|field| ((*field).to_owned(), text(pattern(field))));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties.collect::<serde_json::Map<_, _>>(),
        "required": fields,
    })
}

/// Whether a 402 response offers this extension.
pub(crate) fn is_offered(offered: Option<&Object>, name: &str) -> bool {
    let offered = offered.and_then(|offered| {
        let offered = offered.read::<BTreeMap<String, Json>>("extensions");
        offered.ok()
    });
    offered.is_some_and(|offered| offered.contains_key(name))
}

/// An approval of a token that its owner has signed, as the payer writes it.
pub(crate) fn signed(token: Address, approval: &TokenApproval, signature: &Bytes) -> Value {
    json!({ GAS_SPONSORING: { "info": {
        "from": approval.owner.to_checksum(None),
        "asset": token.to_checksum(None),
        "spender": approval.spender.to_checksum(None),
        "amount": approval.value.to_string(),
        "nonce": approval.nonce.to_string(),
        "deadline": approval.deadline.to_string(),
        "signature": signature,
        "version": "1",
    } } })
}

/// An approval of Permit2 in a payment. Its nonce is left out: the token takes its own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "ApprovalJson")]
pub(crate) struct SignedApproval {
    owner: Address,
    token: Address,
    spender: Address,
    value: U256,
    deadline: U256,
    signature: EcdsaSignature,
}

#[derive(Deserialize)]
struct ApprovalJson {
    from: Hex<20>,
    asset: Hex<20>,
    spender: Hex<20>,
    amount: Amount,
    deadline: Amount,
    signature: EcdsaSignature,
}

impl From<ApprovalJson> for SignedApproval {
    fn from(json: ApprovalJson) -> Self {
        Self {
            owner: json.from.0.into(),
            token: json.asset.0.into(),
            spender: json.spender.0.into(),
            value: json.amount.units(),
            deadline: json.deadline.units(),
            signature: json.signature,
        }
    }
}

impl SignedApproval {
    /// The approval in a request, if there is one. Clients that sign none echo what the seller
    /// offered, which has no signature.
    ///
    /// # Errors
    /// If it has a signature and cannot be read. The detail names the field.
    pub(crate) fn read(request: &PaymentRequest) -> Result<Option<Self>, Rejection> {
        #[derive(Deserialize)]
        struct Signed {
            signature: Option<Json>,
        }
        let Some(info) = request.extension_info(GAS_SPONSORING) else {
            return Ok(None);
        };
        match info.read::<Signed>(FIELD) {
            Ok(Signed { signature: Some(_) }) => {}
            _ => return Ok(None),
        }
        let approval = info.read(FIELD);
        let unreadable = |malformed| Rejection::new(reason::EIP2612_FORMAT, malformed);
        approval.map(Some).map_err(unreadable)
    }

    /// Checks that it approves exactly what the permit needs. `other_amount` is the code of an
    /// approval of another amount.
    pub(crate) fn check(
        &self,
        permit: &WitnessPermit,
        other_amount: Reason,
    ) -> Result<(), Rejection> {
        let mismatch = |reason, what: &str, found: &str, expected: &str| {
            let detail = format!("{FIELD}.{what} is {found}, but must be {expected}");
            Err(Rejection::new(reason, detail))
        };
        let accounts = [
            (
                "from",
                self.owner,
                permit.owner,
                reason::EIP2612_FROM_MISMATCH,
            ),
            (
                "asset",
                self.token,
                permit.token,
                reason::EIP2612_ASSET_MISMATCH,
            ),
            (
                "spender",
                self.spender,
                PERMIT2,
                reason::EIP2612_SPENDER_NOT_PERMIT2,
            ),
        ];
        for (what, found, expected, reason) in accounts {
            if found != expected {
                return mismatch(reason, what, &found.to_string(), &expected.to_string());
            }
        }
        if self.value != permit.amount {
            let (found, expected) = (self.value.to_string(), permit.amount.to_string());
            return mismatch(other_amount, "amount", &found, &expected);
        }
        Ok(())
    }

    /// The first block time at which it can no longer be submitted, in seconds since 1970: tokens
    /// accept a block at the deadline itself.
    pub(crate) fn valid_before(&self) -> U256 {
        self.deadline.saturating_add(U256::ONE)
    }

    /// The approval as the collector of deposits takes it.
    pub(crate) fn to_collector_data(&self) -> Bytes {
        let EIP2612Permit {
            value,
            deadline,
            r,
            s,
            v,
        } = self.to_abi();
        (value, deadline, U256::from(v), r, s)
            .abi_encode_params()
            .into()
    }

    /// The approval as the proxies take it.
    pub(crate) fn to_abi(&self) -> EIP2612Permit {
        EIP2612Permit {
            value: self.value,
            deadline: self.deadline,
            r: self.signature.r(),
            s: self.signature.s(),
            v: self.signature.v(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A request with this information in the extension.
    fn request(info: &Value) -> PaymentRequest {
        let terms = json!({ "scheme": "exact", "network": "eip155:84532", "amount": "1",
            "asset": "0x2", "payTo": "0x1", "maxTimeoutSeconds": 60 });
        let payload = json!({ "x402Version": 2, "accepted": terms, "payload": {},
            "extensions": { GAS_SPONSORING: { "info": info, "schema": {} } } });
        let request = json!({ "x402Version": 2, "paymentPayload": payload,
            "paymentRequirements": terms });
        PaymentRequest::decode(request.to_string().as_bytes()).unwrap()
    }

    fn info() -> Value {
        let account = Address::repeat_byte(1);
        let approval = TokenApproval::new(account, PERMIT2, U256::from(5), U256::ZERO, U256::MAX);
        let signed = signed(account, &approval, &Bytes::from(vec![1; 65]));
        signed[GAS_SPONSORING]["info"].clone()
    }

    #[test]
    fn approval_is_read_as_its_payer_writes_it() {
        let approval = SignedApproval::read(&request(&info())).unwrap().unwrap();
        assert_eq!((approval.spender, approval.value), (PERMIT2, U256::from(5)));
        assert_eq!(approval.valid_before(), U256::MAX);
    }

    /// Clients echo what the seller offered.
    #[test]
    fn extension_without_a_signature_is_no_approval() {
        let mut unsigned = info();
        unsigned.as_object_mut().unwrap().remove("signature");
        for echoed in [
            json!({ "version": "1" }),
            unsigned,
            json!("odd"),
            json!(null),
        ] {
            let read = SignedApproval::read(&request(&echoed));
            assert_eq!(read.unwrap(), None, "{echoed}");
        }
    }

    #[test]
    fn unreadable_approval_names_its_field() {
        for field in [
            "from",
            "asset",
            "spender",
            "amount",
            "deadline",
            "signature",
        ] {
            for value in [json!("odd"), json!([]), json!(true)] {
                let mut info = info();
                info[field] = value;
                let rejection = SignedApproval::read(&request(&info)).unwrap_err();
                assert_eq!(rejection.reason, reason::EIP2612_FORMAT);
                let detail = rejection.detail.unwrap();
                assert!(detail.starts_with(&format!("{FIELD}.{field}")), "{detail}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_information_panics(
            fields in prop::collection::btree_map("[a-z]{1,9}", ".{0,20}", 0..9),
            signature: Option<String>,
        ) {
            let mut info = json!(fields);
            if let Some(signature) = &signature {
                info["signature"] = json!(signature);
            }
            let read = SignedApproval::read(&request(&info));
            let is_signed = info.get("signature").is_some();
            prop_assert_eq!(read.is_err(), is_signed);
        }
    }
}
