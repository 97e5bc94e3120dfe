//! Numbers as the payloads write them: decimal text. For `serde(with)`.

use alloy::primitives::U256;
use quittance_core::Amount;
use serde::{Deserialize, Deserializer, Serializer, de};

/// Writes atomic units.
pub(crate) fn serialize<S: Serializer>(units: &u128, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(units)
}

/// Reads atomic units. The contract keeps them in 128 bits.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u128, D::Error> {
    let amount = Amount::deserialize(from)?;
    let wide = |_| de::Error::custom("the contract of the channels has amounts of 128 bits");
    u128::try_from(amount.units()).map_err(wide)
}

/// A number of 256 bits.
pub(super) mod number {
    use super::*;

    /// Writes the number.
    pub(in crate::batch) fn serialize<S: Serializer>(
        number: &U256,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    /// Reads the number.
    pub(in crate::batch) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<U256, D::Error> {
        Amount::deserialize(from).map(Amount::units)
    }
}
