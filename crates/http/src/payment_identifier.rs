//! The extension `payment-identifier`: a buyer names its payment, and a seller answers a repeated
//! request with the same name by the same response. Specification: `payment_identifier.md` of the
//! extensions.

use std::fmt;
use std::sync::Arc;

use quittance_core::Malformed;
use quittance_core::json::Json;
use serde_json::{Value, json};

/// The identifier of the extension.
pub const PAYMENT_IDENTIFIER: &str = "payment-identifier";

/// The shortest id in characters.
const LENGTH_MIN: usize = 16;

/// The longest id in characters.
const LENGTH_MAX: usize = 128;

/// A buyer's name for one payment of one request: 16 to 128 letters, digits, hyphens and
/// underscores.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PaymentIdentifier(Arc<str>);

impl PaymentIdentifier {
    /// The identifier with this text.
    ///
    /// # Errors
    /// When it is too short or too long, or has another character.
    pub fn new(text: &str) -> Result<Self, Malformed> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let has_length = (LENGTH_MIN..=LENGTH_MAX).contains(&text.len());
        match has_length && text.bytes().all(is_allowed) {
            true => Ok(Self(text.into())),
            false => Err(malformed(
                "not 16 to 128 letters, digits, hyphens and underscores",
            )),
        }
    }

    /// The identifier with these random bytes: `pay_` and 32 hexadecimal digits.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(format!("pay_{:032x}", u128::from_be_bytes(bytes)).into())
    }

    /// Reads the identifier in the extensions of a payment. `None` if the payment has none: the
    /// extension is absent, or is an echo without an id.
    ///
    /// # Errors
    /// When the extension is not an object with an object `info`, or the id is invalid.
    pub fn read(extensions: Option<&Json>) -> Result<Option<Self>, Malformed> {
        let extensions = extensions.map(Json::tree);
        let Some(extension) = extensions
            .as_ref()
            .and_then(|all| all.get(PAYMENT_IDENTIFIER))
        else {
            return Ok(None);
        };
        let Value::Object(extension) = extension else {
            return Err(malformed("the extension is not an object"));
        };
        match extension.get("info") {
            None => Ok(None),
            Some(Value::Object(info)) => match info.get("id") {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(text)) => Self::new(text).map(Some),
                Some(_) => Err(malformed("not a string")),
            },
            Some(_) => Err(malformed("`info` is not an object")),
        }
    }

    /// What a 402 response says of the extension.
    pub fn offered(is_required: bool) -> Value {
        json!({
            "info": { "required": is_required },
            "schema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "properties": {
                    "required": { "type": "boolean" },
                    "id": {
                        "type": "string",
                        "minLength": LENGTH_MIN,
                        "maxLength": LENGTH_MAX,
                        "pattern": "^[a-zA-Z0-9_-]+$",
                    },
                },
            },
        })
    }

    /// What a payment says of the extension, beside the echo of what was offered.
    pub fn presented(&self) -> Value {
        json!({ "info": { "id": self.as_str() } })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PaymentIdentifier {
    /// Omits the text: a client that knows it and has the payment gets the response.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PaymentIdentifier(..)")
    }
}

fn malformed(problem: &str) -> Malformed {
    let field = format!("paymentPayload.extensions.{PAYMENT_IDENTIFIER}.info.id");
    Malformed::new(field, problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(extensions: &str) -> Result<Option<String>, Malformed> {
        let extensions: Json = serde_json::from_str(extensions).unwrap();
        let read = PaymentIdentifier::read(Some(&extensions))?;
        Ok(read.map(|id| id.as_str().to_owned()))
    }

    #[test]
    fn identifier_is_read_strictly() {
        let id = "pay_7d5d747be160e280504c099d984bcfe0";
        let valid = format!(r#"{{"payment-identifier":{{"info":{{"id":"{id}","x":1}}}}}}"#);
        assert_eq!(read(&valid), Ok(Some(id.to_owned())));
        for without in [
            "{}",
            "[1]",
            r#"{"other":{"info":{"id":1}}}"#,
            r#"{"payment-identifier":{}}"#,
            r#"{"payment-identifier":{"info":{"required":false}}}"#,
            r#"{"payment-identifier":{"info":{"id":null}}}"#,
        ] {
            assert_eq!(read(without), Ok(None), "{without}");
        }
        assert_eq!(PaymentIdentifier::read(None), Ok(None));
        for invalid in [
            r#"{"payment-identifier":"pay_7d5d747be160e280504c099d984bcfe0"}"#,
            r#"{"payment-identifier":{"info":"pay_7d5d747be160e280504c099d984bcfe0"}}"#,
            r#"{"payment-identifier":{"info":{"id":1234567890123456}}}"#,
            r#"{"payment-identifier":{"info":{"id":"short"}}}"#,
        ] {
            assert!(read(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn offer_has_the_form_of_the_specification() {
        for is_required in [true, false] {
            let offered = PaymentIdentifier::offered(is_required);
            assert_eq!(offered["info"]["required"], is_required);
            assert_eq!(offered["schema"]["properties"]["id"]["maxLength"], 128);
        }
        let id = PaymentIdentifier::from_bytes([7; 16]);
        assert_eq!(PaymentIdentifier::new(id.as_str()), Ok(id.clone()));
        assert_eq!(id.presented()["info"]["id"], id.as_str());
    }

    proptest! {
        #[test]
        fn identifier_has_the_specified_characters(text in "[a-zA-Z0-9_.é -]{0,140}") {
            let is_valid = text.len() >= 16
                && text.len() <= 128
                && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
            prop_assert_eq!(PaymentIdentifier::new(&text).is_ok(), is_valid);
        }
    }
}
