//! Whether this machine's clock and the chain's blocks agree.

use std::time::Duration;

use quittance_core::{Fault, FaultKind, Timestamp};

/// How old the newest block may be before verdicts about time are in doubt. The slowest blocks come
/// every twelve seconds, and two in a row are missed rarely.
const AGE_MAX_SECS: u64 = 30;

/// How far in the future the newest block may be. Consensus takes none; local chains that make
/// several blocks a second run ahead by a second each.
const AHEAD_MAX_SECS: u64 = 120;

/// Why the clock cannot be trusted at this moment, given the times of all nodes' newest blocks. A
/// chain without an `age_max` makes blocks only when there is something to put in them, so an old
/// one says nothing.
pub(crate) fn doubt(
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
    fn a_clock_is_in_doubt_when_it_is_far_from_every_node() {
        let (behind, ahead) = (FaultKind::Misconfigured, FaultKind::ChainUnavailable);
        assert_eq!(kind(&[NOW + 7200], Some(180)), Some(behind));
        assert_eq!(kind(&[NOW + 7200], None), Some(behind));
        assert_eq!(kind(&[NOW - 7200], Some(180)), Some(ahead));
        // One node's word is not enough.
        assert_eq!(kind(&[NOW + 7200, NOW - 2], Some(180)), None);
        assert_eq!(kind(&[NOW - 7200, NOW - 2], Some(180)), None);
        // A chain that has had nothing to do.
        assert_eq!(kind(&[NOW - 7200], None), None);
        assert_eq!(kind(&[], Some(180)), None);
    }

    proptest! {
        #[test]
        fn a_clock_near_any_node_is_trusted(near in 0..=AGE_MAX_SECS + AHEAD_MAX_SECS, others: Vec<u64>) {
            let mut heads = others;
            heads.push(NOW - AGE_MAX_SECS + near);
            prop_assert_eq!(kind(&heads, Some(180)), None);
        }
    }
}
