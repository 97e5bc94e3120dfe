//! Estimates the time between a chain's blocks from the newest blocks that nodes report.
//!
//! A transaction is usually included in the next block or the one after. An authorization that
//! expires before would cost gas and move nothing. So the required remaining lifetime depends on
//! the chain: Base makes a block every two seconds, Ethereum every twelve.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// The shortest time that is allowed for inclusion, in seconds: three blocks of Base.
pub(crate) const INCLUSION_MIN_SECS: u64 = 6;

/// How many blocks inclusion may ordinarily take.
pub(crate) const INCLUSION_BLOCKS: u64 = 2;

/// The longest block time that counts, in seconds. Ethereum's is 12, and no known network is
/// slower. A longer one means that the chain makes blocks on demand or had stopped.
const BLOCK_SECS_MAX: u64 = 15;

/// How many samples are kept. The shortest counts, so that empty slots do not.
const SAMPLES: usize = 16;

/// How long inclusion may take, in seconds, on a chain with a block every `block_secs` seconds (0
/// if unknown).
pub(crate) fn inclusion_secs(block_secs: u64) -> u64 {
    block_secs
        .saturating_mul(INCLUSION_BLOCKS)
        .max(INCLUSION_MIN_SECS)
}

/// How many blocks a working node may be behind another: some minutes on the fastest known chain.
const BEHIND_MAX: u64 = 1000;

/// Estimates the block time.
#[derive(Debug, Default)]
pub(super) struct BlockTimes(Mutex<Samples>);

#[derive(Debug, Default)]
struct Samples {
    /// The number and the time of the highest block.
    head: Option<(u64, u64)>,
    /// Seconds per block between one report and the next.
    recent: VecDeque<u64>,
}

impl BlockTimes {
    /// Records that a node reported this block as its newest.
    pub(super) fn record(&self, number: u64, time: u64) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((last, last_time)) = samples.head else {
            samples.head = Some((number, time));
            return;
        };
        // A node may be some blocks behind another; such a report is not a sample. If it is further
        // behind than a working node can be, the recorded highest block was wrong.
        if number <= last {
            if last - number > BEHIND_MAX {
                samples.head = Some((number, time));
            }
            return;
        }
        samples.head = Some((number, time));
        let secs = time.saturating_sub(last_time).div_ceil(number - last);
        if secs <= BLOCK_SECS_MAX {
            samples.recent.push_back(secs);
        }
        if samples.recent.len() > SAMPLES {
            samples.recent.pop_front();
        }
    }

    /// Seconds between two blocks; 0 while unknown.
    pub(super) fn secs(&self) -> u64 {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.recent.iter().copied().min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn inclusion_after(heads: impl IntoIterator<Item = (u64, u64)>) -> u64 {
        let times = BlockTimes::default();
        heads
            .into_iter()
            .for_each(|(number, time)| times.record(number, time));
        inclusion_secs(times.secs())
    }

    #[test]
    fn inclusion_takes_two_blocks_and_at_least_six_seconds() {
        let every = |secs: u64| inclusion_after((0..20).map(|at| (at, 1000 + at * secs)));
        assert_eq!((every(12), every(5), every(2), every(0)), (24, 10, 6, 6));
        // Ethereum, sampled irregularly, with empty slots.
        assert_eq!(
            inclusion_after([(100, 0), (101, 12), (103, 48), (110, 144)]),
            24
        );
        assert_eq!(
            inclusion_after([(7, 1_700_000_000)]),
            6,
            "one block is not a sample"
        );
    }

    #[test]
    fn blocks_on_demand_do_not_count_as_slow_blocks() {
        assert_eq!(inclusion_after([(1, 0), (2, 300), (3, 86_400)]), 6);
    }

    /// Once, a single absurd number stayed the highest for ever, and no sample was taken after it.
    #[test]
    fn absurd_block_number_does_not_end_the_sampling() {
        let honest = (0..20).map(|at| (5000 + at, 1000 + at * 12));
        let all = std::iter::once((u64::MAX, 1000)).chain(honest);
        assert_eq!(inclusion_after(all), 24);
    }

    proptest! {
        /// No report of nodes makes the bound one that ordinary payments miss.
        #[test]
        fn inclusion_time_stays_within_bounds(heads in prop::collection::vec(any::<(u64, u64)>(), 0..40)) {
            let secs = inclusion_after(heads);
            prop_assert!((INCLUSION_MIN_SECS..=INCLUSION_BLOCKS * BLOCK_SECS_MAX).contains(&secs));
        }
    }
}
