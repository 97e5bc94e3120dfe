//! Verification: from a request to a payment that would settle now.

use std::sync::Arc;
use std::time::Duration;

use quittance_core::wire::VerifyResponse;
use quittance_core::{
    Amount, Chain, Check, FacilitatorError, Fault, FaultKind, Malformed, Observed, Payment,
    PaymentId, PaymentInfo, PaymentRequest, Reason, Refusal, Rejection, Timestamp, TransactionId,
};
use tokio::time::{Instant, sleep};

use super::Rail;
use super::used::Closer;
use crate::policy::check_facts;
use quittance_journal::{FAILURES_MAX, Outcome, Settlement, State};

/// How often a payment may ask the chain before it must be content: a first look, a look at a contract wallet, one at
/// tables it refers to, and one to spare. A scheme that asks for more has a mistake in it.
const QUESTIONS_MAX: usize = 4;

/// How long a payment is waited for that is not valid yet: two blocks of Base, and far less than a
/// seller waits for /verify.
const NOT_YET_WAIT_MAX: Duration = Duration::from_secs(5);

/// How often the chain is looked at meanwhile: as often as a fast chain makes a block.
const NOT_YET_LOOK_EVERY: Duration = Duration::from_millis(500);

/// How many payments are waited for at once on one network. Each holds its caller's place
/// meanwhile, and a payer can sign any number that open a moment later. The others are told to
/// come back.
pub(super) const NOT_YET_WAITING_MAX: usize = 64;

/// What a look at the chain says of a payment.
enum Judged<C: Chain> {
    /// It would settle now, by these answers.
    Content(Vec<C::Answer>),
    /// It opens this much later.
    NotYet(Duration),
}

/// That a payment is to be presented again when it opens, `opens_in` from now.
fn not_yet(opens_in: Duration) -> Fault {
    let what = "the payment is not valid yet: the newest block is older than its validAfter";
    let fault = Fault::new(FaultKind::NotYetValid, what);
    Fault {
        retry_after: fault.retry_after.max(Some(opens_in)),
        ..fault
    }
}

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

/// What is made of a payment.
pub(super) enum Judgement<'a, C: Chain> {
    /// It would settle now.
    Valid(Verified<'a, C>),
    /// This very request is under way, or has settled without anybody being told.
    Same(Box<Settlement>),
    /// Its last attempt failed, but a transaction of it has moved the money after that, or still may.
    Unfinished(Box<Settlement>),
    /// It is another request's, or over.
    Over(Rejection, Box<Settlement>),
    /// It cannot be settled, and this is the transaction to look at.
    Used {
        rejection: Rejection,
        payer: String,
        transaction: TransactionId,
        /// Where the journal knows it.
        id: Option<PaymentId>,
    },
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
    pub(super) fn info(&self) -> &PaymentInfo {
        self.payment.info()
    }

    pub(super) fn rejected(&self, rejection: Rejection) -> Unverified {
        Unverified::Rejected(rejection, Some(self.info().payer.clone()))
    }

    fn observed<'a>(&'a self, answers: &'a [C::Answer], now: Timestamp) -> Observed<'a, C> {
        Observed {
            signatures: &self.signatures,
            answers,
            now,
        }
    }
}

impl<C: Chain> Verified<'_, C> {
    pub(super) fn observed(&self, now: Timestamp) -> Observed<'_, C> {
        self.decoded.observed(&self.answers, now)
    }

    /// How much of the asset the payer was seen to have.
    pub(super) fn balance(&self, now: Timestamp) -> Option<Amount> {
        self.decoded.payment.balance(&self.observed(now))
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
        // What is valid can be settled, and without the journal nothing can.
        if let Some(problem) = self.writer.journal.problem() {
            return Err(Fault::new(FaultKind::JournalUnavailable, problem).into());
        }
        let standing = self.standing(request, decoded.info()).await?;
        match self.judge(request, &decoded, standing).await? {
            Judgement::Valid(verified) => {
                // Beside what its payer has under way. At /settle the same is asked when it is claimed.
                let (info, balance) = (decoded.info(), verified.balance(self.clock.now()));
                self.ledger
                    .check(&verified.payer, &info.asset, info.amount, balance)?;
                Ok(verified.payer)
            }
            // It was valid when it was claimed, and nobody has been given anything for it yet.
            Judgement::Same(settlement) | Judgement::Unfinished(settlement) => {
                Ok(settlement.claim.payer)
            }
            Judgement::Over(rejection, _) | Judgement::Used { rejection, .. } => {
                Err(decoded.rejected(rejection))
            }
        }
    }

    /// What is made of a payment, by /verify and /settle alike: what one calls valid, the other settles.
    pub(super) async fn judge<'a>(
        &self,
        request: &PaymentRequest,
        decoded: &'a Decoded<C>,
        standing: Standing,
    ) -> Result<Judgement<'a, C>, Unverified> {
        match standing {
            Standing::Same(settlement) => return Ok(Judgement::Same(settlement)),
            Standing::Over(rejection, settlement) => {
                return Ok(Judgement::Over(rejection, settlement));
            }
            Standing::Free(_) => {}
        }
        let (rejection, payer) = match self.admit(decoded).await {
            Ok(verified) => return Ok(Judgement::Valid(verified)),
            Err(Unverified::Rejected(rejection, payer)) => (rejection, payer),
            Err(unverified) => return Err(unverified),
        };
        // What the chain says may come of a twin that was faster. Then the journal has better to say.
        let info = decoded.info();
        match self.standing(request, info).await? {
            Standing::Same(settlement) => Ok(Judgement::Same(settlement)),
            Standing::Over(rejection, settlement) => Ok(Judgement::Over(rejection, settlement)),
            Standing::Free(failed) => self.judge_closer(decoded, rejection, payer, failed).await,
        }
    }

    /// What is made of a payment that the chain speaks against, and of which the journal may know an attempt that `failed`.
    async fn judge_closer<'a>(
        &self,
        decoded: &'a Decoded<C>,
        rejection: Rejection,
        payer: Option<String>,
        failed: Option<Box<Settlement>>,
    ) -> Result<Judgement<'a, C>, Unverified> {
        let closer = self
            .look_closer(decoded, rejection.clone(), failed.as_deref())
            .await?;
        match (closer, failed) {
            // One of its transactions has moved the money after that, or may still do so.
            (Closer::Unfinished, Some(settlement)) => Ok(Judgement::Unfinished(settlement)),
            (Closer::Unfinished, None) => Err(Unverified::Rejected(rejection, payer)),
            (Closer::Rejected(rejection, Some(transaction)), failed) => Ok(Judgement::Used {
                rejection,
                payer: payer.unwrap_or_else(|| decoded.info().payer.clone()),
                transaction,
                id: failed.map(|settlement| settlement.claim.id),
            }),
            (Closer::Rejected(rejection, None), Some(settlement)) => {
                Ok(Judgement::Over(rejection, settlement))
            }
            (Closer::Rejected(rejection, None), None) => {
                Err(Unverified::Rejected(rejection, payer))
            }
        }
    }

    /// Reads a payment and checks what needs no round trip. The policy is asked first: what it does not allow costs no
    /// arithmetic.
    pub(super) async fn decode(&self, request: &PaymentRequest) -> Result<Decoded<C>, Unverified> {
        // What is too long for the journal is refused at /verify as well, where it does no harm yet.
        request.kept_text().map_err(Unverified::Malformed)?;
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
        self.allows(payment.info())?;
        Ok(self.decoded(payment.into(), now).await?)
    }

    /// Whether a payment with these facts may be settled at all.
    fn allows(&self, info: &PaymentInfo) -> Result<(), Unverified> {
        check_facts(info)
            .and_then(|()| self.policy.allows(self.chain.network(), info))
            .map_err(|rejection| Unverified::Rejected(rejection, Some(info.payer.clone())))
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
        info: &PaymentInfo,
    ) -> Result<Standing, Fault> {
        let Some(settlement) = self.writer.journal.settlement(&info.id).await? else {
            return Ok(Standing::Free(None));
        };
        let settled = matches!(settlement.state, State::Concluded(Outcome::Settled { .. }));
        // Success was reported, and the answer did not reach its caller.
        if settled && self.unheard.has(&info.id) && is_same(request, &settlement) {
            return Ok(Standing::Same(Box::new(settlement)));
        }
        Ok(Standing::of(request, settlement))
    }

    /// As [`check`](Self::check), of a payer and a recipient for whom not too many transactions have failed.
    pub(super) async fn admit<'a>(
        &self,
        decoded: &'a Decoded<C>,
    ) -> Result<Verified<'a, C>, Unverified> {
        let info = decoded.info();
        let may_fail = |payer: &str| {
            let now = self.clock.now();
            let allowed = self.failures.check(payer, &info.pay_to, now);
            allowed.map_err(|rejection| Unverified::Rejected(rejection, Some(payer.to_owned())))
        };
        may_fail(&info.payer)?;
        let verified = self.check(decoded).await?;
        // Only the chain may have said who pays.
        may_fail(&verified.payer)?;
        Ok(verified)
    }

    /// Asks the chain until the payment is content. A payment that opens within seconds is waited
    /// for: an answer to come back later costs a seller the sale more often than not.
    pub(super) async fn check<'a>(
        &self,
        decoded: &'a Decoded<C>,
    ) -> Result<Verified<'a, C>, Unverified> {
        let give_up = Instant::now() + NOT_YET_WAIT_MAX;
        let mut waiting = None;
        loop {
            let opens_in = match self.look_at(decoded).await? {
                Judged::Content(answers) => return self.verified(decoded, answers),
                Judged::NotYet(opens_in) => opens_in.max(NOT_YET_LOOK_EVERY),
            };
            waiting = waiting.or_else(|| self.waiting_to_open.try_acquire().ok());
            if waiting.is_none() || Instant::now() + opens_in > give_up {
                return Err(not_yet(opens_in).into());
            }
            sleep(opens_in).await;
        }
    }

    /// One look at the chain as it is now.
    async fn look_at(&self, decoded: &Decoded<C>) -> Result<Judged<C>, Unverified> {
        let mut answers = Vec::new();
        for _ in 0..=QUESTIONS_MAX {
            match decoded
                .payment
                .check(&decoded.observed(&answers, self.clock.now()))
            {
                Ok(Check::Valid) => return Ok(Judged::Content(answers)),
                Ok(Check::NotYet(opens_in)) => return Ok(Judged::NotYet(opens_in)),
                Ok(Check::Ask(read)) => answers.push(self.reads.ask(read).await?),
                Err(rejection) => return Err(self.rejected(decoded, rejection)),
            }
        }
        let what = format!("a payment asked more than {QUESTIONS_MAX} questions");
        Err(Fault::new(FaultKind::Internal, what).into())
    }

    /// A verdict; a fault where it depends on a clock that is wrong.
    fn rejected(&self, decoded: &Decoded<C>, rejection: Rejection) -> Unverified {
        let depends_on_time = decoded.payment.depends_on_time(&rejection);
        match self.chain.clock_fault().filter(|_| depends_on_time) {
            Some(fault) => fault.into(),
            None => decoded.rejected(rejection),
        }
    }

    /// A payment that is content. The policy is asked again about a payer of whom only the chain could tell.
    fn verified<'a>(
        &self,
        decoded: &'a Decoded<C>,
        answers: Vec<C::Answer>,
    ) -> Result<Verified<'a, C>, Unverified> {
        let info = decoded.info();
        let found = decoded
            .payment
            .payer(&decoded.observed(&answers, self.clock.now()));
        let payer = match found {
            None => info.payer.clone(),
            Some(payer) => {
                let info = PaymentInfo {
                    payer,
                    ..info.clone()
                };
                self.allows(&info)?;
                info.payer
            }
        };
        Ok(Verified {
            decoded,
            answers,
            payer,
        })
    }
}

/// Whether a request is the very one that was claimed.
fn is_same(request: &PaymentRequest, settlement: &Settlement) -> bool {
    PaymentRequest::decode(settlement.claim.request.as_bytes()).is_ok_and(|claimed| {
        let [ours, theirs] = [&request.requirements, &claimed.requirements];
        claimed.payload == request.payload
            && (&ours.scheme, &ours.asset, &ours.pay_to)
                == (&theirs.scheme, &theirs.asset, &theirs.pay_to)
            && ours.amount == theirs.amount
    })
}

impl Standing {
    /// What a request means for a settlement of its authorization.
    ///
    /// Only the very same payload may share in a settlement: another signature over the same authorization may be
    /// somebody's who has no right to it.
    pub(super) fn of(request: &PaymentRequest, settlement: Settlement) -> Self {
        let same = is_same(request, &settlement);
        let settlement = Box::new(settlement);
        let duplicate = |detail: &str| Rejection::new(Reason::DUPLICATE_SETTLEMENT, detail);
        match &settlement.state {
            State::Concluded(Outcome::Failed { .. } | Outcome::Released { .. })
                if settlement.failures >= FAILURES_MAX =>
            {
                Self::Over(
                    duplicate("this authorization has failed too often"),
                    settlement,
                )
            }
            // Whether it can still be used is for the chain to say.
            State::Concluded(Outcome::Failed { .. } | Outcome::Released { .. }) => {
                Self::Free(Some(settlement))
            }
            State::Open if settlement.success_reported_at.is_some() => Self::Over(
                duplicate(
                    "success was reported, the chain took the payment back, and it is being sent again",
                ),
                settlement,
            ),
            State::Open if same => Self::Same(settlement),
            State::Open => Self::Over(
                duplicate("another request with this authorization is under way"),
                settlement,
            ),
            State::Concluded(Outcome::Lost { .. }) => Self::Over(
                duplicate(
                    "success was reported, the chain took the payment back, and it cannot be sent again",
                ),
                settlement,
            ),
            State::Concluded(Outcome::Settled { .. })
                if same && settlement.success_reported_at.is_none() =>
            {
                Self::Same(settlement)
            }
            State::Concluded(Outcome::Settled { .. }) => Self::Over(
                duplicate("this authorization has settled, and success was reported for it"),
                settlement,
            ),
            // A newer journal crate may know more states. None of them may be claimed again.
            _ => Self::Over(
                duplicate(
                    "the journal has this authorization in a state that this version does not know",
                ),
                settlement,
            ),
        }
    }
}
