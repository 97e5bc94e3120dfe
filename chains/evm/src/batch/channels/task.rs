//! Upkeep by itself: a task that calls it every minute.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quittance_core::{Fault, FaultKind};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{Instrument, Span, error};

use super::upkeep::AGAIN_SECS;
use super::{Channels, UpkeepReport};

/// How often the task calls the upkeep: as often as a claim that has failed comes again.
const EVERY: Duration = Duration::from_secs(AGAIN_SECS);

/// The task that keeps a seller's channels up, by [`Channels::spawn_upkeep`]. Dropping it ends the
/// task; a call that has begun still ends by itself.
#[must_use = "the upkeep ends when this is dropped"]
#[derive(Debug)]
pub struct UpkeepTask {
    task: JoinHandle<()>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU64,
    faults: AtomicU64,
}

impl UpkeepTask {
    /// How many calls of the upkeep have ended.
    pub fn calls(&self) -> u64 {
        self.counts.calls.load(Ordering::Relaxed)
    }

    /// How many of them have ended with a fault. The log has the reasons.
    pub fn faults(&self) -> u64 {
        self.counts.faults.load(Ordering::Relaxed)
    }
}

impl Drop for UpkeepTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Channels {
    /// Starts a task that calls [`upkeep`](Self::upkeep) now and every minute. A fault is logged
    /// and counted, and the next call is made nevertheless. Keep the returned value as long as the
    /// seller runs: the task ends with it.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn spawn_upkeep(&self) -> UpkeepTask {
        let (channels, counts) = (self.clone(), Arc::<Counts>::default());
        let counted = Arc::clone(&counts);
        let task = async move {
            let mut minutes = interval(EVERY);
            // After a call that took longer, the next one still has a minute for its answers.
            minutes.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                minutes.tick().await;
                let ended = channels.upkeep_apart().await;
                counted.calls.fetch_add(1, Ordering::Relaxed);
                if let Err(fault) = ended {
                    error!(%fault, "the upkeep of channels has failed: the next one is in a minute");
                    counted.faults.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        UpkeepTask {
            task: tokio::spawn(task.instrument(Span::current())),
            counts,
        }
    }

    /// The upkeep in a task of its own. It is not cut off between a claim and its note in the
    /// books, and a panic in it does not end the calls after it.
    async fn upkeep_apart(&self) -> Result<UpkeepReport, Fault> {
        let channels = self.clone();
        let call = async move { channels.upkeep().await };
        let ended = tokio::spawn(call.instrument(Span::current())).await;
        ended.unwrap_or_else(|error| Err(Fault::new(FaultKind::Internal, error)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use alloy::signers::local::PrivateKeySigner;
    use async_trait::async_trait;
    use quittance_core::wire::{SettleResponse, SupportedResponse, VerifyResponse};
    use quittance_core::{
        Facilitator, FacilitatorError, PaymentRequest, SchemeState, SignatureClaim,
        SignatureVerifier, StateId, StateStore, Timestamp,
    };
    use tokio::time::{advance, sleep};

    use super::*;

    /// How a reading of the store ends.
    #[derive(Clone, Copy)]
    enum Reading {
        Empty,
        Fault,
        Panic,
    }

    /// A store of no channels. Each reading ends as its script says.
    struct Scripted {
        next: Mutex<Vec<Reading>>,
    }

    #[async_trait]
    impl StateStore for Scripted {
        async fn state(&self, _: &StateId) -> Result<Option<SchemeState>, Fault> {
            Ok(None)
        }

        async fn write_state(&self, _: &SchemeState) -> Result<bool, Fault> {
            Ok(false)
        }

        async fn due_states(
            &self,
            _: &str,
            _: &str,
            _: Timestamp,
            _: Timestamp,
            _: u32,
        ) -> Result<Vec<SchemeState>, Fault> {
            let next = self.next.lock().unwrap().pop();
            match next.expect("no more readings than the script has") {
                Reading::Empty => Ok(Vec::new()),
                Reading::Fault => Err(Fault::new(FaultKind::JournalUnavailable, "disk full")),
                Reading::Panic => panic!("a mistake in the store"),
            }
        }

        async fn put_off_states(
            &self,
            _: &[(SchemeState, Option<Timestamp>)],
        ) -> Result<(), Fault> {
            Ok(())
        }
    }

    /// A facilitator and a verifier that are never asked.
    struct Never;

    #[async_trait]
    impl Facilitator for Never {
        async fn verify(&self, _: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
            unreachable!("nothing is sold")
        }

        async fn settle(&self, _: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
            unreachable!("nothing is claimed")
        }

        async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
            unreachable!("nothing is offered")
        }
    }

    #[async_trait]
    impl SignatureVerifier for Never {
        async fn verify(&self, _: &[SignatureClaim]) -> Result<Vec<bool>, Fault> {
            unreachable!("nothing is signed")
        }
    }

    /// The task must outlive whatever its calls end with: a seller that is not kept up loses what
    /// its payers withdraw.
    #[tokio::test(start_paused = true)]
    async fn neither_faults_nor_panics_end_the_calls_of_each_minute() {
        use Reading::{Empty, Fault, Panic};
        let store = Arc::new(Scripted {
            next: Mutex::new(vec![Empty, Fault, Panic, Fault, Empty]),
        });
        let left = || store.next.lock().unwrap().len();
        let channels = Channels::new(
            "base",
            Arc::new(Never),
            store.clone(),
            Arc::new(Never),
            PrivateKeySigner::random(),
        );
        let channels = channels.unwrap();
        let task = channels.spawn_upkeep();
        for (calls, faults) in [(1, 0), (2, 1), (3, 2), (4, 3)] {
            // One call at the start of each minute, and none before the next.
            sleep(Duration::from_millis(1)).await;
            assert_eq!((task.calls(), task.faults()), (calls, faults));
            advance(EVERY - Duration::from_millis(2)).await;
            assert_eq!(task.calls(), calls);
            advance(Duration::from_millis(1)).await;
        }
        drop(task);
        assert_eq!(left(), 1);
        sleep(10 * EVERY).await;
        assert_eq!(left(), 1);
    }
}
