//! The identity of a seller's sale.

use std::fmt;
use std::sync::Arc;

use crate::Malformed;

/// The longest identity of a sale in bytes: as long as a `payment-identifier` may be.
const LENGTH_MAX: usize = 128;

/// The identity of one sale of a seller. A facilitator gets it as the header `Idempotency-Key`,
/// beside the requests to verify and to settle.
///
/// A facilitator that supports it reports the success of a request again to a request of the same
/// sale, and says so in [`REPEATED`](Self::REPEATED). So a lost answer loses no sale. A request of
/// another sale gets `duplicate_settlement`.
///
/// It has 1 to 128 visible ASCII characters. It must be hard to guess: who knows it can ask for
/// the success of the sale.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SaleId(Arc<str>);

impl SaleId {
    /// The header of a settle request that carries it.
    pub const HEADER: &'static str = "idempotency-key";

    /// The field of an answer's `extra` that is `true` if the success was reported to the same sale
    /// before. Absent if it is reported for the first time, or if no caller got the first report.
    pub const REPEATED: &'static str = "successReportedBefore";

    /// The identity with this text.
    ///
    /// # Errors
    /// When the text is empty, too long, or has other characters than visible ASCII.
    pub fn new(text: &str) -> Result<Self, Malformed> {
        let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        match (1..=LENGTH_MAX).contains(&text.len()) && is_visible {
            true => Ok(Self(text.into())),
            false => Err(Malformed::new(
                "Idempotency-Key",
                format_args!("not 1 to {LENGTH_MAX} visible ASCII characters"),
            )),
        }
    }

    /// The identity with these bytes, as 32 hexadecimal digits.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(format!("{:032x}", u128::from_be_bytes(bytes)).into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SaleId {
    /// Omits the text, which is a secret of the seller.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SaleId(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sale_id_is_a_header_value() {
        for text in [
            "1",
            "a-b_c",
            &"x".repeat(128),
            SaleId::from_bytes([7; 16]).as_str(),
        ] {
            assert_eq!(SaleId::new(text).unwrap().as_str(), text);
        }
        for text in ["", " ", "a b", "a\n", "é", &"x".repeat(129)] {
            assert!(SaleId::new(text).is_err(), "{text:?}");
        }
    }
}
