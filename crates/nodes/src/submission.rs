//! What nodes say of a transaction that is handed to them, and what that means for several of them.

use quittance_core::Submission;
use serde_json::Value;

use crate::{Failure, NodeError, unavailable};

/// What one node's answer means. A node that took the transaction says its id.
pub(crate) fn of(
    sent: Result<Value, Failure>,
    refusal: fn(&NodeError) -> Submission,
) -> Submission {
    match sent {
        Ok(Value::String(_)) => Submission::Accepted,
        Ok(_) => Submission::Unknown(unavailable("the node does not say that it took it")),
        Err(Failure::Node(error)) => refusal(&error),
        Err(Failure::NotAsked(fault)) => Submission::Refused(fault),
        Err(Failure::NoAnswer(fault)) => Submission::Unknown(fault),
    }
}

/// Of what two nodes mean, the one that holds for both together: that one has it; then that its place is taken; then
/// that one may have it. Only when both refused is it refused.
pub(crate) fn surer(first: Submission, second: Submission) -> Submission {
    fn rank(submission: &Submission) -> u8 {
        match submission {
            Submission::Accepted => 3,
            Submission::SequenceUsed => 2,
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

#[cfg(test)]
mod tests {
    use quittance_core::{Fault, FaultKind};
    use serde_json::json;

    use super::*;

    #[test]
    fn no_refusal_takes_back_that_another_node_may_have_it() {
        let fault = || Fault::new(FaultKind::ChainUnavailable, "test");
        let all = [
            Submission::Refused(fault()),
            Submission::Unknown(fault()),
            Submission::SequenceUsed,
            Submission::Accepted,
        ];
        for (low, first) in all.iter().enumerate() {
            for second in &all[low..] {
                assert_eq!(surer(first.clone(), second.clone()), *second);
                assert_eq!(surer(second.clone(), first.clone()), *second);
            }
        }
    }

    #[test]
    fn only_a_node_that_says_the_id_took_it() {
        let refusal = |_: &NodeError| Submission::SequenceUsed;
        assert_eq!(of(Ok(json!("0x1")), refusal), Submission::Accepted);
        for answer in [json!(null), json!(true), json!({})] {
            assert!(matches!(of(Ok(answer), refusal), Submission::Unknown(_)));
        }
    }
}
