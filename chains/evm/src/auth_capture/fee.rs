//! Fees of charges and captures, within the bounds that the payer has signed.

use alloy::primitives::{Address, U256};
use quittance_core::Rejection;

use super::deployment::EscrowDeployment;
use super::reason;
use super::terms::HoldTerms;

/// All of an amount, in hundredths of a percent.
pub(super) const WHOLE_BPS: u16 = 10_000;

/// A fee, as the operator submits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fee {
    /// In atomic units of the token: contract version 1.1.
    Amount(u128),
    /// In hundredths of a percent: contract version 1.0.
    Bps(u16),
}

/// A fee and who gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubmittedFee {
    /// The fee.
    pub fee: Fee,
    /// Who gets it.
    pub receiver: Address,
}

/// This part of an amount, rounded down as the contract does.
fn part(amount: u128, bps: u16) -> u128 {
    let part = U256::from(amount) * U256::from(bps) / U256::from(WHOLE_BPS);
    // A contract refuses bounds over 100 %.
    u128::try_from(part).unwrap_or(u128::MAX)
}

impl SubmittedFee {
    /// The smallest fee that the terms allow for this amount.
    pub fn least(deployment: &EscrowDeployment, terms: &HoldTerms, amount: u128) -> Self {
        let fee = match deployment.fees_are_amounts {
            true => Fee::Amount(part(amount, terms.min_fee_bps)),
            false => Fee::Bps(terms.min_fee_bps),
        };
        let receiver = terms.fee_receiver;
        Self { fee, receiver }
    }

    /// The fee for this amount, in atomic units.
    pub fn of(&self, amount: u128) -> u128 {
        match self.fee {
            Fee::Amount(fee) => fee,
            Fee::Bps(bps) => part(amount, bps),
        }
    }

    /// Checks that the payer has agreed to this fee for this amount.
    ///
    /// # Errors
    /// If it is outside of the bounds, or goes to another account.
    pub(super) fn check(&self, terms: &HoldTerms, amount: u128) -> Result<(), Rejection> {
        let (min, max) = (terms.min_fee_bps, terms.max_fee_bps);
        let (fee, least, most) = match self.fee {
            Fee::Amount(fee) => (fee, part(amount, min), part(amount, max)),
            Fee::Bps(bps) => (bps.into(), min.into(), max.into()),
        };
        if !(least..=most).contains(&fee) {
            let detail = format!("the fee is {fee}, and must be {least} to {most}");
            return Err(Rejection::new(reason::FEE_BPS_OUT_OF_RANGE, detail));
        }
        let (receiver, agreed) = (self.receiver, terms.fee_receiver);
        if !agreed.is_zero() && receiver != agreed {
            let detail = format!("the fee goes to {receiver}, and the payer has signed {agreed}");
            return Err(Rejection::new(reason::FEE_RECEIVER, detail));
        }
        if receiver.is_zero() && fee > 0 {
            let detail = "the fee has no receiver";
            return Err(Rejection::new(reason::ZERO_FEE_RECEIVER, detail));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::deployment::{V1_0, V1_1};
    use super::super::terms::{AMOUNT_MAX, tests::terms};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The least fee is always allowed, and one unit outside of the bounds never.
        #[test]
        fn fee_is_accepted_within_its_bounds_only(
            terms in terms(), amount in 0..=AMOUNT_MAX, bounds in (0..=WHOLE_BPS, 0..=WHOLE_BPS),
        ) {
            let (min_fee_bps, max_fee_bps) = (bounds.0.min(bounds.1), bounds.0.max(bounds.1));
            let terms = HoldTerms { min_fee_bps, max_fee_bps, ..terms };
            for deployment in [V1_1, V1_0] {
                let least = SubmittedFee::least(&deployment, &terms, amount);
                prop_assert!(least.check(&terms, amount).is_ok() || least.receiver.is_zero());
                prop_assert!(least.of(amount) <= amount);
            }
            let with = |fee| SubmittedFee { fee, receiver: terms.fee_receiver };
            let refused = |fee| {
                let verdict = with(fee).check(&terms, amount);
                verdict.is_err_and(|rejection| rejection.reason == reason::FEE_BPS_OUT_OF_RANGE)
            };
            prop_assert!(refused(Fee::Amount(part(amount, max_fee_bps) + 1)));
            prop_assert!(refused(Fee::Bps(max_fee_bps + 1)));
            if let Some(less) = part(amount, min_fee_bps).checked_sub(1) {
                prop_assert!(refused(Fee::Amount(less)));
            }
            if let Some(less) = min_fee_bps.checked_sub(1) {
                prop_assert!(refused(Fee::Bps(less)));
            }
        }

        #[test]
        fn fee_goes_to_the_account_that_the_payer_signed(terms in terms(), other: [u8; 20]) {
            let terms = HoldTerms { min_fee_bps: 0, max_fee_bps: 0, ..terms };
            let receiver = Address::from(other);
            let fee = SubmittedFee { fee: Fee::Amount(0), receiver };
            let is_agreed = terms.fee_receiver.is_zero() || receiver == terms.fee_receiver;
            prop_assert_eq!(fee.check(&terms, 1).is_ok(), is_agreed);
        }
    }

    #[test]
    fn a_fee_without_a_receiver_is_refused() {
        let terms = HoldTerms {
            operator: Address::ZERO,
            payer: Address::ZERO,
            receiver: Address::ZERO,
            token: Address::ZERO,
            max_amount: 10_000,
            pre_approval_expiry: 0,
            authorization_expiry: 0,
            refund_expiry: 0,
            min_fee_bps: 0,
            max_fee_bps: 100,
            fee_receiver: Address::ZERO,
            salt: Default::default(),
        };
        let fee = |fee| SubmittedFee {
            fee,
            receiver: Address::ZERO,
        };
        let verdict = |submitted: SubmittedFee| submitted.check(&terms, 10_000);
        assert!(verdict(fee(Fee::Amount(0))).is_ok());
        let refused = verdict(fee(Fee::Amount(100))).unwrap_err();
        assert_eq!(refused.reason, reason::ZERO_FEE_RECEIVER);
        let named = SubmittedFee {
            receiver: Address::repeat_byte(1),
            ..fee(Fee::Amount(100))
        };
        assert!(verdict(named).is_ok());
    }
}
