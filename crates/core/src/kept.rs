//! The part of a request that a journal stores: what a scheme reads, and nothing else.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::json::{Json, Object};
use crate::{Malformed, PaymentRequest, Requirements, Version};

/// The longest request that a journal stores, in bytes. An EIP-3009 authorization with its
/// requirements takes 1 KB, a whole Solana transaction in base64 takes 2 KB, and a contract
/// wallet's signature may take more. The limit is low because rows stay for years and clients
/// choose their content.
pub const KEPT_MAX: usize = 8 * 1024;

/// The most that a journal stores of all extensions of a request, in bytes. A signed approval with
/// its description takes less than 1 KB.
pub const KEPT_EXTENSIONS_MAX: usize = 2 * 1024;

impl PaymentRequest {
    /// The request as a journal stores it: what [`Scheme::decode`](crate::Scheme::decode) may read.
    /// `extensions` are those that the scheme names. Omits the resource, other extensions and
    /// unknown fields.
    ///
    /// [Decoding](Self::decode) it gives the same version, requirements, accepted requirements,
    /// payload and [`extension_info`](Self::extension_info) of these extensions.
    ///
    /// # Errors
    /// When it is longer than `max` bytes, the limit of the request's scheme
    /// ([`Scheme::kept_max`](crate::Scheme::kept_max)), or its extensions than
    /// [`KEPT_EXTENSIONS_MAX`].
    pub fn kept_text(&self, extensions: &[&str], max: usize) -> Result<String, Malformed> {
        let text = match self.version {
            Version::V1 => write(&EnvelopeV1::of(self)),
            Version::V2 => write(&Envelope::of(self, self.kept_extensions(extensions)?)),
        }?;
        match text.len() {
            length if length > max => {
                let problem = format!(
                    "{length} bytes together with its requirements, and at most {max} are settled"
                );
                Err(Malformed::new("paymentPayload.payload", problem))
            }
            _ => Ok(text),
        }
    }

    /// The information in these extensions.
    fn kept_extensions(&self, names: &[&str]) -> Result<BTreeMap<String, Extension>, Malformed> {
        let kept = |name: &&str| {
            let info = self.extension_info(name)?;
            Some(((*name).to_owned(), Extension { info }))
        };
        let kept: BTreeMap<String, Extension> = names.iter().filter_map(kept).collect();
        let length: usize = kept.values().map(|kept| kept.info.text().len()).sum();
        if length > KEPT_EXTENSIONS_MAX {
            let problem = format!("{length} bytes, and at most {KEPT_EXTENSIONS_MAX} are settled");
            return Err(Malformed::new("paymentPayload.extensions", problem));
        }
        Ok(kept)
    }
}

fn write<T: Serialize>(envelope: &T) -> Result<String, Malformed> {
    serde_json::to_string(envelope).map_err(|error| Malformed::new("body", error))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(rename = "x402Version")]
    version: u64,
    payment_payload: Payload<'a>,
    payment_requirements: KeptRequirements<'a>,
}

#[derive(Serialize)]
struct Payload<'a> {
    #[serde(rename = "x402Version")]
    version: u64,
    accepted: KeptRequirements<'a>,
    payload: &'a Object,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extensions: BTreeMap<String, Extension>,
}

/// An extension without its JSON Schema, which describes the information for clients.
#[derive(Serialize)]
struct Extension {
    info: Json,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KeptRequirements<'a> {
    scheme: &'a str,
    network: &'a str,
    amount: String,
    asset: &'a str,
    pay_to: &'a str,
    max_timeout_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<&'a Object>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EnvelopeV1<'a> {
    #[serde(rename = "x402Version")]
    version: u64,
    payment_payload: PayloadV1<'a>,
    payment_requirements: RequirementsV1<'a>,
}

#[derive(Serialize)]
struct PayloadV1<'a> {
    #[serde(rename = "x402Version")]
    version: u64,
    scheme: &'a str,
    network: &'a str,
    payload: &'a Object,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequirementsV1<'a> {
    scheme: &'a str,
    network: &'a str,
    max_amount_required: String,
    /// Required by the format; its value has no effect.
    resource: &'static str,
    asset: &'a str,
    pay_to: &'a str,
    max_timeout_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<&'a Object>,
}

impl<'a> Envelope<'a> {
    fn of(request: &'a PaymentRequest, extensions: BTreeMap<String, Extension>) -> Self {
        let version = request.version.number();
        let requirements = KeptRequirements::of(&request.requirements);
        let echoed = &request.accepted;
        let accepted = KeptRequirements {
            scheme: &echoed.scheme,
            network: &echoed.network,
            extra: None,
            ..KeptRequirements::of(&request.requirements)
        };
        let accepted = match &echoed.requirements {
            None => accepted,
            Some(terms) => KeptRequirements {
                amount: terms.amount.to_string(),
                asset: &terms.asset,
                pay_to: &terms.pay_to,
                max_timeout_seconds: terms.max_timeout_secs,
                extra: terms.extra.as_ref(),
                ..accepted
            },
        };
        Self {
            version,
            payment_payload: Payload {
                version,
                accepted,
                payload: &request.payload,
                extensions,
            },
            payment_requirements: requirements,
        }
    }
}

impl<'a> KeptRequirements<'a> {
    fn of(terms: &'a Requirements) -> Self {
        Self {
            scheme: &terms.scheme,
            network: &terms.network,
            amount: terms.amount.to_string(),
            asset: &terms.asset,
            pay_to: &terms.pay_to,
            max_timeout_seconds: terms.max_timeout_secs,
            extra: terms.extra.as_ref(),
        }
    }
}

impl<'a> EnvelopeV1<'a> {
    fn of(request: &'a PaymentRequest) -> Self {
        let version = request.version.number();
        let terms = &request.requirements;
        Self {
            version,
            payment_payload: PayloadV1 {
                version,
                scheme: &request.accepted.scheme,
                network: &request.accepted.network,
                payload: &request.payload,
            },
            payment_requirements: RequirementsV1 {
                scheme: &terms.scheme,
                network: &terms.network,
                max_amount_required: terms.amount.to_string(),
                resource: "",
                asset: &terms.asset,
                pay_to: &terms.pay_to,
                max_timeout_seconds: terms.max_timeout_secs,
                extra: terms.extra.as_ref(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn decoded(body: &Value) -> PaymentRequest {
        PaymentRequest::decode(body.to_string().as_bytes()).unwrap()
    }

    fn body(version: u64, payload: &Value, extra: &Value, padding: &str) -> Value {
        let terms = json!({ "scheme": "exact", "network": "eip155:84532", "amount": "2500", "asset": "0x2", "payTo": "0x1",
            "maxTimeoutSeconds": 60, "extra": extra, "unknown": padding });
        let terms_v1 = json!({ "scheme": "exact", "network": "base-sepolia", "maxAmountRequired": "2500", "asset": "0x2",
            "payTo": "0x1", "maxTimeoutSeconds": 60, "extra": extra, "resource": padding, "description": padding,
            "mimeType": "", "outputSchema": { "is": padding } });
        match version {
            1 => json!({ "x402Version": 1, "paymentRequirements": terms_v1,
                "paymentPayload": { "x402Version": 1, "scheme": "exact", "network": "base", "payload": payload } }),
            _ => json!({ "x402Version": 2, "paymentRequirements": terms, "unknown": padding,
                "paymentPayload": { "x402Version": 2, "payload": payload, "accepted": json!({ "scheme": "exact",
                    "network": "eip155:8453", "amount": "7", "asset": "0x3", "payTo": "0x4", "maxTimeoutSeconds": 1,
                    "extra": { "memo": "7" }, "unknown": padding }),
                    "resource": { "url": padding },
                    "extensions": { "any": { "thing": padding }, "named": { "info": extra, "schema": padding } } } }),
        }
    }

    proptest! {
        /// A payment that is decoded again after a crash equals the payment that was claimed.
        #[test]
        fn stored_request_decodes_to_the_same_payment(
            version in 1..=2_u64,
            texts in prop::collection::btree_map("[a-z]{1,8}", any::<String>(), 0..6),
            number in any::<u64>(),
            padding in ".{0,200}",
        ) {
            let payload = json!({ "texts": texts, "number": number });
            let request = decoded(&body(version, &payload, &json!({ "name": texts }), &padding));
            let named = ["named", "absent"];
            let text = request.kept_text(&named, KEPT_MAX).unwrap();
            let kept = PaymentRequest::decode(text.as_bytes()).unwrap();
            prop_assert_eq!(kept.version, request.version);
            prop_assert_eq!(&kept.requirements, &request.requirements);
            prop_assert_eq!(&kept.accepted, &request.accepted);
            prop_assert_eq!(&kept.payload, &request.payload);
            // Reducing twice changes nothing more.
            prop_assert_eq!(kept.kept_text(&named, KEPT_MAX).unwrap(), text);
            for name in ["named", "any", "absent"] {
                let info = request.extension_info(name).filter(|_| name == "named");
                prop_assert_eq!(info.is_some(), version == 2 && name == "named");
                prop_assert_eq!(kept.extension_info(name), info);
            }
            prop_assert!(!request.kept_text(&[], KEPT_MAX).unwrap().contains("named"));
        }
    }

    /// A client added 60 kB to a payment of a millionth of a dollar, and the journal stored all of
    /// it for ever.
    #[test]
    fn stored_request_omits_long_informational_fields() {
        let padding = "x".repeat(10_000);
        for version in [1, 2] {
            let request = decoded(&body(version, &json!({}), &json!({}), &padding));
            assert!(request.text().len() > 28_000);
            assert!(request.kept_text(&["named"], KEPT_MAX).unwrap().len() < 600);
        }
    }

    #[test]
    fn a_payload_too_long_to_keep_is_refused_by_its_name() {
        for version in [1, 2] {
            let payload = json!({ "signature": "f".repeat(KEPT_MAX) });
            let request = decoded(&body(version, &payload, &json!({}), ""));
            let refused = request.kept_text(&[], KEPT_MAX).unwrap_err();
            assert_eq!(refused.field, "paymentPayload.payload");
            assert!(refused.problem.contains("at most 8192"), "{refused}");
        }
    }

    #[test]
    fn extensions_too_long_to_keep_are_refused_by_their_name() {
        let long = json!({ "signature": "f".repeat(KEPT_EXTENSIONS_MAX) });
        let request = decoded(&body(2, &json!({}), &long, ""));
        let refused = request.kept_text(&["named"], KEPT_MAX).unwrap_err();
        assert_eq!(refused.field, "paymentPayload.extensions");
        assert!(refused.problem.contains("at most 2048"), "{refused}");
        // What the scheme does not read is not stored.
        assert!(request.kept_text(&["any"], KEPT_MAX).is_ok());
    }
}
