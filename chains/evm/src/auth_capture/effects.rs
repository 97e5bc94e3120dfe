//! What an act did, and what it leaves behind.

use alloy::primitives::{Address, B256, U256};
use alloy::sol_types::SolEvent;
use quittance_core::json::Object;
use quittance_core::{Amount, Effect, Flow, Rejection, SchemeReceipt, StateChange, Timestamp};
use serde_json::json;

use super::deployment::HoldEvent;
use super::reason;
use super::record::{DeadlineRules, HoldRecord};
use crate::abi::Erc20;
use crate::evidence::Evidence;

/// Whether the token has logged a transfer of this much to the receiver. Nothing needs none.
pub(super) fn is_paid(evidence: &Evidence, token: Address, receiver: Address, paid: u128) -> bool {
    let is_transfer = |log: &alloy::primitives::Log| {
        Erc20::Transfer::decode_log_data(&log.data)
            .is_ok_and(|transfer| (transfer.to, transfer.value) == (receiver, U256::from(paid)))
    };
    paid == 0 || evidence.logs_of(token).any(is_transfer)
}

/// The effect of an act that the contract logs by this event, exactly once, and that transfers this
/// amount.
pub(super) fn effect_of(
    evidence: &Evidence,
    events: &[HoldEvent],
    expected: HoldEvent,
    is_paid: bool,
    amount: u128,
) -> Effect {
    let failed = |detail: &str| Rejection::new(reason::TRANSACTION_REVERTED, detail);
    if !evidence.succeeded {
        return Effect::None(failed("the transaction was included and reverted"));
    }
    let same = events.iter().filter(|event| **event == expected).count();
    match (same, events.len()) {
        (1, 1) if is_paid => Effect::Transferred(Amount::new(U256::from(amount))),
        (1, 1) => Effect::Mismatch(failed("the token logged no transfer to the receiver")),
        (0, 0) => Effect::None(failed("the contract of holds logged no such act")),
        _ => Effect::Mismatch(failed("the contract of holds logged another act")),
    }
}

/// What an act leaves behind: the record of the hold, and its balances in the answer.
///
/// A record that `is_kept` stays as it is.
pub(super) fn change(
    record: &HoldRecord,
    hold: &B256,
    rules: &DeadlineRules,
    now: Timestamp,
    is_kept: bool,
) -> StateChange {
    let extra = json!({
        "paymentInfoHash": hold,
        "paymentInfo": record.terms,
        "saltNonce": record.salt_nonce,
        "authCaptureEscrow": record.escrow.to_checksum(None),
        "receiverAuthorizer": record.authorizer.map(|it| it.to_checksum(None)),
        "assetTransferMethod": record.method.name(),
        Flow::FIELD: record.flow().name(),
        "capturableAmount": record.balances.capturable.to_string(),
        "refundableAmount": record.balances.refundable.to_string(),
    });
    let content = || (record.to_content(), record.due(rules, now));
    StateChange {
        state: (!is_kept).then(content),
        receipt: SchemeReceipt {
            amount: None,
            extra: Object::of(&extra).ok(),
        },
    }
}
