//! What a server's refusal says about the money.

use quittance_core::Reason;
use quittance_core::wire::SettleResponse;

use crate::reason::{HANDLER_FAILED, OTHER_TERMS};

/// Words in reason codes that speak of money which may have moved: a transaction was included and did something else, or
/// the authorization was used.
const AFTER_SENDING: [&str; 5] = [
    "transaction_failed",
    "transaction_state",
    "event_mismatch",
    "already_used",
    "nonce",
];

/// What the first words of a code must be for it to be a verdict of verification. Every scheme's codes follow this.
const OF_VERIFICATION: [&str; 5] = [
    "invalid_",
    "unsupported_",
    "insufficient_",
    "permit2_",
    "asset_not_",
];

/// Other reasons that are given before anything is sent.
const OTHERS: [&str; 4] = [
    HANDLER_FAILED,
    OTHER_TERMS,
    "recipient_not_allowed",
    "amount_too_low",
];

/// What a server's refusal says about the money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// This authorization has run out and has moved nothing, however often it was presented.
    NeverSettled,
    /// This presentation moved nothing.
    NotNow,
    /// Nothing for certain.
    Unknown,
}

/// What this refusal says. A receipt that names a transaction leaves everything open, whatever its reason.
pub(super) fn word(reason: &str, receipt: Option<&SettleResponse>) -> Word {
    if receipt.is_some_and(|receipt| receipt.success || !receipt.transaction.is_empty()) {
        return Word::Unknown;
    }
    if reason == Reason::SETTLEMENT_EXPIRED.code() {
        return Word::NeverSettled;
    }
    let of_verification = OF_VERIFICATION
        .iter()
        .any(|first| reason.starts_with(first))
        && !AFTER_SENDING.iter().any(|part| reason.contains(part));
    if OTHERS.contains(&reason) || of_verification {
        Word::NotNow
    } else {
        Word::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_before_anything_is_sent_counts_as_nothing_moved() {
        for reason in [
            "invalid_exact_evm_insufficient_balance",
            "invalid_exact_evm_payload_authorization_valid_before",
            "insufficient_funds",
            "unsupported_scheme",
            "permit2_deadline_expired",
            "asset_not_deployed_contract",
            "No matching payment requirements",
            "handler_failed",
        ] {
            assert_eq!(word(reason, None), Word::NotNow, "{reason}");
        }
        for reason in [
            "",
            "no",
            "Settlement failed",
            "Payment required",
            "unexpected_settle_error",
            "settlement_pending",
            "duplicate_settlement",
            "invalid_exact_evm_nonce_already_used",
            "invalid_exact_evm_transaction_failed",
            "invalid_exact_evm_transfer_event_mismatch",
            "invalid_transaction_state",
            "invalid_permit2_nonce",
        ] {
            assert_eq!(word(reason, None), Word::Unknown, "{reason}");
        }
        assert_eq!(word("settlement_expired", None), Word::NeverSettled);
    }

    #[test]
    fn a_named_transaction_leaves_everything_open() {
        let rejection = Reason::SETTLEMENT_EXPIRED.into();
        let receipt = SettleResponse::failed("eip155:1", &rejection, None, "0x1");
        assert_eq!(word("settlement_expired", Some(&receipt)), Word::Unknown);
        assert_eq!(word("invalid_payload", Some(&receipt)), Word::Unknown);
    }
}
