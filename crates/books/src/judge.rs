//! One transaction: its rows against its transfers.

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
    /// amount takes no transfer from another row. A pruned row takes any transfer of its amount, so
    /// it comes after those with parties.
    fn match_rows(&mut self, rows: &[Row]) {
        let mut ordered: Vec<&Row> = rows.iter().collect();
        ordered.sort_by_key(|row| (row.is_held, row.payer.is_empty()));
        let (moved, others): (Vec<&Row>, Vec<&Row>) =
            ordered.into_iter().partition(|row| row.says == Says::Moved);
        let is_unmatched = |row: &&Row| match row.is_held {
            true => !self.match_held(row),
            false => self.take(row, true).is_none(),
        };
        let unmatched: Vec<&Row> = moved.into_iter().filter(is_unmatched).collect();
        for row in unmatched {
            match row.is_held {
                true => self.match_held_otherwise(row),
                false => self.match_otherwise(row),
            }
        }
        for row in others.into_iter().filter(|row| !row.is_held) {
            self.match_unmoved(row);
        }
    }

    /// A row that says that money moved, without its transfer.
    fn match_otherwise(&mut self, row: &Row) {
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

    /// A row that does not say that this transaction moved its money.
    fn match_unmoved(&mut self, row: &Row) {
        let Some(transfer) = self.take(row, true) else {
            return;
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

    /// The transfer of a row, if it is there and no other row has it.
    fn take(&mut self, row: &Row, exactly: bool) -> Option<&'a Transfer> {
        let is_its = |transfer: &Transfer| {
            transfer.asset.as_deref() == Some(&row.asset)
                && is_party(&row.payer, &transfer.from)
                && is_party(&row.pay_to, &transfer.to)
                && (!exactly || transfer.amount == row.amount)
        };
        let slot = self.left.iter_mut().find(|slot| slot.is_some_and(is_its))?;
        slot.take()
    }

    /// Matches a row whose money a contract holds with transfers of its amount. Returns whether
    /// there are some.
    fn match_held(&mut self, row: &Row) -> bool {
        let amount = row.amount;
        let paid = self.take_held(row, |it| {
            is_party(&row.payer, &it.from) && it.amount == amount
        });
        let sources = if let Some(paid) = paid {
            self.follow(row, &paid.to)
        } else if let Some(received) =
            self.take_held(row, |it| arrives(row, it) && it.amount == amount)
        {
            vec![received.from.as_str()]
        } else if let Some(source) = self.take_with_fee(row, None) {
            vec![source]
        } else {
            return false;
        };
        // The rest of what was held may return to the payer in the same transaction.
        let returns = |it: &Transfer| it.to == row.payer && sources.contains(&it.from.as_str());
        while self.take_held(row, returns).is_some() {}
        true
    }

    /// A row whose money a contract holds, without transfers of its amount. Some acts move nothing,
    /// such as a claim of vouchers. So only a transfer of another amount is a difference.
    fn match_held_otherwise(&mut self, row: &Row) {
        let touches = |it: &Transfer| is_party(&row.payer, &it.from) || arrives(row, it);
        if let Some(other) = self.take_held(row, touches) {
            self.found.push(Difference::of_transfer(
                Kind::AmountDiffers,
                self.sent,
                other,
                Some(row),
                "the contract took or paid another amount than the booked one",
            ));
        }
    }

    /// Takes the hops by which an amount goes on from this account: through a collector into the
    /// contract, or at once to the recipient, less a fee. Returns the accounts on its way.
    fn follow(&mut self, row: &Row, first: &'a str) -> Vec<&'a str> {
        let mut accounts = vec![first];
        while let Some(account) = accounts.last().copied() {
            let goes_on = |it: &Transfer| it.from == account && it.amount == row.amount;
            match self.take_held(row, goes_on) {
                Some(hop) => accounts.push(&hop.to),
                None => {
                    self.take_with_fee(row, Some(account));
                    break;
                }
            }
        }
        accounts
    }

    /// Takes a payment to the recipient, and a fee from the same account that completes the amount.
    /// Returns the account.
    fn take_with_fee(&mut self, row: &Row, from: Option<&str>) -> Option<&'a str> {
        let is_asked = |it: &Transfer| from.is_none_or(|from| it.from == from);
        let is_payment = |it: &&'a Transfer| {
            let is_its = it.asset.as_deref() == Some(&row.asset);
            is_its && is_asked(it) && is_party(&row.pay_to, &it.to)
        };
        let payments = self.left.iter().flatten().copied().filter(is_payment);
        let payments: Vec<&'a Transfer> = payments.collect();
        for payment in payments {
            let Some(fee) = row.amount.checked_sub(payment.amount) else {
                continue;
            };
            let is_fee = |it: &Transfer| it.from == payment.from && it.amount == fee;
            if !fee.is_zero() && self.take_held(row, is_fee).is_some() {
                self.take_held(row, |it| it == payment);
                return Some(&payment.from);
            }
        }
        None
    }

    /// The first transfer in the row's asset that fulfils a condition and that no row has.
    fn take_held(&mut self, row: &Row, is_its: impl Fn(&Transfer) -> bool) -> Option<&'a Transfer> {
        let is_its =
            |transfer: &Transfer| transfer.asset.as_deref() == Some(&row.asset) && is_its(transfer);
        let slot = self.left.iter_mut().find(|slot| slot.is_some_and(is_its))?;
        slot.take()
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

/// Whether an account is the booked one. A pruned row has none, so any account may be it.
fn is_party(booked: &str, seen: &str) -> bool {
    booked.is_empty() || booked == seen
}

/// Whether a transfer pays the recipient, or pays back the payer.
fn arrives(row: &Row, transfer: &Transfer) -> bool {
    is_party(&row.pay_to, &transfer.to) || is_party(&row.payer, &transfer.to)
}
