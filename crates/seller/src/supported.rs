//! What the facilitator settles, as it said a moment ago.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex as Cell, MutexGuard, PoisonError};
use std::time::Duration;

use quittance_core::wire::SupportedResponse;
use quittance_core::{Facilitator, FacilitatorError, Fault, FaultKind};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tracing::warn;

/// For how long the facilitator's word is believed.
const KEPT: Duration = Duration::from_secs(30);

/// For how long a failure, or the word that nothing can be settled, is believed: long enough that a burst of requests asks
/// once, short enough that nobody notices when the facilitator is back.
const FAILURE_KEPT: Duration = Duration::from_secs(2);

/// For how long after it was replaced a former word still counts for payments that come now: a buyer was told its terms, and
/// has a minute to pay by the schemes whose payments live shortest.
const FORMER_KEPT: Duration = Duration::from_secs(60);

/// How long the facilitator may take to say it. It answers from memory; a buyer waits for this.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the facilitator settles, asked by one request at a time for all.
#[derive(Default)]
pub(crate) struct Supported {
    known: Cell<Known>,
    /// Held by who asks the facilitator. No lock on what is known is held meanwhile.
    asking: Mutex<()>,
}

#[derive(Clone, Default)]
struct Known {
    word: Option<(Instant, Arc<SupportedResponse>)>,
    /// Those that were replaced, the newest first, with when they were. They differ where a facilitator has, say, several
    /// fee payers, and names them in turn.
    former: VecDeque<(Instant, Arc<SupportedResponse>)>,
    failure: Option<(Instant, Fault)>,
}

impl Known {
    /// Takes a new word.
    fn hear(&mut self, word: Arc<SupportedResponse>) {
        let now = Instant::now();
        let replaced = self.word.replace((now, word));
        if let Some((_, replaced)) = replaced {
            self.former.push_front((now, replaced));
        }
        self.former
            .retain(|(replaced, _)| replaced.elapsed() < FORMER_KEPT);
        self.failure = None;
    }

    /// What can be answered without asking the facilitator; `stale` says whether an old word will do.
    fn answer(&self, stale: bool) -> Option<Result<Arc<SupportedResponse>, Fault>> {
        if let Some((said, word)) = &self.word {
            let kept = match word.kinds.is_empty() {
                true => FAILURE_KEPT,
                false => KEPT,
            };
            if stale || said.elapsed() < kept {
                return Some(Ok(Arc::clone(word)));
            }
        }
        let (failed, fault) = self.failure.as_ref()?;
        if failed.elapsed() >= FAILURE_KEPT {
            return None;
        }
        // What it said before stands: its own refusal would come soon enough.
        match &self.word {
            Some((_, word)) => Some(Ok(Arc::clone(word))),
            None => Some(Err(fault.clone())),
        }
    }
}

impl Supported {
    /// The facilitator's word. Whoever finds it old asks for a new one; the others go on with the old one, or, where there
    /// is none, wait for the one who asks.
    pub(crate) async fn get(
        &self,
        facilitator: &dyn Facilitator,
    ) -> Result<Arc<SupportedResponse>, Fault> {
        if let Some(answer) = self.known().answer(false) {
            return answer;
        }
        let _asking = match self.asking.try_lock() {
            Ok(asking) => asking,
            Err(_) => {
                if let Some(answer) = self.known().answer(true) {
                    return answer;
                }
                self.asking.lock().await
            }
        };
        // Somebody else may have asked in the meantime.
        if let Some(answer) = self.known().answer(false) {
            return answer;
        }
        self.ask(facilitator).await
    }

    /// What it said before, the newest first, as far as buyers may still go by it.
    pub(crate) fn former(&self) -> Vec<Arc<SupportedResponse>> {
        let known = self.known();
        let former = known.former.iter();
        former
            .filter(|(replaced, _)| replaced.elapsed() < FORMER_KEPT)
            .map(|(_, word)| Arc::clone(word))
            .collect()
    }

    async fn ask(&self, facilitator: &dyn Facilitator) -> Result<Arc<SupportedResponse>, Fault> {
        let asked = timeout(TIMEOUT, facilitator.supported()).await;
        let fault = match asked {
            Ok(Ok(supported)) => {
                let word = Arc::new(supported);
                self.known().hear(Arc::clone(&word));
                return Ok(word);
            }
            Ok(Err(FacilitatorError::Fault(fault))) => fault,
            Ok(Err(FacilitatorError::Malformed(malformed))) => {
                Fault::new(FaultKind::FacilitatorUnreachable, malformed)
            }
            Err(_) => Fault::new(
                FaultKind::FacilitatorUnreachable,
                "/supported: no answer in time",
            ),
        };
        warn!(%fault, "the facilitator does not say what it settles");
        let mut known = self.known();
        known.failure = Some((Instant::now(), fault.clone()));
        known.answer(true).unwrap_or(Err(fault))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change is one assignment; whoever panicked with the lock left it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use quittance_core::PaymentRequest;
    use quittance_core::wire::{SettleResponse, VerifyResponse};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use tokio::time::{advance, sleep};

    /// A facilitator that takes a second to say what it settles, or hangs.
    #[derive(Default)]
    struct Slow {
        asked: AtomicUsize,
        down: AtomicBool,
        hangs: AtomicBool,
    }

    #[async_trait]
    impl Facilitator for Slow {
        async fn verify(&self, _: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
            unreachable!("nobody verifies")
        }

        async fn settle(&self, _: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
            unreachable!("nobody settles")
        }

        async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.hangs.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            sleep(Duration::from_secs(1)).await;
            if self.down.load(Ordering::SeqCst) {
                return Err(Fault::new(FaultKind::Internal, "down").into());
            }
            let text = r#"{"kinds":[{"x402Version":2,"scheme":"exact","network":"a:1"}]}"#;
            Ok(serde_json::from_str(text).unwrap())
        }
    }

    async fn ask_50(supported: &Supported, slow: &Slow) -> Vec<bool> {
        let asks = (0..50).map(|_| supported.get(slow));
        let mut answers = Vec::new();
        let mut asks: Vec<_> = asks.map(Box::pin).collect();
        std::future::poll_fn(|context| {
            asks.retain_mut(|ask| match ask.as_mut().poll(context) {
                std::task::Poll::Ready(answer) => {
                    answers.push(answer.is_ok());
                    false
                }
                std::task::Poll::Pending => true,
            });
            match asks.is_empty() {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
        answers
    }

    /// The defect: requests queued up for a lock and each asked again when it was its turn.
    #[tokio::test(start_paused = true)]
    async fn a_burst_of_requests_asks_a_facilitator_once_whether_it_answers_or_not() {
        for down in [false, true] {
            let (supported, slow) = (Supported::default(), Slow::default());
            slow.down.store(down, Ordering::SeqCst);
            let answers = ask_50(&supported, &slow).await;
            assert_eq!(answers, [!down; 50]);
            assert_eq!(ask_50(&supported, &slow).await, [!down; 50]);
            assert_eq!(slow.asked.load(Ordering::SeqCst), 1);
            advance(match down {
                true => FAILURE_KEPT,
                false => KEPT,
            })
            .await;
            ask_50(&supported, &slow).await;
            assert_eq!(slow.asked.load(Ordering::SeqCst), 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_word_is_served_while_the_facilitator_is_asked_and_when_it_fails() {
        let (supported, slow) = (Supported::default(), Slow::default());
        supported.get(&slow).await.unwrap();
        advance(KEPT).await;
        slow.hangs.store(true, Ordering::SeqCst);
        let began = Instant::now();
        assert_eq!(ask_50(&supported, &slow).await, [true; 50]);
        assert_eq!(began.elapsed(), TIMEOUT);
        // 49 of them waited for nothing: the one who asked is the last.
        let (first, second) = (supported.get(&slow), supported.get(&slow));
        assert!(first.await.is_ok() && second.await.is_ok());
        assert_eq!(slow.asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_former_word_counts_for_as_long_as_a_buyer_may_go_by_it() {
        let (supported, slow) = (Supported::default(), Slow::default());
        let first = supported.get(&slow).await.unwrap();
        assert!(supported.former().is_empty());
        advance(KEPT).await;
        let second = supported.get(&slow).await.unwrap();
        assert!(Arc::ptr_eq(&supported.former()[0], &first));
        advance(KEPT).await;
        supported.get(&slow).await.unwrap();
        let former = supported.former();
        assert!(Arc::ptr_eq(&former[0], &second) && Arc::ptr_eq(&former[1], &first));
        advance(FORMER_KEPT).await;
        assert!(supported.former().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_facilitator_that_hangs_is_given_up_and_no_request_hangs_with_it() {
        let (supported, slow) = (Supported::default(), Slow::default());
        slow.hangs.store(true, Ordering::SeqCst);
        assert!(supported.get(&slow).await.is_err());
        slow.hangs.store(false, Ordering::SeqCst);
        advance(FAILURE_KEPT).await;
        assert!(supported.get(&slow).await.is_ok());
    }
}
