//! Sums: payments and gas, by recipient and by caller.

use std::collections::BTreeMap;

use quittance_core::{Amount, PaymentId};

use crate::booked::{Row, Says};
use crate::seen::Sent;

/// The gas of a number of payments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Payments {
    /// How many payments the chain has moved.
    pub moved: u64,
    /// Their shares of the fees, and those of attempts that moved nothing, in atomic units of the
    /// chain's own coin.
    pub gas: Amount,
}

/// The share of a settlement in the fee of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gas {
    /// The settlement.
    pub settlement: PaymentId,
    /// Its share, in atomic units of the chain's own coin.
    pub gas: Amount,
}

/// What the signers have spent, and for whom.
///
/// The fee of a transaction is shared equally by the settlements that it was signed for. What
/// cannot be divided goes to the first ones, so the shares add up to the fee.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Totals {
    /// Transactions of our signers in the compared blocks.
    pub transactions: u64,
    /// The fees of all of them.
    pub gas: Amount,
    /// The fees of transactions that were signed for no settlement, such as those that fill a gap.
    pub gas_without_payment: Amount,
    /// By recipient. The empty name is that of pruned settlements.
    pub by_recipient: BTreeMap<String, Payments>,
    /// By the name of the caller's key; `None` for callers without a key.
    pub by_caller: BTreeMap<Option<String>, Payments>,
}

impl Totals {
    /// Adds a transaction of our signers, and returns the share of each settlement.
    pub(crate) fn add(&mut self, sent: &Sent, rows: &[Row]) -> Vec<Gas> {
        self.transactions += 1;
        add(&mut self.gas, sent.fee);
        if rows.is_empty() {
            add(&mut self.gas_without_payment, sent.fee);
        }
        let shares = shares(sent.fee, rows.len());
        let shared = rows.iter().zip(shares).map(|(row, gas)| {
            self.add_row(row, gas);
            Gas {
                settlement: row.settlement,
                gas,
            }
        });
        shared.collect()
    }

    /// Counts a row of another sender's transaction, whose fee is not ours.
    pub(crate) fn add_row(&mut self, row: &Row, gas: Amount) {
        let of_recipient = self.by_recipient.entry(row.pay_to.clone()).or_default();
        let of_caller = self.by_caller.entry(row.caller.clone()).or_default();
        for payments in [of_recipient, of_caller] {
            payments.moved += u64::from(row.says == Says::Moved);
            add(&mut payments.gas, gas);
        }
    }
}

/// Adds to a sum. A sum above 2²⁵⁶ cannot occur: no coin has so many units.
fn add(sum: &mut Amount, more: Amount) {
    *sum = sum.checked_add(more).unwrap_or(Amount::MAX);
}

/// A fee in this many parts that differ by at most one unit and add up to it.
fn shares(fee: Amount, count: usize) -> impl Iterator<Item = Amount> {
    let count = Amount::from(count.max(1) as u64).units();
    let (each, rest) = fee.units().div_rem(count);
    let one = Amount::from(1).units();
    let mut left = rest;
    std::iter::repeat_with(move || match left.is_zero() {
        true => Amount::new(each),
        false => {
            left -= one;
            Amount::new(each + one)
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_add_up_to_the_fee(fee: u64, count in 1_usize..300) {
            let shares: Vec<Amount> = shares(Amount::from(fee), count).take(count).collect();
            let mut sum = Amount::ZERO;
            for share in &shares {
                add(&mut sum, *share);
            }
            prop_assert_eq!(sum, Amount::from(fee));
            let (least, most) = (shares[count - 1], shares[0]);
            prop_assert!(most.checked_sub(least).unwrap() <= Amount::from(1));
        }
    }
}
