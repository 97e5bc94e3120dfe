//! One transaction: its rows against its transfers.

use std::collections::BTreeSet;

use quittance_core::Amount;

use crate::booked::{Row, Says};
use crate::difference::{Difference, Kind};
use crate::scope::CompareScope;
use crate::seen::{Sent, Transfer};

/// What the books have about a transaction.
pub(crate) struct Group {
    /// The rows of the settlements that it was signed for.
    pub(crate) rows: Vec<Row>,
}

/// Every difference between an included transaction and the rows that it was signed for. `None` if
/// the journal does not have it.
pub(crate) fn judge(scope: &CompareScope, sent: &Sent, group: Option<&Group>) -> Vec<Difference> {
    let rows = group.map_or(&[][..], |group| &group.rows);
    let mut judged = Judged {
        scope,
        sent,
        left: sent.transfers.iter().map(Some).collect(),
        found: Vec::new(),
    };
    if sent.succeeded {
        judged.match_rows(rows);
    } else {
        judged.found.extend(moved(rows).map(|row| {
            let detail = "the transaction failed on the chain";
            let transaction = &sent.transaction;
            Difference::of_row(Kind::BookedNotMoved, transaction, Some(sent), row, detail)
        }));
        judged.left.clear();
    }
    match group {
        Some(_) => judged.rest_of_known(rows),
        None => judged.rest_of_foreign(),
    }
    judged.found
}

/// The rows whose money the transaction moved, by the journal.
fn moved(rows: &[Row]) -> impl Iterator<Item = &Row> {
    rows.iter().filter(|row| row.says == Says::Moved)
}

struct Judged<'a> {
    scope: &'a CompareScope,
    sent: &'a Sent,
    /// The transfers that no row explains yet.
    left: Vec<Option<&'a Transfer>>,
    found: Vec<Difference>,
}

impl<'a> Judged<'a> {
    /// Matches each row with its transfer. Exact matches come first, so that a row with a wrong
    /// amount takes no transfer from another row.
    fn match_rows(&mut self, rows: &[Row]) {
        // A pruned row takes any transfer of its amount, so the others come first.
        let (whole, pruned): (Vec<&Row>, Vec<&Row>) = rows
            .iter()
            .filter(|row| !row.is_held)
            .partition(|row| !row.payer.is_empty());
        let direct = || whole.iter().chain(&pruned).copied();
        let unmatched: Vec<&Row> = direct()
            .filter(|row| row.says == Says::Moved)
            .filter(|row| self.take(row, true).is_none())
            .collect();
        for row in rows.iter().filter(|row| row.is_held) {
            self.match_held(row);
        }
        for row in unmatched {
            match self.take(row, false) {
                Some(transfer) => self.found.push(Difference::of_transfer(
                    Kind::AmountDiffers,
                    self.sent,
                    transfer,
                    Some(row),
                    "the parties are the booked ones, and the amount is another one",
                )),
                None => self.add_row(row, "the transaction has no such transfer"),
            }
        }
        for row in direct().filter(|row| row.says != Says::Moved) {
            let Some(transfer) = self.take(row, true) else {
                continue;
            };
            let (kind, detail) = match row.says {
                Says::MovedElsewhere => {
                    let detail = "the settlement has settled by another transaction, too";
                    (Kind::MovedTwice, detail)
                }
                Says::Open => {
                    let detail = "the settlement is open: a facilitator that runs concludes it";
                    (Kind::MovedNotBooked, detail)
                }
                _ => {
                    let detail = "the settlement ended without a transfer, by the journal";
                    (Kind::MovedNotBooked, detail)
                }
            };
            let difference = Difference::of_transfer(kind, self.sent, transfer, Some(row), detail);
            self.found.push(difference);
        }
    }

    /// The transfer of a row, if it is there and no other row has it.
    fn take(&mut self, row: &Row, exactly: bool) -> Option<&'a Transfer> {
        let is_party = |booked: &str, seen: &str| booked.is_empty() || booked == seen;
        let is_its = |transfer: &Transfer| {
            transfer.asset.as_deref() == Some(&row.asset)
                && is_party(&row.payer, &transfer.from)
                && is_party(&row.pay_to, &transfer.to)
                && (!exactly || transfer.amount == row.amount)
        };
        let slot = self.left.iter_mut().find(|slot| slot.is_some_and(is_its))?;
        slot.take()
    }

    /// Matches a row whose money a contract holds: its transfers are those that touch a party of
    /// it, and those that share an account with one of them. Some acts move nothing, such as a
    /// claim of vouchers. Those that move something move the booked amount into or out of one
    /// account.
    fn match_held(&mut self, row: &Row) {
        let mut accounts: BTreeSet<&str> = [row.payer.as_str(), &row.pay_to].into();
        let mut own: Vec<&Transfer> = Vec::new();
        loop {
            let touches = |transfer: &Transfer| {
                transfer.asset.as_deref() == Some(&row.asset)
                    && [&transfer.from, &transfer.to]
                        .iter()
                        .any(|account| accounts.contains(account.as_str()))
            };
            let slot = self.left.iter_mut().find(|slot| slot.is_some_and(touches));
            let Some(transfer) = slot.and_then(Option::take) else {
                break;
            };
            own.push(transfer);
            accounts.extend([transfer.from.as_str(), &transfer.to]);
        }
        if row.says == Says::Moved && !own.is_empty() && !has_flow(&accounts, &own, row.amount) {
            let difference = Difference::of_transfer(
                Kind::AmountDiffers,
                self.sent,
                own[0],
                Some(row),
                "no account paid or received the booked amount",
            );
            self.found.push(difference);
        }
    }

    fn add_row(&mut self, row: &Row, detail: &'static str) {
        let transaction = &self.sent.transaction;
        let difference = Difference::of_row(
            Kind::BookedNotMoved,
            transaction,
            Some(self.sent),
            row,
            detail,
        );
        self.found.push(difference);
    }

    /// The transfers of a journaled transaction that no row explains.
    fn rest_of_known(&mut self, rows: &[Row]) {
        let has_steps = rows.iter().any(|row| row.says == Says::Step);
        for transfer in self.left.iter().flatten() {
            let asset = transfer.asset.as_deref();
            let is_ours = self.is_own(transfer);
            let is_booked = rows.iter().any(|row| asset == Some(&row.asset));
            let kind = match asset {
                // A step gives a payer the coins for its approval.
                None if is_ours && has_steps => continue,
                None if is_ours => Kind::ForeignTransfer,
                None => continue,
                Some(_) if is_ours => Kind::ForeignTransfer,
                Some(asset) if is_booked || self.scope.has_asset(asset) => Kind::MovedNotBooked,
                // A wallet's own affair, in a token that is not settled here.
                Some(_) => continue,
            };
            let detail = match kind {
                Kind::ForeignTransfer => "the journal's transaction paid this from the signer",
                _ => "the journal has the transaction, and no settlement for this transfer",
            };
            let difference = Difference::of_transfer(kind, self.sent, transfer, None, detail);
            self.found.push(difference);
        }
    }

    /// A transaction of our signers that the journal does not have.
    fn rest_of_foreign(&mut self) {
        let before = self.found.len();
        for transfer in self.left.iter().flatten() {
            let asset = transfer.asset.as_deref();
            let (kind, detail) = if self.is_own(transfer) {
                let detail = "the signer paid this, and the journal does not have the transaction";
                (Kind::ForeignTransfer, detail)
            } else if asset.is_some_and(|asset| self.scope.has_asset(asset)) {
                let detail = "the journal has neither the transaction nor the settlement";
                (Kind::MovedNotBooked, detail)
            } else {
                continue;
            };
            let difference = Difference::of_transfer(kind, self.sent, transfer, None, detail);
            self.found.push(difference);
        }
        if self.found.len() == before {
            let detail = "the journal does not have the transaction, which moved nothing";
            let difference = Difference::of_transaction(self.sent, detail);
            self.found.push(difference);
        }
    }

    /// Whether one of our signers paid something. Nothing, and what it pays itself, is no payment.
    fn is_own(&self, transfer: &Transfer) -> bool {
        self.scope.is_signer(&transfer.from)
            && transfer.from != transfer.to
            && !transfer.amount.is_zero()
    }
}

/// Whether one account paid or received this amount in total.
fn has_flow(accounts: &BTreeSet<&str>, transfers: &[&Transfer], amount: Amount) -> bool {
    let sum = |is_its: &dyn Fn(&Transfer) -> bool| {
        let its = transfers.iter().filter(|transfer| is_its(transfer));
        its.fold(Amount::ZERO, |sum, transfer| {
            sum.checked_add(transfer.amount).unwrap_or(Amount::MAX)
        })
    };
    accounts.iter().any(|account| {
        sum(&|transfer| transfer.from == *account) == amount
            || sum(&|transfer| transfer.to == *account) == amount
    })
}
