//! Doubts about a sequence number from the nodes that is far ahead of the journal's.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

/// How far the chain's number may be ahead of the journal's and still be accepted at once. Nodes
/// keep up to 64 transactions of one signer, so another program that uses it has rarely sent more
/// in between.
const AHEAD_MAX: u64 = 64;

/// How long nodes must report a number before a larger jump is accepted. A node's error is over by
/// then. A journal that was restored from an old copy, and a signer that is used elsewhere, still
/// give the same number.
const ACCEPTED_AFTER: Duration = Duration::from_secs(60);

/// Doubts a number that is far ahead of the journal's. The journal would record it, and all later
/// transactions would wait until the gap is filled at a price. The number is accepted once nodes
/// have reported no lower one for a while.
#[derive(Debug, Default)]
pub(super) struct Jumps {
    /// The number in doubt, and since when it has been reported.
    doubted: Option<(u64, Instant)>,
}

impl Jumps {
    /// Whether the chain's number is accepted.
    pub(super) fn accepts(&mut self, on_chain: u64, journaled: u64, now: Instant) -> bool {
        // The journal has no number of a signer that is new here.
        if journaled == 0 || on_chain <= journaled.saturating_add(AHEAD_MAX) {
            self.doubted = None;
            return true;
        }
        match self.doubted {
            Some((first, since)) if on_chain >= first => {
                let is_accepted = now.duration_since(since) >= ACCEPTED_AFTER;
                if is_accepted {
                    warn!(on_chain, journaled, "another program has used this signer");
                    self.doubted = None;
                }
                is_accepted
            }
            _ => {
                self.doubted = Some((on_chain, now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_far_ahead_is_accepted_after_a_minute() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut jumps = Jumps::default();
        assert!(jumps.accepts(64 + 5, 5, at(0)));
        assert!(!jumps.accepts(201, 5, at(0)));
        assert!(!jumps.accepts(230, 5, at(59)));
        assert!(jumps.accepts(230, 5, at(60)));
        // A number that is reported once is forgotten.
        assert!(!jumps.accepts(201, 5, at(100)));
        assert!(jumps.accepts(6, 6, at(130)));
        assert!(!jumps.accepts(201, 6, at(170)));
        // A lower number starts the wait again.
        assert!(!jumps.accepts(150, 6, at(240)));
        assert!(!jumps.accepts(150, 6, at(299)));
        assert!(jumps.accepts(150, 6, at(300)));
        // The journal knows nothing of this signer.
        assert!(jumps.accepts(100_000, 0, at(301)));
    }
}
