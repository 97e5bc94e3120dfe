//! The responses of the layer itself: payment options, receipts and refusals.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use quittance_core::json::Object;
use quittance_core::wire::header;
use quittance_core::{Fault, FaultKind, Malformed, Reason, Version, printable};
use serde::Serialize;
use serde_json::json;
use tracing::{error, warn};

use super::body::{BufferedBody, ResponseBody};
use super::caching;
use crate::options;
use crate::refusal::{RequiredPayment, SaleReceipt, SaleRefusal};
use crate::sale::RATE_LIMITED;
use crate::steps::PENDING_PAUSE;

/// The reference implementation's code for a payer that has to approve Permit2 first. Its status is
/// 412.
const ALLOWANCE_REQUIRED: &str = "permit2_allowance_required";

/// The response with a receipt.
pub(crate) fn with_receipt<B>(mut response: Response<B>, receipt: &SaleReceipt) -> Response<B> {
    let name = match receipt.version {
        Version::V2 => header::PAYMENT_RESPONSE,
        Version::V1 => header::X_PAYMENT_RESPONSE,
    };
    let value = encoded(&receipt.response);
    response.headers_mut().insert(name, value);
    response
}

fn encoded<T: Serialize>(message: &T) -> HeaderValue {
    header::encode(message)
        .parse()
        .expect("base64 is a header value")
}

/// The response, which caches must not store.
pub(crate) fn private<B>(mut response: Response<B>) -> Response<B> {
    caching::make_private(response.headers_mut());
    response
}

fn json_response<T: Serialize>(status: StatusCode, body: &T) -> Response<ResponseBody> {
    let text = serde_json::to_vec(body).expect("messages print as JSON");
    let body = Full::new(Bytes::from(text))
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    private(response)
}

/// 200: a payment that buys nothing has settled.
pub(crate) fn acknowledged(body: &Object) -> (Response<()>, BufferedBody) {
    let mut response = Response::new(());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let text = Bytes::copy_from_slice(body.text().as_bytes());
    (response, BufferedBody::new(vec![text], None))
}

/// 500: the handler's response cannot be sent, and was not charged.
pub(crate) fn not_served(message: &str) -> Response<ResponseBody> {
    let body = json!({ "error": "internal_error", "message": message });
    json_response(StatusCode::INTERNAL_SERVER_ERROR, &body)
}

/// 204: a preflight if the layer has no CORS rules. It never reaches the handler, which would run
/// unpaid.
pub(crate) fn preflight() -> Response<ResponseBody> {
    no_content()
}

/// 204: a tick of a stream is charged, or no more ticks come.
pub(crate) fn no_content() -> Response<ResponseBody> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// 431: the payment header is longer than the limit.
pub(crate) fn too_long(name: &str) -> Response<ResponseBody> {
    let message = format!("a payment is at most {} bytes long", header::VALUE_MAX);
    let body = json!({ "error": "invalid_payload", "field": name, "message": message });
    json_response(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, &body)
}

/// The response to a request that was refused.
pub(crate) fn refusal(refusal: SaleRefusal) -> Response<ResponseBody> {
    match refusal {
        SaleRefusal::Malformed(malformed) => bad_request(&malformed),
        SaleRefusal::PaymentRequired(required) => payment_required(&required),
        SaleRefusal::RateLimited {
            retry_after,
            receipt,
        } => with_receipt(rate_limited(retry_after), &receipt),
        SaleRefusal::Unavailable(fault) => unavailable(&fault),
        SaleRefusal::IdentifierConflict => conflict(),
        SaleRefusal::NotCharged(fault, receipt) => with_receipt(unavailable(&fault), &receipt),
        SaleRefusal::Pending(receipt) => with_receipt(pending(), &receipt),
    }
}

/// A message with a sentence for people beside its `error`.
#[derive(Serialize)]
struct WithMessage<'a, T> {
    #[serde(flatten)]
    required: &'a T,
    #[serde(rename = "errorMessage", skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

/// 402: the payment options, in a header for version 2 and in the body for version 1, with the
/// receipt of a payment that failed.
///
/// Options that can be paid in one version only are written in that one. An empty list in the other
/// would hide them from a client that looks there first.
fn payment_required(required: &RequiredPayment) -> Response<ResponseBody> {
    let RequiredPayment {
        options,
        resource,
        reason,
        receipt,
    } = required;
    let status = match reason.error.as_str() {
        ALLOWANCE_REQUIRED => StatusCode::PRECONDITION_FAILED,
        _ => StatusCode::PAYMENT_REQUIRED,
    };
    let message = reason.message.as_deref();
    let v2 = options::required_v2(options, resource, &reason.error);
    let v1 = options::required_v1(options, resource, &reason.error);
    let v2 = v2
        .as_ref()
        .map(|required| WithMessage { required, message });
    let v1 = v1
        .as_ref()
        .map(|required| WithMessage { required, message });
    let mut response = match (&v1, &v2) {
        (Some(v1), _) => json_response(status, v1),
        (None, v2) => json_response(status, v2),
    };
    if let Some(v2) = &v2 {
        let headers = response.headers_mut();
        headers.insert(header::PAYMENT_REQUIRED, encoded(v2));
    }
    match receipt {
        Some(receipt) => with_receipt(response, receipt),
        None => response,
    }
}

/// 400: the payment cannot be parsed.
fn bad_request(malformed: &Malformed) -> Response<ResponseBody> {
    let body = json!({ "error": "invalid_payload", "field": malformed.field, "message": malformed.problem });
    json_response(StatusCode::BAD_REQUEST, &body)
}

/// 410: the stream is over, or there was none. The tick is not charged.
pub(crate) fn stream_over() -> Response<ResponseBody> {
    let message = "no stream with this name runs at this URL; nothing was charged";
    let body = json!({ "error": "stream_over", "message": message });
    json_response(StatusCode::GONE, &body)
}

/// 405: a request that names a stream neither pays a tick nor ends the stream.
pub(crate) fn not_of_stream() -> Response<ResponseBody> {
    let message = "a stream is paid by POST and ended by DELETE";
    let body = json!({ "error": "method_not_allowed", "message": message });
    let mut response = json_response(StatusCode::METHOD_NOT_ALLOWED, &body);
    let methods = HeaderValue::from_static("POST, DELETE");
    response.headers_mut().insert(ALLOW, methods);
    response
}

/// 409: the identifier of the payment is used for another request or another payment.
fn conflict() -> Response<ResponseBody> {
    let message = "this payment-identifier belongs to another request or another payment";
    let body = json!({ "error": "payment_identifier_conflict", "message": message });
    json_response(StatusCode::CONFLICT, &body)
}

/// 429: the client is over its limit. Its payment was not verified.
fn rate_limited(wait: Duration) -> Response<ResponseBody> {
    let body = json!({ "error": "rate_limited", "message": RATE_LIMITED });
    let mut response = json_response(StatusCode::TOO_MANY_REQUESTS, &body);
    insert_retry_after(&mut response, wait);
    response
}

/// 503: there is no verdict on the payment.
///
/// A configuration problem of the seller is in the response as well as in the log, because some
/// sellers have no log.
fn unavailable(fault: &Fault) -> Response<ResponseBody> {
    let message = match fault.kind {
        FaultKind::Misconfigured => {
            error!(%fault, "payments cannot be accepted: the seller's configuration is wrong");
            format!("payments cannot be accepted: {}", printable(&fault.detail))
        }
        _ => {
            warn!(%fault, "there is no verdict on a payment");
            "payments cannot be accepted now; try again".to_owned()
        }
    };
    let body = json!({ "error": fault.kind.code(), "message": message });
    let mut response = json_response(StatusCode::SERVICE_UNAVAILABLE, &body);
    if let Some(after) = fault.retry_after {
        insert_retry_after(&mut response, after);
    }
    response
}

/// 202: the handler has succeeded and the payment is on its way. The response can be requested at
/// this address with the same payment.
pub(crate) fn accepted(url: &str, receipt: &SaleReceipt) -> Response<ResponseBody> {
    let message = "the payment is not settled yet; repeat this request with the same payment";
    let body = json!({ "error": Reason::SETTLEMENT_PENDING.code(), "message": message });
    let mut response = json_response(StatusCode::ACCEPTED, &body);
    insert_retry_after(&mut response, PENDING_PAUSE);
    if let Ok(url) = HeaderValue::from_str(url) {
        response.headers_mut().insert(LOCATION, url);
    }
    with_receipt(response, receipt)
}

/// 503: the payment is on its way, and the handler runs once it has settled.
fn pending() -> Response<ResponseBody> {
    let message = "the payment is not settled yet; present the same payment again";
    let body = json!({ "error": Reason::SETTLEMENT_PENDING.code(), "message": message });
    let mut response = json_response(StatusCode::SERVICE_UNAVAILABLE, &body);
    insert_retry_after(&mut response, PENDING_PAUSE);
    response
}

/// Sets `Retry-After` in whole seconds, rounded up.
fn insert_retry_after(response: &mut Response<ResponseBody>, after: Duration) {
    let seconds = after.as_millis().div_ceil(1000).max(1);
    let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
    response.headers_mut().insert(RETRY_AFTER, seconds.into());
}
