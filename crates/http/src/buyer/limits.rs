//! What a buyer may spend.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quittance_core::{Amount, Quote};

/// What a buyer may spend, in whole coins of whatever it pays with.
///
/// The assets that ship with the library are all dollars, so one limit fits them all. An asset that the payer does not
/// know from its own list is never paid with, whatever the seller says of it: list it with the payer first.
///
/// ```
/// use quittance_http::Limits;
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

    /// The most that all payments together may cost, in each asset, for as long as the buyer lives. Every authorization
    /// that was signed counts, whether it was used or not.
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
    /// By network and asset: what was signed for.
    spent: Mutex<BTreeMap<(String, String), Amount>>,
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
        let Some(asset) = &quote.asset else {
            return Err("the asset is not on the payer's own list".to_owned());
        };
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
        let Some(asset) = &quote.asset else {
            return Err("the asset is not on the payer's own list".to_owned());
        };
        let key = (quote.network.clone(), asset.address.clone());
        let mut spent = self.locked();
        let before = spent.get(&key).copied().unwrap_or_default();
        let after = before
            .checked_add(quote.amount)
            .ok_or("more money than there is")?;
        if let Some(total) = &self.limits.in_total
            && after > limit(total, asset.decimals)
        {
            let (before, symbol) = (before.to_decimal(asset.decimals), &asset.symbol);
            return Err(format!(
                "{before} {symbol} of the {total} in total are signed for already"
            ));
        }
        spent.insert(key, after);
        Ok(())
    }

    /// Puts back what was taken out and not signed for.
    pub(crate) fn give_back(&self, quote: &Quote) {
        let Some(asset) = &quote.asset else { return };
        let key = (quote.network.clone(), asset.address.clone());
        if let Some(spent) = self.locked().get_mut(&key) {
            *spent = spent.checked_sub(quote.amount).unwrap_or_default();
        }
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<(String, String), Amount>> {
        // Each change is one insertion; whoever panicked with the lock left the map whole.
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    use quittance_core::Asset;

    fn quote(amount: u64) -> Quote {
        let (address, symbol) = ("0x1".to_owned(), "USDC".to_owned());
        Quote {
            network: "a".to_owned(),
            pay_to: "0x2".to_owned(),
            asset: Some(Asset {
                address,
                symbol,
                decimals: 6,
            }),
            amount: Amount::from(amount),
        }
    }

    #[test]
    fn a_payment_over_the_limit_is_not_allowed() {
        let purse = Purse::new(Limits::default());
        assert!(purse.allows(&quote(1_000_000)).is_ok());
        assert!(purse.allows(&quote(1_000_001)).is_err());
        assert!(
            purse
                .allows(&Quote {
                    asset: None,
                    ..quote(1)
                })
                .is_err()
        );
    }

    #[test]
    fn the_total_is_kept_to_by_asset_and_network() {
        let purse = Purse::new(Limits::default().in_total("1.5"));
        assert!(purse.spend(&quote(1_000_000)).is_ok());
        assert!(purse.spend(&quote(500_001)).is_err());
        assert!(purse.spend(&quote(500_000)).is_ok());
        assert!(purse.spend(&quote(1)).is_err());
        let elsewhere = Quote {
            network: "b".to_owned(),
            ..quote(1_000_000)
        };
        assert!(purse.spend(&elsewhere).is_ok());
        purse.give_back(&elsewhere);
        assert!(purse.spend(&elsewhere).is_ok());
        assert!(purse.spend(&elsewhere).is_err());
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
