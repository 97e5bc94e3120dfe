//! The leases of one network: which lanes this process may send with.
//!
//! Lanes are shared fairly: with as many members as lanes, each has one. A member that has too many
//! drains one: it sends nothing new in it, and releases it when nothing is outstanding there.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quittance_core::{Chain, LaneId};
use quittance_journal::{FencingToken, JournalError, LeaseName, Members, ReplicaId};
use tracing::{info, warn};

use crate::membership::Membership;
use crate::outstanding::Outstanding;

/// The leases of one network.
pub(crate) struct Leases {
    membership: Arc<Membership>,
    network: String,
    duty: LeaseName,
    lanes: Vec<(LaneId, LeaseName)>,
    /// The lanes in which nothing new is sent, because another member has too few.
    draining: Mutex<BTreeSet<LaneId>>,
}

impl Leases {
    /// The leases of a chain. None is held yet.
    pub(crate) fn new<C: Chain>(membership: Arc<Membership>, chain: &C) -> Self {
        let network = chain.network().id();
        let lanes = chain.lanes().iter();
        let lanes = lanes.map(|lane| (lane.clone(), LeaseName::lane(network, lane)));
        Self {
            membership,
            network: network.to_owned(),
            duty: LeaseName::duty(network),
            lanes: lanes.collect(),
            draining: Mutex::default(),
        }
    }

    /// The membership of this process.
    pub(crate) fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Whether this process has the duties that one replica has for the whole network.
    pub(crate) fn has_duty(&self) -> bool {
        self.membership.token(&self.duty).is_some()
    }

    /// The token of a lane that this process certainly holds now.
    pub(crate) fn token(&self, lane: &LaneId) -> Option<FencingToken> {
        self.membership.token(self.name(lane)?)
    }

    /// As [`token`](Self::token), if new payments may be sent in the lane.
    pub(crate) fn token_to_send(&self, lane: &LaneId) -> Option<FencingToken> {
        let token = self.token(lane)?;
        (!self.draining().contains(lane)).then_some(token)
    }

    /// Whether another member holds one of the chain's lanes.
    pub(crate) fn is_elsewhere(&self, lane: &LaneId) -> bool {
        let name = self.name(lane);
        name.is_some_and(|name| self.membership.is_elsewhere(name))
    }

    /// The lanes that this process certainly holds now.
    pub(crate) fn held(&self) -> Vec<LaneId> {
        let lanes = self.lanes.iter();
        let held = lanes.filter(|(_, name)| self.membership.token(name).is_some());
        held.map(|(lane, _)| lane.clone()).collect()
    }

    /// Acquires and releases what is due, by the members at the last renewal. Returns whether
    /// something was acquired: the holder before may have left work.
    pub(crate) async fn balance<C: Chain>(
        &self,
        outstanding: &Outstanding<C>,
    ) -> Result<bool, JournalError> {
        let members = self.membership.members();
        let me = self.membership.replica();
        let mut is_new = false;
        if self.membership.is_retiring() {
            return Ok(is_new);
        }
        if holder(&members, &self.duty).is_none() {
            is_new |= self.acquire(&self.duty).await?;
        }
        let share = Share::new(&members, &self.lanes, me);
        let free = |name: &LeaseName| holder(&members, name).is_none();
        let free = self.lanes.iter().map(|(_, name)| name.clone()).filter(free);
        let free: Vec<LeaseName> = free.take(share.room).collect();
        for name in &free {
            is_new |= self.acquire(name).await?;
        }
        self.choose_draining(share.has_too_many);
        self.release_drained(outstanding).await?;
        let labels = [("network", self.network.clone())];
        metrics::gauge!("quittance_lanes_held", &labels).set(self.held().len() as f64);
        Ok(is_new)
    }

    async fn acquire(&self, name: &LeaseName) -> Result<bool, JournalError> {
        let is_held = self.membership.acquire(name).await?;
        if is_held {
            info!(lease = %name, "acquired");
        }
        Ok(is_held)
    }

    /// Begins to drain one lane if this process has too many; else ends all draining.
    fn choose_draining(&self, has_too_many: bool) {
        let mut held = self.held();
        let mut draining = self.draining();
        match has_too_many {
            true if draining.is_empty() => draining.extend(held.pop()),
            true => {}
            false => draining.clear(),
        }
    }

    /// Releases the lanes that are drained. A number that is reserved counts as outstanding, and a
    /// task that reserves one asks afterwards whether the lane is being drained.
    async fn release_drained<C: Chain>(
        &self,
        outstanding: &Outstanding<C>,
    ) -> Result<(), JournalError> {
        let draining = self.draining().clone();
        for lane in draining {
            if outstanding.first(&lane).is_some() {
                continue;
            }
            if let Some(name) = self.name(&lane) {
                self.membership.release(name).await?;
                info!(lease = %name, "released: another replica has too few lanes");
            }
            self.draining().remove(&lane);
        }
        Ok(())
    }

    fn name(&self, lane: &LaneId) -> Option<&LeaseName> {
        let found = self.lanes.iter().find(|(known, _)| known == lane);
        found.map(|(_, name)| name)
    }

    fn draining(&self) -> MutexGuard<'_, BTreeSet<LaneId>> {
        // A thread that panicked with the lock left the set complete.
        self.draining.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Balances the leases of a network after every renewal, as long as this process runs. After
/// something was acquired, calls `acquired`.
pub(crate) async fn keep<C: Chain>(
    leases: &Leases,
    outstanding: &Outstanding<C>,
    acquired: impl Fn(),
) {
    let mut renewals = leases.membership.renewals();
    while renewals.changed().await.is_ok() {
        match leases.balance(outstanding).await {
            Ok(true) => acquired(),
            Ok(false) => {}
            Err(error) => warn!(%error, "the leases of the lanes could not be changed"),
        }
    }
}

fn holder(members: &Members, name: &LeaseName) -> Option<ReplicaId> {
    let lease = members.leases.iter().find(|lease| lease.name == *name);
    lease.map(|lease| lease.holder)
}

/// This process's share of the lanes.
#[derive(Debug, PartialEq, Eq)]
struct Share {
    /// How many lanes it may acquire.
    room: usize,
    /// Whether it has to give one to another member.
    has_too_many: bool,
}

impl Share {
    fn new(members: &Members, lanes: &[(LaneId, LeaseName)], me: ReplicaId) -> Self {
        let holders = lanes.iter().filter_map(|(_, name)| holder(members, name));
        let holders: Vec<ReplicaId> = holders.collect();
        let count = |replica: &ReplicaId| holders.iter().filter(|it| *it == replica).count();
        let replicas = members.replicas.len().max(1);
        let (least, most) = (lanes.len() / replicas, lanes.len().div_ceil(replicas));
        let mine = count(&me);
        let is_another_short = members.replicas.iter().any(|it| count(it) < least);
        Self {
            room: most.saturating_sub(mine),
            has_too_many: mine > most || (mine > least && is_another_short),
        }
    }
}

#[cfg(test)]
mod tests {
    use quittance_journal::Lease;

    use super::*;

    fn replica(number: u8) -> ReplicaId {
        ReplicaId::from_bytes([number; 16])
    }

    fn lanes(count: usize) -> Vec<(LaneId, LeaseName)> {
        let lane = |at: usize| LaneId::new(&at.to_string());
        let named = |lane: LaneId| (lane.clone(), LeaseName::lane("test:1", &lane));
        (0..count).map(lane).map(named).collect()
    }

    /// The members after each has balanced its lanes in turn until nothing changes.
    fn settle(members: &mut Members, lanes: &[(LaneId, LeaseName)]) {
        for _ in 0..4 * lanes.len() {
            for me in members.replicas.clone() {
                let share = Share::new(members, lanes, me);
                let free = |(_, name): &&(LaneId, LeaseName)| holder(members, name).is_none();
                let free: Vec<LeaseName> = lanes
                    .iter()
                    .filter(free)
                    .map(|(_, name)| name.clone())
                    .collect();
                let acquired = free.into_iter().take(share.room).map(|name| Lease {
                    name,
                    holder: me,
                    token: FencingToken(1),
                });
                members.leases.extend(acquired);
                if share.has_too_many {
                    let mine = members.leases.iter().position(|lease| lease.holder == me);
                    members.leases.remove(mine.unwrap());
                }
            }
        }
    }

    /// Whatever the members had before, no lane is left and no two shares differ by more than one.
    #[test]
    fn every_lane_has_a_holder_and_shares_are_fair() {
        for lane_count in 0..7 {
            for replica_count in 1..5_u8 {
                let lanes = lanes(lane_count);
                let all: Vec<ReplicaId> = (0..replica_count).map(replica).collect();
                // The first one has all lanes when the others join.
                let mut members = Members {
                    replicas: vec![replica(0)],
                    leases: Vec::new(),
                };
                settle(&mut members, &lanes);
                assert_eq!(members.leases.len(), lane_count);
                members.replicas.clone_from(&all);
                settle(&mut members, &lanes);
                assert_eq!(members.leases.len(), lane_count);
                let counts = all.iter().map(|replica| {
                    let leases = members.leases.iter();
                    leases.filter(|lease| lease.holder == *replica).count()
                });
                let counts: Vec<usize> = counts.collect();
                let (least, most) = (counts.iter().min(), counts.iter().max());
                assert!(most.unwrap() - least.unwrap() <= 1, "{counts:?}");
            }
        }
    }
}
