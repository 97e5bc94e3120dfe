//! Claims: what channels owe becomes the receiver's. No tokens move.

use std::collections::BTreeSet;
use std::iter;
use std::sync::Arc;

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::sol_types::{SolCall, SolEvent, SolValue};
use quittance_core::{
    Amount, Check, Effect, LaneId, Observed, Payment, PaymentId, PaymentInfo, Plan, Refusal,
    Rejection, SchemeReceipt, SignatureClaim, StateAccess, StateChange, Timestamp,
};

use super::book::ChannelBook;
use super::channel::{BATCH_SETTLEMENT, state_id};
use super::payload::{AuthorizerSignature, ClaimAct};
use super::reason;
use super::setup::{ACT_PATIENCE_SECS, Setup, Terms};
use super::view::{no_contract, returned_data, revert};
use super::voucher::ClaimRow;
use super::vouchers::not_the_owner;
use crate::abi::BatchSettlement;
use crate::call::Call;
use crate::chain::{Evm, Probe, Step};
use crate::evidence::Evidence;
use crate::exact::payment::view;
use crate::signature::for_contract;

/// The most rows of a claim: as many as the reference implementation sends. The data of a
/// transaction with more of them is too long for many nodes.
pub(super) const ROWS_MAX: usize = 100;

/// The gas that is simulated for each further row. A row with a key's signature needs a good half
/// of it; the contract that ships with a chain may need more than the one on local chains.
const ROW_GAS: u32 = 100_000;

/// By whose authority rows are claimed.
enum Authority {
    /// By a signature of the one authorizer of all rows.
    Signature(Bytes),
    /// By this facilitator as the sender, which is the authorizer.
    Sender(Address, LaneId),
}

/// A claim.
pub(super) struct Claims {
    info: PaymentInfo,
    setup: Arc<Setup>,
    terms: Terms,
    rows: Vec<ClaimRow>,
    ids: Vec<B256>,
    authority: Authority,
    /// The record of the channel, if the facilitator is its authorizer.
    access: Option<StateAccess>,
}

impl Claims {
    pub(super) fn new(
        setup: Arc<Setup>,
        act: ClaimAct,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        let rows = act.claims;
        let first = rows.first().filter(|_| rows.len() <= ROWS_MAX);
        let first = first.ok_or_else(|| {
            let detail = format!("{} rows: a claim has 1 to {ROWS_MAX}", rows.len());
            Rejection::new(reason::CLAIM_PAYLOAD, detail)
        })?;
        for row in &rows {
            // The policy is asked about these.
            terms.required.check_receiver(&row.config)?;
            terms.required.check_token(&row.config)?;
            terms.check_parties(row.config.payer)?;
        }
        let ids: Vec<B256> = rows
            .iter()
            .map(|row| row.config.id(&setup.separator))
            .collect();
        if ids.iter().collect::<BTreeSet<_>>().len() < ids.len() {
            let detail = "a channel has two rows";
            return Err(Rejection::new(reason::CLAIM_PAYLOAD, detail).into());
        }
        let authority = match act.signature {
            Some(AuthorizerSignature(signature)) => Authority::Signature(for_contract(&signature)),
            None => {
                let channels = rows.iter().map(|row| &row.config);
                let (address, lane) = setup.authorizer_of(channels)?;
                Authority::Sender(address, lane)
            }
        };
        let is_delegated = matches!(authority, Authority::Sender(..));
        if is_delegated && rows.len() > 1 {
            let detail = "claim channels one by one whose authorizer is this facilitator: it joins the claims";
            return Err(Rejection::new(reason::CLAIM_PAYLOAD, detail).into());
        }
        let access =
            is_delegated.then(|| StateAccess::new(state_id(&ids[0]), reason::CHANNEL_BUSY));
        let info = PaymentInfo {
            id: identity(&rows, &ids),
            payer: first.config.payer.to_checksum(None),
            pay_to: first.config.receiver.to_checksum(None),
            asset: first.config.token.to_checksum(None),
            amount: Amount::new(sum(&rows)),
            expires: now.plus_secs(ACT_PATIENCE_SECS),
        };
        Ok(Self {
            info,
            setup,
            terms,
            rows,
            ids,
            authority,
            access,
        })
    }

    /// The data of the call that claims, and its sender in the simulation.
    fn call(&self) -> (Address, Bytes) {
        let rows = self.rows.iter().map(ClaimRow::to_abi).collect();
        match &self.authority {
            Authority::Signature(signature) => {
                let call = BatchSettlement::claimWithSignatureCall {
                    voucherClaims: rows,
                    authorizerSignature: signature.clone(),
                };
                (self.setup.anyone(), call.abi_encode().into())
            }
            Authority::Sender(sender, _) => {
                let call = BatchSettlement::claimCall {
                    voucherClaims: rows,
                };
                (*sender, call.abi_encode().into())
            }
        }
    }

    /// The lane of the sender, if only one account may claim.
    fn lane(&self) -> Option<&LaneId> {
        match &self.authority {
            Authority::Signature(_) => None,
            Authority::Sender(_, lane) => Some(lane),
        }
    }

    fn gas(&self) -> u32 {
        let rows = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        self.setup.limits.gas_max.max(ROW_GAS.saturating_mul(rows))
    }

    /// Whether the contract of a payer is called, which may act in another way than it did before.
    fn calls_payers(&self) -> bool {
        let mut rows = self.rows.iter();
        rows.any(|row| row.config.payer_authorizer.is_zero())
    }

    fn probe(&self) -> Probe {
        let channels = self.ids.iter().map(|id| {
            let call = BatchSettlement::channelsCall { channelId: *id };
            view(BATCH_SETTLEMENT, call.abi_encode().into())
        });
        let (from, data) = self.call();
        let claim = Step::CallAs {
            from,
            to: BATCH_SETTLEMENT,
            data,
            gas: self.gas(),
        };
        let steps = iter::once(claim).chain(channels).collect();
        match self.calls_payers() {
            true => Probe::new_transaction(steps),
            false => Probe::new(steps),
        }
    }

    /// Whether the chain has nothing left to claim of these rows.
    ///
    /// # Errors
    /// If a row claims more than its voucher or its channel has: it would spoil the others.
    fn is_claimed(&self, observed: &Observed<'_, Evm>) -> Result<bool, Rejection> {
        let last = observed.answers.last().ok_or_else(no_contract)?;
        let mut is_claimed = true;
        for (at, row) in self.rows.iter().enumerate() {
            let data = last.outcomes.get(at + 1).and_then(returned_data);
            let channel = data
                .and_then(|data| {
                    BatchSettlement::channelsCall::abi_decode_returns_validate(data).ok()
                })
                .ok_or_else(no_contract)?;
            if row.total_claimed <= channel.totalClaimed {
                continue;
            }
            is_claimed = false;
            let (total, max) = (row.total_claimed, row.max_claimable);
            let most = max.min(channel.balance);
            if total > most {
                let (id, balance) = (self.ids[at], channel.balance);
                let detail = format!(
                    "row {at} claims {total} of channel {id}, whose voucher is for {max} and whose balance is {balance}"
                );
                return Err(Rejection::new(reason::CLAIM_SIMULATION_FAILED, detail));
            }
        }
        Ok(is_claimed)
    }

    /// Checks that the caller may use the authority of the facilitator.
    fn check_caller(&self, observed: &Observed<'_, Evm>) -> Result<(), Rejection> {
        if self.access.is_none() {
            return Ok(());
        }
        let book = observed
            .state
            .and_then(|state| ChannelBook::read(state).ok());
        let owner = book.as_ref().and_then(|book| book.owner.as_deref());
        match self.terms.is_owner(owner) {
            true => Ok(()),
            false => Err(not_the_owner()),
        }
    }

    /// What the contract has logged for a channel: its new total.
    fn totals<'a>(&self, id: B256, evidence: &'a Evidence) -> impl Iterator<Item = u128> + use<'a> {
        let logs = evidence.logs_of(BATCH_SETTLEMENT);
        let events =
            logs.filter_map(|log| BatchSettlement::Claimed::decode_log_data(&log.data).ok());
        events
            .filter(move |event| event.channelId == id)
            .map(|event| event.newTotalClaimed)
    }
}

/// The same rows are the same claim, whatever their signatures are.
fn identity(rows: &[ClaimRow], ids: &[B256]) -> PaymentId {
    let rows = ids.iter().zip(rows);
    let rows = rows.flat_map(|(id, row)| [id.0, U256::from(row.total_claimed).to_be_bytes()]);
    // The identity of a channel is bound to its chain.
    PaymentId::from_parts(&[
        b"batch-settlement claim",
        rows.collect::<Vec<_>>().as_flattened(),
    ])
}

/// The sum of the rows' totals, and at least 1: the engine refuses payments of nothing.
fn sum(rows: &[ClaimRow]) -> U256 {
    let sum: U256 = rows.iter().map(|row| U256::from(row.total_claimed)).sum();
    sum.max(U256::ONE)
}

impl Payment<Evm> for Claims {
    fn info(&self) -> &PaymentInfo {
        &self.info
    }

    fn signatures(&self) -> &[SignatureClaim] {
        &[]
    }

    fn check(&self, observed: &Observed<'_, Evm>) -> Result<Check<Evm>, Rejection> {
        if !observed.settling {
            let detail = "a claim is settled, not verified";
            return Err(Rejection::new(reason::PAYLOAD_TYPE, detail));
        }
        self.check_caller(observed)?;
        let Some(last) = observed.answers.last() else {
            return Ok(Check::Ask(self.probe()));
        };
        if self.is_claimed(observed)? {
            return Ok(Check::Valid);
        }
        match last
            .simulations()
            .find_map(|outcomes| revert(outcomes.first()))
        {
            None => Ok(Check::Valid),
            Some(detail) => Err(Rejection::new(reason::CLAIM_SIMULATION_FAILED, detail)),
        }
    }

    fn plan(&self, _: Amount, observed: &Observed<'_, Evm>) -> Result<Plan<Call>, Rejection> {
        if self.is_claimed(observed)? {
            return Ok(Plan::OffChain);
        }
        let last = observed.answers.last();
        let gas = last.and_then(|last| last.outcomes.first()?.gas());
        let gas = gas.ok_or_else(|| {
            let detail = "the simulation has no result";
            Rejection::new(reason::CLAIM_SIMULATION_FAILED, detail)
        })?;
        let key = keccak256(self.ids.abi_encode());
        let (gas, rows) = (
            u64::from(gas),
            u32::try_from(self.rows.len()).unwrap_or(u32::MAX),
        );
        let call = match (&self.authority, self.rows.as_slice()) {
            (Authority::Sender(..), [row]) if !self.calls_payers() => {
                let item = row.to_abi().abi_encode_params().into();
                let selector = BatchSettlement::claimCall::SELECTOR;
                Call::of_item(BATCH_SETTLEMENT, selector, item, gas, key)
            }
            _ => Call::new(BATCH_SETTLEMENT, self.call().1, gas, key),
        };
        Ok(Plan::Submit(call.with_payments(rows)))
    }

    fn sender(&self, observed: &Observed<'_, Evm>) -> Option<LaneId> {
        self.lane()
            .cloned()
            .or_else(|| observed.answers.last()?.sender.clone())
    }

    /// A seller whose process has ended meanwhile asks for the same claim again.
    fn releases_nothing(&self) -> bool {
        true
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
        let receipt = SchemeReceipt {
            amount: Some(String::new()),
            extra: None,
        };
        let book = observed
            .state
            .and_then(|state| ChannelBook::read(state).ok());
        let (Some(mut book), [row], [id]) = (book, self.rows.as_slice(), self.ids.as_slice())
        else {
            return StateChange {
                state: None,
                receipt,
            };
        };
        let logged = evidence.and_then(|evidence| self.totals(*id, evidence).max());
        let total = logged.unwrap_or(row.total_claimed);
        book.claimed(total, observed.now);
        let due = book.next_due(self.setup.claim_rules(), observed.now);
        StateChange {
            state: book.to_content().ok().map(|content| (content, due)),
            receipt,
        }
    }

    /// A row that claims no more than was claimed changes nothing and logs nothing. All rows are
    /// applied, or the transaction reverts: no claim shares it with other calls.
    fn effect(&self, _: Amount, evidence: &Evidence) -> Effect {
        let failed = |detail: &str| Rejection::new(reason::CLAIM_TRANSACTION_FAILED, detail);
        if !evidence.succeeded {
            return Effect::None(failed("the transaction was included and reverted"));
        }
        for (id, row) in self.ids.iter().zip(&self.rows) {
            let newest = self.totals(*id, evidence).max();
            if newest.is_some_and(|total| total < row.total_claimed) {
                return Effect::Mismatch(failed("the contract of channels logged a smaller claim"));
            }
        }
        Effect::Transferred(Amount::ZERO)
    }
}
