//! Deposits into a channel, each with the voucher that pays the request.

use std::sync::Arc;

use alloy::primitives::{B256, Bytes, U256, keccak256};
use alloy::sol_types::{SolCall, SolEvent, SolValue};
use quittance_core::json::Object;
use quittance_core::{
    Amount, Check, Effect, LaneId, Observed, Payment, PaymentInfo, Plan, Reason, Refusal,
    Rejection, SchemeReceipt, SchemeState, SignatureClaim, StateAccess, StateChange, Timestamp,
};
use serde_json::{Value, json};

use super::book::ChannelBook;
use super::channel::{BATCH_SETTLEMENT, ChannelState, PERMIT2_COLLECTOR};
use super::consent::Consent;
use super::payload::{DepositAct, DepositPermit};
use super::reason;
use super::setup::{Setup, Terms, contract_not_allowed};
use super::view::{CHANNEL_STEPS, channel, channel_steps, revert};
use super::vouchers::{Managed, SignedVoucher, managed_access};
use crate::abi::{BatchSettlement, Erc20};
use crate::account::{accepts_signature, ask_signature, has_code};
use crate::call::Call;
use crate::chain::{
    AuthorizationSearch, Condition, Evm, INCLUSION_MIN_SECS, Probe, Step, StepOutcome,
    inclusion_secs,
};
use crate::eip3009::AuthorizationUse;
use crate::evidence::Evidence;
use crate::exact::payment::view;
use crate::exact::sponsoring::SignedApproval;
use crate::signature::PayerSignature;
use crate::token::TransferMethod;

/// A deposit with its voucher.
pub(super) struct DepositPayment {
    info: PaymentInfo,
    setup: Arc<Setup>,
    terms: Terms,
    amount: u128,
    voucher: SignedVoucher,
    consent: Consent,
    signature: PayerSignature,
    digest: B256,
    claims: Vec<SignatureClaim>,
    /// Which claim is that of the deposit, and of the voucher. `None` if no key can have signed.
    keys: [Option<usize>; 2],
    /// What is wrong with it that the request alone shows.
    objection: Option<Rejection>,
    access: Option<StateAccess>,
}

/// The steps of a probe, by index. The channel's come first. Those of the payer's contract are at
/// the end, and after them the deposit with the approval that the payer signed.
mod step {
    use super::CHANNEL_STEPS;

    pub(super) const PAYER_CODE: usize = CHANNEL_STEPS;
    pub(super) const BALANCE: usize = CHANNEL_STEPS + 1;
    pub(super) const CONSENT: usize = CHANNEL_STEPS + 2;
    pub(super) const DEPOSIT: usize = CHANNEL_STEPS + 3;
    pub(super) const SIGNATURE: usize = CHANNEL_STEPS + 4;
    pub(super) const VOUCHER_SIGNATURE: usize = CHANNEL_STEPS + 5;
}

impl DepositPayment {
    pub(super) fn new(
        setup: Arc<Setup>,
        (act, approval): (DepositAct, Option<SignedApproval>),
        terms: Terms,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        let DepositAct {
            config,
            voucher,
            deposit,
        } = act;
        terms.check_parties(config.payer)?;
        let voucher = SignedVoucher::new(&setup.separator, config, voucher);
        let authorizations = deposit.authorization;
        let method = terms
            .required
            .deposit_method(authorizations.permit2.is_some())?;
        let (consent, signature, mut objection) = match method {
            TransferMethod::Permit2 => {
                let missing = || missing(reason::PERMIT2_AUTHORIZATION_REQUIRED, "permit2");
                let given = authorizations.permit2.ok_or_else(missing)?;
                let mut objection = check_permit(&given, &terms, &voucher, deposit.amount);
                let (permit, approval) = (given.permit, approval);
                if let Some(approval) = &approval {
                    let checked = approval.check(&permit, reason::EIP2612_AMOUNT_MISMATCH);
                    objection = objection.or(checked.err());
                }
                let consent = Consent::Permit2 { permit, approval };
                (consent, given.signature, objection)
            }
            _ => {
                let missing = || missing(reason::ERC3009_AUTHORIZATION_REQUIRED, "erc3009");
                let given = authorizations.eip3009.ok_or_else(missing)?;
                let consent = Consent::eip3009(config.payer, deposit.amount, &voucher.id, &given);
                (consent, given.signature, check_domain(&terms).err())
            }
        };
        let field = "paymentPayload.payload.deposit.authorization.signature";
        let signature = PayerSignature::decode(field, signature)?;
        let in_time = || consent.window().check(now, now, INCLUSION_MIN_SECS).err();
        objection = objection.or_else(in_time);
        if signature.deployment.is_some() {
            let detail = "the payer's account must be deployed before a deposit";
            objection.get_or_insert(Rejection::new(reason::FACTORY_NOT_ALLOWED, detail));
        }
        let of_channel = terms
            .required
            .check_channel(&config, &voucher.id, &voucher.voucher);
        let of_price = || voucher.check_price(&terms.required).err();
        let of_payer = || match terms.required.is_managed() {
            true => setup.check_kept_payer(&config).err(),
            false => None,
        };
        let objection = of_channel.err().or(objection).or_else(of_price);
        let objection = objection.or_else(of_payer);
        let separators = (&terms.token_separator, &setup.permit2_separator);
        let digest = consent.digest(separators, voucher.id);
        let (claims, keys) = claims(&voucher, &signature, digest);
        let is_delegated = setup.authorizes(&config);
        let access = is_delegated.then(|| managed_access(&voucher.id, &terms).exclusive());
        Ok(Self {
            info: PaymentInfo {
                id: consent.payment_id(setup.chain_id, config.token),
                payer: config.payer.to_checksum(None),
                pay_to: config.receiver.to_checksum(None),
                asset: config.token.to_checksum(None),
                amount: Amount::new(U256::from(deposit.amount)),
                expires: consent.expires(),
            },
            setup,
            terms,
            amount: deposit.amount,
            voucher,
            consent,
            signature,
            digest,
            claims,
            keys,
            objection,
            access,
        })
    }

    /// Whether keys signed the deposit and the voucher.
    fn by_key(&self, signatures: &[bool]) -> [bool; 2] {
        self.keys
            .map(|at| at.is_some_and(|at| signatures.get(at) == Some(&true)))
    }

    /// The call that makes the deposit. If it `approves`, the signed approval is submitted first.
    fn call(&self, approves: bool) -> Bytes {
        let signature = &self.signature.bytes;
        let (collector, data) = self.consent.collector(signature, approves);
        let call = BatchSettlement::depositCall {
            config: self.voucher.config.to_abi(),
            amount: self.amount,
            collector,
            collectorData: data,
        };
        call.abi_encode().into()
    }

    fn probe(&self, is_contract: bool) -> Probe {
        let config = &self.voucher.config;
        let (payer, token) = (config.payer, config.token);
        let balance = Erc20::balanceOfCall { account: payer }.abi_encode();
        let when = match is_contract {
            true => Condition::HasCode(payer),
            false => Condition::NoCode(payer),
        };
        let mut steps = channel_steps(self.voucher.id).to_vec();
        steps.push(Step::CodeSize(payer));
        steps.push(view(token, balance.into()));
        steps.push(self.consent.state_step(token));
        let gas = self.setup.limits.gas_max;
        let deposit = |approves| Step::Call {
            to: BATCH_SETTLEMENT,
            data: self.call(approves),
            gas,
            when,
        };
        steps.push(deposit(false));
        if is_contract {
            steps.push(ask_signature(payer, self.digest, &self.signature, gas));
            steps.push(self.voucher.ask_payer(&self.setup));
        }
        if self.consent.has_approval() {
            steps.push(deposit(true));
        }
        match is_contract {
            false => Probe::new(steps),
            true => Probe::new_transaction(steps),
        }
    }

    /// Whether the deposit submits the approval that the payer signed.
    fn approves(&self, outcomes: &[StepOutcome]) -> bool {
        let state = outcomes.get(step::CONSENT);
        self.consent.needs_approval(state, self.amount)
    }

    /// The outcome of the deposit in the simulation.
    fn deposit_outcome<'a>(&self, outcomes: &'a [StepOutcome]) -> Option<&'a StepOutcome> {
        match self.approves(outcomes) {
            true => outcomes.last(),
            false => outcomes.get(step::DEPOSIT),
        }
    }

    /// Checks the signatures, now that it is known whether the payer has code.
    fn check_signatures(
        &self,
        outcomes: &[StepOutcome],
        [deposit, voucher]: [bool; 2],
    ) -> Result<(), Rejection> {
        let is_contract = has_code(outcomes.get(step::PAYER_CODE));
        let deposit = match is_contract {
            // The token asks the contract, whatever a key has signed.
            true => accepts_signature(outcomes.get(step::SIGNATURE)),
            false => deposit,
        };
        if !deposit {
            let detail = "the payer's account does not accept the signature of the deposit";
            return Err(Rejection::new(self.consent.signature_reason(), detail));
        }
        let asked = outcomes.get(step::VOUCHER_SIGNATURE);
        self.voucher.check_signature(voucher, is_contract, asked)
    }

    /// Checks what the chain says about the payer and the channel.
    fn check_state(
        &self,
        outcomes: &[StepOutcome],
        observed: &Observed<'_, Evm>,
    ) -> Result<(), Rejection> {
        let mut state = channel(outcomes)?;
        let balance = outcomes.get(step::BALANCE).and_then(StepOutcome::word);
        let balance = balance.map(|word| U256::from_be_bytes(word.0));
        let amount = self.amount;
        if let Some(balance) = balance.filter(|balance| *balance < U256::from(amount)) {
            let detail =
                format!("the payer has {balance} atomic units, and the deposit is of {amount}");
            return Err(Rejection::new(reason::INSUFFICIENT_BALANCE, detail));
        }
        state.balance = state.balance.saturating_add(amount);
        match self.managed(observed.state) {
            // The book decides, also on what the channel covers: its verdict has a correction.
            Some(managed) => managed?.check(&self.voucher, state, &self.terms, observed)?,
            None => self.voucher.check_covered(&state, false)?,
        }
        self.consent
            .check_state(outcomes.get(step::CONSENT), amount)
    }

    /// The book of the channel, if the facilitator keeps its vouchers.
    fn managed(&self, state: Option<&SchemeState>) -> Option<Result<Managed, Rejection>> {
        let is_managed = self.access.is_some() && self.terms.required.is_managed();
        is_managed.then(|| Managed::read(state))
    }

    fn check_simulated(&self, outcomes: &[StepOutcome]) -> Result<(), Rejection> {
        match revert(self.deposit_outcome(outcomes)) {
            None => Ok(()),
            Some(detail) => Err(Rejection::new(reason::DEPOSIT_SIMULATION_FAILED, detail)),
        }
    }

    /// The channel before the deposit, by the answers of the check.
    fn before(observed: &Observed<'_, Evm>) -> Option<ChannelState> {
        channel(&observed.answers.last()?.outcomes).ok()
    }

    /// The events of this deposit: each with the channel's balance after it.
    fn events<'a>(&self, evidence: &'a Evidence) -> impl Iterator<Item = u128> + use<'a> {
        let (id, amount) = (self.voucher.id, self.amount);
        let logs = evidence.logs_of(BATCH_SETTLEMENT);
        let events =
            logs.filter_map(|log| BatchSettlement::Deposited::decode_log_data(&log.data).ok());
        events
            .filter(move |event| event.channelId == id && event.amount == amount)
            .map(|event| event.newBalance)
    }

    /// The channel as it is after the deposit, as far as this is known.
    fn after(&self, observed: &Observed<'_, Evm>, evidence: &Evidence) -> Option<ChannelState> {
        let mut state = Self::before(observed)?;
        state.balance = match self.events(evidence).next() {
            Some(balance) => balance,
            None => state.balance.saturating_add(self.amount),
        };
        Some(state)
    }

    /// The next book of a channel over which the facilitator has authority.
    fn next_book(
        &self,
        charged: u128,
        observed: &Observed<'_, Evm>,
        chain: ChannelState,
    ) -> Option<ChannelBook> {
        self.access.as_ref()?;
        let now = observed.now;
        let known = observed.state.map(ChannelBook::read);
        let mut book = match known {
            // An unreadable record is left to an operator.
            Some(Err(_)) => return None,
            Some(Ok(book)) => book,
            None => ChannelBook::new(self.voucher.config, chain, now),
        };
        if book.owner.is_none() {
            book.owner = self.terms.caller.to_text();
        }
        book.sync(chain, now);
        if self.terms.required.is_managed() && self.setup.keeps_vouchers() {
            self.charge(&mut book, charged, now);
        }
        Some(book)
    }

    /// Charges the voucher of the deposit. After a reorganisation the deposit is included again,
    /// and was charged already, perhaps before other vouchers.
    fn charge(&self, book: &mut ChannelBook, amount: u128, now: Timestamp) {
        let key = self.info.id.to_string();
        let total = book.charged.saturating_add(amount);
        let is_charged = book.charged_by.as_deref() == Some(&key);
        if !is_charged && total <= self.voucher.voucher.max_claimable {
            book.charge(amount, &self.voucher.voucher, now);
            book.charged_by = Some(key);
        }
    }
}

impl Payment<Evm> for DepositPayment {
    fn info(&self) -> &PaymentInfo {
        &self.info
    }

    fn signatures(&self) -> &[SignatureClaim] {
        &self.claims
    }

    fn check(&self, observed: &Observed<'_, Evm>) -> Result<Check<Evm>, Rejection> {
        self.objection.clone().map_or(Ok(()), Err)?;
        self.terms.required.check_amount(observed.settling)?;
        let by_key = self.by_key(observed.signatures);
        let is_contract = |outcomes: &[StepOutcome]| has_code(outcomes.get(step::PAYER_CODE));
        let allowed = |reason: Reason| match self.setup.limits.contract_wallets {
            true => Ok(()),
            false => Err(contract_not_allowed(reason)),
        };
        let last = match (observed.answers, by_key) {
            ([], [true, true]) => return Ok(Check::Ask(self.probe(false))),
            ([], [deposit, voucher]) => {
                if deposit && !voucher {
                    self.voucher.check_key()?;
                }
                allowed(match deposit {
                    true => reason::VOUCHER_SIGNATURE,
                    false => self.consent.signature_reason(),
                })?;
                return Ok(Check::Ask(self.probe(true)));
            }
            ([first], [true, true]) if is_contract(&first.outcomes) => {
                allowed(reason::CONTRACT_WALLET_NOT_ALLOWED)?;
                return Ok(Check::Ask(self.probe(true)));
            }
            ([.., last], _) => last,
        };
        for outcomes in last.simulations() {
            self.check_signatures(outcomes, by_key)?;
        }
        let (now, chain_time) = (observed.now, last.chain_time);
        let window = self.consent.window();
        window.check(now, chain_time, inclusion_secs(last.block_secs))?;
        for outcomes in last.simulations() {
            self.check_state(outcomes, observed)?;
        }
        if let Some(time) = window.opens_in(now, chain_time) {
            return Ok(Check::NotYet(time));
        }
        for outcomes in last.simulations() {
            self.check_simulated(outcomes)?;
        }
        Ok(Check::Valid)
    }

    fn depends_on_time(&self, rejection: &Rejection) -> bool {
        self.consent.window().decides(rejection)
    }

    fn plan(&self, charged: Amount, observed: &Observed<'_, Evm>) -> Result<Plan<Call>, Rejection> {
        self.terms.required.check_charge(charged)?;
        let failed = || {
            let detail = "the simulation has no result";
            Rejection::new(reason::DEPOSIT_SIMULATION_FAILED, detail)
        };
        let last = observed.answers.last().ok_or_else(failed)?;
        let gas = |outcomes: &[StepOutcome]| self.deposit_outcome(outcomes)?.gas();
        let gas = last
            .simulations()
            .filter_map(gas)
            .max()
            .ok_or_else(failed)?;
        let key = (BATCH_SETTLEMENT, self.voucher.id, U256::from(self.amount));
        let key = keccak256(key.abi_encode());
        let is_contract = has_code(last.outcomes.get(step::PAYER_CODE));
        let approves = self.approves(&last.outcomes);
        let call = Call::new(BATCH_SETTLEMENT, self.call(approves), gas.into(), key);
        // An approval changes the allowance, on which the payer's other payments depend.
        Ok(Plan::Submit(call.with_batchable(!is_contract && !approves)))
    }

    fn sender(&self, observed: &Observed<'_, Evm>) -> Option<LaneId> {
        // A contract was simulated as a transaction of this lane, and could detect another sender.
        observed.answers.last()?.sender.clone()
    }

    fn balance(&self, observed: &Observed<'_, Evm>) -> Option<Amount> {
        let outcomes = &observed.answers.last()?.outcomes;
        let balance = U256::from_be_bytes(outcomes.get(step::BALANCE)?.word()?.0);
        let state = outcomes.get(step::CONSENT);
        let spendable = self.consent.spendable(state, balance, self.amount);
        Some(Amount::new(spendable))
    }

    /// The caller owns a channel whose authorizer is the facilitator.
    fn is_bound_to_caller(&self) -> bool {
        self.access.is_some()
    }

    fn used_by(&self, rejection: &Rejection) -> Option<AuthorizationSearch> {
        let Consent::Eip3009 { authorization, .. } = &self.consent else {
            return None;
        };
        let used = AuthorizationUse::new(
            self.voucher.config.token,
            authorization.from,
            authorization.nonce,
        );
        let is_used = rejection.reason == reason::NONCE_ALREADY_USED;
        is_used.then_some(AuthorizationSearch::Eip3009(used))
    }

    fn state_access(&self) -> Option<&StateAccess> {
        self.access.as_ref()
    }

    fn state_after(
        &self,
        charged: Amount,
        observed: &Observed<'_, Evm>,
        evidence: Option<&Evidence>,
    ) -> StateChange {
        let Some(evidence) = evidence else {
            return StateChange::default();
        };
        // The engine passes what moved. What is charged is what the request requires.
        let _ = charged;
        let charged = self.terms.required.amount;
        let after = self.after(observed, evidence);
        let book = after.and_then(|chain| self.next_book(charged, observed, chain));
        let mut extra =
            json!({ "channelState": self.channel_state(after, book.as_ref(), evidence) });
        if self.terms.required.is_managed() && book.is_some() {
            extra["chargedAmount"] = json!(charged.to_string());
        }
        let due = book
            .as_ref()
            .and_then(|book| book.claim_due(self.setup.claim_rules()));
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

    fn verify_extra(&self, observed: &Observed<'_, Evm>) -> Option<Object> {
        let state = Self::before(observed)?;
        Object::of(&state.to_json(&self.voucher.id)).ok()
    }

    fn effect(&self, _: Amount, evidence: &Evidence) -> Effect {
        let failed = |detail| Rejection::new(reason::DEPOSIT_TRANSACTION_FAILED, detail);
        if !evidence.succeeded {
            return Effect::None(failed("the transaction was included and reverted"));
        }
        match self.events(evidence).count() {
            1 => Effect::Transferred(self.info.amount),
            0 => Effect::None(failed("the contract of channels logged no such deposit")),
            _ => Effect::Mismatch(failed("the contract of channels logged the deposit twice")),
        }
    }
}

impl DepositPayment {
    /// The `channelState` of the answer: after a restart, only what the event shows.
    fn channel_state(
        &self,
        after: Option<ChannelState>,
        book: Option<&ChannelBook>,
        evidence: &Evidence,
    ) -> Value {
        let id = &self.voucher.id;
        match (after, book) {
            (_, Some(book)) if self.terms.required.is_managed() => book.channel_state(id),
            (Some(state), _) => state.to_json(id),
            (None, _) => {
                let balance = self.events(evidence).next().unwrap_or_default();
                json!({ "channelId": id, "balance": balance.to_string() })
            }
        }
    }
}

/// The signature claims, and which of them is that of the deposit and that of the voucher.
fn claims(
    voucher: &SignedVoucher,
    signature: &PayerSignature,
    digest: B256,
) -> (Vec<SignatureClaim>, [Option<usize>; 2]) {
    let deposit = signature.ecdsa();
    let deposit = deposit.map(|signed| signed.claim(digest, voucher.config.payer));
    let mut claims = Vec::with_capacity(2);
    let keys = [deposit, voucher.claim.clone()].map(|claim| {
        claims.push(claim?);
        Some(claims.len() - 1)
    });
    (claims, keys)
}

fn missing(reason: Reason, method: &str) -> Rejection {
    let detail = format!("the payload has no deposit.authorization.{method}Authorization");
    Rejection::new(reason, detail)
}

/// Checks that the requirements name the EIP-712 domain of the token.
fn check_domain(terms: &Terms) -> Result<(), Rejection> {
    let is_named = |field: &Option<String>| field.as_ref().is_some_and(|text| !text.is_empty());
    if is_named(&terms.required.extra.name) && is_named(&terms.required.extra.version) {
        return Ok(());
    }
    let detail = "extra has no name and version, which the payer signs for";
    Err(Rejection::new(reason::MISSING_EIP712_DOMAIN, detail))
}

/// What is wrong with a permit, in the order of the reference implementation.
fn check_permit(
    given: &DepositPermit,
    terms: &Terms,
    voucher: &SignedVoucher,
    amount: u128,
) -> Option<Rejection> {
    let permit = &given.permit;
    let asset = terms.token.address;
    let reject = |reason, detail: String| Some(Rejection::new(reason, detail));
    if permit.owner != voucher.config.payer {
        let (from, payer) = (permit.owner, voucher.config.payer);
        let detail = format!("the permit is by {from}, and the channel's payer is {payer}");
        return reject(reason::PERMIT2_SIGNATURE, detail);
    }
    if permit.spender != PERMIT2_COLLECTOR {
        let spender = permit.spender;
        let detail =
            format!("the spender is {spender}, but must be the collector {PERMIT2_COLLECTOR}");
        return reject(reason::PERMIT2_SPENDER, detail);
    }
    if permit.token != asset {
        let token = permit.token;
        let detail = format!("the permit is for token {token}, but the asset is {asset}");
        return reject(reason::TOKEN_MISMATCH, detail);
    }
    if permit.amount != U256::from(amount) {
        let permitted = permit.amount;
        let detail = format!("the permit is for {permitted}, but the deposit is of {amount}");
        return reject(reason::PERMIT2_AMOUNT_MISMATCH, detail);
    }
    if given.channel_id != voucher.voucher.channel_id {
        let detail = "the permit's witness is another channel".to_owned();
        return reject(reason::CHANNEL_ID_MISMATCH, detail);
    }
    None
}
