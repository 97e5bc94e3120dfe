//! A server's receipt, taken as far as it can be read.
//!
//! Sellers write it in many ways: without the network, with `transaction: null`, with the transaction under the name that
//! their chain's library uses. What is missing decides nothing; what is named is never dropped; and a receipt that is there and
//! cannot be read is no proof of anything.

use http::HeaderMap;
use quittance_core::Reason;
use quittance_core::json::{self, Json};
use quittance_core::wire::{header, transaction_named};
use serde_json::{Map, Value};

/// A server's receipt for a payment, as far as it can be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Receipt {
    /// Whether it says that the money has moved. Only the JSON value `true` says so.
    pub success: bool,
    /// The reason code, where it is a text.
    pub error_reason: Option<String>,
    /// For people: more about the reason.
    pub error_message: Option<String>,
    /// Who paid.
    pub payer: Option<String>,
    /// The transaction, under whatever name the server tells it; empty where none is named.
    pub transaction: String,
    /// The network; empty where it is not named.
    pub network: String,
    /// What stood in the header: the JSON, or null where it is none.
    pub said: Value,
    /// What of it is not as the specification has it.
    pub unclear: Option<&'static str>,
}

impl Receipt {
    /// The receipt in these headers: the first that is clear, or else the first. A transaction that only another one names
    /// is taken from there.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let names = [header::PAYMENT_RESPONSE, header::X_PAYMENT_RESPONSE];
        let found: Vec<Self> = names
            .into_iter()
            .flat_map(|name| headers.get_all(name).iter().map(move |value| (name, value)))
            .map(|(name, value)| Self::read(name, value.as_bytes()))
            .collect();
        let chosen = found.iter().position(|receipt| receipt.unclear.is_none());
        let mut receipt = found.get(chosen.unwrap_or(0))?.clone();
        if receipt.transaction.is_empty() {
            let mut named = found.iter().map(|other| &other.transaction);
            let named = named.find(|named| !named.is_empty());
            receipt.transaction = named.cloned().unwrap_or_default();
        }
        Some(receipt)
    }

    fn read(name: &str, value: &[u8]) -> Self {
        // Some servers leave the base64 out.
        let text = header::text(name, value).unwrap_or_else(|_| value.to_vec());
        let said: Value = serde_json::from_slice(&text).unwrap_or_default();
        // Also from one that breaks off.
        let transaction = transaction_named(&text).unwrap_or_default();
        let Value::Object(fields) = &said else {
            return Self::unreadable(said, transaction);
        };
        let text_of = |name: &str| fields.get(name)?.as_str().map(str::to_owned);
        // Readers of a repeated key may see two receipts.
        let is_strict = json::read::<Json>(name, &text).is_ok();
        Self {
            success: fields.get("success") == Some(&Value::Bool(true)),
            error_reason: text_of("errorReason"),
            error_message: text_of("errorMessage"),
            payer: text_of("payer"),
            transaction,
            network: text_of("network").unwrap_or_default(),
            unclear: match is_strict {
                true => objection(fields),
                false => Some("a key stands in it twice, or it nests too deep"),
            },
            said,
        }
    }

    fn unreadable(said: Value, transaction: String) -> Self {
        Self {
            success: false,
            error_reason: None,
            error_message: None,
            payer: None,
            transaction,
            network: String::new(),
            said,
            unclear: Some("it is not a JSON object in base64"),
        }
    }

    /// Whether it says that the money has not moved: what a served answer beside it contradicts.
    pub fn denies(&self) -> bool {
        let says_why = self
            .said
            .get("errorReason")
            .is_some_and(|why| !why.is_null());
        match self.said.get("success") {
            Some(Value::Bool(success)) => !success,
            _ => says_why,
        }
    }

    /// Whether it says "broadcast, outcome not known yet".
    pub fn is_pending(&self) -> bool {
        !self.success
            && !self.transaction.is_empty()
            && self.error_reason.as_deref() == Some(Reason::SETTLEMENT_PENDING.code())
    }
}

/// What of it is not as the specification has it.
fn objection(fields: &Map<String, Value>) -> Option<&'static str> {
    let is_text = |name: &str| matches!(fields.get(name), Some(Value::String(_)));
    let reason = fields.get("errorReason").unwrap_or(&Value::Null);
    if !matches!(fields.get("success"), Some(Value::Bool(_))) {
        Some("success is neither true nor false")
    } else if !is_text("transaction") {
        Some("transaction is not a text")
    } else if !is_text("network") {
        Some("network is not a text")
    } else if !matches!(reason, Value::Null | Value::String(_)) {
        Some("errorReason is not a text")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn headers(values: &[(&'static str, &Value)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            let value: HeaderValue = header::encode(value).parse().unwrap();
            headers.append(*name, value);
        }
        headers
    }

    fn receipt(value: &Value) -> Receipt {
        Receipt::of(&headers(&[(header::PAYMENT_RESPONSE, value)])).unwrap()
    }

    #[test]
    fn a_receipt_as_the_specification_has_it_is_clear() {
        for value in [
            json!({ "success": true, "transaction": "0x1", "network": "a:1" }),
            json!({ "success": false, "errorReason": "no", "transaction": "", "network": "a:1" }),
            json!({ "success": false, "errorReason": null, "transaction": "", "network": "a:1", "x": {} }),
        ] {
            let receipt = receipt(&value);
            assert_eq!(receipt.unclear, None, "{value}");
            assert_eq!(receipt.success, value["success"], "{value}");
            assert_eq!(receipt.denies(), !receipt.success, "{value}");
        }
    }

    #[test]
    fn what_can_be_read_of_an_unclear_receipt_is_read() {
        for (value, reason, transaction) in [
            (
                json!({ "success": false, "errorReason": "no", "transaction": "0x1" }),
                Some("no"),
                "0x1",
            ),
            (
                json!({ "success": false, "errorReason": "no", "transaction": null, "network": "a:1" }),
                Some("no"),
                "",
            ),
            (
                json!({ "success": false, "errorReason": "no", "transactionHash": "0x2", "network": "a:1" }),
                Some("no"),
                "0x2",
            ),
            (
                json!({ "success": false, "errorReason": { "type": "no" }, "transaction": "0x3", "network": "a:1" }),
                None,
                "0x3",
            ),
            (json!({ "transaction": { "hash": "0x4" } }), None, "0x4"),
            (json!({ "transaction": "", "tx_hash": "0x5" }), None, "0x5"),
            (
                json!({ "success": "true", "transaction": "no id\n" }),
                None,
                "",
            ),
            (json!({ "signature": "5x" }), None, "5x"),
            (json!([1]), None, ""),
        ] {
            let receipt = receipt(&value);
            assert!(receipt.unclear.is_some() && !receipt.success, "{value}");
            assert_eq!(receipt.error_reason.as_deref(), reason, "{value}");
            assert_eq!(receipt.transaction, transaction, "{value}");
        }
    }

    #[test]
    fn an_unreadable_receipt_hides_no_readable_one() {
        let good = json!({ "success": true, "transaction": "0x1", "network": "a:1" });
        let mut answer = headers(&[(header::X_PAYMENT_RESPONSE, &good)]);
        answer.insert(
            header::PAYMENT_RESPONSE,
            HeaderValue::from_static("see below"),
        );
        let receipt = Receipt::of(&answer).unwrap();
        assert!(receipt.success && receipt.unclear.is_none(), "{receipt:?}");
        // Nor does a clear one hide the transaction that only the other names.
        let clear =
            json!({ "success": false, "errorReason": "no", "transaction": "", "network": "a:1" });
        let names = json!({ "hash": "0x2" });
        let both = [
            (header::PAYMENT_RESPONSE, &clear),
            (header::X_PAYMENT_RESPONSE, &names),
        ];
        let receipt = Receipt::of(&headers(&both)).unwrap();
        assert_eq!(
            (receipt.transaction.as_str(), receipt.unclear),
            ("0x2", None)
        );
        assert!(Receipt::of(&HeaderMap::new()).is_none());
    }

    #[test]
    fn a_receipt_without_base64_is_read() {
        let mut headers = HeaderMap::new();
        let value =
            HeaderValue::from_static(r#"{"success":true,"transaction":"0x1","network":"a:1"}"#);
        headers.insert(header::PAYMENT_RESPONSE, value);
        assert_eq!(Receipt::of(&headers).unwrap().transaction, "0x1");
    }

    /// Some proxies cut long headers.
    #[test]
    fn a_receipt_that_breaks_off_names_its_transaction() {
        let value = r#"{"success":true,"transaction":"0x1","network":"a"#;
        let mut headers = HeaderMap::new();
        headers.insert(header::PAYMENT_RESPONSE, HeaderValue::from_static(value));
        let receipt = Receipt::of(&headers).unwrap();
        assert!(!receipt.success && receipt.unclear.is_some(), "{receipt:?}");
        assert_eq!(receipt.transaction, "0x1");
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            "[ -~]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let name = prop_oneof![
                Just("transaction".to_owned()),
                Just("txHash".to_owned()),
                Just("success".to_owned()),
                Just("errorReason".to_owned()),
                Just("network".to_owned()),
                "[a-z]{0,3}",
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((name, inner), 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Whatever a server writes: only `true` is a success, a plain transaction is never dropped, and what the
        /// specification does not know is never clear.
        #[test]
        fn any_receipt_is_read_as_far_as_it_can_be(value in tree()) {
            let receipt = receipt(&value);
            prop_assert_eq!(receipt.success, value.get("success") == Some(&json!(true)));
            let named = value.get("transaction").and_then(Value::as_str);
            let is_id = |text: &&str| {
                !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
            };
            if let Some(text) = named.filter(is_id) {
                prop_assert_eq!(&receipt.transaction, text);
            }
            if receipt.unclear.is_none() {
                prop_assert!(value["transaction"].is_string() && value["network"].is_string());
                prop_assert!(value["success"].is_boolean());
            }
        }

        #[test]
        fn any_bytes_are_a_receipt_or_an_unclear_one(bytes in prop::collection::vec(0x20_u8..0x7f, 0..64)) {
            let mut headers = HeaderMap::new();
            headers.insert(header::PAYMENT_RESPONSE, HeaderValue::from_bytes(&bytes).unwrap());
            prop_assert!(Receipt::of(&headers).is_some());
        }
    }
}
