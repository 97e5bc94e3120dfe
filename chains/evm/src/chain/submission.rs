//! How EVM nodes refuse transactions, and what that means.

use quittance_core::FaultKind;
use quittance_nodes::{Meaning, Refusals};

/// The words of nodes' errors to `eth_sendRawTransaction`. Node software agrees on no codes, and
/// only roughly on words. What no entry matches counts as possibly sent.
pub(crate) const REFUSALS: Refusals = Refusals::new(&[
    // Contains "known transaction", and means the opposite.
    (&["unknown transaction"], Meaning::Unknown),
    (
        &[
            "already known",
            "already imported",
            "already exists",
            "alreadyknown",
            "known transaction",
        ],
        Meaning::Accepted,
    ),
    (
        &[
            "nonce too low",
            "nonce is too low",
            "replacement transaction underpriced",
            "could not replace",
        ],
        Meaning::SequenceUsed,
    ),
    (
        &["insufficient funds", "insufficient balance"],
        Meaning::Refused(FaultKind::FacilitatorFunds),
    ),
    (
        &[
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
        ],
        Meaning::Refused(FaultKind::ChainUnavailable),
    ),
]);

#[cfg(test)]
mod tests {
    use quittance_core::Submission;
    use quittance_nodes::NodeError;

    use super::*;

    fn submission(message: &str) -> Submission {
        REFUSALS.submission(&NodeError::new(-32000, message))
    }

    #[test]
    fn refusals_of_nodes_are_distinguished() {
        for message in [
            "already known",
            "AlreadyKnown",
            "known transaction: 0x1",
            "tx already imported",
        ] {
            assert_eq!(submission(message), Submission::Accepted, "{message}");
        }
        for message in [
            "nonce too low: next nonce 5, tx nonce 4",
            "replacement transaction underpriced",
        ] {
            assert_eq!(submission(message), Submission::SequenceUsed, "{message}");
        }
        let funds = submission("insufficient funds for gas * price + value");
        assert!(
            matches!(funds, Submission::Refused(fault) if fault.kind == FaultKind::FacilitatorFunds)
        );
        for message in [
            "intrinsic gas too low",
            "txpool is full",
            "max fee per gas less than block base fee",
        ] {
            assert!(
                matches!(submission(message), Submission::Refused(_)),
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
                matches!(submission(message), Submission::Unknown(_)),
                "{message}"
            );
        }
    }
}
