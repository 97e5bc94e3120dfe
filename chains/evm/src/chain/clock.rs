//! Compares this machine's clock with the times of the chain's blocks.

use std::time::Duration;

use quittance_core::{Fault, FaultKind, Timestamp};

/// The age of the newest block, in seconds, from which verdicts about time are in doubt. The
/// slowest chain makes a block every twelve seconds, and two in a row are rarely missed.
const AGE_MAX_SECS: u64 = 30;

/// How far in the future the newest block may be, in seconds. Consensus allows no such block. Local
/// chains that make several blocks a second run ahead by a second each.
const AHEAD_MAX_SECS: u64 = 120;

/// Why the clock cannot be trusted, given the times of all nodes' newest blocks.
///
/// A chain without an `age_max` makes blocks only for transactions, so an old block is not a sign.
pub(super) fn doubt(
    now: Timestamp,
    heads: &[Timestamp],
    age_max: Option<Duration>,
) -> Option<Fault> {
    let (oldest, newest) = (*heads.iter().min()?, *heads.iter().max()?);
    let behind = oldest.secs_since(now);
    if behind > AHEAD_MAX_SECS {
        let what = format!(
            "this machine's clock is {behind} seconds behind the chain's newest block: set it"
        );
        return Some(Fault::new(FaultKind::Misconfigured, what));
    }
    let age = now.secs_since(newest);
    if age_max.is_some() && age > AGE_MAX_SECS {
        let what = format!(
            "the newest block is {age} seconds old: either no node is up to date, or this machine's clock is ahead"
        );
        return Some(Fault::new(FaultKind::ChainUnavailable, what));
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn kind(heads: &[u64], age_max: Option<u64>) -> Option<FaultKind> {
        let heads: Vec<_> = heads.iter().copied().map(Timestamp::from_secs).collect();
        let age_max = age_max.map(Duration::from_secs);
        doubt(Timestamp::from_secs(NOW), &heads, age_max).map(|fault| fault.kind)
    }

    #[test]
    fn clock_far_from_every_node_is_in_doubt() {
        let (behind, ahead) = (FaultKind::Misconfigured, FaultKind::ChainUnavailable);
        assert_eq!(kind(&[NOW + 7200], Some(180)), Some(behind));
        assert_eq!(kind(&[NOW + 7200], None), Some(behind));
        assert_eq!(kind(&[NOW - 7200], Some(180)), Some(ahead));
        // One node is not enough.
        assert_eq!(kind(&[NOW + 7200, NOW - 2], Some(180)), None);
        assert_eq!(kind(&[NOW - 7200, NOW - 2], Some(180)), None);
        // A chain that makes blocks on demand.
        assert_eq!(kind(&[NOW - 7200], None), None);
        assert_eq!(kind(&[], Some(180)), None);
    }

    proptest! {
        #[test]
        fn clock_near_any_node_is_trusted(near in 0..=AGE_MAX_SECS + AHEAD_MAX_SECS, others: Vec<u64>) {
            let mut heads = others;
            heads.push(NOW - AGE_MAX_SECS + near);
            prop_assert_eq!(kind(&heads, Some(180)), None);
        }
    }
}
