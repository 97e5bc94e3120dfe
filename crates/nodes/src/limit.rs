//! Recognizes errors that report a node's rate limit. Such a node did not act on the request.

use crate::failure::NodeError;

/// Codes of every chain: "limit exceeded" of EIP-1474, and the HTTP status 429 in a JSON-RPC body.
const CODES: [i64; 2] = [-32005, 429];

/// Words of gateways' messages, in lower case. Gateways do not agree on a code.
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

/// The code of a reverted call. The contract chooses the message, so its words are not evidence.
const REVERT_CODE: i64 = 3;

/// Whether the node did nothing because a rate limit was reached. `codes` are those of the chain's
/// gateways.
///
/// A timeout is not a rate limit: the node may have acted on the request before it gave up.
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

    use super::*;

    fn error(code: i64, message: &str) -> NodeError {
        NodeError::new(code, message)
    }

    #[test]
    fn rate_limits_of_gateways_are_recognized() {
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
    fn error_about_the_call_itself_is_not_a_rate_limit() {
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
        /// The payer's contract can choose these words.
        #[test]
        fn revert_is_never_a_rate_limit(words in "\\PC{0,60}", at in 0..WORDS.len()) {
            let text = format!("execution reverted: {words} {}", WORDS[at]);
            prop_assert!(!is_limit(&error(-32000, &text), &[-32000]));
            prop_assert!(!is_limit(&error(REVERT_CODE, &words), &[REVERT_CODE]));
        }
    }
}
