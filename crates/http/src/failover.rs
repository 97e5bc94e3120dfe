//! Several facilitators as one.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_core::wire::{SettleResponse, SupportedKind, SupportedResponse, VerifyResponse};
use quittance_core::{Facilitator, FacilitatorError, Fault, FaultKind, PaymentRequest, Reason};
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::canonical::{self, Hash as Key};

/// For how long it is remembered who has a payment: twice the longest that payers of this library sign for, an hour.
const KEPT: Duration = Duration::from_secs(2 * 3600);

/// How long one facilitator may take to say what it settles: less than sellers wait for all of them.
const SUPPORTED_WITHIN: Duration = Duration::from_secs(3);

/// How many payments are remembered, some 20 MiB of them. Those that settle are forgotten at once, so this many are without
/// a happy end: fourteen a second, for as long as [`KEPT`]. Beyond that new ones are refused, because forgetting one could
/// settle it in two places.
const PAYMENTS_MAX: usize = 100_000;

/// Several facilitators as one, in order of preference.
///
/// **Verifying** changes nothing, so whoever answers will do. **Settling** is another matter: once one facilitator may have
/// the payment, no other is given it. Both would try to settle it. The chain allows only one, so the other would spend its
/// gas on a transaction that fails, and report a failure for a payment that was made: the seller would serve nothing and
/// the buyer would pay again. So the next facilitator is asked to settle only when the one before certainly did nothing
/// ([`Fault::untouched`]): it was not reached, turned the request away at the door, or says that it settles nothing of the
/// kind. After a timeout, a lost answer or any other fault the same one is asked again, for as long as it takes; asking a
/// facilitator again is always safe.
///
/// Who has a payment is remembered in this process, until it has settled or for two hours. Several processes that sell for one recipient each
/// remember their own: send a buyer's retries to the same one.
///
/// It is for facilitators that can stand in for each other. Where requirements name one, such as the fee payer on Solana,
/// only that one can settle them.
///
/// ```
/// use std::sync::Arc;
/// use quittance_http::{Failover, PaymentLayer, RemoteFacilitator};
///
/// let first = RemoteFacilitator::new("https://facilitator.example")?;
/// let second = RemoteFacilitator::new("https://other.example")?;
/// let price = PaymentLayer::new(Arc::new(Failover::new(Arc::new(first)).or(Arc::new(second))));
/// # Ok::<(), quittance_http::RemoteError>(())
/// ```
pub struct Failover {
    facilitators: Vec<Arc<dyn Facilitator>>,
    places: Mutex<Places>,
}

/// Who has which payment.
#[derive(Default)]
struct Places {
    by_payment: HashMap<Key, Place>,
    /// The same payments, the oldest first.
    by_age: BTreeSet<(Instant, Key)>,
}

/// Who has a payment.
struct Place {
    /// Which facilitator is the only one that may have it.
    at: usize,
    /// How many calls are under way there.
    calls: usize,
    /// Whether it may have done something.
    touched: bool,
    /// Whether the payment has settled: nobody will settle it again.
    settled: bool,
    since: Instant,
}

impl Places {
    /// The payment's place, at the first facilitator for one that is new; `None` when there is no room.
    fn enter(&mut self, key: Key) -> Option<&mut Place> {
        if !self.by_payment.contains_key(&key) {
            self.forget_old();
            if self.by_payment.len() >= PAYMENTS_MAX {
                return None;
            }
            let since = Instant::now();
            self.by_age.insert((since, key));
            let place = Place {
                at: 0,
                calls: 0,
                touched: false,
                settled: false,
                since,
            };
            self.by_payment.insert(key, place);
        }
        self.by_payment.get_mut(&key)
    }

    /// Looks only at those that are old: they stand first.
    fn forget_old(&mut self) {
        while let Some((since, key)) = self.by_age.first().copied()
            && since.elapsed() >= KEPT
        {
            self.by_age.remove(&(since, key));
            match self.by_payment.get_mut(&key) {
                // Somebody waits there to this day.
                Some(place) if place.calls > 0 => {
                    place.since = Instant::now();
                    self.by_age.insert((place.since, key));
                }
                _ => drop(self.by_payment.remove(&key)),
            }
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(place) = self.by_payment.remove(key) {
            self.by_age.remove(&(place.since, *key));
        }
    }
}

impl Failover {
    /// This facilitator, as long as it answers.
    pub fn new(first: Arc<dyn Facilitator>) -> Self {
        Self {
            facilitators: vec![first],
            places: Mutex::default(),
        }
    }

    /// Another one, for when those before do not answer.
    #[must_use]
    pub fn or(mut self, next: Arc<dyn Facilitator>) -> Self {
        self.facilitators.push(next);
        self
    }

    fn member(&self, at: usize) -> Result<&dyn Facilitator, Fault> {
        self.facilitators
            .get(at)
            .map(|facilitator| &**facilitator)
            .ok_or_else(nobody)
    }

    /// The one that has the payment, if one has.
    fn place(&self, key: &Key) -> Option<usize> {
        let places = self.locked();
        let place = places.by_payment.get(key)?;
        (place.touched || place.calls > 0).then_some(place.at)
    }

    /// Goes to the facilitator that has the payment, or to the first.
    fn begin(&self, key: Key) -> Result<Call<'_>, Fault> {
        let mut places = self.locked();
        let full = || Fault::new(FaultKind::Busy, "too many payments are remembered").untouched();
        let place = places.enter(key).ok_or_else(full)?;
        place.calls += 1;
        Ok(Call {
            failover: self,
            key,
            at: place.at,
            untouched: false,
            settled: false,
        })
    }

    fn locked(&self) -> MutexGuard<'_, Places> {
        // Nothing in here panics between two changes; whoever panicked with the lock left the places whole.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A settle call at one facilitator. Unless it is said to have done nothing it counts as having done something, also when
/// its caller goes away.
struct Call<'a> {
    failover: &'a Failover,
    key: Key,
    at: usize,
    untouched: bool,
    settled: bool,
}

impl<'a> Call<'a> {
    /// The call at the next facilitator, where this one did nothing and nobody else is or was here with the payment.
    fn next(mut self) -> Option<Call<'a>> {
        self.untouched = true;
        let mut places = self.failover.locked();
        let place = places.by_payment.get_mut(&self.key)?;
        let next = self.at + 1;
        if place.touched || place.calls > 1 || next == self.failover.facilitators.len() {
            drop(places);
            return None;
        }
        // This call's count goes with it: dropping this one takes one away.
        place.at = next;
        place.calls += 1;
        let (failover, key) = (self.failover, self.key);
        drop(places);
        Some(Call {
            failover,
            key,
            at: next,
            untouched: false,
            settled: false,
        })
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut places = self.failover.locked();
        let Some(place) = places.by_payment.get_mut(&self.key) else {
            return;
        };
        place.calls -= 1;
        place.touched |= !self.untouched;
        place.settled |= self.settled;
        // Nobody has it, or nobody can have it any more: the next call begins with the first again.
        if place.calls == 0 && (place.settled || !place.touched) {
            places.forget(&self.key);
        }
    }
}

fn key(request: &PaymentRequest) -> Key {
    canonical::authorization(request)
}

/// Whether an answer says "not mine" rather than anything about the payment.
fn is_foreign(reason: Option<&str>) -> bool {
    [Reason::INVALID_NETWORK, Reason::UNSUPPORTED_SCHEME]
        .iter()
        .any(|foreign| reason == Some(foreign.code()))
}

fn is_untouched(answer: &Result<SettleResponse, FacilitatorError>) -> bool {
    match answer {
        Ok(settled) => {
            !settled.success
                && settled.transaction.is_empty()
                && is_foreign(settled.error_reason.as_deref())
        }
        Err(FacilitatorError::Fault(fault)) => fault.untouched,
        // It could not be read, and the next reads the same.
        Err(FacilitatorError::Malformed(_)) => false,
    }
}

#[async_trait]
impl Facilitator for Failover {
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        // Whoever settles a payment knows more of it than the chain does.
        if let Some(at) = self.place(&key(request)) {
            return self.member(at)?.verify(request).await;
        }
        let mut last = None;
        for facilitator in &self.facilitators {
            match facilitator.verify(request).await {
                Ok(verdict) if !is_foreign(verdict.invalid_reason.as_deref()) => {
                    return Ok(verdict);
                }
                Err(FacilitatorError::Fault(fault)) => {
                    warn!(%fault, "a facilitator has no verdict");
                    last = Some(Err(fault.into()));
                }
                Err(malformed) => return Err(malformed),
                Ok(foreign) => last = last.or(Some(Ok(foreign))),
            }
        }
        last.unwrap_or_else(|| Err(nobody().into()))
    }

    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        let mut call = self.begin(key(request))?;
        loop {
            let answer = self.member(call.at)?.settle(request).await;
            if !is_untouched(&answer) {
                call.settled = answer.as_ref().is_ok_and(|settled| settled.success);
                return answer;
            }
            match call.next() {
                Some(next) => call = next,
                None => return answer,
            }
        }
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        let mut all: Option<SupportedResponse> = None;
        let mut last = Err(nobody().into());
        let asked = self.facilitators.iter().map(|one| supported(&**one));
        for answer in join_all(asked).await {
            match (answer, &mut all) {
                (Ok(supported), None) => all = Some(supported),
                (Ok(supported), Some(all)) => add(all, supported),
                (Err(error), _) => {
                    warn!(%error, "a facilitator does not say what it settles");
                    last = Err(error);
                }
            }
        }
        all.map_or(last, Ok)
    }
}

/// What one facilitator settles. One that does not answer must not keep the others from the seller.
async fn supported(one: &dyn Facilitator) -> Result<SupportedResponse, FacilitatorError> {
    let slow = || {
        let what = "/supported: no answer in time";
        Err(Fault::new(FaultKind::FacilitatorUnreachable, what).into())
    };
    let answer = timeout(SUPPORTED_WITHIN, one.supported()).await;
    answer.unwrap_or_else(|_| slow())
}

fn nobody() -> Fault {
    Fault::new(FaultKind::FacilitatorUnreachable, "there is no facilitator")
}

/// Adds what only the second settles: of what both do, the first one's word counts.
fn add(all: &mut SupportedResponse, more: SupportedResponse) {
    let same = |one: &SupportedKind, other: &SupportedKind| {
        (one.x402_version, &one.scheme, &one.network)
            == (other.x402_version, &other.scheme, &other.network)
    };
    for kind in more.kinds {
        if !all.kinds.iter().any(|known| same(known, &kind)) {
            all.kinds.push(kind);
        }
    }
    let known = all.signers.get_or_insert_default();
    for (network, signers) in more.signers.unwrap_or_default() {
        let known = known.entry(network).or_default();
        known.extend(signers);
        known.sort();
        known.dedup();
    }
}

impl fmt::Debug for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failover({} facilitators)", self.facilitators.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn key(number: u64) -> Key {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        key
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_are_forgotten_in_time_and_none_that_is_under_way() {
        let mut places = Places::default();
        places.enter(key(0)).unwrap().calls = 1;
        places.enter(key(1)).unwrap();
        advance(KEPT / 2).await;
        places.enter(key(2)).unwrap();
        advance(KEPT / 2).await;
        places.enter(key(3)).unwrap();
        let mut kept: Vec<_> = places.by_payment.keys().copied().collect();
        kept.sort_unstable();
        assert_eq!(kept, [key(0), key(2), key(3)]);
        assert_eq!(places.by_age.len(), 3);
        places.forget(&key(0));
        places.forget(&key(2));
        places.forget(&key(3));
        assert!(places.by_payment.is_empty() && places.by_age.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_no_room_for_more_than_are_remembered_and_in_time_there_is_again() {
        let mut places = Places::default();
        for number in 0..PAYMENTS_MAX as u64 {
            places.enter(key(number)).unwrap();
        }
        assert!(places.enter(key(0)).is_some());
        assert!(places.enter(key(u64::MAX)).is_none());
        advance(KEPT).await;
        assert!(places.enter(key(u64::MAX)).is_some());
    }
}
