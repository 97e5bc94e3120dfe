//! The payment that a request presents.

use http::{HeaderMap, HeaderValue};
use quittance_core::wire::{PaymentPayload, ResourceInfo, header, v1};
use quittance_core::{Malformed, PaymentRequest, Reason, Refusal, Rejection, Version, json};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::terms::Term;

/// A client's payment, of either version.
#[derive(Debug)]
pub(super) enum Presented {
    /// In `PAYMENT-SIGNATURE`.
    V2(Box<PaymentPayload>),
    /// In `X-PAYMENT`.
    V1(v1::PaymentPayload),
}

impl Presented {
    pub(super) fn version(&self) -> Version {
        match self {
            Self::V2(_) => Version::V2,
            Self::V1(_) => Version::V1,
        }
    }

    /// The network, as the client names it.
    pub(super) fn network(&self) -> &str {
        match self {
            Self::V2(payload) => &payload.accepted.network,
            Self::V1(payload) => &payload.network,
        }
    }

    /// The request to the facilitator; `None` when the payment is for none of our terms.
    pub(super) fn request(
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
pub(super) fn too_long(headers: &HeaderMap) -> Option<&'static str> {
    [header::PAYMENT_SIGNATURE, header::X_PAYMENT]
        .into_iter()
        .find(|name| {
            let mut values = headers.get_all(*name).iter();
            values.any(|value| value.len() > header::VALUE_MAX)
        })
}

/// The payment in a request's headers. More than one is no payment: somebody between might see another one than we do.
pub(super) fn presented(headers: &HeaderMap) -> Result<Option<Presented>, Refusal> {
    let mut values = headers.get_all(header::PAYMENT_SIGNATURE).iter();
    let mut values_v1 = headers.get_all(header::X_PAYMENT).iter();
    let found = (values.next(), values_v1.next());
    if values.next().is_some() || values_v1.next().is_some() {
        return Err(Malformed::new("headers", "more than one payment").into());
    }
    match found {
        (None, None) => Ok(None),
        (Some(value), None) => {
            let payload = read(header::PAYMENT_SIGNATURE, value, Version::V2)?;
            Ok(Some(Presented::V2(Box::new(payload))))
        }
        (None, Some(value)) => {
            let payload = read(header::X_PAYMENT, value, Version::V1)?;
            Ok(Some(Presented::V1(payload)))
        }
        (Some(_), Some(_)) => {
            Err(Malformed::new("headers", "payments of two protocol versions").into())
        }
    }
}

/// The one field that all versions have.
#[derive(Deserialize)]
struct Versioned {
    #[serde(rename = "x402Version")]
    x402_version: u64,
}

/// Reads a payment of one version. Another version is a verdict of its own, because its other fields may be anything.
fn read<T: DeserializeOwned>(
    name: &str,
    value: &HeaderValue,
    version: Version,
) -> Result<T, Refusal> {
    let text = header::text(name, value.as_bytes())?;
    let Versioned { x402_version } = json::read(name, &text)?;
    if x402_version != version.number() {
        let detail = format!("version {x402_version} is not spoken in {name}");
        return Err(Rejection::new(Reason::INVALID_X402_VERSION, detail).into());
    }
    Ok(json::read(name, &text)?)
}
