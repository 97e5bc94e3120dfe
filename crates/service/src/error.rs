//! Error responses: those that are not a verdict on a payment.

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use quittance_core::{FacilitatorError, Fault, Malformed};
use serde::Serialize;
use tracing::warn;
use utoipa::ToSchema;

use crate::payments::Endpoint;

/// The body of an error response.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Error)]
pub(crate) struct ErrorBody {
    /// The error code.
    error: &'static str,
    /// A description of the error, for people.
    message: Cow<'static, str>,
    /// The field of the request that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// Whether the same request can succeed later.
    #[serde(skip_serializing_if = "Option::is_none")]
    retryable: Option<bool>,
    /// Whether the facilitator certainly did nothing for this request, so that another facilitator
    /// can be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_attempted: Option<bool>,
    /// `POST /verify`: false for a request that cannot be decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    is_valid: Option<bool>,
    /// `POST /verify`: the reason code.
    #[serde(skip_serializing_if = "Option::is_none")]
    invalid_reason: Option<&'static str>,
    /// `POST /verify`: more about the reason, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    invalid_message: Option<String>,
    /// `POST /settle`: false for a request that cannot be decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    success: Option<bool>,
    /// `POST /settle`: the reason code.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_reason: Option<&'static str>,
    /// `POST /settle`: more about the reason, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<String>,
    /// `POST /settle`: empty, because there is no transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction: Option<&'static str>,
    /// `POST /settle`: the network that the request names, or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<String>,
}

/// An error response.
#[derive(Debug)]
pub(crate) struct ErrorResponse {
    status: StatusCode,
    body: Box<ErrorBody>,
    retry_after_secs: Option<u64>,
}

/// The reason code for a request that cannot be decoded.
const INVALID_PAYLOAD: &str = "invalid_payload";

impl ErrorResponse {
    fn new(status: StatusCode, error: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            body: Box::new(ErrorBody {
                error,
                message: message.into(),
                ..ErrorBody::default()
            }),
            retry_after_secs: None,
        }
    }

    pub(crate) fn unauthorized() -> Self {
        let message = "send a key of this facilitator: Authorization: Bearer ...";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    pub(crate) fn not_found(message: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn too_large() -> Self {
        let message = "the request body is larger than 64 KiB";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    }

    pub(crate) fn unsupported_media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "the content type must be application/json",
        )
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this path does not support the method; see /openapi.json",
        )
    }

    /// 400 for a request without a payment in it.
    pub(crate) fn bad_request(field: &str, message: impl Into<Cow<'static, str>>) -> Self {
        let mut response = Self::new(StatusCode::BAD_REQUEST, "invalid_request", message);
        response.body.field = Some(field.to_owned());
        response
    }

    /// 410 for a position in the feed of events that it does not have.
    pub(crate) fn unknown_cursor() -> Self {
        let message = "the events behind this id were removed, or it is of another journal: look up \
            the settlements that matter, and connect without an id";
        Self::new(StatusCode::GONE, "unknown_cursor", message)
    }

    pub(crate) fn body_timeout() -> Self {
        let message = "the request body did not arrive in time";
        Self::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
    }

    /// HTTP 429. The body has the endpoint's field for a reason code and not its field for a
    /// verdict, because the response is not a verdict on the payment.
    pub(crate) fn rate_limited(wait: Duration, endpoint: Option<Endpoint>) -> Self {
        const CODE: &str = "rate_limited";
        let message = "this caller sent too many requests; retrying later is safe";
        let mut response = Self::new(StatusCode::TOO_MANY_REQUESTS, CODE, message);
        response.body.retryable = Some(true);
        match endpoint {
            Some(Endpoint::Verify) => response.body.invalid_reason = Some(CODE),
            Some(Endpoint::Settle) => response.body.error_reason = Some(CODE),
            None => {}
        }
        // Rounded up, because a retry that is a moment too early would be refused again.
        response.retry_after_secs = Some(wait.as_secs() + 1);
        response
    }

    pub(crate) fn busy() -> Self {
        let mut busy = Self::retryable("busy", "too many requests are in progress");
        // Nothing was done for the request, so another facilitator can be asked.
        busy.body.not_attempted = Some(true);
        busy
    }

    pub(crate) fn timeout() -> Self {
        let message = "there was no answer in time; send the same request again";
        Self::retryable("timeout", message)
    }

    /// 503 for a condition that ends without intervention.
    fn retryable(code: &'static str, message: &'static str) -> Self {
        let mut response = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        response.body.retryable = Some(true);
        response.retry_after_secs = Some(1);
        response
    }

    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "a bug in this service; its log has the details",
        )
    }

    /// 400, with the fields in which clients of the endpoint look for a verdict.
    pub(crate) fn malformed(malformed: &Malformed, endpoint: Endpoint) -> Self {
        let message = malformed.problem.clone();
        let mut response = Self::new(StatusCode::BAD_REQUEST, INVALID_PAYLOAD, message);
        let body = &mut response.body;
        body.field = Some(malformed.field.clone());
        let message = Some(malformed.to_string());
        match endpoint {
            Endpoint::Verify => {
                body.is_valid = Some(false);
                body.invalid_reason = Some(INVALID_PAYLOAD);
                body.invalid_message = message;
            }
            Endpoint::Settle => {
                body.success = Some(false);
                body.error_reason = Some(INVALID_PAYLOAD);
                body.error_message = message;
                body.transaction = Some("");
                body.network = Some(String::new());
            }
        }
        response
    }

    /// The response with the network that the request names, if the body has a field for it. The
    /// specification requires the field in every answer to `POST /settle`.
    pub(crate) fn on_network(mut self, network: &str) -> Self {
        if let Some(field) = &mut self.body.network {
            network.clone_into(field);
        }
        self
    }

    /// The response for an error of a payment endpoint.
    pub(crate) fn for_payment(error: FacilitatorError, endpoint: Endpoint) -> Self {
        match error {
            FacilitatorError::Malformed(malformed) => Self::malformed(&malformed, endpoint),
            FacilitatorError::Fault(fault) => {
                warn!(%fault, "no verdict");
                fault.into()
            }
        }
    }
}

impl From<FacilitatorError> for ErrorResponse {
    /// The response for an error of an endpoint that takes no payment.
    fn from(error: FacilitatorError) -> Self {
        match error {
            FacilitatorError::Malformed(malformed) => {
                Self::bad_request(&malformed.field, malformed.problem.clone())
            }
            FacilitatorError::Fault(fault) => {
                warn!(%fault, "no answer");
                fault.into()
            }
        }
    }
}

impl From<Fault> for ErrorResponse {
    /// 503. Callers get the fault's kind and when to retry. Its detail is for the log.
    fn from(fault: Fault) -> Self {
        let message = "there is no verdict; sending the same request again is safe";
        let code = fault.kind.code();
        let mut response = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        response.body.retryable = Some(fault.retry_after.is_some());
        response.body.not_attempted = Some(fault.not_attempted);
        response.retry_after_secs = fault.retry_after.map(|after| after.as_secs().max(1));
        response
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        let code = ErrorCode(self.body.error);
        let mut response = (self.status, Json(self.body)).into_response();
        response.extensions_mut().insert(code);
        if let Some(secs) = self.retry_after_secs {
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}

/// The error code of a response, for the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ErrorCode(pub(crate) &'static str);

/// The code of an error, for logs and metrics.
pub(crate) fn error_code(error: &FacilitatorError) -> &'static str {
    match error {
        FacilitatorError::Malformed(_) => INVALID_PAYLOAD,
        FacilitatorError::Fault(fault) => fault.kind.code(),
    }
}
