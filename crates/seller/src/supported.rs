//! What the facilitator settles, cached.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quittance_cached::{Cached, Lifetimes};
use quittance_core::wire::SupportedResponse;
use quittance_core::{Facilitator, FacilitatorError, Fault, FaultKind};
use tokio::time::{Instant, timeout};
use tracing::warn;

/// How long a response is used.
const FRESH: Duration = Duration::from_secs(30);

/// How long a failure, or a response without any kind, is used. A burst of requests then causes one
/// request to the facilitator, and a facilitator that recovers is noticed soon.
const FAILURE: Duration = Duration::from_secs(2);

/// How long payments for options of a replaced response are accepted. A buyer that got them has a
/// minute to pay, with the schemes whose payments expire soonest.
const REPLACED_FOR: Duration = Duration::from_secs(60);

/// How long a request for `/supported` may take. The facilitator answers from memory, and buyers
/// wait.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the facilitator settles. One request at a time asks it for all. An old response is used
/// while it is asked, and for as long as it does not answer: its own refusals would come soon
/// enough.
pub(crate) struct SupportedCache {
    cached: Cached<Arc<SupportedResponse>, Fault>,
    history: Mutex<ResponseHistory>,
}

#[derive(Default)]
struct ResponseHistory {
    latest: Option<Arc<SupportedResponse>>,
    /// Earlier responses with the time of their replacement, the newest first. They differ if, for
    /// example, a facilitator has several fee payers and names them in turn.
    replaced: VecDeque<(Instant, Arc<SupportedResponse>)>,
}

impl ResponseHistory {
    fn add(&mut self, response: Arc<SupportedResponse>) {
        if let Some(replaced) = self.latest.replace(response) {
            self.replaced.push_front((Instant::now(), replaced));
        }
        self.replaced
            .retain(|(replaced, _)| replaced.elapsed() < REPLACED_FOR);
    }
}

impl Default for SupportedCache {
    fn default() -> Self {
        let lifetimes = Lifetimes::fresh(FRESH)
            .stale(Duration::MAX)
            .failure(FAILURE);
        Self {
            cached: Cached::new(lifetimes).with_freshness(freshness),
            history: Mutex::default(),
        }
    }
}

fn freshness(response: &Arc<SupportedResponse>) -> Duration {
    match response.kinds.is_empty() {
        true => FAILURE,
        false => FRESH,
    }
}

impl SupportedCache {
    /// The facilitator's response.
    ///
    /// # Errors
    /// When the facilitator has never answered, and did not answer now.
    pub(crate) async fn get(
        &self,
        facilitator: &dyn Facilitator,
    ) -> Result<Arc<SupportedResponse>, Fault> {
        self.cached.get(|| self.fetch(facilitator)).await
    }

    /// The replaced responses whose options buyers may still have, the newest first.
    pub(crate) fn replaced(&self) -> Vec<Arc<SupportedResponse>> {
        let history = self.history();
        let replaced = history.replaced.iter();
        replaced
            .filter(|(replaced, _)| replaced.elapsed() < REPLACED_FOR)
            .map(|(_, response)| Arc::clone(response))
            .collect()
    }

    async fn fetch(&self, facilitator: &dyn Facilitator) -> Result<Arc<SupportedResponse>, Fault> {
        let answered = timeout(TIMEOUT, facilitator.supported()).await;
        let fault = match answered {
            Ok(Ok(supported)) => {
                let response = Arc::new(supported);
                self.history().add(Arc::clone(&response));
                return Ok(response);
            }
            Ok(Err(FacilitatorError::Fault(fault))) => fault,
            Ok(Err(FacilitatorError::Malformed(malformed))) => {
                Fault::new(FaultKind::FacilitatorUnreachable, malformed)
            }
            Err(_) => {
                let problem = format!("/supported: no response within {} s", TIMEOUT.as_secs());
                Fault::new(FaultKind::FacilitatorUnreachable, problem)
            }
        };
        warn!(%fault, "the facilitator's /supported is unavailable");
        Err(fault)
    }

    fn history(&self) -> MutexGuard<'_, ResponseHistory> {
        // A panic between two changes leaves at most a response that is replaced too early.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// A facilitator whose `/supported` takes a second, fails or hangs.
    #[derive(Default)]
    struct SlowFacilitator {
        requests: AtomicUsize,
        down: AtomicBool,
        hangs: AtomicBool,
    }

    #[async_trait]
    impl Facilitator for SlowFacilitator {
        async fn verify(&self, _: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
            unreachable!("no test verifies")
        }

        async fn settle(&self, _: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
            unreachable!("no test settles")
        }

        async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
            self.requests.fetch_add(1, Ordering::SeqCst);
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

    async fn get_50(supported: &SupportedCache, slow: &SlowFacilitator) -> Vec<bool> {
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

    /// Once, requests waited for a lock, and each asked the facilitator again in its turn.
    #[tokio::test(start_paused = true)]
    async fn burst_of_requests_asks_the_facilitator_once() {
        for down in [false, true] {
            let (supported, slow) = (SupportedCache::default(), SlowFacilitator::default());
            slow.down.store(down, Ordering::SeqCst);
            let answers = get_50(&supported, &slow).await;
            assert_eq!(answers, [!down; 50]);
            assert_eq!(get_50(&supported, &slow).await, [!down; 50]);
            assert_eq!(slow.requests.load(Ordering::SeqCst), 1);
            advance(match down {
                true => FAILURE,
                false => FRESH,
            })
            .await;
            get_50(&supported, &slow).await;
            assert_eq!(slow.requests.load(Ordering::SeqCst), 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn old_response_is_used_during_and_after_a_failed_request() {
        let (supported, slow) = (SupportedCache::default(), SlowFacilitator::default());
        supported.get(&slow).await.unwrap();
        advance(FRESH).await;
        slow.hangs.store(true, Ordering::SeqCst);
        let began = Instant::now();
        assert_eq!(get_50(&supported, &slow).await, [true; 50]);
        assert_eq!(began.elapsed(), TIMEOUT);
        // 49 of them did not wait: the one that asked came last.
        let (first, second) = (supported.get(&slow), supported.get(&slow));
        assert!(first.await.is_ok() && second.await.is_ok());
        assert_eq!(slow.requests.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn replaced_response_is_kept_while_buyers_may_use_it() {
        let (supported, slow) = (SupportedCache::default(), SlowFacilitator::default());
        let first = supported.get(&slow).await.unwrap();
        assert!(supported.replaced().is_empty());
        advance(FRESH).await;
        let second = supported.get(&slow).await.unwrap();
        assert!(Arc::ptr_eq(&supported.replaced()[0], &first));
        advance(FRESH).await;
        supported.get(&slow).await.unwrap();
        let replaced = supported.replaced();
        assert!(Arc::ptr_eq(&replaced[0], &second) && Arc::ptr_eq(&replaced[1], &first));
        advance(REPLACED_FOR).await;
        assert!(supported.replaced().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn request_to_a_hanging_facilitator_ends_in_time() {
        let (supported, slow) = (SupportedCache::default(), SlowFacilitator::default());
        slow.hangs.store(true, Ordering::SeqCst);
        assert!(supported.get(&slow).await.is_err());
        slow.hangs.store(false, Ordering::SeqCst);
        advance(FAILURE).await;
        assert!(supported.get(&slow).await.is_ok());
    }
}
