//! A whole scheme in one file: `per-second`, by which a stream is paid tick by tick without a gas
//! fee for each tick, and without a contract.
//!
//! Each tick is an EIP-3009 authorization for all ticks so far. All ticks of a stream have one
//! nonce, so the token accepts one of them. The journal keeps the last one in the stream's state
//! record, and upkeep has it settled once the stream is quiet.
//!
//! Nothing is locked up: a payer can empty its account before that. Each tick checks that the
//! account can pay all of them now. The scheme `batch-settlement` has deposits.

use quittance_core::json::Object;
use quittance_core::kit::Parties;
use quittance_core::wire::{PaymentPayload, PaymentRequirements};
use quittance_core::{
    Amount, Chain, Check, Effect, Network, Observed, Payment, PaymentId, PaymentInfo,
    PaymentRequest, Plan, Reason, Refusal, Rejection, RequestCaller, Scheme, SchemeReceipt,
    SchemeState, SignatureClaim, StateAccess, StateChange, StateId, Timestamp, Upkeep,
};
use quittance_evm::alloy::primitives::{Address, U256};
use quittance_evm::eip3009::Authorization;
use quittance_evm::signature::EcdsaSignature;
use quittance_evm::{Call, Evidence, Evm, Log, Probe, Step, StepOutcome, Token, account, hex};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The scheme's name.
pub(crate) const NAME: &str = "per-second";

/// The tick is not the next one. The rejection's `extra` has the `total` so far.
pub(crate) const NOT_NEXT: Reason = Reason::new("invalid_per_second_evm_not_the_next_tick");
const BUSY: Reason = Reason::new("invalid_per_second_evm_stream_is_busy");
const SIGNATURE: Reason = Reason::new("invalid_per_second_evm_signature");
const TERMS: Reason = Reason::new("invalid_per_second_evm_terms");
const WOULD_FAIL: Reason = Reason::new("invalid_per_second_evm_would_fail");
const NOT_MOVED: Reason = Reason::new("invalid_per_second_evm_not_moved");

/// For how long a tick must be valid, in seconds: at least for a congested chain, and at most as
/// long as the journal keeps its stream.
const VALID_SECS: std::ops::Range<u64> = 600..24 * 3600;

/// The most gas that a transfer may use. USDC needs less than 100,000.
const GAS_MAX: u32 = 300_000;

/// The scheme, with what it needs to know about the chain.
pub struct PerSecond {
    network: Network,
    chain_id: u64,
    tokens: Vec<Token>,
    quiet_secs: u64,
}

/// The payload: the same as that of `exact`.
#[derive(Deserialize)]
pub(crate) struct Payload {
    signature: EcdsaSignature,
    pub(crate) authorization: Authorization,
}

/// A tick, or the claim of the last one, which is the engine's own request.
struct Tick {
    info: PaymentInfo,
    is_claim: bool,
    price: Amount,
    token: Address,
    authorization: Authorization,
    signature: EcdsaSignature,
    claim: [SignatureClaim; 1],
    access: StateAccess,
    record: Record,
    quiet_secs: u64,
}

/// The content of a stream's state record: the request that claims its last tick.
#[derive(Clone, Serialize, Deserialize)]
struct Record {
    payload: Object,
    requirements: PaymentRequirements,
}

impl PerSecond {
    /// The scheme on this chain. A stream is settled after this many seconds without a tick.
    pub fn new(evm: &Evm, quiet_secs: u64) -> Self {
        Self {
            network: evm.network().clone(),
            chain_id: evm.chain_id(),
            tokens: evm.config().tokens.clone(),
            quiet_secs,
        }
    }
}

/// The stream and the tick in a payload; `None` if it cannot be read.
pub(crate) fn identify(
    chain_id: u64,
    token: Address,
    payload: &Object,
) -> Option<(StateId, PaymentId)> {
    let tick: Payload = payload.read("payload").ok()?;
    let nonce = tick.authorization.payment_id(chain_id, token);
    let stream = StateId::from_parts(&[NAME.as_bytes(), nonce.as_bytes()]);
    let total = tick.authorization.value.to_be_bytes::<32>();
    Some((stream, PaymentId::from_parts(&[stream.as_bytes(), &total])))
}

impl Scheme<Evm> for PerSecond {
    fn name(&self) -> &str {
        NAME
    }

    fn assets(&self) -> Vec<String> {
        let addresses = self.tokens.iter().map(|token| token.address);
        addresses.map(|address| address.to_checksum(None)).collect()
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<Evm>>, Refusal> {
        request.check_scheme(NAME, Reason::INVALID_PAYMENT_REQUIREMENTS)?;
        request.check_network(&self.network, Reason::INVALID_PAYMENT_REQUIREMENTS)?;
        let Parties { asset, pay_to } = request.parties(hex::address)?;
        let token = self.tokens.iter().find(|token| token.address == asset);
        let token = token.ok_or(Rejection::from(Reason::UNSUPPORTED_ASSET))?;
        let payload: Payload = request.payload.read("paymentPayload.payload")?;
        let Payload {
            authorization,
            signature,
        } = payload;
        let is_claim = *request.caller() == RequestCaller::Engine;
        let until = |secs| U256::from(now.plus_secs(secs).secs());
        let window = until(VALID_SECS.start)..until(VALID_SECS.end);
        let is_valid =
            authorization.valid_after <= until(0) && window.contains(&authorization.valid_before);
        if authorization.to != pay_to || !(is_valid || is_claim) {
            let detail = "a tick pays payTo, and is valid now and for ten minutes to a day";
            return Err(Rejection::new(TERMS, detail).into());
        }
        let (stream, id) =
            identify(self.chain_id, asset, &request.payload).ok_or(Rejection::from(TERMS))?;
        let (mut info, mut access) = (
            authorization.payment_info(self.chain_id, asset),
            StateAccess::new(stream, BUSY),
        );
        let price = request.requirements.amount;
        match is_claim {
            // The claim has the authorization's own identity and amount: the token takes it once.
            true => access = access.exclusive(),
            false => (info.id, info.amount) = (id, price),
        }
        let total = Amount::new(authorization.value).to_string();
        let timeout = request.requirements.max_timeout_secs;
        let requirements = PaymentRequirements::new(
            NAME,
            self.network.id(),
            &total,
            &info.asset,
            &info.pay_to,
            timeout,
        );
        Ok(Box::new(Tick {
            claim: [authorization.claim(&token.domain_separator(self.chain_id), &signature)],
            record: Record {
                payload: request.payload.clone(),
                requirements,
            },
            token: asset,
            quiet_secs: self.quiet_secs,
            info,
            is_claim,
            price,
            authorization,
            signature,
            access,
        }))
    }

    /// Claims the last tick of each quiet stream, as long as it is valid.
    fn upkeep(&self, due: &[SchemeState], now: Timestamp) -> Upkeep {
        let mut upkeep = Upkeep::default();
        for state in due {
            match Record::read(Some(state)) {
                Some((record, last)) if last.valid_before > U256::from(now.secs()) => {
                    let payload = PaymentPayload::new(record.requirements.clone(), record.payload);
                    upkeep
                        .requests
                        .extend(PaymentRequest::new(payload, record.requirements));
                }
                _ => upkeep.seen.push((state.clone(), None)),
            }
        }
        upkeep
    }
}

impl Record {
    /// The record, and the last tick in it.
    fn read(state: Option<&SchemeState>) -> Option<(Self, Authorization)> {
        let record: Self = serde_json::from_slice(&state?.state).ok()?;
        let last: Payload = record.payload.read("payload").ok()?;
        Some((record, last.authorization))
    }
}

impl Payment<Evm> for Tick {
    fn info(&self) -> &PaymentInfo {
        &self.info
    }

    fn signatures(&self) -> &[SignatureClaim] {
        &self.claim
    }

    /// The claim buys nothing.
    fn releases_nothing(&self) -> bool {
        self.is_claim
    }

    fn state_access(&self) -> Option<&StateAccess> {
        Some(&self.access)
    }

    /// A tick is the next one, and the account could pay the whole stream now.
    fn check(&self, observed: &Observed<'_, Evm>) -> Result<Check<Evm>, Rejection> {
        if observed.signatures != [true] {
            return Err(Rejection::new(SIGNATURE, "not signed by the payer"));
        }
        let total = Record::read(observed.state).map_or(U256::ZERO, |(_, last)| last.value);
        let price = if self.is_claim {
            U256::ZERO
        } else {
            self.price.units()
        };
        if total.checked_add(price) != Some(self.authorization.value) {
            let extra = Object::of(&json!({ "total": Amount::new(total) }));
            let rejection = Rejection::new(NOT_NEXT, format_args!("{total} are paid so far"));
            return Err(extra.map_or(NOT_NEXT.into(), |extra| rejection.with_extra(extra)));
        }
        let Some(result) = observed.answers.first() else {
            let transfer = self.authorization.transfer_with_key(&self.signature);
            return Ok(Check::Ask(Probe::new(vec![
                Step::CodeSize(self.authorization.from),
                Step::call(self.token, transfer, GAS_MAX),
            ])));
        };
        match result.outcomes.as_slice() {
            [code, StepOutcome::Returned { .. }] if !account::has_code(Some(code)) => {
                Ok(Check::Valid)
            }
            _ => Err(Rejection::new(WOULD_FAIL, "the transfer would fail")),
        }
    }

    fn plan(&self, amount: Amount, observed: &Observed<'_, Evm>) -> Result<Plan<Call>, Rejection> {
        if amount != self.price {
            return Err(Rejection::new(TERMS, "a tick costs its price"));
        }
        if !self.is_claim {
            return Ok(Plan::OffChain);
        }
        let result = observed.answers.first();
        let gas = result.and_then(|result| result.outcomes.get(1)?.gas());
        let transfer = self.authorization.transfer_with_key(&self.signature);
        let key = self.authorization.transfer_key(self.token);
        Ok(Plan::Submit(Call::new(
            self.token,
            transfer,
            gas.ok_or(WOULD_FAIL)?.into(),
            key,
        )))
    }

    fn state_after(
        &self,
        _: Amount,
        observed: &Observed<'_, Evm>,
        _: Option<&Evidence>,
    ) -> StateChange {
        let due = observed.now.plus_secs(self.quiet_secs);
        let content = serde_json::to_vec(&self.record).ok();
        StateChange {
            state: content.map(|content| (content, (!self.is_claim).then_some(due))),
            // A tick moves no money, which an empty amount says.
            receipt: SchemeReceipt {
                amount: (!self.is_claim).then(String::new),
                extra: None,
            },
        }
    }

    fn effect(&self, amount: Amount, evidence: &Evidence) -> Effect {
        let mut logs = evidence.logs_of(self.token);
        let is_transfer = |log: &&Log| self.authorization.is_transfer(log);
        match (logs.find(is_transfer), logs.find(is_transfer)) {
            (Some(_), None) => Effect::Transferred(amount),
            _ => Effect::None(Rejection::new(NOT_MOVED, "not logged exactly once")),
        }
    }
}
