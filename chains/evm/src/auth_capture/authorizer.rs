//! What a receiver's authorizer signs: which act of a hold the operator may submit.

use alloy::primitives::{Address, B256, U256};
use alloy::sol_types::{Eip712Domain, SolStruct, eip712_domain};

use super::deployment::HoldBalances;
use super::fee::{Fee, SubmittedFee};

/// The messages for contract version 1.1.
mod v1_1 {
    alloy::sol! {
        struct Charge {
            bytes32 paymentInfoHash; uint256 amount; address tokenCollector;
            bytes32 collectorDataHash; uint256 feeAmount; address feeReceiver;
        }
        struct Capture {
            bytes32 paymentInfoHash; uint256 amount; uint256 feeAmount; address feeReceiver;
            uint256 expectedCapturableAmount; uint256 expectedRefundableAmount;
        }
        struct Void { bytes32 paymentInfoHash; }
        struct Refund {
            bytes32 paymentInfoHash; uint256 amount; address tokenCollector;
            uint256 expectedCapturableAmount; uint256 expectedRefundableAmount;
        }
    }
}

/// The messages that differ for contract version 1.0.
mod v1_0 {
    alloy::sol! {
        struct Charge {
            bytes32 paymentInfoHash; uint256 amount; address tokenCollector;
            bytes32 collectorDataHash; uint16 feeBps; address feeReceiver;
        }
        struct Capture {
            bytes32 paymentInfoHash; uint256 amount; uint16 feeBps; address feeReceiver;
            uint256 expectedCapturableAmount; uint256 expectedRefundableAmount;
        }
    }
}

/// An act that an authorizer signs for the hold with this identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedAct {
    /// To collect an amount and pay it at once.
    Charge {
        /// The amount in atomic units.
        amount: u128,
        /// The contract that takes the tokens.
        collector: Address,
        /// The hash of the data for this contract: of the payer's signature.
        data_hash: B256,
        /// The fee.
        fee: SubmittedFee,
    },
    /// To pay an amount of what is held.
    Capture {
        /// The amount in atomic units.
        amount: u128,
        /// The fee.
        fee: SubmittedFee,
        /// The balances before the act.
        expected: HoldBalances,
    },
    /// To return what is held.
    Void,
    /// To pay back an amount.
    Refund {
        /// The amount in atomic units.
        amount: u128,
        /// The contract that takes the tokens.
        collector: Address,
        /// The balances before the act.
        expected: HoldBalances,
    },
}

impl SignedAct {
    /// The digest that the authorizer signs for a hold of this operator, on the chain with this id.
    pub fn digest(&self, chain_id: u64, operator: Address, hold: B256) -> B256 {
        let domain = domain(chain_id, operator);
        match *self {
            Self::Charge {
                amount,
                collector,
                data_hash,
                fee: SubmittedFee { fee, receiver },
            } => match fee {
                Fee::Amount(fee) => v1_1::Charge {
                    paymentInfoHash: hold,
                    amount: U256::from(amount),
                    tokenCollector: collector,
                    collectorDataHash: data_hash,
                    feeAmount: U256::from(fee),
                    feeReceiver: receiver,
                }
                .eip712_signing_hash(&domain),
                Fee::Bps(bps) => v1_0::Charge {
                    paymentInfoHash: hold,
                    amount: U256::from(amount),
                    tokenCollector: collector,
                    collectorDataHash: data_hash,
                    feeBps: bps,
                    feeReceiver: receiver,
                }
                .eip712_signing_hash(&domain),
            },
            Self::Capture {
                amount,
                fee: SubmittedFee { fee, receiver },
                expected,
            } => match fee {
                Fee::Amount(fee) => v1_1::Capture {
                    paymentInfoHash: hold,
                    amount: U256::from(amount),
                    feeAmount: U256::from(fee),
                    feeReceiver: receiver,
                    expectedCapturableAmount: U256::from(expected.capturable),
                    expectedRefundableAmount: U256::from(expected.refundable),
                }
                .eip712_signing_hash(&domain),
                Fee::Bps(bps) => v1_0::Capture {
                    paymentInfoHash: hold,
                    amount: U256::from(amount),
                    feeBps: bps,
                    feeReceiver: receiver,
                    expectedCapturableAmount: U256::from(expected.capturable),
                    expectedRefundableAmount: U256::from(expected.refundable),
                }
                .eip712_signing_hash(&domain),
            },
            Self::Void => v1_1::Void {
                paymentInfoHash: hold,
            }
            .eip712_signing_hash(&domain),
            Self::Refund {
                amount,
                collector,
                expected,
            } => v1_1::Refund {
                paymentInfoHash: hold,
                amount: U256::from(amount),
                tokenCollector: collector,
                expectedCapturableAmount: U256::from(expected.capturable),
                expectedRefundableAmount: U256::from(expected.refundable),
            }
            .eip712_signing_hash(&domain),
        }
    }
}

/// The EIP-712 domain of an operator's holds.
fn domain(chain_id: u64, operator: Address) -> Eip712Domain {
    eip712_domain! {
        name: "x402 Auth Capture Operator",
        version: "1",
        chain_id: chain_id,
        verifying_contract: operator,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The types as the specification writes them.
    #[test]
    fn messages_have_the_types_of_the_specification() {
        let types = [
            (
                v1_1::Charge::eip712_encode_type(),
                "Charge(bytes32 paymentInfoHash,uint256 amount,address tokenCollector,bytes32 collectorDataHash,uint256 feeAmount,address feeReceiver)",
            ),
            (
                v1_1::Capture::eip712_encode_type(),
                "Capture(bytes32 paymentInfoHash,uint256 amount,uint256 feeAmount,address feeReceiver,uint256 expectedCapturableAmount,uint256 expectedRefundableAmount)",
            ),
            (
                v1_1::Void::eip712_encode_type(),
                "Void(bytes32 paymentInfoHash)",
            ),
            (
                v1_1::Refund::eip712_encode_type(),
                "Refund(bytes32 paymentInfoHash,uint256 amount,address tokenCollector,uint256 expectedCapturableAmount,uint256 expectedRefundableAmount)",
            ),
            (
                v1_0::Charge::eip712_encode_type(),
                "Charge(bytes32 paymentInfoHash,uint256 amount,address tokenCollector,bytes32 collectorDataHash,uint16 feeBps,address feeReceiver)",
            ),
            (
                v1_0::Capture::eip712_encode_type(),
                "Capture(bytes32 paymentInfoHash,uint256 amount,uint16 feeBps,address feeReceiver,uint256 expectedCapturableAmount,uint256 expectedRefundableAmount)",
            ),
        ];
        for (written, specified) in types {
            assert_eq!(written, specified);
        }
    }

    /// Every field that the operator submits is signed, and so are chain, operator and hold.
    #[test]
    fn no_two_acts_have_one_digest() {
        let (one, other) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let fee = |fee, receiver| SubmittedFee { fee, receiver };
        let balances = |capturable, refundable| HoldBalances {
            capturable,
            refundable,
        };
        let capture = |amount, fee, expected| SignedAct::Capture {
            amount,
            fee,
            expected,
        };
        let refund = |amount, collector, expected| SignedAct::Refund {
            amount,
            collector,
            expected,
        };
        let charge = |amount, collector, byte, fee| SignedAct::Charge {
            amount,
            collector,
            data_hash: B256::repeat_byte(byte),
            fee,
        };
        let (none, some) = (Fee::Amount(0), Fee::Amount(5));
        let acts = [
            SignedAct::Void,
            capture(1, fee(none, one), balances(9, 0)),
            capture(2, fee(none, one), balances(9, 0)),
            capture(1, fee(some, one), balances(9, 0)),
            capture(1, fee(Fee::Bps(0), one), balances(9, 0)),
            capture(1, fee(none, other), balances(9, 0)),
            capture(1, fee(none, one), balances(8, 0)),
            capture(1, fee(none, one), balances(9, 1)),
            refund(1, one, balances(9, 0)),
            refund(2, one, balances(9, 0)),
            refund(1, other, balances(9, 0)),
            refund(1, one, balances(9, 1)),
            charge(1, one, 0, fee(none, one)),
            charge(2, one, 0, fee(none, one)),
            charge(1, other, 0, fee(none, one)),
            charge(1, one, 1, fee(none, one)),
            charge(1, one, 0, fee(some, one)),
            charge(1, one, 0, fee(Fee::Bps(0), one)),
        ];
        let places = [(1, one, 0), (2, one, 0), (1, other, 0), (1, one, 1)];
        let digests = acts.iter().flat_map(|act| {
            places
                .map(|(chain, operator, hold)| act.digest(chain, operator, B256::repeat_byte(hold)))
        });
        let digests: Vec<B256> = digests.collect();
        let distinct: std::collections::BTreeSet<_> = digests.iter().collect();
        assert_eq!(distinct.len(), digests.len());
    }
}
