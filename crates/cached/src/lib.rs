//! A cache for one value. Many tasks read it, and one task at a time fetches it.
//!
//! [`Cached`] keeps the last value and the last failure, each for its own lifetime ([`Lifetimes`]).
//! A burst of readers causes one fetch, whether that succeeds or fails. While it runs, the other
//! readers get the previous value, if it may still be used; otherwise they wait for the fetch.
//!
//! ```
//! use std::time::Duration;
//!
//! use quittance_cached::{Cached, Lifetimes};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let price: Cached<u64, String> = Cached::new(Lifetimes::fresh(Duration::from_secs(3)));
//! assert_eq!(price.get(|| async { Ok(7) }).await, Ok(7));
//! // Three seconds have not passed, so nothing is fetched.
//! assert_eq!(price.get(|| async { unreachable!() }).await, Ok(7));
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

/// For how long a [`Cached`] value and a failure to fetch it are used.
///
/// A value's age counts from the moment at which its fetch began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lifetimes {
    /// A value younger than this is returned without a fetch.
    pub fresh: Duration,
    /// A value younger than this is returned while another task fetches, and after a failed fetch.
    pub stale: Duration,
    /// A failure younger than this is returned without a fetch, where no value may be used.
    pub failure: Duration,
    /// Whether readers wait for a fetch that follows a failed one. If not, they get the failure, so
    /// that at most one reader at a time waits for a source that is down.
    pub wait_after_failure: bool,
}

impl Lifetimes {
    /// Values are used for this time and no longer. Failures are not kept.
    pub fn fresh(fresh: Duration) -> Self {
        Self {
            fresh,
            stale: fresh,
            failure: Duration::ZERO,
            wait_after_failure: true,
        }
    }

    /// The same lifetimes, with values up to this age returned while another task fetches, and
    /// after a failed fetch.
    #[must_use]
    pub fn stale(self, stale: Duration) -> Self {
        Self { stale, ..self }
    }

    /// The same lifetimes, with failures kept for this time.
    #[must_use]
    pub fn failure(self, failure: Duration) -> Self {
        Self { failure, ..self }
    }

    /// The same lifetimes, with readers that do not wait for a fetch that follows a failed one.
    #[must_use]
    pub fn no_wait_after_failure(self) -> Self {
        Self {
            wait_after_failure: false,
            ..self
        }
    }
}

/// A value that one task at a time fetches for all.
///
/// `T` and `E` are cloned for every reader: use `Arc` for what is large.
pub struct Cached<T, E> {
    lifetimes: Lifetimes,
    freshness: Option<fn(&T) -> Duration>,
    known: Mutex<Known<T, E>>,
    /// Held by the task that fetches. The lock on `known` is not held across a fetch.
    fetching: AsyncMutex<()>,
}

struct Known<T, E> {
    /// The last value, with the moment at which its fetch began.
    value: Option<(Instant, T)>,
    /// The failure of the last fetch, with the moment at which it failed.
    failure: Option<(Instant, E)>,
}

impl<T: Clone, E: Clone> Cached<T, E> {
    /// Starts without a value: the first reader fetches one.
    pub fn new(lifetimes: Lifetimes) -> Self {
        Self {
            lifetimes,
            freshness: None,
            known: Mutex::new(Known {
                value: None,
                failure: None,
            }),
            fetching: AsyncMutex::new(()),
        }
    }

    /// The same cache, with a lifetime that depends on the value instead of
    /// [`fresh`](Lifetimes::fresh).
    #[must_use]
    pub fn with_freshness(self, freshness: fn(&T) -> Duration) -> Self {
        Self {
            freshness: Some(freshness),
            ..self
        }
    }

    /// The value, fetched if it is not fresh and no other task fetches it.
    ///
    /// A caller that is dropped while it fetches leaves everything as it was, and the next caller
    /// fetches. `fetch` should have a time limit of its own, because other callers may wait for it.
    ///
    /// # Errors
    /// The failure of the last fetch, where no earlier value may be used.
    pub async fn get<F>(&self, fetch: impl FnOnce() -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        if let Some(answer) = self.answer() {
            return answer;
        }
        let _fetching = match self.fetching.try_lock() {
            Ok(fetching) => fetching,
            Err(_) => {
                if let Some(answer) = self.answer_during_fetch() {
                    return answer;
                }
                let waiting_since = Instant::now();
                let fetching = self.fetching.lock().await;
                // If the fetch for which this caller waited has failed, it does not fetch again.
                if let Some(failure) = self.failure_since(waiting_since) {
                    return self.usable().ok_or(failure);
                }
                fetching
            }
        };
        // Another task may have fetched between the first look and the lock.
        if let Some(answer) = self.answer() {
            return answer;
        }
        self.fetch(fetch()).await
    }

    async fn fetch(&self, fetch: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let began = Instant::now();
        match fetch.await {
            Ok(value) => {
                *self.known() = Known {
                    value: Some((began, value.clone())),
                    failure: None,
                };
                Ok(value)
            }
            Err(failure) => {
                self.known().failure = Some((Instant::now(), failure.clone()));
                self.usable().ok_or(failure)
            }
        }
    }

    /// What is answered without a fetch.
    fn answer(&self) -> Option<Result<T, E>> {
        let known = self.known();
        if let Some((began, value)) = &known.value {
            let fresh = match self.freshness {
                Some(freshness) => freshness(value),
                None => self.lifetimes.fresh,
            };
            if began.elapsed() < fresh {
                return Some(Ok(value.clone()));
            }
        }
        let (failed, failure) = known.failure.as_ref()?;
        if failed.elapsed() >= self.lifetimes.failure {
            return None;
        }
        let usable = self.usable_of(&known);
        Some(usable.ok_or_else(|| failure.clone()))
    }

    /// What is answered while another task fetches.
    fn answer_during_fetch(&self) -> Option<Result<T, E>> {
        let known = self.known();
        if let Some(value) = self.usable_of(&known) {
            return Some(Ok(value));
        }
        let failure = known.failure.as_ref();
        let failure = failure.filter(|_| !self.lifetimes.wait_after_failure);
        failure.map(|(_, failure)| Err(failure.clone()))
    }

    fn failure_since(&self, moment: Instant) -> Option<E> {
        let known = self.known();
        let failure = known.failure.as_ref();
        let failure = failure.filter(|(failed, _)| *failed >= moment);
        failure.map(|(_, failure)| failure.clone())
    }

    /// The last value, if it is young enough to be used without a fetch that succeeded.
    fn usable(&self) -> Option<T> {
        self.usable_of(&self.known())
    }

    fn usable_of(&self, known: &Known<T, E>) -> Option<T> {
        let (began, value) = known.value.as_ref()?;
        (began.elapsed() < self.lifetimes.stale).then(|| value.clone())
    }

    fn known(&self) -> MutexGuard<'_, Known<T, E>> {
        // Each change is one assignment, so a panic of another task leaves it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, E> fmt::Debug for Cached<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached")
            .field("lifetimes", &self.lifetimes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use futures_util::future::join_all;
    use tokio::time::{advance, sleep};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A source that takes a second and counts its fetches.
    #[derive(Default)]
    struct Source {
        fetches: AtomicU32,
        down: AtomicBool,
    }

    impl Source {
        async fn fetch(&self) -> Result<u32, &'static str> {
            let number = self.fetches.fetch_add(1, Ordering::SeqCst) + 1;
            sleep(SECOND).await;
            match self.down.load(Ordering::SeqCst) {
                true => Err("down"),
                false => Ok(number),
            }
        }

        fn fetches(&self) -> u32 {
            self.fetches.load(Ordering::SeqCst)
        }
    }

    type Cache = Cached<u32, &'static str>;

    async fn get(cache: &Cache, source: &Source) -> Result<u32, &'static str> {
        cache.get(|| source.fetch()).await
    }

    async fn burst(cache: &Cache, source: &Source) -> Vec<Result<u32, &'static str>> {
        join_all((0..50).map(|_| get(cache, source))).await
    }

    #[tokio::test(start_paused = true)]
    async fn burst_of_readers_causes_one_fetch() {
        let (cache, source) = (Cache::new(Lifetimes::fresh(3 * SECOND)), Source::default());
        assert_eq!(burst(&cache, &source).await, [Ok(1); 50]);
        advance(SECOND).await;
        assert_eq!(burst(&cache, &source).await, [Ok(1); 50]);
        advance(SECOND).await;
        assert_eq!(burst(&cache, &source).await, [Ok(2); 50]);
    }

    #[tokio::test(start_paused = true)]
    async fn burst_during_failed_fetch_shares_the_failure() {
        let (cache, source) = (Cache::new(Lifetimes::fresh(3 * SECOND)), Source::default());
        source.down.store(true, Ordering::SeqCst);
        assert_eq!(burst(&cache, &source).await, [Err("down"); 50]);
        assert_eq!(source.fetches(), 1);
        // The failure itself is not kept.
        advance(Duration::from_millis(1)).await;
        source.down.store(false, Ordering::SeqCst);
        assert_eq!(get(&cache, &source).await, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn stale_value_is_returned_while_another_task_fetches() {
        let lifetimes = Lifetimes::fresh(SECOND).stale(10 * SECOND);
        let (cache, source) = (Cache::new(lifetimes), Source::default());
        get(&cache, &source).await.unwrap();
        let answers = burst(&cache, &source).await;
        assert_eq!(answers.iter().filter(|answer| **answer == Ok(2)).count(), 1);
        assert_eq!(
            answers.iter().filter(|answer| **answer == Ok(1)).count(),
            49
        );
    }

    #[tokio::test(start_paused = true)]
    async fn stale_value_is_returned_after_failure_until_too_old() {
        let lifetimes = Lifetimes::fresh(SECOND).stale(10 * SECOND);
        let (cache, source) = (Cache::new(lifetimes), Source::default());
        get(&cache, &source).await.unwrap();
        source.down.store(true, Ordering::SeqCst);
        assert_eq!(get(&cache, &source).await, Ok(1));
        advance(8 * SECOND).await;
        assert_eq!(get(&cache, &source).await, Err("down"));
    }

    #[tokio::test(start_paused = true)]
    async fn failure_is_returned_without_fetch_for_its_lifetime() {
        let lifetimes = Lifetimes::fresh(SECOND).failure(5 * SECOND);
        let (cache, source) = (Cache::new(lifetimes), Source::default());
        source.down.store(true, Ordering::SeqCst);
        assert_eq!(get(&cache, &source).await, Err("down"));
        source.down.store(false, Ordering::SeqCst);
        advance(4 * SECOND).await;
        assert_eq!(get(&cache, &source).await, Err("down"));
        advance(SECOND).await;
        assert_eq!(get(&cache, &source).await, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn reader_without_wait_gets_the_failure_at_once() {
        let lifetimes = Lifetimes::fresh(SECOND).no_wait_after_failure();
        let (cache, source) = (Cache::new(lifetimes), Source::default());
        source.down.store(true, Ordering::SeqCst);
        assert_eq!(get(&cache, &source).await, Err("down"));
        source.down.store(false, Ordering::SeqCst);
        let answers = burst(&cache, &source).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
        assert_eq!(source.fetches(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn dropped_fetch_is_made_by_the_next_reader() {
        let (cache, source) = (Cache::new(Lifetimes::fresh(3 * SECOND)), Source::default());
        let dropped = tokio::time::timeout(SECOND / 2, get(&cache, &source)).await;
        assert!(dropped.is_err());
        assert_eq!(burst(&cache, &source).await, [Ok(2); 50]);
    }

    #[tokio::test(start_paused = true)]
    async fn lifetime_may_depend_on_the_value() {
        let lifetimes = Lifetimes::fresh(Duration::ZERO);
        let freshness = |value: &u32| SECOND * 2 * *value;
        let cache = Cache::new(lifetimes).with_freshness(freshness);
        let source = Source::default();
        get(&cache, &source).await.unwrap();
        assert_eq!(get(&cache, &source).await, Ok(1));
        advance(SECOND).await;
        assert_eq!(get(&cache, &source).await, Ok(2));
        advance(2 * SECOND).await;
        assert_eq!(get(&cache, &source).await, Ok(2));
    }
}
