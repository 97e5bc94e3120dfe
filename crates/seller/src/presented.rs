//! The payment that a request presents.

use http::{HeaderMap, HeaderValue};
use quittance_core::json::{Object, text_or_integer};
use quittance_core::wire::{PaymentPayload, ResourceInfo, header, v1};
use quittance_core::{Malformed, PaymentRequest, Reason, Refusal, Rejection, Version, json};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::terms::Term;
use quittance_http::printable;

/// A client's payment, of either version.
#[derive(Debug)]
pub(crate) enum Presented {
    /// In `PAYMENT-SIGNATURE`.
    V2(Box<PaymentPayload>),
    /// In `X-PAYMENT`.
    V1(v1::PaymentPayload),
}

impl Presented {
    pub(crate) fn version(&self) -> Version {
        match self {
            Self::V2(_) => Version::V2,
            Self::V1(_) => Version::V1,
        }
    }

    /// The network, as the client names it.
    pub(crate) fn network(&self) -> &str {
        match self {
            Self::V2(payload) => &payload.accepted.network,
            Self::V1(payload) => &payload.network,
        }
    }

    /// The request to the facilitator; `None` when the payment is for none of our terms.
    pub(crate) fn request(
        self,
        terms: &[Term],
        resource: &ResourceInfo,
    ) -> Option<Result<(PaymentRequest, Term), Refusal>> {
        match self {
            Self::V2(payload) => {
                let term = terms
                    .iter()
                    .find(|term| term.is_accepted_by(&payload.accepted))?;
                let request = PaymentRequest::new(*payload, term.requirements.clone());
                Some(request.map(|request| (request, term.clone())))
            }
            Self::V1(payload) => {
                let term = terms.iter().find(|term| {
                    term.requirements.scheme == payload.scheme && term.is_on_v1(&payload.network)
                })?;
                let requirements = term.v1(resource)?;
                let request = PaymentRequest::new_v1(payload, requirements);
                Some(request.map(|request| (request, term.clone())))
            }
        }
    }
}

/// The header whose payment is longer than any that is read.
pub(crate) fn too_long(headers: &HeaderMap) -> Option<&'static str> {
    [header::PAYMENT_SIGNATURE, header::X_PAYMENT]
        .into_iter()
        .find(|name| {
            let mut values = headers.get_all(*name).iter();
            values.any(|value| value.len() > header::VALUE_MAX)
        })
}

/// The payment in a request's headers. Some wallets write one payment into both headers, to be understood by servers of
/// either version: the first counts, version 2 before version 1. Two different ones are no payment, because a proxy in
/// between might see another one than we do.
pub(crate) fn presented(headers: &HeaderMap) -> Result<Option<Presented>, Refusal> {
    let names = [header::PAYMENT_SIGNATURE, header::X_PAYMENT];
    let mut values = names
        .into_iter()
        .flat_map(|name| headers.get_all(name).iter().map(move |value| (name, value)));
    let Some((name, first)) = values.next() else {
        return Ok(None);
    };
    if !values.all(|(_, other)| is_same(first, other)) {
        let what = "more than one payment, and they differ; present one";
        return Err(Malformed::new("headers", what).into());
    }
    Ok(Some(match name {
        header::PAYMENT_SIGNATURE => Presented::V2(Box::new(read(name, first, Version::V2)?)),
        _ => Presented::V1(read(name, first, Version::V1)?),
    }))
}

/// Whether two headers present one payment: the same bytes, or the same `payload`, which is what moves the money.
fn is_same(one: &HeaderValue, other: &HeaderValue) -> bool {
    #[derive(Deserialize)]
    struct Paying {
        payload: Object,
    }
    let payload = |value: &HeaderValue| {
        let read: Result<Paying, _> = header::decode("payment", value.as_bytes());
        read.ok().map(|read| read.payload)
    };
    one == other || payload(one).is_some_and(|one| payload(other) == Some(one))
}

/// The one field that all versions have. Where it is missing, the header's name says the version.
#[derive(Deserialize)]
struct Versioned {
    #[serde(rename = "x402Version", default, deserialize_with = "text_or_integer")]
    x402_version: Option<String>,
}

/// Reads a payment of one version. Another version is a verdict of its own, because its other fields may be anything.
fn read<T: DeserializeOwned>(
    name: &str,
    value: &HeaderValue,
    version: Version,
) -> Result<T, Refusal> {
    let text = header::text(name, value.as_bytes())?;
    let Versioned { x402_version } = json::read(name, &text)?;
    if let Some(said) = x402_version
        && said != version.number().to_string()
    {
        let said = printable(&said);
        let expected = version.number();
        let detail = format!("x402Version is {said} in {name}, which carries version {expected}");
        return Err(Rejection::new(Reason::INVALID_X402_VERSION, detail).into());
    }
    Ok(json::read(name, &text)?)
}
