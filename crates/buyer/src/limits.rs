//! What a buyer may spend.

use std::sync::{Mutex, MutexGuard, PoisonError};

use quittance_core::{Amount, Asset, Quote};

/// What a buyer may spend, in whole coins of whatever it pays with.
///
/// The assets that ship with the library are all dollars, so one limit fits them all. An asset that the payer does not
/// know from its own list is never paid with, whatever the seller says of it: list it with the payer first.
///
/// ```
/// use quittance_buyer::Limits;
///
/// let limits = Limits::default().per_payment("0.10").in_total("5");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    per_payment: String,
    in_total: Option<String>,
}

impl Default for Limits {
    /// One dollar a payment, as in the reference implementation, and no limit in total.
    fn default() -> Self {
        Self {
            per_payment: "1".to_owned(),
            in_total: None,
        }
    }
}

impl Limits {
    /// The most that one payment may cost, such as `"0.10"`.
    #[must_use]
    pub fn per_payment(self, most: &str) -> Self {
        Self {
            per_payment: most.to_owned(),
            ..self
        }
    }

    /// The most that all payments together may cost, on all networks and in all assets, for as long as the buyer lives: a
    /// seller who asks for another coin each time gets no more. A coin counts as a coin, whatever it is worth. Every
    /// authorization that was signed counts, whether it was used or not.
    #[must_use]
    pub fn in_total(self, most: &str) -> Self {
        Self {
            in_total: Some(most.to_owned()),
            ..self
        }
    }

    /// Whether the limits are amounts at all.
    pub(crate) fn check(&self) -> Result<(), String> {
        for limit in [Some(&self.per_payment), self.in_total.as_ref()]
            .into_iter()
            .flatten()
        {
            // The most decimal places that make sense for any coin; finer limits are typing errors.
            Amount::from_decimal(limit, 18)
                .map_err(|error| format!("the limit {limit:?}: {error}"))?;
        }
        Ok(())
    }
}

/// Keeps to the limits.
#[derive(Debug)]
pub(crate) struct Purse {
    limits: Limits,
    /// What was signed for, in the scale of [`PLACES`].
    spent: Mutex<Amount>,
}

impl Purse {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            spent: Mutex::default(),
        }
    }

    /// Whether a payment of this much is allowed by itself.
    pub(crate) fn allows(&self, quote: &Quote) -> Result<(), String> {
        let asset = &quote.asset;
        let most = limit(&self.limits.per_payment, asset.decimals);
        if quote.amount <= most {
            return Ok(());
        }
        let (amount, symbol) = (quote.amount.to_decimal(asset.decimals), &asset.symbol);
        Err(format!(
            "{amount} {symbol} is over the limit of {} a payment",
            self.limits.per_payment
        ))
    }

    /// Takes the amount out of the purse, before anything is signed.
    pub(crate) fn spend(&self, quote: &Quote) -> Result<(), String> {
        self.allows(quote)?;
        let Some(total) = &self.limits.in_total else {
            return Ok(());
        };
        let amount = scaled(quote.amount, &quote.asset).ok_or("more money than can be counted")?;
        let mut spent = self.locked();
        let after = spent.checked_add(amount);
        let after = after.ok_or("more money than can be counted")?;
        if after > limit(total, PLACES) {
            let before = spent.to_decimal(PLACES);
            return Err(format!(
                "{before} of the {total} in total are signed for already"
            ));
        }
        *spent = after;
        Ok(())
    }

    /// Puts back what was taken out and not signed for.
    pub(crate) fn give_back(&self, quote: &Quote) {
        if self.limits.in_total.is_none() {
            return;
        }
        if let Some(amount) = scaled(quote.amount, &quote.asset) {
            let mut spent = self.locked();
            *spent = spent.checked_sub(amount).unwrap_or_default();
        }
    }

    fn locked(&self) -> MutexGuard<'_, Amount> {
        // Each change is one assignment; whoever panicked with the lock left the sum whole.
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The decimal places in which money of all kinds is added up. The finest coins known have 24; with 36 there are still as many
/// whole coins as 41 digits can say.
const PLACES: u8 = 36;

/// An amount in the scale of [`PLACES`]; `None` for one that is finer than that, or more than can be said in it.
fn scaled(amount: Amount, asset: &Asset) -> Option<Amount> {
    Amount::from_decimal(&amount.to_decimal(asset.decimals), PLACES).ok()
}

/// A limit in atomic units; one finer than the asset is rounded down.
fn limit(text: &str, decimals: u8) -> Amount {
    let places = text
        .split_once('.')
        .map_or(0, |(_, fraction)| fraction.len());
    let kept = text.len() - places.saturating_sub(decimals.into());
    Amount::from_decimal(text[..kept].trim_end_matches('.'), decimals).unwrap_or_default()
}

#[cfg(test)]
mod tests {
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
        }
    }

    #[test]
    fn a_payment_over_the_limit_is_not_allowed() {
        let purse = Purse::new(Limits::default());
        assert!(purse.allows(&quote(1_000_000)).is_ok());
        assert!(purse.allows(&quote(1_000_001)).is_err());
    }

    #[test]
    fn the_total_is_kept_to() {
        let purse = Purse::new(Limits::default().in_total("1.5"));
        assert!(purse.spend(&quote(1_000_000)).is_ok());
        assert!(purse.spend(&quote(500_001)).is_err());
        assert!(purse.spend(&quote(500_000)).is_ok());
        assert!(purse.spend(&quote(1)).is_err());
        purse.give_back(&quote(500_000));
        assert!(purse.spend(&quote(500_001)).is_err());
        assert!(purse.spend(&quote(500_000)).is_ok());
    }

    fn coins(network: &str, whole: u64, decimals: u8) -> Quote {
        let mut quote = quote(0);
        quote.network = network.to_owned();
        quote.amount = Amount::from_decimal(&whole.to_string(), decimals).unwrap();
        quote.asset.decimals = decimals;
        quote
    }

    /// The total was kept by network and asset: a seller who asked for another one each time collected it on each.
    #[test]
    fn one_total_holds_for_all_networks_and_all_assets() {
        let purse = Purse::new(Limits::default().in_total("3"));
        for (network, decimals) in [("a", 6), ("b", 18), ("c", 0)] {
            assert!(purse.spend(&coins(network, 1, decimals)).is_ok());
        }
        let over = purse.spend(&coins("d", 1, 2)).unwrap_err();
        assert!(over.contains("3 of the 3 in total"), "{over}");
        purse.give_back(&coins("b", 1, 18));
        assert!(purse.spend(&coins("d", 1, 2)).is_ok());
    }

    #[test]
    fn what_cannot_be_counted_is_refused() {
        let rich = "9".repeat(60);
        let purse = Purse::new(Limits::default().per_payment(&rich).in_total(&rich));
        let mut more = quote(0);
        more.amount = Amount::from_decimal(&"9".repeat(50), 6).unwrap();
        assert!(purse.spend(&more).is_err());
        let mut finer = quote(1);
        finer.asset.decimals = 40;
        assert!(purse.spend(&finer).is_err());
        assert_eq!(*purse.locked(), Amount::ZERO);
    }

    #[test]
    fn a_limit_finer_than_the_asset_is_rounded_down() {
        assert_eq!(limit("0.1234567", 6), Amount::from(123_456));
        assert_eq!(limit("7.9", 0), Amount::from(7));
        assert_eq!(limit("0.0000001", 6), Amount::ZERO);
    }

    #[test]
    fn a_limit_that_is_none_is_refused() {
        for text in ["", "$1", "-1", "1,5", "1.", "one"] {
            assert!(
                Limits::default().per_payment(text).check().is_err(),
                "{text}"
            );
            assert!(Limits::default().in_total(text).check().is_err(), "{text}");
        }
    }
}
