//! Several facilitators as one.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_core::wire::{SettleResponse, SupportedKind, SupportedResponse, VerifyResponse};
use quittance_core::{Facilitator, FacilitatorError, Fault, FaultKind, PaymentRequest, Reason};
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::canonical::{Hash as Key, authorization};
use crate::reason::is_fault_code;

/// For how long it is remembered who has a payment: twice the longest that payers of this library sign for, an hour.
const KEPT: Duration = Duration::from_secs(2 * 3600);

/// For how long a payment that has settled stays where it settled. Elsewhere it might still look valid, to a node that is
/// some blocks behind; a replay would be served there, and its transaction would fail.
const SETTLED_KEPT: Duration = Duration::from_secs(5 * 60);

/// For how long a facilitator that could not be reached is asked after the others. Finding out that a host is down takes
/// three seconds, and a sale asks twice.
const REST: Duration = Duration::from_secs(10);

/// How long one facilitator may take to say what it settles: less than sellers wait for all of them.
const SUPPORTED_WITHIN: Duration = Duration::from_secs(3);

/// How many payments are remembered, some 20 MiB of them: fourteen a second that do not settle, for as long as [`KEPT`].
/// Beyond that those that have settled make room, then those that were refused for certain, and then new ones are refused,
/// because forgetting one that is open could settle it in two places. Without the second a client whose payments are all
/// refused could stop every sale for hours.
const PAYMENTS_MAX: usize = 100_000;

/// Several facilitators as one, in order of preference.
///
/// **Verifying** changes nothing, so whoever answers will do. **Settling** is another matter: once one facilitator may have
/// the payment, no other is given it. Both would try to settle it. The chain allows only one, so the other would spend its
/// gas on a transaction that fails, and report a failure for a payment that was made: the seller would serve nothing and
/// the buyer would pay again. So the next facilitator is asked to settle only when the one before certainly did nothing
/// ([`Fault::not_attempted`]): it was not reached, turned the request away at the door, or says that it settles nothing of the
/// kind. After a timeout, a lost answer or any other fault the same one is asked again, for as long as it takes; asking a
/// facilitator again is always safe.
///
/// A facilitator that could not be reached is asked after the others for ten seconds, so that not every sale waits for
/// it.
///
/// A payment is known by its authorization ([`PaymentRequest::authorization`]), or where that is not known by what its payload says.
/// Which facilitator has it is remembered in this process, until five minutes after it has settled or for two hours.
/// Several processes that sell for one recipient each
/// remember their own: send a buyer's retries to the same one.
///
/// It is for facilitators that can stand in for each other. Where requirements name one, such as the fee payer on Solana,
/// only that one can settle them.
///
/// ```
/// use std::sync::Arc;
/// use quittance_http::{Failover, RemoteFacilitator};
///
/// let first = RemoteFacilitator::new("https://facilitator.example")?;
/// let second = RemoteFacilitator::new("https://other.example")?;
/// let both = Failover::new(Arc::new(first)).or(Arc::new(second));
/// # let _ = both;
/// # Ok::<(), quittance_http::RemoteError>(())
/// ```
pub struct Failover {
    members: Vec<Member>,
    places: Mutex<Places>,
}

/// One facilitator.
struct Member {
    facilitator: Arc<dyn Facilitator>,
    /// Until when it is asked after the others.
    rests_until: Mutex<Option<Instant>>,
}

impl Member {
    fn new(facilitator: Arc<dyn Facilitator>) -> Self {
        Self {
            facilitator,
            rests_until: Mutex::default(),
        }
    }

    fn rests(&self) -> bool {
        locked(&self.rests_until).is_some_and(|until| Instant::now() < until)
    }

    /// Takes note of whether it could be reached.
    fn note(&self, is_reached: bool) {
        *locked(&self.rests_until) = match is_reached {
            true => None,
            false => Some(Instant::now() + REST),
        };
    }
}

/// Who has which payment.
#[derive(Default)]
struct Places {
    by_payment: HashMap<Key, Place>,
    /// The same payments, by the moment at which they are forgotten.
    by_end: BTreeSet<(Instant, Key)>,
    /// Those among them that may be forgotten to make room: they have settled, or were refused.
    settled: BTreeSet<(Instant, Key)>,
}

/// Who has a payment.
struct Place {
    /// Which facilitator is the only one that may have it.
    at: usize,
    /// How many calls are under way there.
    calls: usize,
    /// Whether it may have done something.
    touched: bool,
    /// Whether the payment has settled: it can settle nowhere else.
    settled: bool,
    /// Whether some call ended without a word on what became of the payment.
    doubtful: bool,
    /// Whether the facilitator refused it, and nothing is doubtful.
    refused: bool,
    until: Instant,
}

impl Place {
    fn may_go(&self) -> bool {
        self.settled || self.refused
    }
}

impl Places {
    /// The payment's place, at the facilitator `first` for one that is new; `None` when there is no room.
    fn enter(&mut self, key: Key, first: usize) -> Option<&mut Place> {
        self.forget_old();
        if !self.by_payment.contains_key(&key) {
            if self.by_payment.len() >= PAYMENTS_MAX && !self.forget_settled() {
                return None;
            }
            let until = Instant::now() + KEPT;
            self.by_end.insert((until, key));
            let place = Place {
                at: first,
                calls: 0,
                touched: false,
                settled: false,
                doubtful: false,
                refused: false,
                until,
            };
            self.by_payment.insert(key, place);
        }
        self.by_payment.get_mut(&key)
    }

    /// Looks only at those whose time is over: they stand first.
    fn forget_old(&mut self) {
        while let Some((until, key)) = self.by_end.first().copied()
            && until <= Instant::now()
        {
            match self.by_payment.get(&key) {
                // A call is still under way there.
                Some(place) if place.calls > 0 => self.keep(key, KEPT),
                _ => self.forget(&key),
            }
        }
    }

    /// Makes room by forgetting the payment that settled first, or else the one that was refused first; whether there was
    /// one.
    fn forget_settled(&mut self) -> bool {
        let is_idle = |key: &Key| self.by_payment.get(key).is_some_and(|it| it.calls == 0);
        let oldest = self.settled.iter().find(|(_, key)| is_idle(key));
        let oldest = oldest.map(|(_, key)| *key);
        oldest.inspect(|key| self.forget(key)).is_some()
    }

    /// Forgets a payment at another time than was planned.
    fn keep(&mut self, key: Key, kept: Duration) {
        let Some(place) = self.by_payment.get_mut(&key) else {
            return;
        };
        self.by_end.remove(&(place.until, key));
        self.settled.remove(&(place.until, key));
        place.until = Instant::now() + kept;
        self.by_end.insert((place.until, key));
        if place.may_go() {
            self.settled.insert((place.until, key));
        }
    }

    /// Takes note of whether a payment may be forgotten to make room.
    fn mark(&mut self, key: Key) {
        let Some(place) = self.by_payment.get(&key) else {
            return;
        };
        match place.may_go() {
            true => self.settled.insert((place.until, key)),
            false => self.settled.remove(&(place.until, key)),
        };
    }

    fn forget(&mut self, key: &Key) {
        if let Some(place) = self.by_payment.remove(key) {
            self.by_end.remove(&(place.until, *key));
            self.settled.remove(&(place.until, *key));
        }
    }
}

impl Failover {
    /// This facilitator, as long as it answers.
    pub fn new(first: Arc<dyn Facilitator>) -> Self {
        Self {
            members: vec![Member::new(first)],
            places: Mutex::default(),
        }
    }

    /// Another one, for when those before do not answer.
    #[must_use]
    pub fn or(mut self, next: Arc<dyn Facilitator>) -> Self {
        self.members.push(Member::new(next));
        self
    }

    fn member(&self, at: usize) -> Result<&Member, Fault> {
        self.members.get(at).ok_or_else(nobody)
    }

    /// All facilitators in the order in which they are asked: those that rest come last.
    fn order(&self) -> Vec<usize> {
        let (resting, awake): (Vec<_>, Vec<_>) =
            (0..self.members.len()).partition(|at| self.members[*at].rests());
        awake.into_iter().chain(resting).collect()
    }

    /// The one that has the payment, if one has.
    fn place(&self, key: &Key) -> Option<usize> {
        let mut places = locked(&self.places);
        places.forget_old();
        let place = places.by_payment.get(key)?;
        (place.touched || place.calls > 0).then_some(place.at)
    }

    /// Goes to the facilitator that has the payment, or to the first in order.
    fn begin(&self, key: Key) -> Result<Call<'_>, Fault> {
        let mut others = self.order();
        let first = *others.first().ok_or_else(nobody)?;
        let mut places = locked(&self.places);
        let full =
            || Fault::new(FaultKind::Busy, "too many payments are remembered").not_attempted();
        let place = places.enter(key, first).ok_or_else(full)?;
        place.calls += 1;
        others.retain(|other| *other != place.at);
        Ok(Call {
            failover: self,
            key,
            at: place.at,
            others: others.into(),
            not_attempted: false,
            settled: false,
            refused: false,
        })
    }
}

fn locked<T>(cell: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics between two changes of what is in it; a panic with the lock left it whole.
    cell.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A settle call at one facilitator. Unless it is said to have done nothing it counts as having done something, also when
/// its caller goes away.
struct Call<'a> {
    failover: &'a Failover,
    key: Key,
    at: usize,
    /// Where it may go next, in this order.
    others: VecDeque<usize>,
    not_attempted: bool,
    settled: bool,
    refused: bool,
}

impl<'a> Call<'a> {
    /// The call at the next facilitator, where this one did nothing and nobody else is or was here with the payment.
    fn next(mut self) -> Option<Call<'a>> {
        self.not_attempted = true;
        let next = self.others.pop_front()?;
        let mut places = locked(&self.failover.places);
        let place = places.by_payment.get_mut(&self.key)?;
        if place.touched || place.calls > 1 {
            drop(places);
            return None;
        }
        // This call's count goes with it: dropping this one takes one away.
        place.at = next;
        place.calls += 1;
        drop(places);
        Some(Call {
            failover: self.failover,
            key: self.key,
            at: next,
            others: std::mem::take(&mut self.others),
            not_attempted: false,
            settled: false,
            refused: false,
        })
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut places = locked(&self.failover.places);
        let Some(place) = places.by_payment.get_mut(&self.key) else {
            return;
        };
        place.calls -= 1;
        place.touched |= !self.not_attempted;
        place.settled |= self.settled;
        place.doubtful |= !(self.not_attempted || self.settled || self.refused);
        place.refused = (place.refused || self.refused) && !place.doubtful;
        if self.settled {
            places.keep(self.key, SETTLED_KEPT);
        } else if place.calls == 0 && !place.touched {
            // No facilitator has it: the next call begins with the first again.
            places.forget(&self.key);
        } else {
            places.mark(self.key);
        }
    }
}

/// Whether an answer says "not mine" rather than anything about the payment.
fn is_foreign(reason: Option<&str>) -> bool {
    [Reason::INVALID_NETWORK, Reason::UNSUPPORTED_SCHEME]
        .iter()
        .any(|foreign| reason == Some(foreign.code()))
}

/// Whether a facilitator says for certain that it did not and will not settle a payment: with a reason that is not its own
/// failure, and that knows of no transaction and of no other call.
fn is_refusal(answer: &Result<SettleResponse, FacilitatorError>) -> bool {
    let Ok(settled) = answer else {
        return false;
    };
    let open = [Reason::SETTLEMENT_PENDING, Reason::DUPLICATE_SETTLEMENT];
    let is_clear =
        |reason: &str| !is_fault_code(reason) && open.iter().all(|open| open.code() != reason);
    !settled.success
        && settled.transaction.is_empty()
        && settled.error_reason.as_deref().is_some_and(is_clear)
}

/// Whether a facilitator could be reached.
fn is_reached<T>(answer: &Result<T, FacilitatorError>) -> bool {
    let unreached =
        |fault: &Fault| fault.not_attempted && fault.kind == FaultKind::FacilitatorUnreachable;
    !matches!(answer, Err(FacilitatorError::Fault(fault)) if unreached(fault))
}

fn is_untouched(answer: &Result<SettleResponse, FacilitatorError>) -> bool {
    match answer {
        Ok(settled) => {
            !settled.success
                && settled.transaction.is_empty()
                && is_foreign(settled.error_reason.as_deref())
        }
        Err(FacilitatorError::Fault(fault)) => fault.not_attempted,
        // It could not be read, and the next reads the same.
        Err(FacilitatorError::Malformed(_)) => false,
    }
}

#[async_trait]
impl Facilitator for Failover {
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        // The facilitator that settles a payment knows more of it than the chain does.
        if let Some(at) = self.place(&authorization(request)) {
            return self.member(at)?.facilitator.verify(request).await;
        }
        let mut last = None;
        for at in self.order() {
            let member = self.member(at)?;
            let answer = member.facilitator.verify(request).await;
            member.note(is_reached(&answer));
            match answer {
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
        let mut call = self.begin(authorization(request))?;
        // What one that settles it says when it cannot, such as when to ask again. That another one does not settle the kind
        // takes nothing back.
        let mut fault = None;
        loop {
            let member = self.member(call.at)?;
            let answer = member.facilitator.settle(request).await;
            member.note(is_reached(&answer));
            if !is_untouched(&answer) {
                call.settled = answer.as_ref().is_ok_and(|settled| settled.success);
                call.refused = is_refusal(&answer);
                return answer;
            }
            let answer = match (answer, fault) {
                (Ok(_), Some(fault)) => Err(fault),
                (answer, _) => answer,
            };
            match call.next() {
                Some(next) => call = next,
                None => return answer,
            }
            fault = answer.err();
        }
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        let mut all: Option<SupportedResponse> = None;
        let mut last = Err(nobody().into());
        let asked = self.members.iter().map(|one| supported(&*one.facilitator));
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
        write!(f, "Failover({} facilitators)", self.members.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quittance_core::Rejection;
    use tokio::time::advance;

    fn key(number: u64) -> Key {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        key
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_are_forgotten_in_time_and_none_that_is_under_way() {
        let mut places = Places::default();
        places.enter(key(0), 0).unwrap().calls = 1;
        places.enter(key(1), 0).unwrap();
        advance(KEPT / 2).await;
        places.enter(key(2), 0).unwrap();
        advance(KEPT / 2).await;
        places.enter(key(3), 0).unwrap();
        let mut kept: Vec<_> = places.by_payment.keys().copied().collect();
        kept.sort_unstable();
        assert_eq!(kept, [key(0), key(2), key(3)]);
        assert_eq!(places.by_end.len(), 3);
        places.forget(&key(0));
        places.forget(&key(2));
        places.forget(&key(3));
        assert!(places.by_payment.is_empty() && places.by_end.is_empty());
    }

    /// Settled payments were remembered for hours: at fourteen a second there was no room for new ones.
    #[tokio::test(start_paused = true)]
    async fn payments_that_have_settled_make_room_and_open_ones_do_not() {
        let mut places = Places::default();
        for number in 0..PAYMENTS_MAX as u64 {
            places.enter(key(number), 0).unwrap();
        }
        for (number, calls) in [(7, 1), (8, 0), (9, 0)] {
            let place = places.enter(key(number), 0).unwrap();
            (place.settled, place.calls) = (true, calls);
            places.keep(key(number), SETTLED_KEPT);
            advance(Duration::from_secs(1)).await;
        }
        assert!(places.enter(key(u64::MAX), 0).is_some());
        let is_kept = |number| places.by_payment.contains_key(&key(number));
        assert!(is_kept(7) && !is_kept(8) && is_kept(9));
        assert!(places.enter(key(u64::MAX - 1), 0).is_some());
        assert!(places.enter(key(u64::MAX - 2), 0).is_none());
        assert_eq!(places.settled.len(), 1);
    }

    /// A client with many addresses and one balance filled the room with payments that were refused, and no sale was
    /// possible for two hours.
    #[tokio::test(start_paused = true)]
    async fn payments_that_were_refused_for_certain_make_room_and_those_in_doubt_do_not() {
        let failover = Failover::new(Arc::new(Nobody)).or(Arc::new(Nobody));
        let no = |reason: &'static str, transaction: &str| {
            let rejection = Rejection::new(Reason::new(reason), "");
            Ok(SettleResponse::failed("a:1", &rejection, None, transaction))
        };
        let fault = || Err(Fault::new(FaultKind::Busy, "busy").into());
        let clear = || no("insufficient_funds", "");
        for (number, (answers, makes_room)) in [
            (vec![clear()], true),
            (vec![clear(), clear()], true),
            (vec![fault(), clear()], false),
            (vec![clear(), fault()], false),
            (vec![no("settlement_pending", "0x1")], false),
            (vec![no("duplicate_settlement", "")], false),
            (vec![no("unexpected_settle_error", "")], false),
            (vec![no("insufficient_funds", "0x1")], false),
        ]
        .into_iter()
        .enumerate()
        {
            let key = key(number as u64);
            for answer in &answers {
                let mut call = failover.begin(key).unwrap();
                call.refused = is_refusal(answer);
            }
            let forgotten = locked(&failover.places).forget_settled();
            assert_eq!(forgotten, makes_room, "{answers:?}");
            assert_eq!(failover.place(&key).is_none(), makes_room, "{answers:?}");
        }
    }

    /// One that is never asked.
    struct Nobody;

    #[async_trait]
    impl Facilitator for Nobody {
        async fn verify(&self, _: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
            Err(nobody().into())
        }
        async fn settle(&self, _: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
            Err(nobody().into())
        }
        async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
            Err(nobody().into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_no_room_for_more_than_are_remembered_and_in_time_there_is_again() {
        let mut places = Places::default();
        for number in 0..PAYMENTS_MAX as u64 {
            places.enter(key(number), 0).unwrap();
        }
        assert!(places.enter(key(0), 0).is_some());
        assert!(places.enter(key(u64::MAX), 0).is_none());
        advance(KEPT).await;
        assert!(places.enter(key(u64::MAX), 0).is_some());
    }
}
