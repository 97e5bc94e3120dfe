//! Identities as text in temporary files.

use std::fmt::Display;
use std::str::FromStr;

use quittance_core::{LaneId, TransactionId};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

/// Writes a value as its text.
pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

/// Reads a value from its text.
pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
where
    T: FromStr<Err: Display>,
    D: Deserializer<'de>,
{
    let text = String::deserialize(from)?;
    text.parse().map_err(D::Error::custom)
}

/// Reads a transaction's id.
pub(crate) fn transaction<'de, D: Deserializer<'de>>(from: D) -> Result<TransactionId, D::Error> {
    String::deserialize(from).map(|text| TransactionId::new(&text))
}

/// Reads a signer.
pub(crate) fn lane<'de, D: Deserializer<'de>>(from: D) -> Result<LaneId, D::Error> {
    String::deserialize(from).map(|text| LaneId::new(&text))
}
