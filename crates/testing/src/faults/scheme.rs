//! A scheme with one fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quittance_core::json::Object;
use quittance_core::{
    Amount, Chain, Check, Effect, LaneId, Observed, Payment, PaymentId, PaymentInfo,
    PaymentRequest, Plan, Reason, Refusal, Rejection, Scheme, SchemeState, SignatureClaim,
    StateAccess, StateChange, StateSummary, Timestamp, Upkeep, Version,
};

use super::FaultyChain;

/// What is wrong with a [`FaultyScheme`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it; `FaultyScheme` shows each")]
pub enum SchemeFault {
    AlwaysTransferred,
    NeverTransferred,
    TransferredMore,
    NothingIsMismatch,
    SameIdentityForAll,
    IdentityOfThePayer,
    IdentityOfTheNonce,
    IdentityWithTheSignature,
    IdentityOfTheRequest,
    IdentityByCount,
    IdentityOfMinorTerms,
    ClaimsNoSignature,
    AcceptsBadSignatures,
    AsksNothing,
    NeverValid,
    AmountDoubled,
    PartiesSwapped,
    AnotherAsset,
    ExpiresNever,
    ExpiresAtOnce,
    ExpiresByTheRequirements,
    ExpiryIgnored,
    TimeMattersNever,
    TrustsTheRequirements,
    TrustsTheEcho,
    RejectsWithoutDetail,
    AnotherReason,
    NotUsedByOthers,
    NoAssets,
    AnotherName,
    NoBalance,
    IdentityOfTheState,
    SettlesForNothing,
    RepeatsSteps,
    NeverExclusive,
    UsesNoState,
    IgnoresState,
    ForgetsItsChange,
    KeepsTheOldState,
}

impl SchemeFault {
    /// The faults that every scheme can have.
    pub const ALL: [Self; 31] = [
        Self::AlwaysTransferred,
        Self::NeverTransferred,
        Self::TransferredMore,
        Self::NothingIsMismatch,
        Self::SameIdentityForAll,
        Self::IdentityOfThePayer,
        Self::IdentityOfTheNonce,
        Self::IdentityWithTheSignature,
        Self::IdentityOfTheRequest,
        Self::IdentityByCount,
        Self::IdentityOfMinorTerms,
        Self::ClaimsNoSignature,
        Self::AcceptsBadSignatures,
        Self::AsksNothing,
        Self::NeverValid,
        Self::AmountDoubled,
        Self::PartiesSwapped,
        Self::AnotherAsset,
        Self::ExpiresNever,
        Self::ExpiresAtOnce,
        Self::ExpiresByTheRequirements,
        Self::ExpiryIgnored,
        Self::TimeMattersNever,
        Self::TrustsTheRequirements,
        Self::TrustsTheEcho,
        Self::RejectsWithoutDetail,
        Self::AnotherReason,
        Self::NotUsedByOthers,
        Self::NoAssets,
        Self::AnotherName,
        Self::NoBalance,
    ];

    /// The faults that show in lives: of schemes with several acts, steps or state records.
    pub const OF_LIVES: [Self; 8] = [
        Self::IdentityOfTheState,
        Self::SettlesForNothing,
        Self::RepeatsSteps,
        Self::NeverExclusive,
        Self::UsesNoState,
        Self::IgnoresState,
        Self::ForgetsItsChange,
        Self::KeepsTheOldState,
    ];
}

/// A scheme that does one thing wrong, and everything else as the scheme inside it.
pub struct FaultyScheme<C: Chain> {
    inner: Arc<dyn Scheme<C>>,
    fault: Option<SchemeFault>,
    decoded: AtomicU64,
}

impl<C: Chain> FaultyScheme<C> {
    /// The scheme with this fault, or with none.
    pub fn new(inner: Arc<dyn Scheme<C>>, fault: Option<SchemeFault>) -> Self {
        Self {
            inner,
            fault,
            decoded: AtomicU64::new(0),
        }
    }

    /// The request as the faulty scheme sees it.
    fn seen(&self, request: &PaymentRequest) -> PaymentRequest {
        let mut request = request.clone();
        let echo = request.accepted.requirements.as_mut();
        match (self.fault, echo) {
            (Some(SchemeFault::TrustsTheRequirements), Some(echo)) => {
                request
                    .accepted
                    .scheme
                    .clone_from(&request.requirements.scheme);
                request
                    .accepted
                    .network
                    .clone_from(&request.requirements.network);
                echo.asset.clone_from(&request.requirements.asset);
                echo.pay_to.clone_from(&request.requirements.pay_to);
                echo.amount = request.requirements.amount;
                echo.max_timeout_secs = request.requirements.max_timeout_secs;
            }
            (Some(SchemeFault::TrustsTheEcho), Some(echo)) => {
                request.requirements.asset.clone_from(&echo.asset);
                request.requirements.pay_to.clone_from(&echo.pay_to);
                request.requirements.amount = echo.amount;
            }
            _ => {}
        }
        request
    }

    fn info(&self, info: &PaymentInfo, request: &PaymentRequest, now: Timestamp) -> PaymentInfo {
        let mut info = info.clone();
        let payload = request.payload.text().as_bytes();
        match self.fault {
            Some(SchemeFault::SameIdentityForAll) => info.id = PaymentId::from_parts(&[]),
            Some(SchemeFault::IdentityOfThePayer) => {
                info.id = PaymentId::from_parts(&[info.payer.as_bytes()]);
            }
            Some(SchemeFault::IdentityOfTheNonce) => {
                info.id = PaymentId::from_parts(&[&nonce(&request.payload)]);
            }
            Some(SchemeFault::IdentityWithTheSignature) => {
                info.id = PaymentId::from_parts(&[payload]);
            }
            Some(SchemeFault::IdentityOfTheRequest) => {
                info.id = PaymentId::from_parts(&[request.text().as_bytes()]);
            }
            Some(SchemeFault::IdentityByCount) => {
                let count = self.decoded.fetch_add(1, Ordering::SeqCst);
                info.id = PaymentId::from_parts(&[&count.to_be_bytes()]);
            }
            Some(SchemeFault::IdentityOfMinorTerms) => {
                let terms = minor_terms(request);
                info.id = PaymentId::from_parts(&[info.id.to_string().as_bytes(), &terms]);
            }
            Some(SchemeFault::ExpiresByTheRequirements) => {
                info.expires = now.plus_secs(request.requirements.max_timeout_secs);
            }
            Some(SchemeFault::AmountDoubled) => {
                let doubled = info.amount.checked_add(info.amount);
                info.amount = doubled.unwrap_or_default();
            }
            Some(SchemeFault::PartiesSwapped) => {
                std::mem::swap(&mut info.payer, &mut info.pay_to);
            }
            Some(SchemeFault::AnotherAsset) => info.asset.push('x'),
            Some(SchemeFault::ExpiresNever) => info.expires = Timestamp::NEVER,
            Some(SchemeFault::ExpiresAtOnce) => info.expires = now,
            _ => {}
        }
        info
    }

    fn access(&self, access: Option<&StateAccess>) -> Option<StateAccess> {
        let mut access = access?.clone();
        match self.fault {
            Some(SchemeFault::UsesNoState) => return None,
            Some(SchemeFault::NeverExclusive) => access.exclusive = false,
            _ => {}
        }
        Some(access)
    }

    fn rejection(&self, rejection: Rejection) -> Rejection {
        match self.fault {
            Some(SchemeFault::RejectsWithoutDetail) => rejection.reason.into(),
            Some(SchemeFault::AnotherReason) => Rejection {
                reason: Reason::new("invalid_planted"),
                ..rejection
            },
            _ => rejection,
        }
    }
}

/// The payload's nonce, or all of the payload where it has none.
fn nonce(payload: &Object) -> Vec<u8> {
    let nonce = payload
        .tree()
        .get("authorization")
        .map(|authorization| authorization["nonce"].clone());
    nonce.map_or_else(
        || payload.text().as_bytes().to_vec(),
        |nonce| nonce.to_string().into_bytes(),
    )
}

/// The scheme's own terms and the time limit, of the seller and of the buyer.
fn minor_terms(request: &PaymentRequest) -> Vec<u8> {
    let of = |extra: &Option<Object>, limit: u64| {
        let extra = extra.as_ref().map_or("", Object::text);
        format!("{limit} {extra};")
    };
    let asked = &request.requirements;
    let mut terms = of(&asked.extra, asked.max_timeout_secs);
    if let Some(accepted) = &request.accepted.requirements {
        terms += &of(&accepted.extra, accepted.max_timeout_secs);
    }
    terms.into_bytes()
}

impl<C: Chain> Scheme<FaultyChain<C>> for FaultyScheme<C> {
    fn name(&self) -> &str {
        match self.fault {
            Some(SchemeFault::AnotherName) => "planted",
            _ => self.inner.name(),
        }
    }

    fn versions(&self) -> &[Version] {
        self.inner.versions()
    }

    fn extra(&self) -> Option<Object> {
        self.inner.extra()
    }

    fn extensions(&self) -> &[&str] {
        self.inner.extensions()
    }

    fn prerequisite(&self) -> Option<C::Read> {
        self.inner.prerequisite()
    }

    fn missing(&self, answer: &C::Answer) -> Option<String> {
        self.inner.missing(answer)
    }

    fn upkeep(&self, due: &[SchemeState], now: Timestamp) -> Upkeep {
        self.inner.upkeep(due, now)
    }

    fn summary(&self, state: &SchemeState, now: Timestamp) -> Option<StateSummary> {
        self.inner.summary(state, now)
    }

    fn kept_max(&self) -> usize {
        self.inner.kept_max()
    }

    fn assets(&self) -> Vec<String> {
        match self.fault {
            Some(SchemeFault::NoAssets) => Vec::new(),
            _ => self.inner.assets(),
        }
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn Payment<FaultyChain<C>>>, Refusal> {
        // A scheme that ignores the time sees every authorization as young.
        let seen_now = match self.fault {
            Some(SchemeFault::ExpiryIgnored) => Timestamp::from_secs(now.secs() - 3600),
            _ => now,
        };
        let inner = self.inner.decode(&self.seen(request), seen_now);
        let inner = inner.map_err(|refusal| match refusal {
            Refusal::Rejected(rejection) => Refusal::Rejected(self.rejection(rejection)),
            other => other,
        })?;
        let mut info = self.info(inner.info(), request, now);
        let access = self.access(inner.state_access());
        if let (Some(SchemeFault::IdentityOfTheState), Some(access)) = (self.fault, &access) {
            info.id = PaymentId::from_parts(&[access.state.as_bytes()]);
        }
        Ok(Box::new(FaultyPayment {
            info,
            access,
            scheme: FaultyScheme::new(Arc::clone(&self.inner), self.fault),
            inner,
        }))
    }
}

struct FaultyPayment<C: Chain> {
    inner: Box<dyn Payment<C>>,
    info: PaymentInfo,
    access: Option<StateAccess>,
    scheme: FaultyScheme<C>,
}

impl<C: Chain> FaultyPayment<C> {
    fn fault(&self) -> Option<SchemeFault> {
        self.scheme.fault
    }

    /// What the scheme inside sees.
    fn with_inner<T>(
        &self,
        observed: &Observed<'_, FaultyChain<C>>,
        use_it: impl FnOnce(&Observed<'_, C>) -> T,
    ) -> T {
        let all_true = vec![true; self.inner.signatures().len()];
        let signatures = match self.fault() {
            Some(SchemeFault::ClaimsNoSignature | SchemeFault::AcceptsBadSignatures) => &all_true,
            _ => observed.signatures,
        };
        let now = match self.fault() {
            Some(SchemeFault::ExpiryIgnored) => Timestamp::from_secs(observed.now.secs() - 3600),
            _ => observed.now,
        };
        let mut inner = observed.for_chain();
        (inner.signatures, inner.now) = (signatures, now);
        if self.fault() == Some(SchemeFault::IgnoresState) {
            inner.state = None;
        }
        use_it(&inner)
    }
}

impl<C: Chain> Payment<FaultyChain<C>> for FaultyPayment<C> {
    fn info(&self) -> &PaymentInfo {
        &self.info
    }

    fn moves(&self, amount: Amount) -> Amount {
        self.inner.moves(amount)
    }

    fn reserves(&self, amount: Amount) -> Amount {
        self.inner.reserves(amount)
    }

    fn transferred_by_steps(&self, amount: Amount) -> Amount {
        self.inner.transferred_by_steps(amount)
    }

    fn is_bound_to_caller(&self) -> bool {
        self.inner.is_bound_to_caller()
    }

    fn signatures(&self) -> &[SignatureClaim] {
        match self.fault() {
            Some(SchemeFault::ClaimsNoSignature) => &[],
            _ => self.inner.signatures(),
        }
    }

    fn check(
        &self,
        observed: &Observed<'_, FaultyChain<C>>,
    ) -> Result<Check<FaultyChain<C>>, Rejection> {
        let check = self.with_inner(observed, |observed| self.inner.check(observed));
        let check = check.map_err(|rejection| self.scheme.rejection(rejection))?;
        Ok(match (check, self.fault()) {
            (_, Some(SchemeFault::AsksNothing)) => Check::Valid,
            (Check::Valid, Some(SchemeFault::NeverValid)) => {
                return Err(Rejection::new(Reason::INVALID_PAYLOAD, "planted"));
            }
            (Check::Ask(read), _) => Check::Ask(read),
            (Check::Verify(claims), _) => Check::Verify(claims),
            (Check::Valid, _) => Check::Valid,
            (Check::NotYet(time), _) => Check::NotYet(time),
        })
    }

    fn depends_on_time(&self, rejection: &Rejection) -> bool {
        self.fault() != Some(SchemeFault::TimeMattersNever) && self.inner.depends_on_time(rejection)
    }

    fn payer(&self, observed: &Observed<'_, FaultyChain<C>>) -> Option<String> {
        self.with_inner(observed, |observed| self.inner.payer(observed))
    }

    fn expires(&self, observed: &Observed<'_, FaultyChain<C>>) -> Option<Timestamp> {
        self.with_inner(observed, |observed| self.inner.expires(observed))
    }

    fn confirmations_required(&self) -> u64 {
        self.inner.confirmations_required()
    }

    fn plan(
        &self,
        amount: Amount,
        observed: &Observed<'_, FaultyChain<C>>,
    ) -> Result<Plan<C::Action>, Rejection> {
        match self.fault() {
            Some(SchemeFault::SettlesForNothing) => return Ok(Plan::OffChain),
            Some(SchemeFault::RepeatsSteps) => {
                let before = observed.for_chain().after(&[]);
                return self.inner.plan(amount, &before);
            }
            _ => {}
        }
        self.with_inner(observed, |observed| self.inner.plan(amount, observed))
    }

    fn sender(&self, observed: &Observed<'_, FaultyChain<C>>) -> Option<LaneId> {
        self.with_inner(observed, |observed| self.inner.sender(observed))
    }

    fn balance(&self, observed: &Observed<'_, FaultyChain<C>>) -> Option<Amount> {
        match self.fault() {
            Some(SchemeFault::NoBalance) => None,
            _ => self.with_inner(observed, |observed| self.inner.balance(observed)),
        }
    }

    fn used_by(&self, rejection: &Rejection) -> Option<C::Search> {
        match self.fault() {
            Some(SchemeFault::NotUsedByOthers) => None,
            _ => self.inner.used_by(rejection),
        }
    }

    fn releases_nothing(&self) -> bool {
        self.inner.releases_nothing()
    }

    fn state_access(&self) -> Option<&StateAccess> {
        self.access.as_ref()
    }

    fn state_after(
        &self,
        amount: Amount,
        observed: &Observed<'_, FaultyChain<C>>,
        evidence: Option<&C::Evidence>,
    ) -> StateChange {
        let change = self.with_inner(observed, |observed| {
            self.inner.state_after(amount, observed, evidence)
        });
        let content = match (self.fault(), observed.state) {
            (Some(SchemeFault::ForgetsItsChange), _) => None,
            (Some(SchemeFault::KeepsTheOldState), Some(state)) => Some((state.state.clone(), None)),
            _ => change.state,
        };
        StateChange {
            state: content,
            receipt: change.receipt,
        }
    }

    fn state_after_failure(
        &self,
        observed: &Observed<'_, FaultyChain<C>>,
    ) -> Option<(Vec<u8>, Option<Timestamp>)> {
        self.with_inner(observed, |observed| {
            self.inner.state_after_failure(observed)
        })
    }

    fn verify_extra(&self, observed: &Observed<'_, FaultyChain<C>>) -> Option<Object> {
        self.with_inner(observed, |observed| self.inner.verify_extra(observed))
    }

    fn effect(&self, amount: Amount, evidence: &C::Evidence) -> Effect {
        let effect = self.inner.effect(amount, evidence);
        match (effect, self.fault()) {
            (_, Some(SchemeFault::AlwaysTransferred)) => Effect::Transferred(amount),
            (Effect::Transferred(_), Some(SchemeFault::NeverTransferred)) => {
                Effect::None(Rejection::new(Reason::INVALID_TRANSACTION_STATE, "planted"))
            }
            (Effect::Transferred(amount), Some(SchemeFault::TransferredMore)) => {
                Effect::Transferred(amount.checked_add(amount).unwrap_or(amount))
            }
            (Effect::None(rejection), Some(SchemeFault::NothingIsMismatch)) => {
                Effect::Mismatch(rejection)
            }
            (effect, _) => effect,
        }
    }
}
