//! Settlements that another replica has claimed, and that this one can send.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use quittance_core::{Chain, Fault, LaneId, PaymentId};
use quittance_journal::{HandedOver, Settlement};
use tracing::warn;

use super::Rail;

/// How many of them are taken over at once: as many as one write takes.
const AT_ONCE_MAX: u32 = 256;

impl<C: Chain> Rail<C> {
    /// Takes up what other replicas hand over, as long as this process runs.
    pub(super) async fn take_handed_over(self: Arc<Self>) {
        loop {
            self.context.writer.journal.wait_for_hand_over().await;
            if let Err(fault) = self.look_for_handed_over().await {
                let network = self.context.network();
                warn!(network, %fault, "what was handed over could not be taken over");
            }
        }
    }

    async fn look_for_handed_over(self: &Arc<Self>) -> Result<(), Fault> {
        let context = &self.context;
        let has_others = context.leases.membership().has_others();
        let has_own = context.has_handed_over.load(Ordering::Relaxed);
        let usable = self.usable_lanes();
        // A single process has all lanes, and hands nothing over.
        let is_needed = (has_others || has_own) && !usable.is_empty();
        if !is_needed || context.leases.membership().is_retiring() {
            return Ok(());
        }
        let journal = &context.writer.journal;
        let waiting = journal.handed_over(context.network(), AT_ONCE_MAX).await?;
        context
            .has_handed_over
            .store(has_own && !waiting.is_empty(), Ordering::Relaxed);
        let can_take =
            |one: &HandedOver| one.lane.as_ref().is_none_or(|lane| usable.contains(lane));
        let ours = waiting.into_iter().filter(can_take);
        let ours: Vec<PaymentId> = ours.map(|one| one.id).collect();
        self.take_up(&ours).await
    }

    /// The working lanes that new payments may be sent in.
    fn usable_lanes(&self) -> BTreeSet<LaneId> {
        let health = self.health();
        let lanes = self.lanes.iter().map(|lane| &lane.id);
        let usable = lanes.filter(|lane| self.can_send(lane) && health.lane_works(lane));
        usable.cloned().collect()
    }

    /// Whether a settlement may be taken over here. Its transactions may be in a lane of another
    /// replica: that one can replace them, and takes the settlement up.
    pub(super) fn may_take_up(&self, settlement: &Settlement) -> bool {
        let leases = &self.context.leases;
        let is_own = settlement.owner == Some(leases.membership().replica());
        let newest = settlement.transaction();
        is_own || !newest.is_some_and(|newest| leases.is_elsewhere(&newest.lane))
    }
}
