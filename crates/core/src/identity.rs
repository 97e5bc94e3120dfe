//! The identity of a payment, and what all identities have in common.

use std::fmt;

use sha2::{Digest, Sha256};

/// Defines the identity of a kind of thing: 32 bytes, the hash of what makes the thing unique.
macro_rules! identity {
    ($(#[$docs:meta])* $name:ident) => {
        $(#[$docs])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The identity of `parts`, such as chain, asset, payer and nonce. Each part is hashed
            /// with its length, so that two different lists of parts never have the same bytes.
            pub fn from_parts(parts: &[&[u8]]) -> Self {
                Self($crate::identity::hash_parts(parts))
            }

            /// The identity with these bytes, as a journal stored them.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                $crate::identity::write_hex(&self.0, f)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::IdentityError;

            fn from_str(text: &str) -> Result<Self, $crate::IdentityError> {
                let bytes = $crate::identity::read_hex(text);
                bytes.map(Self).ok_or($crate::IdentityError)
            }
        }
    };
}
pub(crate) use identity;

identity! {
    /// The identity of one authorization by a payer. It is equal for all requests that could move
    /// the same money, whatever their signature bytes: signatures are malleable, identities are
    /// not.
    ///
    /// It is the SHA-256 hash of the parts that make the authorization unique on its chain. It
    /// reveals nothing about them, so it may be public.
    PaymentId
}

/// The text is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not 64 hexadecimal digits")]
pub struct IdentityError;

/// The SHA-256 hash of `parts`, each with its length before it.
pub(crate) fn hash_parts(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Writes 64 hexadecimal digits.
pub(crate) fn write_hex(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Reads 64 hexadecimal digits, of either case.
pub(crate) fn read_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? * 16 + digit(1)?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(
            PaymentId::from_parts(&[b"ab", b"c"]),
            PaymentId::from_parts(&[b"a", b"bc"])
        );
        assert_ne!(
            PaymentId::from_parts(&[b"ab"]),
            PaymentId::from_parts(&[b"ab", b""])
        );
    }

    proptest! {
        #[test]
        fn printed_value_parses_back_to_itself(bytes: [u8; 32]) {
            let id = PaymentId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<PaymentId>();
        }
    }
}
