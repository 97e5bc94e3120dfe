//! What a server's refusal says about the money.

use quittance_core::Reason;
use quittance_core::wire::SettleResponse;

use crate::reason::{HANDLER_FAILED, OTHER_TERMS};

/// Words in reason codes that may be said after a transaction was sent: it was included and did something else, nobody saw what
/// it did, or the authorization was used or what it pays for is paid already. None of them proves that no money moved.
const AFTER_SENDING: [&str; 9] = [
    "transaction_failed",
    "reverted",
    "_state",
    "event_mismatch",
    "already_",
    "nonce",
    "broadcast",
    "wait_for_receipt",
    "collection_failed",
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

/// What this refusal says.
///
/// A receipt that names a transaction leaves everything open, whatever its reason. One that names none comes from settling,
/// and there even a code of verification proves nothing: settling verifies again, a seller asks twice when the first answer is
/// `settlement_pending`, and the second answer may be that of another instance of the facilitator, which finds an empty
/// purse or a stale date because the first has taken the money. So of receipts two words are believed: the seller's own
/// that it did not settle at all, and the facilitator's that the payment ran out unsettled. A refusal without receipt comes
/// from verifying, before anything was sent.
pub(super) fn word(reason: &str, receipt: Option<&SettleResponse>) -> Word {
    if receipt.is_some_and(|receipt| receipt.success || !receipt.transaction.is_empty()) {
        return Word::Unknown;
    }
    if reason == Reason::SETTLEMENT_EXPIRED.code() {
        return Word::NeverSettled;
    }
    if receipt.is_some() && reason != HANDLER_FAILED {
        return Word::Unknown;
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
            "invalid_auth_capture_evm_payment_already_collected",
            "invalid_auth_capture_evm_transaction_reverted",
            "invalid_auth_capture_evm_token_collection_failed",
            "invalid_auth_capture_evm_unexpected_payment_state",
            "invalid_batch_settlement_evm_wait_for_receipt_failed",
            "invalid_upto_svm_channel_already_open",
            "invalid_upto_svm_channel_broadcast",
        ] {
            assert_eq!(word(reason, None), Word::Unknown, "{reason}");
        }
        assert_eq!(word("settlement_expired", None), Word::NeverSettled);
    }

    /// A verdict of another instance, after the first had said `settlement_pending` and sent the payment, counted as proof that
    /// nothing had moved, and the buyer signed another payment.
    #[test]
    fn of_a_receipt_only_that_nothing_was_settled_is_believed() {
        let word = |reason: &'static str| {
            let receipt = SettleResponse::failed("eip155:1", &Reason::new(reason).into(), None, "");
            word(reason, Some(&receipt))
        };
        for reason in [
            "invalid_exact_evm_insufficient_balance",
            "invalid_exact_evm_payload_authorization_valid_before",
            "insufficient_funds",
            "recipient_not_allowed",
        ] {
            assert_eq!(word(reason), Word::Unknown, "{reason}");
        }
        assert_eq!(word("handler_failed"), Word::NotNow);
        assert_eq!(word("settlement_expired"), Word::NeverSettled);
    }

    #[test]
    fn a_named_transaction_leaves_everything_open() {
        let rejection = Reason::SETTLEMENT_EXPIRED.into();
        let receipt = SettleResponse::failed("eip155:1", &rejection, None, "0x1");
        assert_eq!(word("settlement_expired", Some(&receipt)), Word::Unknown);
        assert_eq!(word("invalid_payload", Some(&receipt)), Word::Unknown);
    }
}
