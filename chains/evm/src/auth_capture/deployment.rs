//! The two deployments of the contract of holds: their calls, their events and their errors.

use alloy::primitives::{Address, B256, Bytes, U256, address};
use alloy::sol_types::{SolCall, SolEvent, SolInterface};
use quittance_core::{Reason, Rejection};

use super::fee::{Fee, SubmittedFee};
use super::reason;
use super::terms::HoldTerms;
use crate::abi::AuthCaptureEscrow::{self as Escrow, AuthCaptureEscrowErrors as Errors};
use crate::abi::AuthCaptureEscrowV10 as EscrowV10;
use crate::evidence::Evidence;
use crate::exact::payment::revert_text;

/// A deployment of the contract of holds with its collectors. The addresses are the same on every
/// chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EscrowDeployment {
    /// `AuthCaptureEscrow`, which has the tokens that are held.
    pub escrow: Address,
    /// The contract that payers authorize by EIP-3009.
    pub eip3009_collector: Address,
    /// The contract that payers authorize by Permit2.
    pub permit2_collector: Address,
    /// The contract that takes refunds from the operator.
    pub refund_collector: Address,
    /// Whether the operator names fees in atomic units, and not in basis points.
    pub(super) fees_are_amounts: bool,
}

/// Version 1.1, the default.
pub const V1_1: EscrowDeployment = EscrowDeployment {
    escrow: address!("f96815976523E00e65Be8f34cA5e64b4f41EB19c"),
    eip3009_collector: address!("8612dfdc421f80336cd14E8EF9cb1E765dB5ab88"),
    permit2_collector: address!("D69831Aed5bfe262067ec4c751f4F830EcdD446e"),
    refund_collector: address!("7a03443724d14798c4AB4622F1DAAcA761Fea486"),
    fees_are_amounts: true,
};

/// Version 1.0.
pub const V1_0: EscrowDeployment = EscrowDeployment {
    escrow: address!("BdEA0D1bcC5966192B070Fdf62aB4EF5b4420cff"),
    eip3009_collector: address!("0E3dF9510de65469C4518D7843919c0b8C7A7757"),
    permit2_collector: address!("992476B9Ee81d52a5BdA0622C333938D0Af0aB26"),
    refund_collector: address!("934907bffd0901b6A21e398B9C53A4A38F02fa5d"),
    fees_are_amounts: false,
};

/// Something that the contract has logged about a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HoldEvent {
    /// This much is held.
    Authorized(U256),
    /// This much was collected and paid at once.
    Charged(U256, SubmittedFee),
    /// This much of what was held was paid.
    Captured(U256, SubmittedFee),
    /// This much of what was held was returned.
    Voided(U256),
    /// This much of what was paid was paid back.
    Refunded(U256),
}

/// The balances of a hold, in atomic units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HoldBalances {
    /// What is held and can be captured.
    pub capturable: u128,
    /// What was captured and can be refunded.
    pub refundable: u128,
}

/// What the chain has of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ChainState {
    /// Whether the payment was collected, once and for all.
    pub(super) is_collected: bool,
    pub(super) balances: HoldBalances,
}

impl EscrowDeployment {
    /// The deployment with this contract of holds; the default if none is named.
    pub fn of(escrow: Option<Address>) -> Option<Self> {
        let Some(escrow) = escrow else {
            return Some(V1_1);
        };
        [V1_1, V1_0].into_iter().find(|it| it.escrow == escrow)
    }

    /// The call that holds `amount`.
    pub(super) fn authorize(
        &self,
        terms: &HoldTerms,
        amount: u128,
        (collector, data): (Address, Bytes),
    ) -> Bytes {
        let call = Escrow::authorizeCall {
            paymentInfo: terms.to_abi(),
            amount: U256::from(amount),
            tokenCollector: collector,
            collectorData: data,
        };
        call.abi_encode().into()
    }

    /// The call that collects `amount` and pays it at once.
    pub(super) fn charge(
        &self,
        terms: &HoldTerms,
        amount: u128,
        (collector, data): (Address, Bytes),
        fee: &SubmittedFee,
    ) -> Bytes {
        let (info, amount) = (terms.to_abi(), U256::from(amount));
        match fee.fee {
            Fee::Amount(fee_amount) => Escrow::chargeCall {
                paymentInfo: info,
                amount,
                tokenCollector: collector,
                collectorData: data,
                feeAmount: U256::from(fee_amount),
                feeReceiver: fee.receiver,
            }
            .abi_encode(),
            Fee::Bps(fee_bps) => EscrowV10::chargeCall {
                paymentInfo: info,
                amount,
                tokenCollector: collector,
                collectorData: data,
                feeBps: fee_bps,
                feeReceiver: fee.receiver,
            }
            .abi_encode(),
        }
        .into()
    }

    /// The call that pays `amount` of what is held.
    pub(super) fn capture(&self, terms: &HoldTerms, amount: u128, fee: &SubmittedFee) -> Bytes {
        let (info, amount) = (terms.to_abi(), U256::from(amount));
        match fee.fee {
            Fee::Amount(fee_amount) => Escrow::captureCall {
                paymentInfo: info,
                amount,
                feeAmount: U256::from(fee_amount),
                feeReceiver: fee.receiver,
            }
            .abi_encode(),
            Fee::Bps(fee_bps) => EscrowV10::captureCall {
                paymentInfo: info,
                amount,
                feeBps: fee_bps,
                feeReceiver: fee.receiver,
            }
            .abi_encode(),
        }
        .into()
    }

    /// The call that returns what is held.
    pub(super) fn void(&self, terms: &HoldTerms) -> Bytes {
        let call = Escrow::voidCall {
            paymentInfo: terms.to_abi(),
        };
        call.abi_encode().into()
    }

    /// The call that pays back `amount` from the operator's own tokens.
    pub(super) fn refund(&self, terms: &HoldTerms, amount: u128) -> Bytes {
        let call = Escrow::refundCall {
            paymentInfo: terms.to_abi(),
            amount: U256::from(amount),
            tokenCollector: self.refund_collector,
            collectorData: Bytes::new(),
        };
        call.abi_encode().into()
    }

    /// What the contract has logged about a hold, in order.
    pub(super) fn events(&self, hold: &B256, evidence: &Evidence) -> Vec<HoldEvent> {
        let logs = evidence.logs_of(self.escrow);
        // Every event of a hold has its identity as the second topic.
        let own = logs.filter(|log| log.data.topics().get(1) == Some(hold));
        own.filter_map(|log| self.event(&log.data)).collect()
    }

    fn event(&self, log: &alloy::primitives::LogData) -> Option<HoldEvent> {
        let fee = |amount: U256, receiver: Address| {
            let fee = u128::try_from(amount).ok().map(Fee::Amount)?;
            Some(SubmittedFee { fee, receiver })
        };
        let bps = |bps: u16, receiver: Address| SubmittedFee {
            fee: Fee::Bps(bps),
            receiver,
        };
        if let Ok(event) = Escrow::PaymentAuthorized::decode_log_data(log) {
            return Some(HoldEvent::Authorized(event.amount));
        }
        if let Ok(event) = Escrow::PaymentVoided::decode_log_data(log) {
            return Some(HoldEvent::Voided(event.amount));
        }
        if let Ok(event) = Escrow::PaymentRefunded::decode_log_data(log) {
            return Some(HoldEvent::Refunded(event.amount));
        }
        match self.fees_are_amounts {
            true => {
                if let Ok(event) = Escrow::PaymentCharged::decode_log_data(log) {
                    let fee = fee(event.feeAmount, event.feeReceiver)?;
                    return Some(HoldEvent::Charged(event.amount, fee));
                }
                let event = Escrow::PaymentCaptured::decode_log_data(log).ok()?;
                let fee = fee(event.feeAmount, event.feeReceiver)?;
                Some(HoldEvent::Captured(event.amount, fee))
            }
            false => {
                if let Ok(event) = EscrowV10::PaymentCharged::decode_log_data(log) {
                    let fee = bps(event.feeBps, event.feeReceiver);
                    return Some(HoldEvent::Charged(event.amount, fee));
                }
                let event = EscrowV10::PaymentCaptured::decode_log_data(log).ok()?;
                let fee = bps(event.feeBps, event.feeReceiver);
                Some(HoldEvent::Captured(event.amount, fee))
            }
        }
    }
}

/// The call that asks for the state of a hold.
pub(super) fn state_call(hold: B256) -> Bytes {
    let call = Escrow::paymentStateCall {
        paymentInfoHash: hold,
    };
    call.abi_encode().into()
}

/// The state of a hold by the result of the [`state_call`]. `None` if it is not the contract's.
pub(super) fn decode_state(data: &[u8]) -> Option<ChainState> {
    let state = Escrow::paymentStateCall::abi_decode_returns_validate(data).ok()?;
    Some(ChainState {
        is_collected: state.hasCollectedPayment,
        balances: HoldBalances {
            capturable: state.capturableAmount.to(),
            refundable: state.refundableAmount.to(),
        },
    })
}

/// The verdict on a call that the contract refuses with this data.
pub(super) fn revert(data: &[u8]) -> Rejection {
    let Ok(error) = Errors::abi_decode(data) else {
        let text = revert_text(data).unwrap_or_else(|| "the call would revert".to_owned());
        return Rejection::new(reason::SIMULATION_FAILED, text);
    };
    // The name of the variant is that of the error.
    let name = format!("{error:?}");
    let name = name.split('(').next().unwrap_or_default();
    let detail = format!("the contract of holds refuses it: {name}");
    Rejection::new(reason_of(&error), detail)
}

/// The specification's reason for an error of the contract.
fn reason_of(error: &Errors) -> Reason {
    match error {
        Errors::AfterPreApprovalExpiry(_) => reason::AUTHORIZATION_EXPIRED,
        Errors::InvalidExpiries(_) => reason::DEADLINE_ORDERING,
        Errors::ExceedsMaxAmount(_) | Errors::ZeroAmount(_) => reason::AMOUNT_MISMATCH,
        Errors::PaymentAlreadyCollected(_) => reason::PAYMENT_ALREADY_COLLECTED,
        Errors::TokenCollectionFailed(_) => reason::TOKEN_COLLECTION_FAILED,
        Errors::InvalidCollectorForOperation(_) => reason::COLLECTOR,
        Errors::InvalidSender(_) => reason::OPERATOR_MISMATCH,
        Errors::AmountOverflow(_) => reason::AMOUNT_OVERFLOW,
        Errors::FeeBpsOverflow(_) => reason::FEE_BPS,
        Errors::InvalidFeeBpsRange(_) => reason::FEE_BPS_RANGE,
        Errors::FeeBpsOutOfRange(_) | Errors::FeeAmountOutOfRange(_) => {
            reason::FEE_BPS_OUT_OF_RANGE
        }
        Errors::ZeroFeeReceiver(_) => reason::ZERO_FEE_RECEIVER,
        Errors::InvalidFeeReceiver(_) => reason::FEE_RECEIVER,
        Errors::AfterAuthorizationExpiry(_) => reason::CAPTURE_DEADLINE_EXPIRED,
        Errors::InsufficientAuthorization(_) => reason::INSUFFICIENT_AUTHORIZATION,
        Errors::ZeroAuthorization(_) => reason::ZERO_AUTHORIZATION,
        Errors::AfterRefundExpiry(_) => reason::REFUND_DEADLINE_EXPIRED,
        Errors::RefundExceedsCapture(_) => reason::REFUND_EXCEEDS_CAPTURE,
    }
}

#[cfg(test)]
mod tests {
    use super::super::terms::tests::terms;
    use super::*;
    use alloy::primitives::{Log, keccak256};
    use alloy::sol_types::SolValue;
    use proptest::prelude::*;

    /// `PaymentInfo`, as signatures of functions and events write it.
    const INFO: &str = "(address,address,address,address,uint120,uint48,uint48,uint48,uint16,uint16,address,uint256)";

    const AMOUNT: u128 = 7_000;

    fn fees() -> [(EscrowDeployment, SubmittedFee, &'static str); 2] {
        let receiver = Address::repeat_byte(9);
        let fee = |fee| SubmittedFee { fee, receiver };
        [
            (V1_1, fee(Fee::Amount(70)), "uint256"),
            (V1_0, fee(Fee::Bps(100)), "uint16"),
        ]
    }

    fn selector(signature: &str) -> Vec<u8> {
        keccak256(signature)[..4].to_vec()
    }

    proptest! {
        #[test]
        fn each_version_has_its_own_functions(terms in terms()) {
            for (deployment, fee, unit) in fees() {
                let collector = || (deployment.eip3009_collector, Bytes::from_static(b"data"));
                let calls = [
                    (deployment.authorize(&terms, AMOUNT, collector()),
                        format!("authorize({INFO},uint256,address,bytes)")),
                    (deployment.charge(&terms, AMOUNT, collector(), &fee),
                        format!("charge({INFO},uint256,address,bytes,{unit},address)")),
                    (deployment.capture(&terms, AMOUNT, &fee),
                        format!("capture({INFO},uint256,{unit},address)")),
                    (deployment.void(&terms), format!("void({INFO})")),
                    (deployment.refund(&terms, AMOUNT),
                        format!("refund({INFO},uint256,address,bytes)")),
                ];
                for (call, signature) in calls {
                    prop_assert_eq!(&call[..4], selector(&signature), "{}", signature);
                }
            }
        }
    }

    /// A capture as the contract of this version logs it.
    fn captured(deployment: &EscrowDeployment, hold: B256, fee: &SubmittedFee, unit: &str) -> Log {
        let topic = keccak256(format!("PaymentCaptured(bytes32,uint256,{unit},address)"));
        let number = match fee.fee {
            Fee::Amount(fee) => U256::from(fee),
            Fee::Bps(bps) => U256::from(bps),
        };
        let data = (U256::from(AMOUNT), number, fee.receiver).abi_encode();
        Log::new_unchecked(deployment.escrow, vec![topic, hold], data.into())
    }

    #[test]
    fn an_event_counts_for_its_contract_version_and_hold_only() {
        let (hold, other) = (B256::repeat_byte(1), B256::repeat_byte(2));
        for (at, (deployment, fee, unit)) in fees().into_iter().enumerate() {
            let evidence = |log| Evidence::new(true, vec![log]);
            let own = captured(&deployment, hold, &fee, unit);
            let expected = HoldEvent::Captured(U256::from(AMOUNT), fee);
            assert_eq!(deployment.events(&hold, &evidence(own.clone())), [expected]);
            assert_eq!(deployment.events(&other, &evidence(own.clone())), []);
            let (another, its_fee, its_unit) = fees()[1 - at];
            assert_eq!(another.events(&hold, &evidence(own)), []);
            // The event of the other version, by this contract.
            let odd = Log {
                address: deployment.escrow,
                ..captured(&another, hold, &its_fee, its_unit)
            };
            assert_eq!(deployment.events(&hold, &evidence(odd)), []);
        }
    }

    #[test]
    fn errors_of_the_contract_have_the_reasons_of_the_specification() {
        let error = |signature: &str| keccak256(signature)[..4].to_vec();
        let word = [0_u8; 32];
        for (data, expected) in [
            (error("ZeroAmount()"), reason::AMOUNT_MISMATCH),
            (
                [error("PaymentAlreadyCollected(bytes32)"), word.to_vec()].concat(),
                reason::PAYMENT_ALREADY_COLLECTED,
            ),
            (
                [error("ZeroAuthorization(bytes32)"), word.to_vec()].concat(),
                reason::ZERO_AUTHORIZATION,
            ),
            (
                [
                    error("FeeAmountOutOfRange(uint256,uint256,uint256)"),
                    [word; 3].concat(),
                ]
                .concat(),
                reason::FEE_BPS_OUT_OF_RANGE,
            ),
            (
                [
                    error("AfterRefundExpiry(uint48,uint48)"),
                    [word; 2].concat(),
                ]
                .concat(),
                reason::REFUND_DEADLINE_EXPIRED,
            ),
            (vec![], reason::SIMULATION_FAILED),
            (vec![1, 2, 3, 4, 5], reason::SIMULATION_FAILED),
        ] {
            assert_eq!(revert(&data).reason, expected);
        }
    }
}
