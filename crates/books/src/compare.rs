//! The comparison: a merge of two streams that are sorted by transaction.

use std::io;
use std::iter::Peekable;

use quittance_core::TransactionId;

use crate::booked::{Booked, Says};
use crate::difference::{Difference, Kind};
use crate::judge::{Group, judge};
use crate::scope::CompareScope;
use crate::seen::{Seen, Sent};
use crate::totals::{Gas, Totals};

/// The result of a comparison that could be made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Compared {
    /// How many lines the books have.
    pub lines: u64,
    /// How many transactions were compared.
    pub transactions: u64,
    /// How many differences were found.
    pub differences: u64,
    /// How many transactions the nodes did not report, and why not, for the first of them. The
    /// books are not known to match if there is one.
    pub unknown: u64,
    /// The first of them.
    pub first_unknown: Option<String>,
    /// What was spent.
    pub totals: Totals,
}

/// Why a comparison could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// A stream could not be read.
    #[error("a temporary file cannot be read: {0}")]
    Read(#[from] io::Error),
    /// A stream is not sorted by transaction, so that nothing that was found would be certain.
    #[error("the {stream} are not sorted by transaction at {transaction}")]
    Unsorted {
        /// Which stream.
        stream: &'static str,
        /// Where.
        transaction: TransactionId,
    },
}

/// What a comparison finds, one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// A difference.
    Difference(Difference),
    /// The share of a settlement in a fee.
    Gas(Gas),
}

/// Compares the books with what the chain has seen. Both are sorted by the text of the
/// transaction's id; `seen` has each transaction once, and the last one of equal ones counts. Each
/// difference goes to `found`.
///
/// A line whose transaction is not in `seen` is not compared: it was not looked up.
///
/// # Errors
/// When a stream cannot be read or is not sorted.
pub fn compare(
    scope: &CompareScope,
    booked: impl Iterator<Item = io::Result<Booked>>,
    seen: impl Iterator<Item = io::Result<Seen>>,
    mut found: impl FnMut(Difference),
) -> Result<Compared, CompareError> {
    compare_all(scope, booked, seen, |finding| {
        if let Finding::Difference(difference) = finding {
            found(difference);
        }
    })
}

/// As [`compare`], with the share of each settlement in the fees as well.
///
/// # Errors
/// As [`compare`].
pub fn compare_all(
    scope: &CompareScope,
    booked: impl Iterator<Item = io::Result<Booked>>,
    seen: impl Iterator<Item = io::Result<Seen>>,
    mut found: impl FnMut(Finding),
) -> Result<Compared, CompareError> {
    let mut groups = Groups::new(booked);
    let mut group = groups.next()?;
    let mut compared = Compared::default();
    let mut last: Option<TransactionId> = None;
    let mut seen = seen.peekable();
    while let Some(next) = next_seen(&mut seen)? {
        let id = next.transaction();
        if last
            .as_ref()
            .is_some_and(|last| last.as_str() >= id.as_str())
        {
            return Err(unsorted("transactions of the chain", id));
        }
        last = Some(id.clone());
        while group
            .as_ref()
            .is_some_and(|(its, _)| its.as_str() < id.as_str())
        {
            group = groups.next()?;
        }
        let own = group.as_ref().filter(|(its, _)| its == id);
        compare_one(
            scope,
            &next,
            own.map(|(_, group)| group),
            &mut compared,
            &mut found,
        );
    }
    while group.is_some() {
        group = groups.next()?;
    }
    compared.lines = groups.lines;
    Ok(compared)
}

/// The next transaction of the chain. A look-up and a search may both have found it.
fn next_seen(
    seen: &mut Peekable<impl Iterator<Item = io::Result<Seen>>>,
) -> Result<Option<Seen>, CompareError> {
    let Some(mut next) = seen.next().transpose()? else {
        return Ok(None);
    };
    let is_same = |again: &io::Result<Seen>| {
        again
            .as_ref()
            .is_ok_and(|again| again.transaction() == next.transaction())
    };
    let mut same = Vec::new();
    while let Some(again) = seen.next_if(is_same) {
        same.push(again?);
    }
    for again in same {
        // One node may not have what another one shows.
        if !matches!(next, Seen::Included(_)) {
            next = again;
        }
    }
    Ok(Some(next))
}

/// Compares one transaction.
fn compare_one(
    scope: &CompareScope,
    seen: &Seen,
    group: Option<&Group>,
    compared: &mut Compared,
    found: &mut impl FnMut(Finding),
) {
    let differences = match seen {
        Seen::Included(sent) if !scope.blocks.contains(&sent.block) => return,
        Seen::Included(sent) => {
            add_fee(scope, sent, group, compared, found);
            judge(scope, sent, group)
        }
        Seen::Absent { transaction } => absent(scope, transaction, group),
        Seen::Unknown { transaction, why } => {
            compared.unknown += 1;
            compared
                .first_unknown
                .get_or_insert_with(|| format!("{transaction}: {why}"));
            return;
        }
    };
    compared.transactions += 1;
    compared.differences += differences.len() as u64;
    for difference in differences {
        found(Finding::Difference(difference));
    }
}

/// Adds the fee of a transaction to the totals.
fn add_fee(
    scope: &CompareScope,
    sent: &Sent,
    group: Option<&Group>,
    compared: &mut Compared,
    found: &mut impl FnMut(Finding),
) {
    let rows = group.map_or(&[][..], |group| &group.rows);
    if !scope.is_signer(sent.lane.address()) {
        // Its sender paid the fee.
        for row in rows {
            compared.totals.add_row(row, quittance_core::Amount::ZERO);
        }
        return;
    }
    for gas in compared.totals.add(sent, rows) {
        found(Finding::Gas(gas));
    }
}

/// The rows whose transaction no block has.
fn absent(
    scope: &CompareScope,
    transaction: &TransactionId,
    group: Option<&Group>,
) -> Vec<Difference> {
    let rows = group.map_or(&[][..], |group| &group.rows);
    let missing = rows
        .iter()
        .filter(|row| row.says == Says::Moved && scope.has_time(row.written_at()));
    let difference = |row| {
        let detail = "no block of the chain has the transaction";
        Difference::of_row(Kind::BookedNotMoved, transaction, None, row, detail)
    };
    missing.map(difference).collect()
}

fn unsorted(stream: &'static str, transaction: &TransactionId) -> CompareError {
    CompareError::Unsorted {
        stream,
        transaction: transaction.clone(),
    }
}

/// The lines of the books, by transaction.
struct Groups<I: Iterator> {
    lines_left: Peekable<I>,
    lines: u64,
}

impl<I: Iterator<Item = io::Result<Booked>>> Groups<I> {
    fn new(booked: I) -> Self {
        Self {
            lines_left: booked.peekable(),
            lines: 0,
        }
    }

    /// All lines of the next transaction.
    fn next(&mut self) -> Result<Option<(TransactionId, Group)>, CompareError> {
        let Some(first) = self.lines_left.next().transpose()? else {
            return Ok(None);
        };
        self.lines += 1;
        let id = first.transaction;
        let mut rows = Vec::from_iter(first.row);
        let is_same =
            |line: &io::Result<Booked>| line.as_ref().is_ok_and(|line| line.transaction == id);
        while let Some(line) = self.lines_left.next_if(is_same) {
            self.lines += 1;
            rows.extend(line?.row);
        }
        if let Some(Ok(after)) = self.lines_left.peek()
            && after.transaction.as_str() < id.as_str()
        {
            return Err(unsorted("lines of the books", &after.transaction));
        }
        Ok(Some((id, Group { rows })))
    }
}
