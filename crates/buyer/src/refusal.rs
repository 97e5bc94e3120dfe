//! What a server's refusal says about the money: nothing, unless the caller trusts that server.
//!
//! A refusal is a server's word. Who has an authorization can use it and say that it did not, and a facilitator that is asked
//! twice may judge a payment that its other half has just settled. So no reason code, however it is spelled, proves that
//! nothing moved. The chain does, when the authorization has run out unused. A caller may also trust a server of its own.

use quittance_core::Reason;

use crate::receipt::Receipt;
use quittance_http::reason::{HANDLER_FAILED, OTHER_TERMS};

/// What a server's refusal says about the money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// This authorization has run out and has moved nothing, however often it was presented.
    NeverSettled,
    /// This presentation moved nothing.
    NotNow,
    /// Nothing for certain.
    Unknown,
}

/// What this refusal says. Of a server that is trusted three words are believed, each defined by this library's own seller or
/// facilitator: a journal says that the authorization ran out unsettled, or the seller says that it never asked to settle. A
/// receipt that is unclear or names a transaction leaves everything open.
pub(crate) fn word(reason: &str, receipt: Option<&Receipt>, trusted: bool) -> Word {
    let is_doubtful = |receipt: &Receipt| {
        receipt.success || receipt.unclear.is_some() || !receipt.transaction.is_empty()
    };
    if !trusted || receipt.is_some_and(is_doubtful) {
        return Word::Unknown;
    }
    match reason {
        reason if reason == Reason::SETTLEMENT_EXPIRED.code() => Word::NeverSettled,
        HANDLER_FAILED | OTHER_TERMS => Word::NotNow,
        _ => Word::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;
    use quittance_core::wire::header;
    use serde_json::{Value, json};

    use super::*;

    fn receipt(value: &Value) -> Receipt {
        let mut headers = HeaderMap::new();
        let value: HeaderValue = header::encode(value).parse().unwrap();
        headers.insert(header::PAYMENT_RESPONSE, value);
        Receipt::of(&headers).unwrap()
    }

    /// Codes were taken for verdicts of verification by their first words, and a code that no list had foreseen made a buyer pay
    /// twice.
    #[test]
    fn a_code_says_nothing_of_the_money_however_it_is_spelled() {
        for reason in [
            "invalid_exact_evm_insufficient_balance",
            "invalid_exact_pebble_authorization_spent",
            "invalid_exact_pebble_nonce_already_used",
            "insufficient_funds",
            "settlement_expired",
            "handler_failed",
            "",
        ] {
            assert_eq!(word(reason, None, false), Word::Unknown, "{reason}");
        }
    }

    #[test]
    fn a_trusted_server_is_believed_three_words() {
        for (reason, said) in [
            ("settlement_expired", Word::NeverSettled),
            ("handler_failed", Word::NotNow),
            ("No matching payment requirements", Word::NotNow),
            ("insufficient_funds", Word::Unknown),
            ("settlement_expired_too", Word::Unknown),
        ] {
            assert_eq!(word(reason, None, true), said, "{reason}");
            let clear = json!({ "success": false, "errorReason": reason, "transaction": "", "network": "a:1" });
            assert_eq!(word(reason, Some(&receipt(&clear)), true), said, "{reason}");
        }
    }

    #[test]
    fn a_named_transaction_or_an_unclear_receipt_leaves_everything_open() {
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
                word("settlement_expired", Some(&receipt), true),
                Word::Unknown,
                "{value}"
            );
        }
    }

    proptest! {
        /// Whatever a server says that is not trusted, it proves nothing.
        #[test]
        fn no_words_of_a_server_that_is_not_trusted_prove_anything(reason in ".{0,40}") {
            prop_assert_eq!(word(&reason, None, false), Word::Unknown);
        }
    }
}
