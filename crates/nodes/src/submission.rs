//! The outcome of submitting one transaction to several nodes.

use quittance_core::Submission;
use serde_json::Value;

use crate::failure::{Failure, NodeError, unavailable};
use crate::request::Reply;

/// What one node's reply means, or that there is none.
pub(crate) fn from_reply(
    reply: Result<Value, Failure>,
    meaning: impl Fn(&Reply) -> Submission,
) -> Submission {
    match reply {
        Ok(result) => meaning(&Ok(result)),
        Err(Failure::Node(error)) => meaning(&Err(error)),
        Err(Failure::NotSent(fault)) => Submission::Refused(fault),
        Err(Failure::NoReply(fault)) => Submission::Unknown(fault),
    }
}

/// What a reply means if a node that took the transaction returns its id, as a text.
pub(crate) fn taken_by_id(reply: &Reply, refusal: impl Fn(&NodeError) -> Submission) -> Submission {
    match reply {
        Ok(Value::String(_)) => Submission::Accepted,
        Ok(_) => {
            let detail = "the node did not confirm that it took the transaction";
            Submission::Unknown(unavailable(detail))
        }
        Err(error) => refusal(error),
    }
}

/// The result of two nodes together: the stronger of both. `Accepted` is stronger than
/// `SequenceUsed`, that than `Unknown`, and all are stronger than `Refused`.
pub(crate) fn stronger(first: Submission, second: Submission) -> Submission {
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
    fn refusal_never_overrides_a_possible_acceptance() {
        let fault = || Fault::new(FaultKind::ChainUnavailable, "test");
        let all = [
            Submission::Refused(fault()),
            Submission::Unknown(fault()),
            Submission::SequenceUsed,
            Submission::Accepted,
        ];
        for (low, first) in all.iter().enumerate() {
            for second in &all[low..] {
                assert_eq!(stronger(first.clone(), second.clone()), *second);
                assert_eq!(stronger(second.clone(), first.clone()), *second);
            }
        }
    }

    #[test]
    fn only_a_reply_with_an_id_is_an_acceptance() {
        let refusal = |_: &NodeError| Submission::SequenceUsed;
        assert_eq!(
            taken_by_id(&Ok(json!("0x1")), refusal),
            Submission::Accepted
        );
        for result in [json!(null), json!(true), json!({})] {
            let submission = taken_by_id(&Ok(result), refusal);
            assert!(matches!(submission, Submission::Unknown(_)));
        }
    }
}
