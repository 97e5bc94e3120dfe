//! Which verified payment has a state record for itself until it is settled. In memory: the
//! record's revision decides about the money.

use std::time::Duration;

use dashmap::{DashMap, Entry};
use quittance_core::{PaymentId, StateId};
use tokio::time::Instant;

/// How many holds are kept before the expired ones are removed. Each has a hundred bytes.
const HOLDS_MAX: usize = 16_384;

/// The holds of one network.
#[derive(Debug, Default)]
pub(crate) struct Holds(DashMap<StateId, Hold>);

#[derive(Debug, Clone, Copy)]
struct Hold {
    payment: PaymentId,
    until: Instant,
}

impl Hold {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }
}

impl Holds {
    /// Takes a record for a verified payment. Returns `false` if a payment has it: also for the
    /// same payment, because each of its requests would be served.
    pub(crate) fn take(&self, state: StateId, payment: PaymentId, hold: Duration) -> bool {
        if self.0.len() >= HOLDS_MAX {
            self.0.retain(|_, hold| !hold.is_over());
        }
        let until = Instant::now() + hold;
        let hold = Hold { payment, until };
        match self.0.entry(state) {
            Entry::Occupied(held) if !held.get().is_over() => false,
            free => {
                free.insert(hold);
                true
            }
        }
    }

    /// Ends the hold of a payment, because its outcome is known.
    pub(crate) fn release(&self, state: &StateId, payment: &PaymentId) {
        self.0.remove_if(state, |_, hold| hold.payment == *payment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_record_is_held_by_one_payment_for_a_while() {
        let holds = Holds::default();
        let state = StateId::from_parts(&[b"a channel"]);
        let [first, second] = [b"1", b"2"].map(|id| PaymentId::from_parts(&[id]));
        let minute = Duration::from_secs(60);
        assert!(holds.take(state, first, minute));
        assert!(!holds.take(state, second, minute) && !holds.take(state, first, minute));
        holds.release(&state, &second);
        assert!(!holds.take(state, second, minute));
        holds.release(&state, &first);
        assert!(holds.take(state, second, minute));
        tokio::time::advance(minute).await;
        assert!(holds.take(state, first, minute));
    }
}
