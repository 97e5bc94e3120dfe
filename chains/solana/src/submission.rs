//! What nodes say of a transaction that is handed to them, and what that means.

use quittance_core::{Fault, FaultKind, Submission};

use crate::rpc::{Failure, NodeError};

/// What one node's answer means.
pub(crate) fn of(sent: Result<(), Failure>) -> Submission {
    match sent {
        Ok(()) => Submission::Accepted,
        Err(Failure::Node(error)) => refusal(&error),
        Err(Failure::NotAsked(fault)) => Submission::Refused(fault),
        Err(Failure::NoAnswer(fault)) => Submission::Unknown(fault),
    }
}

/// Of what two nodes mean, the one that holds for both together: that one has it; then that one may have it. Only when
/// both refused is it refused.
pub(crate) fn surer(first: Submission, second: Submission) -> Submission {
    fn rank(submission: &Submission) -> u8 {
        match submission {
            Submission::Accepted | Submission::PlaceTaken => 2,
            Submission::Unknown(_) => 1,
            Submission::Refused(_) => 0,
        }
    }
    if rank(&first) > rank(&second) {
        first
    } else {
        second
    }
}

/// JSON-RPC's own codes for a question that was not understood: the node did nothing.
const NOT_UNDERSTOOD: [i64; 4] = [-32700, -32600, -32601, -32602];

/// The node looked at the signatures and found one wrong.
const SIGNATURE_VERIFICATION_FAILURE: i64 = -32003;

/// What a node's refusal of a transaction means. Whatever is not known for certain counts as possibly sent.
fn refusal(error: &NodeError) -> Submission {
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
        refusal(&NodeError {
            code,
            message: message.to_owned(),
        })
    }

    #[test]
    fn what_nodes_say_of_a_transaction_is_told_apart() {
        let processed =
            "Transaction simulation failed: This transaction has already been processed";
        assert_eq!(node_says(-32002, processed), Submission::Accepted);
        let poor = node_says(
            -32002,
            "Transaction simulation failed: Insufficient funds for fee",
        );
        assert!(
            matches!(poor, Submission::Refused(fault) if fault.kind == FaultKind::FacilitatorFunds)
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

    #[test]
    fn no_refusal_takes_back_that_another_node_may_have_it() {
        let fault = || Fault::new(FaultKind::ChainUnavailable, "test");
        let all = [
            Submission::Refused(fault()),
            Submission::Unknown(fault()),
            Submission::Accepted,
        ];
        for (low, first) in all.iter().enumerate() {
            for second in &all[low..] {
                assert_eq!(surer(first.clone(), second.clone()), *second);
                assert_eq!(surer(second.clone(), first.clone()), *second);
            }
        }
    }
}
