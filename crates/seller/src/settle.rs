//! Settling, after the handler: patiently, because its work is done.

use std::time::Duration;

use quittance_core::wire::SettleResponse;
use quittance_core::{Facilitator, FacilitatorError, PaymentRequest};
use tokio::time::{Instant, sleep};
use tracing::warn;

/// How often /settle is asked again after a fault. With [`PAUSE_MAX`] that is fifteen seconds, as long
/// as a client waits without a thought.
const AGAIN_MAX: usize = 3;

/// The longest pause before asking again. A facilitator that wants more is not back in time.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The shortest pause, for facilitators that say `Retry-After: 0`.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Settles. A fault that will be over in a moment, such as a full bucket or a facilitator that starts
/// anew, does not throw the handler's answer away: the facilitator is asked again while the payment
/// lives, which is always safe. Where the outcome is pending, it is asked once more: it waits for the
/// transaction it has sent.
pub(crate) async fn settle(
    facilitator: &dyn Facilitator,
    payment: &PaymentRequest,
    deadline: Instant,
) -> Result<SettleResponse, FacilitatorError> {
    let mut first = facilitator.settle(payment).await;
    for _ in 0..AGAIN_MAX {
        let Some(pause) = pause(&first, deadline) else {
            break;
        };
        warn!(?first, ?pause, "asking again to settle");
        sleep(pause).await;
        first = facilitator.settle(payment).await;
    }
    let first = first?;
    if !first.is_pending() {
        return Ok(first);
    }
    Ok(newer(first, facilitator.settle(payment).await))
}

/// How long to wait before asking again; `None` where there is a verdict, or asking will not help in
/// time.
fn pause(answer: &Result<SettleResponse, FacilitatorError>, deadline: Instant) -> Option<Duration> {
    let Err(FacilitatorError::Fault(fault)) = answer else {
        return None;
    };
    let after = fault.retry_after.filter(|after| *after <= PAUSE_MAX)?;
    let after = after.max(PAUSE_MIN);
    (Instant::now() + after < deadline).then_some(after)
}

/// What is known of a payment whose transaction is out, when its facilitator was asked again. A fault, or a verdict that
/// knows of no transaction, comes from an instance that does not know of the first answer, such as
/// another one behind the same address: it takes nothing back.
fn newer(
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
                "asked again, the facilitator does not know of a transaction it named"
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
    async fn nothing_is_asked_again_that_asking_cannot_help_or_that_comes_too_late() {
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
