//! The meaning of a facilitator's response. `docs/operating.md` has the table.

use quittance_core::wire::{SettleResponse, VerifyResponse};
use quittance_core::{
    Fault, FaultKind, Malformed, PaymentRequest, Reason, Rejection, json, printable,
};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use tracing::warn;

use crate::reason::is_fault_code;
use crate::retry::retry_after;

/// The message for a transaction in a response that is not a verdict.
const UNCLEAR: &str = "the facilitator named this transaction in a response that is not a verdict";

/// A facilitator's response.
pub(crate) struct FacilitatorResponse {
    pub(crate) path: &'static str,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The part of the body that was read.
    pub(crate) body: Vec<u8>,
    /// Why the rest of the body was not read.
    pub(crate) incomplete: Option<String>,
}

/// Which verdicts a body may contain under a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StatusMeaning {
    /// Either verdict.
    Verdict,
    /// Only a refusal: a success contradicts the status.
    Refusal,
    /// Only a refusal whose reason is not a failure of the facilitator. Many frameworks answer 500
    /// to every exception of a handler, including a refused payment.
    RefusalWithReason,
    /// No verdict. A failure that names a transaction still counts.
    NoVerdict,
    /// No verdict, because the payment was not processed.
    NotProcessed,
}

fn status_meaning(status: StatusCode) -> StatusMeaning {
    match status.as_u16() {
        200..300 => StatusMeaning::Verdict,
        401 | 403..=405 | 407 | 408 | 411 | 413..=415 | 421 | 425 | 426 | 429 | 431 => {
            StatusMeaning::NotProcessed
        }
        400..500 => StatusMeaning::Refusal,
        500 => StatusMeaning::RefusalWithReason,
        _ => StatusMeaning::NoVerdict,
    }
}

/// Whether the request was refused before the payment was read. 408 does not prove that, because
/// some frameworks send it if their own handler takes too long.
fn is_refused_unread(status: StatusCode) -> bool {
    status_meaning(status) == StatusMeaning::NotProcessed && status != StatusCode::REQUEST_TIMEOUT
}

/// Whether a redirect means that the request was not processed. 303 means that it was processed;
/// 300 and 304 have no meaning for a POST.
fn is_redirected_unprocessed(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 307 | 308)
}

impl StatusMeaning {
    fn allows(self, success: bool, reason: Option<&str>) -> bool {
        match self {
            Self::Verdict => true,
            Self::Refusal => !success,
            Self::RefusalWithReason => {
                !success && reason.is_some_and(|reason| !is_fault_code(reason))
            }
            Self::NoVerdict | Self::NotProcessed => false,
        }
    }
}

/// The verdict in a response to `/verify`.
pub(crate) fn of_verify(response: &FacilitatorResponse) -> Result<VerifyResponse, Fault> {
    let parsed: Result<VerifyResponse, _> = response.parse();
    let meaning = status_meaning(response.status);
    match parsed {
        Ok(verdict) if meaning.allows(verdict.is_valid, verdict.invalid_reason.as_deref()) => {
            Ok(verdict)
        }
        Err(malformed) if meaning == StatusMeaning::Verdict => Err(response.invalid(&malformed)),
        _ => Err(response.problem()),
    }
}

/// The outcome in a response to `/settle`. A named transaction is never dropped: if the response is
/// not a verdict, the payment is pending in that transaction.
pub(crate) fn of_settle(
    request: &PaymentRequest,
    response: &FacilitatorResponse,
) -> Result<SettleResponse, Fault> {
    let meaning = status_meaning(response.status);
    let settled = match response.settlement() {
        Ok(settled) => settled,
        Err((malformed, transaction)) => {
            let fault = match meaning {
                StatusMeaning::Verdict => response.invalid(&malformed),
                _ => response.problem(),
            };
            return unclear(request, transaction, fault);
        }
    };
    let settled = completed(request, settled);
    let is_named = !settled.transaction.is_empty();
    let named_failure = !settled.success && is_named && meaning != StatusMeaning::NotProcessed;
    let reason = settled.error_reason.as_deref();
    let fault = match meaning.allows(settled.success, reason) || named_failure {
        true => match objection(request, &settled) {
            None => return Ok(settled),
            Some(objection) => response.invalid(objection),
        },
        false => response.problem(),
    };
    unclear(request, Some(settled.transaction), fault)
}

/// Sets the network if it is missing: a facilitator settles on the network of the request.
fn completed(request: &PaymentRequest, settled: SettleResponse) -> SettleResponse {
    match settled.network.is_empty() {
        true => SettleResponse {
            network: request.requirements.network.clone(),
            ..settled
        },
        false => settled,
    }
}

/// Why a success is contradictory. Settling an amount of zero needs no transaction. Nor does an
/// accepted voucher: its answer has an empty amount, because no money has moved.
fn objection(request: &PaymentRequest, settled: &SettleResponse) -> Option<&'static str> {
    if !settled.success {
        return None;
    }
    let moves_nothing =
        request.requirements.amount.is_zero() || settled.amount.as_deref() == Some("");
    if settled.transaction.is_empty() && !moves_nothing {
        return Some("a success without a transaction");
    }
    let elsewhere = !request.may_be_on(&settled.network);
    elsewhere.then_some("a success on another network")
}

fn unclear(
    request: &PaymentRequest,
    transaction: Option<String>,
    fault: Fault,
) -> Result<SettleResponse, Fault> {
    let Some(transaction) = transaction.filter(|transaction| !transaction.is_empty()) else {
        return Err(fault);
    };
    warn!(%fault, transaction, "a facilitator's response is not a verdict, but names a transaction");
    let pending = Rejection::new(Reason::SETTLEMENT_PENDING, UNCLEAR);
    let network = &request.requirements.network;
    Ok(SettleResponse::failed(
        network,
        &pending,
        None,
        &transaction,
    ))
}

/// The fields of a response that is not a verdict.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct UnclearBody {
    #[serde(deserialize_with = "json::where_readable")]
    error: Option<String>,
    #[serde(deserialize_with = "json::where_readable")]
    field: Option<String>,
    #[serde(deserialize_with = "json::where_readable")]
    message: Option<String>,
    #[serde(deserialize_with = "json::where_readable")]
    invalid_reason: Option<String>,
    #[serde(deserialize_with = "json::where_readable")]
    error_reason: Option<String>,
    #[serde(deserialize_with = "json::where_readable")]
    not_attempted: Option<bool>,
}

impl FacilitatorResponse {
    /// Parses the whole body.
    pub(crate) fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, Malformed> {
        match &self.incomplete {
            Some(incomplete) => Err(Malformed::new("response", incomplete)),
            None => json::read("response", &self.body),
        }
    }

    /// Parses the body of a response to `/settle`. The error contains the transaction that the body
    /// names.
    fn settlement(&self) -> Result<SettleResponse, (Malformed, Option<String>)> {
        match (
            SettleResponse::read("response", &self.body),
            &self.incomplete,
        ) {
            (Ok(settled), None) => Ok(settled),
            (Ok(settled), Some(incomplete)) => {
                let malformed = Malformed::new("response", incomplete);
                Err((malformed, Some(settled.transaction)))
            }
            (Err(unreadable), _) => Err((unreadable.malformed, unreadable.transaction)),
        }
    }

    /// The fault of an invalid response. The outcome is unknown.
    pub(crate) fn invalid(&self, problem: impl std::fmt::Display) -> Fault {
        unreachable(self.path, format_args!("invalid response: {problem}"))
    }

    /// The fault of a response that is not a verdict. It does not concern the payer: the seller
    /// wrote the request and chose the facilitator.
    pub(crate) fn problem(&self) -> Fault {
        let body = self.parse::<UnclearBody>().unwrap_or_default();
        let mut detail = format!("/{}: HTTP {}", self.path, self.status.as_u16());
        if self.status.is_redirection() {
            detail.push_str(" (redirects are not followed)");
        }
        let reasons = [&body.invalid_reason, &body.error_reason];
        let parts = [&body.field, &body.message];
        for part in parts.into_iter().chain(reasons).flatten() {
            detail.push_str(": ");
            detail.push_str(&printable(part));
        }
        let mut fault = Fault::new(kind(self.status, body.error.as_deref()), detail);
        if let Some(after) = retry_after(&self.headers) {
            fault.retry_after = Some(after);
        }
        let not_attempted = body.not_attempted == Some(true);
        fault.not_attempted = not_attempted
            || is_redirected_unprocessed(self.status)
            || is_refused_unread(self.status);
        fault
    }
}

pub(crate) fn unreachable(path: &str, problem: impl std::fmt::Display) -> Fault {
    // It may quote the facilitator.
    let problem = printable(&problem.to_string());
    let detail = format_args!("/{path}: {problem}");
    Fault::new(FaultKind::FacilitatorUnreachable, detail)
}

fn kind(status: StatusCode, code: Option<&str>) -> FaultKind {
    let codes = [
        FaultKind::Busy,
        FaultKind::ChainUnavailable,
        FaultKind::FacilitatorFunds,
        FaultKind::JournalUnavailable,
        FaultKind::NotYetValid,
    ];
    let stated = codes.into_iter().find(|kind| code == Some(kind.code()));
    stated.unwrap_or(match status {
        StatusCode::TOO_MANY_REQUESTS => FaultKind::Busy,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FaultKind::Misconfigured,
        _ => FaultKind::FacilitatorUnreachable,
    })
}

#[cfg(test)]
mod tests;
