//! What a node's error to a submitted transaction means.

use quittance_core::{Fault, FaultKind, Submission};

use crate::failure::{Failure, NodeError};

/// What an error to a submitted transaction means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Meaning {
    /// The node has the transaction already.
    Accepted,
    /// The transaction's sequence number is used.
    SequenceUsed,
    /// The node certainly did not take the transaction.
    Refused(FaultKind),
    /// The node may have taken it.
    Unknown,
}

/// How a chain's nodes refuse transactions, by the words and the codes of their errors.
///
/// Entries are tried in order, those by words first. An error that no entry matches means that the
/// node may have taken the transaction.
///
/// ```
/// use quittance_core::{FaultKind, Submission};
/// use quittance_nodes::{Meaning, NodeError, Refusals};
///
/// const REFUSALS: Refusals = Refusals::new(&[
///     (&["already known"], Meaning::Accepted),
///     (&["insufficient funds"], Meaning::Refused(FaultKind::FacilitatorFunds)),
/// ]);
///
/// let error = NodeError::new(-32000, "Already known");
/// assert_eq!(REFUSALS.submission(&error), Submission::Accepted);
/// let error = NodeError::new(-32000, "internal error");
/// assert!(matches!(REFUSALS.submission(&error), Submission::Unknown(_)));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Refusals {
    words: &'static [(&'static [&'static str], Meaning)],
    codes: &'static [(i64, Meaning)],
}

impl Refusals {
    /// Refusals by the words in their message, in lower case.
    pub const fn new(words: &'static [(&'static [&'static str], Meaning)]) -> Self {
        Self { words, codes: &[] }
    }

    /// The same refusals, and those with these codes whose words match no entry.
    #[must_use]
    pub const fn with_codes(self, codes: &'static [(i64, Meaning)]) -> Self {
        Self { codes, ..self }
    }

    /// What this error means.
    pub fn meaning(&self, error: &NodeError) -> Meaning {
        let message = error.message.to_ascii_lowercase();
        let says = |words: &&(&[&str], Meaning)| words.0.iter().any(|text| message.contains(text));
        let by_words = self.words.iter().find(says).map(|(_, meaning)| *meaning);
        let by_code = || {
            let known = self.codes.iter().find(|(code, _)| *code == error.code);
            known.map(|(_, meaning)| *meaning)
        };
        by_words.or_else(by_code).unwrap_or(Meaning::Unknown)
    }

    /// The outcome of a submission to which a node replied with this error.
    pub fn submission(&self, error: &NodeError) -> Submission {
        match self.meaning(error) {
            Meaning::Accepted => Submission::Accepted,
            Meaning::SequenceUsed => Submission::SequenceUsed,
            Meaning::Refused(kind) => {
                let detail = format_args!("the node refused the transaction: {}", error.message);
                Submission::Refused(Fault::new(kind, detail))
            }
            Meaning::Unknown => Submission::Unknown(Failure::Node(error.clone()).fault()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSALS: Refusals = Refusals::new(&[
        (&["unknown transaction"], Meaning::Unknown),
        (&["known transaction"], Meaning::Accepted),
    ])
    .with_codes(&[
        (-32602, Meaning::Refused(FaultKind::Internal)),
        (-1, Meaning::SequenceUsed),
    ]);

    #[test]
    fn earlier_entries_win_and_words_win_over_codes() {
        let meaning = |code, message: &str| REFUSALS.meaning(&NodeError::new(code, message));
        assert_eq!(meaning(0, "Known transaction: 0x1"), Meaning::Accepted);
        assert_eq!(meaning(0, "unknown transaction"), Meaning::Unknown);
        assert_eq!(meaning(-32602, "known transaction"), Meaning::Accepted);
        assert_eq!(
            meaning(-32602, "invalid params"),
            Meaning::Refused(FaultKind::Internal)
        );
        assert_eq!(meaning(-1, ""), Meaning::SequenceUsed);
        assert_eq!(meaning(7, ""), Meaning::Unknown);
    }
}
