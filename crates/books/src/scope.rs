//! Which transactions and rows are compared.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use quittance_core::{LaneId, Timestamp};

/// What is compared.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CompareScope {
    signers: BTreeSet<String>,
    assets: BTreeSet<String>,
    pub(crate) blocks: RangeInclusive<u64>,
    times: (Timestamp, Timestamp),
}

impl CompareScope {
    /// The transactions of these signers in these blocks. Transfers in other assets than these
    /// count only if a row of the same transaction has the asset.
    pub fn new(
        signers: impl IntoIterator<Item = LaneId>,
        assets: impl IntoIterator<Item = String>,
        blocks: RangeInclusive<u64>,
    ) -> Self {
        Self {
            signers: signers
                .into_iter()
                .map(|lane| lane.address().to_owned())
                .collect(),
            assets: assets.into_iter().collect(),
            blocks,
            times: (Timestamp::from_secs(0), Timestamp::NEVER),
        }
    }

    /// The times of the first and the last block. A row whose transaction no block has belongs to
    /// the comparison if the journal wrote it between them.
    #[must_use]
    pub fn times(mut self, from: Timestamp, to: Timestamp) -> Self {
        self.times = (from, to);
        self
    }

    /// Whether the account is one of our signers.
    pub(crate) fn is_signer(&self, account: &str) -> bool {
        self.signers.contains(account)
    }

    /// Whether payments are settled in this asset.
    pub(crate) fn has_asset(&self, asset: &str) -> bool {
        self.assets.contains(asset)
    }

    /// Whether a row that the journal wrote at this time belongs to the comparison.
    pub fn has_time(&self, time: Timestamp) -> bool {
        (self.times.0..=self.times.1).contains(&time)
    }
}
