//! Success reports whose answer never reached the caller. They may be given again for a while.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use quittance_core::PaymentId;
use tokio::time::Instant;

/// For how long success may be reported again after its answer was lost. A seller that lost the
/// connection retries within seconds, while its buyer still waits. Later callers read
/// `/settlements/{id}`.
const LOST_MAX: Duration = Duration::from_secs(60);

/// The settlements whose success is recorded as reported although no caller got the answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct LostAnswers(Arc<DashMap<PaymentId, Instant>>);

/// The right to report success in one answer. If it is dropped unused, for example because the
/// caller disconnects, the next caller with the same request can get it.
#[derive(Debug)]
pub(crate) struct SuccessReport {
    id: PaymentId,
    lost: LostAnswers,
    is_used: bool,
}

impl LostAnswers {
    /// Notes that the answer which reported success did not reach its caller.
    pub(crate) fn note(&self, id: PaymentId) {
        self.0.retain(|_, since| since.elapsed() < LOST_MAX);
        self.0.insert(id, Instant::now());
    }

    /// Whether success may be reported again.
    pub(crate) fn contains(&self, id: &PaymentId) -> bool {
        let since = self.0.get(id);
        since.is_some_and(|since| since.elapsed() < LOST_MAX)
    }

    /// Takes the right to report success again. Of several concurrent callers, one gets it.
    pub(crate) fn take(&self, id: &PaymentId) -> Option<SuccessReport> {
        let (id, since) = self.0.remove(id)?;
        (since.elapsed() < LOST_MAX).then(|| self.report(id))
    }

    /// The right to report a success that was just recorded as reported.
    pub(crate) fn report(&self, id: PaymentId) -> SuccessReport {
        SuccessReport {
            id,
            lost: self.clone(),
            is_used: false,
        }
    }
}

impl SuccessReport {
    /// Marks the answer as made. It is handed to the caller at once.
    pub(crate) fn used(mut self) {
        self.is_used = true;
    }
}

impl Drop for SuccessReport {
    fn drop(&mut self) {
        if !self.is_used {
            self.lost.note(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lost_answer_can_be_given_once_more_for_a_minute() {
        let lost = LostAnswers::default();
        let id = PaymentId::from_parts(&[b"a"]);
        assert!(!lost.contains(&id) && lost.take(&id).is_none());
        lost.report(id).used();
        assert!(!lost.contains(&id));
        drop(lost.report(id));
        assert!(lost.contains(&id));
        let again = lost.take(&id).unwrap();
        assert!(!lost.contains(&id) && lost.take(&id).is_none());
        drop(again);
        assert!(lost.contains(&id));
        tokio::time::advance(LOST_MAX).await;
        assert!(!lost.contains(&id) && lost.take(&id).is_none());
    }
}
