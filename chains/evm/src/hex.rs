//! Addresses and bytes as x402 writes them: `0x` and the exact number of hexadecimal digits.

use std::fmt;

use alloy::primitives::{Address, FixedBytes, hex};
use quittance_core::Malformed;
use serde::{Deserialize, Deserializer, de};

/// Parses an address, in letters of any case. `field` names it in the error.
///
/// # Errors
/// If `text` is not `0x` and 40 hexadecimal digits.
pub fn address(field: &str, text: &str) -> Result<Address, Malformed> {
    fixed(text)
        .map(Address::from)
        .ok_or_else(|| Malformed::new(field, "not an address (0x and 40 hexadecimal digits)"))
}

fn fixed<const N: usize>(text: &str) -> Option<FixedBytes<N>> {
    let digits = text.strip_prefix("0x")?;
    let mut bytes = [0; N];
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    // The decoder would accept a second prefix.
    (digits.len() == 2 * N).then_some(FixedBytes(bytes))
}

/// Exactly `N` bytes, read from `0x` and hexadecimal digits.
#[derive(Debug, Clone, Copy)]
pub struct Hex<const N: usize>(pub FixedBytes<N>);

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<const N: usize>;
        impl<const N: usize> de::Visitor<'_> for Text<N> {
            type Value = Hex<N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "0x and {} hexadecimal digits", 2 * N)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Hex<N>, E> {
                fixed(text)
                    .map(Hex)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// At most `MAX` bytes, read from `0x` and hexadecimal digits.
#[derive(Debug, Clone)]
pub struct HexBytes<const MAX: usize>(pub Vec<u8>);

impl<'de, const MAX: usize> Deserialize<'de> for HexBytes<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<const MAX: usize>;
        impl<const MAX: usize> de::Visitor<'_> for Text<MAX> {
            type Value = HexBytes<MAX>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "0x and hexadecimal digits for at most {MAX} bytes")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<HexBytes<MAX>, E> {
                let odd = || {
                    E::custom(format_args!(
                        "not 0x and hexadecimal digits for at most {MAX} bytes"
                    ))
                };
                let digits = text.strip_prefix("0x").ok_or_else(odd)?;
                if digits.len() > 2 * MAX || digits.starts_with("0x") {
                    return Err(odd());
                }
                hex::decode(digits).map(HexBytes).map_err(|_| odd())
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_prefix_and_the_exact_digits_are_read() {
        let good = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
        assert_eq!(
            address("payTo", good),
            address("payTo", &good.to_lowercase())
        );
        for odd in [
            "",
            "0x",
            &good[2..],
            &good[..41],
            &format!("{good}0"),
            "0X036CbD53842c5426634e7929541eC2318f3dCF7e",
            "0x0x6CbD53842c5426634e7929541eC2318f3dCF7e",
            "merchant.eth",
            "0x036CbD53842c5426634e7929541eC2318f3dCF7g",
            "0x０36CbD53842c5426634e7929541eC2318f3dCF",
        ] {
            assert!(address("payTo", odd).is_err(), "{odd}");
        }
        let read = |text: &str| {
            serde_json::from_str::<HexBytes<4>>(text)
                .map(|bytes| bytes.0)
                .ok()
        };
        assert_eq!(read("\"0x\""), Some(vec![]));
        assert_eq!(read("\"0x01020304\""), Some(vec![1, 2, 3, 4]));
        for odd in [
            "\"\"",
            "\"01\"",
            "\"0x1\"",
            "\"0x0x\"",
            "\"0x0102030405\"",
            "1",
        ] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }
}
