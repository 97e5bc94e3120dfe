//! The parts of `exact` messages on EVM chains, as they are written.

use alloy::primitives::Address;
use quittance_core::json::text_or_integer;
use quittance_core::{Refusal, Rejection};
use serde::Deserialize;

use super::delegation::DelegationPayload;
use super::permit2::ExactPermit;
use super::{Signed, reason};
use crate::eip3009::Authorization;
use crate::erc7710::CONTEXT_MAX;
use crate::hex::{Hex, HexBytes, address};
use crate::signature::SIGNATURE_MAX;

/// The scheme's name.
pub(super) const NAME: &str = "exact";

/// The payload of a payment. It has the authorization of one asset transfer method.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Payload {
    #[serde(default)]
    pub(super) signature: Option<HexBytes<SIGNATURE_MAX>>,
    #[serde(default)]
    pub(super) authorization: Option<Authorization>,
    #[serde(default, rename = "permit2Authorization")]
    pub(super) permit2: Option<ExactPermit>,
    #[serde(default)]
    delegation_manager: Option<Hex<20>>,
    #[serde(default)]
    permission_context: Option<HexBytes<CONTEXT_MAX>>,
    #[serde(default)]
    delegator: Option<Hex<20>>,
}

/// What the payer signed, and the signature if there is one.
pub(super) type SignedPayload = (Signed, Option<HexBytes<SIGNATURE_MAX>>);

impl Payload {
    /// The delegation of a payment by ERC-7710; `None` if the payload has none.
    pub(super) fn take_delegation(&mut self) -> Result<Option<DelegationPayload>, Refusal> {
        let manager = self.delegation_manager.take();
        let context = self.permission_context.take();
        let delegation = DelegationPayload::of_fields(manager, context, self.delegator.take())?;
        if delegation.is_some() && (self.authorization.is_some() || self.permit2.is_some()) {
            let detail = "the payload has both a delegation and another authorization";
            return Err(Rejection::new(reason::UNSUPPORTED_PAYLOAD_TYPE, detail).into());
        }
        Ok(delegation)
    }

    /// The authorization and its signature. A payload with two of them does not say which one the
    /// payer means.
    pub(super) fn into_signed(self) -> Result<SignedPayload, Refusal> {
        let unsupported =
            |detail: &str| Rejection::new(reason::UNSUPPORTED_PAYLOAD_TYPE, detail).into();
        match (self.authorization, self.permit2) {
            (Some(authorization), None) => Ok((Signed::Eip3009(authorization), self.signature)),
            (None, Some(permit)) => Ok((Signed::Permit2(permit), self.signature)),
            (None, None) => Err(unsupported(
                "the payload has no EIP-3009 authorization, no permit2Authorization and no delegation",
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
    /// The accounts that redeem delegations.
    #[serde(default)]
    facilitator_addresses: Option<serde_json::Value>,
}

impl Extra {
    /// The accounts that redeem delegations; none if one of them is not an address.
    pub(super) fn redeemers(&self) -> Vec<Address> {
        let listed = self.facilitator_addresses.as_ref();
        let listed = listed.and_then(|listed| listed.as_array());
        let redeemer = |text: &serde_json::Value| address("", text.as_str()?).ok();
        let redeemers = listed.into_iter().flatten().map(redeemer);
        redeemers.collect::<Option<_>>().unwrap_or_default()
    }

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
