//! What a facilitator's answer means. `docs/operating.md` has the table.

use quittance_core::wire::{SettleResponse, VerifyResponse};
use quittance_core::{Fault, FaultKind, Malformed, PaymentRequest, Reason, Rejection, json};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use tracing::warn;

use crate::printable::printable;
use crate::reason::is_fault_code;
use crate::retry::retry_after;

/// What a buyer reads beside a transaction that the facilitator named in an unclear answer.
const UNCLEAR: &str = "the facilitator named this transaction in an answer that is no verdict";

/// An answer as it came.
pub(crate) struct Answered {
    pub(crate) path: &'static str,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// As much of the body as was read.
    pub(crate) body: Vec<u8>,
    /// Why the rest of the body was not read.
    pub(crate) broken: Option<String>,
}

/// What a body may say under a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// Yes or no.
    Verdict,
    /// No: the facilitator refuses the request, and a yes contradicts the status.
    Refusal,
    /// No, with a reason that is not the facilitator's own failure: many frameworks answer 500 to whatever a handler
    /// throws, a refused payment included.
    Reason,
    /// Nothing. A failure that names a transaction is still believed.
    Nothing,
    /// Nothing: the sender of this answer has not looked at the payment.
    Door,
}

fn weight(status: StatusCode) -> Weight {
    match status.as_u16() {
        200..300 => Weight::Verdict,
        401 | 403..=405 | 407 | 408 | 411 | 413..=415 | 421 | 425 | 426 | 429 | 431 => Weight::Door,
        400..500 => Weight::Refusal,
        500 => Weight::Reason,
        _ => Weight::Nothing,
    }
}

/// Whether a request with this answer was turned away before the payment was read. 408 is not among them: some
/// frameworks answer it when their own handler takes too long.
fn at_the_door(status: StatusCode) -> bool {
    weight(status) == Weight::Door && status != StatusCode::REQUEST_TIMEOUT
}

/// Redirects that keep the request as it is: it was not handled here. 303 says the opposite, that the result is found
/// elsewhere; 300 and 304 say nothing about a POST.
fn passes_on(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 307 | 308)
}

impl Weight {
    fn allows(self, yes: bool, reason: Option<&str>) -> bool {
        match self {
            Self::Verdict => true,
            Self::Refusal => !yes,
            Self::Reason => !yes && reason.is_some_and(|reason| !is_fault_code(reason)),
            Self::Nothing | Self::Door => false,
        }
    }
}

/// The verdict in an answer to /verify.
pub(crate) fn of_verify(answered: &Answered) -> Result<VerifyResponse, Fault> {
    let read: Result<VerifyResponse, _> = answered.read();
    let weight = weight(answered.status);
    match read {
        Ok(verdict) if weight.allows(verdict.is_valid, verdict.invalid_reason.as_deref()) => {
            Ok(verdict)
        }
        Err(malformed) if weight == Weight::Verdict => Err(answered.nonsense(&malformed)),
        _ => Err(answered.problem()),
    }
}

/// The outcome in an answer to /settle. A transaction that is named is never dropped: where the answer is no verdict, the
/// payment is pending in that transaction.
pub(crate) fn of_settle(
    request: &PaymentRequest,
    answered: &Answered,
) -> Result<SettleResponse, Fault> {
    let weight = weight(answered.status);
    let settled = match answered.settlement() {
        Ok(settled) => settled,
        Err((malformed, transaction)) => {
            let fault = match weight {
                Weight::Verdict => answered.nonsense(&malformed),
                _ => answered.problem(),
            };
            return unclear(request, transaction, fault);
        }
    };
    let settled = completed(request, settled);
    let is_named = !settled.transaction.is_empty();
    let named_failure = !settled.success && is_named && weight != Weight::Door;
    let reason = settled.error_reason.as_deref();
    let fault = match weight.allows(settled.success, reason) || named_failure {
        true => match objection(request, &settled) {
            None => return Ok(settled),
            Some(objection) => answered.nonsense(objection),
        },
        false => answered.problem(),
    };
    unclear(request, Some(settled.transaction), fault)
}

/// Fills in the network where it is left out: a facilitator settles where it was asked to.
fn completed(request: &PaymentRequest, settled: SettleResponse) -> SettleResponse {
    match settled.network.is_empty() {
        true => SettleResponse {
            network: request.requirements.network.clone(),
            ..settled
        },
        false => settled,
    }
}

/// What a success says that cannot be. Settling nothing needs no transaction.
fn objection(request: &PaymentRequest, settled: &SettleResponse) -> Option<&'static str> {
    if !settled.success {
        return None;
    }
    if settled.transaction.is_empty() && !request.requirements.amount.is_zero() {
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
    warn!(%fault, transaction, "a facilitator's answer is unclear, and names a transaction");
    let pending = Rejection::new(Reason::SETTLEMENT_PENDING, UNCLEAR);
    let network = &request.requirements.network;
    Ok(SettleResponse::failed(
        network,
        &pending,
        None,
        &transaction,
    ))
}

/// What facilitators say in answers that are no verdicts.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Said {
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

impl Answered {
    /// The whole body as a `T`.
    pub(crate) fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, Malformed> {
        match &self.broken {
            Some(broken) => Err(Malformed::new("answer", broken)),
            None => json::read("answer", &self.body),
        }
    }

    /// The body as an answer to /settle, or what is wrong with it and the transaction that it names.
    fn settlement(&self) -> Result<SettleResponse, (Malformed, Option<String>)> {
        match (SettleResponse::read("answer", &self.body), &self.broken) {
            (Ok(settled), None) => Ok(settled),
            (Ok(settled), Some(broken)) => {
                let malformed = Malformed::new("answer", broken);
                Err((malformed, Some(settled.transaction)))
            }
            (Err(unreadable), _) => Err((unreadable.malformed, unreadable.transaction)),
        }
    }

    /// The fault of a facilitator whose answer contradicts itself. It may have done anything.
    pub(crate) fn nonsense(&self, problem: impl std::fmt::Display) -> Fault {
        unreachable(self.path, format_args!("answers nonsense: {problem}"))
    }

    /// What an answer is that is no verdict. It says nothing about the payer: the request is the seller's, and so is the
    /// choice of a facilitator that cannot read it.
    pub(crate) fn problem(&self) -> Fault {
        let said = self.read::<Said>().unwrap_or_default();
        let mut detail = format!("/{}: HTTP {}", self.path, self.status.as_u16());
        if self.status.is_redirection() {
            detail.push_str(" (redirects are not followed)");
        }
        let reasons = [&said.invalid_reason, &said.error_reason];
        let parts = [&said.field, &said.message];
        for part in parts.into_iter().chain(reasons).flatten() {
            detail.push_str(": ");
            detail.push_str(&printable(part));
        }
        let mut fault = Fault::new(kind(self.status, said.error.as_deref()), detail);
        if let Some(after) = retry_after(&self.headers) {
            fault.retry_after = Some(after);
        }
        let not_attempted = said.not_attempted == Some(true);
        fault.not_attempted = not_attempted || passes_on(self.status) || at_the_door(self.status);
        fault
    }
}

pub(crate) fn unreachable(path: &str, problem: impl std::fmt::Display) -> Fault {
    // It may quote what the facilitator wrote.
    let problem = printable(&problem.to_string());
    let detail = format_args!("/{path}: {problem}");
    Fault::new(FaultKind::FacilitatorUnreachable, detail)
}

fn kind(status: StatusCode, code: Option<&str>) -> FaultKind {
    let known = [
        FaultKind::Busy,
        FaultKind::ChainUnavailable,
        FaultKind::FacilitatorFunds,
        FaultKind::JournalUnavailable,
        FaultKind::NotYetValid,
    ];
    let said = known.into_iter().find(|kind| code == Some(kind.code()));
    said.unwrap_or(match status {
        StatusCode::TOO_MANY_REQUESTS => FaultKind::Busy,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FaultKind::Misconfigured,
        _ => FaultKind::FacilitatorUnreachable,
    })
}

#[cfg(test)]
mod tests;
