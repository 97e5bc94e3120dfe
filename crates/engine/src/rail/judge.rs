//! One judgement for /verify and /settle: what one calls valid, the other settles.

use std::time::Duration;

use quittance_core::{
    Amount, Chain, Fault, FaultKind, Payment, PaymentId, PaymentRequest, Rejection, SaleId,
    Timestamp, TransactionId,
};
use quittance_journal::{Settlement, StateKind};

use super::Rail;
use super::decoded::{Decoded, Verified, VerifyError};
use super::prior::{Prior, is_same};
use super::used::Explained;

/// The judgement of a payment.
pub(super) enum Judgement<'a, C: Chain> {
    /// The payment would settle now.
    Valid(Verified<'a, C>),
    /// The same request is in progress, or has settled without a success report.
    Same(Box<Settlement>),
    /// The last attempt failed, and the verdict does not count because of what it did on the chain.
    Unfinished(Unfinished),
    /// The settlement belongs to another request, or has ended for good.
    Over(Rejection, Box<Settlement>),
    /// The payment cannot be settled, because its authorization is used.
    Used(Box<Used>),
}

/// An attempt that failed, and that must be resumed.
pub(super) struct Unfinished {
    pub(super) settlement: Box<Settlement>,
    /// Whether one of its transactions has transferred the money, or still may. Otherwise only
    /// steps were included.
    pub(super) may_have_moved: bool,
}

/// A verdict with the transaction that used the authorization.
pub(super) struct Used {
    pub(super) rejection: Rejection,
    pub(super) payer: String,
    pub(super) transaction: TransactionId,
    /// The settlement, if the journal has one.
    pub(super) settlement: Option<PaymentId>,
}

impl<C: Chain> Rail<C> {
    /// What an earlier settlement of the authorization means for this request.
    pub(super) async fn prior(
        &self,
        request: &PaymentRequest,
        payment: &dyn Payment<C>,
    ) -> Result<Prior, Fault> {
        let (info, is_bound) = (payment.info(), payment.is_bound_to_caller());
        let journal = &self.context.writer.journal;
        let Some(settlement) = journal.settlement(&info.id).await? else {
            return Ok(Prior::Free(None));
        };
        let is_settled = settlement.state.kind() == StateKind::Settled;
        // Success was reported, and the answer did not reach its caller.
        let is_lost = is_settled && self.lost_answers.contains(&info.id);
        // The caller of the same sale may have lost it, too.
        let sale = request.sale().map(SaleId::as_str);
        let is_repeated = settlement.reports_again(sale, self.context.now());
        if (is_lost || is_repeated) && is_same(request, &settlement, is_bound) {
            return Ok(Prior::Same(Box::new(settlement)));
        }
        Ok(Prior::new(request, settlement, is_bound))
    }

    /// Judges a payment.
    pub(super) async fn judge<'a>(
        &self,
        request: &PaymentRequest,
        decoded: &'a Decoded<C>,
        prior: Prior,
    ) -> Result<Judgement<'a, C>, VerifyError> {
        let ended = match prior {
            Prior::Same(settlement) => return Ok(Judgement::Same(settlement)),
            Prior::Over(rejection, settlement) => {
                return Ok(Judgement::Over(rejection, settlement));
            }
            Prior::Free(ended) => ended,
        };
        let (rejection, payer) = match self.admit(decoded).await {
            Ok(verified) => {
                check_pause(decoded, ended.as_deref(), self.context.now())?;
                return Ok(Judgement::Valid(verified));
            }
            Err(VerifyError::Rejected(rejection, payer)) => (rejection, payer),
            Err(error) => return Err(error),
        };
        // The verdict may be the effect of a concurrent request with the same authorization. Then
        // the journal knows more than the chain.
        match self.prior(request, decoded.payment.as_ref()).await? {
            Prior::Same(settlement) => Ok(Judgement::Same(settlement)),
            Prior::Over(rejection, settlement) => Ok(Judgement::Over(rejection, settlement)),
            Prior::Free(failed) => {
                let amount = request.requirements.amount;
                let rejected = (rejection, payer);
                self.judge_rejected(decoded, amount, rejected, failed).await
            }
        }
    }

    /// Judges a payment that the chain rejects. The journal may have an attempt of it that
    /// `failed`.
    async fn judge_rejected<'a>(
        &self,
        decoded: &'a Decoded<C>,
        amount: Amount,
        (rejection, payer): (Rejection, Option<String>),
        failed: Option<Box<Settlement>>,
    ) -> Result<Judgement<'a, C>, VerifyError> {
        let explained = self
            .explain(decoded, amount, rejection.clone(), failed.as_deref())
            .await?;
        match (explained, failed) {
            (Explained::Unfinished { may_have_moved }, Some(settlement)) => {
                Ok(Judgement::Unfinished(Unfinished {
                    settlement,
                    may_have_moved,
                }))
            }
            (Explained::Unfinished { .. }, None) => Err(VerifyError::Rejected(rejection, payer)),
            (Explained::Rejected(rejection, Some(transaction)), failed) => {
                Ok(Judgement::Used(Box::new(Used {
                    rejection,
                    payer: payer.unwrap_or_else(|| decoded.info().payer.clone()),
                    transaction,
                    settlement: failed.map(|settlement| settlement.claim.id),
                })))
            }
            (Explained::Rejected(rejection, None), Some(settlement)) => {
                Ok(Judgement::Over(rejection, settlement))
            }
            (Explained::Rejected(rejection, None), None) => {
                Err(VerifyError::Rejected(rejection, payer))
            }
        }
    }
}

/// Refuses a valid payment whose last attempt failed a short time ago, as its claim would.
fn check_pause<C: Chain>(
    decoded: &Decoded<C>,
    ended: Option<&Settlement>,
    now: Timestamp,
) -> Result<(), Fault> {
    let without_limit = decoded.payment.releases_nothing();
    match ended.and_then(|ended| ended.claimable_from(without_limit, now)) {
        Some(until) if now < until => Err(too_soon(until, now)),
        _ => Ok(()),
    }
}

/// The fault of a payment whose last attempt failed a short time ago.
pub(super) fn too_soon(until: Timestamp, now: Timestamp) -> Fault {
    let what = "the last attempt failed a short time ago: retry later";
    let wait = Duration::from_secs(until.secs_since(now));
    Fault {
        retry_after: Some(wait),
        ..Fault::new(FaultKind::Busy, what)
    }
}
