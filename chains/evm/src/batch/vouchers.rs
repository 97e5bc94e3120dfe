//! Vouchers: verified for sellers that keep their channels' books, and charged for those that leave
//! it to the facilitator.

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{B256, U256};
use quittance_core::json::Object;
use quittance_core::{
    Amount, Check, Effect, Observed, Payment, PaymentId, PaymentInfo, Plan, Refusal, Rejection,
    RequestCaller, SchemeReceipt, SchemeState, SignatureClaim, StateAccess, StateChange, Timestamp,
};
use serde_json::json;

use super::book::{ChannelBook, NotNext};
use super::channel::{ChannelConfig, ChannelState, state_id};
use super::payload::{RefundAct, VoucherAct};
use super::reason;
use super::required::Required;
use super::setup::{Setup, Terms, contract_not_allowed};
use super::view::{CHANNEL_STEPS, channel, channel_steps};
use super::voucher::Voucher;
use crate::account::{accepts_signature, ask_signature, has_code};
use crate::call::Call;
use crate::chain::{Evm, Probe, Step, StepOutcome};
use crate::evidence::Evidence;
use crate::signature::PayerSignature;

/// The shortest and the longest time for which a verified voucher keeps its channel, in seconds:
/// those of the reference implementation.
const HOLD_SECS: (u64, u64) = (5, 600);

/// For how long a verified voucher keeps its channel, in seconds.
pub(super) fn hold_secs(required: &Required) -> u64 {
    let (least, most) = HOLD_SECS;
    required.max_timeout_secs.clamp(least, most)
}

/// How long the engine is patient with a voucher, which itself does not expire, in seconds.
const PATIENCE_SECS: u64 = 600;

/// The use of a channel's record by a payment.
pub(super) fn managed_access(channel_id: &B256, terms: &Terms) -> StateAccess {
    let hold = Duration::from_secs(hold_secs(&terms.required));
    let access = StateAccess::new(state_id(channel_id), reason::CHANNEL_BUSY);
    match terms.required.is_managed() {
        true => access.held_for(hold),
        false => access,
    }
}

/// The identity of a voucher for this much in total, of the channel with this identity.
pub(super) fn voucher_id(channel: &B256, max_claimable: u128) -> PaymentId {
    PaymentId::from_parts(&[
        b"batch-settlement voucher",
        channel.as_slice(),
        &max_claimable.to_be_bytes(),
    ])
}

/// A voucher with its channel.
pub(super) struct SignedVoucher {
    pub(super) config: ChannelConfig,
    pub(super) voucher: Voucher,
    /// The channel's identity, by its terms.
    pub(super) id: B256,
    /// The claim that a key signed it. `None` if no key can have.
    pub(super) claim: Option<SignatureClaim>,
    digest: B256,
}

impl SignedVoucher {
    /// A voucher with the channel of these terms. The separator is that of the contract.
    pub(super) fn new(separator: &B256, config: ChannelConfig, voucher: Voucher) -> Self {
        let digest = voucher.digest(separator);
        Self {
            id: config.id(separator),
            claim: voucher.claim_of(&config, digest),
            digest,
            config,
            voucher,
        }
    }

    /// Whether only the payer's account can say if it has signed: it may be a contract.
    pub(super) fn is_by_account(&self) -> bool {
        self.config.payer_authorizer.is_zero()
    }

    /// The step that asks the payer's contract.
    pub(super) fn ask_payer(&self, setup: &Setup) -> Step {
        let signature = PayerSignature {
            bytes: self.voucher.signature.clone(),
            deployment: None,
        };
        let gas = setup.limits.gas_max;
        ask_signature(self.config.payer, self.digest, &signature, gas)
    }

    /// Checks a voucher that no key has signed: its channel may leave it to the payer's account.
    pub(super) fn check_key(&self) -> Result<(), Rejection> {
        match self.is_by_account() {
            true => Ok(()),
            false => Err(self.not_signed()),
        }
    }

    /// Checks the signature, now that it is known whether the payer is a contract, and what it
    /// says.
    pub(super) fn check_signature(
        &self,
        by_key: bool,
        is_contract: bool,
        asked: Option<&StepOutcome>,
    ) -> Result<(), Rejection> {
        let is_signed = match self.is_by_account() && is_contract {
            true => accepts_signature(asked),
            false => by_key,
        };
        match is_signed {
            true => Ok(()),
            false => Err(self.not_signed()),
        }
    }

    fn not_signed(&self) -> Rejection {
        let signer = match self.is_by_account() {
            true => self.config.payer,
            false => self.config.payer_authorizer,
        };
        let detail = format!("the voucher is not signed by {signer}");
        Rejection::new(reason::VOUCHER_SIGNATURE, detail)
    }

    /// Checks that the channel covers the voucher. That of a refund may be for exactly what was
    /// claimed.
    pub(super) fn check_covered(
        &self,
        state: &ChannelState,
        is_refund: bool,
    ) -> Result<(), Rejection> {
        let (max, balance) = (self.voucher.max_claimable, state.balance);
        if max > balance {
            let detail = format!("the voucher is for {max}, and the channel has {balance}");
            return Err(Rejection::new(reason::CUMULATIVE_EXCEEDS_BALANCE, detail));
        }
        let claimed = state.total_claimed;
        if max < claimed || (max == claimed && !is_refund) {
            let detail = format!("the voucher is for {max}, and {claimed} was claimed already");
            return Err(Rejection::new(reason::CUMULATIVE_BELOW_CLAIMED, detail));
        }
        Ok(())
    }

    /// Checks that the voucher is for the price at least: it is for all that was charged before,
    /// too.
    pub(super) fn check_price(&self, required: &Required) -> Result<(), Rejection> {
        let (max, price) = (self.voucher.max_claimable, required.price);
        if max >= price {
            return Ok(());
        }
        let detail = format!("the voucher is for {max} in total, and the price is {price}");
        Err(Rejection::new(reason::CUMULATIVE_AMOUNT_MISMATCH, detail))
    }
}

/// The book of a channel that the facilitator keeps the vouchers of; `None` before the first one.
pub(super) struct Managed(Option<ChannelBook>);

impl Managed {
    /// Reads the book.
    ///
    /// # Errors
    /// If the record cannot be read: nothing is charged then.
    pub(super) fn read(state: Option<&SchemeState>) -> Result<Self, Rejection> {
        let book = state.map(ChannelBook::read).transpose();
        book.map(Self)
            .map_err(|error| Rejection::new(reason::VERIFICATION_STATE_UNAVAILABLE, error))
    }

    /// Checks that the caller may charge the channel: a caller with a key, and the same one always.
    /// Otherwise its payer could charge a voucher of its own for less than the price.
    fn check_caller(&self, terms: &Terms) -> Result<(), Rejection> {
        let owner = self.0.as_ref().and_then(|book| book.owner.as_deref());
        let may = match (&terms.caller, owner) {
            (RequestCaller::Anyone, _) => false,
            (_, None) => true,
            (_, owner) => terms.is_owner(owner),
        };
        match may {
            true => Ok(()),
            false => Err(not_the_owner()),
        }
    }

    /// The book with this state of the chain.
    fn synced(
        self,
        config: &ChannelConfig,
        chain: Option<ChannelState>,
        now: Timestamp,
    ) -> Option<ChannelBook> {
        match (self.0, chain) {
            (Some(mut book), Some(chain)) => {
                book.sync(chain, now);
                Some(book)
            }
            (Some(book), None) => Some(book),
            (None, chain) => Some(ChannelBook::new(*config, chain?, now)),
        }
    }

    /// Checks that a voucher is the next one of the channel. `chain` has what a deposit adds.
    pub(super) fn check(
        self,
        voucher: &SignedVoucher,
        chain: ChannelState,
        terms: &Terms,
        observed: &Observed<'_, Evm>,
    ) -> Result<(), Rejection> {
        self.check_caller(terms)?;
        let book = self.synced(&voucher.config, Some(chain), observed.now);
        book.map_or(Ok(()), |book| {
            check_next(&book, voucher, terms.required.price)
        })
    }
}

/// Checks that a voucher is the next one of a channel.
pub(super) fn check_next(
    book: &ChannelBook,
    voucher: &SignedVoucher,
    price: u128,
) -> Result<(), Rejection> {
    match book.check(&voucher.voucher, price) {
        Ok(()) => Ok(()),
        Err(NotNext::Mismatch) => Err(mismatch(book, voucher, price)),
        Err(NotNext::ExceedsBalance | NotNext::BelowClaimed) => {
            let chain = ChannelState {
                balance: book.covered(),
                ..book.chain
            };
            voucher.check_covered(&chain, false)
        }
    }
}

/// The verdict on a voucher of a payer with another book, with the facilitator's book.
pub(super) fn mismatch(book: &ChannelBook, voucher: &SignedVoucher, price: u128) -> Rejection {
    let (max, charged) = (voucher.voucher.max_claimable, book.charged);
    let detail = format!("the voucher is for {max}, but {charged} was charged and {price} is due");
    let rejection = Rejection::new(reason::CUMULATIVE_AMOUNT_MISMATCH, detail);
    match book.correction(&voucher.id) {
        Ok(extra) => rejection.with_extra(extra),
        Err(_) => rejection,
    }
}

/// The verdict on a caller that may not use the facilitator's authority over a channel.
pub(super) fn not_the_owner() -> Rejection {
    let detail = "the channel's authorizer is this facilitator, which acts only for the caller with whose key its deposit was made";
    Rejection::new(reason::AUTHORIZER_ADDRESS_MISMATCH, detail)
}

/// What a voucher is presented for.
enum Purpose {
    /// To pay a request.
    Charge {
        pending_id: Option<String>,
        cancel: bool,
    },
    /// To ask for a refund, which the seller completes.
    Refund,
}

/// A voucher without a transaction.
pub(super) struct VoucherPayment {
    info: PaymentInfo,
    setup: Arc<Setup>,
    terms: Terms,
    voucher: SignedVoucher,
    purpose: Purpose,
    claims: Vec<SignatureClaim>,
    objection: Option<Rejection>,
    /// The channel's record, if the facilitator keeps it.
    access: Option<StateAccess>,
}

/// The steps of a probe, by index. The channel's come first.
mod step {
    use super::CHANNEL_STEPS;

    pub(super) const PAYER_CODE: usize = CHANNEL_STEPS;
    pub(super) const SIGNATURE: usize = CHANNEL_STEPS + 1;
}

impl VoucherPayment {
    /// A voucher that pays a request.
    pub(super) fn of_voucher(
        setup: Arc<Setup>,
        act: VoucherAct,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        let purpose = Purpose::Charge {
            pending_id: act.pending_id,
            cancel: act.cancel,
        };
        Self::new(setup, (act.config, act.voucher), purpose, terms, now)
    }

    /// A voucher of a payer that asks for a refund.
    pub(super) fn of_refund(
        setup: Arc<Setup>,
        act: RefundAct,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        if act.amount.is_some_and(Amount::is_zero) {
            let detail = "the amount of the refund is zero";
            return Err(Rejection::new(reason::REFUND_AMOUNT_INVALID, detail).into());
        }
        Self::new(
            setup,
            (act.config, act.voucher),
            Purpose::Refund,
            terms,
            now,
        )
    }

    fn new(
        setup: Arc<Setup>,
        (config, voucher): (ChannelConfig, Voucher),
        purpose: Purpose,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        terms.check_parties(config.payer)?;
        let voucher = SignedVoucher::new(&setup.separator, config, voucher);
        let mut objection = terms
            .required
            .check_channel(&config, &voucher.id, &voucher.voucher)
            .err();
        if terms.required.is_managed() && objection.is_none() {
            objection = check_managed(&setup, &config).err();
        }
        if matches!(purpose, Purpose::Charge { .. }) {
            if terms.required.is_managed() {
                objection = objection.or_else(|| setup.check_kept_payer(&config).err());
            }
            objection = objection.or_else(|| voucher.check_price(&terms.required).err());
        }
        let is_kept = terms.required.is_managed() && objection.is_none();
        let access = is_kept.then(|| managed_access(&voucher.id, &terms));
        let access = access.map(|access| match purpose {
            Purpose::Charge { .. } => access,
            // The refund itself has another identity, and would not end the hold.
            Purpose::Refund => access.held_for(Duration::ZERO),
        });
        let max = voucher.voucher.max_claimable;
        let info = PaymentInfo {
            id: voucher_id(&voucher.id, max),
            payer: config.payer.to_checksum(None),
            pay_to: config.receiver.to_checksum(None),
            asset: config.token.to_checksum(None),
            // The engine refuses payments of nothing. A refund of a channel that was never charged
            // has a voucher of nothing.
            amount: Amount::new(U256::from(max.max(1))),
            expires: now.plus_secs(PATIENCE_SECS),
        };
        Ok(Self {
            claims: voucher.claim.iter().cloned().collect(),
            info,
            setup,
            terms,
            voucher,
            purpose,
            objection,
            access,
        })
    }

    fn is_refund(&self) -> bool {
        matches!(self.purpose, Purpose::Refund)
    }

    /// The hold of a verified voucher, which a server sends back when it settles it.
    fn pending_id(&self) -> String {
        self.info.id.to_string()
    }

    fn probe(&self, is_contract: bool) -> Probe {
        let mut steps = channel_steps(self.voucher.id).to_vec();
        steps.push(Step::CodeSize(self.voucher.config.payer));
        match is_contract {
            false => Probe::new(steps),
            true => {
                steps.push(self.voucher.ask_payer(&self.setup));
                Probe::new_transaction(steps)
            }
        }
    }

    /// Checks what can be settled of a voucher.
    fn check_settling(&self) -> Result<(), Rejection> {
        let pending = match &self.purpose {
            Purpose::Charge { pending_id, .. } if self.access.is_some() => pending_id,
            _ => {
                let detail = "only a facilitator that keeps the vouchers settles them: extra.voucherManager must be facilitator";
                return Err(Rejection::new(reason::PAYLOAD_TYPE, detail));
            }
        };
        if pending.as_ref().is_some_and(|id| *id != self.pending_id()) {
            let detail = "pendingId is that of another voucher";
            return Err(Rejection::new(reason::CHANNEL_BUSY, detail));
        }
        Ok(())
    }

    /// Checks the voucher against the channel, and against the book if the facilitator keeps it.
    fn check_channel(
        &self,
        chain: ChannelState,
        observed: &Observed<'_, Evm>,
    ) -> Result<(), Rejection> {
        if chain.balance == 0 {
            let detail = "the channel has no balance";
            return Err(Rejection::new(reason::CHANNEL_NOT_FOUND, detail));
        }
        if self.access.is_none() {
            return self.voucher.check_covered(&chain, self.is_refund());
        }
        // The book comes first. Its verdict has the proof by which a payer corrects its own book,
        // also after the chain has got a claim of the same voucher.
        let managed = Managed::read(observed.state)?;
        if !self.is_refund() {
            return managed.check(&self.voucher, chain, &self.terms, observed);
        }
        managed.check_caller(&self.terms)?;
        match managed.synced(&self.voucher.config, Some(chain), observed.now) {
            Some(book) if book.charged != self.voucher.voucher.max_claimable => {
                Err(mismatch(&book, &self.voucher, 0))
            }
            _ => self.voucher.check_covered(&chain, true),
        }
    }

    /// The state of the chain in the book, if the voucher can be judged by it.
    fn known(&self, observed: &Observed<'_, Evm>) -> Option<ChannelState> {
        self.access.as_ref()?;
        let book = observed
            .state
            .and_then(|state| ChannelBook::read(state).ok())?;
        let is_known = book.is_fresh(observed.now) && !self.voucher.is_by_account();
        is_known.then_some(book.chain)
    }

    /// The state of the chain, by the answers or by the book.
    fn chain(&self, observed: &Observed<'_, Evm>) -> Option<ChannelState> {
        match observed.answers.last() {
            Some(last) => channel(&last.outcomes).ok(),
            None => self.known(observed),
        }
    }

    /// The book after a charge.
    fn next_book(&self, charged: u128, observed: &Observed<'_, Evm>) -> Option<ChannelBook> {
        let managed = Managed::read(observed.state).ok()?;
        let answered = observed.answers.last();
        let chain = answered.and_then(|last| channel(&last.outcomes).ok());
        let mut book = managed.synced(&self.voucher.config, chain, observed.now)?;
        if book.owner.is_none() {
            book.owner = self.terms.caller.to_text();
        }
        book.charge(charged, &self.voucher.voucher, observed.now);
        Some(book)
    }
}

/// Checks that the facilitator keeps the vouchers of this channel.
fn check_managed(setup: &Setup, config: &ChannelConfig) -> Result<(), Rejection> {
    setup.authorizer_of(iter::once(config))?;
    if setup.keeps_vouchers() {
        return Ok(());
    }
    let detail = "this facilitator keeps no vouchers: extra.voucherManager must be server";
    Err(Rejection::new(reason::AUTHORIZER_NOT_CONFIGURED, detail))
}

impl Payment<Evm> for VoucherPayment {
    fn info(&self) -> &PaymentInfo {
        &self.info
    }

    fn signatures(&self) -> &[SignatureClaim] {
        &self.claims
    }

    fn check(&self, observed: &Observed<'_, Evm>) -> Result<Check<Evm>, Rejection> {
        self.objection.clone().map_or(Ok(()), Err)?;
        if observed.settling {
            self.check_settling()?;
        }
        self.terms.required.check_amount(observed.settling)?;
        let by_key = observed.signatures == [true];
        if !by_key {
            self.voucher.check_key()?;
        }
        let allowed = || match self.setup.limits.contract_wallets {
            true => Ok(()),
            false => Err(contract_not_allowed(reason::VOUCHER_SIGNATURE)),
        };
        let is_contract = |outcomes: &[StepOutcome]| has_code(outcomes.get(step::PAYER_CODE));
        let last = match observed.answers {
            [] => match self.known(observed) {
                Some(chain) if by_key => {
                    self.check_channel(chain, observed)?;
                    return Ok(Check::Valid);
                }
                _ => {
                    if !by_key {
                        allowed()?;
                    }
                    return Ok(Check::Ask(self.probe(!by_key)));
                }
            },
            [first] if by_key && self.voucher.is_by_account() && is_contract(&first.outcomes) => {
                allowed()?;
                return Ok(Check::Ask(self.probe(true)));
            }
            [.., last] => last,
        };
        for outcomes in last.simulations() {
            let asked = outcomes.get(step::SIGNATURE);
            let is_contract = is_contract(outcomes);
            self.voucher.check_signature(by_key, is_contract, asked)?;
            self.check_channel(channel(outcomes)?, observed)?;
        }
        Ok(Check::Valid)
    }

    fn plan(&self, charged: Amount, _: &Observed<'_, Evm>) -> Result<Plan<Call>, Rejection> {
        self.terms.required.check_charge(charged)?;
        Ok(Plan::OffChain)
    }

    fn state_access(&self) -> Option<&StateAccess> {
        self.access.as_ref()
    }

    fn state_after(
        &self,
        charged: Amount,
        observed: &Observed<'_, Evm>,
        _: Option<&Evidence>,
    ) -> StateChange {
        let charged = match self.purpose {
            Purpose::Charge { cancel: false, .. } => charged.units().saturating_to(),
            _ => 0,
        };
        let Some(book) = self.next_book(charged, observed) else {
            return StateChange::default();
        };
        let extra = json!({
            "chargedAmount": charged.to_string(),
            "chargeCount": book.charge_count,
            "channelState": book.channel_state(&self.voucher.id),
        });
        let due = book.claim_due(self.setup.claim_rules());
        StateChange {
            state: book.to_content().ok().map(|content| (content, due)),
            receipt: SchemeReceipt {
                amount: Some(String::new()),
                extra: Object::of(&extra).ok(),
            },
        }
    }

    fn verify_extra(&self, observed: &Observed<'_, Evm>) -> Option<Object> {
        let chain = self.chain(observed)?;
        let mut extra = chain.to_json(&self.voucher.id);
        if self.access.is_some() {
            let managed = Managed::read(observed.state).ok()?;
            let book = managed.synced(&self.voucher.config, Some(chain), observed.now)?;
            extra["chargedCumulativeAmount"] = json!(book.charged.to_string());
            extra["pendingId"] = json!(self.pending_id());
        }
        Object::of(&extra).ok()
    }

    /// Nothing is ever sent for a voucher.
    fn effect(&self, _: Amount, _: &Evidence) -> Effect {
        let detail = "a voucher has no transaction";
        Effect::Mismatch(Rejection::new(reason::PAYLOAD_TYPE, detail))
    }
}
