//! Handing a job to a lane.

use std::sync::Arc;

use quittance_core::{
    Chain, Fault, FaultKind, LaneId, Plan, Reason, Rejection, Transaction, TransactionId,
};

use super::Rail;
use super::decoded::Verified;
use crate::job::{Job, Ready};
use crate::lane::{self, Lane};

impl<C: Chain> Rail<C> {
    /// Finds what settling a job's payment takes, and does it or hands it to a lane.
    pub(super) async fn dispatch(&self, job: Job<C>, verified: Verified<'_, C>) {
        let observed = verified.observed(self.context.now());
        let sender = job.payment().sender(&observed);
        let plan = job.payment().plan(job.amount(), &observed);
        let job = job.with_answers(verified.answers);
        match plan {
            Ok(plan) => self.carry_out(job, plan, sender, None).await,
            Err(rejection) => self.context.fail(job, rejection, None).await,
        }
    }

    /// Carries out a plan. If it sends nothing more, `last` is the transaction of the last step.
    pub(super) async fn carry_out(
        &self,
        job: Job<C>,
        plan: Plan<C::Action>,
        sender: Option<LaneId>,
        last: Option<TransactionId>,
    ) {
        let (action, step) = match plan {
            Plan::Submit(action) => (action, 0),
            Plan::Step { step, action } => (action, step.get()),
            Plan::OffChain => {
                let amount = match last {
                    None => job.amount(),
                    Some(_) => job.payment().transferred_by_steps(job.amount()),
                };
                return self.context.settled(job, last, amount, None).await;
            }
        };
        self.queue(Ready { job, action, step }, sender).await;
    }

    /// Hands a job to a lane, or releases it if no lane can take it. If another replica has the
    /// lanes that can, hands the job over. If `sender` is given, only
    /// that signer may send it. An action that is a transaction already is relayed.
    pub(super) async fn queue(&self, ready: Ready<C>, sender: Option<LaneId>) {
        if let Some(signed) = self.chain().signed(&ready.action) {
            return self.relay(ready, signed).await;
        }
        let lane = match self.lane_for(sender.as_ref()) {
            Ok(Some(lane)) => lane,
            Ok(None) => {
                // The write may have to wait for the journal longer than a caller waits.
                let context = Arc::clone(&self.context);
                let handed_over =
                    async move { context.hand_over(ready.job, sender.as_ref()).await };
                return self.context.spawn(handed_over);
            }
            Err(fault) => return self.context.release(ready.job, fault).await,
        };
        if let Some(Ready { job, .. }) = lane.accept(ready) {
            let full = Fault::new(FaultKind::Busy, "the lane's queue is full");
            self.context.release(job, full).await;
        }
    }

    /// Sends a transaction that another party has signed. One of our own signers cannot be that
    /// party: its transactions are numbered and followed in its lane, and all of them are known.
    async fn relay(&self, ready: Ready<C>, signed: Transaction) {
        let context = &self.context;
        if context.is_own(&signed.lane) {
            let detail = "the transaction is signed by a signer of this facilitator";
            let rejection = Rejection::new(Reason::INVALID_PAYLOAD, detail);
            return context.fail(ready.job, rejection, None).await;
        }
        if !self.health().network_works() {
            return context.release(ready.job, network_down()).await;
        }
        context.spawn(lane::relay(Arc::clone(context), ready, signed));
    }

    /// Whether new payments may be sent in a lane: this process holds it, and is not draining it.
    pub(super) fn can_send(&self, lane: &LaneId) -> bool {
        self.context.leases.token_to_send(lane).is_some()
    }

    /// The working lane of this process with the fewest waiting settlements. If a signer is named,
    /// that lane. `None` if working lanes are elsewhere.
    fn lane_for(&self, named: Option<&LaneId>) -> Result<Option<&Lane<C>>, Fault> {
        if self.lanes.is_empty() {
            let what = "the payment needs a signer of this facilitator, which has none here";
            return Err(Fault::new(FaultKind::Internal, what));
        }
        let health = self.health();
        let is_usable = |lane: &&Lane<C>| {
            named.is_none_or(|named| *named == lane.id) && health.lane_works(&lane.id)
        };
        let usable: Vec<&Lane<C>> = self.lanes.iter().filter(is_usable).collect();
        if usable.is_empty() {
            return Err(match health.network_works() {
                true => Fault::new(
                    FaultKind::FacilitatorFunds,
                    "no signer can pay for a transaction",
                ),
                false => network_down(),
            });
        }
        let ours = usable.into_iter().filter(|lane| self.can_send(&lane.id));
        Ok(ours.min_by_key(|lane| lane.waiting()))
    }
}

fn network_down() -> Fault {
    Fault::new(
        FaultKind::ChainUnavailable,
        "the network cannot be used now",
    )
}
