//! The answer to /settle: waiting for a settlement, and reporting its outcome.

use std::sync::Arc;
use std::time::Duration;

use quittance_core::json::Object;
use quittance_core::wire::SettleResponse;
use quittance_core::{
    Amount, Chain, FacilitatorError, Fault, FaultKind, PaymentId, PaymentRequest, Reason,
    Rejection, SaleId, SchemeReceipt, TransactionId,
};
use quittance_journal::{Outcome, Reported, Settlement, State};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use super::claim::{Follow, NotStarted, Started};
use super::decoded::VerifyError;
use super::lost_answers::SuccessReport;
use super::{Permit, Rail};
use crate::in_flight::Progress;

/// The first pause before the journal is asked again about a settlement of another replica: a small
/// part of the time between two blocks.
const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause between later questions. A caller notices half a second, and the database
/// notices ten thousand callers.
const FOLLOW_PAUSE_MAX: Duration = Duration::from_millis(500);

impl<C: Chain> Rail<C> {
    /// The answer to /settle.
    ///
    /// Everything up to the lane happens in a task of its own: if the caller disconnects, the claim
    /// survives. The waiting happens in the caller's own future, so success is never marked as
    /// reported to a caller that has gone. The caller's permit is dropped in between.
    pub(crate) async fn settle(
        self: &Arc<Self>,
        request: &PaymentRequest,
        permit: Permit,
    ) -> Result<SettleResponse, FacilitatorError> {
        let deadline = Instant::now() + self.settle_wait;
        let (rail, owned) = (Arc::clone(self), request.clone());
        let start = async move {
            let started = rail.start_settlement(&owned).await;
            drop(permit);
            started
        };
        let started = self.context.tasks.spawn(start.in_current_span()).await;
        let panicked = |error| {
            let what = format_args!("settling stopped: {error}");
            Err(Fault::new(FaultKind::Internal, what).into())
        };
        let network = request.requirements.network.as_str();
        match started.unwrap_or_else(panicked) {
            Ok(started) => {
                let sale = request.sale();
                self.wait_and_answer(network, started, sale, deadline).await
            }
            Err(not_started) => answer_not_started(network, not_started),
        }
    }

    /// Waits for a settlement as long as the caller does, and answers.
    async fn wait_and_answer(
        &self,
        network: &str,
        started: Started,
        sale: Option<&SaleId>,
        deadline: Instant,
    ) -> Result<SettleResponse, FacilitatorError> {
        let (id, payer, attempt, follow) = match started {
            // Reported once: the record refuses the payment from now on.
            Started::Written {
                payer,
                amount,
                receipt,
            } => return Ok(settled(network, Some(payer), "", (amount, receipt))),
            Started::Settlement {
                id,
                payer,
                attempt,
                follow,
            } => (id, payer, attempt, follow),
        };
        let progress = match follow {
            Follow::InFlight(progress) => self.wait(progress, (id, attempt), deadline).await?,
            Follow::Journal(settlement) if self.is_elsewhere(&settlement) => {
                self.wait_elsewhere((id, attempt), deadline).await?
            }
            Follow::Journal(settlement) => progress_of(&settlement),
        };
        let response = match progress {
            Progress::Concluded(outcome) => {
                self.answer_outcome(network, payer, (id, attempt, sale), outcome)
                    .await?
            }
            Progress::Sent(transaction) => {
                let detail = "the transaction is broadcast, and its outcome is not known yet: retry with the same request";
                let pending = Rejection::new(Reason::SETTLEMENT_PENDING, detail);
                SettleResponse::failed(network, &pending, Some(payer), transaction.as_str())
            }
            Progress::Released(fault) => return Err(fault.into()),
            Progress::Claiming | Progress::Waiting => {
                let what = "the settlement waits to be sent: retry with the same request";
                return Err(Fault::new(FaultKind::Busy, what).into());
            }
        };
        Ok(with_reference(response, &id))
    }

    /// Whether another replica may work on a settlement.
    fn is_elsewhere(&self, settlement: &Settlement) -> bool {
        let me = self.context.leases.membership().replica();
        settlement.state == State::Open && settlement.owner != Some(me)
    }

    /// Waits for a task of this process. If the task drops the settlement, another replica works on
    /// it, and the journal is followed.
    async fn wait(
        &self,
        progress: watch::Receiver<Progress>,
        settlement: (PaymentId, u32),
        deadline: Instant,
    ) -> Result<Progress, Fault> {
        let reached = wait_for_end(progress, deadline).await;
        let has_ended = matches!(reached, Progress::Concluded(_) | Progress::Released(_));
        let is_stopping = self.context.writer.stopping.is_cancelled();
        match has_ended || is_stopping || Instant::now() >= deadline {
            true => Ok(reached),
            false => self.wait_elsewhere(settlement, deadline).await,
        }
    }

    /// Waits until the journal has the end of a settlement that another replica works on, or the
    /// deadline passes. Returns the progress at that moment.
    async fn wait_elsewhere(
        &self,
        (id, attempt): (PaymentId, u32),
        deadline: Instant,
    ) -> Result<Progress, Fault> {
        let (in_flight, mut pause) = (&self.context.in_flight, FOLLOW_PAUSE);
        loop {
            // This process may have taken it up.
            if let Some(progress) = in_flight.follow(&id) {
                let reached = wait_for_end(progress, deadline).await;
                if matches!(reached, Progress::Concluded(_) | Progress::Released(_)) {
                    return Ok(reached);
                }
            }
            let found = self.context.writer.journal.settlement(&id).await?;
            let reached = match &found {
                Some(found) if found.attempt == attempt => progress_of(found),
                // It was released, and another request has claimed it again.
                _ => return Ok(Progress::Waiting),
            };
            let has_ended = matches!(reached, Progress::Concluded(_));
            if has_ended || Instant::now() + pause > deadline {
                return Ok(reached);
            }
            tokio::select! {
                () = self.context.writer.stopping.cancelled() => return Ok(reached),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 3 / 2).min(FOLLOW_PAUSE_MAX);
        }
    }

    /// The answer for a settlement that has ended. The first caller gets success.
    async fn answer_outcome(
        &self,
        network: &str,
        payer: String,
        (id, attempt, sale): (PaymentId, u32, Option<&SaleId>),
        outcome: Outcome,
    ) -> Result<SettleResponse, FacilitatorError> {
        let payer = Some(payer);
        let failed = |reason: Reason, detail: &str, transaction: &str| {
            let rejection = Rejection::new(reason, detail);
            SettleResponse::failed(network, &rejection, payer.clone(), transaction)
        };
        match outcome {
            Outcome::Settled {
                transaction,
                amount,
                receipt,
            } => {
                let transaction = transaction.as_ref().map_or("", TransactionId::as_str);
                let Some((report, is_repeated)) = self.report_success(id, attempt, sale).await?
                else {
                    if self.was_taken_back(&id).await? {
                        let detail =
                            "the chain took the transaction back: retry with the same request";
                        return Ok(failed(Reason::SETTLEMENT_PENDING, detail, transaction));
                    }
                    let detail = "success was already reported for this authorization";
                    return Ok(failed(Reason::DUPLICATE_SETTLEMENT, detail, transaction));
                };
                report.used();
                let answer = settled(network, payer, transaction, (amount, receipt));
                Ok(match is_repeated {
                    true => with_field(answer, SaleId::REPEATED, true),
                    false => answer,
                })
            }
            Outcome::Failed {
                reason,
                detail,
                transaction,
            }
            | Outcome::Lost {
                reason,
                detail,
                transaction,
            } => {
                // A transaction that a pending answer named stays named, even if it was never
                // included.
                let named = match transaction {
                    Some(transaction) => Some(transaction),
                    None => self.evidence(&id).await?,
                };
                let named = named.as_ref().map_or("", TransactionId::as_str);
                Ok(failed(reason, &detail, named))
            }
            Outcome::Released { fault } => Err(fault.into()),
        }
    }

    /// Whether the chain took a payment back whose success may still be reported. It is in progress
    /// again.
    async fn was_taken_back(&self, id: &PaymentId) -> Result<bool, Fault> {
        let settlement = self.context.writer.journal.settlement(id).await?;
        Ok(settlement.is_some_and(|known| {
            let is_unreported = known.success_reported_at.is_none();
            let may_report = is_unreported || known.claim.retries_without_limit;
            known.state == State::Open && may_report
        }))
    }

    /// The transaction that earlier answers named.
    async fn evidence(&self, id: &PaymentId) -> Result<Option<TransactionId>, Fault> {
        let settlement = self.context.writer.journal.settlement(id).await?;
        Ok(settlement.and_then(|settlement| settlement.evidence().cloned()))
    }

    /// The right to report success, and whether it was reported to the same sale before. `None` if
    /// success was reported before and the answer arrived, except to a caller of the same sale, and
    /// if success releases nothing.
    ///
    /// The write is a task of its own, so a timeout or a disconnect does not cut it short. If the
    /// caller is gone when it is done, the next caller with the same request can get the right.
    async fn report_success(
        &self,
        id: PaymentId,
        attempt: u32,
        sale: Option<&SaleId>,
    ) -> Result<Option<(SuccessReport, bool)>, Fault> {
        let sale = sale.cloned();
        let journal = Arc::clone(&self.context.writer.journal);
        let (now, lost_answers) = (self.context.now(), self.lost_answers.clone());
        let write = self.context.tasks.spawn(async move {
            let sale = sale.as_ref().map(SaleId::as_str);
            let reported = journal.report_success(&id, attempt, sale, now).await?;
            Ok(match reported {
                Reported::First => Some((lost_answers.report(id), false)),
                // If no caller got the first answer, this one is not repeated.
                Reported::Again => Some(match lost_answers.take(&id) {
                    Some(report) => (report, false),
                    None => (lost_answers.report(id), true),
                }),
                Reported::No => None,
            })
        });
        let written: Result<_, Fault> = write.await.unwrap_or_else(|error| {
            let what = format_args!("reporting stopped: {error}");
            Err(Fault::new(FaultKind::Internal, what))
        });
        Ok(written?.or_else(|| self.lost_answers.take(&id).map(|report| (report, false))))
    }
}

/// The answer for a payment that has settled this amount, with what its scheme adds.
fn settled(
    network: &str,
    payer: Option<String>,
    transaction: &str,
    (amount, receipt): (Amount, SchemeReceipt),
) -> SettleResponse {
    SettleResponse {
        amount: Some(receipt.amount.unwrap_or_else(|| amount.to_string())),
        extra: receipt.extra,
        ..SettleResponse::settled(network, payer, transaction)
    }
}

/// The answer for a request that started no settlement.
fn answer_not_started(
    network: &str,
    not_started: NotStarted,
) -> Result<SettleResponse, FacilitatorError> {
    match not_started {
        NotStarted::Over(rejection, settlement) => {
            let payer = Some(settlement.claim.payer.clone());
            let transaction = settlement.evidence().map_or("", TransactionId::as_str);
            let failed = SettleResponse::failed(network, &rejection, payer, transaction);
            Ok(with_reference(failed, &settlement.claim.id))
        }
        NotStarted::Used(used) => {
            let (payer, transaction) = (Some(used.payer), used.transaction.as_str());
            let failed = SettleResponse::failed(network, &used.rejection, payer, transaction);
            Ok(match &used.settlement {
                Some(id) => with_reference(failed, id),
                None => failed,
            })
        }
        NotStarted::Unverified(VerifyError::Rejected(rejection, payer)) => {
            Ok(SettleResponse::failed(network, &rejection, payer, ""))
        }
        NotStarted::Unverified(VerifyError::Malformed(malformed)) => Err(malformed.into()),
        NotStarted::Unverified(VerifyError::Fault(fault)) => Err(fault.into()),
    }
}

/// Waits until a settlement ends or the deadline passes. Returns the progress at that moment.
async fn wait_for_end(mut progress: watch::Receiver<Progress>, deadline: Instant) -> Progress {
    let has_ended =
        |progress: &Progress| matches!(progress, Progress::Concluded(_) | Progress::Released(_));
    // An error means that no task works on it, because this process stops. The journal has it.
    drop(timeout_at(deadline, progress.wait_for(has_ended)).await);
    Progress::clone(&progress.borrow())
}

/// The progress of a settlement according to the journal.
fn progress_of(settlement: &Settlement) -> Progress {
    match (&settlement.state, settlement.transaction()) {
        (State::Concluded(outcome), _) => Progress::Concluded(outcome.clone()),
        (_, Some(transaction)) => Progress::Sent(transaction.id.clone()),
        (_, None) => Progress::Waiting,
    }
}

/// The answer with a reference to the settlement in `extra`, by which its state can be requested.
fn with_reference(response: SettleResponse, id: &PaymentId) -> SettleResponse {
    with_field(response, "settlement", id.to_string())
}

/// The answer with this field in `extra`. It replaces a field of that name.
fn with_field(response: SettleResponse, name: &str, value: impl Into<Value>) -> SettleResponse {
    let mut extra = response.extra.map(|extra| extra.tree()).unwrap_or_default();
    extra.insert(name.to_owned(), value.into());
    SettleResponse {
        extra: Object::of(&extra).ok(),
        ..response
    }
}
