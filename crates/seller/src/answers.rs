//! What the seller says besides the handler's answer: the terms, receipts, and why there is no sale.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use quittance_core::wire::{ResourceInfo, SettleResponse, header};
use quittance_core::{
    FacilitatorError, Fault, FaultKind, Malformed, PaymentRequest, Reason, Rejection, Version,
};
use serde::Serialize;
use serde_json::json;
use tracing::{error, info, warn};

use crate::buffered::Body;
use crate::caching;
use crate::terms::{self, Term};
use quittance_http::printable;
use quittance_http::reason::HANDLER_FAILED;

/// A sale that ended without the handler's answer.
pub(crate) struct NoSale(pub(super) Box<Response<Body>>);

/// An answer with a receipt in it.
pub(crate) fn with_receipt<B>(
    mut answer: Response<B>,
    version: Version,
    settled: &SettleResponse,
) -> Response<B> {
    let name = match version {
        Version::V2 => header::PAYMENT_RESPONSE,
        Version::V1 => header::X_PAYMENT_RESPONSE,
    };
    answer.headers_mut().insert(name, encoded(settled));
    answer
}

fn encoded<T: Serialize>(message: &T) -> HeaderValue {
    header::encode(message)
        .parse()
        .expect("base64 is a header value")
}

/// Marks an answer as one client's only.
pub(crate) fn private<B>(mut answer: Response<B>) -> Response<B> {
    caching::make_private(answer.headers_mut());
    answer
}

fn answer<T: Serialize>(status: StatusCode, body: &T) -> Response<Body> {
    let text = serde_json::to_vec(body).expect("messages print as JSON");
    let body = Full::new(Bytes::from(text))
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    private(answer)
}

/// 500: the handler's answer cannot be sent, and was not charged for.
pub(crate) fn not_served(message: &str) -> Response<Body> {
    let body = json!({ "error": "internal_error", "message": message });
    answer(StatusCode::INTERNAL_SERVER_ERROR, &body)
}

/// Why a request gets the terms instead of the handler's answer.
#[derive(Debug, Clone)]
pub(crate) struct Why {
    /// A reason code, or a sentence of the reference implementation.
    pub(crate) error: String,
    /// More about it, for people.
    pub(crate) message: Option<String>,
}

impl Why {
    pub(crate) fn new(error: &str, message: Option<&str>) -> Self {
        Self {
            error: error.to_owned(),
            // A facilitator may have written it.
            message: message.map(printable).filter(|text| !text.is_empty()),
        }
    }
}

impl From<Rejection> for Why {
    fn from(rejection: Rejection) -> Self {
        Self::new(rejection.reason.code(), rejection.detail.as_deref())
    }
}

/// A message with a sentence for people beside its `error`.
#[derive(Serialize)]
struct Explained<'a, T> {
    #[serde(flatten)]
    required: &'a T,
    #[serde(rename = "errorMessage", skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

/// 402: the terms in a header for version 2, in the body for version 1, and the receipt of a payment
/// that failed.
///
/// Terms that can be paid in one version only are written in that one. An empty list in the other
/// would hide them from a client that looks there first.
pub(crate) fn payment_required(
    terms: &[Term],
    resource: &ResourceInfo,
    why: &Why,
    failed: Option<(Version, &SettleResponse)>,
) -> NoSale {
    /// The reference implementation's status for a payer that has to approve Permit2 first.
    const ALLOWANCE: &str = "permit2_allowance_required";
    let status = match why.error.as_str() {
        ALLOWANCE => StatusCode::PRECONDITION_FAILED,
        _ => StatusCode::PAYMENT_REQUIRED,
    };
    let message = why.message.as_deref();
    let v2 = terms::required_v2(terms, resource, &why.error);
    let v1 = terms::required_v1(terms, resource, &why.error);
    let v2 = v2.as_ref().map(|required| Explained { required, message });
    let v1 = v1.as_ref().map(|required| Explained { required, message });
    let mut answer = match (&v1, &v2) {
        (Some(v1), _) => answer(status, v1),
        (None, v2) => answer(status, v2),
    };
    if let Some(v2) = &v2 {
        let headers = answer.headers_mut();
        headers.insert(header::PAYMENT_REQUIRED, encoded(v2));
    }
    NoSale(Box::new(match failed {
        Some((version, settled)) => with_receipt(answer, version, settled),
        None => answer,
    }))
}

/// 204: a browser's question what it may do (CORS), where the layer was not told what to say. It
/// never reaches a handler, which would work unpaid.
pub(crate) fn preflight() -> Response<Body> {
    let mut answer = Response::new(empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// 400: the payment cannot be read.
pub(crate) fn bad_request(malformed: &Malformed) -> NoSale {
    let body = json!({ "error": "invalid_payload", "field": malformed.field, "message": malformed.problem });
    NoSale(Box::new(answer(StatusCode::BAD_REQUEST, &body)))
}

/// 431: the payment is longer than any is.
pub(crate) fn too_long(name: &str) -> NoSale {
    let message = format!("a payment is at most {} bytes long", header::VALUE_MAX);
    let body = json!({ "error": "invalid_payload", "field": name, "message": message });
    let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    NoSale(Box::new(answer(status, &body)))
}

/// 429: the client has presented too many payments that did not settle. This one was not looked at.
pub(crate) fn too_often(wait: Duration, payment: &PaymentRequest) -> NoSale {
    const WHAT: &str = "too many payments of this client did not settle";
    info!(?wait, "{WHAT}");
    let body = json!({ "error": "rate_limited", "message": WHAT });
    let mut answer = answer(StatusCode::TOO_MANY_REQUESTS, &body);
    retry_after(&mut answer, wait);
    let rejection = Rejection::new(Reason::new(HANDLER_FAILED), WHAT);
    let failed = SettleResponse::failed(&payment.requirements.network, &rejection, None, "");
    NoSale(Box::new(with_receipt(answer, payment.version, &failed)))
}

/// 503: nobody can say anything about the payment now.
///
/// What is wrong in the seller's own configuration stands in the answer and in the log: a seller that
/// keeps no log would not learn why it sells nothing.
pub(crate) fn unavailable(fault: &Fault) -> NoSale {
    let message = match fault.kind {
        FaultKind::Misconfigured => {
            error!(%fault, "payments cannot be taken until the seller is configured otherwise");
            format!("payments cannot be taken: {}", printable(&fault.detail))
        }
        _ => {
            warn!(%fault, "no verdict");
            "payments cannot be taken now".to_owned()
        }
    };
    let body = json!({ "error": fault.kind.code(), "message": message });
    let mut answer = answer(StatusCode::SERVICE_UNAVAILABLE, &body);
    if let Some(after) = fault.retry_after {
        retry_after(&mut answer, after);
    }
    NoSale(Box::new(answer))
}

/// Says when to ask again, in whole seconds and not too early.
fn retry_after(answer: &mut Response<Body>, after: Duration) {
    let seconds = after.as_millis().div_ceil(1000).max(1);
    let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
    answer.headers_mut().insert(RETRY_AFTER, seconds.into());
}

/// 503: another request with this payment is being served. What becomes of it, the payment is as good then as that one
/// leaves it.
pub(crate) fn under_way() -> NoSale {
    let what = "another request with this payment is being served";
    unavailable(&Fault::new(FaultKind::Busy, what))
}

pub(crate) fn no_verdict(error: FacilitatorError) -> NoSale {
    match error {
        FacilitatorError::Malformed(malformed) => bad_request(&malformed),
        FacilitatorError::Fault(fault) => unavailable(&fault),
    }
}
