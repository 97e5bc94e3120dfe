//! The parts of `exact` messages on EVM chains, as they are written.

use quittance_core::json::text_or_integer;
use quittance_core::{Refusal, Rejection};
use serde::Deserialize;

use super::permit2::ExactPermit;
use super::{Signed, reason};
use crate::eip3009::Authorization;
use crate::hex::HexBytes;
use crate::signature::SIGNATURE_MAX;

/// The scheme's name.
pub(super) const NAME: &str = "exact";

/// The payload of a payment. It has the authorization of one asset transfer method.
#[derive(Deserialize)]
pub(super) struct Payload {
    #[serde(default)]
    pub(super) signature: Option<HexBytes<SIGNATURE_MAX>>,
    #[serde(default)]
    pub(super) authorization: Option<Authorization>,
    #[serde(default, rename = "permit2Authorization")]
    pub(super) permit2: Option<ExactPermit>,
}

/// What the payer signed, and the signature if there is one.
pub(super) type SignedPayload = (Signed, Option<HexBytes<SIGNATURE_MAX>>);

impl Payload {
    /// The authorization and its signature. A payload with two of them does not say which one the
    /// payer means.
    pub(super) fn into_signed(self) -> Result<SignedPayload, Refusal> {
        let unsupported =
            |detail: &str| Rejection::new(reason::UNSUPPORTED_PAYLOAD_TYPE, detail).into();
        match (self.authorization, self.permit2) {
            (Some(authorization), None) => Ok((Signed::Eip3009(authorization), self.signature)),
            (None, Some(permit)) => Ok((Signed::Permit2(permit), self.signature)),
            (None, None) => Err(unsupported(
                "the payload has neither an EIP-3009 authorization nor a permit2Authorization",
            )),
            (Some(_), Some(_)) => Err(unsupported(
                "the payload has both an EIP-3009 authorization and a permit2Authorization",
            )),
        }
    }
}

/// The requirements' `extra`.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct Extra {
    #[serde(default)]
    pub(super) name: Option<String>,
    /// Some sellers write `2` for `"2"`.
    #[serde(default, deserialize_with = "text_or_integer")]
    pub(super) version: Option<String>,
    #[serde(default)]
    pub(super) asset_transfer_method: Option<String>,
    /// The contract whose EIP-712 domain is meant, if the seller names one: the token or another
    /// contract.
    #[serde(default)]
    pub(super) verifying_contract: Option<serde_json::Value>,
}

impl Extra {
    /// The name and the version of the token's EIP-712 domain.
    pub(super) fn domain(&self) -> Result<(&str, &str), Rejection> {
        match (&self.name, &self.version) {
            (Some(name), Some(version)) => Ok((name, version)),
            _ => {
                let detail = "paymentRequirements.extra must have the name and the version of the token's EIP-712 domain";
                Err(Rejection::new(reason::MISSING_EIP712_DOMAIN, detail))
            }
        }
    }
}
