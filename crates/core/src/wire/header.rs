//! The HTTP headers of the protocol. Their values are messages: base64 of JSON text.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Malformed, json};

/// Server to client: a [`PaymentRequired`](super::PaymentRequired).
pub const PAYMENT_REQUIRED: &str = "payment-required";
/// Client to server: a [`PaymentPayload`](super::PaymentPayload).
pub const PAYMENT_SIGNATURE: &str = "payment-signature";
/// Server to client: a [`SettleResponse`](super::SettleResponse).
pub const PAYMENT_RESPONSE: &str = "payment-response";
/// Client to server, version 1: a [`v1::PaymentPayload`](super::v1::PaymentPayload).
pub const X_PAYMENT: &str = "x-payment";
/// Server to client, version 1: a [`SettleResponse`](super::SettleResponse).
pub const X_PAYMENT_RESPONSE: &str = "x-payment-response";

/// The longest header value that is parsed, in bytes: twice the largest known payment in base64.
/// Common servers and proxies refuse headers over 8 to 16 KiB anyway.
pub const VALUE_MAX: usize = 32 * 1024;

/// The standard alphabet. Padding may be missing, because some clients omit it.
const READER: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A message as a header value.
///
/// # Panics
/// Never for the messages of this crate: they all print as JSON.
pub fn encode<T: Serialize>(message: &T) -> String {
    let text = serde_json::to_vec(message).expect("wire messages print as JSON");
    general_purpose::STANDARD.encode(text)
}

/// The JSON text in a header value.
///
/// # Errors
/// [`Malformed`], naming the header, when it is too long or not base64.
pub fn text(name: &str, value: &[u8]) -> Result<Vec<u8>, Malformed> {
    if value.len() > VALUE_MAX {
        return Err(Malformed::new(
            name,
            format_args!("longer than {VALUE_MAX} bytes"),
        ));
    }
    READER
        .decode(value)
        .map_err(|error| Malformed::new(name, format_args!("not base64: {error}")))
}

/// A message from a header value.
///
/// # Errors
/// [`Malformed`], naming the header and the field.
pub fn decode<T: DeserializeOwned>(name: &str, value: &[u8]) -> Result<T, Malformed> {
    json::read(name, &text(name, value)?)
}

/// The `x402Version` that a message states, as a string, because it may be any integer; `None` if
/// it is missing. Parse it before the message, because other versions may have other fields.
///
/// # Errors
/// [`Malformed`], with `name` as the prefix of the field, if the text is not a JSON object or its
/// version is neither a string nor an integer.
pub fn stated_version(name: &str, text: &[u8]) -> Result<Option<String>, Malformed> {
    #[derive(Deserialize)]
    struct StatedVersion {
        #[serde(
            rename = "x402Version",
            default,
            deserialize_with = "json::text_or_integer"
        )]
        x402_version: Option<String>,
    }
    let StatedVersion { x402_version } = json::read(name, text)?;
    Ok(x402_version)
}
