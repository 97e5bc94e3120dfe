//! Two states of one settlement, of which the later one stays: for journals that restore entries.

use crate::settlement::{Claim, Outcome, Settlement, State};

/// Why two states of a settlement cannot both be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Contradiction {
    /// One authorization cannot be two payments.
    #[error("the journal has another payment for this attempt of the authorization")]
    Claim,
    /// One attempt ended in two ways.
    #[error("the journal has another outcome for this attempt")]
    Outcome,
    /// An authorization that has settled for good is not claimed again.
    #[error("an attempt of this authorization has settled for good, and another one is later")]
    Attempt,
}

impl Settlement {
    /// Whether [`Journal::prune`](crate::Journal::prune) has removed its personal data. What was
    /// rebuilt from its chain has no request either, but it has a payer.
    pub fn is_pruned(&self) -> bool {
        self.claim.request.is_empty() && self.claim.payer.is_empty()
    }

    /// The later of this settlement and another state of it, for implementations of
    /// [`Journal::restore`](crate::Journal::restore). `None` if this one is the later one already.
    /// Neither the attempt nor the progress of the attempt becomes lower. A success report stays,
    /// and so does the first time that the payment was found final. Transactions are not merged.
    ///
    /// # Errors
    /// When both cannot be states of one settlement.
    pub fn merged(&self, other: &Self) -> Result<Option<Self>, Contradiction> {
        if self.attempt != other.attempt {
            let (earlier, later) = match self.attempt < other.attempt {
                true => (self, other),
                false => (other, self),
            };
            if earlier.has_ended_for_good() {
                return Err(Contradiction::Attempt);
            }
            return Ok((later.attempt > self.attempt).then(|| other.clone()));
        }
        if !is_same_claim(&self.claim, &other.claim) {
            return Err(Contradiction::Claim);
        }
        let mut merged = match (progress(&self.state), progress(&other.state)) {
            (ours, theirs) if ours == theirs => {
                is_same_outcome(self, other)?;
                self.clone()
            }
            (0, _) => other.clone(),
            (_, 0) => self.clone(),
            (2, 3) if self.final_at.is_none() => other.clone(),
            (3, 2) if other.final_at.is_none() => self.clone(),
            _ => return Err(Contradiction::Outcome),
        };
        merged.failures = self.failures.max(other.failures);
        if self.success_reported_at.is_some() {
            merged.success_reported_at = self.success_reported_at;
            merged.reported_to.clone_from(&self.reported_to);
        } else {
            merged.success_reported_at = other.success_reported_at;
            merged.reported_to.clone_from(&other.reported_to);
        }
        if progress(&merged.state) == 2 {
            merged.final_at = self.final_at.or(other.final_at);
        } else if progress(&merged.state) == 1 && merged.success_reported_at.is_some() {
            return Err(Contradiction::Outcome);
        }
        merged.transactions.clone_from(&self.transactions);
        merged.withdrawn.clone_from(&self.withdrawn);
        Ok((merged != *self).then_some(merged))
    }

    /// Whether no later attempt of the authorization can exist.
    fn has_ended_for_good(&self) -> bool {
        let is_reported = self.success_reported_at.is_some();
        self.final_at.is_some() || is_reported && !self.claim.retries_without_limit
    }
}

/// How far an attempt has come. Of two numbers that are not 0, only 2 and 3 follow each other.
const fn progress(state: &State) -> u8 {
    match state {
        State::Open => 0,
        State::Concluded(Outcome::Released { .. } | Outcome::Failed { .. }) => 1,
        State::Concluded(Outcome::Settled { .. }) => 2,
        State::Concluded(Outcome::Lost { .. }) => 3,
    }
}

/// Whether two claims are of one payment, as far as both still have its data.
fn is_same_claim(one: &Claim, other: &Claim) -> bool {
    let kept = |claim: &Claim| {
        let Claim {
            id,
            expires,
            amount,
            ..
        } = *claim;
        (id, expires, amount, claim.refund_of, claim.access)
    };
    let names = |claim: &Claim| [&claim.network, &claim.scheme, &claim.asset].map(Clone::clone);
    let is_pruned = one.request.is_empty() || other.request.is_empty();
    kept(one) == kept(other)
        && names(one) == names(other)
        && (is_pruned || without_unfinished(one) == without_unfinished(other))
}

/// The claim as it is stored.
fn without_unfinished(claim: &Claim) -> Claim {
    Claim {
        is_unfinished: false,
        ..claim.clone()
    }
}

/// Checks that two attempts that have come equally far ended in the same way.
fn is_same_outcome(one: &Settlement, other: &Settlement) -> Result<(), Contradiction> {
    let is_same = match (&one.state, &other.state) {
        (
            State::Concluded(Outcome::Settled {
                transaction,
                amount,
                ..
            }),
            State::Concluded(Outcome::Settled {
                transaction: other_transaction,
                amount: other_amount,
                ..
            }),
        ) => (transaction, amount) == (other_transaction, other_amount),
        (one, other) => one.kind() == other.kind(),
    };
    let is_whole = is_same
        && (one.is_pruned()
            || other.is_pruned()
            || one.state.kind() != other.state.kind()
            || one.state == other.state);
    match is_whole {
        true => Ok(()),
        false => Err(Contradiction::Outcome),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quittance_core::{
        Amount, Fault, FaultKind, PaymentId, PaymentInfo, Reason, SchemeReceipt, Timestamp,
        TransactionId,
    };

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_000);

    /// A settlement of one authorization in any state that a journal can have.
    fn settlements() -> impl Strategy<Value = Settlement> {
        let flags = (any::<bool>(), any::<bool>(), any::<bool>());
        (1_u32..4, 0_u8..5, 0_u8..2, 0_u32..3, flags).prop_map(
            |(attempt, state, which, failures, (reported, is_final, pruned))| {
                let info = PaymentInfo {
                    id: PaymentId::from_parts(&[b"a"]),
                    payer: "payer".to_owned(),
                    pay_to: "seller".to_owned(),
                    asset: "coin".to_owned(),
                    amount: Amount::from(7),
                    expires: NOW,
                };
                let mut claim = Claim::new("test:1", "exact", &info, "{}".to_owned(), NOW);
                if pruned && state > 0 {
                    claim.request.clear();
                    claim.payer.clear();
                }
                let mut settlement = Settlement::new(claim, ended(state, which), NOW);
                settlement.attempt = attempt;
                settlement.failures = failures;
                let may_report = [0, 3, 4].contains(&state);
                settlement.success_reported_at =
                    (may_report && reported || state == 4).then_some(NOW);
                settlement.final_at = (state == 3 && is_final).then_some(NOW);
                settlement
            },
        )
    }

    fn ended(state: u8, which: u8) -> State {
        let transaction = Some(TransactionId::new(["0x1", "0x2"][usize::from(which)]));
        let (reason, detail) = (Reason::SETTLEMENT_EXPIRED, String::new());
        State::Concluded(match state {
            0 => return State::Open,
            1 => Outcome::Released {
                fault: Fault::new(FaultKind::Busy, "busy"),
            },
            2 => Outcome::Failed {
                reason,
                detail,
                transaction,
            },
            3 => Outcome::Settled {
                transaction,
                amount: Amount::from(7),
                receipt: SchemeReceipt::default(),
            },
            _ => Outcome::Lost {
                reason,
                detail,
                transaction,
            },
        })
    }

    /// What must never become lower.
    fn height(settlement: &Settlement) -> (u32, u8, u32, bool, bool) {
        let is_lost = progress(&settlement.state) == 3;
        (
            settlement.attempt,
            progress(&settlement.state),
            settlement.failures,
            settlement.success_reported_at.is_some(),
            // A payment that the chain took back is no longer final.
            settlement.final_at.is_some() || is_lost,
        )
    }

    proptest! {
        #[test]
        fn merged_settlement_is_never_lower_than_either(
            one in settlements(), other in settlements(),
        ) {
            let Ok(merged) = one.merged(&other) else { return Ok(()) };
            let merged = merged.unwrap_or_else(|| one.clone());
            for side in [&one, &other] {
                let (now, before) = (height(&merged), height(side));
                prop_assert!((now.0, now.1) >= (before.0, before.1));
                if now.0 == before.0 {
                    prop_assert!(now.2 >= before.2 && now.3 >= before.3 && now.4 >= before.4);
                }
            }
            // To restore either again changes nothing.
            prop_assert_eq!(merged.merged(&one), Ok(None));
            prop_assert_eq!(merged.merged(&other), Ok(None));
        }

        #[test]
        fn contradiction_does_not_depend_on_the_order(
            one in settlements(), other in settlements(),
        ) {
            prop_assert_eq!(one.merged(&other).err(), other.merged(&one).err());
        }

        #[test]
        fn settled_transaction_is_not_exchanged(one in settlements(), other in settlements()) {
            if let (Ok(Some(merged)), State::Concluded(Outcome::Settled { transaction, .. })) =
                (one.merged(&other), &one.state)
                && merged.attempt == one.attempt
                && let State::Concluded(Outcome::Settled { transaction: now, .. }) = &merged.state
            {
                prop_assert_eq!(now, transaction);
            }
        }
    }
}
