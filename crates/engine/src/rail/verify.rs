//! Verification: from a request to a payment that would settle now.

use std::sync::Arc;

use quittance_core::wire::VerifyResponse;
use quittance_core::{
    Amount, Chain, Check, FacilitatorError, Facts, Fault, FaultKind, Malformed, Payment,
    PaymentRequest, Reason, Refusal, Rejection, Seen, Timestamp,
};

use super::Rail;
use crate::journal::{Outcome, Settlement, State};

/// How often a payment may ask the chain before it must be content: a first look, a look at a contract wallet, one at
/// tables it refers to, and one to spare. A scheme that asks for more has a mistake in it.
const QUESTIONS_MAX: usize = 4;

/// A payment whose signatures were checked. What follows from them is for the payment to say.
pub(super) struct Decoded<C: Chain> {
    pub(super) payment: Arc<dyn Payment<C>>,
    pub(super) decoded_at: Timestamp,
    signatures: Vec<bool>,
}

/// A payment that would settle now, with what was seen of it. Nothing else can be settled.
pub(super) struct Verified<'a, C: Chain> {
    pub(super) decoded: &'a Decoded<C>,
    answers: Vec<C::Answer>,
    /// Who pays.
    pub(super) payer: String,
}

/// Why a payment is not verified.
pub(super) enum Unverified {
    Malformed(Malformed),
    /// The verdict, with the payer where one was read.
    Rejected(Rejection, Option<String>),
    Fault(Fault),
}

impl From<Fault> for Unverified {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What a request means for an authorization that the journal may know.
pub(super) enum Standing {
    /// It is free: verify it like any other. The journal may know an attempt that failed.
    Free(Option<Box<Settlement>>),
    /// This very request is under way, or has settled without anybody being told.
    Same(Box<Settlement>),
    /// It is somebody else's, or over.
    Over(Rejection, Box<Settlement>),
}

impl<C: Chain> Decoded<C> {
    pub(super) fn facts(&self) -> &Facts {
        self.payment.facts()
    }

    pub(super) fn rejected(&self, rejection: Rejection) -> Unverified {
        Unverified::Rejected(rejection, Some(self.facts().payer.clone()))
    }

    fn seen<'a>(&'a self, answers: &'a [C::Answer], now: Timestamp) -> Seen<'a, C> {
        Seen {
            signatures: &self.signatures,
            answers,
            now,
        }
    }
}

impl<C: Chain> Verified<'_, C> {
    pub(super) fn seen(&self, now: Timestamp) -> Seen<'_, C> {
        self.decoded.seen(&self.answers, now)
    }

    /// How much of the asset the payer was seen to have.
    pub(super) fn balance(&self, now: Timestamp) -> Option<Amount> {
        self.decoded.payment.balance(&self.seen(now))
    }
}

impl<C: Chain> Rail<C> {
    /// The answer to /verify.
    pub(crate) async fn verify(
        &self,
        request: &PaymentRequest,
    ) -> Result<VerifyResponse, FacilitatorError> {
        match self.verdict(request).await {
            Ok(payer) => Ok(VerifyResponse::valid(Some(payer))),
            Err(Unverified::Rejected(verdict, payer)) => {
                Ok(VerifyResponse::invalid(&verdict, payer))
            }
            Err(Unverified::Malformed(malformed)) => Err(malformed.into()),
            Err(Unverified::Fault(fault)) => Err(fault.into()),
        }
    }

    async fn verdict(&self, request: &PaymentRequest) -> Result<String, Unverified> {
        let decoded = self.decode(request).await?;
        if let Some(known) = self.known(request, &decoded).await? {
            return known;
        }
        match self.judge(&decoded).await {
            // What the chain says may come of a twin that was faster. Then the journal has better to say.
            Err(rejected @ Unverified::Rejected(..)) => {
                let known = self.known(request, &decoded).await?;
                known.unwrap_or(Err(rejected))
            }
            checked => Ok(checked?.payer),
        }
    }

    /// What the journal says of a payment; `None` where it is free.
    async fn known(
        &self,
        request: &PaymentRequest,
        decoded: &Decoded<C>,
    ) -> Result<Option<Result<String, Unverified>>, Fault> {
        Ok(match self.standing(request, decoded.facts()).await? {
            // It was valid when it was claimed, and nobody has been given anything for it yet.
            Standing::Same(settlement) => Some(Ok(settlement.claim.payer)),
            Standing::Over(rejection, _) => Some(Err(decoded.rejected(rejection))),
            Standing::Free(_) => None,
        })
    }

    /// Reads a payment and checks what needs no round trip. The policy is asked first: what it does not allow costs no
    /// arithmetic.
    pub(super) async fn decode(&self, request: &PaymentRequest) -> Result<Decoded<C>, Unverified> {
        let scheme = self
            .scheme_of(request)
            .ok_or_else(|| Unverified::Rejected(self.unsupported(request), None))?;
        let now = self.clock.now();
        let payment = scheme
            .decode(request, now)
            .map_err(|refusal| match refusal {
                Refusal::Malformed(malformed) => Unverified::Malformed(malformed),
                Refusal::Rejected(rejection) => Unverified::Rejected(rejection, None),
            })?;
        let facts = payment.facts();
        if let Err(rejection) = self.policy.allows(self.chain.network(), facts) {
            return Err(Unverified::Rejected(rejection, Some(facts.payer.clone())));
        }
        Ok(self.decoded(payment.into(), now).await?)
    }

    /// A payment with its signatures checked.
    pub(super) async fn decoded(
        &self,
        payment: Arc<dyn Payment<C>>,
        decoded_at: Timestamp,
    ) -> Result<Decoded<C>, Fault> {
        let signatures = self.signatures.check(payment.signatures()).await?;
        Ok(Decoded {
            payment,
            decoded_at,
            signatures,
        })
    }

    /// What the journal knows of the authorization, as far as this request is concerned.
    pub(super) async fn standing(
        &self,
        request: &PaymentRequest,
        facts: &Facts,
    ) -> Result<Standing, Fault> {
        let known = self.keeper.journal.settlement(&facts.id).await?;
        Ok(known.map_or(Standing::Free(None), |settlement| {
            Standing::of(request, settlement)
        }))
    }

    /// What is said of a payment that the journal does not know: whether it would settle now, beside what its payer has
    /// under way.
    async fn judge<'a>(&self, decoded: &'a Decoded<C>) -> Result<Verified<'a, C>, Unverified> {
        let verified = self.admit(decoded).await?;
        let (facts, balance) = (decoded.facts(), verified.balance(self.clock.now()));
        self.ledger
            .check(&verified.payer, &facts.asset, facts.amount, balance)?;
        Ok(verified)
    }

    /// As [`check`](Self::check), of a payer and a recipient for whom not too many transactions have failed.
    pub(super) async fn admit<'a>(
        &self,
        decoded: &'a Decoded<C>,
    ) -> Result<Verified<'a, C>, Unverified> {
        let facts = decoded.facts();
        let may_fail = |payer: &str| {
            let now = self.clock.now();
            let allowed = self.failures.check(payer, &facts.pay_to, now);
            allowed.map_err(|rejection| Unverified::Rejected(rejection, Some(payer.to_owned())))
        };
        may_fail(&facts.payer)?;
        let verified = self.check(decoded).await?;
        // Only the chain may have said who pays.
        may_fail(&verified.payer)?;
        Ok(verified)
    }

    /// Asks the chain until the payment is content.
    pub(super) async fn check<'a>(
        &self,
        decoded: &'a Decoded<C>,
    ) -> Result<Verified<'a, C>, Unverified> {
        let mut answers = Vec::new();
        for _ in 0..=QUESTIONS_MAX {
            match decoded
                .payment
                .check(&decoded.seen(&answers, self.clock.now()))
            {
                Ok(Check::Content) => return self.verified(decoded, answers),
                Ok(Check::Ask(read)) => answers.push(self.reader.read(read).await?),
                Err(rejection) => return Err(decoded.rejected(rejection)),
            }
        }
        let what = format!("a payment asked more than {QUESTIONS_MAX} questions");
        Err(Fault::new(FaultKind::Internal, what).into())
    }

    /// A payment that is content. The policy is asked again about a payer of whom only the chain could tell.
    fn verified<'a>(
        &self,
        decoded: &'a Decoded<C>,
        answers: Vec<C::Answer>,
    ) -> Result<Verified<'a, C>, Unverified> {
        let facts = decoded.facts();
        let found = decoded
            .payment
            .payer(&decoded.seen(&answers, self.clock.now()));
        let payer = match found {
            None => facts.payer.clone(),
            Some(payer) => {
                let facts = Facts {
                    payer,
                    ..facts.clone()
                };
                if let Err(rejection) = self.policy.allows(self.chain.network(), &facts) {
                    return Err(Unverified::Rejected(rejection, Some(facts.payer)));
                }
                facts.payer
            }
        };
        Ok(Verified {
            decoded,
            answers,
            payer,
        })
    }
}

impl Standing {
    /// What a request means for a settlement of its authorization.
    ///
    /// Only the very same payload may share in a settlement: another signature over the same authorization may be
    /// somebody's who has no right to it.
    pub(super) fn of(request: &PaymentRequest, settlement: Settlement) -> Self {
        let same =
            PaymentRequest::decode(settlement.claim.request.as_bytes()).is_ok_and(|claimed| {
                let [ours, theirs] = [&request.terms, &claimed.terms];
                claimed.payload == request.payload
                    && (&ours.scheme, &ours.asset, &ours.pay_to)
                        == (&theirs.scheme, &theirs.asset, &theirs.pay_to)
                    && ours.amount == theirs.amount
            });
        let settlement = Box::new(settlement);
        let duplicate = |detail: &str| Rejection::new(Reason::DUPLICATE_SETTLEMENT, detail);
        match &settlement.state {
            // Whether it can still be used is for the chain to say.
            State::Concluded(Outcome::Failed { .. } | Outcome::Released { .. }) => {
                Self::Free(Some(settlement))
            }
            State::Open if same => Self::Same(settlement),
            State::Open => Self::Over(
                duplicate("another request with this authorization is under way"),
                settlement,
            ),
            State::Concluded(Outcome::Settled { .. }) if same && settlement.told_at.is_none() => {
                Self::Same(settlement)
            }
            State::Concluded(Outcome::Settled { .. }) => Self::Over(
                duplicate("this authorization has settled, and somebody was told so"),
                settlement,
            ),
        }
    }
}
