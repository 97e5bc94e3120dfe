//! How Solana's nodes refuse transactions, and what that means.

use quittance_core::FaultKind;
use quittance_nodes::{Meaning, Refusals};
use solana_rpc_client_api::custom_error::JSON_RPC_SERVER_ERROR_TRANSACTION_SIGNATURE_VERIFICATION_FAILURE;

/// The words and codes of nodes' errors to `sendTransaction`. What no entry matches counts as
/// possibly sent.
pub(super) const REFUSALS: Refusals = Refusals::new(&[
    (
        &["already been processed", "alreadyprocessed"],
        Meaning::Accepted,
    ),
    (
        &["insufficient funds for fee", "insufficientfundsforfee"],
        Meaning::Refused(FaultKind::FacilitatorFunds),
    ),
    (
        &[
            // The table existed during the simulation, so this node is behind.
            "address table",
            "address lookup table",
            "blockhash not found",
            "blockhashnotfound",
        ],
        Meaning::Refused(FaultKind::ChainUnavailable),
    ),
])
.with_codes(&[
    // JSON-RPC's codes for a request that was not understood: the node did nothing.
    (-32700, Meaning::Refused(FaultKind::Internal)),
    (-32600, Meaning::Refused(FaultKind::Internal)),
    (-32601, Meaning::Refused(FaultKind::Internal)),
    (-32602, Meaning::Refused(FaultKind::Internal)),
    (
        JSON_RPC_SERVER_ERROR_TRANSACTION_SIGNATURE_VERIFICATION_FAILURE,
        Meaning::Refused(FaultKind::Internal),
    ),
]);

#[cfg(test)]
mod tests {
    use quittance_core::Submission;
    use quittance_nodes::NodeError;

    use super::*;

    fn submission(code: i64, message: &str) -> Submission {
        REFUSALS.submission(&NodeError::new(code, message))
    }

    #[test]
    fn node_errors_on_submission_are_classified() {
        let processed =
            "Transaction simulation failed: This transaction has already been processed";
        assert_eq!(submission(-32002, processed), Submission::Accepted);
        for (code, message, kind) in [
            (
                -32002,
                "Transaction simulation failed: Insufficient funds for fee",
                FaultKind::FacilitatorFunds,
            ),
            (
                -32602,
                "invalid transaction: index out of bounds",
                FaultKind::Internal,
            ),
            (
                -32003,
                "Transaction signature verification failure",
                FaultKind::Internal,
            ),
            (
                -32002,
                "Transaction simulation failed: Blockhash not found",
                FaultKind::ChainUnavailable,
            ),
            (
                -32602,
                "invalid transaction: Transaction loads an address table account that doesn't exist",
                FaultKind::ChainUnavailable,
            ),
        ] {
            let Submission::Refused(fault) = submission(code, message) else {
                panic!("{message}");
            };
            assert_eq!(fault.kind, kind, "{message}");
        }
        for (code, message) in [
            (-32603, "Internal error"),
            (-32002, "Transaction simulation failed"),
            (0, ""),
        ] {
            assert!(
                matches!(submission(code, message), Submission::Unknown(_)),
                "{message}"
            );
        }
    }
}
