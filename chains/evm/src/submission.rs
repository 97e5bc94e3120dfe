//! What nodes say of a transaction that they do not take, and what that means.

use quittance_core::{Fault, FaultKind, Submission};
use quittance_nodes::{Failure, NodeError};

/// What a node's refusal of a transaction means. Nodes agree on no codes, only roughly on words; whatever is not known
/// for certain counts as possibly sent.
pub(crate) fn refusal(error: &NodeError) -> Submission {
    let message = error.message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let refused = |kind| {
        Submission::Refused(Fault::new(
            kind,
            format_args!("the node refuses the transaction: {message}"),
        ))
    };
    // "unknown transaction" must not read as "known transaction".
    if says(&[
        "already known",
        "already imported",
        "already exists",
        "alreadyknown",
    ]) || (says(&["known transaction"]) && !says(&["unknown transaction"]))
    {
        Submission::Accepted
    } else if says(&[
        "nonce too low",
        "nonce is too low",
        "replacement transaction underpriced",
        "could not replace",
    ]) {
        Submission::SequenceUsed
    } else if says(&["insufficient funds", "insufficient balance"]) {
        refused(FaultKind::FacilitatorFunds)
    } else if says(&[
        "intrinsic gas too low",
        "exceeds block gas limit",
        "gas limit reached",
        "exceeds the configured cap",
        "max fee per gas less than block base fee",
        "fee cap less than block base fee",
        "transaction underpriced",
        "txpool is full",
        "transaction pool is full",
        "nonce too high",
        "gapped-nonce",
        "oversized data",
        "invalid sender",
        "invalid chain id",
        "transaction type not supported",
    ]) {
        refused(FaultKind::ChainUnavailable)
    } else {
        Submission::Unknown(Failure::Node(error.clone()).fault())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node_says(message: &str) -> Submission {
        refusal(&NodeError {
            code: -32000,
            message: message.to_owned(),
            data: serde_json::Value::Null,
        })
    }

    #[test]
    fn what_nodes_say_of_a_transaction_is_told_apart() {
        for message in [
            "already known",
            "AlreadyKnown",
            "known transaction: 0x1",
            "tx already imported",
        ] {
            assert_eq!(node_says(message), Submission::Accepted, "{message}");
        }
        for message in [
            "nonce too low: next nonce 5, tx nonce 4",
            "replacement transaction underpriced",
        ] {
            assert_eq!(node_says(message), Submission::SequenceUsed, "{message}");
        }
        let funds = node_says("insufficient funds for gas * price + value");
        assert!(
            matches!(funds, Submission::Refused(fault) if fault.kind == FaultKind::FacilitatorFunds)
        );
        for message in [
            "intrinsic gas too low",
            "txpool is full",
            "max fee per gas less than block base fee",
        ] {
            assert!(
                matches!(node_says(message), Submission::Refused(_)),
                "{message}"
            );
        }
        for message in [
            "unknown transaction",
            "internal error",
            "context deadline exceeded",
            "",
        ] {
            assert!(
                matches!(node_says(message), Submission::Unknown(_)),
                "{message}"
            );
        }
    }
}
