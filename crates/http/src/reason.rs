//! Reasons in the sellers' own words, of this library and of the reference implementation alike.

/// The handler failed, and so nothing was settled.
pub const HANDLER_FAILED: &str = "handler_failed";

/// The payment is on other terms than are offered.
pub const OTHER_TERMS: &str = "No matching payment requirements";

/// No payment was presented.
pub const PAYMENT_REQUIRED: &str = "Payment required";
