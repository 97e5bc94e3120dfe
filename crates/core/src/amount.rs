//! Money: atomic units in an integer that cannot overflow.

use std::fmt;
use std::str::FromStr;

use ruint::aliases::U256;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::json::NUMBER_MAX;

/// An amount of one asset, in atomic units: the smallest unit of the asset on its chain. It is the
/// `amount` of [`PaymentRequirements`](crate::wire::PaymentRequirements).
///
/// Text becomes an amount by one strict grammar, `0|[1-9][0-9]{0,77}`. It has no sign, no leading
/// zero, no exponent, no hex, no white space, and only ASCII digits. So two readers of the same
/// text never see two amounts.
///
/// ```
/// use quittance_core::Amount;
///
/// let price: Amount = "10000".parse()?;
/// assert_eq!(price.to_string(), "10000");
/// for odd in ["", "-1", "+5", "010", "1e6", "0x10", " 10", "1_000", "1.0"] {
///     assert!(odd.parse::<Amount>().is_err(), "{odd}");
/// }
/// # Ok::<(), quittance_core::AmountError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(U256);

impl Amount {
    /// The zero amount.
    pub const ZERO: Self = Self(U256::ZERO);

    /// The largest amount: 2^256 - 1.
    pub const MAX: Self = Self(U256::MAX);

    /// The amount of `units` atomic units.
    pub const fn new(units: U256) -> Self {
        Self(units)
    }

    /// The amount of `units` atomic units, for numbers that fit in 64 bits.
    pub const fn from_units(units: u64) -> Self {
        Self(U256::from_limbs([units, 0, 0, 0]))
    }

    /// The number of atomic units.
    pub const fn units(self) -> U256 {
        self.0
    }

    /// Whether the amount is zero.
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    /// The sum, or `None` on overflow.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference, or `None` if `other` is larger.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// Turns a decimal price such as `"0.01"` into atomic units of an asset with `decimals` decimal
    /// places.
    ///
    /// Never rounds: a price finer than the asset's smallest unit is an error. Rounding down would
    /// give goods away, and rounding up would charge more than the quote.
    ///
    /// ```
    /// use quittance_core::Amount;
    ///
    /// assert_eq!(Amount::from_decimal("0.01", 6)?.to_string(), "10000");
    /// assert!(Amount::from_decimal("0.0000001", 6).is_err());
    /// # Ok::<(), quittance_core::AmountError>(())
    /// ```
    ///
    /// # Errors
    /// When the text is not a plain decimal number, is finer than `decimals`, or does not fit.
    pub fn from_decimal(text: &str, decimals: u8) -> Result<Self, AmountError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if text.ends_with('.') {
            return Err(AmountError::Grammar);
        }
        let padding = usize::from(decimals)
            .checked_sub(fraction.len())
            .ok_or(AmountError::TooFine)?;
        let whole: Self = whole.parse()?;
        if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(AmountError::Grammar);
        }
        let shifted = digits(whole.0, fraction)?;
        digits(shifted, &"0".repeat(padding)).map(Self)
    }

    /// The amount as a decimal number of an asset with `decimals` decimal places, for people to
    /// read.
    ///
    /// ```
    /// # use quittance_core::Amount;
    /// assert_eq!(Amount::from(1_250_000u64).to_decimal(6), "1.25");
    /// assert_eq!(Amount::from(1u64).to_decimal(6), "0.000001");
    /// ```
    pub fn to_decimal(self, decimals: u8) -> String {
        let places = usize::from(decimals);
        let text = format!("{:0>width$}", self.0.to_string(), width = places + 1);
        let (whole, fraction) = text.split_at(text.len() - places);
        let fraction = fraction.trim_end_matches('0');
        if fraction.is_empty() {
            whole.to_owned()
        } else {
            format!("{whole}.{fraction}")
        }
    }
}

/// Appends decimal digits to a number.
fn digits(start: U256, text: &str) -> Result<U256, AmountError> {
    const TEN: U256 = U256::from_limbs([10, 0, 0, 0]);
    text.bytes()
        .try_fold(start, |value, byte| {
            value.checked_mul(TEN)?.checked_add(U256::from(byte - b'0'))
        })
        .ok_or(AmountError::TooLarge)
}

/// Why a text is not an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AmountError {
    /// The text does not match the grammar `0|[1-9][0-9]{0,77}`.
    #[error("not a plain decimal integer (0 or a digit 1-9 followed by at most 77 digits)")]
    Grammar,
    /// The number is 2^256 or more.
    #[error("does not fit in 256 bits")]
    TooLarge,
    /// The decimal price has more places than the asset.
    #[error("finer than the asset's smallest unit")]
    TooFine,
}

/// 2^256 has 78 decimal digits. Longer text is refused before it is parsed.
const DIGITS_MAX: usize = 78;

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let bytes = text.as_bytes();
        let canonical = match bytes {
            [b'0'] => true,
            [b'1'..=b'9', rest @ ..] => {
                rest.len() < DIGITS_MAX && rest.iter().all(u8::is_ascii_digit)
            }
            _ => false,
        };
        if !canonical {
            return Err(AmountError::Grammar);
        }
        // Most amounts fit in a machine word. Parsing them as one is several times faster than
        // 256-bit steps.
        match text.parse::<u64>() {
            Ok(units) => Ok(Self(U256::from(units))),
            Err(_) => digits(U256::ZERO, text).map(Self),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Amount({})", self.0)
    }
}

impl From<u64> for Amount {
    fn from(units: u64) -> Self {
        Self::from_units(units)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Amount {
    /// Reads a JSON string, or a JSON number that is an integer up to 2^53 - 1. For larger numbers,
    /// fractions and exponents, parsers that use floating point see another amount.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl de::Visitor<'_> for Digits {
            type Value = Amount;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("decimal digits in a string, or an integer up to 2^53 - 1")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Amount, E> {
                match number <= NUMBER_MAX {
                    true => Ok(Amount::from_units(number)),
                    false => Err(E::invalid_value(de::Unexpected::Unsigned(number), &self)),
                }
            }
        }
        deserializer.deserialize_any(Digits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn printed_value_parses_back_to_itself(limbs: [u64; 4]) {
            let amount = Amount(U256::from_limbs(limbs));
            prop_assert_eq!(amount.to_string().parse(), Ok(amount));
        }

        #[test]
        fn every_parsed_text_is_printed_unchanged(text in "[0-9]{1,80}|[-+ .0-9a-fx_]{0,10}") {
            if let Ok(amount) = text.parse::<Amount>() {
                prop_assert_eq!(amount.to_string(), text);
            }
        }

        #[test]
        fn decimals_survive_the_round_trip(units: u128, decimals in 0u8..30) {
            let amount = Amount(U256::from(units));
            prop_assert_eq!(Amount::from_decimal(&amount.to_decimal(decimals), decimals), Ok(amount));
        }

        #[test]
        fn no_text_panics(text: String, decimals: u8) {
            let _ = text.parse::<Amount>();
            let _ = Amount::from_decimal(&text, decimals);
        }
    }

    #[test]
    fn json_number_above_2_53_is_not_an_amount() {
        let read = |text: &str| serde_json::from_str::<Amount>(text).ok();
        for (text, units) in [
            ("0", 0),
            ("10000", 10_000),
            ("9007199254740991", NUMBER_MAX),
        ] {
            assert_eq!(read(text), Some(Amount::from_units(units)), "{text}");
        }
        for odd in [
            "9007199254740992",
            "1.0",
            "1e3",
            "-1",
            "-0",
            "null",
            "true",
            "[1]",
        ] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }

    #[test]
    fn the_largest_amount_is_read_and_the_next_refused() {
        let largest = Amount(U256::MAX).to_string();
        assert_eq!(largest.parse(), Ok(Amount(U256::MAX)));
        let next = format!("{}6", &largest[..77]);
        assert_eq!(next.parse::<Amount>(), Err(AmountError::TooLarge));
        assert_eq!("9".repeat(79).parse::<Amount>(), Err(AmountError::Grammar));
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "", "-1", "+5", "1e6", "0.02", " 10", "10 ", "1_000", "１０", "00", "0010", "0x2710",
            "10\n",
        ] {
            assert_eq!(
                text.parse::<Amount>(),
                Err(AmountError::Grammar),
                "{text:?}"
            );
        }
    }

    #[test]
    fn odd_prices_are_refused() {
        for text in [
            "", ".", "1.", ".5", "1..2", "1.2.3", "$1", "-1", "1e3", "01.5", "1.5 ",
        ] {
            assert!(Amount::from_decimal(text, 6).is_err(), "{text:?}");
        }
        assert_eq!(
            Amount::from_decimal("1.1234567", 6),
            Err(AmountError::TooFine)
        );
        assert_eq!(Amount::from_decimal("1", 78), Err(AmountError::TooLarge));
        assert_eq!(Amount::from_decimal("12", 0), Ok(Amount::from(12)));
    }
}
