//! A bounded number of places, shared between callers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::rate::Caller;

/// A bounded number of places. No caller can hold more places than are free. So a single caller
/// gets half of them, and any number of callers leave a place for the next one.
#[derive(Clone)]
pub(crate) struct Shares {
    max: usize,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    all: usize,
    by_caller: HashMap<Caller, usize>,
}

/// A slot. It becomes free when this is dropped.
pub(crate) struct Share {
    shares: Shares,
    caller: Option<Caller>,
}

impl Shares {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            held: Arc::default(),
        }
    }

    /// A place for this caller; `None` if it has its share, or all places are taken. For an unknown
    /// caller only the total counts.
    pub(crate) fn enter(&self, caller: Option<Caller>) -> Option<Share> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.max.saturating_sub(held.all);
        let own = caller.and_then(|caller| held.by_caller.get(&caller));
        if free == 0 || own.is_some_and(|own| *own >= free) {
            return None;
        }
        held.all += 1;
        if let Some(caller) = caller {
            *held.by_caller.entry(caller).or_default() += 1;
        }
        Some(Share {
            shares: self.clone(),
            caller,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let held = self.shares.held.lock();
        let mut held = held.unwrap_or_else(PoisonError::into_inner);
        held.all -= 1;
        let Some(caller) = self.caller else { return };
        if let Some(own) = held.by_caller.get_mut(&caller) {
            *own -= 1;
            if *own == 0 {
                held.by_caller.remove(&caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fill(shares: &Shares, caller: Caller) -> Vec<Share> {
        std::iter::from_fn(|| shares.enter(Some(caller))).collect()
    }

    #[test]
    fn greedy_callers_leave_a_place_for_the_next_one() {
        let shares = Shares::new(64);
        let first = fill(&shares, Caller::Key(0));
        assert_eq!(first.len(), 32);
        let mut held = Vec::new();
        for other in 1..6 {
            let got = fill(&shares, Caller::Key(other));
            assert!(!got.is_empty(), "caller {other} got nothing");
            held.extend(got);
        }
        drop(first);
        assert!(shares.enter(Some(Caller::Key(9))).is_some());
    }

    #[test]
    fn an_unknown_caller_may_take_every_place_and_none_is_lost() {
        let shares = Shares::new(3);
        let all: Vec<_> = std::iter::from_fn(|| shares.enter(None)).collect();
        assert_eq!(all.len(), 3);
        drop(all);
        assert_eq!(fill(&shares, Caller::Key(0)).len(), 2);
        assert!(shares.held.lock().unwrap().by_caller.is_empty());
    }

    proptest! {
        /// In any order of entering and leaving.
        #[test]
        fn the_places_held_never_exceed_those_there_are(
            most in 1_usize..40,
            steps in prop::collection::vec((any::<bool>(), 0_usize..5), 0..200),
        ) {
            let shares = Shares::new(most);
            let mut held: Vec<Share> = Vec::new();
            for (comes, caller) in steps {
                if comes {
                    let known = (caller > 0).then_some(Caller::Key(caller));
                    held.extend(shares.enter(known));
                } else if !held.is_empty() {
                    held.swap_remove(caller % held.len());
                }
                prop_assert!(held.len() <= most);
                prop_assert_eq!(shares.held.lock().unwrap().all, held.len());
            }
            drop(held);
            prop_assert!(shares.held.lock().unwrap().by_caller.is_empty());
        }
    }
}
