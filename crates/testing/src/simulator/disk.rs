//! What a simulated journal has on its disk, and each write of it.

use std::collections::BTreeMap;

use quittance_core::{LaneId, PaymentId, Timestamp, Transaction, TransactionId};
use quittance_engine::{
    Claim, Claimed, Ended, FencingToken, JournalError, Lease, LeaseName, Outcome, ReplicaId,
    Reported, Settlement, SettlementStep, SignedFor, State,
};
use tokio::time::Instant;

use super::mutation::Mutation;

/// A recorded transaction.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) network: String,
    pub(super) transaction: Transaction,
    pub(super) is_withdrawn: bool,
}

/// A settlement, with the lane that it waits for since it was handed over.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) settlement: Settlement,
    pub(super) wanted: Option<LaneId>,
    /// The attempt and the step of each transaction.
    pub(super) signed: Vec<(u32, TransactionId, u8)>,
}

/// Everything that is written.
#[derive(Default)]
pub(super) struct Disk {
    /// The position in listings stays with the first claim.
    pub(super) order: Vec<PaymentId>,
    pub(super) settlements: BTreeMap<PaymentId, Kept>,
    pub(super) rows: Vec<Row>,
    pub(super) leases: BTreeMap<LeaseName, (Option<ReplicaId>, FencingToken)>,
    pub(super) members: BTreeMap<ReplicaId, Instant>,
    /// The planted bug, if there is one.
    pub(super) mutation: Option<Mutation>,
}

impl Disk {
    pub(super) fn has(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    pub(super) fn is_member(&self, replica: ReplicaId) -> bool {
        let until = self.members.get(&replica);
        until.is_some_and(|until| Instant::now() < *until)
    }

    /// A settlement with its transactions.
    pub(super) fn settlement(&self, id: &PaymentId) -> Option<Settlement> {
        let kept = self.settlements.get(id)?;
        let mut settlement = kept.settlement.clone();
        // In the order in which they were first recorded.
        for row in &self.rows {
            let signed = kept
                .signed
                .iter()
                .find(|signed| signed.1 == row.transaction.id);
            let Some((attempt, _, step)) = signed else {
                continue;
            };
            let signed = SignedFor {
                attempt: *attempt,
                step: *step,
                transaction: row.transaction.clone(),
            };
            match row.is_withdrawn {
                true => settlement.withdrawn.push(signed),
                false => settlement.transactions.push(signed),
            }
        }
        Some(settlement)
    }

    pub(super) fn claim(
        &mut self,
        claim: &Claim,
        owner: ReplicaId,
        now: Timestamp,
    ) -> Result<Claimed, JournalError> {
        let is_plain = claim.access.is_none() && claim.refund_of.is_none();
        if !is_plain || claim.retries_without_limit {
            let what = "the simulated journal has neither state records nor refunds";
            return Err(JournalError::refused(what));
        }
        if self.has(Mutation::ForgetsClaims) {
            return Ok(Claimed::Won { attempt: 1 });
        }
        let wins_all = self.has(Mutation::WinsEveryClaim);
        let mut settlement = Settlement::new(claim.clone(), State::Open, now);
        settlement.owner = Some(owner);
        let Some(kept) = self.settlements.get_mut(&claim.id) else {
            self.order.push(claim.id);
            let kept = Kept {
                settlement,
                wanted: None,
                signed: Vec::new(),
            };
            self.settlements.insert(claim.id, kept);
            return Ok(Claimed::Won { attempt: 1 });
        };
        if kept.settlement.claimable_from(false, now).is_none() && !wins_all {
            let taken = self.settlement(&claim.id);
            let taken = taken.ok_or_else(|| JournalError::unreadable("no settlement"))?;
            return Ok(Claimed::Taken(Box::new(taken)));
        }
        settlement.attempt = kept.settlement.attempt + 1;
        settlement.failures = kept.settlement.failures;
        let attempt = settlement.attempt;
        (kept.settlement, kept.wanted) = (settlement, None);
        Ok(Claimed::Won { attempt })
    }

    fn check_lease(
        &self,
        name: LeaseName,
        me: ReplicaId,
        token: Option<FencingToken>,
    ) -> Result<(), JournalError> {
        let Some(token) = token.filter(|_| !self.has(Mutation::SignsWithoutLease)) else {
            return Ok(());
        };
        let is_held = self.leases.get(&name) == Some(&(Some(me), token));
        match is_held && self.is_member(me) {
            true => Ok(()),
            false => Err(JournalError::LeaseLost { name }),
        }
    }

    pub(super) fn record(
        &mut self,
        network: &str,
        transaction: &Transaction,
        steps: &[SettlementStep],
        me: ReplicaId,
        token: Option<FencingToken>,
    ) -> Result<(), JournalError> {
        self.check_lease(LeaseName::lane(network, &transaction.lane), me, token)?;
        if self.has(Mutation::ForgetsRecords) {
            return Ok(());
        }
        let replaced = |row: &Row| {
            let other = &row.transaction;
            row.network == network
                && (&other.lane, other.sequence) == (&transaction.lane, transaction.sequence)
                && other.id != transaction.id
        };
        let replaced = self.rows.iter().filter(|row| replaced(row));
        let replaced: Vec<_> = replaced.map(|row| row.transaction.id.clone()).collect();
        // All or nothing: every owner is checked before the first change.
        for step in steps {
            let Some(kept) = self.settlements.get(&step.settlement) else {
                continue;
            };
            let is_replacement = kept.signed.iter().any(|(_, id, _)| replaced.contains(id));
            let is_open = kept.settlement.state == State::Open;
            if is_open && kept.settlement.owner != Some(me) && !is_replacement {
                let settlement = step.settlement;
                return Err(JournalError::NotOwner { settlement });
            }
        }
        let known = self
            .rows
            .iter_mut()
            .find(|row| row.transaction.id == transaction.id);
        let row = Row {
            network: network.to_owned(),
            transaction: transaction.clone(),
            is_withdrawn: false,
        };
        match known {
            Some(known) => *known = row,
            None => self.rows.push(row),
        }
        let steps = match self.has(Mutation::DropsIds) {
            true => &[],
            false => steps,
        };
        for step in steps {
            let Some(kept) = self.settlements.get_mut(&step.settlement) else {
                continue;
            };
            let is_replacement = kept.signed.iter().any(|(_, id, _)| replaced.contains(id));
            if kept.settlement.state != State::Open && !is_replacement {
                continue;
            }
            let signed = (kept.settlement.attempt, transaction.id.clone(), step.step);
            kept.signed.retain(|(_, id, _)| *id != transaction.id);
            kept.signed.push(signed);
        }
        Ok(())
    }

    pub(super) fn withdraw(
        &mut self,
        id: &TransactionId,
        me: ReplicaId,
        token: Option<FencingToken>,
    ) -> Result<(), JournalError> {
        let Some(at) = self.rows.iter().position(|row| row.transaction.id == *id) else {
            return Ok(());
        };
        let row = &self.rows[at];
        let name = LeaseName::lane(&row.network, &row.transaction.lane);
        self.check_lease(name, me, token)?;
        self.rows[at].is_withdrawn = true;
        Ok(())
    }

    pub(super) fn conclude(
        &mut self,
        id: &PaymentId,
        attempt: u32,
        outcome: &Outcome,
        me: ReplicaId,
        now: Timestamp,
    ) -> Result<Ended, JournalError> {
        if self.has(Mutation::ForgetsConclusions) {
            return Ok(Ended::Yes);
        }
        let final_at_once = self.has(Mutation::FinalAtOnce);
        let Some(kept) = self.settlements.get_mut(id) else {
            return Ok(Ended::No);
        };
        let settlement = &mut kept.settlement;
        if settlement.attempt != attempt || settlement.state != State::Open {
            return Ok(Ended::No);
        }
        if settlement.owner != Some(me) {
            return Err(JournalError::NotOwner { settlement: *id });
        }
        let is_reported = settlement.success_reported_at.is_some();
        match outcome {
            Outcome::Lost { .. } if !is_reported => {
                return Err(JournalError::refused("nothing was reported"));
            }
            Outcome::Failed { .. } | Outcome::Released { .. } if is_reported => {
                return Err(JournalError::refused("success was reported"));
            }
            Outcome::Failed {
                transaction: Some(_),
                ..
            } => settlement.failures += 1,
            Outcome::Settled {
                transaction: None, ..
            } => settlement.final_at = Some(now),
            Outcome::Settled { .. } if final_at_once => settlement.final_at = Some(now),
            _ => {}
        }
        settlement.state = State::Concluded(outcome.clone());
        settlement.concluded_at = Some(now);
        settlement.owner = None;
        Ok(Ended::Yes)
    }

    /// A settlement that settled in this attempt.
    fn settled(&mut self, id: &PaymentId, attempt: u32) -> Option<&mut Kept> {
        let kept = self.settlements.get_mut(id)?;
        let settlement = &kept.settlement;
        let is_settled = matches!(settlement.state, State::Concluded(Outcome::Settled { .. }));
        (is_settled && settlement.attempt == attempt).then_some(kept)
    }

    pub(super) fn reopen(&mut self, id: &PaymentId, attempt: u32, me: ReplicaId) -> bool {
        if self.has(Mutation::ForgetsReopening) {
            return true;
        }
        let kept = self.settled(id, attempt);
        let Some(kept) = kept.filter(|kept| kept.settlement.final_at.is_none()) else {
            return false;
        };
        kept.settlement.state = State::Open;
        kept.settlement.concluded_at = None;
        kept.settlement.owner = Some(me);
        kept.wanted = None;
        true
    }

    pub(super) fn finalize(&mut self, ids: &[PaymentId], now: Timestamp) {
        for id in ids {
            let Some(kept) = self.settlements.get_mut(id) else {
                continue;
            };
            let settlement = &mut kept.settlement;
            if matches!(settlement.state, State::Concluded(Outcome::Settled { .. })) {
                settlement.final_at.get_or_insert(now);
            }
        }
    }

    pub(super) fn report_success(
        &mut self,
        id: &PaymentId,
        attempt: u32,
        key: Option<&str>,
        now: Timestamp,
    ) -> Reported {
        match self.mutation {
            Some(Mutation::ReportsTwice) => return Reported::First,
            Some(Mutation::ReportsNothing) => return Reported::No,
            _ => {}
        }
        let Some(kept) = self.settled(id, attempt) else {
            return Reported::No;
        };
        let settlement = &mut kept.settlement;
        if settlement.success_reported_at.is_none() {
            settlement.success_reported_at = Some(now);
            settlement.reported_to = key.map(str::to_owned);
            return Reported::First;
        }
        match settlement.reports_again(key.filter(|key| !key.is_empty()), now) {
            true => Reported::Again,
            false => Reported::No,
        }
    }

    pub(super) fn acquire(&mut self, name: &LeaseName, me: ReplicaId) -> Option<Lease> {
        if !self.is_member(me) {
            return None;
        }
        let (holder, token) = match self.leases.get(name) {
            Some((Some(holder), token)) if *holder == me => (me, *token),
            Some((Some(holder), token))
                if self.is_member(*holder) && self.has(Mutation::SignsWithoutLease) =>
            {
                let (name, token) = (name.clone(), *token);
                return Some(Lease {
                    name,
                    holder: me,
                    token,
                });
            }
            Some((Some(holder), _)) if self.is_member(*holder) => return None,
            Some((_, token)) => (me, FencingToken(token.0 + 1)),
            None => (me, FencingToken(1)),
        };
        let name = name.clone();
        self.leases.insert(name.clone(), (Some(holder), token));
        Some(Lease {
            name,
            holder,
            token,
        })
    }

    /// Takes up open settlements that no other member works on.
    pub(super) fn take_up(&mut self, ids: &[PaymentId], me: ReplicaId) -> Vec<PaymentId> {
        let is_free = |id: &&PaymentId| {
            let kept = self.settlements.get(id);
            kept.is_some_and(|kept| {
                let owner = kept.settlement.owner.filter(|owner| *owner != me);
                kept.settlement.state == State::Open
                    && (self.has(Mutation::TakesFromLivingOwners)
                        || !owner.is_some_and(|owner| self.is_member(owner)))
            })
        };
        if !self.is_member(me) {
            return Vec::new();
        }
        let taken: Vec<PaymentId> = ids.iter().filter(is_free).copied().collect();
        for id in &taken {
            if let Some(kept) = self.settlements.get_mut(id)
                && kept.settlement.owner != Some(me)
            {
                kept.settlement.owner = Some(me);
                kept.wanted = None;
            }
        }
        taken
    }

    pub(super) fn hand_over(
        &mut self,
        id: &PaymentId,
        attempt: u32,
        lane: Option<&LaneId>,
        me: ReplicaId,
    ) -> bool {
        let Some(kept) = self.settlements.get_mut(id) else {
            return false;
        };
        let settlement = &mut kept.settlement;
        let is_mine = settlement.state == State::Open
            && settlement.attempt == attempt
            && settlement.owner == Some(me);
        if is_mine && self.mutation != Some(Mutation::HandsOverNothing) {
            settlement.owner = None;
            kept.wanted = lane.cloned();
        }
        is_mine
    }

    /// The settlements of a network that match, oldest first.
    pub(super) fn listed(
        &self,
        network: &str,
        time: impl Fn(&Settlement) -> Timestamp,
        matches: impl Fn(&Settlement) -> bool,
    ) -> Vec<&Kept> {
        let mut found: Vec<_> = self
            .settlements
            .values()
            .filter(|kept| kept.settlement.claim.network == network && matches(&kept.settlement))
            .collect();
        // The map is in the order of the ids, and the sort is stable.
        found.sort_by_key(|kept| time(&kept.settlement));
        found
    }
}
