//! What a seller says about a channel when it refuses a voucher, as far as the payer believes it.

use alloy::primitives::{Address, B256, Signature};
use quittance_core::json::Object;
use serde::Deserialize;

use super::super::units;
use super::super::voucher::voucher_digest;
use crate::hex::{Hex, HexBytes};
use crate::signature::DEPLOYED_SIGNATURE_MAX;

/// A correction of the payer's book, with its proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Correction {
    /// What the seller says it has charged in total, in atomic units.
    pub(super) charged: u128,
    /// What the newest voucher is for that the seller shows, in atomic units. The channel's payer
    /// has signed it. Zero if the seller shows none.
    pub(super) proven: u128,
    /// What the seller says the channel has, in atomic units.
    pub(super) balance: Option<u128>,
}

/// The `extra` of requirements or receipts.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExtraJson {
    channel_state: ChannelJson,
    #[serde(default)]
    voucher_state: Option<VoucherJson>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChannelJson {
    channel_id: Hex<32>,
    #[serde(default)]
    balance: Option<Units>,
    #[serde(default)]
    total_claimed: Option<Units>,
    #[serde(default)]
    charged_cumulative_amount: Option<Units>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VoucherJson {
    signed_max_claimable: Units,
    signature: HexBytes<DEPLOYED_SIGNATURE_MAX>,
}

#[derive(Deserialize)]
struct Units(#[serde(with = "units")] u128);

impl Correction {
    /// Reads the correction of this channel. `None` if there is none, or if the voucher in it was
    /// not signed by `key`.
    pub(super) fn read(
        extra: &Object,
        channel_id: &B256,
        key: Address,
        domain_separator: &B256,
    ) -> Option<Self> {
        let json: ExtraJson = extra.read("extra").ok()?;
        let state = json.channel_state;
        if state.channel_id.0 != *channel_id {
            return None;
        }
        let proven = match json.voucher_state {
            None => 0,
            Some(voucher) => {
                let max = voucher.signed_max_claimable.0;
                let digest = voucher_digest(domain_separator, channel_id, max);
                is_signed(&digest, &voucher.signature.0, key).then_some(max)?
            }
        };
        let charged = state.charged_cumulative_amount.or(state.total_claimed)?;
        Some(Self {
            charged: charged.0,
            proven,
            balance: state.balance.map(|balance| balance.0),
        })
    }
}

/// Whether this key signed the digest.
fn is_signed(digest: &B256, signature: &[u8], key: Address) -> bool {
    let recovered = Signature::try_from(signature)
        .and_then(|signature| signature.recover_address_from_prehash(digest));
    recovered.is_ok_and(|signer| signer == key)
}
