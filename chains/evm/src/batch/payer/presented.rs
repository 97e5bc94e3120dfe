//! A payment that a server has answered: what its payload says, and what the chain has about it.

use alloy::primitives::{B256, Bytes};
use alloy::rpc::types::BlockId;
use futures_util::future::try_join_all;
use quittance_core::Fault;
use quittance_core::json::Object;
use quittance_core::wire::SettleResponse;
use quittance_nodes::unavailable;
use serde::Deserialize;
use serde_json::Value;

use super::super::channel::{BATCH_SETTLEMENT, ChannelConfig, ChannelState};
use super::super::consent::Consent;
use super::super::payload::{Act, Authorizations};
use super::book::Increment;
use crate::chain::rpc::{self, Rpc};
use crate::exact::payer::Use;
use crate::permit2::PermitUse;

/// A payment of this payer, by its payload.
pub(super) struct Presented {
    pub(super) network: String,
    /// The channel's identity.
    pub(super) id: B256,
    pub(super) increment: Increment,
    pub(super) purpose: Purpose,
    /// The amount of the deposit, in atomic units; zero without one.
    pub(super) deposited: u128,
}

/// What a payload is for.
pub(super) enum Purpose {
    /// To pay, perhaps with a deposit by this `authorization`.
    Payment { deposit: Option<Object> },
    /// To get back what is left.
    Refund,
}

#[derive(Deserialize)]
struct DepositPayload {
    deposit: DepositJson,
}

#[derive(Deserialize)]
struct DepositJson {
    authorization: Object,
}

impl Presented {
    /// Reads a payload. `price` is what the payment was to cost, if it is known. `None` if it is no
    /// payload of a payer.
    pub(super) fn read(network: &str, price: Option<u128>, payload: &Object) -> Option<Self> {
        let (voucher, purpose, deposited) = match Act::read(payload).ok()? {
            Act::Deposit(act) => {
                let made: DepositPayload = payload.read("payload").ok()?;
                let deposit = Some(made.deposit.authorization);
                let amount = act.deposit.amount;
                (act.voucher, Purpose::Payment { deposit }, amount)
            }
            Act::Voucher(act) => (act.voucher, Purpose::Payment { deposit: None }, 0),
            Act::Refund(act) => (act.voucher, Purpose::Refund, 0),
            Act::Claim(_) | Act::Sweep(_) => return None,
        };
        let max = voucher.max_claimable;
        Some(Self {
            network: network.to_owned(),
            id: voucher.channel_id,
            increment: Increment::new(max, price.unwrap_or_default()),
            purpose,
            deposited,
        })
    }

    /// What a receipt says was charged, in atomic units: all that was signed for if it does not
    /// say.
    pub(super) fn charged(&self, receipt: &SettleResponse) -> u128 {
        let extra = receipt.extra.as_ref().map(Object::tree);
        let charged = extra.as_ref().and_then(|extra| extra.get("chargedAmount"));
        let charged = charged.and_then(Value::as_str);
        let charged = charged.and_then(|charged| charged.parse().ok());
        charged.unwrap_or(u128::MAX)
    }
}

/// Atomic units, as an answer writes them; zero if it does not.
pub(super) fn units(text: Option<&str>) -> u128 {
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The use of a deposit's authorization, as the chain shows it. `None` if it is not one.
pub(super) fn use_of(
    config: &ChannelConfig,
    id: &B256,
    authorization: &Object,
    amount: u128,
) -> Option<Use> {
    let given: Authorizations = authorization.read("authorization").ok()?;
    if let Some(permit) = given.permit2 {
        let transfer = PermitUse::new(&permit.permit, BATCH_SETTLEMENT);
        return Some(Use::of_permit(&permit.permit, transfer));
    }
    match Consent::eip3009(config.payer, amount, id, &given.eip3009?) {
        Consent::Eip3009 { authorization, .. } => {
            Some(Use::of_authorization(config.token, &authorization))
        }
        Consent::Permit2 { .. } => None,
    }
}

/// What the chain has about a channel.
///
/// # Errors
/// If no node answers, or the network has no contract of channels.
pub(super) async fn channel_state(rpc: &Rpc, id: B256) -> Result<ChannelState, Fault> {
    let ask = async |view: Bytes| -> Result<Bytes, Fault> {
        let call = rpc::call(Some(BATCH_SETTLEMENT), view);
        rpc.ask("eth_call", (call, BlockId::latest())).await
    };
    let results = try_join_all(ChannelState::views(id).map(ask)).await?;
    let [channel, withdrawal, nonce] = results.as_slice() else {
        return Err(unavailable("the node left out a result"));
    };
    let state = ChannelState::decode([channel, withdrawal, nonce]);
    state.ok_or_else(|| unavailable("the network has no contract of channels"))
}
