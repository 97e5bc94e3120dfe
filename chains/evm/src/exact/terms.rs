//! The parts of `exact` messages on EVM chains, as they are written.

use quittance_core::json::text_or_integer;
use serde::Deserialize;

use crate::eip3009::Authorization;
use crate::hex::HexBytes;
use crate::signature::SIGNATURE_MAX;

/// The scheme's name.
pub(super) const NAME: &str = "exact";

/// The asset transfer method that is supported, as `extra.assetTransferMethod` names it.
pub(super) const EIP3009: &str = "eip3009";

/// The payload of a payment. That of another asset transfer method has no `authorization`.
#[derive(Deserialize)]
pub(super) struct Payload {
    #[serde(default)]
    pub(super) signature: Option<HexBytes<SIGNATURE_MAX>>,
    #[serde(default)]
    pub(super) authorization: Option<Authorization>,
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
