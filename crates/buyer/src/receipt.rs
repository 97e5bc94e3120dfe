//! A server's receipt, parsed as far as possible.
//!
//! Sellers write receipts in many ways: without the network, with `transaction: null`, or with the
//! transaction under the name that their chain's library uses. A missing field decides nothing. A
//! named transaction is never dropped. A receipt that cannot be parsed proves nothing.

use quittance_core::json::{self, Json};
use quittance_core::wire::{SettleResponse, header, transaction_named};
use quittance_core::{Amount, Reason};
use serde_json::{Map, Value};

/// A server's receipt for a payment, parsed as far as possible.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Receipt {
    /// Whether the receipt says that the money has moved. Only the JSON value `true` counts.
    pub success: bool,
    /// The reason code, if it is a string.
    pub error_reason: Option<String>,
    /// More about the reason, for people.
    pub error_message: Option<String>,
    /// The payer's address.
    pub payer: Option<String>,
    /// The transaction, under any of its usual names; empty if the receipt names none.
    pub transaction: String,
    /// The network; empty if the receipt names none.
    pub network: String,
    /// The settled amount in atomic units, if the receipt names one.
    pub amount: Option<Amount>,
    /// The header's JSON; null if the header is not JSON.
    pub json: Value,
    /// Where the receipt departs from the specification.
    pub unclear: Option<&'static str>,
}

impl Receipt {
    /// Parses the receipt headers of a response, given by name and value. Returns the first receipt
    /// that is clear, or else the first. If that one names no transaction, another one's
    /// transaction is used.
    pub(crate) fn from_headers<'a>(
        headers: impl IntoIterator<Item = (&'static str, &'a [u8])>,
    ) -> Option<Self> {
        let found: Vec<Self> = headers
            .into_iter()
            .map(|(name, value)| Self::parse(name, value))
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

    fn parse(name: &str, value: &[u8]) -> Self {
        // Some servers send the JSON without base64.
        let text = header::text(name, value).unwrap_or_else(|_| value.to_vec());
        let json: Value = serde_json::from_slice(&text).unwrap_or_default();
        // Works on truncated JSON too.
        let transaction = transaction_named(&text).unwrap_or_default();
        let Value::Object(fields) = &json else {
            return Self::unparsable(json, transaction);
        };
        let text_of = |name: &str| fields.get(name)?.as_str().map(str::to_owned);
        // Two parsers may read a repeated key differently.
        let is_strict = json::read::<Json>(name, &text).is_ok();
        Self {
            success: fields.get("success") == Some(&Value::Bool(true)),
            error_reason: text_of("errorReason"),
            error_message: text_of("errorMessage"),
            payer: text_of("payer"),
            transaction,
            network: text_of("network").unwrap_or_default(),
            amount: text_of("amount").and_then(|amount| amount.parse().ok()),
            unclear: match is_strict {
                true => departure(fields),
                false => Some("a key is repeated, or it nests too deep"),
            },
            json,
        }
    }

    fn unparsable(json: Value, transaction: String) -> Self {
        Self {
            success: false,
            error_reason: None,
            error_message: None,
            payer: None,
            transaction,
            network: String::new(),
            amount: None,
            json,
            unclear: Some("it is not a JSON object in base64"),
        }
    }

    /// The amount that was charged of at most `signed`. `None` if the receipt is not successful or
    /// names no such amount.
    pub(crate) fn charged(&self, signed: Amount) -> Option<Amount> {
        // The amount of a receipt is what moved, such as a deposit.
        let named = self.json.pointer("/extra/chargedAmount");
        let named = named.and_then(Value::as_str);
        let named = named.and_then(|named| named.parse().ok());
        named
            .or(self.amount)
            .filter(|amount| self.success && *amount <= signed)
    }

    /// Whether the receipt says that the money has not moved. A successful response with such a
    /// receipt contradicts itself.
    pub fn denies(&self) -> bool {
        let says_why = self
            .json
            .get("errorReason")
            .is_some_and(|why| !why.is_null());
        match self.json.get("success") {
            Some(Value::Bool(success)) => !success,
            _ => says_why,
        }
    }

    /// The receipt as a message of the protocol; `None` if it cannot be read as one.
    pub(crate) fn message(&self) -> Option<SettleResponse> {
        Json::of(&self.json).ok()?.read("receipt").ok()
    }

    /// Whether the receipt says that the transaction was broadcast and its outcome is unknown.
    pub fn is_pending(&self) -> bool {
        !self.success
            && !self.transaction.is_empty()
            && self.error_reason.as_deref() == Some(Reason::SETTLEMENT_PENDING.code())
    }
}

/// Where the fields depart from the specification.
fn departure(fields: &Map<String, Value>) -> Option<&'static str> {
    let is_text = |name: &str| matches!(fields.get(name), Some(Value::String(_)));
    let reason = fields.get("errorReason").unwrap_or(&Value::Null);
    if !matches!(fields.get("success"), Some(Value::Bool(_))) {
        Some("success is neither true nor false")
    } else if !is_text("transaction") {
        Some("transaction is not a string")
    } else if !is_text("network") {
        Some("network is not a string")
    } else if !matches!(reason, Value::Null | Value::String(_)) {
        Some("errorReason is not a string")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(values: &[(&'static str, &str)]) -> Option<Receipt> {
        let headers = values.iter().map(|(name, value)| (*name, value.as_bytes()));
        Receipt::from_headers(headers)
    }

    fn receipt(value: &Value) -> Receipt {
        parse(&[(header::PAYMENT_RESPONSE, &header::encode(value))]).unwrap()
    }

    #[test]
    fn a_receipt_that_follows_the_specification_is_clear() {
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
    fn the_readable_fields_of_an_unclear_receipt_are_kept() {
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
    fn charge_is_at_most_what_was_signed_and_successful() {
        let charged = |success: bool, amount: Value| {
            let value = json!({ "success": success, "amount": amount });
            receipt(&value).charged(Amount::from(10))
        };
        for amount in [0_u64, 4, 10] {
            let text = json!(amount.to_string());
            assert_eq!(charged(true, text.clone()), Some(Amount::from(amount)));
            assert_eq!(charged(false, text), None);
        }
        for odd in [
            json!("11"),
            json!("-1"),
            json!("1.5"),
            json!(4),
            Value::Null,
        ] {
            assert_eq!(charged(true, odd.clone()), None, "{odd}");
        }
    }

    #[test]
    fn an_unclear_receipt_does_not_hide_a_clear_one() {
        let good = json!({ "success": true, "transaction": "0x1", "network": "a:1" });
        let found = parse(&[
            (header::PAYMENT_RESPONSE, "see below"),
            (header::X_PAYMENT_RESPONSE, &header::encode(&good)),
        ]);
        let receipt = found.unwrap();
        assert!(receipt.success && receipt.unclear.is_none(), "{receipt:?}");
        // A clear receipt does not hide the transaction that only the other one names.
        let clear =
            json!({ "success": false, "errorReason": "no", "transaction": "", "network": "a:1" });
        let found = parse(&[
            (header::PAYMENT_RESPONSE, &header::encode(&clear)),
            (
                header::X_PAYMENT_RESPONSE,
                &header::encode(&json!({ "hash": "0x2" })),
            ),
        ]);
        let receipt = found.unwrap();
        assert_eq!(
            (receipt.transaction.as_str(), receipt.unclear),
            ("0x2", None)
        );
        assert!(parse(&[]).is_none());
    }

    #[test]
    fn a_receipt_without_base64_is_parsed() {
        let value = r#"{"success":true,"transaction":"0x1","network":"a:1"}"#;
        let receipt = parse(&[(header::PAYMENT_RESPONSE, value)]).unwrap();
        assert_eq!(receipt.transaction, "0x1");
    }

    /// Some proxies cut long headers.
    #[test]
    fn a_truncated_receipt_names_its_transaction() {
        let value = r#"{"success":true,"transaction":"0x1","network":"a"#;
        let receipt = parse(&[(header::PAYMENT_RESPONSE, value)]).unwrap();
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
        /// Only `true` is a success, a plain transaction is never dropped, and a receipt outside
        /// the specification is never clear.
        #[test]
        fn the_readable_fields_of_any_receipt_are_kept(value in tree()) {
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
        fn any_bytes_give_a_receipt(bytes in prop::collection::vec(0x20_u8..0x7f, 0..64)) {
            let headers = [(header::PAYMENT_RESPONSE, bytes.as_slice())];
            prop_assert!(Receipt::from_headers(headers).is_some());
        }
    }
}
