//! Which errors are a node's own limits: it was asked too much, and did nothing.

use crate::NodeError;

/// Codes that say so whatever the chain: EIP-1474's "limit exceeded", and HTTP's number in a body.
const CODES: [i64; 2] = [-32005, 429];

/// What gateways write, in lower case. No two of them agree on a code.
const WORDS: [&str; 18] = [
    "rate limit",
    "rate-limit",
    "ratelimit",
    "rate exceeded",
    "too many requests",
    "too many rpc calls",
    "request limit",
    "request rate",
    "request count",
    "requests per second",
    "compute units per second",
    "call rate",
    "quota",
    "over capacity",
    "slow down",
    "throttl",
    "backends available",
    "backend offline",
];

/// What a contract writes when it reverts. It may write anything, so its words decide nothing.
const REVERT_CODE: i64 = 3;

/// Whether the node did nothing because it was asked too much. `codes` are those of the chain's
/// gateways.
///
/// A node that gave up while it worked may have taken what it was handed: that is no limit.
pub(crate) fn is_limit(error: &NodeError, codes: &[i64]) -> bool {
    let message = error.message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if error.code == REVERT_CODE || says(&["revert", "timeout", "timed out"]) {
        return false;
    }
    CODES.contains(&error.code) || codes.contains(&error.code) || says(&WORDS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn error(code: i64, message: &str) -> NodeError {
        NodeError {
            code,
            message: message.to_owned(),
            data: Value::Null,
        }
    }

    #[test]
    fn a_gateway_that_was_asked_too_much_is_recognized() {
        for (code, message) in [
            (-32005, "anything"),
            (429, "anything"),
            (-32016, "over rate limit"),
            (-32011, "no backends available for method"),
            (-32007, "15/second request limit reached"),
            (15, "Too many requests, please slow down"),
            (-32097, "Rate Limit exceeded"),
            (-32001, "Exceeded the quota usage"),
            (-32012, "backend is over capacity"),
            (-32014, "too many RPC calls in batch request"),
            (-32029, "Too Many Requests, Please apply an API key"),
        ] {
            assert!(is_limit(&error(code, message), &[]), "{code} {message}");
        }
        assert!(is_limit(&error(-32016, "slow"), &[-32016]));
        assert!(!is_limit(&error(-32016, "slow"), &[]));
    }

    #[test]
    fn what_says_something_of_the_call_is_no_limit() {
        for (code, message) in [
            (3, "execution reverted: rate limit"),
            (-32000, "execution reverted: too many requests"),
            (-32000, "gas limit reached"),
            (-32000, "exceeds block gas limit"),
            (-32000, "txpool is full"),
            (-32000, "header not found"),
            (-32005, "request timed out"),
            (-32016, "Timeout"),
            (
                -32002,
                "Transaction simulation failed: Computational budget exceeded",
            ),
        ] {
            assert!(
                !is_limit(&error(code, message), &[-32016]),
                "{code} {message}"
            );
        }
    }

    proptest! {
        /// A contract of the payer's chooses these words.
        #[test]
        fn no_revert_is_a_limit(words in "\\PC{0,60}", at in 0..WORDS.len()) {
            let text = format!("execution reverted: {words} {}", WORDS[at]);
            prop_assert!(!is_limit(&error(-32000, &text), &[-32000]));
            prop_assert!(!is_limit(&error(REVERT_CODE, &words), &[REVERT_CODE]));
        }
    }
}
