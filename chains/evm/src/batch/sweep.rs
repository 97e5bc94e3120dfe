//! Sweeps: a receiver gets the sum of what it has claimed. Anyone may ask for it.

use alloy::primitives::{U256, keccak256};
use alloy::sol_types::{SolCall, SolEvent, SolValue};
use quittance_core::{
    Amount, Check, Effect, Observed, Payment, PaymentId, PaymentInfo, Plan, Refusal, Rejection,
    SignatureClaim, Timestamp,
};

use super::book::SWEEP_EVERY_SECS;
use super::channel::BATCH_SETTLEMENT;
use super::payload::SweepAct;
use super::reason;
use super::setup::{ACT_PATIENCE_SECS, Setup, Terms};
use super::view::{no_contract, returned_data, revert};
use crate::abi::BatchSettlement;
use crate::call::Call;
use crate::chain::{Evm, Probe, Step, StepOutcome};
use crate::evidence::Evidence;
use crate::exact::payment::view;

/// A transfer of what a receiver has claimed.
pub(super) struct Sweep {
    info: PaymentInfo,
    act: SweepAct,
    gas_max: u32,
}

/// The steps of its probe, by index.
mod step {
    pub(super) const RECEIVER: usize = 0;
    pub(super) const SETTLE: usize = 1;
}

impl Sweep {
    pub(super) fn new(
        setup: &Setup,
        act: SweepAct,
        terms: &Terms,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        // The policy is asked about these.
        if act.receiver != terms.required.pay_to {
            let (receiver, pay_to) = (act.receiver, terms.required.pay_to);
            let detail = format!("payload.receiver is {receiver}, but payTo is {pay_to}");
            return Err(Rejection::new(reason::RECEIVER_MISMATCH, detail).into());
        }
        if act.token != terms.token.address {
            let (token, asset) = (act.token, terms.token.address);
            let detail = format!("payload.token is {token}, but the asset is {asset}");
            return Err(Rejection::new(reason::TOKEN_MISMATCH, detail).into());
        }
        terms.check_parties(BATCH_SETTLEMENT)?;
        let id = PaymentId::from_parts(&[
            b"batch-settlement sweep",
            &setup.chain_id.to_be_bytes(),
            act.receiver.as_slice(),
            act.token.as_slice(),
            &(now.secs() / SWEEP_EVERY_SECS).to_be_bytes(),
        ]);
        Ok(Self {
            info: PaymentInfo {
                id,
                payer: BATCH_SETTLEMENT.to_checksum(None),
                pay_to: act.receiver.to_checksum(None),
                asset: act.token.to_checksum(None),
                // Only the chain knows it.
                amount: Amount::MAX,
                expires: now.plus_secs(ACT_PATIENCE_SECS),
            },
            act,
            gas_max: setup.limits.gas_max,
        })
    }

    fn data(&self) -> alloy::primitives::Bytes {
        let SweepAct { receiver, token } = self.act;
        BatchSettlement::settleCall { receiver, token }
            .abi_encode()
            .into()
    }

    /// Checks that something is claimed and not paid.
    fn check_claimed(outcome: Option<&StepOutcome>) -> Result<(), Rejection> {
        let data = outcome.and_then(returned_data).ok_or_else(no_contract)?;
        let receiver = BatchSettlement::receiversCall::abi_decode_returns_validate(data);
        let receiver = receiver.map_err(|_| no_contract())?;
        if receiver.totalClaimed > receiver.totalSettled {
            return Ok(());
        }
        let detail = "the receiver has got all that it has claimed in this token";
        Err(Rejection::new(reason::NOTHING_TO_SETTLE, detail))
    }
}

impl Payment<Evm> for Sweep {
    fn info(&self) -> &PaymentInfo {
        &self.info
    }

    fn signatures(&self) -> &[SignatureClaim] {
        &[]
    }

    fn check(&self, observed: &Observed<'_, Evm>) -> Result<Check<Evm>, Rejection> {
        if !observed.settling {
            let detail = "a transfer to a receiver is settled, not verified";
            return Err(Rejection::new(reason::PAYLOAD_TYPE, detail));
        }
        let Some(last) = observed.answers.last() else {
            let SweepAct { receiver, token } = self.act;
            let state = BatchSettlement::receiversCall { receiver, token };
            return Ok(Check::Ask(Probe::new(vec![
                view(BATCH_SETTLEMENT, state.abi_encode().into()),
                Step::call(BATCH_SETTLEMENT, self.data(), self.gas_max),
            ])));
        };
        Self::check_claimed(last.outcomes.get(step::RECEIVER))?;
        match revert(last.outcomes.get(step::SETTLE)) {
            None => Ok(Check::Valid),
            Some(detail) => Err(Rejection::new(reason::SETTLE_SIMULATION_FAILED, detail)),
        }
    }

    fn plan(&self, _: Amount, observed: &Observed<'_, Evm>) -> Result<Plan<Call>, Rejection> {
        let last = observed.answers.last();
        let gas = last.and_then(|last| last.outcomes.get(step::SETTLE)?.gas());
        let gas = gas.ok_or_else(|| {
            let detail = "the simulation has no result";
            Rejection::new(reason::SETTLE_SIMULATION_FAILED, detail)
        })?;
        let key = (BATCH_SETTLEMENT, self.act.receiver, self.act.token);
        let key = keccak256(key.abi_encode());
        // Alone: the success of the transaction shows that it was made, also of nothing.
        Ok(Plan::Submit(Call::new(
            BATCH_SETTLEMENT,
            self.data(),
            gas.into(),
            key,
        )))
    }

    /// Another sweep in the block before leaves nothing, and the contract then does nothing.
    fn effect(&self, _: Amount, evidence: &Evidence) -> Effect {
        if !evidence.succeeded {
            let detail = "the transaction was included and reverted";
            return Effect::None(Rejection::new(reason::SETTLE_TRANSACTION_FAILED, detail));
        }
        let logs = evidence.logs_of(BATCH_SETTLEMENT);
        let events =
            logs.filter_map(|log| BatchSettlement::Settled::decode_log_data(&log.data).ok());
        let SweepAct { receiver, token } = self.act;
        let own = events.filter(|event| (event.receiver, event.token) == (receiver, token));
        let amount = own.map(|event| U256::from(event.amount)).sum();
        Effect::Transferred(Amount::new(amount))
    }
}
