//! What a server's answer 402 offers, of either protocol version.

use quittance_core::json::{self, Json, Object};
use quittance_core::wire::{PaymentPayload, PaymentRequirements, Rest, header, v1};
use quittance_core::{Malformed, Version};
use reqwest::Response;
use serde::Deserialize;
use serde_json::value::RawValue;

use quittance_http::bounded;
use quittance_http::printable;

/// The ways to pay that a server offers.
#[derive(Debug)]
pub(crate) struct Offered {
    version: Version,
    /// Why payment is required, or why the last one was refused, as the server wrote it.
    pub(crate) error: Option<String>,
    /// Version 1 terms are written as version 2 has them, with the network still by its version 1 name.
    pub(crate) accepts: Vec<PaymentRequirements>,
    /// Why other ways to pay cannot be read.
    pub(crate) unreadable: Vec<String>,
    resource: Option<Json>,
    extensions: Option<Json>,
}

/// An answer 402, its ways to pay still text: one that cannot be read must not spoil the others.
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

/// The one field that all versions have.
#[derive(Deserialize)]
struct Versioned {
    #[serde(
        rename = "x402Version",
        default,
        deserialize_with = "json::text_or_integer"
    )]
    x402_version: Option<String>,
}

impl Offered {
    /// Reads an answer: the header, or the body where the header names no way to pay that can be read. Either may be of
    /// either version: some servers write the terms of version 1 into the header, and some those of version 2 into the body.
    ///
    /// # Errors
    /// When neither can be read; what is wrong with the header, if there is one. What cannot be read may be quoted, and is
    /// printable.
    pub(crate) async fn of(answer: Response) -> Result<Self, Malformed> {
        let plain = |malformed: Malformed| {
            Malformed::new(printable(&malformed.field), printable(&malformed.problem))
        };
        Self::read_answer(answer).await.map_err(plain)
    }

    async fn read_answer(answer: Response) -> Result<Self, Malformed> {
        let name = header::PAYMENT_REQUIRED;
        let from_header = answer.headers().get(name).map(|value| {
            let text = header::text(name, value.as_bytes())?;
            Self::read(name, &text)
        });
        if let Some(Ok(offered)) = &from_header
            && !offered.accepts.is_empty()
        {
            return from_header.expect("looked at just now");
        }
        let from_body = match bounded::read(answer).await {
            Ok(body) => Self::read("body", &body),
            Err(error) => Err(Malformed::new("body", error)),
        };
        match (from_header, from_body) {
            (None, body) => body,
            (Some(_), Ok(body)) if !body.accepts.is_empty() => Ok(body),
            (Some(Err(_)), Ok(body)) => Ok(body),
            (Some(header), _) => header,
        }
    }

    fn read(name: &str, text: &[u8]) -> Result<Self, Malformed> {
        let Versioned { x402_version } = json::read(name, text)?;
        let version = version(name, x402_version)?;
        let required: Required = json::read(name, text)?;
        let mut offered = Self {
            version,
            error: required.error.map(words),
            accepts: Vec::new(),
            unreadable: Vec::new(),
            resource: required.resource,
            extensions: required.extensions,
        };
        for (at, terms) in required.accepts.iter().enumerate() {
            let (name, text) = (format!("{name}.accepts[{at}]"), terms.get().as_bytes());
            let terms = match version {
                Version::V2 => json::read(&name, text),
                Version::V1 => json::read(&name, text).map(lower),
            };
            match terms {
                Ok(terms) => offered.accepts.push(terms),
                Err(malformed) => offered.unreadable.push(printable(&malformed.to_string())),
            }
        }
        Ok(offered)
    }

    /// The header that pays: for which version of the protocol, and its value.
    pub(crate) fn pay(&self, chosen: &PaymentRequirements, payload: Object) -> (Version, String) {
        let value = match self.version {
            Version::V2 => {
                let payment = PaymentPayload {
                    x402_version: Version::V2.number(),
                    resource: self.resource.clone(),
                    accepted: chosen.clone(),
                    payload,
                    extensions: self.extensions.clone(),
                    rest: Rest::default(),
                };
                header::encode(&payment)
            }
            Version::V1 => {
                let payment = v1::PaymentPayload {
                    x402_version: Version::V1.number(),
                    scheme: chosen.scheme.clone(),
                    network: chosen.network.clone(),
                    payload,
                    rest: Rest::default(),
                };
                header::encode(&payment)
            }
        };
        (self.version, value)
    }
}

/// The version that terms say they are of. Where they do not, the place says it: version 2 has them in the header, and
/// version 1 in the body.
fn version(name: &str, said: Option<String>) -> Result<Version, Malformed> {
    let Some(said) = said else {
        return Ok(match name {
            header::PAYMENT_REQUIRED => Version::V2,
            _ => Version::V1,
        });
    };
    let mut spoken = [Version::V1, Version::V2].into_iter();
    let version = spoken.find(|version| version.number().to_string() == said);
    version.ok_or_else(|| {
        let problem = format!("unsupported version {said}; supported: 1 and 2");
        Malformed::new(format!("{name}.x402Version"), problem)
    })
}

/// A reason for people: a text, or else the JSON itself.
fn words(error: Json) -> String {
    let text = error.read("error");
    text.unwrap_or_else(|_| error.text().to_owned())
}

fn lower(terms: v1::PaymentRequirements) -> PaymentRequirements {
    PaymentRequirements {
        scheme: terms.scheme,
        network: terms.network,
        amount: terms.max_amount_required,
        asset: terms.asset,
        pay_to: terms.pay_to,
        max_timeout_seconds: terms.max_timeout_seconds,
        extra: terms.extra,
        rest: Rest::default(),
    }
}
