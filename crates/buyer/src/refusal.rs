//! What a server's refusal proves about the money: nothing, unless the caller trusts that server.
//!
//! A server that has an authorization can use it and deny that. A facilitator that gets the same
//! payment twice can reject one copy while the other one settles. So no reason code proves that
//! nothing moved. The chain proves it, once the authorization has expired unused. A caller may also
//! trust a server of its own.

use quittance_core::Reason;

use crate::receipt::Receipt;
use quittance_http::reason::{HANDLER_FAILED, OTHER_TERMS};

/// What a server's refusal means for the money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusalMeaning {
    /// The authorization has expired and moved nothing in any presentation.
    NeverSettled,
    /// This presentation moved nothing.
    NotNow,
    /// The refusal proves nothing.
    Unknown,
}

/// What a refusal with this reason and receipt means. Three reasons of a trusted server count, each
/// defined by this library's seller or facilitator. The journal recorded that the authorization
/// expired unsettled, the handler failed, or the requirements differed. A receipt that is unclear
/// or names a transaction proves nothing.
pub(crate) fn meaning_of(reason: &str, receipt: Option<&Receipt>, trusted: bool) -> RefusalMeaning {
    let contradicts = |receipt: &Receipt| {
        receipt.success || receipt.unclear.is_some() || !receipt.transaction.is_empty()
    };
    if !trusted || receipt.is_some_and(contradicts) {
        return RefusalMeaning::Unknown;
    }
    match reason {
        reason if reason == Reason::SETTLEMENT_EXPIRED.code() => RefusalMeaning::NeverSettled,
        HANDLER_FAILED | OTHER_TERMS => RefusalMeaning::NotNow,
        _ => RefusalMeaning::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quittance_core::wire::header;
    use serde_json::{Value, json};

    use super::*;

    fn receipt(value: &Value) -> Receipt {
        let value = header::encode(value);
        Receipt::from_headers([(header::PAYMENT_RESPONSE, value.as_bytes())]).unwrap()
    }

    /// The buyer once recognised verdicts of verification by the prefix of the code. A code outside
    /// its list made it pay twice.
    #[test]
    fn a_reason_code_proves_nothing_without_trust() {
        for reason in [
            "invalid_exact_evm_insufficient_balance",
            "invalid_exact_pebble_authorization_spent",
            "invalid_exact_pebble_nonce_already_used",
            "insufficient_funds",
            "settlement_expired",
            "handler_failed",
            "",
        ] {
            assert_eq!(
                meaning_of(reason, None, false),
                RefusalMeaning::Unknown,
                "{reason}"
            );
        }
    }

    #[test]
    fn three_reasons_of_a_trusted_server_count() {
        for (reason, said) in [
            ("settlement_expired", RefusalMeaning::NeverSettled),
            ("handler_failed", RefusalMeaning::NotNow),
            ("No matching payment requirements", RefusalMeaning::NotNow),
            ("insufficient_funds", RefusalMeaning::Unknown),
            ("settlement_expired_too", RefusalMeaning::Unknown),
        ] {
            assert_eq!(meaning_of(reason, None, true), said, "{reason}");
            let clear = json!({ "success": false, "errorReason": reason, "transaction": "", "network": "a:1" });
            assert_eq!(
                meaning_of(reason, Some(&receipt(&clear)), true),
                said,
                "{reason}"
            );
        }
    }

    #[test]
    fn a_named_transaction_or_an_unclear_receipt_proves_nothing() {
        for value in [
            json!({ "success": false, "transaction": "0x1", "network": "a:1" }),
            json!({ "success": false, "transaction": "", "txHash": "0x1", "network": "a:1" }),
            json!({ "success": false, "transaction": null, "network": "a:1" }),
            json!({ "success": false, "transaction": "" }),
            json!({ "success": true, "transaction": "", "network": "a:1" }),
            json!("settlement_expired"),
        ] {
            let receipt = receipt(&value);
            assert_eq!(
                meaning_of("settlement_expired", Some(&receipt), true),
                RefusalMeaning::Unknown,
                "{value}"
            );
        }
    }

    proptest! {
        /// No reason of a server without trust proves anything.
        #[test]
        fn any_reason_code_proves_nothing_without_trust(reason in ".{0,40}") {
            prop_assert_eq!(meaning_of(&reason, None, false), RefusalMeaning::Unknown);
        }
    }
}
