//! The replicas of one open file, and the state records that verified payments hold. In memory:
//! only one process has the file open, and its members end with it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quittance_core::{PaymentId, StateId};
use tokio::time::Instant;

use crate::replica::ReplicaId;

/// How many holds are kept before the expired ones are removed. Each has a hundred bytes.
const HOLDS_MAX: usize = 16_384;

/// What all handles of one open file share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    members: Mutex<BTreeMap<ReplicaId, Instant>>,
    holds: Mutex<BTreeMap<StateId, Hold>>,
}

#[derive(Debug, Clone, Copy)]
struct Hold {
    payment: PaymentId,
    until: Instant,
}

impl Shared {
    /// Makes a replica a member until then, and forgets the memberships that are over.
    pub(super) fn renew(&self, replica: ReplicaId, until: Instant) {
        let mut members = self.members();
        members.insert(replica, until);
        let now = Instant::now();
        members.retain(|_, until| now < *until);
    }

    /// Ends a membership.
    pub(super) fn leave(&self, replica: &ReplicaId) {
        self.members().remove(replica);
    }

    /// Whether a replica is a member.
    pub(super) fn is_member(&self, replica: &ReplicaId) -> bool {
        let members = self.members();
        members
            .get(replica)
            .is_some_and(|until| Instant::now() < *until)
    }

    /// The members, in order.
    pub(super) fn all(&self) -> Vec<ReplicaId> {
        let (now, members) = (Instant::now(), self.members());
        let live = members.iter().filter(|(_, until)| now < **until);
        live.map(|(replica, _)| *replica).collect()
    }

    /// Holds a record for a payment, unless a payment holds it.
    pub(super) fn hold(&self, state: StateId, payment: PaymentId, duration: Duration) -> bool {
        let (now, mut holds) = (Instant::now(), self.holds());
        if holds.len() >= HOLDS_MAX {
            holds.retain(|_, hold| now < hold.until);
        }
        let is_free = holds.get(&state).is_none_or(|hold| now >= hold.until);
        if is_free {
            let until = now + duration;
            holds.insert(state, Hold { payment, until });
        }
        is_free
    }

    /// Ends the hold of a payment.
    pub(super) fn release(&self, state: &StateId, payment: &PaymentId) {
        let mut holds = self.holds();
        if holds
            .get(state)
            .is_some_and(|hold| hold.payment == *payment)
        {
            holds.remove(state);
        }
    }

    // A thread that panicked with a lock left the map complete: each change is one insertion or
    // removal.
    fn members(&self) -> MutexGuard<'_, BTreeMap<ReplicaId, Instant>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holds(&self) -> MutexGuard<'_, BTreeMap<StateId, Hold>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
