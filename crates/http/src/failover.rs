//! Several facilitators as one.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_core::wire::{SettleResponse, SupportedKind, SupportedResponse, VerifyResponse};
use quittance_core::{
    Facilitator, FacilitatorError, Fault, FaultKind, PaymentId, PaymentRequest, Reason,
};
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::reason::is_certain_refusal;

/// How long the facilitator of a payment is remembered: twice the longest time for which payers of
/// this library sign, an hour.
const REMEMBERED_FOR: Duration = Duration::from_secs(2 * 3600);

/// How long a settled payment stays with its facilitator. To another one, whose node may be some
/// blocks behind, it could still look valid. It would be served again, and its transaction would
/// fail.
const SETTLED_REMEMBERED_FOR: Duration = Duration::from_secs(5 * 60);

/// How long an unreachable facilitator is asked after the others. It takes three seconds to find
/// that a host is down, and a sale makes two requests.
const BACKOFF: Duration = Duration::from_secs(10);

/// How long one facilitator may take for `/supported`. It is less than sellers wait for all of
/// them.
const SUPPORTED_TIMEOUT: Duration = Duration::from_secs(3);

/// How many payments are remembered, in about 20 MiB: 14 per second that do not settle, for
/// [`REMEMBERED_FOR`].
///
/// If there is no room, settled payments are removed first, then payments that were certainly
/// refused. Otherwise one client's refused payments could stop all sales for hours. If none is
/// left, new payments are refused: removing a payment in progress could settle it at two
/// facilitators.
const PAYMENTS_MAX: usize = 100_000;

/// Several facilitators as one, in order of preference.
///
/// **Verification** changes nothing, so the first facilitator that answers is enough.
///
/// **Settlement** is different: once one facilitator may have a payment, no other gets it. Both
/// would send a transaction, and the chain accepts only one. The other facilitator would lose its
/// gas and report a failure for a payment that was made. The seller would serve nothing, and the
/// buyer would pay again. So the next facilitator is asked only if the previous one certainly did
/// not attempt the settlement ([`Fault::not_attempted`]). The previous one could not be reached,
/// refused the request before reading it, does not support the scheme or network, or does not have
/// the settlement to refund. After a
/// timeout, a lost response or any other fault, the same facilitator is asked again, which is
/// always safe.
///
/// A facilitator that could not be reached is asked after the others for ten seconds, so that not
/// every sale waits for it.
///
/// A payment is identified by its [`PaymentRequest::origin`], so that all requests of one sale go
/// to the facilitator that got the first one. Its facilitator is remembered in this process: for
/// five minutes after the settlement, or for two hours. If several processes sell for one
/// recipient, send a buyer's retries to the same process.
///
/// The facilitators must be interchangeable. If the requirements name one, such as the fee payer on
/// Solana, only that one can settle them.
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
    assignments: Mutex<Assignments>,
}

/// One facilitator.
struct Member {
    facilitator: Arc<dyn Facilitator>,
    /// Until then it is asked after the others.
    backs_off_until: Mutex<Option<Instant>>,
}

impl Member {
    fn new(facilitator: Arc<dyn Facilitator>) -> Self {
        Self {
            facilitator,
            backs_off_until: Mutex::default(),
        }
    }

    fn is_backing_off(&self) -> bool {
        locked(&self.backs_off_until).is_some_and(|until| Instant::now() < until)
    }

    /// Records whether it could be reached.
    fn note(&self, is_reached: bool) {
        *locked(&self.backs_off_until) = match is_reached {
            true => None,
            false => Some(Instant::now() + BACKOFF),
        };
    }
}

/// The facilitators of the remembered payments.
#[derive(Default)]
struct Assignments {
    by_payment: HashMap<PaymentId, Assignment>,
    /// The same payments in the order in which they expire.
    by_end: BTreeSet<(Instant, PaymentId)>,
    /// The payments that may be removed to make room: they have settled, or were refused.
    settled: BTreeSet<(Instant, PaymentId)>,
}

/// The facilitator of a payment.
struct Assignment {
    /// The index of the only facilitator that may have the payment.
    at: usize,
    /// The number of calls in progress.
    calls: usize,
    /// Whether the facilitator may have acted on it.
    attempted: bool,
    /// Whether the payment has settled. Then it can settle nowhere else.
    settled: bool,
    /// Whether some call ended with an unknown outcome.
    has_unknown_outcome: bool,
    /// Whether the facilitator refused it, and no call has an unknown outcome.
    refused: bool,
    until: Instant,
}

impl Assignment {
    fn may_be_removed(&self) -> bool {
        self.settled || self.refused
    }
}

impl Assignments {
    /// The payment's assignment. A new payment is assigned to the facilitator `first`. `None` if
    /// there is no room.
    fn enter(&mut self, key: PaymentId, first: usize) -> Option<&mut Assignment> {
        self.remove_expired();
        if !self.by_payment.contains_key(&key) {
            if self.by_payment.len() >= PAYMENTS_MAX && !self.make_room() {
                return None;
            }
            let until = Instant::now() + REMEMBERED_FOR;
            self.by_end.insert((until, key));
            let assignment = Assignment {
                at: first,
                calls: 0,
                attempted: false,
                settled: false,
                has_unknown_outcome: false,
                refused: false,
                until,
            };
            self.by_payment.insert(key, assignment);
        }
        self.by_payment.get_mut(&key)
    }

    /// Removes the assignments that have expired; they come first.
    fn remove_expired(&mut self) {
        while let Some((until, key)) = self.by_end.first().copied()
            && until <= Instant::now()
        {
            match self.by_payment.get(&key) {
                // A call is still in progress.
                Some(assignment) if assignment.calls > 0 => self.set_lifetime(key, REMEMBERED_FOR),
                _ => self.remove_assignment(&key),
            }
        }
    }

    /// Removes the payment that settled first, or else the one that was refused first. Returns
    /// whether there was one.
    fn make_room(&mut self) -> bool {
        let is_idle = |key: &PaymentId| self.by_payment.get(key).is_some_and(|it| it.calls == 0);
        let oldest = self.settled.iter().find(|(_, key)| is_idle(key));
        let oldest = oldest.map(|(_, key)| *key);
        oldest.inspect(|key| self.remove_assignment(key)).is_some()
    }

    /// Changes when a payment expires.
    fn set_lifetime(&mut self, key: PaymentId, kept: Duration) {
        let Some(assignment) = self.by_payment.get_mut(&key) else {
            return;
        };
        self.by_end.remove(&(assignment.until, key));
        self.settled.remove(&(assignment.until, key));
        assignment.until = Instant::now() + kept;
        self.by_end.insert((assignment.until, key));
        if assignment.may_be_removed() {
            self.settled.insert((assignment.until, key));
        }
    }

    /// Updates whether a payment may be removed to make room.
    fn update_removable(&mut self, key: PaymentId) {
        let Some(assignment) = self.by_payment.get(&key) else {
            return;
        };
        match assignment.may_be_removed() {
            true => self.settled.insert((assignment.until, key)),
            false => self.settled.remove(&(assignment.until, key)),
        };
    }

    fn remove_assignment(&mut self, key: &PaymentId) {
        if let Some(assignment) = self.by_payment.remove(key) {
            self.by_end.remove(&(assignment.until, *key));
            self.settled.remove(&(assignment.until, *key));
        }
    }
}

impl Failover {
    /// Starts with the preferred facilitator.
    pub fn new(first: Arc<dyn Facilitator>) -> Self {
        Self {
            members: vec![Member::new(first)],
            assignments: Mutex::default(),
        }
    }

    /// Adds a facilitator, which is used if those before it cannot be.
    #[must_use]
    pub fn or(mut self, next: Arc<dyn Facilitator>) -> Self {
        self.members.push(Member::new(next));
        self
    }

    fn member(&self, at: usize) -> Result<&Member, Fault> {
        self.members.get(at).ok_or_else(no_facilitator)
    }

    /// The indexes of all facilitators in the order in which they are asked: those that back off
    /// come last.
    fn order(&self) -> Vec<usize> {
        let (resting, awake): (Vec<_>, Vec<_>) =
            (0..self.members.len()).partition(|at| self.members[*at].is_backing_off());
        awake.into_iter().chain(resting).collect()
    }

    /// The index of the facilitator that has the payment.
    fn assignment(&self, key: &PaymentId) -> Option<usize> {
        let mut assignments = locked(&self.assignments);
        assignments.remove_expired();
        let assignment = assignments.by_payment.get(key)?;
        (assignment.attempted || assignment.calls > 0).then_some(assignment.at)
    }

    /// Begins a call at the facilitator that has the payment, or at the first one in order.
    fn begin(&self, key: PaymentId) -> Result<SettleCall<'_>, Fault> {
        let mut others = self.order();
        let first = *others.first().ok_or_else(no_facilitator)?;
        let mut assignments = locked(&self.assignments);
        let full = || {
            Fault::new(
                FaultKind::Busy,
                "too many payments are in progress; retry later",
            )
            .not_attempted()
        };
        let assignment = assignments.enter(key, first).ok_or_else(full)?;
        assignment.calls += 1;
        others.retain(|other| *other != assignment.at);
        Ok(SettleCall {
            failover: self,
            key,
            at: assignment.at,
            others: others.into(),
            not_attempted: false,
            settled: false,
            refused: false,
        })
    }
}

fn locked<T>(cell: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic of another task leaves the value consistent: nothing panics between two changes.
    cell.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A settle call at one facilitator. Unless `not_attempted` is set, the facilitator counts as
/// having the payment, also if the caller drops the call.
struct SettleCall<'a> {
    failover: &'a Failover,
    key: PaymentId,
    at: usize,
    /// The facilitators that may be asked next, in order.
    others: VecDeque<usize>,
    not_attempted: bool,
    settled: bool,
    refused: bool,
}

impl<'a> SettleCall<'a> {
    /// The call at the next facilitator. `None` if there is none, or if this facilitator may have
    /// the payment from another call.
    fn next(mut self) -> Option<SettleCall<'a>> {
        self.not_attempted = true;
        let next = self.others.pop_front()?;
        let mut assignments = locked(&self.failover.assignments);
        let assignment = assignments.by_payment.get_mut(&self.key)?;
        if assignment.attempted || assignment.calls > 1 {
            drop(assignments);
            return None;
        }
        // The count moves with the call, because dropping this one subtracts one.
        assignment.at = next;
        assignment.calls += 1;
        drop(assignments);
        Some(SettleCall {
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

impl Drop for SettleCall<'_> {
    fn drop(&mut self) {
        let mut assignments = locked(&self.failover.assignments);
        let Some(assignment) = assignments.by_payment.get_mut(&self.key) else {
            return;
        };
        assignment.calls -= 1;
        assignment.attempted |= !self.not_attempted;
        assignment.settled |= self.settled;
        assignment.has_unknown_outcome |= !(self.not_attempted || self.settled || self.refused);
        assignment.refused =
            (assignment.refused || self.refused) && !assignment.has_unknown_outcome;
        if self.settled {
            assignments.set_lifetime(self.key, SETTLED_REMEMBERED_FOR);
        } else if assignment.calls == 0 && !assignment.attempted {
            // No facilitator has it, so the next call begins with the first one again.
            assignments.remove_assignment(&self.key);
        } else {
            assignments.update_removable(self.key);
        }
    }
}

/// Whether a reason says that this facilitator is the wrong one: it does not support the scheme or
/// the network, or does not have the settlement to refund. That is not a verdict on the payment.
fn is_not_responsible(reason: Option<&str>) -> bool {
    [
        Reason::INVALID_NETWORK,
        Reason::UNSUPPORTED_SCHEME,
        Reason::UNKNOWN_SETTLEMENT,
    ]
    .iter()
    .any(|wrong| reason == Some(wrong.code()))
}

/// Whether a facilitator could be reached.
fn is_reached<T>(answer: &Result<T, FacilitatorError>) -> bool {
    let unreached =
        |fault: &Fault| fault.not_attempted && fault.kind == FaultKind::FacilitatorUnreachable;
    !matches!(answer, Err(FacilitatorError::Fault(fault)) if unreached(fault))
}

fn is_not_attempted(answer: &Result<SettleResponse, FacilitatorError>) -> bool {
    match answer {
        Ok(settled) => {
            !settled.success
                && settled.transaction.is_empty()
                && is_not_responsible(settled.error_reason.as_deref())
        }
        Err(FacilitatorError::Fault(fault)) => fault.not_attempted,
        // The next facilitator would find the same request malformed.
        Err(FacilitatorError::Malformed(_)) => false,
    }
}

#[async_trait]
impl Facilitator for Failover {
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        // The facilitator that settles a payment knows more of it than the chain does.
        if let Some(at) = self.assignment(&request.origin()) {
            return self.member(at)?.facilitator.verify(request).await;
        }
        let mut last = None;
        for at in self.order() {
            let member = self.member(at)?;
            let answer = member.facilitator.verify(request).await;
            member.note(is_reached(&answer));
            match answer {
                Ok(verdict) if !is_not_responsible(verdict.invalid_reason.as_deref()) => {
                    return Ok(verdict);
                }
                Err(FacilitatorError::Fault(fault)) => {
                    warn!(%fault, "a facilitator returned no verdict");
                    last = Some(Err(fault.into()));
                }
                Err(malformed) => return Err(malformed),
                Ok(unsupported) => last = last.or(Some(Ok(unsupported))),
            }
        }
        last.unwrap_or_else(|| Err(no_facilitator().into()))
    }

    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        let mut call = self.begin(request.origin())?;
        // The fault of a facilitator that may be the right one, such as when to retry. It outranks
        // the response of another one that is not.
        let mut fault = None;
        loop {
            let member = self.member(call.at)?;
            let answer = member.facilitator.settle(request).await;
            member.note(is_reached(&answer));
            if !is_not_attempted(&answer) {
                // A payment with a request to come is not over, and its facilitator is remembered.
                let is_success = answer.as_ref().is_ok_and(|settled| settled.success);
                call.settled = is_success && !request.has_successor();
                call.refused = answer.as_ref().is_ok_and(is_certain_refusal);
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
        let mut last = Err(no_facilitator().into());
        let asked = self.members.iter().map(|one| supported(&*one.facilitator));
        for answer in join_all(asked).await {
            match (answer, &mut all) {
                (Ok(supported), None) => all = Some(supported),
                (Ok(supported), Some(all)) => add(all, supported),
                (Err(error), _) => {
                    warn!(%error, "the /supported of a facilitator is unavailable");
                    last = Err(error);
                }
            }
        }
        all.map_or(last, Ok)
    }
}

/// What one facilitator settles. The time limit keeps it from delaying the others.
async fn supported(one: &dyn Facilitator) -> Result<SupportedResponse, FacilitatorError> {
    let answer = timeout(SUPPORTED_TIMEOUT, one.supported()).await;
    answer.unwrap_or_else(|_| {
        let seconds = SUPPORTED_TIMEOUT.as_secs();
        let problem = format!("/supported: no response within {seconds} s");
        Err(Fault::new(FaultKind::FacilitatorUnreachable, problem).into())
    })
}

fn no_facilitator() -> Fault {
    Fault::new(
        FaultKind::FacilitatorUnreachable,
        "no facilitator is configured",
    )
}

/// Adds what only the second settles. For a kind that both settle, the first one's entry counts.
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
    // Any of them may get a payment that uses an extension, so all of them must support it.
    let others = more.extensions.unwrap_or_default();
    if let Some(extensions) = &mut all.extensions {
        extensions.retain(|extension| others.contains(extension));
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

    fn key(number: u64) -> PaymentId {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        PaymentId::from_bytes(key)
    }

    #[tokio::test(start_paused = true)]
    async fn assignments_expire_in_order_and_not_during_a_call() {
        let mut assignments = Assignments::default();
        assignments.enter(key(0), 0).unwrap().calls = 1;
        assignments.enter(key(1), 0).unwrap();
        advance(REMEMBERED_FOR / 2).await;
        assignments.enter(key(2), 0).unwrap();
        advance(REMEMBERED_FOR / 2).await;
        assignments.enter(key(3), 0).unwrap();
        let mut kept: Vec<_> = assignments.by_payment.keys().copied().collect();
        kept.sort_unstable();
        assert_eq!(kept, [key(0), key(2), key(3)]);
        assert_eq!(assignments.by_end.len(), 3);
        assignments.remove_assignment(&key(0));
        assignments.remove_assignment(&key(2));
        assignments.remove_assignment(&key(3));
        assert!(assignments.by_payment.is_empty() && assignments.by_end.is_empty());
    }

    /// Once, settled payments were remembered for hours, and 14 per second left no room for new
    /// ones.
    #[tokio::test(start_paused = true)]
    async fn settled_payments_make_room_and_open_ones_do_not() {
        let mut assignments = Assignments::default();
        for number in 0..PAYMENTS_MAX as u64 {
            assignments.enter(key(number), 0).unwrap();
        }
        for (number, calls) in [(7, 1), (8, 0), (9, 0)] {
            let assignment = assignments.enter(key(number), 0).unwrap();
            (assignment.settled, assignment.calls) = (true, calls);
            assignments.set_lifetime(key(number), SETTLED_REMEMBERED_FOR);
            advance(Duration::from_secs(1)).await;
        }
        assert!(assignments.enter(key(u64::MAX), 0).is_some());
        let is_kept = |number| assignments.by_payment.contains_key(&key(number));
        assert!(is_kept(7) && !is_kept(8) && is_kept(9));
        assert!(assignments.enter(key(u64::MAX - 1), 0).is_some());
        assert!(assignments.enter(key(u64::MAX - 2), 0).is_none());
        assert_eq!(assignments.settled.len(), 1);
    }

    /// Once, a client with many addresses and one balance could fill the memory with refused
    /// payments, and stop all sales for two hours.
    #[tokio::test(start_paused = true)]
    async fn refused_payments_make_room_and_unknown_ones_do_not() {
        let failover = Failover::new(Arc::new(NeverAsked)).or(Arc::new(NeverAsked));
        let no = |reason: &'static str, transaction: &str| {
            let rejection = Rejection::new(Reason::new(reason), "");
            Ok::<_, FacilitatorError>(SettleResponse::failed("a:1", &rejection, None, transaction))
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
                call.refused = answer.as_ref().is_ok_and(is_certain_refusal);
            }
            let forgotten = locked(&failover.assignments).make_room();
            assert_eq!(forgotten, makes_room, "{answers:?}");
            assert_eq!(
                failover.assignment(&key).is_none(),
                makes_room,
                "{answers:?}"
            );
        }
    }

    /// A facilitator that no test asks.
    struct NeverAsked;

    #[async_trait]
    impl Facilitator for NeverAsked {
        async fn verify(&self, _: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
            Err(no_facilitator().into())
        }
        async fn settle(&self, _: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
            Err(no_facilitator().into())
        }
        async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
            Err(no_facilitator().into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn full_memory_refuses_new_payments_until_some_expire() {
        let mut assignments = Assignments::default();
        for number in 0..PAYMENTS_MAX as u64 {
            assignments.enter(key(number), 0).unwrap();
        }
        assert!(assignments.enter(key(0), 0).is_some());
        assert!(assignments.enter(key(u64::MAX), 0).is_none());
        advance(REMEMBERED_FOR).await;
        assert!(assignments.enter(key(u64::MAX), 0).is_some());
    }
}
