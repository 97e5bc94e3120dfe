//! Reason codes of sellers and of facilitators, beside those of the specification.

use quittance_core::FaultKind;

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
