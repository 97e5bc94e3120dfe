//! Signatures of payers: by a key (ECDSA), by a contract (ERC-1271), or wrapped (ERC-6492).

use alloy::primitives::{Address, B256, Bytes, hex};
use alloy::sol_types::SolValue;
use quittance_core::{Malformed, Reason, Rejection, SignatureClaim};
use serde::Deserialize;

use crate::hex::{Hex, HexBytes};

/// The longest signature that is read, in bytes: an ERC-6492 wrapper with a factory call. The
/// longest known one, a WebAuthn signature of a counterfactual wallet, is under 4 KiB.
pub const SIGNATURE_MAX: usize = 16 * 1024;

/// The longest signature of a deployed wallet, in bytes.
pub const DEPLOYED_SIGNATURE_MAX: usize = 4 * 1024;

/// The last 32 bytes of every ERC-6492 signature.
const ERC6492_MAGIC: [u8; 32] =
    hex!("6492649264926492649264926492649264926492649264926492649264926492");

/// A payer's signature without its ERC-6492 wrapper.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PayerSignature {
    /// The bytes that the payer's account has to accept.
    pub bytes: Bytes,
    /// The deployment in the ERC-6492 wrapper, if there is one: the account may not exist yet.
    pub deployment: Option<Deployment>,
}

/// The call in an ERC-6492 wrapper that deploys the payer's account.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deployment {
    /// The contract that deploys the account. The payer chose it: it may be any contract.
    pub factory: Address,
    /// The call data.
    pub data: Bytes,
}

impl PayerSignature {
    /// Decodes the signature of a payload.
    ///
    /// # Errors
    /// If it is missing, and as [`decode`](Self::decode).
    pub(crate) fn read(signature: Option<HexBytes<SIGNATURE_MAX>>) -> Result<Self, Malformed> {
        let field = "paymentPayload.payload.signature";
        let signature = signature.ok_or_else(|| Malformed::new(field, "missing"))?;
        Self::decode(field, signature.0)
    }

    /// Decodes a signature and removes an ERC-6492 wrapper. `field` names it in the error.
    ///
    /// # Errors
    /// If it is longer than [`DEPLOYED_SIGNATURE_MAX`], or if its wrapper cannot be decoded.
    pub fn decode(field: &str, bytes: Vec<u8>) -> Result<Self, Malformed> {
        let (inner, deployment) = match bytes.strip_suffix(&ERC6492_MAGIC) {
            None => (Bytes::from(bytes), None),
            Some(wrapper) => {
                let (factory, data, inner) = <(Address, Bytes, Bytes)>::abi_decode_params(wrapper)
                    .map_err(|_| Malformed::new(field, "the ERC-6492 wrapper cannot be decoded"))?;
                // A wrapper without a factory has no meaning; the inner signature is checked as
                // usual.
                let deployment = Deployment { factory, data };
                (inner, (!factory.is_zero()).then_some(deployment))
            }
        };
        if inner.len() > DEPLOYED_SIGNATURE_MAX {
            return Err(Malformed::new(
                field,
                format_args!("the signature is longer than {DEPLOYED_SIGNATURE_MAX} bytes"),
            ));
        }
        Ok(Self {
            bytes: inner,
            deployment,
        })
    }

    /// The signature as an ECDSA signature; `None` if it does not have 65 bytes, and for a wrapped
    /// one. Who wraps a signature says that a contract checks it, and no key.
    pub fn ecdsa(&self) -> Option<EcdsaSignature> {
        if self.deployment.is_some() {
            return None;
        }
        Some(EcdsaSignature(self.bytes.as_ref().try_into().ok()?))
    }

    /// Whether no account can accept these bytes: they are empty, or `r` of the 65 bytes is zero.
    pub fn is_never_valid(&self) -> bool {
        self.bytes.is_empty()
            || (self.bytes.len() == 65 && self.bytes[..32].iter().all(|byte| *byte == 0))
    }

    /// Checks that some account could accept the signature; `reason` is that of the rejection.
    pub(crate) fn check_possible(&self, reason: Reason) -> Result<(), Rejection> {
        if !self.is_never_valid() {
            return Ok(());
        }
        let detail =
            "the signature is neither 65 bytes of ECDSA nor bytes that a contract could accept";
        Err(Rejection::new(reason, detail))
    }
}

/// The bytes `r`, `s` and `v` of an ECDSA signature. They are not checked.
///
/// It is read from the JSON of a payload: `0x` and 130 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(from = "Hex<65>")]
pub struct EcdsaSignature(pub [u8; 65]);

impl From<Hex<65>> for EcdsaSignature {
    fn from(bytes: Hex<65>) -> Self {
        Self(bytes.0.0)
    }
}

impl EcdsaSignature {
    /// `r`.
    pub fn r(&self) -> B256 {
        B256::from_slice(&self.0[..32])
    }

    /// `s`.
    pub fn s(&self) -> B256 {
        B256::from_slice(&self.0[32..64])
    }

    /// `v` as tokens expect it: 27 or 28. Some wallets write 0 or 1. Any other value stays as it
    /// is, and the token refuses it.
    pub fn v(&self) -> u8 {
        match self.0[64] {
            parity @ (0 | 1) => 27 + parity,
            other => other,
        }
    }

    /// The claim that `address` signed `digest`.
    pub fn claim(&self, digest: B256, address: Address) -> SignatureClaim {
        SignatureClaim::Secp256k1 {
            digest: digest.0,
            signature: self.0,
            address: address.into_array(),
        }
    }
}

/// A signature as contracts take it: `v` of a key's is 27 or 28, and some wallets write 0 or 1.
pub(crate) fn for_contract(signature: &Bytes) -> Bytes {
    match <[u8; 65]>::try_from(signature.as_ref()) {
        Ok(mut bytes) => {
            bytes[64] = EcdsaSignature(bytes).v();
            bytes.to_vec().into()
        }
        Err(_) => signature.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn wrapper_is_removed_and_its_deployment_kept() {
        let factory = Address::repeat_byte(7);
        let signature = PayerSignature::decode("signature", wrapped(factory, &[1; 65])).unwrap();
        let data = Bytes::from_static(b"deploy");
        assert_eq!(signature.bytes.len(), 65);
        assert_eq!(signature.deployment, Some(Deployment { factory, data }));
        assert_eq!(signature.ecdsa(), None);
        let signature =
            PayerSignature::decode("signature", wrapped(Address::ZERO, &[1; 65])).unwrap();
        assert_eq!(signature.deployment, None);
        assert_eq!(signature.ecdsa(), Some(EcdsaSignature([1; 65])));
    }

    #[test]
    fn broken_wrapper_is_malformed() {
        assert!(PayerSignature::decode("signature", ERC6492_MAGIC.to_vec()).is_err());
        let whole = wrapped(Address::repeat_byte(7), &[1; 65]);
        assert!(
            PayerSignature::decode("signature", [&whole[..40], &ERC6492_MAGIC].concat()).is_err()
        );
    }

    /// attacks.md 20.
    #[test]
    fn a_signature_longer_than_any_wallets_is_malformed() {
        let read = |bytes: Vec<u8>| PayerSignature::decode("signature", bytes);
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
    fn empty_bytes_and_zero_r_are_never_valid() {
        let read = |bytes: Vec<u8>| PayerSignature::decode("signature", bytes).unwrap();
        assert!(read(vec![]).is_never_valid());
        assert!(read(vec![0; 65]).is_never_valid());
        // A Safe's "approved hash": r is the owner, s is zero, v is 1.
        let mut approved = vec![0; 65];
        (approved[12], approved[64]) = (0xab, 1);
        assert!(!read(approved).is_never_valid());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes: Vec<u8>, magic: bool) {
            if magic { bytes.extend(ERC6492_MAGIC) }
            let _ = PayerSignature::decode("signature", bytes);
        }
    }
}
