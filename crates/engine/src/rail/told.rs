//! Success that was reported in the journal and whose answer never left: it may be reported again, for a while.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use quittance_core::PaymentId;
use tokio::time::Instant;

/// For how long success may be reported again after its answer was dropped. A seller that has lost the connection asks again
/// within seconds, and its buyer still waits then; whoever comes later looks at `/settlements/{id}`.
const UNHEARD_MAX: Duration = Duration::from_secs(60);

/// The settlements whose success was reported in the journal and in no answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unheard(Arc<DashMap<PaymentId, Instant>>);

/// The right to report success in one answer. Dropped unused, as when the caller hangs up, it is left to the next who asks with
/// the same request.
#[derive(Debug)]
pub(crate) struct Telling {
    id: PaymentId,
    unheard: Unheard,
    is_used: bool,
}

impl Unheard {
    /// Notes that the answer which reported success did not reach its caller.
    pub(crate) fn note(&self, id: PaymentId) {
        self.0.retain(|_, since| since.elapsed() < UNHEARD_MAX);
        self.0.insert(id, Instant::now());
    }

    /// Whether success may be reported again.
    pub(crate) fn has(&self, id: &PaymentId) -> bool {
        let since = self.0.get(id);
        since.is_some_and(|since| since.elapsed() < UNHEARD_MAX)
    }

    /// The right to report success again. Of many who ask, one gets it.
    pub(crate) fn take(&self, id: &PaymentId) -> Option<Telling> {
        let (id, since) = self.0.remove(id)?;
        (since.elapsed() < UNHEARD_MAX).then(|| self.telling(id))
    }

    /// The right to report success that was just written down as reported.
    pub(crate) fn telling(&self, id: PaymentId) -> Telling {
        Telling {
            id,
            unheard: self.clone(),
            is_used: false,
        }
    }
}

impl Telling {
    /// The answer is made, and handed to the caller at once.
    pub(crate) fn used(mut self) {
        self.is_used = true;
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        if !self.is_used {
            self.unheard.note(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_nobody_heard_is_told_once_more_and_not_for_ever() {
        let unheard = Unheard::default();
        let id = PaymentId::from_parts(&[b"a"]);
        assert!(!unheard.has(&id) && unheard.take(&id).is_none());
        unheard.telling(id).used();
        assert!(!unheard.has(&id));
        drop(unheard.telling(id));
        assert!(unheard.has(&id));
        let again = unheard.take(&id).unwrap();
        assert!(!unheard.has(&id) && unheard.take(&id).is_none());
        drop(again);
        assert!(unheard.has(&id));
        tokio::time::advance(UNHEARD_MAX).await;
        assert!(!unheard.has(&id) && unheard.take(&id).is_none());
    }
}
