//! A payer's signature, and what may be in those bytes.

use alloy::primitives::{Address, B256, Bytes, hex};
use alloy::sol_types::SolValue;
use quittance_core::Malformed;

/// The longest signature that is read: an ERC-6492 wrapper with a factory call. The longest seen in the wild, a
/// WebAuthn signature of a counterfactual wallet, is under 4 KiB.
pub(crate) const SIGNATURE_MAX: usize = 16 * 1024;

/// The longest signature of a wallet that exists already.
pub(crate) const DEPLOYED_SIGNATURE_MAX: usize = 4 * 1024;

/// The last 32 bytes of every ERC-6492 signature.
const ERC6492_MAGIC: [u8; 32] =
    hex!("6492649264926492649264926492649264926492649264926492649264926492");

/// A payer's signature, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signature {
    /// The bytes the payer's account has to accept.
    pub(crate) bytes: Bytes,
    /// The factory that an ERC-6492 wrapper names: it says the account may not exist yet.
    pub(crate) factory: Option<Address>,
}

impl Signature {
    /// Takes ERC-6492 wrappers off.
    ///
    /// # Errors
    /// When it is longer than it may be, or wrapped and the wrapper cannot be read.
    pub(crate) fn read(field: &str, bytes: Vec<u8>) -> Result<Self, Malformed> {
        let (inner, factory) = match bytes.strip_suffix(&ERC6492_MAGIC) {
            None => (Bytes::from(bytes), None),
            Some(wrapper) => {
                let (factory, _, inner) = <(Address, Bytes, Bytes)>::abi_decode_params(wrapper)
                    .map_err(|_| {
                        Malformed::new(field, "an ERC-6492 wrapper that cannot be read")
                    })?;
                // A wrapper that names no factory says nothing; its inside is judged like any signature.
                (inner, Some(factory).filter(|factory| !factory.is_zero()))
            }
        };
        if inner.len() > DEPLOYED_SIGNATURE_MAX {
            return Err(Malformed::new(
                field,
                format_args!("longer than {DEPLOYED_SIGNATURE_MAX} bytes"),
            ));
        }
        Ok(Self {
            bytes: inner,
            factory,
        })
    }

    /// The 65 bytes of an ECDSA signature, if that is what this may be.
    pub(crate) fn ecdsa(&self) -> Option<Ecdsa> {
        Some(Ecdsa(self.bytes.as_ref().try_into().ok()?))
    }

    /// Whether no account could accept these bytes: nothing at all, or an ECDSA signature (or anything wallets use in
    /// its place) whose first half is zero.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.bytes.is_empty()
            || (self.bytes.len() == 65 && self.bytes[..32].iter().all(|byte| *byte == 0))
    }
}

/// `r`, `s` and `v` of an ECDSA signature, unchecked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ecdsa(pub(crate) [u8; 65]);

impl Ecdsa {
    pub(crate) fn r(&self) -> B256 {
        B256::from_slice(&self.0[..32])
    }

    pub(crate) fn s(&self) -> B256 {
        B256::from_slice(&self.0[32..64])
    }

    /// `v` as tokens want it, 27 or 28; wallets also write 0 or 1. Any other value is passed on, to be refused.
    pub(crate) fn v(&self) -> u8 {
        match self.0[64] {
            parity @ (0 | 1) => 27 + parity,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex::HexBytes;
    use proptest::prelude::*;

    fn wrapped(factory: Address, inner: &[u8]) -> Vec<u8> {
        let wrapper = (
            factory,
            Bytes::from_static(b"deploy"),
            Bytes::copy_from_slice(inner),
        );
        [wrapper.abi_encode_params(), ERC6492_MAGIC.to_vec()].concat()
    }

    #[test]
    fn a_wrapper_is_taken_off_and_its_factory_kept() {
        let factory = Address::repeat_byte(7);
        let signature = Signature::read("signature", wrapped(factory, &[1; 65])).unwrap();
        assert_eq!(
            (signature.bytes.len(), signature.factory),
            (65, Some(factory))
        );
        let signature = Signature::read("signature", wrapped(Address::ZERO, &[1; 65])).unwrap();
        assert_eq!(signature.factory, None);
    }

    #[test]
    fn a_broken_wrapper_is_refused() {
        assert!(Signature::read("signature", ERC6492_MAGIC.to_vec()).is_err());
        let whole = wrapped(Address::repeat_byte(7), &[1; 65]);
        assert!(Signature::read("signature", [&whole[..40], &ERC6492_MAGIC].concat()).is_err());
    }

    /// attacks.md 20.
    #[test]
    fn a_signature_longer_than_any_wallets_is_malformed() {
        let read = |bytes: Vec<u8>| Signature::read("signature", bytes);
        assert!(read(vec![1; DEPLOYED_SIGNATURE_MAX]).is_ok());
        let long = vec![1; DEPLOYED_SIGNATURE_MAX + 1];
        assert!(read(long.clone()).is_err());
        assert!(read(wrapped(Address::repeat_byte(7), &long)).is_err());
        let text = |bytes: usize| format!("\"0x{}\"", "01".repeat(bytes));
        let parsed = |text: &str| serde_json::from_str::<HexBytes<SIGNATURE_MAX>>(text);
        assert!(parsed(&text(SIGNATURE_MAX)).is_ok());
        assert!(parsed(&text(SIGNATURE_MAX + 1)).is_err());
    }

    #[test]
    fn nothing_and_a_zero_r_are_hopeless_and_an_approved_hash_is_not() {
        let read = |bytes: Vec<u8>| Signature::read("signature", bytes).unwrap();
        assert!(read(vec![]).is_hopeless());
        assert!(read(vec![0; 65]).is_hopeless());
        // A Safe's "approved hash": r is the owner, s is zero, v is 1.
        let mut approved = vec![0; 65];
        (approved[12], approved[64]) = (0xab, 1);
        assert!(!read(approved).is_hopeless());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes: Vec<u8>, magic: bool) {
            if magic { bytes.extend(ERC6492_MAGIC) }
            let _ = Signature::read("signature", bytes);
        }
    }
}
