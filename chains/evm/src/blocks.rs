//! How far apart a chain's blocks are, learnt from the newest blocks that nodes mention.
//!
//! A transaction reaches the chain with the next block or the one after it. An authorization that runs out before that
//! would cost gas and move nothing, so how much of its life must be left depends on the chain: Base makes a block every
//! two seconds, Ethereum every twelve.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// How long a transaction may take to be included, in seconds, at the least: three blocks of Base.
pub(crate) const INCLUSION_MIN_SECS: u64 = 6;

/// How many blocks a transaction may take to be included, on an ordinary day.
pub(crate) const INCLUSION_BLOCKS: u64 = 2;

/// The longest time between blocks that is believed, in seconds: Ethereum's is 12, and no network of the table is slower.
/// What looks slower makes blocks on demand (a local chain), or had stopped.
const SLOWEST_SECS: u64 = 15;

/// How many looks are remembered. The shortest counts, so that slots without a block do not.
const LOOKS: usize = 16;

/// How long a transaction may take to be included, in seconds, on a chain with a block every `block_secs` (0: not known).
pub(crate) fn inclusion_secs(block_secs: u64) -> u64 {
    block_secs
        .saturating_mul(INCLUSION_BLOCKS)
        .max(INCLUSION_MIN_SECS)
}

/// How many blocks a working node may be behind another: some minutes on the fastest chain of the table.
const BEHIND_MAX: u64 = 1000;

/// Learns how far apart blocks are.
#[derive(Debug, Default)]
pub(crate) struct BlockTimes(Mutex<Observed>);

#[derive(Debug, Default)]
struct Observed {
    /// Number and time of the highest block.
    head: Option<(u64, u64)>,
    /// Seconds a block, between one look and the next.
    recent: VecDeque<u64>,
}

impl BlockTimes {
    /// A node says that this block is the newest.
    pub(crate) fn saw(&self, number: u64, time: u64) {
        let mut observed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((last, last_time)) = observed.head else {
            observed.head = Some((number, time));
            return;
        };
        // Nodes may be some blocks apart; one that is behind teaches nothing. One that is further behind than any works
        // shows that the highest block was no block of this chain.
        if number <= last {
            if last - number > BEHIND_MAX {
                observed.head = Some((number, time));
            }
            return;
        }
        observed.head = Some((number, time));
        let secs = time.saturating_sub(last_time).div_ceil(number - last);
        if secs <= SLOWEST_SECS {
            observed.recent.push_back(secs);
        }
        if observed.recent.len() > LOOKS {
            observed.recent.pop_front();
        }
    }

    /// Seconds between two blocks; 0 until that is known.
    pub(crate) fn secs(&self) -> u64 {
        let observed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        observed.recent.iter().copied().min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn learnt(heads: impl IntoIterator<Item = (u64, u64)>) -> u64 {
        let times = BlockTimes::default();
        heads
            .into_iter()
            .for_each(|(number, time)| times.saw(number, time));
        inclusion_secs(times.secs())
    }

    #[test]
    fn two_blocks_must_fit_and_six_seconds_at_least() {
        let every = |secs: u64| learnt((0..20).map(|at| (at, 1000 + at * secs)));
        assert_eq!((every(12), every(5), every(2), every(0)), (24, 10, 6, 6));
        // Ethereum, looked at now and then, with slots that stayed empty.
        assert_eq!(learnt([(100, 0), (101, 12), (103, 48), (110, 144)]), 24);
        assert_eq!(learnt([(7, 1_700_000_000)]), 6, "one block says nothing");
    }

    #[test]
    fn a_chain_that_makes_blocks_on_demand_is_not_taken_for_a_slow_one() {
        assert_eq!(learnt([(1, 0), (2, 300), (3, 86_400)]), 6);
    }

    /// A single number without sense was the highest for ever, and nothing was learnt after it.
    #[test]
    fn a_block_number_without_sense_does_not_end_the_learning() {
        let honest = (0..20).map(|at| (5000 + at, 1000 + at * 12));
        let all = std::iter::once((u64::MAX, 1000)).chain(honest);
        assert_eq!(learnt(all), 24);
    }

    proptest! {
        /// Whatever nodes say, the bound stays one that ordinary payments meet.
        #[test]
        fn the_bound_is_bounded(heads in prop::collection::vec(any::<(u64, u64)>(), 0..40)) {
            let secs = learnt(heads);
            prop_assert!((INCLUSION_MIN_SECS..=INCLUSION_BLOCKS * SLOWEST_SECS).contains(&secs));
        }
    }
}
