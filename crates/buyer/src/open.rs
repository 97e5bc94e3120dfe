//! A signed payment as callers see it.

use quittance_core::{Amount, Timestamp};
use serde::{Deserialize, Serialize};

/// A signed payment whose outcome is unknown. Anyone who has seen it may have moved the money, or
/// may still move it.
///
/// The buyer keeps the payment and presents it again with the next call for the same purchase. It
/// signs another one for that purchase only in three cases. The chain shows that the first can
/// never move money, a trusted server reports that it moved nothing, or the caller
/// [abandons](crate::Buyer::abandon) it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct OpenPayment {
    /// The buyer's identifier for the payment.
    pub id: String,
    /// The network, by its CAIP-2 identifier.
    pub network: String,
    /// The server that the payment was signed for: scheme, host and port.
    #[serde(default)]
    pub origin: String,
    /// The asset, as the chain spells it.
    pub asset: String,
    /// The asset's ticker; empty in files of older versions.
    #[serde(default)]
    pub symbol: String,
    /// The decimal places of the asset; `None` in files of older versions.
    #[serde(default)]
    pub decimals: Option<u8>,
    /// The recipient, as the chain spells it.
    pub pay_to: String,
    /// The amount, in atomic units.
    pub amount: Amount,
    /// The first moment at which no block may include the payment any more, in seconds since the
    /// Unix epoch; [`Timestamp::NEVER`] for a voucher.
    #[serde(with = "secs")]
    pub expires: Timestamp,
    /// The transaction that may have moved the money, where the server or the chain named one.
    pub transaction: Option<String>,
}

impl OpenPayment {
    /// Whether the payment never expires, as a channel's voucher.
    pub fn never_expires(&self) -> bool {
        self.expires == Timestamp::NEVER
    }

    /// The amount for people, such as `0.01 USDC`.
    pub fn display_amount(&self) -> String {
        match self.decimals {
            Some(decimals) => format!("{} {}", self.amount.to_decimal(decimals), self.symbol),
            None => format!("{} atomic units of {}", self.amount, self.asset),
        }
    }
}

/// Moments as JSON numbers.
mod secs {
    use quittance_core::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(moment: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(moment.secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        u64::deserialize(from).map(Timestamp::from_secs)
    }
}
