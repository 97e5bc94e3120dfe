//! Reading what a handler charges.

use ruint::aliases::U256;

use crate::{Amount, OfferError};

/// The amount that a handler charges, for [`Offer::charge`](crate::Offer::charge) of a scheme that
/// settles less than the price.
///
/// `words` is an amount in atomic units (`1500`), a percentage of the price with at most two
/// decimal places (`12.34%`), or dollars of an asset that is worth a dollar (`$0.002`). `decimals`
/// are the asset's. A percentage is rounded down; dollars finer than an atomic unit are an error.
///
/// ```
/// use quittance_core::{Amount, kit};
///
/// let price = Amount::from(10_000u64);
/// assert_eq!(kit::charged("12.34%", price, 6)?, Amount::from(1_234u64));
/// assert_eq!(kit::charged("$0.002", price, 6)?, Amount::from(2_000u64));
/// assert!(kit::charged("10001", price, 6).is_err());
/// # Ok::<(), quittance_core::OfferError>(())
/// ```
///
/// # Errors
/// When the words are none of these, or the charge is over the price.
pub fn charged(words: &str, price: Amount, decimals: u8) -> Result<Amount, OfferError> {
    let unreadable = || OfferError::Charge {
        words: words.to_owned(),
    };
    let charged = match (words.strip_prefix('$'), words.strip_suffix('%')) {
        (Some(dollars), _) => Amount::from_decimal(dollars, decimals).map_err(|_| unreadable())?,
        (None, Some(percent)) => share(price, percent).ok_or_else(unreadable)?,
        (None, None) => words.parse().map_err(|_| unreadable())?,
    };
    match charged > price {
        true => Err(OfferError::ChargeTooHigh { charged, price }),
        false => Ok(charged),
    }
}

/// A percentage of the price, rounded down. `None` if the text is not a percentage.
fn share(price: Amount, percent: &str) -> Option<Amount> {
    /// A hundred percent, in hundredths of a percent.
    const WHOLE: U256 = U256::from_limbs([10_000, 0, 0, 0]);
    let hundredths = Amount::from_decimal(percent, 2).ok()?.units();
    // The price is divided first, so that no product overflows: it is whole * WHOLE + rest.
    let (whole, rest) = (price.units() / WHOLE, price.units() % WHOLE);
    let of_whole = whole.checked_mul(hundredths)?;
    let of_rest = rest.checked_mul(hundredths)? / WHOLE;
    of_whole.checked_add(of_rest).map(Amount::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn charge_follows_one_grammar() {
        let price = Amount::from(10_000u64);
        for (words, amount) in [
            ("0", 0),
            ("10000", 10_000),
            ("0%", 0),
            ("100%", 10_000),
            ("100.00%", 10_000),
            ("0.01%", 1),
            ("33.3%", 3_330),
            ("$0.01", 10_000),
            ("$0", 0),
        ] {
            assert_eq!(
                charged(words, price, 6),
                Ok(Amount::from(amount)),
                "{words}"
            );
        }
        for words in [
            "",
            "%",
            "$",
            "-1",
            "+1",
            "01",
            "1.5",
            " 1",
            "1 ",
            "1e3",
            "0x10",
            "12.345%",
            "-1%",
            "1%%",
            "$1%",
            "$-1",
            "$0.0000001",
            "1$",
            "5 %",
            "NaN%",
        ] {
            let error = charged(words, price, 6);
            assert!(
                matches!(error, Err(OfferError::Charge { .. })),
                "{words}: {error:?}"
            );
        }
        for words in ["10001", "100.01%", "$0.010001", "1000000%"] {
            let error = charged(words, price, 6);
            let is_over = matches!(error, Err(OfferError::ChargeTooHigh { .. }));
            assert!(is_over, "{words}: {error:?}");
        }
    }

    proptest! {
        #[test]
        fn share_is_exact_rounded_down_and_never_over_the_price(
            price: u64, hundredths in 0u64..=10_000,
        ) {
            let percent = format!("{}.{:02}%", hundredths / 100, hundredths % 100);
            let amount = charged(&percent, Amount::from(price), 6).unwrap();
            let exact = u128::from(price) * u128::from(hundredths) / 10_000;
            prop_assert_eq!(amount.to_string(), exact.to_string());
            prop_assert!(amount <= Amount::from(price));
        }

        #[test]
        fn no_words_panic_or_charge_more(words: String, price: u64) {
            if let Ok(amount) = charged(&words, Amount::from(price), 18) {
                prop_assert!(amount <= Amount::from(price));
            }
        }
    }
}
