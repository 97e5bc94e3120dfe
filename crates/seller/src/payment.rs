//! The payment in a request's headers.

use quittance_core::json::Object;
use quittance_core::wire::{PaymentPayload, ResourceInfo, header, v1};
use quittance_core::{
    Malformed, PaymentRequest, Reason, Refusal, Rejection, Version, json, printable,
};
use quittance_http::PaymentIdentifier;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::options::{self, PaymentOption};

/// The headers that carry payments. Version 2 comes first.
pub(crate) const PAYMENT_HEADERS: [&str; 2] = [header::PAYMENT_SIGNATURE, header::X_PAYMENT];

/// A client's payment, of either protocol version.
#[derive(Debug)]
pub(crate) enum ClientPayment {
    /// From `PAYMENT-SIGNATURE`.
    V2(Box<PaymentPayload>),
    /// From `X-PAYMENT`.
    V1(v1::PaymentPayload),
}

impl ClientPayment {
    /// Parses the payment in these headers, version 2 before version 1. Names are those of
    /// [`PAYMENT_HEADERS`].
    ///
    /// Some wallets write one payment into both headers, for servers of either version: the first
    /// one counts. Two different payments are an error, because a proxy may choose the other one.
    ///
    /// # Errors
    /// When the payment cannot be parsed, or its version is not the header's.
    pub(crate) fn from_headers<'a>(
        mut headers: impl Iterator<Item = (&'static str, &'a [u8])>,
    ) -> Result<Option<Self>, Refusal> {
        let Some((name, first)) = headers.next() else {
            return Ok(None);
        };
        if !headers.all(|(_, other)| is_same(first, other)) {
            let problem = "several different payments; send one";
            return Err(Malformed::new("headers", problem).into());
        }
        Ok(Some(match name {
            header::PAYMENT_SIGNATURE => Self::V2(Box::new(parse(name, first, Version::V2)?)),
            _ => Self::V1(parse(name, first, Version::V1)?),
        }))
    }

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

    /// The buyer's name for the payment, if it has one. Version 1 has no extensions.
    ///
    /// # Errors
    /// When the extension `payment-identifier` cannot be read.
    pub(crate) fn identifier(&self) -> Result<Option<PaymentIdentifier>, Malformed> {
        match self {
            Self::V2(payload) => PaymentIdentifier::read(payload.extensions.as_ref()),
            Self::V1(_) => Ok(None),
        }
    }

    /// The request to the facilitator, with the option that the payment is for; `None` if it
    /// matches no option.
    pub(crate) fn request(
        self,
        options: &[PaymentOption],
        resource: &ResourceInfo,
    ) -> Option<Result<(PaymentRequest, PaymentOption), Refusal>> {
        let (option, request) = match self {
            Self::V2(payload) => {
                let option = options::find_accepted(options, &payload.accepted)?;
                let requirements = option.requirements.clone();
                (option, PaymentRequest::new(*payload, requirements))
            }
            Self::V1(payload) => {
                let mut options = options.iter();
                let option =
                    options.find(|it| it.is_paid_in_v1(&payload.scheme, &payload.network))?;
                let requirements = option.v1(resource)?;
                (
                    option.clone(),
                    PaymentRequest::new_v1(payload, requirements),
                )
            }
        };
        Some(request.map(|request| (request, option)))
    }
}

/// Whether two header values carry one payment: the same bytes, or the same `payload`, which is the
/// part that moves money.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct PayloadOnly {
        payload: Object,
    }
    let payload = |value: &[u8]| {
        let parsed: Result<PayloadOnly, _> = header::decode("payment", value);
        parsed.ok().map(|parsed| parsed.payload)
    };
    one == other || payload(one).is_some_and(|one| payload(other) == Some(one))
}

/// Parses a payment of one version. Another version is a rejection rather than malformed, because
/// its other fields may be anything. Without `x402Version`, the header's name decides the version.
fn parse<T: DeserializeOwned>(name: &str, value: &[u8], version: Version) -> Result<T, Refusal> {
    let text = header::text(name, value)?;
    if let Some(stated) = header::stated_version(name, &text)?
        && stated != version.number().to_string()
    {
        let stated = printable(&stated);
        let expected = version.number();
        let detail = format!("x402Version is {stated} in {name}, which carries version {expected}");
        return Err(Rejection::new(Reason::INVALID_X402_VERSION, detail).into());
    }
    Ok(json::read(name, &text)?)
}
