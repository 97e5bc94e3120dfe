//! What the service answers besides verdicts: problems, and the state of settlements.

use std::time::Duration;

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use quittance_core::{FacilitatorError, Fault, Malformed, Refusal, Rejection};
use quittance_engine::{Outcome, Settlement, State};
use serde::Serialize;
use serde_json::{Value, json};

/// What callers are told of a settlement that was given back.
const RELEASED: &str =
    "nothing was sent, for a reason of the facilitator's; the payment may be settled again";

/// An answer that is no verdict.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    body: Value,
    retry_after_secs: Option<u64>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, message: &str) -> Self {
        Self {
            status,
            code,
            body: json!({ "error": code, "message": message }),
            retry_after_secs: None,
        }
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "show a key: Authorization: Bearer …",
        )
    }

    pub(crate) fn not_found(message: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "a request is at most 64 KiB",
        )
    }

    pub(crate) fn unsupported_media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send application/json",
        )
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this path has other methods; see /openapi.json",
        )
    }

    /// 400 for a request that is no payment.
    pub(crate) fn bad_request(field: &str, message: &str) -> Self {
        let mut problem = Self::new(StatusCode::BAD_REQUEST, "invalid_request", message);
        problem.body["field"] = json!(field);
        problem
    }

    pub(crate) fn body_timeout() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            "the body was not received in time",
        )
    }

    /// 429. It has the endpoint's field for a reason and not the one for a verdict: it says nothing about the payment.
    pub(crate) fn rate_limited(wait: Duration, endpoint: Option<Endpoint>) -> Self {
        const CODE: &str = "rate_limited";
        let message = "too many requests from this caller; asking again later is safe";
        let mut problem = Self::new(StatusCode::TOO_MANY_REQUESTS, CODE, message);
        problem.body["retryable"] = json!(true);
        match endpoint {
            Some(Endpoint::Verify) => problem.body["invalidReason"] = json!(CODE),
            Some(Endpoint::Settle) => problem.body["errorReason"] = json!(CODE),
            None => {}
        }
        // Whole seconds, and none too early.
        problem.retry_after_secs = Some(wait.as_secs() + 1);
        problem
    }

    pub(crate) fn busy() -> Self {
        let mut busy = Self::retryable("busy", "too many requests are under way");
        // Turned away at the door: another facilitator may be asked.
        busy.body["notAttempted"] = json!(true);
        busy
    }

    pub(crate) fn timeout() -> Self {
        Self::retryable(
            "timeout",
            "no answer in time; ask again with the same request",
        )
    }

    /// 503 that passes by itself.
    fn retryable(code: &'static str, message: &str) -> Self {
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        problem.body["retryable"] = json!(true);
        problem.retry_after_secs = Some(1);
        problem
    }

    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "a mistake in this service; it was logged",
        )
    }

    /// 400, with the fields by which clients of either endpoint recognise a refusal.
    pub(crate) fn malformed(malformed: &Malformed, endpoint: Endpoint) -> Self {
        let mut problem = Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_payload",
            &malformed.problem,
        );
        problem.body["field"] = json!(malformed.field);
        let message = malformed.to_string();
        match endpoint {
            Endpoint::Verify => {
                problem.body["isValid"] = json!(false);
                problem.body["invalidReason"] = json!("invalid_payload");
                problem.body["invalidMessage"] = json!(message);
            }
            Endpoint::Settle => {
                problem.body["success"] = json!(false);
                problem.body["errorReason"] = json!("invalid_payload");
                problem.body["errorMessage"] = json!(message);
                problem.body["transaction"] = json!("");
                problem.body["network"] = json!("");
            }
        }
        problem
    }

    /// The same, with the network that the request names, where the answer has a field for it. The specification requires
    /// the field in every answer to /settle.
    pub(crate) fn on_network(mut self, network: &str) -> Self {
        if let Some(field) = self.body.get_mut("network") {
            *field = json!(network);
        }
        self
    }
}

impl From<Fault> for Problem {
    /// 503. What exactly failed stands in the log; callers get the kind and when to ask again.
    fn from(fault: Fault) -> Self {
        let code = fault.kind.code();
        let message = "no verdict could be reached; asking again with the same request is safe";
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        problem.body["retryable"] = json!(fault.retry_after.is_some());
        problem.body["notAttempted"] = json!(fault.not_attempted);
        problem.retry_after_secs = fault.retry_after.map(|after| after.as_secs().max(1));
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        response.extensions_mut().insert(ErrorCode(self.code));
        if let Some(secs) = self.retry_after_secs {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}

/// The code in an answer that is no verdict, for the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ErrorCode(pub(crate) &'static str);

/// Where a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Verify,
    Settle,
}

impl Endpoint {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Settle => "settle",
        }
    }

    pub(crate) fn refuse(self, refusal: Refusal) -> Result<Rejection, Problem> {
        match refusal {
            Refusal::Malformed(malformed) => Err(Problem::malformed(&malformed, self)),
            Refusal::Rejected(rejection) => Ok(rejection),
        }
    }

    pub(crate) fn problem(self, error: FacilitatorError) -> Problem {
        match error {
            FacilitatorError::Malformed(malformed) => Problem::malformed(&malformed, self),
            FacilitatorError::Fault(fault) => fault.into(),
        }
    }
}

/// The state of a settlement, as `GET /settlements/{id}` tells it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SettlementState {
    id: String,
    /// `pending`, `settled`, `failed`, `released` or `lost`.
    state: &'static str,
    network: String,
    scheme: String,
    payer: String,
    pay_to: String,
    asset: String,
    amount: String,
    /// The transaction that decided, or the newest.
    transaction: Option<String>,
    /// Every transaction that was ever signed for it and may have been sent.
    transactions: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    attempt: u32,
    claimed_at: u64,
    expires: u64,
    /// Whether somebody was told `success: true`.
    told: bool,
    /// Whether the block of a settled payment counts as final.
    #[serde(rename = "final")]
    is_final: bool,
}

impl From<Settlement> for SettlementState {
    fn from(settlement: Settlement) -> Self {
        let transaction = settlement.evidence().map(ToString::to_string);
        let (state, reason, message) = match &settlement.state {
            State::Open => ("pending", None, None),
            State::Concluded(Outcome::Settled { .. }) => ("settled", None, None),
            State::Concluded(Outcome::Failed { reason, detail, .. }) => {
                ("failed", Some(reason.to_string()), Some(detail.clone()))
            }
            State::Concluded(Outcome::Lost { reason, detail, .. }) => {
                ("lost", Some(reason.to_string()), Some(detail.clone()))
            }
            // What exactly failed stands in the log and in the journal; it may name nodes and signers.
            State::Concluded(Outcome::Released { .. }) => {
                ("released", None, Some(RELEASED.to_owned()))
            }
            // A state of a newer journal.
            _ => ("unknown", None, None),
        };
        let claim = settlement.claim;
        Self {
            id: claim.id.to_string(),
            state,
            network: claim.network,
            scheme: claim.scheme,
            payer: claim.payer,
            pay_to: claim.pay_to,
            asset: claim.asset,
            amount: claim.amount.to_string(),
            transaction,
            transactions: settlement
                .transactions
                .iter()
                .map(|(_, sent)| sent.id.to_string())
                .collect(),
            reason,
            message,
            attempt: settlement.attempt,
            claimed_at: settlement.claimed_at.secs(),
            expires: claim.expires.secs(),
            told: settlement.success_reported_at.is_some(),
            is_final: settlement.final_at.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use quittance_core::{Amount, Fault, FaultKind, PaymentId, PaymentInfo, Timestamp};
    use quittance_engine::Claim;

    use super::*;

    /// It was told with the fault's own words, which may name nodes and signers.
    #[test]
    fn a_released_settlement_does_not_tell_what_failed() {
        let id: PaymentId = "0".repeat(64).parse().unwrap();
        let info = PaymentInfo {
            id,
            payer: String::new(),
            pay_to: String::new(),
            asset: String::new(),
            amount: Amount::default(),
            expires: Timestamp::from_secs(2),
        };
        let now = Timestamp::from_secs(1);
        let claim = Claim::new("eip155:1", "exact", &info, String::new(), now);
        let detail = "the node at 10.0.0.7 gives nothing to signer 0xab";
        let fault = Fault::new(FaultKind::ChainUnavailable, detail);
        let released = State::Concluded(Outcome::Released { fault });
        let state = SettlementState::from(Settlement::new(claim, released, now));
        let told = serde_json::to_string(&state).unwrap();
        assert!(told.contains("\"released\"") && told.contains("may be settled again"));
        assert!(
            !told.contains("10.0.0.7") && !told.contains("0xab"),
            "{told}"
        );
    }
}
