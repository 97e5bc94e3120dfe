//! The payment options of a 402 response, of either protocol version.

use quittance_core::json::{self, Json, Object};
use quittance_core::wire::{PaymentPayload, PaymentRequirements, header, v1};
use quittance_core::{Malformed, Version, printable};
use serde::Deserialize;
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
    extensions: Option<Json>,
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
        let mut options = Self {
            version,
            error: required.error.map(reason_text),
            accepts: Vec::new(),
            unreadable: Vec::new(),
            resource: required.resource,
            extensions: required.extensions,
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

    /// The payment header for the chosen option: its protocol version and its value.
    pub(crate) fn payment_header(
        &self,
        chosen: &PaymentRequirements,
        payload: Object,
    ) -> (Version, String) {
        let value = match self.version {
            Version::V2 => {
                let mut payment = PaymentPayload::new(chosen.clone(), payload);
                payment.resource.clone_from(&self.resource);
                payment.extensions.clone_from(&self.extensions);
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
