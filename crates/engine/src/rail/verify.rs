//! Verification: from a request to a payment that would settle now.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use quittance_core::json::Object;
use quittance_core::wire::VerifyResponse;
use quittance_core::{
    Amount, Chain, Check, FacilitatorError, Fault, FaultKind, Payment, PaymentId, PaymentInfo,
    PaymentRequest, Refusal, Rejection, SaleId, Timestamp,
};
use quittance_journal::Settlement;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Rail;
use super::decoded::{Decoded, Verified, VerifyError};
use super::judge::{Judgement, Unfinished};
use crate::policy::check_info;

/// The maximum number of questions of one payment, to the chain or about signatures. One is for its
/// state, one for a contract wallet, one for lookup tables, and one is in reserve. A scheme that
/// asks more has a mistake.
const QUESTIONS_MAX: usize = 4;

/// How long to wait for a payment that is not valid yet: two blocks of Base, and far less than a
/// seller waits for /verify.
const NOT_YET_WAIT_MAX: Duration = Duration::from_secs(5);

/// The pause between reads of the chain meanwhile: the block time of a fast chain.
const NOT_YET_LOOK_EVERY: Duration = Duration::from_millis(500);

/// The result of one read of the chain about a payment.
enum Look<C: Chain> {
    /// The payment would settle now, according to these signatures and answers.
    Valid(Vec<bool>, Vec<C::Answer>),
    /// The payment becomes valid after this time.
    NotYet(Duration),
}

/// The fault of a payment that becomes valid after `opens_in`.
fn not_yet(opens_in: Duration) -> Fault {
    let what = "the payment is not valid yet: the newest block is older than its validAfter";
    let fault = Fault::new(FaultKind::NotYetValid, what);
    Fault {
        retry_after: fault.retry_after.max(Some(opens_in)),
        ..fault
    }
}

impl<C: Chain> Rail<C> {
    /// The answer to /verify.
    pub(crate) async fn verify(
        &self,
        request: &PaymentRequest,
    ) -> Result<VerifyResponse, FacilitatorError> {
        match self.verdict(request).await {
            Ok((payer, extra)) => Ok(VerifyResponse {
                extra,
                ..VerifyResponse::valid(Some(payer))
            }),
            Err(VerifyError::Rejected(verdict, payer)) => {
                Ok(VerifyResponse::invalid(&verdict, payer))
            }
            Err(VerifyError::Malformed(malformed)) => Err(malformed.into()),
            Err(VerifyError::Fault(fault)) => Err(fault.into()),
        }
    }

    async fn verdict(
        &self,
        request: &PaymentRequest,
    ) -> Result<(String, Option<Object>), VerifyError> {
        let decoded = self.decode(request).await?;
        // A valid payment can be settled, and nothing can be settled without the journal.
        if let Some(problem) = self.context.writer.journal.problem() {
            return Err(Fault::new(FaultKind::JournalUnavailable, problem).into());
        }
        let prior = self.prior(request, decoded.payment.as_ref()).await?;
        match self.judge(request, &decoded, prior).await? {
            Judgement::Valid(verified) => {
                // It must fit beside the payer's open payments. /settle checks the same when it
                // claims.
                let info = decoded.info();
                let balance = verified.balance(self.context.now());
                let ledger = &self.context.ledger;
                let amount = decoded.payment.reserves(info.amount);
                ledger.check(&verified.payer, &info.asset, amount, balance)?;
                self.hold_state(&decoded).await?;
                let extra = verified.extra(self.context.now());
                Ok((verified.payer, extra))
            }
            // It was valid when it was claimed, and success was not reported for it yet.
            Judgement::Same(settlement) | Judgement::Unfinished(Unfinished { settlement, .. }) => {
                let extra = self.repeated(&settlement);
                Ok((settlement.claim.payer, extra))
            }
            Judgement::Over(rejection, _) => Err(decoded.rejected(rejection)),
            Judgement::Used(used) => Err(decoded.rejected(used.rejection)),
        }
    }

    /// Says that success was reported to the same sale before, if it was.
    fn repeated(&self, settlement: &Settlement) -> Option<Object> {
        let is_lost = self.lost_answers.contains(&settlement.claim.id);
        let is_repeated = settlement.success_reported_at.is_some() && !is_lost;
        let extra = is_repeated.then(|| json!({ SaleId::REPEATED: true }));
        extra.and_then(|extra| Object::of(&extra).ok())
    }

    /// Reads a payment and checks what needs no round trip. The policy comes before the signatures:
    /// a payment that it rejects costs no arithmetic.
    pub(super) async fn decode(&self, request: &PaymentRequest) -> Result<Decoded<C>, VerifyError> {
        let scheme = self.context.schemes.for_request(request);
        let scheme = scheme.map_err(|rejection| VerifyError::Rejected(rejection, None))?;
        // A request that is too long for the journal is refused at /verify, before any harm is
        // done.
        let kept = request.kept_text(scheme.extensions(), scheme.kept_max());
        kept.map_err(VerifyError::Malformed)?;
        let now = self.context.now();
        let payment = scheme
            .decode(request, now)
            .map_err(|refusal| match refusal {
                Refusal::Malformed(malformed) => VerifyError::Malformed(malformed),
                Refusal::Rejected(rejection) => VerifyError::Rejected(rejection, None),
            })?;
        let amount = payment.moves(request.requirements.amount);
        self.check_policy(payment.info(), amount, request.refund_of())?;
        let decoded = self.check_signatures(payment.into(), now).await?;
        let decoded = Decoded {
            refund_of: request.refund_of(),
            ..decoded
        };
        Ok(self.with_state(decoded).await?)
    }

    /// The same payment with its state record as it is now.
    pub(super) async fn with_state(&self, decoded: Decoded<C>) -> Result<Decoded<C>, Fault> {
        let state = match decoded.payment.state_access() {
            None => None,
            Some(access) => self.context.writer.journal.state(&access.state).await?,
        };
        Ok(Decoded { state, ..decoded })
    }

    /// Keeps the payment's state record for it until it is settled, if its scheme asks for that.
    async fn hold_state(&self, decoded: &Decoded<C>) -> Result<(), VerifyError> {
        let id = &decoded.info().id;
        let access = decoded.payment.state_access();
        let Some(access) = access.filter(|access| !access.hold.is_zero()) else {
            return Ok(());
        };
        let journal = &self.context.writer.journal;
        let held = journal.hold_state(&access.state, id, access.hold).await;
        match held.map_err(Fault::from)? {
            true => Ok(()),
            false => {
                let detail = "another request of this payer is being served: retry after it";
                let busy = Rejection::new(access.busy.clone(), detail);
                Err(decoded.rejected(busy))
            }
        }
    }

    /// Whether the engine and the operator's policy allow a payment that moves `amount`.
    fn check_policy(
        &self,
        info: &PaymentInfo,
        amount: Amount,
        refund_of: Option<PaymentId>,
    ) -> Result<(), VerifyError> {
        let network = self.chain().network();
        let judged = match info.amount == amount {
            true => Cow::Borrowed(info),
            false => Cow::Owned(PaymentInfo {
                amount,
                ..info.clone()
            }),
        };
        check_info(info)
            .and_then(|()| match refund_of {
                None => self.policy.allows(network, &judged),
                Some(_) => self.policy.allows_refund(network, &judged),
            })
            .map_err(|rejection| VerifyError::Rejected(rejection, Some(info.payer.clone())))
    }

    /// Checks a payment's signatures.
    pub(super) async fn check_signatures(
        &self,
        payment: Arc<dyn Payment<C>>,
        decoded_at: Timestamp,
    ) -> Result<Decoded<C>, Fault> {
        let signatures = self.signatures.check(payment.signatures()).await?;
        Ok(Decoded {
            payment,
            decoded_at,
            signatures,
            settling: false,
            completed: Vec::new(),
            state: None,
            refund_of: None,
        })
    }

    /// As [`check`](Self::check). Rejects a payer or recipient with too many failed transactions.
    /// Not if success releases nothing: the money was taken before, and would be stranded.
    pub(super) async fn admit<'a>(
        &self,
        decoded: &'a Decoded<C>,
    ) -> Result<Verified<'a, C>, VerifyError> {
        let info = decoded.info();
        let check_failures = |payer: &str| {
            if decoded.payment.releases_nothing() {
                return Ok(());
            }
            let now = self.context.now();
            let allowed = self.context.failures.check(payer, &info.pay_to, now);
            allowed.map_err(|rejection| VerifyError::Rejected(rejection, Some(payer.to_owned())))
        };
        check_failures(&info.payer)?;
        let verified = self.check(decoded).await?;
        // The chain may have named another payer than the request.
        check_failures(&verified.payer)?;
        Ok(verified)
    }

    /// Asks the chain until the payment is valid or rejected. Waits for a payment that becomes
    /// valid within seconds: with a request to retry, a seller usually loses the sale.
    pub(super) async fn check<'a>(
        &self,
        decoded: &'a Decoded<C>,
    ) -> Result<Verified<'a, C>, VerifyError> {
        let give_up = Instant::now() + NOT_YET_WAIT_MAX;
        let mut permit = None;
        loop {
            let opens_in = match self.look_at(decoded).await? {
                Look::Valid(signatures, answers) => {
                    return self.verified(decoded, signatures, answers);
                }
                Look::NotYet(opens_in) => opens_in.max(NOT_YET_LOOK_EVERY),
            };
            permit = permit.or_else(|| self.waiting_to_open.try_acquire().ok());
            if permit.is_none() || Instant::now() + opens_in > give_up {
                return Err(not_yet(opens_in).into());
            }
            sleep(opens_in).await;
        }
    }

    /// Reads the chain's current state once.
    async fn look_at(&self, decoded: &Decoded<C>) -> Result<Look<C>, VerifyError> {
        let (mut signatures, mut answers) = (decoded.signatures.clone(), Vec::new());
        for _ in 0..=QUESTIONS_MAX {
            let observed = decoded.observed(&signatures, &answers, self.context.now());
            match decoded.payment.check(&observed) {
                Ok(Check::Valid) => return Ok(Look::Valid(signatures, answers)),
                Ok(Check::NotYet(opens_in)) => return Ok(Look::NotYet(opens_in)),
                Ok(Check::Ask(read)) => answers.push(self.reads.ask(read).await?),
                Ok(Check::Verify(claims)) => {
                    signatures.extend(self.signatures.check(&claims).await?);
                }
                Err(rejection) => return Err(self.rejected(decoded, rejection)),
            }
        }
        let what = format!("a payment asked more than {QUESTIONS_MAX} questions");
        Err(Fault::new(FaultKind::Internal, what).into())
    }

    /// The verdict, or a fault if the verdict depends on a clock that is wrong.
    fn rejected(&self, decoded: &Decoded<C>, rejection: Rejection) -> VerifyError {
        let depends_on_time = decoded.payment.depends_on_time(&rejection);
        match self.chain().clock_fault().filter(|_| depends_on_time) {
            Some(fault) => fault.into(),
            None => decoded.rejected(rejection),
        }
    }

    /// A valid payment. If only the chain could tell the payer or the expiry, the policy is asked
    /// about these.
    fn verified<'a>(
        &self,
        decoded: &'a Decoded<C>,
        signatures: Vec<bool>,
        answers: Vec<C::Answer>,
    ) -> Result<Verified<'a, C>, VerifyError> {
        let (info, payment) = (decoded.info(), &decoded.payment);
        let observed = decoded.observed(&signatures, &answers, self.context.now());
        let found = (payment.payer(&observed), payment.expires(&observed));
        let is_known = matches!(found, (None, None));
        let info = PaymentInfo {
            payer: found.0.unwrap_or_else(|| info.payer.clone()),
            expires: found.1.unwrap_or(info.expires),
            ..info.clone()
        };
        if !is_known {
            self.check_policy(&info, info.amount, decoded.refund_of)?;
        }
        Ok(Verified {
            decoded,
            signatures,
            answers,
            payer: info.payer,
            expires: info.expires,
        })
    }
}
