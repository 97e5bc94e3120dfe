//! Reason codes of sellers and of facilitators, beside those of the specification.

use quittance_core::wire::SettleResponse;
use quittance_core::{FaultKind, Reason};

/// The seller's handler failed, so nothing was settled.
pub const HANDLER_FAILED: &str = "handler_failed";

/// The payment matches none of the seller's payment options. The reference implementation's words.
pub const OTHER_TERMS: &str = "No matching payment requirements";

/// The request carries no payment. The reference implementation's words.
pub const PAYMENT_REQUIRED: &str = "Payment required";

/// Codes of facilitators for failures of their own, beside those of [`FaultKind`]. The first two
/// are the specification's (section 9).
pub(crate) const FAULT_CODES: [&str; 6] = [
    "unexpected_verify_error",
    "unexpected_settle_error",
    "internal_server_error",
    "rate_limited",
    "timeout",
    "unknown_error",
];

/// Whether a reason code reports the facilitator's own failure rather than a verdict on the
/// payment.
pub(crate) fn is_fault_code(reason: &str) -> bool {
    FAULT_CODES.contains(&reason) || FaultKind::ALL.iter().any(|kind| kind.code() == reason)
}

/// Whether a facilitator certainly did not and will not settle a payment. Its reason is not a
/// failure of its own, and it knows neither a transaction nor another call.
pub fn is_certain_refusal(settled: &SettleResponse) -> bool {
    let open = [Reason::SETTLEMENT_PENDING, Reason::DUPLICATE_SETTLEMENT];
    let is_clear =
        |reason: &str| !is_fault_code(reason) && open.iter().all(|open| open.code() != reason);
    !settled.success
        && settled.transaction.is_empty()
        && settled.error_reason.as_deref().is_some_and(is_clear)
}
