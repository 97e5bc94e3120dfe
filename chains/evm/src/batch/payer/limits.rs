//! How much a payer locks up in channels.

use alloy::primitives::U256;
use quittance_core::{Amount, AmountError, QuoteError};

/// The decimal places of sums over all tokens. The finest known coins have 24. A `u128` of any
/// token with at most this many fits into 256 bits.
pub(super) const PLACES: u8 = 36;

/// How much a payer deposits into channels.
///
/// The limits are in whole coins of any asset, as those of a buyer: the assets that ship with the
/// library are all dollars. They are for what is locked up, which is what was deposited and not
/// charged yet. The limits of the buyer apply in addition.
///
/// ```
/// use quittance_evm::batch::DepositRules;
///
/// let rules = DepositRules::new(20, "0.50", "5")?;
/// # Ok::<(), quittance_core::AmountError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DepositRules {
    multiple: u64,
    per_channel: U256,
    in_total: U256,
}

impl Default for DepositRules {
    /// Ten prices, the amount that sellers ask for in the reference implementation; at most one
    /// dollar in a channel and ten dollars in all.
    fn default() -> Self {
        let dollars = |count: u64| U256::from(count) * U256::from(10).pow(U256::from(PLACES));
        Self {
            multiple: 10,
            per_channel: dollars(1),
            in_total: dollars(10),
        }
    }
}

impl DepositRules {
    /// Deposits of this many prices, with at most so much locked up in a channel, and in all
    /// channels together.
    ///
    /// # Errors
    /// If a limit is not an amount such as `"0.50"`.
    pub fn new(multiple: u64, per_channel: &str, in_total: &str) -> Result<Self, AmountError> {
        let limit = |text| Amount::from_decimal(text, PLACES).map(Amount::units);
        Ok(Self {
            multiple,
            per_channel: limit(per_channel)?,
            in_total: limit(in_total)?,
        })
    }

    /// The most that can be deposited, in atomic units of a token with this many decimal places, if
    /// so much is locked up: in the channel in atomic units, and in all channels in coins.
    pub(super) fn room(&self, decimals: u8, in_channel: u128, in_all: U256) -> u128 {
        let in_channel = in_coins(in_channel, decimals);
        let of_channel = self.per_channel.saturating_sub(in_channel);
        let of_all = self.in_total.saturating_sub(in_all);
        let unit = coin_unit(decimals);
        let room = of_channel.min(of_all).checked_div(unit);
        room.unwrap_or_default().saturating_to()
    }

    /// The deposit for a payment of this price, in atomic units. The channel lacks `shortage` for
    /// it. `asked` is what the seller asks for.
    ///
    /// # Errors
    /// If there is not enough room for the shortage.
    pub(super) fn size(
        &self,
        price: u128,
        shortage: u128,
        asked: u128,
        room: u128,
    ) -> Result<u128, QuoteError> {
        if shortage > room {
            let what = format!(
                "the channel lacks {shortage} atomic units, and the limits of deposits allow {room} more"
            );
            return Err(QuoteError::unpayable(what));
        }
        let usual = price.saturating_mul(self.multiple.into());
        Ok(usual.max(asked).max(shortage).min(room))
    }
}

/// Atomic units in coins, with [`PLACES`] decimal places. Nothing fits into the limits if the token
/// has more.
pub(super) fn in_coins(units: u128, decimals: u8) -> U256 {
    let unit = coin_unit(decimals);
    match unit.is_zero() {
        true => U256::MAX,
        false => U256::from(units).saturating_mul(unit),
    }
}

/// An atomic unit in coins; zero if it is finer than [`PLACES`] decimal places.
fn coin_unit(decimals: u8) -> U256 {
    match PLACES.checked_sub(decimals) {
        Some(places) => U256::from(10).pow(U256::from(places)),
        None => U256::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One dollar of a token with six decimal places.
    const DOLLAR: u128 = 1_000_000;

    #[test]
    fn deposit_is_the_multiple_within_all_limits() {
        let rules = DepositRules::new(10, "1", "1.5").unwrap();
        let size = |price, shortage, asked, in_channel, in_all| {
            let room = rules.room(6, in_channel, in_coins(in_all, 6));
            rules.size(price, shortage, asked, room)
        };
        let cent = DOLLAR / 100;
        assert_eq!(size(cent, cent, 0, 0, 0), Ok(10 * cent));
        // What the seller asks for.
        assert_eq!(size(cent, cent, 20 * cent, 0, 0), Ok(20 * cent));
        // Above the multiple, the limit of the channel and the limit in all.
        assert_eq!(size(20 * cent, 20 * cent, 0, 0, 0), Ok(DOLLAR));
        assert_eq!(size(cent, cent, 5 * DOLLAR, 0, 0), Ok(DOLLAR));
        assert_eq!(size(20 * cent, 20 * cent, 0, 0, DOLLAR), Ok(DOLLAR / 2));
        assert_eq!(size(cent, cent, 0, DOLLAR - cent, 0), Ok(cent));
        for (in_channel, in_all) in [(DOLLAR, 0), (0, 2 * DOLLAR), (0, 149 * cent + 1)] {
            assert!(size(cent, cent, 0, in_channel, in_all).is_err());
        }
        assert!(size(cent, DOLLAR + 1, 0, 0, 0).is_err());
    }

    #[test]
    fn limits_that_are_not_amounts_are_errors() {
        for odd in ["", "a", "-1", "1,5"] {
            assert!(DepositRules::new(10, odd, "1").is_err(), "{odd}");
            assert!(DepositRules::new(10, "1", odd).is_err(), "{odd}");
        }
        // A token that is too fine to count.
        assert_eq!(DepositRules::default().room(37, 0, U256::ZERO), 0);
    }

    proptest! {
        #[test]
        fn no_deposit_exceeds_a_limit(
            price: u128, shortage: u128, asked: u128, in_channel: u128, in_all: u128,
            decimals in 0_u8..40,
        ) {
            let rules = DepositRules::default();
            let room = rules.room(decimals, in_channel, in_coins(in_all, decimals));
            if let Ok(deposit) = rules.size(price, shortage, asked, room) {
                prop_assert!(deposit >= shortage);
                if deposit > 0 {
                    let after = in_coins(in_channel, decimals) + in_coins(deposit, decimals);
                    prop_assert!(after <= rules.per_channel);
                    let after = in_coins(in_all, decimals) + in_coins(deposit, decimals);
                    prop_assert!(after <= rules.in_total);
                }
            }
        }
    }
}
