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

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::Log;

    const AMOUNT: u128 = 70;

    fn effect(events: &[HoldEvent], succeeded: bool, is_paid: bool) -> Effect {
        let evidence = Evidence::new(succeeded, vec![]);
        let expected = HoldEvent::Refunded(U256::from(AMOUNT));
        effect_of(&evidence, events, expected, is_paid, AMOUNT)
    }

    /// A success releases the seller's books: the event, once, and the token's transfer.
    #[test]
    fn only_its_own_event_with_a_transfer_is_a_success() {
        let own = HoldEvent::Refunded(U256::from(AMOUNT));
        let other = HoldEvent::Refunded(U256::from(AMOUNT + 1));
        let done = Effect::Transferred(Amount::new(U256::from(AMOUNT)));
        assert_eq!(effect(&[own], true, true), done);
        assert!(matches!(effect(&[own], false, true), Effect::None(_)));
        assert!(matches!(effect(&[], true, true), Effect::None(_)));
        for events in [&[other][..], &[own, own], &[own, other]] {
            let found = effect(events, true, true);
            assert!(matches!(found, Effect::Mismatch(_)), "{events:?}");
        }
        assert!(matches!(effect(&[own], true, false), Effect::Mismatch(_)));
    }

    #[test]
    fn a_transfer_is_the_tokens_own_to_the_receiver_of_the_amount() {
        let [token, receiver, odd] = [1, 2, 3].map(Address::repeat_byte);
        let log = |token: Address, to: Address, value: u128| {
            let transfer = Erc20::Transfer {
                from: odd,
                to,
                value: U256::from(value),
            };
            Log {
                address: token,
                data: transfer.encode_log_data(),
            }
        };
        let paid =
            |log: Log, amount| is_paid(&Evidence::new(true, vec![log]), token, receiver, amount);
        assert!(paid(log(token, receiver, AMOUNT), AMOUNT));
        assert!(!paid(log(odd, receiver, AMOUNT), AMOUNT));
        assert!(!paid(log(token, odd, AMOUNT), AMOUNT));
        assert!(!paid(log(token, receiver, AMOUNT - 1), AMOUNT));
        assert!(paid(log(odd, odd, 1), 0));
    }
}
