//! Refunds: the payer of a channel gets back what is left of it, after a last claim.

use std::iter;
use std::sync::Arc;

use alloy::primitives::{Address, Bytes, U256, keccak256};
use alloy::sol_types::{SolCall, SolEvent, SolValue};
use quittance_core::json::Object;
use quittance_core::{
    Amount, Check, Effect, LaneId, Malformed, Observed, Payment, PaymentId, PaymentInfo, Plan,
    Refusal, Rejection, SchemeReceipt, SignatureClaim, StateAccess, StateChange, Timestamp,
};
use serde_json::json;

use super::book::ChannelBook;
use super::channel::{BATCH_SETTLEMENT, ChannelState, state_id};
use super::payload::RefundAct;
use super::reason;
use super::setup::{ACT_PATIENCE_SECS, Setup, Terms};
use super::view::{channel, channel_steps, revert};
use super::voucher::ClaimRow;
use super::vouchers::{SignedVoucher, not_the_owner};
use crate::abi::BatchSettlement;
use crate::call::Call;
use crate::chain::{Evm, Probe, Step};
use crate::evidence::Evidence;
use crate::signature::for_contract;

/// A refund that the seller has completed.
pub(super) struct RefundPayment {
    info: PaymentInfo,
    setup: Arc<Setup>,
    terms: Terms,
    voucher: SignedVoucher,
    /// What the payer gets at most, in atomic units.
    amount: u128,
    nonce: U256,
    /// The last claim of the channel, if the seller makes one.
    claim: Option<ClaimRow>,
    refund_signature: Option<Bytes>,
    claim_signature: Option<Bytes>,
    /// This facilitator as the sender, if a signature of the authorizer is missing.
    authorizer: Option<(Address, LaneId)>,
    access: Option<StateAccess>,
}

/// The index of the simulation among the steps of the probe.
const REFUND_STEP: usize = super::view::CHANNEL_STEPS;

impl RefundPayment {
    pub(super) fn new(
        setup: Arc<Setup>,
        act: RefundAct,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        let payload = |detail: &str| Rejection::new(reason::REFUND_PAYLOAD, detail);
        let config = act.config;
        terms.check_parties(config.payer)?;
        terms.required.check_receiver(&config)?;
        terms.required.check_token(&config)?;
        let voucher = SignedVoucher::new(&setup.separator, config, act.voucher);
        if voucher.voucher.channel_id != voucher.id {
            let detail = "the voucher is for another channel than channelConfig";
            return Err(Rejection::new(reason::CHANNEL_ID_MISMATCH, detail).into());
        }
        let amount = act.amount.ok_or_else(|| payload("amount is missing"))?;
        let amount = u128::try_from(amount.units()).map_err(|_| {
            Malformed::new(
                "paymentPayload.payload.amount",
                "channels have amounts of 128 bits",
            )
        })?;
        if amount == 0 {
            let detail = "the amount of the refund is zero";
            return Err(Rejection::new(reason::REFUND_AMOUNT_INVALID, detail).into());
        }
        let nonce = act
            .refund_nonce
            .ok_or_else(|| payload("refundNonce is missing"))?;
        let mut claims = act.claims.unwrap_or_default();
        let claim = claims.pop();
        let is_own = claim.as_ref().is_none_or(|row| row.config == config);
        if !claims.is_empty() || !is_own {
            return Err(payload("a refund can have one claim, of its own channel").into());
        }
        let signature = |given: super::payload::AuthorizerSignature| for_contract(&given.0);
        let refund_signature = act.refund_signature.map(signature);
        let claim_signature = act.claim_signature.map(signature);
        let needs_authority =
            refund_signature.is_none() || (claim.is_some() && claim_signature.is_none());
        let authorizer = needs_authority
            .then(|| setup.authorizer_of(iter::once(&config)))
            .transpose()?;
        let access = setup
            .authorizes(&config)
            .then(|| StateAccess::new(state_id(&voucher.id), reason::CHANNEL_BUSY).exclusive());
        let id = PaymentId::from_parts(&[
            b"batch-settlement refund",
            voucher.id.as_slice(),
            &nonce.units().to_be_bytes::<32>(),
        ]);
        Ok(Self {
            info: PaymentInfo {
                id,
                payer: config.payer.to_checksum(None),
                pay_to: config.receiver.to_checksum(None),
                asset: config.token.to_checksum(None),
                amount: Amount::new(U256::from(amount)),
                expires: now.plus_secs(ACT_PATIENCE_SECS),
            },
            setup,
            terms,
            voucher,
            amount,
            nonce: nonce.units(),
            claim,
            refund_signature,
            claim_signature,
            authorizer,
            access,
        })
    }

    /// The last claim: the seller's, or by the book that the facilitator keeps.
    fn last_claim(&self, book: Option<&ChannelBook>) -> Option<ClaimRow> {
        match &self.claim {
            Some(row) => Some(row.clone()),
            None => book
                .filter(|_| self.terms.required.is_managed())?
                .claim_row(),
        }
    }

    /// The data of the call, and its sender in the simulation.
    fn call(&self, book: Option<&ChannelBook>) -> (Address, Bytes) {
        let config = self.voucher.config.to_abi();
        let refund: Bytes = match &self.refund_signature {
            Some(signature) => BatchSettlement::refundWithSignatureCall {
                config,
                amount: self.amount,
                nonce: self.nonce,
                receiverAuthorizerSignature: signature.clone(),
            }
            .abi_encode()
            .into(),
            None => BatchSettlement::refundCall {
                config,
                amount: self.amount,
            }
            .abi_encode()
            .into(),
        };
        let sender = self.authorizer.as_ref().map(|(address, _)| *address);
        let sender = sender.unwrap_or_else(|| self.setup.anyone());
        let Some(row) = self.last_claim(book) else {
            return (sender, refund);
        };
        let rows = vec![row.to_abi()];
        let claim: Bytes = match &self.claim_signature {
            Some(signature) => BatchSettlement::claimWithSignatureCall {
                voucherClaims: rows,
                authorizerSignature: signature.clone(),
            }
            .abi_encode()
            .into(),
            None => BatchSettlement::claimCall {
                voucherClaims: rows,
            }
            .abi_encode()
            .into(),
        };
        let both = BatchSettlement::multicallCall {
            data: vec![claim, refund],
        };
        (sender, both.abi_encode().into())
    }

    /// The lane of the sender, if only one account may refund.
    fn lane(&self) -> Option<&LaneId> {
        self.authorizer.as_ref().map(|(_, lane)| lane)
    }

    fn book(observed: &Observed<'_, Evm>) -> Option<ChannelBook> {
        ChannelBook::read(observed.state?).ok()
    }

    fn probe(&self, book: Option<&ChannelBook>) -> Probe {
        let (from, data) = self.call(book);
        let refund = Step::CallAs {
            from,
            to: BATCH_SETTLEMENT,
            data,
            gas: self.setup.limits.gas_max,
        };
        let steps = channel_steps(self.voucher.id).into_iter();
        let steps = steps.chain([refund]).collect();
        // The last claim may call the payer's contract, and the refund pays it.
        match self.voucher.config.payer_authorizer.is_zero() {
            true => Probe::new_transaction(steps),
            false => Probe::new(steps),
        }
    }

    /// What is claimed once the last claim is made.
    fn claimed(&self, state: &ChannelState, book: Option<&ChannelBook>) -> u128 {
        let row = self.last_claim(book);
        row.map_or(0, |row| row.total_claimed)
            .max(state.total_claimed)
    }

    fn check_state(
        &self,
        state: &ChannelState,
        book: Option<&ChannelBook>,
    ) -> Result<(), Rejection> {
        if state.refund_nonce != self.nonce {
            let (nonce, next) = (self.nonce, state.refund_nonce);
            let detail = format!("refundNonce is {nonce}, and the channel's next is {next}");
            return Err(Rejection::new(reason::REFUND_SIMULATION_FAILED, detail));
        }
        if self.claimed(state, book) >= state.balance {
            let detail = "everything in the channel is claimed";
            return Err(Rejection::new(reason::REFUND_NO_BALANCE, detail));
        }
        Ok(())
    }

    /// Checks that the caller may use the authority of the facilitator, if it needs it.
    fn check_caller(&self, book: Option<&ChannelBook>) -> Result<(), Rejection> {
        let owner = book.and_then(|book| book.owner.as_deref());
        match self.authorizer.is_none() || self.terms.is_owner(owner) {
            true => Ok(()),
            false => Err(not_the_owner()),
        }
    }

    /// What the payer got.
    fn refunded<'a>(&self, evidence: &'a Evidence) -> impl Iterator<Item = u128> + use<'a> {
        let id = self.voucher.id;
        let logs = evidence.logs_of(BATCH_SETTLEMENT);
        let events =
            logs.filter_map(|log| BatchSettlement::Refunded::decode_log_data(&log.data).ok());
        events
            .filter(move |event| event.channelId == id)
            .map(|event| event.amount)
    }

    /// The channel after the refund. `None` if the state before is not known.
    fn after(&self, observed: &Observed<'_, Evm>, refunded: u128) -> Option<ChannelState> {
        let before = channel(&observed.answers.last()?.outcomes).ok()?;
        let book = Self::book(observed);
        let total_claimed = self.claimed(&before, book.as_ref());
        let balance = before.balance.saturating_sub(refunded);
        // A refund of everything leaves nothing to withdraw.
        let withdraw_requested_at = match balance == total_claimed {
            true => 0,
            false => before.withdraw_requested_at,
        };
        Some(ChannelState {
            balance,
            total_claimed,
            withdraw_requested_at,
            refund_nonce: self.nonce.saturating_add(U256::ONE),
        })
    }
}

impl Payment<Evm> for RefundPayment {
    fn info(&self) -> &PaymentInfo {
        &self.info
    }

    fn signatures(&self) -> &[SignatureClaim] {
        &[]
    }

    fn check(&self, observed: &Observed<'_, Evm>) -> Result<Check<Evm>, Rejection> {
        let book = Self::book(observed);
        self.check_caller(book.as_ref())?;
        let Some(last) = observed.answers.last() else {
            return Ok(Check::Ask(self.probe(book.as_ref())));
        };
        for outcomes in last.simulations() {
            self.check_state(&channel(outcomes)?, book.as_ref())?;
            if let Some(detail) = revert(outcomes.get(REFUND_STEP)) {
                return Err(Rejection::new(reason::REFUND_SIMULATION_FAILED, detail));
            }
        }
        Ok(Check::Valid)
    }

    fn plan(&self, _: Amount, observed: &Observed<'_, Evm>) -> Result<Plan<Call>, Rejection> {
        let last = observed.answers.last();
        let gas = last.and_then(|last| last.outcomes.get(REFUND_STEP)?.gas());
        let gas = gas.ok_or_else(|| {
            let detail = "the simulation has no result";
            Rejection::new(reason::REFUND_SIMULATION_FAILED, detail)
        })?;
        let key = keccak256((self.voucher.id, self.nonce).abi_encode());
        let (_, data) = self.call(Self::book(observed).as_ref());
        Ok(Plan::Submit(Call::new(
            BATCH_SETTLEMENT,
            data,
            gas.into(),
            key,
        )))
    }

    fn sender(&self, observed: &Observed<'_, Evm>) -> Option<LaneId> {
        self.lane()
            .cloned()
            .or_else(|| observed.answers.last()?.sender.clone())
    }

    fn state_access(&self) -> Option<&StateAccess> {
        self.access.as_ref()
    }

    fn state_after(
        &self,
        _: Amount,
        observed: &Observed<'_, Evm>,
        evidence: Option<&Evidence>,
    ) -> StateChange {
        let refunded = evidence.map_or(0, |evidence| self.refunded(evidence).sum());
        let after = self.after(observed, refunded);
        let id = &self.voucher.id;
        let state = match after {
            Some(after) => after.to_json(id),
            None => json!({
                "channelId": id,
                "refundNonce": self.nonce.saturating_add(U256::ONE).to_string(),
            }),
        };
        let mut extra = json!({ "channelState": state });
        let book = Self::book(observed).zip(after).map(|(mut book, after)| {
            book.sync(after, observed.now);
            book
        });
        if let Some(book) = book.as_ref().filter(|_| self.terms.required.is_managed()) {
            extra["channelState"] = book.channel_state(id);
        }
        let rules = self.setup.claim_rules();
        let due = book
            .as_ref()
            .and_then(|book| book.next_due(rules, observed.now));
        StateChange {
            state: book
                .and_then(|book| book.to_content().ok())
                .map(|content| (content, due)),
            receipt: SchemeReceipt {
                amount: None,
                extra: Object::of(&extra).ok(),
            },
        }
    }

    fn effect(&self, _: Amount, evidence: &Evidence) -> Effect {
        let failed = |detail: &str| Rejection::new(reason::REFUND_TRANSACTION_FAILED, detail);
        if !evidence.succeeded {
            return Effect::None(failed("the transaction was included and reverted"));
        }
        let refunds: Vec<u128> = self.refunded(evidence).collect();
        match refunds.as_slice() {
            // The contract pays less if less is left, and never more.
            [amount] if *amount <= self.amount => {
                Effect::Transferred(Amount::new(U256::from(*amount)))
            }
            [] => Effect::None(failed("nothing was left in the channel to pay back")),
            _ => Effect::Mismatch(failed("the contract of channels logged another refund")),
        }
    }
}
