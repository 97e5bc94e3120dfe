//! The queue in front of the signature verifier.
//!
//! Checking a signature takes tens of microseconds of arithmetic. That is too long for the threads
//! that serve callers, and a batch takes less time per signature. So claims wait in a queue for
//! dedicated threads. Each thread takes all waiting claims: one payment under low load, and larger
//! batches under high load. No claim waits until a batch is full.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use quittance_core::{Fault, FaultKind, SignatureClaim, SignatureVerifier};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::{Verifier, VerifierConfig};

/// How many claims may wait. One core checks them in half a second even one by one. A longer queue
/// would only delay all callers.
const WAITING_MAX: usize = 8192;

/// How many claims one batch has at most. Larger batches gain little, and the limit bounds their
/// memory.
const BATCH_MAX: usize = 1024;

/// How long a caller waits: far longer than a full queue takes.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Verifies claims: the verdict on each in their order, `None` where there is none.
type Check = dyn Fn(&[&SignatureClaim]) -> Vec<Option<bool>> + Send + Sync;

/// A verifier for async code: a queue of claims, and threads that verify all that wait together.
///
/// Clones share the queue. Its threads end when the last clone is dropped. It must be used in a
/// runtime of Tokio.
///
/// ```
/// use quittance_core::{SignatureClaim, SignatureVerifier};
/// use quittance_verify::VerifierQueue;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), quittance_core::Fault> {
/// let queue = VerifierQueue::start()?;
/// let claim = SignatureClaim::Secp256k1 { digest: [1; 32], signature: [0; 65], address: [2; 20] };
/// assert_eq!(queue.verify(&[claim]).await?, [false]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct VerifierQueue(Arc<Closer>);

/// Closes the queue when dropped.
struct Closer(Arc<Workers>);

/// What the threads share.
struct Workers {
    queue: Mutex<Queue>,
    arrived: Condvar,
    check: Box<Check>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// The number of waiting claims.
    claims: usize,
    closed: bool,
}

/// The claims of one payment, and the way back to its caller.
struct Waiting {
    claims: Vec<SignatureClaim>,
    answer: oneshot::Sender<Vec<bool>>,
}

impl VerifierQueue {
    /// A queue in front of a [`Verifier`] of its own, with a thread for each core.
    ///
    /// # Errors
    /// When the operating system gives no threads.
    pub fn start() -> Result<Self, Fault> {
        let verifier = Verifier::new(VerifierConfig::default());
        let verifier = verifier.map_err(|error| Fault::new(FaultKind::Internal, error))?;
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Self::with_check(threads, move |claims| {
            verifier.verify(claims).into_iter().map(Some).collect()
        })
    }

    /// A queue with this many threads that call `check`. It returns the verdict on each claim in
    /// their order, and `None` for a claim without a verdict, whose caller gets a fault. If it
    /// panics, or returns another number of verdicts, all callers of this batch get one.
    ///
    /// # Errors
    /// When the operating system gives no threads.
    pub fn with_check(
        threads: usize,
        check: impl Fn(&[&SignatureClaim]) -> Vec<Option<bool>> + Send + Sync + 'static,
    ) -> Result<Self, Fault> {
        let shared = Arc::new(Workers {
            queue: Mutex::default(),
            arrived: Condvar::new(),
            check: Box::new(check),
        });
        let handle = Self(Arc::new(Closer(Arc::clone(&shared))));
        for at in 0..threads.max(1) {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name(format!("signatures-{at}"))
                .spawn(move || shared.work())
                .map_err(|error| Fault::new(FaultKind::Internal, error))?;
        }
        Ok(handle)
    }
}

#[async_trait]
impl SignatureVerifier for VerifierQueue {
    /// [`FaultKind::Busy`] when too many claims wait already.
    async fn verify(&self, claims: &[SignatureClaim]) -> Result<Vec<bool>, Fault> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        let busy = || {
            let what = "too many signatures wait to be checked: retry";
            Fault::new(FaultKind::Busy, what)
        };
        let verdicts = self.0.0.push(claims).ok_or_else(busy)?;
        match timeout(WAIT_MAX, verdicts).await {
            Ok(Ok(verdicts)) => Ok(verdicts),
            Ok(Err(_)) => {
                let what = "a signature could not be checked";
                Err(Fault::new(FaultKind::Internal, what))
            }
            Err(_) => Err(busy()),
        }
    }
}

impl std::fmt::Debug for VerifierQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VerifierQueue")
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.locked().closed = true;
        self.0.arrived.notify_all();
    }
}

impl Workers {
    fn push(&self, claims: &[SignatureClaim]) -> Option<oneshot::Receiver<Vec<bool>>> {
        let (answer, verdicts) = oneshot::channel();
        let mut queue = self.locked();
        if queue.claims + claims.len() > WAITING_MAX {
            return None;
        }
        queue.claims += claims.len();
        queue.waiting.push_back(Waiting {
            claims: claims.to_vec(),
            answer,
        });
        drop(queue);
        self.arrived.notify_one();
        Some(verdicts)
    }

    fn work(&self) {
        while let Some(batch) = self.next() {
            let claims: Vec<&SignatureClaim> =
                batch.iter().flat_map(|waiting| &waiting.claims).collect();
            let verdicts = catch_unwind(AssertUnwindSafe(|| (self.check)(&claims))).ok();
            let verdicts = verdicts.filter(|verdicts| verdicts.len() == claims.len());
            let mut verdicts = verdicts.unwrap_or_default().into_iter();
            for waiting in batch {
                let own: Vec<_> = verdicts.by_ref().take(waiting.claims.len()).collect();
                // A caller without all verdicts gets a fault.
                if own.len() == waiting.claims.len()
                    && let Some(own) = own.into_iter().collect()
                {
                    // An error means that the caller has gone.
                    let _ = waiting.answer.send(own);
                }
            }
        }
    }

    /// Waits for claims and takes all of them, up to a batch. `None` once the queue is closed.
    fn next(&self) -> Option<Vec<Waiting>> {
        let mut queue = self
            .arrived
            .wait_while(self.locked(), |queue| {
                queue.waiting.is_empty() && !queue.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        if queue.closed {
            return None;
        }
        let mut batch = Vec::new();
        let mut claims = 0;
        while let Some(waiting) = queue.waiting.pop_front() {
            claims += waiting.claims.len();
            queue.claims -= waiting.claims.len();
            if !waiting.answer.is_closed() {
                batch.push(waiting);
            }
            if claims >= BATCH_MAX {
                break;
            }
        }
        Some(batch)
    }

    fn locked(&self) -> MutexGuard<'_, Queue> {
        // A thread that panicked with the lock left the queue complete: each change is one push or
        // pop.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Borrow;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;

    /// A claim that is valid if its digest begins with an even number.
    fn claim(at: usize) -> SignatureClaim {
        SignatureClaim::Secp256k1 {
            digest: [at as u8; 32],
            signature: [0; 65],
            address: [0; 20],
        }
    }

    fn even<C: Borrow<SignatureClaim>>(claims: &[C]) -> Vec<bool> {
        claims
            .iter()
            .map(|claim| match claim.borrow() {
                SignatureClaim::Secp256k1 { digest, .. } => digest[0] % 2 == 0,
                _ => false,
            })
            .collect()
    }

    fn start(
        threads: usize,
        check: impl Fn(&[&SignatureClaim]) -> Vec<bool> + Send + Sync + 'static,
    ) -> VerifierQueue {
        let check = move |claims: &[&SignatureClaim]| check(claims).into_iter().map(Some).collect();
        VerifierQueue::with_check(threads, check).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_caller_gets_the_verdicts_on_its_own_claims() {
        let queue = start(3, |claims| even(claims));
        let asking = (0..500).map(|at| {
            let queue = queue.clone();
            async move {
                let claims: Vec<_> = (0..at % 4).map(|more| claim(at + more)).collect();
                assert_eq!(queue.verify(&claims).await.unwrap(), even(&claims));
            }
        });
        join_all(asking).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn claims_that_wait_during_a_batch_form_the_next_one() {
        let largest = Arc::new(AtomicUsize::new(0));
        let check = {
            let largest = Arc::clone(&largest);
            move |claims: &[&SignatureClaim]| {
                largest.fetch_max(claims.len(), Ordering::SeqCst);
                thread::sleep(Duration::from_millis(20));
                even(claims)
            }
        };
        let queue = start(1, check);
        let claims: Vec<_> = (0..200).map(claim).collect();
        join_all(claims.chunks(1).map(|one| queue.verify(one))).await;
        assert!(largest.load(Ordering::SeqCst) > 50);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_queue_refuses_at_once() {
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let (take, taken) = std::sync::mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let check = move |claims: &[&SignatureClaim]| {
            let _ = take.send(());
            let _ = gate.lock().unwrap().recv();
            even(claims)
        };
        let queue = start(1, check);
        let many: Vec<_> = (0..WAITING_MAX).map(claim).collect();
        let first = tokio::spawn({
            let queue = queue.clone();
            async move { queue.verify(&[claim(2)]).await }
        });
        taken.recv().unwrap();
        let second = tokio::spawn({
            let (queue, many) = (queue.clone(), many.clone());
            async move { queue.verify(&many).await }
        });
        while queue.0.0.locked().claims < WAITING_MAX {
            tokio::task::yield_now().await;
        }
        let refused = queue.verify(&[claim(1)]).await.unwrap_err();
        assert_eq!(refused.kind, FaultKind::Busy);
        drop(open);
        assert_eq!(first.await.unwrap().unwrap(), [true]);
        assert_eq!(second.await.unwrap().unwrap(), even(&many));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_verifier_that_panics_fails_one_batch() {
        let check = |claims: &[&SignatureClaim]| match claims {
            [SignatureClaim::Secp256k1 { digest, .. }] if digest[0] == 13 => panic!("planted"),
            claims => even(claims),
        };
        let queue = start(1, check);
        let fault = queue.verify(&[claim(13)]).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Internal);
        assert_eq!(queue.verify(&[claim(2)]).await.unwrap(), [true]);
    }
}
