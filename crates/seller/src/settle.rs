//! Settlement after the handler, with retries, because the handler's work is done.

use std::time::Duration;

use quittance_core::wire::SettleResponse;
use quittance_core::{Facilitator, FacilitatorError, PaymentRequest};
use quittance_http::reason::is_certain_refusal;
use tokio::time::{Instant, sleep};
use tracing::warn;

/// How often settling is tried again after a fault. With [`PAUSE_MAX`] this takes 15 seconds, which
/// clients wait.
const RETRIES_MAX: usize = 3;

/// The longest pause before a retry. A facilitator that asks for more will not recover in time.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The shortest pause, for facilitators that send `Retry-After: 0`.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The answers to all requests for one settlement, combined.
#[derive(Debug)]
pub(crate) struct Settlement {
    /// The last answer. It names the transaction if an earlier one did.
    pub(crate) answer: Result<SettleResponse, FacilitatorError>,
    /// Whether the facilitator may have attempted a request whose answer is lost.
    pub(crate) is_lost: bool,
}

impl Settlement {
    /// What is known after the first answer.
    fn new(answer: Result<SettleResponse, FacilitatorError>) -> Self {
        Self {
            is_lost: is_lost(&answer),
            answer,
        }
    }

    /// Adds the answer to one more request.
    pub(crate) fn add(&mut self, next: Result<SettleResponse, FacilitatorError>) {
        self.is_lost |= is_lost(&next);
        self.answer = match &self.answer {
            Ok(first) if first.is_pending() => Ok(combine(first.clone(), next)),
            _ => next,
        };
    }

    /// Whether the answer names a transaction whose outcome is not known yet.
    pub(crate) fn is_pending(&self) -> bool {
        self.answer.as_ref().is_ok_and(SettleResponse::is_pending)
    }

    /// Whether the facilitator certainly did not and will not settle.
    ///
    /// A refusal after a lost answer may be about another state of the payment: the lost request
    /// may still settle it.
    pub(crate) fn is_refused(&self) -> bool {
        !self.is_lost && self.answer.as_ref().is_ok_and(is_certain_refusal)
    }

    /// Whether the payment may still settle.
    pub(crate) fn is_open(&self) -> bool {
        match &self.answer {
            Ok(response) => response.is_pending() || (self.is_lost && is_certain_refusal(response)),
            Err(_) => true,
        }
    }
}

/// Whether the facilitator may have attempted a request without an answer.
fn is_lost(answer: &Result<SettleResponse, FacilitatorError>) -> bool {
    matches!(answer, Err(FacilitatorError::Fault(fault)) if !fault.not_attempted)
}

/// Settles a payment.
///
/// A temporary fault, such as a rate limit or a restart of the facilitator, does not discard the
/// handler's response. Settling is tried again while the payment is valid, which is always safe. If
/// the outcome is pending, the facilitator is asked once more, and waits for its transaction.
pub(crate) async fn settle(
    facilitator: &dyn Facilitator,
    payment: &PaymentRequest,
    deadline: Instant,
) -> Settlement {
    let mut settlement = Settlement::new(facilitator.settle(payment).await);
    for _ in 0..RETRIES_MAX {
        let Some(pause) = pause(&settlement.answer, deadline) else {
            break;
        };
        warn!(?settlement, ?pause, "settling is tried again");
        sleep(pause).await;
        settlement.add(facilitator.settle(payment).await);
    }
    if settlement.is_pending() {
        settlement.add(facilitator.settle(payment).await);
    }
    settlement
}
/// The pause before a retry; `None` if there is a verdict, or a retry cannot help in time.
fn pause(answer: &Result<SettleResponse, FacilitatorError>, deadline: Instant) -> Option<Duration> {
    let Err(FacilitatorError::Fault(fault)) = answer else {
        return None;
    };
    let after = fault.retry_after.filter(|after| *after <= PAUSE_MAX)?;
    let after = after.max(PAUSE_MIN);
    (Instant::now() + after < deadline).then_some(after)
}

/// Combines the response that named a pending transaction with the response to the second request.
///
/// A fault or a verdict without a transaction comes from an instance that does not know the first
/// response, such as another one at the same address. It does not override the first.
fn combine(
    first: SettleResponse,
    second: Result<SettleResponse, FacilitatorError>,
) -> SettleResponse {
    match second {
        Ok(second) if !second.transaction.is_empty() => second,
        Ok(second) if second.success => SettleResponse {
            transaction: first.transaction,
            ..second
        },
        second => {
            let transaction = &first.transaction;
            warn!(
                transaction,
                ?second,
                "the facilitator's second response does not name its transaction"
            );
            first
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quittance_core::{Fault, FaultKind, Malformed};

    #[tokio::test(start_paused = true)]
    async fn only_a_retry_that_can_help_in_time_is_made() {
        let fault = |after: Option<u64>| {
            let fault = Fault::new(FaultKind::Busy, "busy");
            let retry_after = after.map(Duration::from_secs);
            Err(Fault {
                retry_after,
                ..fault
            }
            .into())
        };
        let pause = |answer, left| pause(&answer, Instant::now() + Duration::from_secs(left));
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(pause(fault(Some(1)), 60), seconds(1));
        assert_eq!(pause(fault(Some(5)), 6), seconds(5));
        assert_eq!(pause(fault(Some(5)), 5), None);
        assert_eq!(pause(fault(Some(6)), 60), None);
        assert_eq!(pause(fault(Some(0)), 60), Some(PAUSE_MIN));
        assert_eq!(pause(fault(None), 60), None);
        assert_eq!(pause(Err(Malformed::new("body", "no").into()), 60), None);
        assert_eq!(
            pause(Ok(SettleResponse::settled("a:1", None, "1")), 60),
            None
        );
    }
}
