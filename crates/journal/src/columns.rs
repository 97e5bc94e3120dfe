//! What both databases store alike: outcomes, times and numbers.

use std::time::Duration;

use quittance_core::{Timestamp, TransactionId};

use crate::settlement::Outcome;

/// The columns that an outcome is stored in.
#[derive(Default)]
pub(crate) struct OutcomeColumns<'a> {
    pub(crate) state: &'static str,
    pub(crate) reason: Option<&'a str>,
    pub(crate) detail: Option<&'a str>,
    pub(crate) transaction: Option<&'a str>,
    pub(crate) amount: Option<String>,
    pub(crate) fault: Option<&'static str>,
    pub(crate) retry_after: Option<i64>,
    pub(crate) receipt: Option<String>,
    /// Whether the outcome cannot change any more: nothing was sent.
    pub(crate) is_final: bool,
}

impl<'a> OutcomeColumns<'a> {
    pub(crate) fn new(outcome: &'a Outcome) -> Self {
        let columns = match outcome {
            Outcome::Settled {
                transaction,
                amount,
                receipt,
            } => Self {
                transaction: transaction.as_ref().map(TransactionId::as_str),
                amount: Some(amount.to_string()),
                receipt: (!receipt.is_empty()).then(|| receipt.to_text()),
                is_final: transaction.is_none(),
                ..Self::default()
            },
            Outcome::Failed {
                reason,
                detail,
                transaction,
            }
            | Outcome::Lost {
                reason,
                detail,
                transaction,
            } => Self {
                reason: Some(reason.code()),
                detail: Some(detail),
                transaction: transaction.as_ref().map(TransactionId::as_str),
                ..Self::default()
            },
            Outcome::Released { fault } => Self {
                detail: Some(&fault.detail),
                fault: Some(fault.kind.code()),
                retry_after: fault.retry_after.map(whole_seconds),
                ..Self::default()
            },
        };
        let state = outcome.kind().as_str();
        Self { state, ..columns }
    }
}

/// A time as a database stores it. Its integers are signed: one beyond their range is stored as the
/// largest one.
pub(crate) fn seconds(time: Timestamp) -> i64 {
    integer(time.secs())
}

/// As [`seconds`], for a sequence number.
pub(crate) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A wait in whole seconds, rounded up: a caller must not return too early.
fn whole_seconds(wait: Duration) -> i64 {
    let rounded_up = u64::from(wait.subsec_nanos() > 0);
    integer(wait.as_secs().saturating_add(rounded_up))
}
