//! The meaning of nodes' errors on submission.

use quittance_core::{Fault, FaultKind, Submission};
use quittance_nodes::{Failure, NodeError};

/// The error codes of JSON-RPC for a request that was not understood: the node did nothing.
const NOT_UNDERSTOOD: [i64; 4] = [-32700, -32600, -32601, -32602];

/// The node found an invalid signature.
const SIGNATURE_VERIFICATION_FAILURE: i64 = -32003;

/// Classifies a node's error on submission. If the effect is not certain, the transaction counts as
/// possibly sent.
pub(crate) fn refusal(error: &NodeError) -> Submission {
    let message = error.message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let refused = |kind| {
        Submission::Refused(Fault::new(
            kind,
            format_args!("the node refuses the transaction: {message}"),
        ))
    };
    if says(&["already been processed", "alreadyprocessed"]) {
        Submission::Accepted
    } else if says(&["insufficient funds for fee", "insufficientfundsforfee"]) {
        refused(FaultKind::FacilitatorFunds)
    } else if says(&["address table", "address lookup table"]) {
        // The table existed during the simulation, so this node is behind.
        refused(FaultKind::ChainUnavailable)
    } else if error.code == SIGNATURE_VERIFICATION_FAILURE || NOT_UNDERSTOOD.contains(&error.code) {
        refused(FaultKind::Internal)
    } else if says(&["blockhash not found", "blockhashnotfound"]) {
        refused(FaultKind::ChainUnavailable)
    } else {
        Submission::Unknown(Failure::Node(error.clone()).fault())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node_says(code: i64, message: &str) -> Submission {
        refusal(&NodeError::new(code, message))
    }

    #[test]
    fn node_errors_on_submission_are_classified() {
        let processed =
            "Transaction simulation failed: This transaction has already been processed";
        assert_eq!(node_says(-32002, processed), Submission::Accepted);
        let unfunded = node_says(
            -32002,
            "Transaction simulation failed: Insufficient funds for fee",
        );
        assert!(
            matches!(unfunded, Submission::Refused(fault) if fault.kind == FaultKind::FacilitatorFunds)
        );
        for (code, message) in [
            (-32602, "invalid transaction: index out of bounds"),
            (-32003, "Transaction signature verification failure"),
            (-32002, "Transaction simulation failed: Blockhash not found"),
        ] {
            assert!(
                matches!(node_says(code, message), Submission::Refused(_)),
                "{message}"
            );
        }
        for (code, message) in [
            (-32603, "Internal error"),
            (-32002, "Transaction simulation failed"),
            (0, ""),
        ] {
            assert!(
                matches!(node_says(code, message), Submission::Unknown(_)),
                "{message}"
            );
        }
    }
}
