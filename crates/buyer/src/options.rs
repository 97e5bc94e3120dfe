//! The payment options of a 402 response, of either protocol version.

use std::collections::BTreeMap;

use quittance_core::json::{self, Json, Object};
use quittance_core::wire::{PaymentPayload, PaymentRequirements, header, v1};
use quittance_core::{Malformed, SignedPayment, Version, printable};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// The payment options of a 402 response.
#[derive(Debug)]
pub(crate) struct PaymentOptions {
    version: Version,
    /// The server's reason for requiring payment or for refusing the last one. Not printable.
    pub(crate) error: Option<String>,
    /// The options that could be parsed. Version 1 requirements are converted to version 2, but
    /// keep their version 1 network name.
    pub(crate) accepts: Vec<PaymentRequirements>,
    /// Why the other options could not be parsed.
    pub(crate) unreadable: Vec<Malformed>,
    resource: Option<Json>,
    /// The offered extensions, by identifier. Not interpreted, so they may be any JSON.
    extensions: Option<Json>,
    /// The same, if they are an object, as payers need them.
    offered: Option<Object>,
}

/// A 402 response with unparsed options, so that an invalid one does not affect the others.
#[derive(Deserialize)]
struct Required {
    #[serde(default)]
    error: Option<Json>,
    #[serde(default)]
    resource: Option<Json>,
    accepts: Vec<Box<RawValue>>,
    #[serde(default)]
    extensions: Option<Json>,
}

impl PaymentOptions {
    /// Parses the header of a 402 response.
    ///
    /// # Errors
    /// When it cannot be parsed. The text of the error is printable.
    pub(crate) fn from_header(value: &[u8]) -> Result<Self, Malformed> {
        let name = header::PAYMENT_REQUIRED;
        header::text(name, value)
            .and_then(|text| Self::parse(name, &text))
            .map_err(printable_error)
    }

    /// Parses the body of a 402 response.
    ///
    /// # Errors
    /// When it cannot be parsed. The text of the error is printable.
    pub(crate) fn from_body(body: &[u8]) -> Result<Self, Malformed> {
        Self::parse("body", body).map_err(printable_error)
    }

    /// Chooses between the header, if there is one, and the body. Either may be of either version:
    /// some servers write version 1 requirements into the header, and others write version 2
    /// requirements into the body. The header wins unless it lists no option that can be parsed.
    ///
    /// # Errors
    /// When neither can be parsed: the header's error, if there is a header.
    pub(crate) fn prefer(
        from_header: Option<Result<Self, Malformed>>,
        from_body: Result<Self, Malformed>,
    ) -> Result<Self, Malformed> {
        match (from_header, from_body) {
            (None, body) => body,
            (Some(Ok(header)), Ok(body)) => {
                match header.accepts.is_empty() && !body.accepts.is_empty() {
                    true => Ok(body),
                    false => Ok(header),
                }
            }
            (Some(Err(_)), Ok(body)) => Ok(body),
            (Some(header), Err(_)) => header,
        }
    }

    fn parse(name: &str, text: &[u8]) -> Result<Self, Malformed> {
        let version = version(name, header::stated_version(name, text)?)?;
        let required: Required = json::read(name, text)?;
        // Version 1 has no place for them in a payment.
        let extensions = required.extensions.filter(|_| version == Version::V2);
        let offered = extensions.as_ref().and_then(|it| it.read(name).ok());
        let mut options = Self {
            version,
            error: required.error.map(reason_text),
            accepts: Vec::new(),
            unreadable: Vec::new(),
            resource: required.resource,
            extensions,
            offered,
        };
        for (at, option) in required.accepts.iter().enumerate() {
            let (name, text) = (format!("{name}.accepts[{at}]"), option.get().as_bytes());
            let parsed = match version {
                Version::V2 => json::read(&name, text),
                Version::V1 => {
                    let parsed = json::read::<v1::PaymentRequirements>(&name, text);
                    parsed.map(PaymentRequirements::from)
                }
            };
            match parsed {
                Ok(requirements) => options.accepts.push(requirements),
                Err(malformed) => options.unreadable.push(printable_error(malformed)),
            }
        }
        Ok(options)
    }

    /// Keeps only the options with the price and the recipient of `paid`. Their `extra` may differ.
    pub(crate) fn keep_like(&mut self, paid: &PaymentRequirements) {
        self.unreadable.clear();
        self.accepts.retain(|option| {
            option.scheme == paid.scheme
                && option.network == paid.network
                && option.asset == paid.asset
                && option.pay_to == paid.pay_to
                && option.amount == paid.amount
        });
    }

    /// The offered extensions, for a payer.
    pub(crate) fn extensions(&self) -> Option<&Object> {
        self.offered.as_ref()
    }

    /// The extensions of a payment: the offered ones, with what the payer signed. What it did not
    /// sign keeps its exact text.
    fn with_signed(&self, signed: Option<&Object>) -> Option<Json> {
        let (Some(signed), Some(offered)) = (signed, &self.offered) else {
            return self.extensions.clone();
        };
        let mut all: BTreeMap<String, Json> = offered.read("extensions").ok()?;
        for (name, signed) in signed.tree() {
            let mut value = all.get(&name).map_or(Value::Null, Json::tree);
            merge(&mut value, signed);
            all.insert(name, Json::of(&value).ok()?);
        }
        Json::of(&all).ok()
    }

    /// The payment header for the chosen option: its protocol version and its value.
    pub(crate) fn payment_header(
        &self,
        chosen: &PaymentRequirements,
        signed: &SignedPayment,
    ) -> (Version, String) {
        let payload = signed.payload.clone();
        let value = match self.version {
            Version::V2 => {
                let mut payment = PaymentPayload::new(chosen.clone(), payload);
                payment.resource.clone_from(&self.resource);
                payment.extensions = self.with_signed(signed.extensions.as_ref());
                header::encode(&payment)
            }
            Version::V1 => {
                let payment = v1::PaymentPayload::new(&chosen.scheme, &chosen.network, payload);
                header::encode(&payment)
            }
        };
        (self.version, value)
    }
}

/// Adds `more` to a value. Objects keep the fields that `more` does not have, because a server
/// compares the fields that it has offered with their echo.
fn merge(value: &mut Value, more: Value) {
    match (value, more) {
        (Value::Object(fields), Value::Object(more)) => {
            for (name, more) in more {
                merge(fields.entry(name).or_insert(Value::Null), more);
            }
        }
        (value, more) => *value = more,
    }
}

/// The protocol version in `x402Version`. If it is missing, a header is version 2 and a body is
/// version 1.
fn version(name: &str, stated: Option<String>) -> Result<Version, Malformed> {
    let Some(stated) = stated else {
        return Ok(match name {
            header::PAYMENT_REQUIRED => Version::V2,
            _ => Version::V1,
        });
    };
    let mut supported = [Version::V1, Version::V2].into_iter();
    let version = supported.find(|version| version.number().to_string() == stated);
    version.ok_or_else(|| {
        let problem = format!("unsupported version {stated}; supported: 1 and 2");
        Malformed::new(format!("{name}.x402Version"), problem)
    })
}

/// A reason for people: the string, or the JSON of any other value.
fn reason_text(error: Json) -> String {
    let text = error.read("error");
    text.unwrap_or_else(|_| error.text().to_owned())
}

/// The error without control characters: it may quote the server.
fn printable_error(error: Malformed) -> Malformed {
    Malformed::new(printable(&error.field), printable(&error.problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quittance_core::Timestamp;
    use serde_json::json;

    fn options(extensions: &str) -> PaymentOptions {
        let text = format!(r#"{{"x402Version":2,"accepts":[],"extensions":{extensions}}}"#);
        PaymentOptions::from_body(text.as_bytes()).unwrap()
    }

    fn presented(options: &PaymentOptions, signed: Option<Value>) -> String {
        let payment = SignedPayment {
            payload: Object::of(&json!({})).unwrap(),
            extensions: signed.map(|signed| Object::of(&signed).unwrap()),
            expires: Timestamp::from_secs(1),
        };
        let chosen = PaymentRequirements::new("exact", "a:1", "1", "b", "c", 60);
        let (_, header) = options.payment_header(&chosen, &payment);
        let sent: PaymentPayload = header::decode("payment", header.as_bytes()).unwrap();
        sent.extensions
            .map_or(String::new(), |it| it.text().to_owned())
    }

    #[test]
    fn signed_extension_keeps_the_offered_fields() {
        let options = options(r#"{"b":{"info":{"version":"1"},"schema":{ "x":1e0 }},"a":[ 1e0 ]}"#);
        assert_eq!(options.extensions().unwrap().tree().len(), 2);
        let signed = json!({ "b": { "info": { "from": "0x1" } } });
        let sent = presented(&options, Some(signed));
        assert!(sent.contains(r#""a":[ 1e0 ]"#), "{sent}");
        let sent: Value = serde_json::from_str(&sent).unwrap();
        let info = json!({ "version": "1", "from": "0x1" });
        assert_eq!(sent["b"], json!({ "info": info, "schema": { "x": 1.0 } }));
    }

    #[test]
    fn extensions_that_are_no_object_are_echoed() {
        let options = options("[ 7.50 ]");
        assert_eq!(options.extensions(), None);
        for signed in [None, Some(json!({ "a": 1 }))] {
            assert_eq!(presented(&options, signed), "[ 7.50 ]");
        }
    }

    proptest! {
        #[test]
        fn what_a_payer_does_not_sign_is_echoed_untouched(
            names in prop::collection::btree_set("[a-z]{1,4}", 1..6),
            spaces in "[ ]{0,3}",
            number in "[1-9][0-9]{0,3}(\\.[0-9]{1,3})?(e[0-9])?",
            signed: bool,
        ) {
            let value = format!("{{{spaces}\"n\":{spaces}[{number}{spaces}]}}");
            let fields: Vec<_> = names.iter().map(|name| format!("\"{name}\":{value}")).collect();
            let offered = format!("{{{}}}", fields.join(","));
            let signed = signed.then(|| json!({ "SIGNED": {} }));
            let sent = presented(&options(&offered), signed.clone());
            let fields: BTreeMap<String, Json> = serde_json::from_str(&sent).unwrap();
            prop_assert_eq!(fields.len(), names.len() + usize::from(signed.is_some()));
            for name in names {
                prop_assert_eq!(fields[&name].text(), &value);
            }
        }
    }
}
