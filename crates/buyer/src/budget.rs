//! The limits of what a buyer may spend, and what it has spent.

use std::sync::{Mutex, MutexGuard, PoisonError};

use quittance_core::{Amount, AmountError, Quote};

/// What a buyer may spend, in whole coins of any asset.
///
/// The assets that ship with the library are all dollars, so one limit fits them all. A buyer never
/// pays with an asset that is missing from its payer's own list, whatever the seller says about it.
/// Add such an asset to the payer first.
///
/// ```
/// use quittance_buyer::Limits;
///
/// let limits = Limits::default().per_payment("0.10").in_total("5");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    per_payment: String,
    locked: Option<String>,
    per_stream: Option<String>,
    in_total: Option<String>,
}

impl Default for Limits {
    /// One dollar a payment, as in the reference implementation, and no limit in total.
    fn default() -> Self {
        Self {
            per_payment: "1".to_owned(),
            locked: None,
            per_stream: None,
            in_total: None,
        }
    }
}

impl Limits {
    /// Sets the most that one payment may cost, such as `"0.10"`. Without [`locked`](Self::locked),
    /// this includes what the payment locks up.
    #[must_use]
    pub fn per_payment(self, most: &str) -> Self {
        Self {
            per_payment: most.to_owned(),
            ..self
        }
    }

    /// Sets the most that one payment may lock up besides its price, such as the deposit into a
    /// channel.
    #[must_use]
    pub fn locked(self, most: &str) -> Self {
        Self {
            locked: Some(most.to_owned()),
            ..self
        }
    }

    /// Sets the most that all ticks of one stream may cost together. Without it, only
    /// [`in_total`](Self::in_total) limits a stream.
    #[must_use]
    pub fn per_stream(self, most: &str) -> Self {
        Self {
            per_stream: Some(most.to_owned()),
            ..self
        }
    }

    /// Sets the most that all payments of this buyer may cost together, on all networks and in all
    /// assets, until the buyer is dropped. One coin of any asset counts as one, whatever it is
    /// worth, so asking for another asset does not raise the limit. Every signed authorization
    /// counts with what it locks up, used or not. A payment out of a deposit counts, too.
    #[must_use]
    pub fn in_total(self, most: &str) -> Self {
        Self {
            in_total: Some(most.to_owned()),
            ..self
        }
    }

    /// Checks that the limits are amounts.
    pub(crate) fn check(&self) -> Result<(), LimitError> {
        let optional = [&self.locked, &self.per_stream, &self.in_total];
        let optional = optional.into_iter().flatten();
        for limit in std::iter::once(&self.per_payment).chain(optional) {
            if let Err(source) = Amount::from_decimal(limit, LIMIT_DECIMALS_MAX) {
                let limit = limit.clone();
                return Err(LimitError::NotAnAmount { limit, source });
            }
        }
        Ok(())
    }
}

/// The decimal places that a limit may have. No common coin has more, so a finer limit is a typing
/// error.
const LIMIT_DECIMALS_MAX: u8 = 18;

/// Why the limits do not allow a payment, or are not limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// A limit is not an amount.
    #[error("the limit {limit:?} is not an amount: {source}")]
    NotAnAmount {
        /// The limit, as the caller wrote it.
        limit: String,
        /// Why it is not an amount.
        source: AmountError,
    },
    /// One payment costs more than [`Limits::per_payment`] allows.
    #[error("{amount} {symbol} is over the limit of {limit} a payment")]
    PerPayment {
        /// The payment's amount, in whole coins.
        amount: String,
        /// The asset's ticker.
        symbol: String,
        /// The limit, in whole coins.
        limit: String,
    },
    /// One payment locks up more than [`Limits::locked`] allows, or, together with its price, more
    /// than [`Limits::per_payment`] allows.
    #[error("a payment of {amount} {symbol} locks up {locks} more, over the limit of {limit}")]
    Locked {
        /// The payment's amount, in whole coins.
        amount: String,
        /// What it locks up besides, in whole coins.
        locks: String,
        /// The asset's ticker.
        symbol: String,
        /// The limit, in whole coins.
        limit: String,
    },
    /// The next tick would raise the cost of its stream above [`Limits::per_stream`].
    #[error("{signed} of the {limit} for this stream are signed for already")]
    Stream {
        /// What the ticks of the stream cost so far, in whole coins.
        signed: String,
        /// The limit, in whole coins.
        limit: String,
    },
    /// The payment would raise the sum of all payments above [`Limits::in_total`].
    #[error("{spent} of the {limit} in total are signed for already")]
    Total {
        /// The sum of all signed payments, in whole coins.
        spent: String,
        /// The limit, in whole coins.
        limit: String,
    },
    /// The amount has more digits than the sum can hold.
    #[error("the amount has more digits than the total limit can count")]
    Uncountable,
}

/// What was spent, under the limits.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    /// The sum of all signed payments, with [`PLACES`] decimal places.
    spent: Mutex<Amount>,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            spent: Mutex::default(),
        }
    }

    /// Checks one payment against the limits for a single payment.
    pub(crate) fn allows(&self, quote: &Quote) -> Result<(), LimitError> {
        let asset = &quote.asset;
        let amount = quote.amount.to_decimal(asset.decimals);
        let symbol = asset.symbol.clone();
        let per_payment = limit(&self.limits.per_payment, asset.decimals);
        if quote.amount > per_payment {
            return Err(LimitError::PerPayment {
                amount,
                symbol,
                limit: self.limits.per_payment.clone(),
            });
        }
        let (together, most, text) = match &self.limits.locked {
            Some(text) => (Some(quote.locks), limit(text, asset.decimals), text),
            None => (whole(quote), per_payment, &self.limits.per_payment),
        };
        if together.is_some_and(|together| together <= most) {
            return Ok(());
        }
        Err(LimitError::Locked {
            amount,
            locks: quote.locks.to_decimal(asset.decimals),
            symbol,
            limit: text.clone(),
        })
    }

    /// Checks one tick of a stream for which `signed` units were signed so far.
    pub(crate) fn allows_tick(&self, signed: Amount, tick: &Quote) -> Result<(), LimitError> {
        let Some(text) = &self.limits.per_stream else {
            return Ok(());
        };
        let decimals = tick.asset.decimals;
        let after = signed.checked_add(tick.amount);
        if after.is_some_and(|after| after <= limit(text, decimals)) {
            return Ok(());
        }
        Err(LimitError::Stream {
            signed: signed.to_decimal(decimals),
            limit: text.clone(),
        })
    }

    /// Adds the payment to the sum, before it is signed.
    pub(crate) fn spend(&self, quote: &Quote) -> Result<(), LimitError> {
        self.allows(quote)?;
        let Some(total) = &self.limits.in_total else {
            return Ok(());
        };
        let amount = counted(quote).ok_or(LimitError::Uncountable)?;
        let mut spent = self.locked();
        let after = spent.checked_add(amount);
        let after = after.ok_or(LimitError::Uncountable)?;
        if after > limit(total, PLACES) {
            return Err(LimitError::Total {
                spent: spent.to_decimal(PLACES),
                limit: total.clone(),
            });
        }
        *spent = after;
        Ok(())
    }

    /// Subtracts a payment that was added by [`Self::spend`] and not signed.
    pub(crate) fn give_back(&self, quote: &Quote) {
        if self.limits.in_total.is_none() {
            return;
        }
        if let Some(amount) = counted(quote) {
            let mut spent = self.locked();
            *spent = spent.checked_sub(amount).unwrap_or_default();
        }
    }

    fn locked(&self) -> MutexGuard<'_, Amount> {
        // Each change is one assignment, so a panic with the lock held leaves the sum valid.
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The decimal places of the sum over all assets. The finest known coins have 24. With 36 places,
/// an [`Amount`] still holds 41 digits of whole coins.
const PLACES: u8 = 36;

/// What a payment takes at most, in atomic units: its price, and what it locks up. `None` if that
/// is too large.
fn whole(quote: &Quote) -> Option<Amount> {
    quote.amount.checked_add(quote.locks)
}

/// The same, with [`PLACES`] decimal places. `None` if it is finer than that, or too large.
fn counted(quote: &Quote) -> Option<Amount> {
    Amount::from_decimal(&whole(quote)?.to_decimal(quote.asset.decimals), PLACES).ok()
}

/// A limit in atomic units, rounded down to the asset's decimal places.
fn limit(text: &str, decimals: u8) -> Amount {
    let places = text
        .split_once('.')
        .map_or(0, |(_, fraction)| fraction.len());
    let kept = text.len() - places.saturating_sub(decimals.into());
    Amount::from_decimal(text[..kept].trim_end_matches('.'), decimals).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use quittance_core::Asset;

    use super::*;

    fn quote(amount: u64) -> Quote {
        let (address, symbol) = ("0x1".to_owned(), "USDC".to_owned());
        Quote {
            network: "a".to_owned(),
            pay_to: "0x2".to_owned(),
            asset: Asset {
                address,
                symbol,
                decimals: 6,
            },
            amount: Amount::from(amount),
            locks: Amount::ZERO,
        }
    }

    fn locking(amount: u64, locks: u64) -> Quote {
        let locks = Amount::from(locks);
        Quote {
            locks,
            ..quote(amount)
        }
    }

    #[test]
    fn what_a_payment_locks_up_counts_against_the_limits() {
        let one = Limits::default().per_payment("0.3");
        let budget = Budget::new(one.clone());
        assert!(budget.allows(&locking(100_000, 200_000)).is_ok());
        let over = budget.allows(&locking(100_000, 200_001)).unwrap_err();
        assert_eq!(
            over.to_string(),
            "a payment of 0.1 USDC locks up 0.200001 more, over the limit of 0.3"
        );
        // A limit of its own: for the deposit, and no longer for both together.
        let budget = Budget::new(one.locked("0.5"));
        assert!(budget.allows(&locking(300_000, 500_000)).is_ok());
        assert!(budget.allows(&locking(300_001, 0)).is_err());
        assert!(budget.allows(&locking(0, 500_001)).is_err());
        let most = Amount::from_decimal(&"9".repeat(70), 0).unwrap();
        let mut huge = locking(1, 0);
        huge.locks = most;
        assert!(Budget::new(Limits::default()).allows(&huge).is_err());
    }

    #[test]
    fn ticks_of_a_stream_have_a_limit_together() {
        let budget = Budget::new(Limits::default().per_stream("0.3"));
        assert!(
            budget
                .allows_tick(Amount::from(200_000), &quote(100_000))
                .is_ok()
        );
        let over = budget.allows_tick(Amount::from(200_000), &quote(100_001));
        let text = "0.2 of the 0.3 for this stream are signed for already";
        assert_eq!(over.unwrap_err().to_string(), text);
        let unlimited = Budget::new(Limits::default());
        assert!(
            unlimited
                .allows_tick(Amount::from(u64::MAX), &quote(1))
                .is_ok()
        );
    }

    #[test]
    fn deposits_count_against_the_total_limit() {
        let budget = Budget::new(Limits::default().in_total("1.5"));
        assert!(budget.spend(&locking(100_000, 900_000)).is_ok());
        assert!(budget.spend(&locking(100_000, 400_001)).is_err());
        budget.give_back(&locking(100_000, 900_000));
        assert!(budget.spend(&locking(100_000, 400_001)).is_ok());
    }

    #[test]
    fn a_payment_over_the_limit_is_not_allowed() {
        let budget = Budget::new(Limits::default());
        assert!(budget.allows(&quote(1_000_000)).is_ok());
        assert!(budget.allows(&quote(1_000_001)).is_err());
    }

    #[test]
    fn payments_over_the_total_limit_are_not_allowed() {
        let budget = Budget::new(Limits::default().in_total("1.5"));
        assert!(budget.spend(&quote(1_000_000)).is_ok());
        assert!(budget.spend(&quote(500_001)).is_err());
        assert!(budget.spend(&quote(500_000)).is_ok());
        assert!(budget.spend(&quote(1)).is_err());
        budget.give_back(&quote(500_000));
        assert!(budget.spend(&quote(500_001)).is_err());
        assert!(budget.spend(&quote(500_000)).is_ok());
    }

    fn coins(network: &str, whole: u64, decimals: u8) -> Quote {
        let mut quote = quote(0);
        quote.network = network.to_owned();
        quote.amount = Amount::from_decimal(&whole.to_string(), decimals).unwrap();
        quote.asset.decimals = decimals;
        quote
    }

    /// Each network and asset once had a total of its own, so a seller could collect the limit on
    /// each of them.
    #[test]
    fn one_total_limit_covers_all_networks_and_assets() {
        let budget = Budget::new(Limits::default().in_total("3"));
        for (network, decimals) in [("a", 6), ("b", 18), ("c", 0)] {
            assert!(budget.spend(&coins(network, 1, decimals)).is_ok());
        }
        let over = budget.spend(&coins("d", 1, 2)).unwrap_err();
        assert!(over.to_string().contains("3 of the 3 in total"), "{over}");
        budget.give_back(&coins("b", 1, 18));
        assert!(budget.spend(&coins("d", 1, 2)).is_ok());
    }

    #[test]
    fn an_amount_too_large_for_the_total_is_not_allowed() {
        let rich = "9".repeat(60);
        let budget = Budget::new(Limits::default().per_payment(&rich).in_total(&rich));
        let mut more = quote(0);
        more.amount = Amount::from_decimal(&"9".repeat(50), 6).unwrap();
        assert!(budget.spend(&more).is_err());
        let mut finer = quote(1);
        finer.asset.decimals = 40;
        assert!(budget.spend(&finer).is_err());
        assert_eq!(*budget.locked(), Amount::ZERO);
    }

    #[test]
    fn a_limit_finer_than_the_asset_is_rounded_down() {
        assert_eq!(limit("0.1234567", 6), Amount::from(123_456));
        assert_eq!(limit("7.9", 0), Amount::from(7));
        assert_eq!(limit("0.0000001", 6), Amount::ZERO);
    }

    #[test]
    fn a_limit_that_is_not_an_amount_is_an_error() {
        for text in ["", "$1", "-1", "1,5", "1.", "one"] {
            assert!(
                Limits::default().per_payment(text).check().is_err(),
                "{text}"
            );
            assert!(Limits::default().in_total(text).check().is_err(), "{text}");
            assert!(Limits::default().locked(text).check().is_err(), "{text}");
        }
    }
}
